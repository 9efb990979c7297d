//! Guardrails of calls for files: beneath one directory, whatever links there are, within limits.

use crate::harness::{Agent, Client, skipped};
use channel::{ErrorKind, Kind, Reply, Request};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn sent(agent: &Agent, request: &Request, content: &[u8]) -> Client {
    let mut client = agent.ask(request);
    for piece in content.chunks(50_000) {
        client.offer(Kind::Data0, piece);
    }
    client.offer(Kind::End0, &[]);
    client.hello();
    client
}

fn write(path: &str) -> Request {
    Request::Write { path: path.to_owned(), mode: None, user: None }
}

fn read(path: &str) -> Request {
    Request::Read { path: path.to_owned(), offset: 0, length: None, user: None }
}

fn archive(name: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o644);
    header.set_cksum();
    builder.append_data(&mut header, name, &b"new"[..]).expect("in memory");
    builder.into_inner().expect("in memory")
}

/// A directory outside that the agent's user may write to, with a file that it may read.
fn outside(agent: &Agent) -> std::path::PathBuf {
    let outside = std::path::PathBuf::from(format!("{}-outside", agent.dir.display()));
    let _ = fs::remove_dir_all(&outside);
    fs::create_dir(&outside).expect("a directory");
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o777)).expect("for the agent");
    fs::write(outside.join("secret"), "secret").expect("a file");
    outside
}

#[test]
fn what_is_beneath_can_be_worked_with_and_nothing_else() {
    if skipped() {
        return;
    }
    let agent = Agent::with_rules(1 << 20, 60);
    let outside = outside(&agent);
    let path = |name: &str| agent.path(name);
    let string = |text: &str| text.to_owned();
    // What must work.
    assert_eq!(sent(&agent, &write(&path("file")), b"text").reply(), Reply::Done);
    assert_eq!(agent.reply(&Request::Mkdir { path: path("a/b/c"), user: None }), Reply::Done);
    assert_eq!(
        agent.reply(&Request::Move { path: path("file"), to: path("a/b/file"), user: None }),
        Reply::Done
    );
    symlink("a/b", agent.path("within")).expect("a link");
    let mut client = agent.ask(&read(&path("within/file")));
    client.hello();
    assert!(matches!(client.reply(), Reply::File(_)));
    assert_eq!(client.data(), b"text");
    let Reply::Files { files, .. } = agent.reply(&Request::List { path: path("within"), user: None }) else {
        panic!("a list")
    };
    assert_eq!(files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>().len(), 2);
    let Reply::File(info) = agent.reply(&Request::Stat { path: path(""), user: None }) else {
        panic!("a file")
    };
    assert_eq!(Some(info.name.as_str()), agent.dir.file_name().and_then(|name| name.to_str()));
    let unpack = Request::TarIn { path: path("x/y"), user: None };
    assert_eq!(sent(&agent, &unpack, &archive("d/e/new")).reply(), Reply::Done);
    assert_eq!(fs::read(agent.dir.join("x/y/d/e/new")).expect("unpacked"), b"new");
    assert_eq!(fs::metadata(agent.dir.join("x/y/d/e/new")).expect("unpacked").uid(), 1000);
    let mut client = agent.ask(&Request::TarOut { path: path("a"), user: None });
    client.hello();
    assert_eq!(client.reply(), Reply::Streaming);
    let packed = client.data();
    let mut names = tar::Archive::new(&packed[..]);
    let names: Vec<_> = names
        .entries()
        .expect("an archive")
        .map(|entry| entry.expect("one").path().expect("a name").into_owned())
        .collect();
    assert!(names.iter().any(|name| name.ends_with("b/file")), "{names:?}");
    assert_eq!(agent.reply(&Request::Remove { path: path("x"), recursive: true, user: None }), Reply::Done);

    // What must not, by its name or by links of every kind.
    symlink(&outside, agent.path("out")).expect("a link");
    symlink("../..", agent.path("up")).expect("a link");
    symlink("/proc/self/root", agent.path("magic")).expect("a link");
    symlink(outside.join("secret"), agent.path("secret")).expect("a link");
    let secret = outside.join("secret").display().to_string();
    let up = format!("{}/../x", agent.dir.display());
    for place in [
        "/etc/passwd",
        "/",
        &secret,
        &path("out/secret"),
        &path("up/etc"),
        &path("magic/etc"),
        &path("secret"),
        &up,
    ] {
        for request in [
            read(place),
            Request::List { path: string(place), user: None },
            Request::TarOut { path: string(place), user: None },
        ] {
            // A link itself may be named; its file may not be packed in its place.
            assert_eq!(agent.error(&request), ErrorKind::Invalid, "{request:?}");
        }
    }
    for place in ["/tmp/x", &path("out/x"), &path("magic/tmp/x"), &up] {
        let move_in = Request::Move { path: path("a/b/file"), to: string(place), user: None };
        let remove = Request::Remove { path: string(place), recursive: true, user: None };
        for request in [
            Request::Mkdir { path: string(place), user: None },
            move_in,
            remove,
            Request::Stat { path: string(place), user: None },
        ] {
            assert_eq!(agent.error(&request), ErrorKind::Invalid, "{request:?}");
        }
        assert_eq!(sent(&agent, &write(place), b"x").error(), ErrorKind::Invalid);
        let unpack = Request::TarIn { path: string(place), user: None };
        assert_eq!(sent(&agent, &unpack, &archive("new")).error(), ErrorKind::Invalid);
    }
    // By a link that lies in the target.
    let unpack = Request::TarIn { path: path(""), user: None };
    assert_eq!(sent(&agent, &unpack, &archive("out/new")).error(), ErrorKind::Invalid);
    // A link is replaced, and what it leads to stays as it was.
    assert_eq!(sent(&agent, &write(&path("secret")), b"mine").reply(), Reply::Done);
    assert_eq!(fs::read(outside.join("secret")).expect("still there"), b"secret");
    assert_eq!(fs::read_dir(&outside).expect("a directory").count(), 1);
    fs::remove_dir_all(outside).expect("ours");
}

/// Swaps two names for as long as it lives.
fn swap(one: &str, other: &str, until: &AtomicBool) {
    let [one, other] = [one, other].map(|path| std::ffi::CString::new(path).expect("no NUL"));
    while !until.load(Ordering::Relaxed) {
        // SAFETY: both paths end with NUL.
        unsafe {
            libc::renameat2(
                libc::AT_FDCWD,
                one.as_ptr(),
                libc::AT_FDCWD,
                other.as_ptr(),
                libc::RENAME_EXCHANGE,
            );
        }
    }
}

/// Makes calls while a directory becomes a link to the outside and back. Whether any got out.
fn race(agent: &Agent) -> bool {
    let outside = outside(agent);
    let (inside, link) = (agent.path("d"), agent.path("l"));
    fs::create_dir(&inside).expect("a directory");
    fs::set_permissions(&inside, fs::Permissions::from_mode(0o777)).expect("for the agent");
    fs::write(agent.path("d/secret"), "mine").expect("a file");
    symlink(&outside, &link).expect("a link");
    let over = AtomicBool::new(false);
    let read_out = std::thread::scope(|scope| {
        scope.spawn(|| swap(&inside, &link, &over));
        let mut read_out = false;
        for round in 0..60 {
            let mut client = agent.ask(&read(&agent.path("d/secret")));
            client.hello();
            read_out |= client.bytes_or_error().is_some_and(|bytes| bytes == b"secret");
            sent(agent, &write(&agent.path(&format!("d/w{round}"))), b"x").finish();
            let unpack = Request::TarIn { path: agent.path("."), user: None };
            sent(agent, &unpack, &archive(&format!("d/t{round}/new"))).finish();
            let mut client =
                agent.ask(&Request::Mkdir { path: agent.path(&format!("d/m{round}/n")), user: None });
            client.hello();
            client.finish();
        }
        over.store(true, Ordering::Relaxed);
        read_out
    });
    let written = fs::read_dir(&outside).expect("a directory").count() > 1;
    fs::remove_dir_all(outside).expect("ours");
    read_out || written
}

#[test]
fn who_swaps_directories_and_links_gets_nothing_out() {
    if skipped() {
        return;
    }
    assert!(!race(&Agent::with_rules(1 << 20, 60)));
    // The race is one: without rules it is won.
    assert!(race(&Agent::start()));
}

#[test]
fn calls_have_limits() {
    if skipped() {
        return;
    }
    let agent = Agent::with_rules(100_000, 1);
    let path = agent.path("file");
    assert_eq!(sent(&agent, &write(&path), &[1; 99_000]).reply(), Reply::Done);
    assert_eq!(sent(&agent, &write(&path), &[2; 150_000]).error(), ErrorKind::Invalid);
    assert_eq!(fs::read(&path).expect("as before").first(), Some(&1));
    fs::write(&path, vec![3; 200_000]).expect("by root");
    let mut client = agent.ask(&read(&path));
    client.hello();
    assert!(client.bytes_or_error().is_none());
    // A client that says nothing more.
    let began = Instant::now();
    let mut client = agent.ask(&write(&path));
    client.hello();
    client.finish();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let drafts = fs::read_dir(&agent.dir).expect("ours").flatten();
    assert_eq!(
        drafts.filter(|entry| entry.file_name().to_string_lossy().starts_with(".cofferdam")).count(),
        0
    );
}
