//! Quotas: what an account may have, whoever tries, and that others do not count.

use super::people::{ACME, Organisation, PASSWORD, Person, browse};
use super::world::{Answer, Machine, World};
use model::agent::Observed;
use serde_json::{Value, json};

async fn set(world: &World, account: &str, quota: Value) -> Answer {
    world.call_as(&world.key, "PUT", &format!("/v1/accounts/{account}/quota"), Some(quota)).await
}

/// An account with an image, by somebody in it, and its id.
async fn tenant(world: &World, who: &Person, name: &str, image: &str) -> String {
    let account = who.call_in(world, name, "GET", "/v1/whoami", None).await.expect(200)["account"].clone();
    let grant = format!("/v1/images/{image}/grant");
    world.post(&grant, json!({"account": account})).await.expect(201);
    account.as_str().unwrap().to_owned()
}

async fn make(world: &World, who: &Person, account: &str, name: &str, resources: Value) -> Answer {
    let body = json!({"name": name, "image": "debian", "resources": resources});
    who.call_in(world, account, "POST", "/v1/agents", Some(body)).await
}

#[tokio::test]
async fn an_account_gets_what_it_may_have_and_no_more() {
    let world = World::new().await;
    let machine = Machine::enrolled(&world, "node-1", 12).await;
    let image = world.image().await;
    let org = Organisation::new(&world).await;
    let (owner, member) = (&org.owner, &org.member);
    let acme = tenant(&world, owner, ACME, &image).await;
    let personal = tenant(&world, member, "mia", &image).await;
    // Only the operator says what it is, and says it in numbers.
    let mine = format!("/v1/accounts/{acme}/quota");
    let more = Some(json!({"agents": 1000}));
    assert_eq!(owner.call_in(&world, ACME, "PUT", &mine, more).await.problem().0, "FORBIDDEN");
    assert_eq!(set(&world, &acme, json!({"cpus": -1})).await.problem(), ("VALIDATION_ERROR", Some("cpus")));
    assert_eq!(set(&world, &acme, json!({"agent": 1})).await.problem().0, "VALIDATION_ERROR");
    assert_eq!(set(&world, "acc_none", json!({})).await.problem().0, "NOT_FOUND");
    set(&world, &acme, json!({"agents": 3, "cpus": 2.5, "memory": "3GiB", "disk": "20GiB"}))
        .await
        .expect(200);

    let one = json!({"cpus": 1.0, "memory": "1GiB", "disk": "5GiB"});
    let first = make(&world, owner, ACME, "a", one.clone()).await.expect(201);
    for (resources, field) in [
        (json!({"cpus": 1.501, "memory": "1GiB", "disk": "5GiB"}), "resources.cpus"),
        (json!({"cpus": 0.5, "memory": "2049MiB", "disk": "5GiB"}), "resources.memory"),
        (json!({"cpus": 0.5, "memory": "1GiB", "disk": "15361MiB"}), "resources.disk"),
    ] {
        let answer = make(&world, member, ACME, "b", resources).await;
        assert_eq!((answer.status.as_u16(), answer.problem()), (403, ("QUOTA_EXCEEDED", Some(field))));
        assert!(answer.json["remedy"].is_string());
    }
    make(&world, member, ACME, "b", json!({"cpus": 0.5, "memory": "1GiB", "disk": "5GiB"})).await.expect(201);
    let told = owner.call_in(&world, ACME, "GET", "/v1/quota", None).await.expect(200);
    assert_eq!(told["used"], json!({"agents": 2, "cpus": 1.5, "memory": "2GiB", "disk": "10GiB"}));
    make(&world, member, ACME, "c", one.clone()).await.expect(201);
    let little = json!({"cpus": 0.05, "memory": "32MiB", "disk": "64MiB"});
    let answer = make(&world, owner, ACME, "d", little.clone()).await;
    assert_eq!(answer.problem(), ("QUOTA_EXCEEDED", Some("agents")));
    // Neither its people nor the machine are concerned where they are somebody else's.
    make(&world, member, "mia", "a", one.clone()).await.expect(201);
    world.agent("operators").await;
    set(&world, &personal, json!({"agents": 1})).await.expect(200);
    assert_eq!(make(&world, member, "mia", "b", little.clone()).await.problem().0, "QUOTA_EXCEEDED");

    // What is stopped counts, what is destroyed does not, once it is.
    let id = first["id"].as_str().unwrap();
    owner.call_in(&world, ACME, "POST", &format!("/v1/agents/{id}/stop"), None).await.expect(200);
    machine.saw(&world, id, 2, Observed::Stopped).await;
    assert_eq!(make(&world, owner, ACME, "d", little.clone()).await.problem().0, "QUOTA_EXCEEDED");
    owner.call_in(&world, ACME, "DELETE", &format!("/v1/agents/{id}"), None).await.expect(200);
    assert_eq!(make(&world, owner, ACME, "d", little.clone()).await.problem().0, "QUOTA_EXCEEDED");
    machine.saw(&world, id, 3, Observed::Destroyed).await;
    make(&world, owner, ACME, "d", little.clone()).await.expect(201);
    // Less than it has takes nothing away.
    set(&world, &acme, json!({"agents": 0})).await.expect(200);
    let agents = owner.call_in(&world, ACME, "GET", "/v1/agents", None).await.expect(200);
    assert_eq!(agents["items"].as_array().unwrap().len(), 3);
    set(&world, &acme, json!({})).await.expect(200);
    make(&world, owner, ACME, "e", little).await.expect(201);
}

#[tokio::test]
async fn another_account_is_no_way_to_more_room() {
    let mut world = World::new().await;
    world.config.people.invited = crate::config::Invited::Anyone;
    world.switch(model::mode::Mode::Managed).await;
    let ada = Person::new(&world, "ada").await;
    let limits = async |who: &Person, account: &str| {
        let quota = who.call_in(&world, account, "GET", "/v1/quota", None).await.expect(200);
        quota["limits"].clone()
    };
    assert_eq!(limits(&ada, "ada").await, json!({}), "the operator made it");
    ada.call(&world, "POST", "/v1/accounts", Some(json!({"name": "more"}))).await.expect(201);
    assert_eq!(limits(&ada, "more").await, json!({"agents": 0}));
    let body = json!({"email": "new@example.com"});
    let invited = ada.call_in(&world, "more", "POST", "/v1/invitations", Some(body)).await.expect(201);
    let taken = json!({"token": invited["token"], "password": PASSWORD});
    browse(&world, "POST", "/v1/invitations/accept", &[], Some(&taken)).await.expect(200);
    let new = Person {
        email: "new@example.com".to_owned(),
        id: String::new(),
        cookie: Person::again(&world, "new@example.com").await,
    };
    assert_eq!(limits(&new, "new").await, json!({"agents": 0}));
    let given = json!({"name": "given", "owner": "ada@example.com"});
    world.post("/v1/accounts", given).await.expect(201);
    assert_eq!(limits(&ada, "given").await, json!({}));
}

#[tokio::test]
async fn accounts_begin_with_what_the_configuration_says() {
    let mut world = World::new().await;
    let before = Person::new(&world, "ada").await;
    world.config.quota = serde_json::from_value(json!({"agents": 2, "memory": "4GiB"})).unwrap();
    world.restart().await;
    let after = Person::new(&world, "bob").await;
    let limits =
        async |who: &Person| who.call(&world, "GET", "/v1/quota", None).await.expect(200)["limits"].clone();
    assert_eq!(limits(&before).await, json!({}));
    assert_eq!(limits(&after).await, json!({"agents": 2, "memory": "4GiB"}));
    before.call(&world, "POST", "/v1/accounts", Some(json!({"name": "fresh"}))).await.expect(201);
    let fresh = before.call_in(&world, "fresh", "GET", "/v1/quota", None).await.expect(200);
    assert_eq!(fresh["limits"], json!({"agents": 0}), "nobody asked the operator");
    world.post("/v1/accounts", json!({"name": "given", "owner": before.email})).await.expect(201);
    let given = before.call_in(&world, "given", "GET", "/v1/quota", None).await.expect(200);
    assert_eq!(given["limits"], json!({"agents": 2, "memory": "4GiB"}));
    let made = world.post("/v1/invitations", json!({"email": "new@example.com"})).await.expect(201);
    let taken = json!({"token": made["token"], "password": PASSWORD});
    browse(&world, "POST", "/v1/invitations/accept", &[], Some(&taken)).await.expect(200);
    let cookie = Person::again(&world, "new@example.com").await;
    let new = Person { cookie, ..before.clone() };
    assert_eq!(limits(&new).await, json!({"agents": 2, "memory": "4GiB"}), "the operator invited them");
    // The operator's own account, which was there first, is held to nothing.
    assert_eq!(world.get("/v1/quota").await.expect(200)["limits"], json!({}));
}

#[tokio::test]
async fn organisations_are_made_at_a_rate() {
    let world = World::new().await;
    let (ada, bob) = (Person::new(&world, "ada").await, Person::new(&world, "bob").await);
    let make = async |who: &Person, name: String| {
        who.call(&world, "POST", "/v1/accounts", Some(json!({"name": name}))).await
    };
    let mut made = 0;
    for time in 0..15 {
        made += u16::from(make(&ada, format!("org-{time}")).await.status.as_u16() == 201);
    }
    assert_eq!(made, 10);
    assert_eq!(make(&ada, "one-more".to_owned()).await.problem().0, "TOO_MANY");
    make(&bob, "of-bob".to_owned()).await.expect(201);
    // Nor is it a matter of patience alone.
    for round in 0..3 {
        world.clock.forward(time::Duration::hours(2));
        ada.prove(&world).await;
        for time in 0..10 {
            let answer = make(&ada, format!("org-{round}-{time}")).await;
            made += u16::from(answer.status.as_u16() == 201);
        }
    }
    assert_eq!(made, 20);
    world.clock.forward(time::Duration::hours(2));
    ada.prove(&world).await;
    let answer = make(&ada, "another".to_owned()).await;
    assert_eq!(answer.problem().0, "WRONG_STATE");
    assert!(answer.json["remedy"].as_str().unwrap().contains("operates"));
}
