//! People at browsers: how they become known, prove who they are, belong somewhere, and what is tried against that.

mod door;
mod factors;
mod invitations;
mod keys;
mod late;
mod passwords;
mod proofs;
mod resets;
mod roles;
mod sessions;

use super::world::{Answer, HOST, World};
use crate::server::Door;
use axum::body::Body;
use serde_json::{Value, json};

/// Where our own pages are.
pub(super) const ORIGIN: &str = "http://127.0.0.1:7700";
pub(super) const PASSWORD: &str = "seven wet otters";

/// A request as a browser sends it, or somebody who plays one.
pub(super) async fn browse(
    world: &World,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&Value>,
) -> Answer {
    let request = world.request(method, path);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let request = match body {
        Some(body) => {
            request.header("content-type", "application/json").body(Body::from(body.to_string())).unwrap()
        }
        None => request.body(Body::empty()).unwrap(),
    };
    world.send(request).await
}

/// What a cookie header says that sets ours.
pub(super) fn cookie_of(answer: &Answer) -> String {
    let set = answer.headers["set-cookie"].to_str().unwrap();
    set.split(';').next().unwrap().to_owned()
}

pub(super) async fn login(world: &World, body: &Value) -> Answer {
    browse(world, "POST", "/v1/session", &[("origin", ORIGIN)], Some(body)).await
}

/// A call of the operator's at the machine itself.
pub(super) async fn at_machine(world: &World, method: &str, path: &str) -> Answer {
    let request = world
        .request(method, path)
        .header("authorization", format!("Bearer {}", world.key))
        .extension(Door::Unix)
        .body(Body::empty());
    world.send(request.unwrap()).await
}

/// Somebody who is logged in.
#[derive(Clone)]
pub(super) struct Person {
    pub(super) email: String,
    pub(super) id: String,
    pub(super) cookie: String,
}

impl Person {
    /// Made known by the operator, with [`PASSWORD`].
    pub(super) async fn new(world: &World, name: &str) -> Self {
        let email = format!("{name}@example.com");
        let made = world.post("/v1/users", json!({"email": email})).await.expect(201);
        let token = made["token"].as_str().unwrap();
        let set = json!({"token": token, "password": PASSWORD});
        browse(world, "POST", "/v1/password-reset", &[], Some(&set)).await.expect(200);
        let id = made["user"]["id"].as_str().unwrap().to_owned();
        Self { id, cookie: Self::again(world, &email).await, email }
    }

    /// The cookie of another session.
    pub(super) async fn again(world: &World, email: &str) -> String {
        let answer = login(world, &json!({"email": email, "password": PASSWORD})).await;
        assert_eq!(answer.status.as_u16(), 201, "{}", answer.json);
        cookie_of(&answer)
    }

    /// In their own account.
    pub(super) async fn call(&self, world: &World, method: &str, path: &str, body: Option<Value>) -> Answer {
        let headers = [("cookie", self.cookie.as_str()), ("origin", ORIGIN)];
        browse(world, method, path, &headers, body.as_ref()).await
    }

    /// In an account of this name.
    pub(super) async fn call_in(
        &self,
        world: &World,
        account: &str,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        let cookie = self.cookie.as_str();
        let headers = [("cookie", cookie), ("origin", ORIGIN), ("cofferdam-account", account)];
        browse(world, method, path, &headers, body.as_ref()).await
    }

    /// Shows the password once more.
    pub(super) async fn prove(&self, world: &World) {
        let body = json!({"password": PASSWORD});
        self.call(world, "POST", "/v1/session/proof", Some(body)).await.expect(204);
    }
}

/// An organisation with one of each.
pub(super) struct Organisation {
    pub(super) owner: Person,
    pub(super) admin: Person,
    pub(super) member: Person,
}

/// Its name.
pub(super) const ACME: &str = "acme";

impl Organisation {
    pub(super) async fn new(world: &World) -> Self {
        let owner = Person::new(world, "olga").await;
        owner.call(world, "POST", "/v1/accounts", Some(json!({"name": ACME}))).await.expect(201);
        let admin = Person::new(world, "adam").await;
        let member = Person::new(world, "mia").await;
        for (person, role) in [(&admin, "admin"), (&member, "member")] {
            let token = invite(world, &owner, &person.email, role).await;
            accept(world, person, &token).await.expect(200);
        }
        Self { owner, admin, member }
    }
}

/// The token of an invitation to [`ACME`].
pub(super) async fn invite(world: &World, by: &Person, email: &str, role: &str) -> String {
    let body = json!({"email": email, "role": role});
    let made = by.call_in(world, ACME, "POST", "/v1/invitations", Some(body)).await.expect(201);
    made["token"].as_str().unwrap().to_owned()
}

pub(super) async fn accept(world: &World, by: &Person, token: &str) -> Answer {
    by.call(world, "POST", "/v1/invitations/accept", Some(json!({"token": token}))).await
}

/// The problem, without what differs from one request to the next.
pub(super) fn words(answer: &Answer) -> Value {
    let mut json = answer.json.clone();
    json.as_object_mut().unwrap().remove("request_id");
    json
}

/// The kinds of the events that somebody sees in an account.
pub(super) async fn kinds(world: &World, by: &Person, account: &str) -> Vec<String> {
    let path = "/v1/events?limit=200";
    let events = by.call_in(world, account, "GET", path, None).await.expect(200);
    let kinds = events["items"].as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap());
    kinds.map(str::to_owned).collect()
}

#[test]
fn the_pages_are_where_the_host_is() {
    assert_eq!(ORIGIN, format!("http://{HOST}"));
}
