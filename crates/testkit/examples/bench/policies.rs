//! A thousand agents, each with a policy of its own, and all of them changed.

use crate::rows::{Rows, Target};
use crate::session::Session;
use model::api::Agent;
use model::policy::{Action, Policy, Rule};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use std::collections::HashMap;
use std::fs::{self, File};
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Changes that are asked for at the same time.
const WIDTH: usize = 32;

/// Takes the row: from the first change that is asked for until each agent's own network says that its own holds.
pub fn change_all(session: &Session, agents: &[Agent], rows: &mut Rows) {
    let inits = inits(session);
    let name = |agent: &Agent| format!("{}.example.com", agent.id.base32());
    assert!(agents.iter().all(|agent| !resolves(inits[&agent.id.to_string()], &name(agent))));
    let started = Instant::now();
    session.wait(async {
        let mut tasks = JoinSet::new();
        for agent in agents {
            if tasks.len() >= WIDTH {
                tasks.join_next().await.expect("one is under way").expect("a change");
            }
            let (control, id, name) = (session.control.clone(), agent.id.to_string(), name(agent));
            tasks.spawn(async move {
                let mut policy = Policy::nothing();
                policy.put_in_front(Rule::of(Action::Allow, &name, None));
                control.set_policy(&id, &policy, None).await.expect("a policy")
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.expect("a change");
        }
    });
    let accepted = started.elapsed().as_secs_f64();
    for agent in agents {
        while !resolves(inits[&agent.id.to_string()], &name(agent)) {
            thread::sleep(Duration::from_millis(1));
        }
    }
    let took = started.elapsed().as_secs_f64();
    rows.add("1,000 agents, a policy each, all changed and in force", "s", took, None, Target::AtMost(2.0));
    rows.add("  of it until control had accepted all", "s", accepted, None, Target::None);
}

/// The init of each agent.
fn inits(session: &Session) -> HashMap<String, i64> {
    let agents = fs::read_dir(session.world.dir().join("run/agents")).into_iter().flatten().flatten();
    let record = |agent: fs::DirEntry| {
        let record: Value =
            serde_json::from_slice(&fs::read(agent.path().join("boundary.json")).ok()?).ok()?;
        Some((record["agent"].as_str()?.to_owned(), record["pid"].as_i64()?))
    };
    agents.filter_map(record).collect()
}

/// Whether a name has an address in the agent's network.
fn resolves(init: i64, name: &str) -> bool {
    let network = File::open(format!("/proc/{init}/ns/net")).expect("its network");
    let mut question = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).expect("a label"));
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    let ask = || {
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).expect("moving there");
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a limit");
        socket.send_to(&question, "9.9.9.9:53").expect("a question");
        let mut answer = [0; 512];
        socket.recv(&mut answer).expect("an answer");
        // The code of the answer (RFC 1035, section 4.1.1).
        answer[3] & 0x0f == 0
    };
    thread::scope(|scope| scope.spawn(ask).join().expect("an answer"))
}
