//! A gibibyte out of an agent, and one into it.

use crate::peers::Peers;
use crate::rows::{Rows, Target};
use crate::session::{self, Session};
use std::io::{Read, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

const GIB: u64 = 1 << 30;
const CHUNK: usize = 1 << 20;
const ROUNDS: usize = 3;

fn rate(took: Duration) -> f64 {
    GIB as f64 / took.as_secs_f64() / (1 << 20) as f64
}

/// The best of some rounds: what disturbs can only slow down.
fn best(rates: Vec<f64>) -> f64 {
    rates.into_iter().fold(0.0, f64::max)
}

/// Both directions, in turn with `runc exec` through pipes.
pub fn measure(session: &Session, peers: &Peers, rows: &mut Rows) {
    eprintln!("streams: {ROUNDS} rounds");
    let container = peers.container();
    let (agent, workspace) = session.wait(session::open(&session.control, session.request()));
    let (mut out, mut runc_out, mut into, mut runc_in) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let bytes = session.wait(session::exec(&workspace, &["head", "-c", "1G", "/dev/zero"]));
        out.push(rate(started.elapsed()));
        assert_eq!(bytes, GIB);

        let started = Instant::now();
        let mut command = container.exec(&["head", "-c", "1G", "/dev/zero"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("runc");
        let mut stdout = child.stdout.take().expect("a pipe");
        let (mut buffer, mut bytes) = (vec![0; CHUNK], 0);
        loop {
            match stdout.read(&mut buffer).expect("its output") {
                0 => break,
                count => bytes += count as u64,
            }
        }
        assert!(child.wait().expect("its end").success());
        runc_out.push(rate(started.elapsed()));
        assert_eq!(bytes, GIB);

        let content = vec![0; GIB as usize];
        let started = Instant::now();
        session.wait(workspace.write("/home/agent/large", 0o644, content)).expect("written");
        into.push(rate(started.elapsed()));
        session.wait(workspace.remove("/home/agent/large", false, None)).expect("removed");

        let started = Instant::now();
        let mut command = container.exec(&["sh", "-c", "cat > /home/large"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("runc");
        let mut stdin = child.stdin.take().expect("a pipe");
        let chunk = vec![0; CHUNK];
        for _ in 0..GIB / CHUNK as u64 {
            stdin.write_all(&chunk).expect("it reads");
        }
        drop(stdin);
        assert!(child.wait().expect("its end").success());
        runc_in.push(rate(started.elapsed()));
        assert!(container.exec(&["rm", "/home/large"]).status().expect("runc").success());
    }
    let peer = Some(("runc exec", best(runc_out)));
    rows.add("1 GiB of stdout out", "MiB/s", best(out), peer, Target::RatioAtLeast(0.5));
    let peer = Some(("runc exec", best(runc_in)));
    rows.add("1 GiB file in", "MiB/s", best(into), peer, Target::RatioAtLeast(0.5));
    session.wait(session::destroy(&session.control, &agent));
}
