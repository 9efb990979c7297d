//! What is shown of an agent's boundary, and what is written down when it changes.

use super::world::{Machine, World, seen};
use model::agent::Observed;
use model::clock::Clock;
use model::evidence::{Control, Evidence, Observation, State};
use model::node_api::{ObservedAgent, ObservedState};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

async fn report(world: &World, machine: &Machine, agent: ObservedAgent) {
    machine.report(world, &ObservedState { agents: vec![agent], ..ObservedState::default() }).await;
}

fn whole() -> Vec<Evidence> {
    Control::CONTAINER
        .map(|control| Evidence { control, state: State::Observed, detail: "seen".to_owned() })
        .to_vec()
}

fn observation(world: &World, ahead: Duration) -> Option<Observation> {
    Some(Observation {
        at: world.clock.now() + ahead,
        kernel: "6.18.0".to_owned(),
        version: "0.1.0".to_owned(),
        init: "ab".repeat(32),
    })
}

async fn events(world: &World, id: &str) -> Vec<Value> {
    let events = world.get(&format!("/v1/events?subject={id}")).await.expect(200);
    events["items"].as_array().unwrap().clone()
}

async fn drifts(world: &World, id: &str) -> Vec<Value> {
    events(world, id).await.into_iter().filter(|event| event["kind"] == "agent.drift").collect()
}

#[tokio::test]
async fn evidence_is_shown_and_its_changes_are_written_down() {
    let world = World::new().await;
    let machine = Machine::enrolled(&world, "node-1", 2).await;
    world.image().await;
    let id = world.agent("worker").await;
    let path = format!("/v1/agents/{id}/evidence");
    let none = world.get(&path).await.expect(200);
    assert_eq!((&none["claim"], &none["observation"]), (&json!("none"), &Value::Null));
    assert!(none["controls"].as_array().unwrap().iter().all(|control| control["state"] == "missing"));

    let running = |evidence, observation| ObservedAgent {
        evidence,
        observation,
        ..seen(&world, id.parse().unwrap(), 1, Observed::Running)
    };
    // A clock that is ahead does not see into the future.
    report(&world, &machine, running(whole(), observation(&world, Duration::hours(3)))).await;
    let first = world.get(&path).await.expect(200);
    assert_eq!((&first["claim"], &first["claim_then"]), (&json!("sandboxed (container)"), &first["claim"]));
    assert_eq!(first["observation"]["kernel"], "6.18.0");
    let at = |answer: &Value| answer["observation"]["at"].as_str().unwrap().to_owned();
    assert!(OffsetDateTime::parse(&at(&first), &Rfc3339).unwrap() <= world.clock.now());
    let seccomp = first["controls"].as_array().unwrap().iter().find(|it| it["control"] == "seccomp").unwrap();
    assert_eq!(seccomp["expected"], Control::Seccomp.expected(model::agent::Level::Container));
    assert_eq!((&seccomp["mandatory"], &seccomp["observed"]), (&json!(true), &json!("seen")));

    // The same, seen later: only that is news, and no event.
    let before = events(&world, &id).await.len();
    world.clock.forward(Duration::minutes(5));
    report(&world, &machine, running(whole(), observation(&world, Duration::ZERO))).await;
    let later = world.get(&path).await.expect(200);
    assert!(at(&later) > at(&first), "{} {}", at(&later), at(&first));
    assert_eq!(events(&world, &id).await.len(), before);
    assert_eq!(drifts(&world, &id).await, [Value::Null; 0]);

    let mut fallen = whole();
    fallen[8] =
        Evidence { control: Control::Seccomp, state: State::Missing, detail: "Seccomp is 0".to_owned() };
    report(&world, &machine, running(fallen.clone(), observation(&world, Duration::ZERO))).await;
    let told = drifts(&world, &id).await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["actor"], machine.id.to_string());
    assert_eq!(
        told[0]["detail"],
        json!({"from": "sandboxed (container)", "to": "none", "controls":
            [{"control": "seccomp", "before": "observed", "after": "missing", "detail": "Seccomp is 0"}]})
    );
    assert_eq!(world.get("/v1/agents/worker").await.expect(200)["claim"], "none");
    // Told again it is no news; a node of an earlier version says less.
    report(&world, &machine, running(fallen, None)).await;
    assert_eq!(drifts(&world, &id).await.len(), 1);
    report(&world, &machine, running(whole(), observation(&world, Duration::ZERO))).await;
    assert_eq!(drifts(&world, &id).await.len(), 2);
    assert_eq!(world.get("/v1/agents/worker").await.expect(200)["claim"], "sandboxed (container)");

    // Gone, it is what was last known; the agent itself shows nothing of a boundary that is not there.
    world.call_as(&world.key, "DELETE", "/v1/agents/worker", None).await.expect(200);
    machine.saw(&world, &id, 2, Observed::Destroyed).await;
    let last = world.get(&path).await.expect(200);
    assert_eq!((&last["state"], &last["claim"]), (&json!("destroyed"), &json!("none")));
    assert_eq!(last["claim_then"], "sandboxed (container)");
    assert_eq!(last["observation"]["kernel"], "6.18.0");
    assert_eq!(world.get(&format!("/v1/agents/{id}")).await.expect(200)["evidence"], json!([]));
    assert_eq!(drifts(&world, &id).await.len(), 2);
}
