//! One agent at a time: how long until it does something.

use crate::peers::{Peers, timed};
use crate::rows::{Rows, Target, median, quantile};
use crate::session::{self, Blanks, Session};
use std::time::{Duration, Instant};

/// Create, run `true`, and destroy, in turn with the peers.
pub fn creates(session: &Session, peers: &Peers, rounds: usize, rows: &mut Rows) {
    let how = if session.blanks == Blanks::Ready { "a blank ready" } else { "no blank ready" };
    eprintln!("create, {how}: {rounds} rounds");
    // The first asks for blanks, makes the volume's template and starts the gate.
    session
        .wait(async { session::destroy(&session.control, &session::create(&session.control).await).await });
    let (mut first, mut runc, mut bwrap, mut destroys) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut parts: [Vec<Duration>; 3] = Default::default();
    for round in 0..rounds {
        session.ready();
        session.wait(async {
            let started = Instant::now();
            let agent = session::create(&session.control).await;
            let created = Instant::now();
            let workspace = session::workspace(&session.control, &agent).await;
            let opened = Instant::now();
            session::exec(&workspace, &["true"]).await;
            first.push(started.elapsed());
            parts[0].push(created - started);
            parts[1].push(opened - created);
            parts[2].push(opened.elapsed());
            let started = Instant::now();
            session::destroy(&session.control, &agent).await;
            destroys.push(started.elapsed());
        });
        runc.push(timed(&mut peers.runc_run(round)));
        bwrap.push(timed(&mut peers.bwrap()));
    }
    let (runc, bwrap) = (median(&runc), median(&bwrap));
    let (to_runc, to_bwrap) = match session.blanks {
        Blanks::None => (Target::RatioAtMost(0.35), Target::None),
        Blanks::Ready => (Target::None, Target::RatioAtMost(0.6)),
    };
    let name = format!("create + true, {how}");
    rows.add(&name, "ms", median(&first), Some(("runc run", runc)), to_runc);
    rows.add(&name, "ms", median(&first), Some(("bwrap", bwrap)), to_bwrap);
    rows.add(format!("{name}, p90"), "ms", quantile(&first, 0.9), None, Target::None);
    for (part, samples) in ["create until running", "token and client", "first exec"].iter().zip(&parts) {
        rows.add(format!("  {part}"), "ms", median(samples), None, Target::None);
    }
    rows.add("destroy until gone", "ms", median(&destroys), None, Target::None);
}

/// `true` in a running agent.
pub fn execs(session: &Session, peers: &Peers, rounds: usize, rows: &mut Rows) {
    eprintln!("exec: {rounds} rounds");
    let container = peers.container();
    let agent = session.wait(session::create(&session.control));
    let workspace = session.wait(session::workspace(&session.control, &agent));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let started = Instant::now();
        session.wait(session::exec(&workspace, &["true"]));
        ours.push(started.elapsed());
        theirs.push(timed(&mut container.exec(&["true"])));
    }
    let theirs = median(&theirs);
    rows.add("exec true", "ms", median(&ours), Some(("runc exec", theirs)), Target::RatioAtMost(0.08));
    session.wait(session::destroy(&session.control, &agent));
}
