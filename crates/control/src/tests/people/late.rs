//! Requests that take their time: what somebody may is what they may when the change is made, not when the request began.

use super::{ACME, ORIGIN, Organisation, PASSWORD, Person};
use crate::tests::world::{Answer, Machine, World};
use axum::body::Body;
use axum::http::request::Builder;
use hyper::body::{Body as HttpBody, Bytes, Frame};
use model::agent::Observed;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::sync::oneshot;

/// A body that its sender holds back.
struct Held {
    /// Told once control waits for it: who sends it is known by then.
    awaited: Option<oneshot::Sender<()>>,
    go: oneshot::Receiver<()>,
    rest: Option<Bytes>,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_none() {
            return Poll::Ready(None);
        }
        if let Some(awaited) = self.awaited.take() {
            awaited.send(()).unwrap();
        }
        ready!(Pin::new(&mut self.go).poll(cx)).unwrap();
        Poll::Ready(self.rest.take().map(|rest| Ok(Frame::data(rest))))
    }
}

/// Sends a request, whose body comes only after something else was done.
async fn late(world: &World, request: Builder, body: Value, meanwhile: impl Future<Output = ()>) -> Answer {
    let ((tell, awaited), (release, go)) = (oneshot::channel(), oneshot::channel());
    let held = Held { awaited: Some(tell), go, rest: Some(body.to_string().into()) };
    let request = request.header("content-type", "application/json").body(Body::new(held)).unwrap();
    let other = async {
        awaited.await.unwrap();
        meanwhile.await;
        release.send(()).unwrap();
    };
    tokio::join!(world.send(request), other).0
}

fn by(world: &World, who: &Person, method: &str, path: &str) -> Builder {
    let request = world.request(method, path).header("cookie", who.cookie.as_str());
    request.header("origin", ORIGIN).header("cofferdam-account", ACME)
}

fn with(world: &World, key: &str, path: &str) -> Builder {
    world.request("POST", path).header("authorization", format!("Bearer {key}"))
}

async fn set(world: &World, by: &Person, who: &Person, role: &str) {
    let path = format!("/v1/members/{}", who.id);
    by.call_in(world, ACME, "PUT", &path, Some(json!({"role": role}))).await.expect(200);
}

async fn remove(world: &World, by: &Person, who: &Person) {
    by.call_in(world, ACME, "DELETE", &format!("/v1/members/{}", who.id), None).await.expect(204);
}

#[tokio::test]
async fn who_is_lowered_meanwhile_does_not_raise_themselves_again() {
    let world = World::new().await;
    let org = Organisation::new(&world).await;
    set(&world, &org.owner, &org.admin, "owner").await;
    let request = by(&world, &org.admin, "PUT", &format!("/v1/members/{}", org.admin.id));
    let lower = set(&world, &org.owner, &org.admin, "member");
    let answer = late(&world, request, json!({"role": "owner"}), lower).await;
    assert_eq!(answer.problem().0, "FORBIDDEN");
    let me = org.admin.call_in(&world, ACME, "GET", "/v1/whoami", None).await.expect(200);
    assert_eq!(me["role"], "member");
}

#[tokio::test]
async fn who_is_removed_meanwhile_invites_nobody_and_makes_no_key() {
    let world = World::new().await;
    let org = Organisation::new(&world).await;
    let request = by(&world, &org.admin, "POST", "/v1/invitations");
    let invite = json!({"email": "new@example.com", "role": "admin"});
    let answer = late(&world, request, invite, remove(&world, &org.owner, &org.admin)).await;
    assert_eq!(answer.problem().0, "NOT_FOUND");
    let request = by(&world, &org.member, "POST", "/v1/keys");
    let answer =
        late(&world, request, json!({"name": "mias"}), remove(&world, &org.owner, &org.member)).await;
    assert_eq!(answer.problem().0, "NOT_FOUND");
    for path in ["/v1/invitations", "/v1/keys"] {
        let left = org.owner.call_in(&world, ACME, "GET", path, None).await.expect(200);
        assert_eq!(left["items"], json!([]), "{path}");
    }
}

#[tokio::test]
async fn a_key_that_is_deleted_meanwhile_makes_nothing() {
    let world = World::new().await;
    let machine = Machine::enrolled(&world, "node-1", 2).await;
    world.image().await;
    let agent = world.agent("a").await;
    machine.saw(&world, &agent, 1, Observed::Running).await;
    let token = format!("/v1/agents/{agent}/token");
    for (path, body) in [
        ("/v1/keys", json!({"name": "another"})),
        ("/v1/agents", json!({"name": "b", "image": "debian"})),
        (&*token, json!({"scopes": ["exec"]})),
    ] {
        let key = world.post("/v1/keys", json!({"name": "second"})).await.expect(201);
        let (id, secret) = (key["id"].as_str().unwrap(), key["secret"].as_str().unwrap());
        let delete = async {
            world.call_as(&world.key, "DELETE", &format!("/v1/keys/{id}"), None).await.expect(204);
        };
        let answer = late(&world, with(&world, secret, path), body.clone(), delete).await;
        assert_eq!(answer.problem().0, "UNAUTHENTICATED", "{path}");
        // It is the deletion that stands in the way.
        late(&world, with(&world, &world.key, path), body, async {}).await.expect(201);
    }
}

#[tokio::test]
async fn a_session_that_ends_meanwhile_changes_nothing() {
    let world = World::new().await;
    let org = Organisation::new(&world).await;
    let body = Some(json!({"email": org.owner.email, "role": "member"}));
    let made = world.call_as(&world.other, "POST", "/v1/invitations", body).await.expect(201);
    let token = made["token"].as_str().unwrap();
    for (method, path, body) in [
        ("PUT", "/v1/password", json!({"current": PASSWORD, "password": "nine dry herons"})),
        ("POST", "/v1/second-factor", json!({})),
        ("POST", "/v1/accounts", json!({"name": "another"})),
        ("POST", "/v1/invitations/accept", json!({"token": token})),
    ] {
        let email = &org.owner.email;
        let gone = Person { cookie: Person::again(&world, email).await, ..org.owner.clone() };
        let end = async {
            gone.call(&world, "DELETE", "/v1/session", None).await.expect(204);
        };
        let answer = late(&world, by(&world, &gone, method, path), body, end).await;
        assert_eq!(answer.problem().0, "UNAUTHENTICATED", "{path}");
    }
    let me = org.owner.call(&world, "GET", "/v1/session", None).await.expect(200);
    assert_eq!(me["user"]["second_factor"], false);
    assert_eq!(me["accounts"].as_array().unwrap().len(), 2, "{me}");
    Person::again(&world, &org.owner.email).await;
}

#[tokio::test]
async fn who_may_more_meanwhile_is_served() {
    let world = World::new().await;
    let org = Organisation::new(&world).await;
    let request = by(&world, &org.admin, "POST", "/v1/invitations");
    let raise = set(&world, &org.owner, &org.admin, "owner");
    late(&world, request, json!({"email": "new@example.com"}), raise).await.expect(201);
}
