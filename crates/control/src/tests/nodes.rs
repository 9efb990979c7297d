//! The node API.

use super::world::{Machine, World, public, seen, sign};
use aws_lc_rs::signature::Ed25519KeyPair;
use model::AgentId;
use model::agent::Observed;
use model::node_api::ObservedState;
use model::token::NodeAssertion;
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn a_bootstrap_token_is_for_one_machine() {
    let world = World::new().await;
    let token = crate::bootstrap_token(&world.config, &"node-1".parse().unwrap()).await.unwrap();
    let enroll = async |pair: &Ed25519KeyPair| {
        let body = json!({"public_key": public(pair), "capacity": {"slots": 1, "cpus": 1.0, "memory": 1}});
        world.call_as(&token, "POST", "/node/v1/enroll", Some(body)).await
    };
    let (one, two) = (Ed25519KeyPair::generate().unwrap(), Ed25519KeyPair::generate().unwrap());
    let (first, second) = tokio::join!(enroll(&one), enroll(&two));
    let statuses = [first.status.as_u16(), second.status.as_u16()];
    assert!(statuses == [200, 401] || statuses == [401, 200], "{statuses:?}");
    // The machine that has it may ask again, in case the answer was lost.
    let (winner, won) = if statuses[0] == 200 { (&one, first) } else { (&two, second) };
    assert_eq!(enroll(winner).await.expect(200), won.json);

    let late = crate::bootstrap_token(&world.config, &"node-2".parse().unwrap()).await.unwrap();
    world.clock.forward(time::Duration::minutes(16));
    let body = json!({"public_key": public(&Ed25519KeyPair::generate().unwrap()),
        "capacity": {"slots": 1, "cpus": 1.0, "memory": 1}});
    assert_eq!(
        world.call_as(&late, "POST", "/node/v1/enroll", Some(body)).await.problem().0,
        "UNAUTHENTICATED"
    );
}

#[tokio::test]
async fn assertions() {
    let world = World::new().await;
    let machine = Machine::enrolled(&world, "node-1", 1).await;
    let other = Machine::enrolled(&world, "node-2", 1).await;
    let trade = async |assertion: String| {
        world.call_as("x", "POST", "/node/v1/token", Some(json!({"assertion": assertion}))).await
    };
    let good = machine.assertion(&world);
    let signed = sign(&machine.pair, &good);
    trade(signed.clone()).await.expect(200);
    assert_eq!(trade(signed).await.problem().0, "UNAUTHENTICATED", "replayed");
    let fresh = || machine.assertion(&world);
    let now = fresh().iat;
    for (what, pair, claims) in [
        ("another's key", &other.pair, fresh()),
        ("another installation", &machine.pair, NodeAssertion { aud: "elsewhere".to_owned(), ..fresh() }),
        ("expired", &machine.pair, NodeAssertion { iat: now - 61, exp: now - 1, ..fresh() }),
        ("too long", &machine.pair, NodeAssertion { exp: now + 61, ..fresh() }),
        ("from the future", &machine.pair, NodeAssertion { iat: now + 100, exp: now + 130, ..fresh() }),
        ("backwards", &machine.pair, NodeAssertion { iat: now + 20, exp: now + 10, ..fresh() }),
        ("overflowing", &machine.pair, NodeAssertion { iat: i64::MIN, exp: i64::MAX, ..fresh() }),
        ("without jti", &machine.pair, NodeAssertion { jti: String::new(), ..fresh() }),
        ("unknown node", &machine.pair, NodeAssertion { iss: model::NodeId::new(), ..fresh() }),
    ] {
        assert_eq!(trade(sign(pair, &claims)).await.problem().0, "UNAUTHENTICATED", "{what}");
    }
    // Unsigned, and signed with the public key as a shared secret.
    let part = |json: serde_json::Value| {
        use base64::Engine;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json.to_string())
    };
    let claims = part(serde_json::to_value(fresh()).unwrap());
    for header in [json!({"alg": "none"}), json!({"alg": "HS256", "typ": "JWT"})] {
        let forged = format!("{}.{claims}.{}", part(header), "AAAA");
        assert_eq!(trade(forged).await.problem().0, "UNAUTHENTICATED");
    }
    // An old token stays valid beside a new one, for a day.
    trade(sign(&machine.pair, &fresh())).await.expect(200);
    machine.desired(&world, "").await;
    world.clock.forward(time::Duration::hours(25));
    world.call_as(&machine.token, "GET", "/node/v1/desired", None).await.expect(401);
    trade(sign(&machine.pair, &fresh())).await.expect(200);
}

#[tokio::test]
async fn a_long_poll_is_answered_by_the_change() {
    let world = World::new().await;
    let machine = Machine::enrolled(&world, "node-1", 1).await;
    world.image().await;
    let rev = machine.desired(&world, "").await.rev;
    let query = format!("?rev={rev}&wait=30");
    let began = std::time::Instant::now();
    let create = async {
        tokio::task::yield_now().await;
        world.agent("a").await
    };
    let (desired, id) = tokio::join!(machine.desired(&world, &query), create);
    assert_eq!(desired.agents[0].spec.id.to_string(), id);
    assert!(desired.rev > rev && began.elapsed() < Duration::from_secs(10));
    // Nothing changes: the same revision comes back. A revision from another database is answered at once.
    assert_eq!(machine.desired(&world, &format!("?rev={}&wait=0", desired.rev)).await.rev, desired.rev);
    assert_eq!(machine.desired(&world, "?rev=999&wait=30").await.rev, desired.rev);
    for query in ["?rev=-1", "?rev=x", "?wait=61", "?wat=1"] {
        let path = format!("/node/v1/desired{query}");
        let answer = world.call_as(&machine.token, "GET", &path, None).await;
        assert_eq!(answer.problem().0, "VALIDATION_ERROR", "{query}");
    }
    let ending = async {
        tokio::task::yield_now().await;
        world.app.ending.cancel();
    };
    let query = format!("?rev={}&wait=30", desired.rev);
    let (last, ()) = tokio::join!(machine.desired(&world, &query), ending);
    assert_eq!(last.rev, desired.rev);
}

#[tokio::test]
async fn a_node_that_knows_a_revision_is_told_what_changed() {
    let world = World::new().await;
    let machine = Machine::enrolled(&world, "node-1", 3).await;
    world.image().await;
    let (first, second) = (world.agent("a").await, world.agent("b").await);
    let whole = machine.desired(&world, "").await;
    assert_eq!((whole.agents.len(), whole.since), (2, None));
    let changes = |rev: u64, epoch: u64| format!("?rev={rev}&epoch={epoch}");
    let none = machine.desired(&world, &changes(whole.rev, whole.database_epoch)).await;
    assert_eq!((none.agents.len(), none.since), (0, Some(whole.rev)));
    let third = world.agent("c").await;
    let new = machine.desired(&world, &changes(whole.rev, whole.database_epoch)).await;
    assert_eq!(new.since, Some(whole.rev));
    assert_eq!(new.agents.iter().map(|agent| agent.spec.id.to_string()).collect::<Vec<_>>(), [third]);

    // A destroyed agent is told of twice: that it should go, and that it is no longer in the list.
    world.call_as(&world.key, "DELETE", "/v1/agents/a", None).await.expect(200);
    let order = machine.desired(&world, &changes(new.rev, new.database_epoch)).await;
    assert_eq!(order.agents.iter().map(|agent| agent.spec.id.to_string()).collect::<Vec<_>>(), [&*first]);
    machine.saw(&world, &first, order.agents[0].generation, Observed::Destroyed).await;
    let gone = machine.desired(&world, &changes(order.rev, order.database_epoch)).await;
    assert_eq!(gone.gone.iter().map(ToString::to_string).collect::<Vec<_>>(), [&*first]);
    assert!(gone.agents.is_empty());

    // A revision that never was here, or of another epoch, gets the whole.
    for (rev, epoch) in [(gone.rev + 7, gone.database_epoch), (gone.rev, gone.database_epoch + 1)] {
        let whole = machine.desired(&world, &changes(rev, epoch)).await;
        assert_eq!((whole.agents.len(), whole.since), (2, None), "{rev} {epoch}");
        assert!(whole.agents.iter().any(|agent| agent.spec.id.to_string() == second));
    }
}

#[tokio::test]
async fn nodes_speak_of_their_own_agents_only() {
    let world = World::new().await;
    let machine = Machine::enrolled(&world, "node-1", 1).await;
    world.image().await;
    let id = world.agent("a").await;
    let other = Machine::enrolled(&world, "node-2", 1).await;
    assert!(other.desired(&world, "").await.agents.is_empty());
    other.saw(&world, &id, 1, Observed::Running).await;
    other.saw(&world, &id, 1, Observed::Running).await;
    assert_eq!(world.get("/v1/agents/a").await.expect(200)["state"], "provisioning");
    machine.saw(&world, &id, 1, Observed::Running).await;

    let unknown = AgentId::new();
    let report = ObservedState {
        agents: vec![seen(&world, AgentId::new(), 1, Observed::Running)],
        orphans: vec![unknown, unknown],
        levels: None,
    };
    machine.report(&world, &report).await;
    machine.report(&world, &report).await;
    let events = world.get("/v1/events?limit=200").await.expect(200);
    let orphans = events["items"].as_array().unwrap().iter().filter(|event| event["kind"] == "agent.orphan");
    assert_eq!(orphans.count(), 3, "each told once");
    assert_eq!(machine.desired(&world, "").await.agents.len(), 1, "never an order");
    // Another account hears nothing of the installation.
    let theirs = world.call_as(&world.other, "GET", "/v1/events", None).await.expect(200).to_string();
    assert!(!theirs.contains("orphan") && !theirs.contains("node."));
}

#[tokio::test]
async fn bad_reports() {
    let world = World::new().await;
    let machine = Machine::enrolled(&world, "node-1", 1).await;
    world.image().await;
    let id = world.agent("a").await;
    let post = async |body| world.call_as(&machine.token, "POST", "/node/v1/observed", Some(body)).await;
    for (body, field) in [
        (json!({"agents": []}), "orphans"),
        (json!({"agents": [{"id": id}], "orphans": []}), "agents.[0].generation"),
        (json!({"agents": [], "orphans": ["x"]}), "orphans.[0]"),
        (json!({"agents": [], "orphans": [], "order": 1}), "order"),
    ] {
        let answer = post(body).await;
        let expected = field.replace(".[", "[");
        assert_eq!(answer.problem(), ("VALIDATION_ERROR", Some(expected.as_str())));
    }
    let mut report = seen(&world, id.parse().unwrap(), 1, Observed::Running);
    report.workspace_url = Some("javascript:alert(1)".to_owned());
    machine.report(&world, &ObservedState { agents: vec![report], ..ObservedState::default() }).await;
    let token = world.post(&format!("/v1/agents/{id}/token"), json!({"scopes": ["exec"]})).await;
    assert_eq!(token.problem().0, "WRONG_STATE");
}
