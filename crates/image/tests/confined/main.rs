//! Imports through the real jail, as root: a worker that tries to get at something must not, an honest one must do its
//! work, and the kernel must agree with us about what an image holds.
//!
//! The worker is this very program, started again as `image-worker`, as `cofferdam` is. With a certain limit it
//! turns into a spy, and reports what it could reach.

mod hostile;
mod pull;
mod servers;

use image::{ImportError, Limits, Source, Store, Worker, ensure_user, import};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// So many entries allowed means: be a spy. The other limit is then the port of a listener outside.
const SPY: u64 = 7;

type Test = (&'static str, fn(&Worker));

const TESTS: [Test; 16] = [
    ("a_spy_in_the_worker_reaches_nothing", a_spy_in_the_worker_reaches_nothing),
    ("an_honest_worker_imports", an_honest_worker_imports),
    ("a_refused_archive_leaves_nothing", a_refused_archive_leaves_nothing),
    ("images_of_a_real_registry_are_pulled", pull::images_of_a_real_registry_are_pulled),
    ("files_of_other_tools_are_imported", pull::files_of_other_tools_are_imported),
    ("passwords_and_certificates_are_asked_for", pull::passwords_and_certificates_are_asked_for),
    ("a_cut_download_goes_on", pull::a_cut_download_goes_on),
    ("layers_are_shared_by_who_may_have_them", pull::layers_are_shared_by_who_may_have_them),
    ("signatures_are_required", pull::signatures_are_required),
    ("private_addresses_are_refused", hostile::private_addresses_are_refused),
    ("credentials_stay_with_the_registry", hostile::credentials_stay_with_the_registry),
    ("registries_that_lie_are_refused", hostile::registries_that_lie_are_refused),
    ("hostile_images_of_umoci_are_refused", hostile::hostile_images_of_umoci_are_refused),
    ("ten_gigabytes_of_zeros_are_refused", hostile::ten_gigabytes_of_zeros_are_refused),
    ("a_million_files_are_one_image", hostile::a_million_files_are_one_image),
    ("the_downloader_reaches_no_files", hostile::the_downloader_reaches_no_files),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, job] = arguments.as_slice()
        && command == "image-worker"
    {
        // Started under this name it is a spy, whatever the job.
        if std::env::args().next().is_some_and(|program| program.ends_with("/spy")) {
            return spy(0);
        }
        let limits = serde_json::from_str::<serde_json::Value>(job).map(|job| job["limits"].clone());
        return match limits.and_then(serde_json::from_value) {
            Ok(Limits { entries: SPY, bytes }) => spy(bytes as u16),
            _ => image::worker::main(job),
        };
    }
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if has("--list") {
        // The form that nextest asks for.
        for (name, _) in TESTS.iter().filter(|_| !has("--ignored")) {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let chosen =
        |name: &str| arguments.iter().all(|filter| filter.starts_with("--") || name.contains(filter));
    let worker = match worker() {
        Ok(worker) => worker,
        Err(why) if std::env::var_os("CI").is_none() => {
            println!("skipped: {why}");
            return ExitCode::SUCCESS;
        }
        Err(why) => panic!("{why}"),
    };
    for (name, test) in TESTS.iter().filter(|(name, _)| chosen(name)) {
        test(&worker);
        println!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

fn worker() -> Result<Worker, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("confining a worker needs root".to_owned());
    }
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    // Test programs lie in a folder of their own, below that of the binaries.
    let jail = program.ancestors().nth(2).unwrap_or(Path::new("/")).join("cofferdam-jail");
    if !jail.exists() {
        return Err(format!("{} is not there; run `cargo xtask build`", jail.display()));
    }
    let user = ensure_user().map_err(|error| error.to_string())?;
    Ok(Worker { jail, program, user })
}

pub fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("images")).unwrap();
    (dir, store)
}

/// An archive of a small root, with owners and bits worth looking at.
fn archive(dir: &Path) -> PathBuf {
    let path = dir.join("root.tar");
    let mut builder = tar::Builder::new(std::fs::File::create(&path).unwrap());
    let mut add = |name: &str, kind: tar::EntryType, mode: u32, owner: u64, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner + 1);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, content).unwrap();
    };
    add("usr/bin", tar::EntryType::Directory, 0o755, 0, b"");
    add("bin", tar::EntryType::Directory, 0o755, 0, b"");
    add("bin/sh", tar::EntryType::Regular, 0o755, 0, b"#!");
    add("usr/bin/su", tar::EntryType::Regular, 0o4755, 0, &[7; 10_000]);
    add("srv/mail", tar::EntryType::Regular, 0o640, 65_534, b"mail");
    builder.finish().unwrap();
    path
}

/// Tries what a worker that was taken over would try, and tells what worked.
fn spy(port: u16) -> ExitCode {
    use std::fs;
    let mut reached: Vec<String> = Vec::new();
    let mut try_to = |what: &str, worked: bool| {
        if worked {
            reached.push(what.to_owned());
        }
    };
    try_to("read /etc/shadow", fs::read("/etc/shadow").is_ok());
    try_to("read /etc/passwd", fs::read("/etc/passwd").is_ok());
    try_to("list the images", fs::read_dir("/var/lib").is_ok());
    try_to("see processes", fs::read_dir("/proc").is_ok_and(|entries| entries.count() > 0));
    try_to("see devices", Path::new("/dev/mem").exists() || Path::new("/dev/loop-control").exists());
    try_to("write to /usr", fs::write("/usr/spy", b"x").is_ok());
    try_to("write to the root", fs::write("/spy", b"x").is_ok());
    try_to("call out", std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let root = rustix::process::Uid::ROOT;
    try_to("become root", rustix::thread::set_thread_uid(root).is_ok());
    try_to("have a root's id", rustix::process::geteuid().is_root() || rustix::process::getegid().is_root());
    let groups = rustix::process::getgroups().unwrap_or_default();
    try_to("keep groups", groups.iter().any(|group| group.as_raw() == 0));
    try_to("gain privileges by exec", !rustix::thread::no_new_privs().unwrap_or(false));
    let capabilities = rustix::thread::capabilities(None);
    try_to(
        "have capabilities",
        !capabilities.is_ok_and(|sets| sets.effective.is_empty() && sets.permitted.is_empty()),
    );
    let parent = rustix::process::getppid();
    let may_signal = |pid| rustix::process::test_kill_process(pid).is_ok();
    try_to("signal its parent", parent.is_some_and(may_signal));
    try_to("use inherited descriptors", has_more_descriptors());
    let why =
        format!("reached: {}", if reached.is_empty() { "nothing".to_owned() } else { reached.join(", ") });
    let line = serde_json::json!({ "type": "refused", "why": why });
    eprintln!("{line}");
    ExitCode::FAILURE
}

/// Whether there are descriptors but 0, 1 and 2: new ones get the lowest numbers that are free.
fn has_more_descriptors() -> bool {
    use std::os::fd::AsRawFd;
    let opened: Vec<_> = (3..100).map_while(|_| std::fs::File::open("/dev/null").ok()).collect();
    opened.is_empty() || opened.iter().zip(3..).any(|(file, number)| file.as_raw_fd() != number)
}

fn a_spy_in_the_worker_reaches_nothing(worker: &Worker) {
    let (dir, store) = store();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let limits = Limits { entries: SPY, bytes: listener.local_addr().unwrap().port().into() };
    let source = Source::open(&archive(dir.path())).unwrap();
    match import(source, None, &store, worker, &limits, &mut |_| {}) {
        Err(ImportError::Refused(why)) => assert_eq!(why, "reached: nothing"),
        other => panic!("{other:?}"),
    }
}

fn an_honest_worker_imports(worker: &Worker) {
    let (dir, store) = store();
    let source = Source::open(&archive(dir.path())).unwrap();
    let mut last = None;
    let imported =
        import(source, None, &store, worker, &Limits::default(), &mut |progress| last = progress.percent)
            .unwrap();
    assert_eq!(last, Some(100));
    assert_eq!(store.list().unwrap(), [(imported.digest.clone(), imported.size)]);
    // What the kernel sees, in a mount namespace of its own, so that nothing is left mounted.
    let script = "mount -t erofs -o ro \"$0\" \"$1\" 2>/dev/null || mount -t erofs -o ro,loop \"$0\" \"$1\"
        cd \"$1\" && stat --format '%n %a %u %g %s %Y' usr/bin/su srv/mail home/agent";
    let mounted = dir.path().join("mounted");
    std::fs::create_dir(&mounted).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-euc", script]).arg(store.path(&imported.digest)).arg(&mounted);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = "usr/bin/su 4755 0 1 10000 1700000000\n\
        srv/mail 640 65534 65535 4 1700000000\n";
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with(expected), "{said}");
    assert!(said.contains("home/agent 755 1000 1000"), "{said}");
}

fn a_refused_archive_leaves_nothing(worker: &Worker) {
    let (dir, store) = store();
    let path = archive(dir.path());
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 8000]).unwrap();
    let source = Source::open(&path).unwrap();
    match import(source, None, &store, worker, &Limits::default(), &mut |_| {}) {
        Err(ImportError::Refused(why)) => assert!(why.contains("ends too early"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(std::fs::read_dir(dir.path().join("images")).unwrap().count(), 0);
}
