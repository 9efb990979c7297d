//! Files, archives, ports, processes.

use crate::harness::{Agent, Client, skipped};
use channel::{ErrorKind, FileKind, Kind, Reply, Request, User};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

fn write(agent: &Agent, path: &str, mode: Option<u32>, content: &[u8]) -> Client {
    let mut client = agent.ask(&Request::Write { path: path.to_owned(), mode, user: None });
    for piece in content.chunks(50_000) {
        client.send(Kind::Data0, piece);
    }
    client.send(Kind::End0, &[]);
    client.hello();
    client
}

fn read(agent: &Agent, path: &str, offset: u64, length: Option<u64>) -> Vec<u8> {
    let mut client = agent.ask(&Request::Read { path: path.to_owned(), offset, length, user: None });
    client.hello();
    assert!(matches!(client.reply(), Reply::File(_)));
    client.data()
}

#[test]
fn files_are_written_whole_and_read_back() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    let content: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
    let path = agent.path("file");
    assert_eq!(write(&agent, &path, None, &content).reply(), Reply::Done);
    assert_eq!(read(&agent, &path, 0, None), content);
    assert_eq!(read(&agent, &path, 999_990, None), content[999_990..]);
    assert_eq!(read(&agent, &path, 10, Some(5)), content[10..15]);
    let meta = fs::metadata(&path).expect("written");
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (1000, 1000, 0o644));

    assert_eq!(write(&agent, &path, Some(0o750), b"#!/bin/sh\n").reply(), Reply::Done);
    assert_eq!(write(&agent, &path, None, b"").reply(), Reply::Done);
    let Reply::File(info) = agent.reply(&Request::Stat { path: path.clone(), user: None }) else {
        panic!("a file")
    };
    assert_eq!((info.name.as_str(), info.kind, info.size, info.mode), ("file", FileKind::File, 0, 0o750));

    // A connection that breaks changes nothing and leaves nothing.
    let mut client = agent.ask(&Request::Write { path: path.clone(), mode: None, user: None });
    client.send(Kind::Data0, b"half of");
    client.hello();
    client.socket.shutdown(std::net::Shutdown::Write).expect("half closed");
    assert_eq!(client.error(), ErrorKind::Invalid);
    assert_eq!(fs::metadata(&path).expect("still there").len(), 0);
    let hidden = fs::read_dir(&agent.dir).expect("the directory").flatten();
    assert_eq!(hidden.filter(|entry| entry.file_name().to_string_lossy().starts_with('.')).count(), 0);
}

#[test]
fn the_users_rights_decide() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    let secret = agent.path("secret");
    fs::write(&secret, "root's").expect("written");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("set");
    let request = |user| Request::Read { path: secret.clone(), offset: 0, length: None, user };
    assert_eq!(agent.error(&request(None)), ErrorKind::PermissionDenied);
    let mut client = agent.ask(&request(Some(User::Root)));
    client.hello();
    client.reply();
    assert_eq!(client.data(), b"root's");
    let mut client = write(&agent, "/etc/cofferdam-test", None, b"x");
    assert_eq!(client.error(), ErrorKind::PermissionDenied);
}

#[test]
fn what_is_no_plain_file_is_refused_at_once() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    agent.sh(&format!(
        "cd {}; mkfifo fifo; ln -s /dev/zero device; mkdir dir; ln -s nowhere dangling",
        agent.path("")
    ));
    let check = |name: &str, expected| {
        let path = if name.starts_with('/') { name.to_owned() } else { agent.path(name) };
        let request = Request::Read { path, offset: 0, length: None, user: None };
        assert_eq!(agent.error(&request), expected, "{name}");
    };
    check("fifo", ErrorKind::Invalid);
    check("device", ErrorKind::Invalid);
    check("dir", ErrorKind::IsADirectory);
    check("dangling", ErrorKind::NotFound);
    check("fifo/x", ErrorKind::NotADirectory);
    let relative = Request::Read { path: "etc".into(), offset: 0, length: None, user: None };
    assert_eq!(agent.error(&relative), ErrorKind::Invalid);
    assert_eq!(write(&agent, &agent.path("dir"), None, b"").error(), ErrorKind::IsADirectory);
    assert_eq!(write(&agent, &agent.path("fifo"), None, b"").error(), ErrorKind::Invalid);
    assert_eq!(write(&agent, &agent.path("no/parent"), None, b"").error(), ErrorKind::NotFound);
    assert_eq!(write(&agent, "/dev/full/x", None, b"").error(), ErrorKind::NotADirectory);
    assert!(!read(&agent, "/proc/self/status", 0, None).is_empty(), "size 0, but content");
}

#[test]
fn directories_are_listed_made_moved_removed() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    let dir = agent.path("a/b");
    assert_eq!(agent.reply(&Request::Mkdir { path: dir.clone(), user: None }), Reply::Done);
    assert_eq!(agent.reply(&Request::Mkdir { path: dir.clone(), user: None }), Reply::Done);
    agent.sh(&format!("cd {dir}; for n in $(seq 100); do : > file-$n; done; ln -s file-1 link"));
    let mut client = agent.ask(&Request::List { path: dir.clone(), user: None });
    client.hello();
    let mut names = Vec::new();
    loop {
        let Reply::Files { files, more } = client.reply() else { panic!("files") };
        names.extend(files.into_iter().map(|file| (file.name, file.target)));
        if !more {
            break;
        }
    }
    assert_eq!(names.len(), 101);
    assert!(names.contains(&("link".into(), Some("file-1".into()))));
    let to = agent.path("c");
    assert_eq!(agent.reply(&Request::Move { path: dir.clone(), to: to.clone(), user: None }), Reply::Done);
    let remove = |recursive| Request::Remove { path: to.clone(), recursive, user: None };
    assert_eq!(agent.error(&remove(false)), ErrorKind::NotEmpty);
    assert_eq!(agent.reply(&remove(true)), Reply::Done);
    assert_eq!(agent.error(&remove(true)), ErrorKind::NotFound);
    assert_eq!(agent.error(&Request::List { path: dir, user: None }), ErrorKind::NotFound);
}

#[test]
fn a_full_disk_is_called_so() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    let mount = agent.path("small");
    let (_, err, exit) = {
        let request = channel::ExecRequest {
            user: Some(User::Root),
            ..crate::harness::attached(&[
                "sh",
                "-c",
                &format!("mkdir {mount}; mount -t tmpfs -o size=64k none {mount}"),
            ])
        };
        let mut client = agent.ask(&Request::Exec(Box::new(request)));
        client.hello();
        client.reply();
        client.until_exit()
    };
    assert_eq!(exit.code, 0, "{err}");
    let mut client = agent.ask(&Request::Write { path: format!("{mount}/file"), mode: None, user: None });
    client.send(Kind::Data0, &vec![0; 100_000]);
    client.hello();
    assert_eq!(client.error(), ErrorKind::DiskFull);
    assert_eq!(agent.sh(&format!("ls -A {mount}")).0, "", "what did not fit is gone");
}

fn tar_in(agent: &Agent, path: &str, archive: &[u8]) -> Client {
    let mut client = agent.ask(&Request::TarIn { path: path.to_owned(), user: None });
    for piece in archive.chunks(60_000) {
        client.send(Kind::Data0, piece);
    }
    client.send(Kind::End0, &[]);
    client.hello();
    client
}

#[test]
fn trees_go_out_and_in_unchanged() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    let script = "mkdir -p tree/sub/deep; cd tree; echo text > file; chmod 640 file; touch -d @1000000000 file; \
                  ln -s ../file sub/link; head -c 300000 /dev/urandom > sub/deep/big; mkfifo sub/fifo; \
                  mkdir closed; echo x > closed/y; chmod 555 closed; touch -d @900000000 closed sub; : > $(printf 'long%.0s' $(seq 50))";
    let (_, err, exit) = agent.sh(&format!("cd {}; {script}", agent.path("")));
    assert_eq!(exit.code, 0, "{err}");
    let mut client = agent.ask(&Request::TarOut { path: agent.path("tree"), user: None });
    client.hello();
    assert_eq!(client.reply(), Reply::Streaming);
    let archive = client.data();
    assert_eq!(tar_in(&agent, &agent.path("copy"), &archive).reply(), Reply::Done);
    let list = "find . ! -type p -printf '%P %m %T@ %l %s\\n' | grep -v '^sub.* 4096$' | sort";
    let listing = |dir: &str| {
        agent.sh(&format!("cd {}; {list} | sed -E 's/([0-9]+)\\.[0-9]+/\\1/'", agent.path(dir))).0
    };
    assert_eq!(listing("copy/tree"), listing("tree"));
    assert!(listing("tree").contains("closed 555 900000000"));
    let same = format!("cmp {} {}", agent.path("tree/sub/deep/big"), agent.path("copy/tree/sub/deep/big"));
    assert_eq!(agent.sh(&same).2.code, 0);

    let mut client = agent.ask(&Request::TarOut { path: agent.path("tree/file"), user: None });
    client.hello();
    client.reply();
    let archive = client.data();
    let mut archive = tar::Archive::new(archive.as_slice());
    let entries: Vec<_> = archive.entries().expect("an archive").map(|e| e.expect("one").size()).collect();
    assert_eq!(entries, [5]);
    assert_eq!(agent.error(&Request::TarOut { path: agent.path("none"), user: None }), ErrorKind::NotFound);
}

#[test]
fn a_tree_that_cannot_be_read_to_its_end_has_no_end_as_an_archive() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    let script = "mkdir -p tree; echo text > tree/open; echo text > tree/closed; chmod 0 tree/closed";
    assert_eq!(agent.sh(&format!("cd {}; {script}", agent.path(""))).2.code, 0);
    let mut client = agent.ask(&Request::TarOut { path: agent.path("tree"), user: None });
    client.hello();
    assert_eq!(client.reply(), Reply::Streaming);
    let mut archive = Vec::new();
    loop {
        let frame = client.frame().expect("an error at last");
        match frame.kind {
            Kind::Data1 => archive.extend(frame.payload),
            Kind::Error => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(!archive.ends_with(&[0; 1024]), "half an archive passes for a whole one");
}

#[test]
fn archives_that_reach_outside_are_refused() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    let one = |name: &str, kind: tar::EntryType, target: &str| {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(0);
        if !target.is_empty() {
            header.set_link_name_literal(target).expect("short");
        }
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    let end = vec![0; 1024];
    let check = |entries: &[Vec<u8>]| {
        let archive = [entries.concat(), end.clone()].concat();
        assert_eq!(tar_in(&agent, &agent.path("in"), &archive).error(), ErrorKind::Invalid);
        assert!(!agent.dir.join("evil").exists());
    };
    use tar::EntryType as E;
    check(&[one("../evil", E::Regular, "")]);
    check(&[one("/evil", E::Regular, "")]);
    check(&[one("a/../../evil", E::Regular, "")]);
    check(&[one("dev", E::Char, "")]);
    check(&[one("fifo", E::Fifo, "")]);
    check(&[one("hard", E::Link, "../../etc/passwd")]);
    // Through a link that the archive itself made: refused before there is anything.
    check(&[one("away", E::Symlink, ".."), one("away/evil", E::Directory, "")]);
    check(&[one("far", E::Symlink, agent.dir.to_str().expect("UTF-8")), one("far/evil", E::Directory, "")]);
    let archive = [one("out", E::Symlink, ".."), one("out/evil", E::Regular, ""), end.clone()].concat();
    let mut client = tar_in(&agent, &agent.path("in"), &archive);
    assert_ne!(client.error(), ErrorKind::NotFound);
    assert!(!agent.dir.join("evil").exists());
    // Not an archive, and half of one.
    assert_eq!(tar_in(&agent, &agent.path("in"), &[7; 2000]).error(), ErrorKind::Invalid);
    let mut client = agent.ask(&Request::TarIn { path: agent.path("in"), user: None });
    client.send(Kind::Data0, &one("file", E::Regular, "")[..100]);
    client.hello();
    client.socket.shutdown(std::net::Shutdown::Write).expect("half closed");
    assert_eq!(client.error(), ErrorKind::Invalid);
}

#[test]
fn a_port_is_relayed_both_ways() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    // The test shares its network namespace with this init.
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(listener) = TcpListener::bind(address) else { continue };
        let port = listener.local_addr().expect("bound").port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("the relay");
            stream.write_all(b"welcome\n").expect("sent");
            let mut got = Vec::new();
            stream.read_to_end(&mut got).expect("up to the client's end");
            stream.write_all(&got).expect("sent back, after the other direction ended");
        });
        let mut client = agent.ask(&Request::Port { port });
        client.hello();
        assert_eq!(client.reply(), Reply::Streaming);
        client.until("welcome\n");
        let content: Vec<u8> = (0..300_000u32).map(|n| (n % 253) as u8).collect();
        for piece in content.chunks(10_000) {
            client.send(Kind::Data0, piece);
        }
        client.send(Kind::End0, &[]);
        assert_eq!(client.data(), content);
        assert!(client.frame().is_none());
        server.join().expect("the server");
        assert_eq!(agent.error(&Request::Port { port }), ErrorKind::Refused);
    }
}

#[test]
fn processes_are_listed() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    let request = crate::harness::exec(&["sleep", "61.5"]);
    let Reply::Exec(exec) = agent.reply(&Request::Exec(Box::new(request))) else { panic!("it runs") };
    let Reply::Processes { processes, more } = agent.reply(&Request::Processes) else { panic!("a list") };
    assert!(!more);
    let found = processes.iter().find(|process| process.pid == exec.pid).expect("the exec");
    assert_eq!((found.ppid, found.uid, found.command.as_str()), (1, 1000, "sleep 61.5"));
    assert!(processes.iter().all(|process| process.pid != 1));
}
