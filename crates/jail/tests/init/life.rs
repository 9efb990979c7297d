//! The main process, its log, and the end of the agent; what init costs, and what it withstands.

use crate::harness::{Agent, attached, exec, skipped};
use channel::{ErrorKind, Kind, Reply, Request};
use jail::spec::{Ended, ExitRecord};
use std::fs;
use std::io::{Read, Write};

fn record(agent: &mut Agent) -> Ended {
    let (status, record) = agent.wait();
    assert_eq!(status.code(), Some(0));
    let ExitRecord { reason } = record.expect("init leaves a record");
    reason
}

#[test]
fn the_end_of_main_is_the_end_of_the_agent() {
    if skipped() {
        return;
    }
    let mut agent = Agent::with_main("echo out; echo err >&2; exit 3");
    assert_eq!(record(&mut agent), Ended::Exited { code: 3 });
    assert_eq!(fs::read_to_string(agent.dir.join("main.0")).expect("the log"), "out\nerr\n");
    let mut agent = Agent::with_main("kill -SEGV $$");
    assert_eq!(record(&mut agent), Ended::Signaled { signal: 11 });
    let mut agent = Agent::start_with(Some(&["no-such-program"]));
    let Ended::NotStarted { detail } = record(&mut agent) else { panic!("not started") };
    assert!(detail.contains("no-such-program"), "{detail}");
}

#[test]
fn followers_of_the_log_and_clients_hear_the_end() {
    if skipped() {
        return;
    }
    let mut agent = Agent::with_main(
        "echo early; read x < $PIPE; echo late; exit 2".replace("$PIPE", "/tmp/none").as_str(),
    );
    assert_eq!(record(&mut agent), Ended::Exited { code: 2 });

    let mut agent = Agent::with_main("echo early; while [ ! -e /proc/1/cwd/tmp/none ]; do sleep 0.05; done");
    let mut follower = agent.ask(&Request::Logs { follow: true, tail: None });
    follower.hello();
    follower.reply();
    follower.until("early\n");
    let mut tail = agent.ask(&Request::Logs { follow: false, tail: Some(3) });
    tail.hello();
    tail.reply();
    assert_eq!(tail.data(), b"ly\n");
    let mut client = agent.ask(&Request::Exec(Box::new(attached(&["sh", "-c", "echo here; sleep 60"]))));
    client.until("here\n");
    assert_eq!(agent.reply(&Request::Terminate { grace_ms: 5000 }), Reply::Done);
    assert_ne!(client.until_exit().2.code, 0);
    assert_eq!(follower.data(), b"");
    assert_eq!(record(&mut agent), Ended::Requested);
}

#[test]
fn terminate_ends_everything_with_and_without_main() {
    if skipped() {
        return;
    }
    let mut agent = Agent::start();
    assert_eq!(agent.reply(&Request::Terminate { grace_ms: 60_000 }), Reply::Done);
    assert_eq!(record(&mut agent), Ended::Requested);

    // One that does not listen is killed after the grace.
    let mut agent = Agent::with_main("trap '' TERM; while :; do sleep 1; done");
    let request = exec(&["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]);
    agent.reply(&Request::Exec(Box::new(request)));
    agent.reply(&Request::Terminate { grace_ms: 100 });
    assert_eq!(record(&mut agent), Ended::Requested);

    // As does a SIGTERM from outside.
    let mut agent = Agent::start();
    let pid = agent.init_pid();
    // SAFETY: takes no pointers; the pid is that of our own child's child, which lives.
    unsafe { libc::kill(pid as i32, libc::SIGTERM) };
    assert_eq!(record(&mut agent), Ended::Requested);
}

#[test]
fn the_log_keeps_its_end_in_bounded_files() {
    if skipped() {
        return;
    }
    let mut agent = Agent::with_main("seq -f '%015.0f' 1000000; exit 0");
    assert_eq!(record(&mut agent), Ended::Exited { code: 0 });
    let sizes = ["main.0", "main.1"].map(|name| fs::metadata(agent.dir.join(name)).expect("a log").len());
    assert!(sizes.iter().all(|size| *size <= 4 << 20) && sizes.iter().sum::<u64>() >= 4 << 20, "{sizes:?}");
    let last = ["main.0", "main.1"].map(|name| fs::read(agent.dir.join(name)).expect("a log"));
    assert!(last.iter().any(|log| log.ends_with(b"000000001000000\n")));
}

#[test]
fn init_is_small() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    let pid = agent.init_pid();
    let dirty = || {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("root may");
        let line = rollup.lines().find(|line| line.starts_with("Private_Dirty:")).expect("a line").to_owned();
        line.split_ascii_whitespace().nth(1).expect("a number").parse::<u64>().expect("KiB")
    };
    let idle = dirty();
    for _ in 0..20 {
        agent.sh("head -c 3000000 /dev/zero; exit 1");
    }
    let Reply::Execs { execs, .. } = agent.reply(&Request::Execs) else { panic!("a list") };
    let kept = dirty();
    for exec in execs {
        agent.reply(&Request::Forget { id: exec.id });
    }
    let after = dirty();
    println!("Private_Dirty of init: {idle} KiB idle, {kept} with 20 kept outputs, {after} after use");
    assert!(idle <= 700 && after <= 700, "{idle} KiB idle, {after} after use");
}

#[test]
fn thousands_of_orphans_are_collected_while_init_answers() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    // It says something now and then, so that a slow machine is not taken for an init that is stuck.
    let loud = "for n in $(seq 3000); do (true &) ; [ $((n % 100)) -ne 0 ] || echo $n; done";
    let (_, err, exit) = agent.sh(loud);
    assert_eq!(exit.code, 0, "{err}");
    assert!(matches!(agent.reply(&Request::Ping), Reply::Pong { .. }));
    let left = agent.sh("sleep 0.3; grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l").0;
    assert_eq!(left, "0\n");
}

#[test]
fn nonsense_on_the_channel_costs_one_connection() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    let bytes: [&[u8]; 4] =
        [&[0xff; 100], b"GET / HTTP/1.1\r\n\r\n", &[0, 0, 0, 0, 1], &[1, 0, 0, 0, 2, b'x']];
    for bytes in bytes {
        let mut client = agent.connect();
        client.socket.write_all(bytes).expect("it listens");
        let mut answer = Vec::new();
        let _ = client.socket.read_to_end(&mut answer);
        assert_eq!(answer.get(4), Some(&(Kind::Error as u8)), "{bytes:?}");
    }
    // A platform that is too new for this init, and one that is too old.
    let ours = channel::Hello::OURS;
    for (min, max) in [(ours.max + 1, 9), (0, ours.min - 1)] {
        let mut client = agent.connect();
        client.send_json(Kind::Hello, &channel::Hello { min, max });
        client.hello();
        assert_eq!(client.error(), ErrorKind::Invalid);
    }
    // A frame that makes no sense where it comes.
    let mut client = agent.ask(&Request::Exec(Box::new(attached(&["sleep", "60"]))));
    client.hello();
    client.reply();
    client.send(Kind::Hello, b"{}");
    while let Some(frame) = client.frame() {
        assert!(matches!(frame.kind, Kind::Error | Kind::Data1));
    }
    assert!(matches!(agent.reply(&Request::Ping), Reply::Pong { execs: 1, .. }));
}

#[test]
fn a_thousand_idle_connections_leave_room_for_answers() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    let idle: Vec<_> = (0..1024).map(|_| agent.connect()).collect();
    let mut client = agent.connect();
    assert_eq!(client.error(), ErrorKind::TooMany);
    drop(idle);
    // Init hears of the ends one after the other, and may hear of the next connection first.
    let answered = (0..1000).any(|_| {
        let mut client = agent.connect();
        let _ = client.socket.write_all(&greeting_and_ping());
        client.frame().is_some_and(|frame| frame.kind == Kind::Hello)
    });
    assert!(answered);
}

fn greeting_and_ping() -> Vec<u8> {
    let mut out = Vec::new();
    channel::encode_json(Kind::Hello, &channel::Hello::OURS, &mut out).expect("small");
    channel::encode_json(Kind::Request, &Request::Ping, &mut out).expect("small");
    out
}

#[test]
fn init_that_was_taken_over_could_fill_no_file_of_the_host() {
    if skipped() {
        return;
    }
    let mut agent = Agent::with_main("while [ ! -e /proc/1/cwd/tmp/none ]; do sleep 0.05; done");
    let pid = agent.init_pid();
    let record = agent.path("exit");
    let mut open = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors") {
        // What it closed since it was listed is not open.
        let Ok(target) = fs::read_link(entry.expect("one").path()) else { continue };
        open.push(target.display().to_string());
    }
    assert!(open.iter().any(|path| path.ends_with("main.0")), "{open:?}");
    assert!(!open.contains(&record), "the record is open: {open:?}");
    // What it can write to is one page of it, which its children do not even have.
    let maps = |pid: u32| fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    let shared: Vec<String> =
        maps(pid).lines().filter(|line| line.ends_with(&record)).map(str::to_owned).collect();
    let [line] = shared.as_slice() else { panic!("{shared:?}") };
    let (start, end) = line.split_once(' ').and_then(|(range, _)| range.split_once('-')).expect("a range");
    let number = |text| u64::from_str_radix(text, 16).expect("an address");
    assert_eq!(number(end) - number(start), 4096);
    assert_eq!(fs::metadata(&record).expect("the record").len(), 4096);
    assert_eq!(agent.reply(&Request::Terminate { grace_ms: 0 }), Reply::Done);
    assert_eq!(self::record(&mut agent), Ended::Requested);
    assert_eq!(fs::metadata(&record).expect("the record").len(), 4096);
}
