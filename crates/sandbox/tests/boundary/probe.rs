//! The probe in real boundaries: nothing is open, and what an agent does to it cannot make it look good.

use crate::{World, chain};
use model::agent::{Command, Level, RunAs};
use model::evidence::{Claim, Control, State, claim, with_probe};
use model::probe::{ATTEMPTS, Outcome, Tried};
use std::collections::BTreeMap;
use std::time::Instant;

fn not_held(tried: &[Tried]) -> Vec<String> {
    let line =
        |tried: &Tried| format!("{} as {:?}: {:?}: {}", tried.id, tried.user, tried.outcome, tried.detail);
    tried.iter().filter(|tried| tried.outcome != Outcome::Held).map(line).collect()
}

#[test]
fn no_attempt_gets_out() {
    let Some(world) = World::new("no_attempt_gets_out") else { return };
    let sandbox = world.sandbox();
    let spec = world.spec(None);
    let boundary = world.launch(&sandbox, &spec);
    let began = Instant::now();
    let tried = boundary.probe(&spec).unwrap_or_else(|error| panic!("{}", chain(&error)));
    eprintln!("{} attempts in {:?}", tried.len(), began.elapsed());
    if std::env::var_os("VERBOSE").is_some() {
        for Tried { id, user, outcome, detail } in &tried {
            eprintln!("{user:?} {outcome:?} {id}: {detail}");
        }
    }
    assert_eq!(tried.len(), 2 * ATTEMPTS.len());
    for line in not_held(&tried) {
        eprintln!("not held: {line}");
    }
    let open = tried.iter().filter(|tried| matches!(tried.outcome, Outcome::Broken | Outcome::Unclear));
    assert_eq!(not_held(&open.cloned().collect::<Vec<_>>()), [""; 0]);
    let evidence = with_probe(boundary.inspect_whole(), &tried);
    assert_eq!(claim(Level::Container, &evidence), Claim::Container);
    let seen: Vec<Control> =
        evidence.iter().filter(|found| found.state != State::Probed).map(|found| found.control).collect();
    // Filling the disk would harm the agent, and older kernels' Landlock has nothing to try.
    let looked_at = match boundary.record().landlock_abi {
        6.. => vec![Control::DiskLimit],
        _ => vec![Control::DiskLimit, Control::Landlock],
    };
    assert_eq!(seen, looked_at);
    // Nothing of it is left inside, and it was not the agent's init that ended.
    assert!(boundary.is_alive());
    boundary.kill().unwrap();
    boundary.cleanup().unwrap();
    drop(sandbox);
    world.assert_clean();
}

#[test]
fn a_hostile_agent_cannot_stop_a_probe_unnoticed() {
    let Some(world) = World::new("a_hostile_agent_cannot_stop_a_probe_unnoticed") else { return };
    let sandbox = world.sandbox();
    let mut spec = world.spec(None);
    spec.run_as = RunAs::Root;
    // It ends and stops all that it can name, and what it cannot end it writes to.
    let script = "while :; do kill -STOP -1; kill -KILL -1; for p in /proc/[0-9]*; do \
                  for f in mem oom_score_adj coredump_filter; do echo 1000 > $p/$f; done; done; done 2> /dev/null";
    spec.main = Some(Command {
        argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        env: BTreeMap::new(),
        cwd: None,
        user: Some(RunAs::Root),
    });
    let boundary = world.launch(&sandbox, &spec);
    let landlock = boundary.record().landlock_abi;
    for round in 0..4 {
        match boundary.probe(&spec) {
            Ok(tried) => {
                let evidence = with_probe(boundary.inspect(), &tried);
                // Complete, and as good as without the agent's doing: or it proves nothing.
                eprintln!("round {round}: complete, not held: {:?}", not_held(&tried));
                assert!(tried.iter().all(|tried| tried.outcome != Outcome::Broken), "{:?}", not_held(&tried));
                assert!(evidence.len() == Control::CONTAINER.len());
            }
            Err(error) => {
                eprintln!("round {round}: {}", chain(&error));
                // Where Landlock scopes signals there is nothing that it could do.
                assert!(landlock < 6, "{}", chain(&error));
            }
        }
    }
    boundary.kill().unwrap();
    boundary.cleanup().unwrap();
    // A probe of what is gone is none.
    assert!(boundary.probe(&spec).is_err());
    drop(sandbox);
    world.assert_clean();
}
