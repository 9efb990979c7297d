//! Many agents: at once, and at rest.

use crate::peers::{Peers, timed};
use crate::rows::{Rows, Target, quantile};
use crate::session::{self, Session};
use crate::weight;
use model::Verb;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const THOUSAND: usize = 1000;
/// Creates under way at the same time when a thousand are made.
const WIDTH: usize = 32;

/// Creates at once, beside as many `runc run` at once.
pub fn at_once(session: &Session, peers: &Peers, rows: &mut Rows) {
    for count in [20, 100] {
        eprintln!("{count} creates at once");
        let (mut samples, agents) = session.wait(async {
            let mut tasks = JoinSet::new();
            for _ in 0..count {
                let control = session.control.clone();
                tasks.spawn(async move {
                    let started = Instant::now();
                    let (agent, workspace) = session::open(&control, session::request()).await;
                    session::run(&workspace, &["true"]).await;
                    (started.elapsed(), agent)
                });
            }
            let (mut samples, mut agents) = (Vec::new(), Vec::new());
            while let Some(done) = tasks.join_next().await {
                let (took, agent) = done.expect("a create");
                samples.push(took);
                agents.push(agent);
            }
            (samples, agents)
        });
        samples.sort();
        session.wait(async {
            let mut tasks = JoinSet::new();
            for agent in agents {
                let control = session.control.clone();
                tasks.spawn(async move { session::destroy(&control, &agent).await });
            }
            while tasks.join_next().await.is_some() {}
        });
        let runc: Vec<_> = std::thread::scope(|scope| {
            let runs: Vec<_> =
                (0..count).map(|index| scope.spawn(move || timed(&mut peers.runc_run(index)))).collect();
            runs.into_iter().map(|run| run.join().expect("runc")).collect()
        });
        for (share, name) in [(0.5, "p50"), (0.99, "p99")] {
            let peer = Some(("runc run", quantile(&runc, share)));
            let name = format!("{count} at once: create + true, {name}");
            rows.add(name, "ms", quantile(&samples, share), peer, Target::None);
        }
    }
}

/// A thousand agents that do nothing.
pub fn idle_thousand(session: &Session, rows: &mut Rows) {
    eprintln!("{THOUSAND} idle agents");
    let before = [weight::available(), weight::kernel(), weight::processes(&session.world)];
    let busy = weight::processor(&session.world);
    let started = Instant::now();
    let agents = session.wait(async {
        let mut tasks = JoinSet::new();
        let mut agents = Vec::with_capacity(THOUSAND);
        for index in 0..THOUSAND {
            if index >= WIDTH {
                agents.push(tasks.join_next().await.expect("one is under way").expect("a create"));
            }
            let control = session.control.clone();
            tasks.spawn(async move { session::create(&control, session::request()).await });
        }
        while let Some(done) = tasks.join_next().await {
            agents.push(done.expect("a create"));
        }
        agents
    });
    let rate = THOUSAND as f64 / started.elapsed().as_secs_f64();
    rows.add("1,000 idle agents: creates", "1/s", rate, None, Target::AtLeast(150.0));
    for ((name, before), (_, after)) in busy.iter().zip(weight::processor(&session.world)) {
        let each = (after - before) / THOUSAND as f64;
        rows.add(format!("  processor time of each in {name}"), "ms", each, None, Target::None);
    }
    let each = |bytes: f64| bytes / THOUSAND as f64 / (1 << 20) as f64;
    let kernel = each(weight::kernel() - before[1]);
    let processes = each(weight::processes(&session.world) - before[2]);
    let own = weight::init_private(&session.world) / (1 << 20) as f64;
    let name = "1,000 idle agents: memory of each beyond its own process";
    rows.add(name, "MiB", kernel + processes, None, Target::AtMost(1.25));
    rows.add("  of it in the kernel", "MiB", kernel, None, Target::None);
    rows.add("  of it in control, node, zygote and gate", "MiB", processes, None, Target::None);
    rows.add("  its own process", "MiB", own, None, Target::None);
    let fallen = each(before[0] - weight::available());
    rows.add("  by how much MemAvailable fell, all in all", "MiB", fallen, None, Target::None);
    crate::policies::change_all(session, &agents, rows);
    // Each is looked at once.
    let busy = weight::processor(&session.world);
    // Where the client sees that control closes connections which nobody uses.
    session.wait(async { tokio::time::sleep(Duration::from_secs(60)).await });
    for ((name, before), (_, after)) in busy.iter().zip(weight::processor(&session.world)) {
        let target = if *name == "node" { Target::AtMost(2.0) } else { Target::None };
        let share = (after - before) / 60_000.0 * 100.0;
        rows.add(format!("  of a core in {name}, looking at each every minute"), "%", share, None, target);
    }
    let started = Instant::now();
    session.wait(async {
        let mut tasks = JoinSet::new();
        for agent in &agents {
            let (control, id) = (session.control.clone(), agent.id.to_string());
            if tasks.len() >= WIDTH {
                tasks.join_next().await;
            }
            tasks.spawn(async move { control.verb(&id, Verb::Destroy).await.expect("an order") });
        }
        while tasks.join_next().await.is_some() {}
        for agent in &agents {
            let gone = session.control.wait_agent(&agent.id.to_string(), "destroyed", 60).await;
            assert!(gone.is_ok() || gone.is_err_and(|error| error.is_not_found()));
        }
    });
    rows.add("1,000 destroyed", "s", started.elapsed().as_secs_f64(), None, Target::AtMost(10.0));
}
