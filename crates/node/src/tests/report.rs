use crate::report::{ACTIVITY_EVERY, Due, Reporter};
use model::AgentId;
use model::agent::{Level, Observed};
use model::evidence::Observation;
use model::node_api::{ObservedAgent, ObservedState};
use time::OffsetDateTime;
use tokio::time::{Duration, Instant};

fn seen(id: AgentId, generation: u64) -> ObservedAgent {
    ObservedAgent {
        id,
        generation,
        observed: Observed::Running,
        reason: None,
        evidence: Vec::new(),
        observation: None,
        workspace_url: None,
        last_activity: None,
    }
}

fn now(due: Due) -> ObservedState {
    match due {
        Due::Now(report) => report,
        Due::Later(at) => panic!("nothing is due until {at:?}"),
    }
}

fn later(due: Due) -> Option<Instant> {
    match due {
        Due::Now(report) => panic!("due: {report:?}"),
        Due::Later(at) => at,
    }
}

#[test]
fn changes_are_due_once_and_again_when_not_accepted() {
    let (reporter, agent, start) = (Reporter::default(), AgentId::new(), Instant::now());
    assert_eq!(later(reporter.take(start)), None);
    reporter.set(seen(agent, 1));
    let report = now(reporter.take(start));
    assert_eq!(report.agents, [seen(agent, 1)]);
    reporter.set(seen(agent, 1));
    assert_eq!(later(reporter.take(start)), None, "nothing changed");
    // Not accepted, and meanwhile it changed: the newest is sent, never the old one.
    reporter.set(seen(agent, 2));
    reporter.give_back(&report);
    assert_eq!(now(reporter.take(start)).agents, [seen(agent, 2)]);
    reporter.repeat_all();
    assert_eq!(now(reporter.take(start)).agents, [seen(agent, 2)]);
    reporter.forget(agent);
    assert_eq!(later(reporter.take(start)), None);
}

#[test]
fn activity_alone_is_reported_now_and_then() {
    let (reporter, agent, start) = (Reporter::default(), AgentId::new(), Instant::now());
    reporter.set(seen(agent, 1));
    now(reporter.take(start));
    let used = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(5);
    reporter.touch(agent, used);
    let soon = start + Duration::from_secs(3);
    assert_eq!(later(reporter.take(soon)), Some(start + ACTIVITY_EVERY));
    let report = now(reporter.take(start + ACTIVITY_EVERY));
    assert_eq!(report.agents[0].last_activity, Some(used));
    // A later state does not make it older, and a change does not wait for it.
    reporter.touch(agent, used);
    reporter.set(seen(agent, 2));
    let report = now(reporter.take(start + ACTIVITY_EVERY));
    assert_eq!((report.agents[0].generation, report.agents[0].last_activity), (2, Some(used)));
}

#[test]
fn that_the_same_was_seen_again_can_wait() {
    let (reporter, agent, start) = (Reporter::default(), AgentId::new(), Instant::now());
    let at = |seconds| {
        let at = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let text = String::new;
        let observation = Observation { at, kernel: text(), version: text(), init: text() };
        ObservedAgent { observation: Some(observation), ..seen(agent, 1) }
    };
    reporter.set(at(0));
    assert_eq!(now(reporter.take(start)).agents, [at(0)]);
    reporter.set(at(60));
    assert_eq!(later(reporter.take(start)), None);
    reporter.set(at(300));
    assert_eq!(now(reporter.take(start)).agents, [at(300)]);
    // What is told for another reason counts as well.
    reporter.set(ObservedAgent { generation: 2, ..at(360) });
    assert_eq!(now(reporter.take(start)).agents[0].generation, 2);
    reporter.set(ObservedAgent { generation: 2, ..at(600) });
    assert_eq!(later(reporter.take(start)), None);
}

#[test]
fn a_report_stays_small() {
    let (reporter, start) = (Reporter::default(), Instant::now());
    for _ in 0..120 {
        reporter.set(seen(AgentId::new(), 1));
    }
    let sizes: Vec<usize> = (0..3).map(|_| now(reporter.take(start)).agents.len()).collect();
    assert_eq!(sizes, [50, 50, 20]);
    assert_eq!(later(reporter.take(start)), None);
}

#[test]
fn orphans_are_reported_when_they_change() {
    let (reporter, agent, start) = (Reporter::default(), AgentId::new(), Instant::now());
    reporter.set_orphans(vec![agent]);
    assert_eq!(now(reporter.take(start)).orphans, [agent]);
    reporter.set_orphans(vec![agent]);
    assert_eq!(later(reporter.take(start)), None);
    reporter.set_orphans(Vec::new());
    assert!(now(reporter.take(start)).orphans.is_empty());
}

#[test]
fn what_the_node_makes_is_said_at_the_start() {
    let levels = vec![Level::Process, Level::Container];
    let (reporter, start) = (Reporter::new(levels.clone()), Instant::now());
    let first = now(reporter.take(start));
    assert_eq!((first.levels.clone(), first.agents.len()), (Some(levels.clone()), 0));
    reporter.set(seen(AgentId::new(), 1));
    assert_eq!(now(reporter.take(start)).levels, None);
    reporter.give_back(&first);
    assert_eq!(now(reporter.take(start)).levels, Some(levels.clone()));
    reporter.repeat_all();
    assert_eq!(now(reporter.take(start)).levels, Some(levels));
}
