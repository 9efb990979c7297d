//! `cofferdam-jail`: see the library.

use std::ffi::OsStr;

const USAGE: &str = "usage: cofferdam-jail zygote | probe | oci | confine OPTIONS -- PROGRAM ARGUMENTS (all are started by cofferdam itself)";

fn main() {
    let mut args = std::env::args_os();
    // Init is executed with its name as the only argument; everybody else says what they want.
    if args.next().as_deref() == Some(OsStr::new("init")) {
        jail::init::run();
    }
    let code = match args.next().as_deref().and_then(OsStr::to_str) {
        Some("zygote") => jail::zygote::run(args),
        Some("probe") => jail::probe::run(args),
        Some("oci") => jail::oci::outside(),
        Some("inside") => jail::oci::inside(args),
        Some("guest") => jail::oci::kernel::inside(),
        Some("confine") => jail::confine::run(args),
        _ => {
            eprintln!("{USAGE}");
            64
        }
    };
    std::process::exit(code);
}
