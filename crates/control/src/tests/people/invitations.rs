//! Invitations: whom they let in, as what, and whom not.

use super::{ACME, Organisation, PASSWORD, Person, accept, browse, invite, kinds, login, words};
use crate::config::Invited;
use crate::tests::world::{Answer, World};
use serde_json::json;
use time::Duration;

async fn join_anew(world: &World, token: &str, password: &str) -> Answer {
    let body = json!({"token": token, "password": password});
    browse(world, "POST", "/v1/invitations/accept", &[], Some(&body)).await
}

/// Where everybody's invitations make people known.
async fn trusting() -> World {
    let mut world = World::new().await;
    world.config.people.invited = Invited::Anyone;
    world.restart().await;
    world
}

async fn role(world: &World, who: &Person) -> String {
    let me = who.call_in(world, ACME, "GET", "/v1/whoami", None).await.expect(200);
    me["role"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_invitation_lets_one_person_in_once() {
    let world = World::new().await;
    let org = Organisation::new(&world).await;
    let (eve, finn) = (Person::new(&world, "eve").await, Person::new(&world, "finn").await);
    let token = invite(&world, &org.admin, &finn.email, "member").await;
    assert_eq!(accept(&world, &eve, &token).await.problem().0, "FORBIDDEN", "it is for another address");
    assert_eq!(join_anew(&world, &token, PASSWORD).await.problem().0, "UNAUTHENTICATED");
    eve.call_in(&world, ACME, "GET", "/v1/whoami", None).await.expect(404);
    // By a cookie without an Origin, as another page would have it sent.
    let headers = [("cookie", finn.cookie.as_str())];
    let body = json!({"token": token});
    let answer = browse(&world, "POST", "/v1/invitations/accept", &headers, Some(&body)).await;
    assert_eq!(answer.problem().0, "CROSS_ORIGIN");
    accept(&world, &finn, &token).await.expect(200);
    assert_eq!(role(&world, &finn).await, "member");
    assert_eq!(accept(&world, &finn, &token).await.problem().0, "UNAUTHENTICATED");
    let left = org.owner.call_in(&world, ACME, "GET", "/v1/invitations", None).await.expect(200);
    assert_eq!(left["items"], json!([]));
}

#[tokio::test]
async fn somebody_new_chooses_a_password() {
    let world = trusting().await;
    let org = Organisation::new(&world).await;
    let token = invite(&world, &org.owner, "new@example.com", "admin").await;
    for (password, field) in [("short", "password"), ("Password1!", "password")] {
        let answer = join_anew(&world, &token, password).await;
        assert_eq!(answer.problem(), ("VALIDATION_ERROR", Some(field)));
    }
    let none = browse(&world, "POST", "/v1/invitations/accept", &[], Some(&json!({"token": token}))).await;
    assert_eq!(none.problem(), ("VALIDATION_ERROR", Some("password")));
    let account = join_anew(&world, &token, PASSWORD).await.expect(200);
    assert_eq!((&account["name"], &account["role"]), (&json!(ACME), &json!("admin")));
    assert_eq!(join_anew(&world, &token, PASSWORD).await.problem().0, "UNAUTHENTICATED");
    let told = login(&world, &json!({"email": "new@example.com", "password": PASSWORD})).await.expect(201);
    let names: Vec<_> = told["accounts"].as_array().unwrap().iter().map(|it| it["name"].clone()).collect();
    assert_eq!(names, [json!("new"), json!(ACME)]);
}

#[tokio::test]
async fn nobody_becomes_somebody_by_an_invitation_of_their_own() {
    let world = World::new().await;
    let mallory = Person::new(&world, "mallory").await;
    mallory.call(&world, "POST", "/v1/accounts", Some(json!({"name": ACME}))).await.expect(201);
    let ada = Person::new(&world, "ada").await;
    let unknown = invite(&world, &mallory, "ceo@example.com", "member").await;
    let known = invite(&world, &mallory, &ada.email, "member").await;
    let mut answers = Vec::new();
    for token in [&unknown, &known] {
        answers.push(join_anew(&world, token, PASSWORD).await);
        answers.push(join_anew(&world, token, "short").await);
        let none = json!({"token": token});
        answers.push(browse(&world, "POST", "/v1/invitations/accept", &[], Some(&none)).await);
    }
    for answer in &answers {
        assert_eq!((answer.status.as_u16(), answer.problem().0), (401, "UNAUTHENTICATED"));
        assert_eq!(words(answer), words(&answers[0]), "it tells who is known");
    }
    assert_eq!(world.get("/v1/users").await.expect(200)["items"].as_array().unwrap().len(), 2);
    login(&world, &json!({"email": "ceo@example.com", "password": PASSWORD})).await.expect(401);
    // Whoever the address belongs to takes it, once the operator has made them known.
    let ceo = Person::new(&world, "ceo").await;
    accept(&world, &ceo, &unknown).await.expect(200);
    accept(&world, &ada, &known).await.expect(200);
    assert_eq!(role(&world, &ceo).await, "member");
}

#[tokio::test]
async fn the_operator_s_own_invitation_makes_somebody_known() {
    let world = World::new().await;
    let ada = Person::new(&world, "ada").await;
    let made = world.post("/v1/invitations", json!({"email": "new@example.com"})).await.expect(201);
    let account = join_anew(&world, made["token"].as_str().unwrap(), PASSWORD).await.expect(200);
    assert_eq!((&account["name"], &account["role"]), (&json!("default"), &json!("member")));
    Person::again(&world, "new@example.com").await;
    // Nobody who is known already gets another password by it.
    let made = world.post("/v1/invitations", json!({"email": ada.email})).await.expect(201);
    let token = made["token"].as_str().unwrap();
    let known = join_anew(&world, token, "nine dry herons").await;
    assert_eq!(known.problem().0, "UNAUTHENTICATED");
    Person::again(&world, &ada.email).await;
    accept(&world, &ada, token).await.expect(200);
}

#[tokio::test]
async fn of_two_at_once_with_one_invitation_one_joins() {
    let world = trusting().await;
    let org = Organisation::new(&world).await;
    let token = invite(&world, &org.owner, "new@example.com", "member").await;
    let (one, two) = tokio::join!(join_anew(&world, &token, PASSWORD), join_anew(&world, &token, PASSWORD));
    let mut statuses = [one.status.as_u16(), two.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401]);
    let members = org.owner.call_in(&world, ACME, "GET", "/v1/members", None).await.expect(200);
    assert_eq!(members["items"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn what_is_over_taken_back_or_replaced_lets_nobody_in() {
    let world = World::new().await;
    let org = Organisation::new(&world).await;
    let finn = Person::new(&world, "finn").await;
    let first = invite(&world, &org.admin, &finn.email, "admin").await;
    let second = invite(&world, &org.admin, &finn.email, "member").await;
    assert_eq!(accept(&world, &finn, &first).await.problem().0, "UNAUTHENTICATED");
    assert!(kinds(&world, &org.admin, ACME).await.contains(&"invitation.revoked".to_owned()));
    let list = org.admin.call_in(&world, ACME, "GET", "/v1/invitations", None).await.expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert!(!list.to_string().contains("token"), "{list}");
    let id = list["items"][0]["id"].as_str().unwrap();
    let path = format!("/v1/invitations/{id}");
    // By somebody of another account: there is no such thing.
    assert_eq!(finn.call(&world, "DELETE", &path, None).await.problem().0, "NOT_FOUND");
    org.admin.call_in(&world, ACME, "DELETE", &path, None).await.expect(204);
    assert_eq!(accept(&world, &finn, &second).await.problem().0, "UNAUTHENTICATED");
    let third = invite(&world, &org.admin, &finn.email, "member").await;
    world.clock.forward(Duration::days(7));
    let finn = Person { cookie: Person::again(&world, &finn.email).await, ..finn };
    assert_eq!(accept(&world, &finn, &third).await.problem().0, "UNAUTHENTICATED");
    finn.call_in(&world, ACME, "GET", "/v1/whoami", None).await.expect(404);
}

#[tokio::test]
async fn nobody_invites_above_themselves() {
    let world = World::new().await;
    let org = Organisation::new(&world).await;
    let ask = async |who: &Person, account: &str, role: &str| {
        let body = json!({"email": "new@example.com", "role": role});
        who.call_in(&world, account, "POST", "/v1/invitations", Some(body)).await
    };
    for role in ["member", "admin", "owner"] {
        assert_eq!(ask(&org.member, ACME, role).await.problem().0, "FORBIDDEN", "{role}");
    }
    assert_eq!(ask(&org.admin, ACME, "owner").await.problem().0, "FORBIDDEN");
    ask(&org.admin, ACME, "admin").await.expect(201);
    ask(&org.owner, ACME, "owner").await.expect(201);
    // A personal account has one member, whoever asks.
    let answer = ask(&org.owner, "olga", "member").await;
    assert_eq!(answer.problem().0, "IN_USE");
    assert!(answer.json["remedy"].as_str().unwrap().contains("account create"));
    let body = json!({"email": org.member.email, "role": "admin"});
    let answer = org.admin.call_in(&world, ACME, "POST", "/v1/invitations", Some(body)).await;
    assert_eq!(answer.problem().0, "IN_USE", "a member already");
    let body = json!({"email": "x@example.com", "role": "root"});
    let answer = org.admin.call_in(&world, ACME, "POST", "/v1/invitations", Some(body)).await;
    assert_eq!(answer.problem(), ("VALIDATION_ERROR", Some("role")));
}
