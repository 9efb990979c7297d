//! What people decide, and what comes of it.

use super::*;

#[tokio::test]
async fn once_and_deny_are_told_to_the_node_until_it_settled_them() {
    let (world, machine) = world().await;
    let id = agent(&world, "a").await;
    let (yes, no) = (question(&world, "yes.example"), question(&world, "no.example"));
    machine.egress(&world, &waiting(&id, vec![yes.clone(), no.clone()])).await;
    let waits = list(&world, "").await["items"].clone();
    let find = |host: &str| {
        let item = waits.as_array().unwrap().iter().find(|item| item["host"] == host).unwrap();
        item["id"].as_str().unwrap().to_owned()
    };
    let before = machine.desired(&world, "").await.rev;
    let answered = answer(&world, &find("yes.example"), "once").await;
    assert_eq!((&answered["decision"], &answered["changed"]), (&json!("once"), &json!([])));
    assert_eq!(answered["question"]["host"], "yes.example");
    answer(&world, &find("no.example"), "deny").await;
    let told = machine.desired(&world, "").await;
    assert_eq!(told.rev, before + 2);
    let mut answers = told.attention[0].answers.clone();
    answers.sort_by_key(|answer| answer.allow);
    let expected = [(no.clone(), false), (yes.clone(), true)].map(|(question, allow)| {
        let Question { host, port, asked, .. } = question;
        Answer { host, port, asked, allow }
    });
    assert_eq!(answers, expected);
    assert_eq!(policy(&world, "a").await, serde_json::from_value(asks()).unwrap());
    assert_eq!(list(&world, "").await["items"], json!([]));
    // What is decided is decided.
    let path = format!("/v1/egress/questions/{}/answer", find("yes.example"));
    let again = world.post(&path, json!({"decision": "deny"})).await;
    assert_eq!(again.problem().0, "WRONG_STATE");
    assert!(again.json["detail"].as_str().unwrap().contains("once"), "{}", again.json);

    // Somebody may have gone meanwhile; what was said holds.
    world.clock.forward(Span::seconds(91));
    let told = attention(&world, &machine).await;
    assert_eq!((told[0].watched_until, told[0].answers.len()), (None, 2));
    // The node settles one, then the other.
    let rev = machine.desired(&world, "").await.rev;
    machine.egress(&world, &waiting(&id, vec![no])).await;
    let told = machine.desired(&world, "").await;
    assert_eq!((told.attention[0].answers.len(), told.rev), (1, rev + 1));
    machine.egress(&world, &waiting(&id, Vec::new())).await;
    assert!(attention(&world, &machine).await.is_empty());
    assert_eq!(world.post(&path, json!({"decision": "deny"})).await.problem().0, "NOT_FOUND");
    let decided = events(&world, "egress.answered").await;
    let details: Vec<&Value> = decided.iter().map(|event| &event["detail"]).collect();
    let expected = [("no.example", "deny"), ("yes.example", "once")]
        .map(|(host, decision)| json!({"host": host, "port": 443, "decision": decision}));
    assert_eq!(details, expected.iter().collect::<Vec<_>>());
    assert!(decided[0]["actor"].as_str().unwrap().starts_with("key_") && decided[0]["subject"] == json!(id));
}

#[tokio::test]
async fn an_answer_that_is_sent_twice_is_given_once() {
    let (world, machine) = world().await;
    let id = agent(&world, "a").await;
    let waits = asked(&world, &machine, &id, &["one.example"]).await;
    let send = async |decision: &str| {
        let request = world
            .request("POST", &format!("/v1/egress/questions/{}/answer", waits[0]))
            .header("authorization", format!("Bearer {}", world.key))
            .header("content-type", "application/json")
            .header("idempotency-key", "k");
        let body = axum::body::Body::from(json!({"decision": decision}).to_string());
        world.send(request.body(body).unwrap()).await
    };
    let first = send("agent").await.expect(200);
    machine.egress(&world, &waiting(&id, Vec::new())).await;
    assert_eq!(send("agent").await.expect(200), first);
    assert_eq!(send("once").await.problem(), ("IDEMPOTENCY_MISMATCH", Some("Idempotency-Key")));
    assert_eq!(events(&world, "egress.answered").await.len(), 1);
    assert_eq!(policy(&world, "a").await.egress.rules, [allow("one.example")]);
}

#[tokio::test]
async fn for_one_agent_it_is_a_rule_of_its_policy() {
    let (world, machine) = world().await;
    let (id, other) = (agent(&world, "a").await, agent(&world, "b").await);
    let waits = asked(&world, &machine, &id, &["one.example", "192.0.2.7"]).await;
    let before = machine.desired(&world, "").await;
    let answered = answer(&world, &waits[0], "agent").await;
    assert_eq!(answered["changed"], json!([id]));
    answer(&world, &waits[1], "agent").await;
    assert_eq!(policy(&world, "a").await.egress.rules, [allow("192.0.2.7"), allow("one.example")]);
    assert!(policy(&world, &other).await.egress.rules.is_empty());
    let query = format!("?rev={}&epoch={}", before.rev, before.database_epoch);
    let told = machine.desired(&world, &query).await;
    assert_eq!((told.agents.len(), told.agents[0].policy_revision), (1, 3));
    assert!(told.attention.iter().all(|one| one.answers.is_empty()), "the policy is the answer");
    let changes = events(&world, "agent.policy_changed").await;
    assert!(changes.len() == 2 && changes[0]["actor"].as_str().unwrap().starts_with("key_"));
    assert_eq!(world.get("/v1/egress/remembered").await.expect(200)["items"], json!([]));
}

#[tokio::test]
async fn for_always_it_is_a_rule_of_all_that_ask_and_will() {
    let (world, machine) = world().await;
    let (one, two) = (agent(&world, "a").await, agent(&world, "b").await);
    // Those that would not ask keep what they have: they deny it, allow it, or refuse what they do not know.
    let with = |name: &str, rules: Value, unknown: &str| {
        let egress = json!({"preset": "allowlist", "unknown": unknown, "rule": rules});
        json!({"name": name, "image": "debian", "policy": {"version": 1, "egress": egress}})
    };
    let rule = |action: &str| json!([{"action": action, "host": "one.example", "ports": [443]}]);
    world.post("/v1/agents", with("denies", rule("deny"), "hold")).await.expect(201);
    world.post("/v1/agents", with("allows", rule("allow"), "hold")).await.expect(201);
    world.post("/v1/agents", with("refuses", json!([]), "deny")).await.expect(201);
    let gone = agent(&world, "gone").await;
    world.call_as(&world.key, "DELETE", "/v1/agents/gone", None).await.expect(200);
    let mut kept = Vec::new();
    for name in ["denies", "allows", "refuses", gone.as_str()] {
        kept.push((name, world.get(&format!("/v1/agents/{name}/policy")).await));
    }

    let report = |agent: &str| Waiting {
        agent: agent.parse().unwrap(),
        account: None,
        questions: vec![question(&world, "one.example")],
    };
    let both = EgressReport { questions: Some(vec![report(&one), report(&two)]), ..Default::default() };
    machine.egress(&world, &both).await;
    let items = list(&world, "?agent=a").await["items"].clone();
    let answered = answer(&world, items[0]["id"].as_str().unwrap(), "always").await;
    assert_eq!(answered["changed"], json!([one, two]));
    for agent in ["a", "b"] {
        assert_eq!(policy(&world, agent).await.egress.rules, [allow("one.example")], "{agent}");
    }
    for (name, before) in kept {
        let after = world.get(&format!("/v1/agents/{name}/policy")).await;
        assert_eq!((&after.headers["etag"], &after.json), (&before.headers["etag"], &before.json), "{name}");
    }
    // Nobody is asked about it for the other one.
    assert_eq!(list(&world, "").await["items"], json!([]));

    let remembered = world.get("/v1/egress/remembered").await.expect(200);
    let item = &remembered["items"][0];
    assert_eq!((&item["host"], &item["port"]), (&json!("one.example"), &json!(443)));
    assert!(item["actor"].as_str().unwrap().starts_with("key_"));
    // Those to come have it in front of their own rules, if they would ask.
    let third = asked(&world, &machine, &one, &["two.example"]).await;
    answer(&world, &third[0], "always").await;
    let front = json!([{"action": "allow", "host": "own.example"}]);
    world.post("/v1/agents", with("next", front, "hold")).await.expect(201);
    let rules = policy(&world, "next").await.egress.rules;
    assert_eq!(
        rules,
        [allow("two.example"), allow("one.example"), Rule::of(Action::Allow, "own.example", None)]
    );
    world.post("/v1/agents", with("still", rule("deny"), "hold")).await.expect(201);
    assert_eq!(policy(&world, "still").await.egress.rules.len(), 2, "what was asked for holds on");
    world.post("/v1/agents", with("closed", json!([]), "deny")).await.expect(201);
    assert!(policy(&world, "closed").await.egress.rules.is_empty());
    let other = world.call_as(&world.other, "GET", "/v1/egress/remembered", None).await.expect(200);
    assert_eq!(other["items"], json!([]));

    // Forgotten is for those that come then.
    let path = format!("/v1/egress/remembered/{}", item["id"].as_str().unwrap());
    assert_eq!(world.call_as(&world.other, "DELETE", &path, None).await.problem().0, "NOT_FOUND");
    world.call_as(&world.key, "DELETE", &path, None).await.expect(204);
    assert_eq!(world.call_as(&world.key, "DELETE", &path, None).await.problem().0, "NOT_FOUND");
    assert_eq!(policy(&world, "a").await.egress.rules.len(), 2);
    agent(&world, "last").await;
    assert_eq!(policy(&world, "last").await.egress.rules, [allow("two.example")]);
    assert_eq!(
        events(&world, "egress.forgotten").await[0]["detail"],
        json!({"host": "one.example", "port": 443})
    );
    let page = world.get("/v1/egress/remembered?limit=1").await.expect(200);
    assert_eq!(page["items"][0]["host"], "two.example");
}

#[tokio::test]
async fn a_policy_that_is_full_refuses_the_rule() {
    let (world, machine) = world().await;
    let id = agent(&world, "a").await;
    let rules: Vec<Rule> = (0..model::policy::MAX_RULES)
        .map(|n| Rule::of(Action::Deny, &format!("h{n}.example"), None))
        .collect();
    let mut full: Policy = serde_json::from_value(asks()).unwrap();
    full.egress.rules = rules;
    let full = serde_json::to_value(&full).unwrap();
    let create = json!({"name": "full", "image": "debian", "policy": full});
    let whole = world.post("/v1/agents", create.clone()).await.expect(201)["id"].as_str().unwrap().to_owned();
    let waits = asked(&world, &machine, &whole, &["one.example"]).await;
    let path = |id: &str| format!("/v1/egress/questions/{id}/answer");
    for decision in ["agent", "always"] {
        let refused = world.post(&path(&waits[0]), json!({"decision": decision})).await;
        assert_eq!(refused.problem().0, "WRONG_STATE");
        let detail = refused.json["detail"].as_str().unwrap();
        assert!(detail.contains("full") && detail.contains("10000"), "{detail}");
    }
    // Nothing of it was done.
    assert_eq!(world.get("/v1/egress/remembered").await.expect(200)["items"], json!([]));
    assert_eq!(list(&world, "").await["items"][0]["id"], waits[0]);
    answer(&world, &waits[0], "once").await;
    world.call_as(&world.key, "DELETE", "/v1/agents/full", None).await.expect(200);
    machine.saw(&world, &whole, 2, Observed::Destroyed).await;
    let waits = asked(&world, &machine, &id, &["two.example"]).await;
    answer(&world, &waits[0], "always").await;
    let create = world.post("/v1/agents", create).await;
    assert_eq!(create.problem(), ("VALIDATION_ERROR", Some("policy")), "{}", create.json);
}
