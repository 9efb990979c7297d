//! Members: who raises, lowers and removes whom, and what is left of somebody who is gone.

use super::{ACME, Organisation, Person, accept, invite, kinds};
use crate::tests::world::{Answer, World};
use serde_json::json;

async fn set(world: &World, by: &Person, who: &Person, role: &str) -> Answer {
    let path = format!("/v1/members/{}", who.id);
    by.call_in(world, ACME, "PUT", &path, Some(json!({"role": role}))).await
}

async fn remove(world: &World, by: &Person, who: &Person) -> Answer {
    by.call_in(world, ACME, "DELETE", &format!("/v1/members/{}", who.id), None).await
}

async fn roles(world: &World, by: &Person) -> Vec<(String, String)> {
    let members = by.call_in(world, ACME, "GET", "/v1/members", None).await.expect(200);
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let items = members["items"].as_array().unwrap().iter();
    let mut roles: Vec<_> = items.map(|member| (text(&member["email"]), text(&member["role"]))).collect();
    roles.sort();
    roles
}

#[tokio::test]
async fn nobody_raises_themselves_or_touches_an_owner() {
    let world = World::new().await;
    let org = Organisation::new(&world).await;
    let before = roles(&world, &org.member).await;
    let Organisation { owner, admin, member } = &org;
    for (by, who, role) in [
        (admin, admin, "owner"),
        (admin, member, "owner"),
        (admin, owner, "member"),
        (admin, owner, "admin"),
        (member, member, "admin"),
        (member, member, "owner"),
        (member, admin, "member"),
    ] {
        let answer = set(&world, by, who, role).await;
        assert_eq!(answer.problem().0, "FORBIDDEN", "{} makes {} {role}", by.email, who.email);
    }
    for (by, who) in [(admin, owner), (member, owner), (member, admin), (member, member)] {
        assert_eq!(remove(&world, by, who).await.problem().0, "FORBIDDEN");
    }
    assert_eq!(roles(&world, member).await, before);
    set(&world, admin, member, "admin").await.expect(200);
    set(&world, member, admin, "member").await.expect(200);
    set(&world, owner, member, "owner").await.expect(200);
    set(&world, member, owner, "member").await.expect(200);
    assert_eq!(
        roles(&world, owner).await,
        [("adam", "member"), ("mia", "owner"), ("olga", "member")]
            .map(|(name, role)| (format!("{name}@example.com"), role.to_owned()))
    );
}

#[tokio::test]
async fn an_account_keeps_an_owner() {
    let world = World::new().await;
    let org = Organisation::new(&world).await;
    let leave = async |who: &Person| who.call_in(&world, ACME, "DELETE", "/v1/membership", None).await;
    assert_eq!(leave(&org.owner).await.problem().0, "IN_USE");
    assert_eq!(set(&world, &org.owner, &org.owner, "admin").await.problem().0, "IN_USE");
    assert_eq!(remove(&world, &org.owner, &org.owner).await.problem().0, "IN_USE");
    // Two owners who leave at once: one stays.
    set(&world, &org.owner, &org.admin, "owner").await.expect(200);
    let (one, two) = tokio::join!(leave(&org.owner), leave(&org.admin));
    let mut statuses = [one.status.as_u16(), two.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [204, 409]);
    let owners = roles(&world, &org.member).await.into_iter().filter(|(_, role)| role == "owner").count();
    assert_eq!(owners, 1);
    // Nobody leaves their own.
    let own = org.member.call(&world, "DELETE", "/v1/membership", None).await;
    assert_eq!(own.problem().0, "IN_USE");
}

#[tokio::test]
async fn who_is_gone_opens_nothing() {
    let world = World::new().await;
    let org = Organisation::new(&world).await;
    let key = org.member.call_in(&world, ACME, "POST", "/v1/keys", Some(json!({"name": "mias"}))).await;
    let key = key.expect(201)["secret"].as_str().unwrap().to_owned();
    let own = org.member.call(&world, "POST", "/v1/keys", Some(json!({"name": "own"}))).await.expect(201);
    world.call_as(&key, "GET", "/v1/whoami", None).await.expect(200);
    remove(&world, &org.admin, &org.member).await.expect(204);
    world.call_as(&key, "GET", "/v1/whoami", None).await.expect(401);
    assert_eq!(org.member.call_in(&world, ACME, "GET", "/v1/members", None).await.problem().0, "NOT_FOUND");
    let left = org.owner.call_in(&world, ACME, "GET", "/v1/keys", None).await.expect(200);
    assert_eq!(left["items"], json!([]));
    // What is theirs stays theirs.
    world.call_as(own["secret"].as_str().unwrap(), "GET", "/v1/whoami", None).await.expect(200);
    assert!(kinds(&world, &org.owner, ACME).await.contains(&"member.removed".to_owned()));
    // Back again, an old key is no key.
    let token = invite(&world, &org.owner, &org.member.email, "member").await;
    accept(&world, &org.member, &token).await.expect(200);
    world.call_as(&key, "GET", "/v1/whoami", None).await.expect(401);
}

#[tokio::test]
async fn who_may_less_or_is_gone_has_invited_nobody() {
    let world = World::new().await;
    let org = Organisation::new(&world).await;
    let (one, two) = (Person::new(&world, "one").await, Person::new(&world, "two").await);
    let kept = invite(&world, &org.owner, "kept@example.com", "member").await;
    let first = invite(&world, &org.admin, &one.email, "admin").await;
    set(&world, &org.owner, &org.admin, "member").await.expect(200);
    assert_eq!(accept(&world, &one, &first).await.problem().0, "UNAUTHENTICATED");
    set(&world, &org.owner, &org.admin, "admin").await.expect(200);
    let second = invite(&world, &org.admin, &two.email, "admin").await;
    remove(&world, &org.owner, &org.admin).await.expect(204);
    assert_eq!(accept(&world, &two, &second).await.problem().0, "UNAUTHENTICATED");
    let left = org.owner.call_in(&world, ACME, "GET", "/v1/invitations", None).await.expect(200);
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    assert!(!kept.is_empty() && left["items"][0]["email"] == "kept@example.com");
}

#[tokio::test]
async fn a_key_does_no_more_than_its_person_may_now() {
    let world = World::new().await;
    let org = Organisation::new(&world).await;
    let made = org.admin.call_in(&world, ACME, "POST", "/v1/keys", Some(json!({"name": "adams"}))).await;
    let key = made.expect(201)["secret"].as_str().unwrap().to_owned();
    let secret = async |name: &str| {
        let body = json!({"name": name, "value": "hunter2"});
        world.call_as(&key, "POST", "/v1/secrets", Some(body)).await
    };
    secret("one").await.expect(201);
    set(&world, &org.owner, &org.admin, "member").await.expect(200);
    assert_eq!(secret("two").await.problem().0, "FORBIDDEN");
    assert_eq!(world.call_as(&key, "GET", "/v1/whoami", None).await.expect(200)["role"], "member");
    // Nor more than it was made for, once they are more.
    let made = org.member.call_in(&world, ACME, "POST", "/v1/keys", Some(json!({"name": "mias"}))).await;
    let key = made.expect(201)["secret"].as_str().unwrap().to_owned();
    set(&world, &org.owner, &org.member, "admin").await.expect(200);
    assert_eq!(world.call_as(&key, "GET", "/v1/whoami", None).await.expect(200)["role"], "member");
}

#[tokio::test]
async fn members_see_each_other_and_nobody_else_sees_them() {
    let world = World::new().await;
    let org = Organisation::new(&world).await;
    let eve = Person::new(&world, "eve").await;
    assert_eq!(roles(&world, &org.member).await.len(), 3);
    for path in ["/v1/members", "/v1/invitations", "/v1/events", "/v1/keys"] {
        assert_eq!(eve.call_in(&world, ACME, "GET", path, None).await.problem().0, "NOT_FOUND");
    }
    let path = format!("/v1/members/{}", org.member.id);
    let body = Some(json!({"role": "admin"}));
    assert_eq!(eve.call(&world, "PUT", &path, body).await.problem().0, "NOT_FOUND");
    assert_eq!(eve.call(&world, "DELETE", &path, None).await.problem().0, "NOT_FOUND");
    assert_eq!(
        org.member.call_in(&world, ACME, "GET", "/v1/invitations", None).await.problem().0,
        "FORBIDDEN"
    );
    // The operator knows who there is, and not where they belong.
    let users = world.get("/v1/users").await.expect(200);
    assert_eq!(users["items"].as_array().unwrap().len(), 4);
    assert!(!users.to_string().contains(ACME));
    let page = world.get("/v1/users?limit=3").await.expect(200);
    assert!(
        page["next_cursor"].is_string() || page["cursor"].is_string() || page["next"].is_string(),
        "{page}"
    );
    assert_eq!(world.call_as(&world.other, "GET", "/v1/users", None).await.problem().0, "FORBIDDEN");
}
