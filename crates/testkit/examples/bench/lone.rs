//! One agent at a time: how long until it does something.

use crate::peers::{Peers, timed};
use crate::rows::{Rows, Target, median, quantile};
use crate::session::{self, Blanks, Session};
use model::agent::Level;
use std::time::{Duration, Instant};

/// How long the parts of a life took.
#[derive(Default)]
pub struct Lives {
    /// From the call to the first output.
    first: Vec<Duration>,
    created: Vec<Duration>,
    executed: Vec<Duration>,
    destroyed: Vec<Duration>,
}

/// Creates, runs `true`, and destroys, in turn with something else; beside an agent that is there all the time, as on any
/// host in use.
pub fn rounds(session: &Session, rounds: usize, mut between: impl FnMut()) -> Lives {
    // The first asks for blanks, makes the volume's template and starts the gate.
    let neighbour = session.wait(session::create(&session.control, session.request()));
    let mut lives = Lives::default();
    for _ in 0..rounds {
        session.ready();
        session.wait(async {
            let request = session.request();
            let started = Instant::now();
            let (agent, workspace) = session::open(&session.control, request).await;
            let opened = Instant::now();
            session::run(&workspace, &["true"]).await;
            lives.first.push(started.elapsed());
            lives.created.push(opened - started);
            lives.executed.push(opened.elapsed());
            let started = Instant::now();
            session::destroy(&session.control, &agent).await;
            lives.destroyed.push(started.elapsed());
        });
        // No blank is made while a peer is measured.
        session.ready();
        between();
    }
    session.wait(session::destroy(&session.control, &neighbour));
    lives
}

/// Create, run `true`, and destroy, in turn with the peers.
pub fn creates(session: &Session, peers: &Peers, count: usize, rows: &mut Rows) {
    let how = session.blanks.name();
    eprintln!("create, {how}: {count} rounds");
    let (mut runc, mut bwrap) = (Vec::new(), Vec::new());
    let lives = rounds(session, count, || {
        runc.push(timed(&mut peers.runc_run(runc.len())));
        bwrap.push(timed(&mut peers.bwrap()));
    });
    let Lives { first, created, executed, destroyed } = &lives;
    let (runc, bwrap) = (median(&runc), median(&bwrap));
    let (to_runc, to_bwrap) = match session.blanks {
        Blanks::None => (Target::None, Target::None),
        Blanks::Bare => (Target::RatioAtMost(0.35), Target::None),
        Blanks::Ready => (Target::None, Target::RatioAtMost(0.6)),
    };
    let name = format!("create + true, {how}");
    rows.add(&name, "ms", median(first), Some(("runc run", runc)), to_runc);
    rows.add(&name, "ms", median(first), Some(("bwrap", bwrap)), to_bwrap);
    rows.add(format!("{name}, p90"), "ms", quantile(first, 0.9), None, Target::None);
    let parts = [
        ("  create until it is reachable, with its token", created),
        ("  first exec", executed),
        ("destroy until gone", destroyed),
    ];
    for (part, samples) in parts {
        rows.add(part, "ms", median(samples), None, Target::None);
    }
}

/// The same below a container: an OS user beside the tools that make one, and a workspace.
pub fn levels(count: usize, rows: &mut Rows) {
    let session = Session::start_at(Level::Process, Blanks::Ready);
    let peers = Peers::make(&session);
    eprintln!("create at level 1: {count} rounds");
    let mut os_user = Vec::new();
    let lives = rounds(&session, count, || os_user.push(timed(&mut peers.os_user())));
    let peer = Some(("setpriv+bwrap", median(&os_user)));
    let name = format!("create + true at level 1, {}", session.blanks.name());
    rows.add(&name, "ms", median(&lives.first), peer, Target::RatioAtMost(1.0));
    drop(peers);
    drop(session);
    let session = Session::start_at(Level::Workspace, Blanks::Ready);
    eprintln!("create at level 0: {count} rounds");
    let lives = rounds(&session, count, || {});
    let name = format!("create + true at level 0, {}", session.blanks.name());
    rows.add(&name, "ms", median(&lives.first), None, Target::AtMost(3.0));
}

/// Execs are measured in turn, so many of ours and of theirs: whoever runs programs in an agent runs more than one.
const TURN: usize = 10;

/// `true` in a running agent.
pub fn execs(session: &Session, peers: &Peers, rounds: usize, rows: &mut Rows) {
    eprintln!("exec: {rounds} rounds");
    let container = peers.container();
    let (agent, workspace) = session.wait(session::open(&session.control, session.request()));
    let (mut ours, mut streamed, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    let measure = |samples: &mut Vec<Duration>, work: &mut dyn FnMut()| {
        let started = Instant::now();
        work();
        samples.push(started.elapsed());
    };
    for turn in (0..rounds).step_by(TURN) {
        let each = TURN.min(rounds - turn);
        for _ in 0..each {
            measure(&mut ours, &mut || session.wait(session::run(&workspace, &["true"])));
        }
        for _ in 0..each {
            measure(&mut streamed, &mut || {
                session.wait(session::exec(&workspace, &["true"]));
            });
        }
        theirs.extend((0..each).map(|_| timed(&mut container.exec(&["true"]))));
    }
    let theirs = median(&theirs);
    rows.add("exec true", "ms", median(&ours), Some(("runc exec", theirs)), Target::RatioAtMost(0.08));
    rows.add("exec true, its streams attached by WebSocket", "ms", median(&streamed), None, Target::None);
    session.wait(session::destroy(&session.control, &agent));
}
