//! The project's chores as one program: `cargo xtask CHORE`. It drives cargo, the package manager and the built
//! binaries; it knows nothing of Cofferdam's inside and shares no code with it.

mod bench;
mod binaries;
mod fuzz;
mod install;
mod installed;
mod quickstart;
mod setup;
mod shell;
mod test;
mod tidy;
mod vm;

use anyhow::{Result, bail};

const HELP: &str = "\
usage: cargo xtask CHORE

  setup        install missing system packages and cargo-nextest (needs root)
  build        release binaries in target/release, the jail statically linked
  sabotaged    the jail of tests that leave controls out; `test` builds it too
  lint         formatting, clippy, tidy
  tidy         the design's invariants
  test         setup, lint, build, all tests
  bench        what agents cost beside runc and bwrap; `bench create --rounds 20` measures less (needs root)
  install      units, binaries, configuration; DESTDIR and PREFIX (/usr/local) say where (needs root)
  uninstall    takes them away again; configuration and data stay (needs root)
  deb          a Debian package of the same, in target/deb
  installed    the package's whole life in a Debian 12 machine (needs root)
  fuzz         every fuzzer for a minute: [TARGET] [--seconds N] (needs cargo-fuzz)
  vm           a Debian 12 machine under QEMU: --script FILE [--with PATH]... runs it there (needs root)
  quickstart   setup, build, start Cofferdam, run a project's tests in an agent (needs root)";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["setup"] => setup::run(),
        ["build"] => binaries::build(),
        ["sabotaged"] => binaries::build_sabotaged(),
        ["lint"] => test::lint(),
        ["tidy"] => tidy::run(),
        ["test"] => test::run(),
        ["bench", arguments @ ..] => bench::run(arguments),
        ["install"] => install::run(),
        ["uninstall"] => install::remove(),
        ["deb"] => install::deb(),
        ["fuzz", rest @ ..] => fuzz::run(rest),
        ["installed"] => installed::run(),
        ["vm", rest @ ..] => vm::chore(rest),
        ["quickstart"] => quickstart::run(),
        [] | ["help" | "--help" | "-h"] => {
            println!("{HELP}");
            Ok(())
        }
        _ => bail!("unknown chore {:?}\n\n{HELP}", arguments.join(" ")),
    }
}
