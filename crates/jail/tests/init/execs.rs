//! Execs: their outputs, their ends, their limits.

use crate::harness::{Agent, Client, attached, exec, skipped};
use channel::{
    Control, Decoder, ErrorKind, Event, ExecRequest, Exit, ExitCause, Hello, Kind, Reply, Request, Size, User,
};
use std::io::{Read, Write};

const OK: Exit = Exit { code: 0, cause: None };

#[test]
fn output_and_exit_code_arrive() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    let (out, err, exit) = agent.sh("echo $GREETING; echo oops >&2; exit 7");
    assert_eq!((out.as_str(), err.as_str(), exit.code), ("hello\n", "oops\n", 7));
    let (_, _, exit) = agent.sh("kill -TERM $$");
    assert_eq!(exit.code, 128 + 15);
    let (out, _, _) = agent.sh("sleep 30 & echo left one behind");
    assert_eq!(out, "left one behind\n", "a process that keeps the pipe open holds nothing up");
}

#[test]
fn a_process_has_no_privilege_and_nothing_of_inits() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    let (out, err, exit) = agent.sh(
        "id -u; id -g; id -G; grep -E '^(Cap|NoNewPrivs|Sig(Blk|Ign))' /proc/self/status; ls /proc/self/fd | wc -l; \
         cat /proc/self/oom_score_adj; umask; ps -o sid= $$ | tr -d ' '; echo $$",
    );
    assert_eq!(exit, OK, "{err}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..3], ["1000", "1000", "1000"]);
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "SigBlk", "SigIgn"] {
        assert!(out.contains(&format!("{name}:\t0000000000000000")), "{name} in {out}");
    }
    assert!(out.contains("NoNewPrivs:\t1"));
    // 0, 1, 2, and the directory that ls reads.
    assert_eq!(lines[lines.len() - 5..lines.len() - 2], ["4", "0", "0022"]);
    assert_eq!(lines[lines.len() - 2], lines[lines.len() - 1], "it leads a session");

    let request =
        ExecRequest { user: Some(User::Root), ..attached(&["grep", "CapBnd", "/proc/self/status"]) };
    let mut client = agent.ask(&Request::Exec(Box::new(request)));
    client.hello();
    client.reply();
    let out = client.until_exit().0;
    let bound = u64::from_str_radix(out.trim().rsplit('\t').next().expect("a number"), 16).expect("hex");
    assert_ne!(bound, 0);
    assert_eq!(bound & (1 << 19 | 1 << 8), 0, "root has neither SYS_PTRACE nor SETPCAP");
}

#[test]
fn init_cannot_be_touched_by_root_inside() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    let script = "kill -TERM 1; kill -KILL 1; cat /proc/1/environ; cat /proc/1/mem | head -c1; ls -l /proc/1/fd/3; \
                  prlimit --pid 1 --cpu=0; echo done";
    // Root of the machine's own user namespace would pass most checks by CAP_SYS_PTRACE and CAP_SYS_RESOURCE, which
    // root inside a boundary has not; the agent's user stands for it here.
    let (out, err, _) = agent.sh(script);
    assert_eq!(out, "done\n", "{err}");
    let root =
        ExecRequest { user: Some(User::Root), ..attached(&["sh", "-c", "kill -TERM 1; kill -KILL 1"]) };
    let mut client = agent.ask(&Request::Exec(Box::new(root)));
    client.hello();
    client.reply();
    client.until_exit();
    assert!(matches!(agent.reply(&Request::Ping), Reply::Pong { .. }));
}

#[test]
fn stdin_is_passed_on_to_its_end() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    let request =
        ExecRequest { stdin: true, ..attached(&["sh", "-c", "sha256sum | cut -c1-64; wc -c < /dev/null"]) };
    let mut client = agent.ask(&Request::Exec(Box::new(request)));
    client.hello();
    let piece = vec![b'x'; 100_000];
    for _ in 0..50 {
        client.send(Kind::Data0, &piece);
    }
    client.send(Kind::End0, &[]);
    assert!(matches!(client.reply(), Reply::Attached { .. }));
    let (out, _, exit) = client.until_exit();
    let expected = agent.sh("head -c 5000000 /dev/zero | tr '\\0' x | sha256sum | cut -c1-64").0;
    assert_eq!((out, exit), (format!("{expected}0\n"), OK));
}

#[test]
fn fifty_megabytes_arrive_whole_at_slow_clients() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    let script = "head -c 50000000 /dev/zero | tr '\\0' y; echo end >&2";
    let mut client = agent.ask(&Request::Exec(Box::new(attached(&["sh", "-c", script]))));
    client.hello();
    let Reply::Attached { exec, .. } = client.reply() else { panic!("attached") };
    // A second client that reads nothing for now: the process must wait for it, and miss nothing.
    let mut second = agent.ask(&Request::Attach { id: exec.id });
    second.hello();
    second.reply();
    let reader = std::thread::spawn(move || client.until_exit());
    let (out, err, exit) = second.until_exit();
    assert_eq!((out.trim_start_matches("[lost").len() > 40_000_000, err.as_str(), exit), (true, "end\n", OK));
    let (out, err, exit) = reader.join().expect("the first client");
    assert_eq!((out.len(), err.as_str(), exit), (50_000_000, "end\n", OK));
}

#[test]
fn a_client_can_come_back() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    let script = "echo one; read x; echo two; read x; exit 3";
    let request = ExecRequest { stdin: true, ..attached(&["sh", "-c", script]) };
    let id = request.id.clone();
    let mut client = agent.ask(&Request::Exec(Box::new(request)));
    client.until("one\n");
    drop(client);

    let mut client = agent.ask(&Request::Attach { id: id.clone() });
    client.hello();
    let Reply::Attached { offsets, .. } = client.reply() else { panic!("attached") };
    assert_eq!(offsets, [0, 0]);
    client.send(Kind::Data0, b"\n");
    assert_eq!(client.until("two\n"), "one\ntwo\n");
    drop(client);
    let mut client = agent.ask(&Request::Attach { id: id.clone() });
    client.send(Kind::End0, &[]);
    client.hello();
    client.reply();
    assert_eq!(client.until_exit(), ("one\ntwo\n".into(), String::new(), Exit { code: 3, cause: None }));

    // Also after its end, until it is forgotten.
    let mut client = agent.ask(&Request::Attach { id: id.clone() });
    client.hello();
    client.reply();
    assert_eq!(client.until_exit().0, "one\ntwo\n");
    assert_eq!(agent.reply(&Request::Forget { id: id.clone() }), Reply::Done);
    assert_eq!(agent.error(&Request::Attach { id }), ErrorKind::NoSuchExec);
}

#[test]
fn with_nobody_attached_the_process_goes_on_and_the_oldest_output_is_lost() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    let path = agent.path("fifo");
    let script = format!("head -c 1000000 /dev/zero | tr '\\0' a; echo; echo > {path}; exit 4");
    agent.sh(&format!("mkfifo {path}"));
    let request = exec(&["sh", "-c", &script]);
    let id = request.id.clone();
    assert!(matches!(agent.reply(&Request::Exec(Box::new(request))), Reply::Exec(_)));
    // It gets past its output without any reader.
    agent.sh(&format!("cat {path}"));
    let mut client = agent.ask(&Request::Attach { id });
    client.hello();
    let Reply::Attached { offsets, .. } = client.reply() else { panic!("attached") };
    let frame = client.frame().expect("an event");
    let Event::Lost { bytes } = frame.expect(Kind::Event).expect("an event") else { panic!("lost") };
    let (out, _, exit) = client.until_exit();
    assert_eq!((bytes, offsets[0]), (1_000_001 - (256 << 10), bytes));
    assert_eq!((out.len(), exit.code), (256 << 10, 4));
}

#[test]
fn a_terminal_is_one() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    let script = "tty; stat -c '%u %a' $(tty); stty size; echo $TERM; trap 'stty size; exit 5' WINCH; echo ready; \
                  while :; do sleep 0.05; done";
    let size = Size { rows: 24, cols: 80 };
    let request = ExecRequest { tty: Some(size), stdin: true, ..attached(&["bash", "-c", script]) };
    let mut client = agent.ask(&Request::Exec(Box::new(request)));
    client.hello();
    assert!(matches!(client.reply(), Reply::Attached { exec, .. } if exec.tty));
    let out = client.until("ready");
    assert!(out.contains("/dev/pts/") && out.contains("1000 620") && out.contains("24 80"), "{out}");
    assert!(out.contains("xterm-256color"), "{out}");
    client.send_json(Kind::Control, &Control::Resize(Size { rows: 50, cols: 132 }));
    let (out, _, exit) = client.until_exit();
    assert!(out.contains("50 132"), "{out}");
    assert_eq!(exit.code, 5);
}

#[test]
fn typed_control_characters_work_in_a_terminal() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    let script = "trap 'echo after; cat > /dev/null; exit 6' INT; echo ready; while :; do sleep 0.05; done";
    let request = ExecRequest {
        tty: Some(Size { rows: 24, cols: 80 }),
        stdin: true,
        ..attached(&["sh", "-c", script])
    };
    let mut client = agent.ask(&Request::Exec(Box::new(request)));
    client.until("ready");
    client.send(Kind::Data0, b"\x03");
    client.until("after");
    client.send(Kind::End0, &[]);
    assert_eq!(client.until_exit().2.code, 6);
}

#[test]
fn signals_reach_the_group() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    let request =
        attached(&["sh", "-c", "trap 'echo got it; exit 9' USR1; echo ready; while :; do sleep 0.05; done"]);
    let id = request.id.clone();
    let mut client = agent.ask(&Request::Exec(Box::new(request)));
    client.until("ready");
    assert_eq!(agent.error(&Request::Signal { id: id.clone(), signal: 0 }), ErrorKind::Invalid);
    assert_eq!(agent.error(&Request::Forget { id: id.clone() }), ErrorKind::Invalid);
    client.send_json(Kind::Control, &Control::Signal { signal: 10 });
    let (out, _, exit) = client.until_exit();
    assert_eq!((out.as_str(), exit.code), ("got it\n", 9));
    assert_eq!(agent.error(&Request::Signal { id, signal: 9 }), ErrorKind::Invalid);

    let request = exec(&["sleep", "60"]);
    let id = request.id.clone();
    agent.reply(&Request::Exec(Box::new(request)));
    assert_eq!(agent.reply(&Request::Signal { id: id.clone(), signal: 9 }), Reply::Done);
    let mut client = agent.ask(&Request::Attach { id });
    client.hello();
    client.reply();
    assert_eq!(client.until_exit().2.code, 137);
}

#[test]
fn time_and_output_are_limited() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    // Job control gives the child a group of its own; it ends with the session nevertheless.
    let script = "set -m; sleep 61 & echo $!; wait";
    let request = ExecRequest { timeout_ms: Some(200), ..attached(&["bash", "-c", script]) };
    let mut client = agent.ask(&Request::Exec(Box::new(request)));
    client.hello();
    client.reply();
    let (out, _, exit) = client.until_exit();
    assert_eq!(exit, Exit { code: 137, cause: Some(ExitCause::Timeout) });
    // It may still be on its way out.
    let gone =
        format!("for n in $(seq 100); do kill -0 {} 2>/dev/null || exit 42; sleep 0.05; done", out.trim());
    assert_eq!(agent.sh(&gone).2.code, 42);

    let request = ExecRequest { output_limit: Some(5000), ..attached(&["sh", "-c", "yes; exit 1"]) };
    let mut client = agent.ask(&Request::Exec(Box::new(request)));
    client.hello();
    client.reply();
    let (out, _, exit) = client.until_exit();
    assert_eq!((out.len(), exit), (5000, Exit { code: 137, cause: Some(ExitCause::OutputLimit) }));

    let request = ExecRequest { output_limit: Some(6), ..attached(&["echo", "exact"]) };
    let mut client = agent.ask(&Request::Exec(Box::new(request)));
    client.hello();
    client.reply();
    assert_eq!(client.until_exit().2, OK, "as much as allowed is no offence");
}

#[test]
fn what_cannot_run_says_why() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    let check =
        |request: ExecRequest, expected| assert_eq!(agent.error(&Request::Exec(Box::new(request))), expected);
    check(attached(&["no-such-program"]), ErrorKind::CommandNotFound);
    check(exec(&["/no/such/program"]), ErrorKind::CommandNotFound);
    check(exec(&["/etc/hostname"]), ErrorKind::NotExecutable);
    check(exec(&["/etc"]), ErrorKind::NotExecutable);
    check(exec(&[]), ErrorKind::Invalid);
    check(exec(&["a\0b"]), ErrorKind::Invalid);
    check(ExecRequest { cwd: Some("/no/such/place".into()), ..exec(&["true"]) }, ErrorKind::NotFound);
    check(ExecRequest { cwd: Some("relative".into()), ..exec(&["true"]) }, ErrorKind::Invalid);
    check(ExecRequest { id: "../x".into(), ..exec(&["true"]) }, ErrorKind::Invalid);
    check(ExecRequest { env: [("A=B".into(), "c".into())].into(), ..exec(&["true"]) }, ErrorKind::Invalid);
    let long = "x".repeat(200_000);
    check(exec(&["echo", &long]), ErrorKind::Invalid);
    let kept = exec(&["sleep", "60"]);
    agent.reply(&Request::Exec(Box::new(kept.clone())));
    check(kept, ErrorKind::Exists);
    let Reply::Execs { execs, more } = agent.reply(&Request::Execs) else { panic!("a list") };
    assert_eq!((execs.len(), more), (1, false), "what never ran leaves nothing behind");
}

#[test]
fn too_many_execs_are_refused_and_ended_ones_forgotten() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    for _ in 0..80 {
        agent.sh("exit 0");
    }
    let Reply::Execs { execs, .. } = agent.reply(&Request::Execs) else { panic!("a list") };
    assert_eq!(execs.len(), 64);
    let mut refused = None;
    for count in 0..300 {
        let mut client = agent.ask(&Request::Exec(Box::new(exec(&["sleep", "60"]))));
        client.hello();
        if client.frame().expect("an answer").kind == Kind::Error {
            refused = Some(count);
            break;
        }
    }
    assert_eq!(refused, Some(256));
}

#[test]
fn want_of_descriptors_is_said_in_words_and_passes() {
    if skipped() {
        return;
    }
    let agent = Agent::with_open_files(40);
    let full: Vec<_> = (0..60).map(|_| agent.connect()).collect();
    drop(full);
    assert!(matches!(agent.reply(&Request::Ping), Reply::Pong { .. }), "it accepts again");
    let mut kinds = Vec::new();
    for _ in 0..20 {
        let mut client = agent.ask(&Request::Exec(Box::new(exec(&["sleep", "60"]))));
        client.hello();
        let frame = client.frame().expect("an answer");
        if frame.kind == Kind::Error {
            kinds.push(client_error(&frame));
        }
    }
    assert!(!kinds.is_empty() && kinds.iter().all(|kind| *kind == ErrorKind::TooMany), "{kinds:?}");
}

fn client_error(frame: &channel::Frame) -> ErrorKind {
    frame.json::<channel::ChannelError>().expect("an error").kind
}

#[test]
fn the_output_of_ended_execs_is_bounded_over_all_of_them() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    let (count, each) = (40, 200 << 10);
    let script = "head -c 102400 /dev/zero; head -c 102400 /dev/zero >&2";
    let mut ids = Vec::new();
    for _ in 0..count {
        let request = attached(&["sh", "-c", script]);
        ids.push(request.id.clone());
        let mut client = agent.ask(&Request::Exec(Box::new(request)));
        client.hello();
        assert!(matches!(client.reply(), Reply::Attached { .. }));
        let (out, err, exit) = client.until_exit();
        assert_eq!((out.len() + err.len(), exit), (each, OK));
    }
    let kept: Vec<usize> = ids
        .iter()
        .map(|id| {
            let mut client = agent.ask(&Request::Attach { id: id.clone() });
            client.hello();
            let Reply::Attached { offsets, .. } = client.reply() else { panic!("attached") };
            let (out, err, exit) = client.until_exit();
            assert_eq!(exit, OK);
            let got = out.len() + err.len();
            assert_eq!(got as u64 + offsets[0] + offsets[1], each as u64, "what is left is the end of it");
            got
        })
        .collect();
    let total: usize = kept.iter().sum();
    assert!((3 << 20..=4 << 20).contains(&total), "{total} bytes are kept");
    assert_eq!((kept[0], kept[count - 1]), (0, each), "the oldest goes first: {kept:?}");
}

#[test]
fn all_that_a_short_process_has_to_say_is_one_piece() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    let kinds = |client: &mut Client| {
        let mut buffer = vec![0; 64 << 10];
        let count = client.socket.read(&mut buffer).expect("an answer");
        let mut decoder = Decoder::new();
        decoder.push(&buffer[..count]);
        std::iter::from_fn(|| decoder.next().expect("frames").map(|frame| frame.kind)).collect::<Vec<_>>()
    };
    let greeted = |request: Request| {
        let mut said = Vec::new();
        channel::encode_json(Kind::Hello, &Hello::OURS, &mut said).expect("small");
        channel::encode_json(Kind::Request, &request, &mut said).expect("small");
        let mut client = agent.connect();
        client.socket.write_all(&said).expect("init reads");
        client
    };
    let whole = [Kind::Hello, Kind::Reply, Kind::End1, Kind::End2, Kind::Event];
    // A machine that is busy may take longer than init waits.
    let once = || kinds(&mut greeted(Request::Exec(Box::new(attached(&["true"]))))) == whole;
    assert!((0..50).any(|_| once()));
    let failed = greeted(Request::Exec(Box::new(attached(&["/nowhere"])))).frame().expect("a hello");
    assert_eq!(failed.kind, Kind::Hello);
    assert_eq!(kinds(&mut greeted(Request::Ping)), [Kind::Hello, Kind::Reply]);
    // Nothing waits for a request that has not come, and no process for what its client does not say.
    let mut client = agent.connect();
    client.send_json(Kind::Hello, &Hello::OURS);
    client.hello();
    let request = ExecRequest { stdin: true, ..attached(&["cat"]) };
    client.send_json(Kind::Request, &Request::Exec(Box::new(request)));
    assert!(matches!(client.reply(), Reply::Attached { .. }));
    client.send(Kind::End0, b"");
    client.until_exit();
}

#[test]
fn a_process_that_says_nothing_is_told_of_all_the_same() {
    if skipped() {
        return;
    }
    let agent = Agent::start();
    let (quiet, left) = (attached(&["sleep", "60"]), attached(&["sleep", "60"]));
    let mut client = agent.ask(&Request::Exec(Box::new(quiet)));
    client.hello();
    assert!(matches!(client.reply(), Reply::Attached { .. }));
    // Also one whose client left before it was told.
    let id = left.id.clone();
    drop(agent.ask(&Request::Exec(Box::new(left))));
    let attaches = || {
        let mut client = agent.ask(&Request::Attach { id: id.clone() });
        client.hello();
        client.frame().is_some_and(|frame| frame.kind == Kind::Reply)
    };
    // A busy machine may have other things to do than to start it.
    assert!((0..1_000_000).any(|_| attaches()));
}
