//! The way out of an agent beside proxies that people use for this: what a connection costs, how much passes, how late it comes.
//!
//! All of them connect to servers in a small internet, over the same wire, and the client is the same; the agent's has nothing
//! but its dry network, and the peers' is on the machine on which they listen. What the client and the server say is as long as a
//! handshake of TLS, and no cryptography is in it: that would be the same for all.

mod load;
mod proxies;
pub mod terminated;

use crate::rows::{Rows, Target, quantile};
use load::Way;
use model::policy::Policy;
use proxies::Proxy;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::{self, File};
use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::thread;
use std::time::Instant;
use testkit::{Internet, World};

/// The name that is connected to.
const NAME: &str = "api.example.com";
/// Connections whose cost is measured, in each round.
const CONNECTIONS: u32 = 4000;
/// Connections that are kept.
const KEPT: usize = 500;
/// Agents whose gate is weighed.
const AGENTS: u32 = 40;
const ROUNDS: usize = 3;
const GIB: f64 = 1_073_741_824.0;

const POLICY: &str = r#"
version = 1
[egress]
preset = "none"
[[egress.rule]]
action = "allow"
host = "api.example.com"
ports = [443]
"#;

/// Takes the rows, on a thread that goes to that internet for good.
pub fn measure(rows: &mut Rows) {
    eprintln!("egress: {ROUNDS} rounds");
    thread::scope(|scope| scope.spawn(|| there(rows)).join().expect("the section ends"));
}

fn there(rows: &mut Rows) {
    let net = Internet::enter();
    net.name(NAME, &["51.15.0.1"]);
    let server: SocketAddr = "51.15.0.1:443".parse().expect("an address");
    load::serve(net.listen(server));
    let world = World::start_in(&net);
    let policy = world.dir().join("policy.toml");
    fs::write(&policy, POLICY).expect("a policy");
    let policy = policy.display().to_string();
    world.create("one", &["--level", "process", "--policy", &policy]);
    let init = world.newest_init().expect("the agent runs");
    let inside = File::open(format!("/proc/{init}/ns/net")).expect("its network");

    let gate = world.pid_of("gate").expect("a gate");
    let node = world.pid_of("node").expect("node");
    let ours = Proxy {
        name: "cofferdam",
        pids: vec![gate, node],
        way: Way::Name(NAME, 443),
        inside: Some(inside),
        child: None,
    };
    let direct =
        Proxy { name: "direct", pids: Vec::new(), way: Way::Address(server), inside: None, child: None };
    let peers = proxies::start(world.dir(), server);
    let all = || [&ours].into_iter().chain(&peers);

    costs(all(), rows);
    streams(all(), rows);
    late(&ours, &direct, rows);
    reload(&world, &ours, rows);
    weights(&world, &ours, gate, &policy, rows);
}

/// Does something where the proxy's clients are.
fn at<T: Send>(proxy: &Proxy, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let moved = scope.spawn(|| {
            if let Some(inside) = &proxy.inside {
                move_into_link_name_space(inside.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("moving there");
            }
            work()
        });
        moved.join().expect("its end")
    })
}

/// Processor time of a new connection, the least of some rounds; with node's part, which connects for the gate.
fn costs<'a>(proxies: impl Iterator<Item = &'a Proxy>, rows: &mut Rows) {
    let proxies: Vec<_> = proxies.collect();
    let mut least = vec![f64::INFINITY; proxies.len()];
    let mut most = vec![0.0_f64; proxies.len()];
    for _ in 0..ROUNDS {
        for (index, proxy) in proxies.iter().enumerate() {
            let before = proxy.processor();
            let took = at(proxy, || load::connections(&proxy.way, CONNECTIONS));
            let each = (proxy.processor() - before) / f64::from(CONNECTIONS) * 1e6;
            least[index] = least[index].min(each);
            most[index] = most[index].max(f64::from(CONNECTIONS) / took.as_secs_f64());
        }
    }
    for (index, peer) in proxies.iter().enumerate().skip(1) {
        let target = if peer.name == "haproxy" { Target::RatioAtMost(1.0) } else { Target::None };
        rows.add(
            "processor time of a new TLS connection",
            "us",
            least[0],
            Some((peer.name, least[index])),
            target,
        );
        rows.add("new TLS connections", "/s", most[0], Some((peer.name, most[index])), Target::None);
    }
}

/// Out of the server, by one stream and by many.
fn streams<'a>(proxies: impl Iterator<Item = &'a Proxy>, rows: &mut Rows) {
    let proxies: Vec<_> = proxies.collect();
    for count in [1, 64] {
        let mut best = vec![0.0_f64; proxies.len()];
        for _ in 0..ROUNDS {
            for (index, proxy) in proxies.iter().enumerate() {
                let took = at(proxy, || load::streams(&proxy.way, count, GIB as u64));
                best[index] = best[index].max(GIB / took.as_secs_f64() / 1_048_576.0);
            }
        }
        let peers = proxies.iter().zip(&best).skip(1);
        let peer = peers.max_by(|one, other| one.1.total_cmp(other.1)).map(|(peer, best)| (peer.name, *best));
        let name =
            if count == 1 { "1 GiB by one stream".to_owned() } else { format!("1 GiB by {count} streams") };
        rows.add(name, "MiB/s", best[0], peer, Target::RatioAtLeast(1.0));
    }
}

/// How much later an answer comes than without anybody in between.
fn late(ours: &Proxy, direct: &Proxy, rows: &mut Rows) {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        with.extend(at(ours, || load::echoes(&ours.way, 4000)));
        without.extend(at(direct, || load::echoes(&direct.way, 4000)));
    }
    for (name, share, most) in [("p50", 0.5, 0.1), ("p99", 0.99, 1.0)] {
        let added = quantile(&with, share) - quantile(&without, share);
        rows.add(format!("an answer comes later by, {name}"), "ms", added, None, Target::AtMost(most));
    }
}

/// How long a change of the policy takes until what it denies is cut, with the call that makes it.
fn reload(world: &World, ours: &Proxy, rows: &mut Rows) {
    let (runtime, control) = world.control();
    let [allows, denies] = [Policy::parse(POLICY).expect("a policy"), Policy::nothing()];
    let set = |policy: &Policy| {
        runtime.block_on(control.set_policy("one", policy, None)).expect("a change");
    };
    let cut = |_| {
        let mut open = at(ours, || load::kept(&ours.way, 1));
        let begun = Instant::now();
        set(&denies);
        let ended = open[0].read(&mut [0]);
        let took = begun.elapsed();
        assert!(ended.is_err(), "the connection ended as if nothing was denied");
        set(&allows);
        at(ours, || load::until_open(&ours.way));
        took
    };
    let took: Vec<_> = (0..20).map(cut).collect();
    rows.add(
        "a connection is cut by a change of policy",
        "ms",
        quantile(&took, 0.5),
        None,
        Target::AtMost(100.0),
    );
}

/// What the gate's memory grows by.
fn weights(world: &World, ours: &Proxy, gate: i32, policy: &str, rows: &mut Rows) {
    let before = proxies::memory(gate);
    for number in 0..AGENTS {
        world.create(&format!("idle-{number}"), &["--level", "process", "--policy", policy]);
    }
    let each = (proxies::memory(gate) - before) / f64::from(AGENTS) / 1024.0;
    rows.add("memory of gate for an idle agent", "KiB", each.max(0.0), None, Target::AtMost(50.0));
    let before = proxies::memory(gate);
    let kept = at(ours, || load::kept(&ours.way, KEPT));
    let each = (proxies::memory(gate) - before) / KEPT as f64 / 1024.0;
    rows.add("memory of an open connection", "KiB", each, None, Target::AtMost(32.0));
    drop(kept);
}
