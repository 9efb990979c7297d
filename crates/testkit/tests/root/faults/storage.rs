//! Disks that are full, a database that somebody else holds, images that are gone or damaged: a clear error that names
//! the remedy, nothing half-made, and all is well again once the cause is gone, without a restart.

use super::{eventually, nothing_but};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use testkit::{Ran, World};

/// A file that takes all of the room there is; removed when dropped.
struct Ballast(PathBuf);

impl Ballast {
    fn fill(disk: &Path) -> Self {
        let ballast = Self(disk.join("ballast"));
        let mut file = File::create(&ballast.0).expect("a file");
        let (mut block, mut size) = (vec![0; 1 << 16], 1 << 16);
        // Whole pages, then what is left of the last one.
        while size > 0 {
            block.truncate(size);
            if file.write_all(&block).is_err() {
                size /= 2;
            }
        }
        ballast
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn problem(ran: &Ran) -> serde_json::Value {
    serde_json::from_str(&ran.err).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

fn text<'a>(problem: &'a serde_json::Value, part: &str) -> &'a str {
    problem[part].as_str().unwrap_or_default()
}

#[test]
fn a_full_disk_under_the_database_is_named() {
    if !testkit::can_run() {
        return;
    }
    let mut world = World::prepare();
    let disk = world.small_disk("control", 8 << 20);
    world.up();
    world.provide_image();
    world.create("kept", &[]);
    let control = world.pid_of("control");
    let full = Ballast::fill(&disk);
    let ran = world.cli(&["create", "--name", "nothing", "--image", "debian", "-o", "json"]);
    let said = problem(&ran);
    assert_eq!((ran.code, text(&said, "code")), (1, "DISK_FULL"), "{ran:?}");
    assert!(text(&said, "remedy").contains(&disk.display().to_string()), "{said}");
    nothing_but(&world, 1);
    drop(full);
    assert_eq!(world.cli(&["show", "nothing"]).code, 3);
    eventually("it can be made", || {
        world.cli(&["create", "--name", "nothing", "--image", "debian"]).code == 0
    });
    assert_eq!(world.sh("kept", "echo here").ok().out, "here\n");
    assert_eq!(world.pid_of("control"), control, "without a restart");
    nothing_but(&world, 2);
}

#[test]
fn a_full_disk_under_the_node_fails_the_agent_and_says_where() {
    if !testkit::can_run() {
        return;
    }
    // Where its journal lies, then where its volumes lie.
    for part in ["node", "volumes"] {
        let mut world = World::prepare();
        let disk = world.small_disk(part, 64 << 20);
        // A blank has its volume already.
        world.blanks_at_most(0);
        world.up();
        world.provide_image();
        world.create("kept", &[]);
        let node = world.pid_of("node");
        let full = Ballast::fill(&disk);
        // A size that there is a template of, and one of which there is none.
        for (name, more) in [("first", None), ("second", Some("--disk=3GiB"))] {
            let mut args = vec!["create", "--name", name, "--image", "debian"];
            args.extend(more);
            let ran = world.cli(&args);
            assert_ne!(ran.code, 0, "{ran:?}");
            assert!(ran.err.contains("full") && ran.err.contains(&disk.display().to_string()), "{ran:?}");
            let shown = world.cli(&["show", name, "-o", "json"]).json();
            assert_eq!(shown["state"], "failed", "{shown}");
            let reason = shown["reason"].to_string();
            assert!(reason.contains("full") && reason.contains(&disk.display().to_string()), "{reason}");
        }
        assert_eq!(world.sh("kept", "echo here").ok().out, "here\n");
        assert_eq!(world.inits().len(), 1);
        drop(full);
        world.cli(&["start", "first"]).ok();
        assert_eq!(world.sh("first", "echo here").ok().out, "here\n");
        world.cli(&["rm", "-f", "second"]).ok();
        assert_eq!(world.pid_of("node"), node, "without a restart");
        nothing_but(&world, 2);
    }
}

/// A process that holds the database exclusively, until it is dropped.
struct Lock(std::process::Child);

impl Lock {
    fn take(database: &Path) -> Self {
        let program = "import sqlite3, sys\n\
                       base = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)\n\
                       base.execute('BEGIN EXCLUSIVE')\n\
                       print('locked', flush=True)\n\
                       sys.stdin.read()\n";
        let mut child = Command::new("python3")
            .args(["-c", program])
            .arg(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        assert_eq!(line, "locked\n");
        Self(child)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[test]
fn a_locked_database_is_said_in_time() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("kept", &[]);
    let (runtime, control) = world.control();
    let token =
        runtime.block_on(control.workspace_token("kept", &[model::token::Scope::Files])).expect("a token");
    let agent = runtime.block_on(control.agent("kept")).expect("the agent").id;
    let workspace = client::Workspace::new(agent, &token).expect("a client");
    let database = world.dir().join("data/control/cofferdam.db");

    let lock = Lock::take(&database);
    let begun = Instant::now();
    let ran = world.cli(&["create", "--name", "nothing", "--image", "debian", "-o", "json"]);
    assert!(begun.elapsed() < Duration::from_secs(25), "it took {:?}", begun.elapsed());
    let said = problem(&ran);
    assert_eq!((ran.code, text(&said, "code")), (5, "UNAVAILABLE"), "{ran:?}");
    assert!(!text(&said, "remedy").is_empty(), "{said}");
    let answer = raw_order(&world);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("\r\nretry-after: "), "{answer}");
    assert!(answer.contains("\"remedy\""), "{answer}");
    // What only reads goes on, and so does what needs no database.
    world.cli(&["ls"]).ok();
    runtime.block_on(workspace.list("/", None)).expect("the agent answers");
    drop(lock);

    assert_eq!(world.cli(&["show", "nothing"]).code, 3, "a create that was refused left something");
    world.create("nothing", &[]);
    assert_eq!(world.sh("kept", "echo here").ok().out, "here\n");
    nothing_but(&world, 2);
}

/// A change that is asked for without a client between, so that the headers show.
fn raw_order(world: &World) -> String {
    use std::io::Read;
    let address = format!("127.0.0.1:{}", world.control_port);
    let mut stream = std::net::TcpStream::connect(&address).expect("control listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    let key = world.api_key();
    write!(
        stream,
        "POST /v1/agents/kept/stop HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n"
    )
    .expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn an_image_that_is_gone_or_damaged_is_named() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("kept", &[]);
    let images = world.dir().join("data/images");
    let entries = fs::read_dir(&images).expect("the store").filter_map(Result::ok);
    let mut found =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "erofs"));
    let file = found.next().expect("an image");
    let digest = file.file_stem().expect("a name").to_string_lossy().into_owned();
    // Other worlds may share its blocks: the file is put aside whole, and others take its place. The agent that runs keeps it,
    // by a loop device on some kernels, which is known by where the file is.
    let aside = images.join("aside");
    fs::rename(&file, &aside).expect("the image goes");
    let size = fs::metadata(&aside).expect("the image").len();
    let damages: [(&str, &str, &dyn Fn()); 4] = [
        ("gone", "not on this node", &|| {}),
        ("empty", "is cut off", &|| drop(File::create(&file).expect("a file"))),
        ("short", "is cut off", &|| {
            fs::copy(&aside, &file).expect("a copy");
            File::options().write(true).open(&file).and_then(|file| file.set_len(size / 2)).expect("cut");
        }),
        ("foreign", "is no EROFS image", &|| fs::write(&file, [7; 65536]).expect("a file")),
    ];
    for (name, how, damage) in damages {
        damage();
        let ran = world.cli(&["create", "--name", name, "--image", "debian"]);
        assert_ne!(ran.code, 0, "{ran:?}");
        assert!(ran.err.contains(&digest) && ran.err.contains(how) && ran.err.contains("import"), "{ran:?}");
        assert_eq!(world.cli(&["show", name, "-o", "json"]).json()["state"], "failed");
        world.cli(&["rm", "-f", name]).ok();
    }
    nothing_but(&world, 1);
    fs::rename(&aside, &file).expect("the image is back");
    world.create("again", &[]);
    assert_eq!(world.sh("kept", "cat /etc/hostname >/dev/null && echo here").ok().out, "here\n");
}
