//! Who may call what: every endpoint by everybody. The table is held against the OpenAPI document: an endpoint that is missing in it
//! fails here.

use super::people::{ACME, ORIGIN, Organisation, PASSWORD, Person, browse, invite};
use super::world::{Answer, HOST, Machine, World};
use axum::body::Body;
use model::agent::Observed;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// What the endpoints are asked about, all of it of [`ACME`].
struct Mine {
    agent: String,
    image: String,
    account: String,
    key: String,
    question: String,
    remembered: String,
    secret: String,
    /// Somebody who is a member.
    target: String,
    invitation: String,
    /// Another session of the owner's.
    session: String,
    organisation: Organisation,
    machine: Machine,
    /// For the agent.
    workspace_token: String,
}

impl Mine {
    async fn new(world: &World) -> Self {
        let machine = Machine::enrolled(world, "node-1", 8).await;
        let organisation = Organisation::new(world).await;
        let owner = &organisation.owner;
        let ask = async |method: &str, path: &str, body: Option<Value>| {
            let answer = owner.call_in(world, ACME, method, path, body).await;
            assert!(answer.status.is_success(), "{method} {path}: {}", answer.json);
            answer.json
        };
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let account = ask("GET", "/v1/whoami", None).await["account"].clone();
        let image = world.image().await;
        let grant = format!("/v1/images/{image}/grant");
        let image = text(&world.post(&grant, json!({"account": account})).await.expect(201)["id"]);
        let agent = ask("POST", "/v1/agents", Some(json!({"name": "mine", "image": "debian"}))).await;
        let agent = text(&agent["id"]);
        machine.saw(world, &agent, 1, Observed::Running).await;
        let token = format!("/v1/agents/{agent}/token");
        let workspace_token = ask("POST", &token, Some(json!({"scopes": ["exec"]}))).await;
        let question = async |host: &str| {
            super::egress::asks_about(world, &machine, &agent, host).await;
            text(&ask("GET", "/v1/egress/questions", None).await["items"][0]["id"])
        };
        let first = question("first.example").await;
        let answer = format!("/v1/egress/questions/{first}/answer");
        ask("POST", &answer, Some(json!({"decision": "always"}))).await;
        let remembered = text(&ask("GET", "/v1/egress/remembered", None).await["items"][0]["id"]);
        let question = question("second.example").await;
        let key = text(&ask("POST", "/v1/keys", Some(json!({"name": "spare"}))).await["id"]);
        let secret = json!({"name": "mine", "value": "hunter2"});
        let secret = text(&ask("POST", "/v1/secrets", Some(secret)).await["id"]);
        let target = Person::new(world, "target").await;
        let joins = invite(world, owner, &target.email, "member").await;
        super::people::accept(world, &target, &joins).await.expect(200);
        let waiting = json!({"email": "waiting@example.com"});
        let invitation = text(&ask("POST", "/v1/invitations", Some(waiting)).await["id"]);
        Person::again(world, &owner.email).await;
        let sessions = ask("GET", "/v1/sessions", None).await;
        let other = sessions.as_array().unwrap().iter().find(|session| session["current"] == false);
        let session = text(&other.unwrap()["id"]);
        let (workspace_token, target) = (text(&workspace_token["token"]), target.id);
        Self {
            agent,
            image,
            account: text(&account),
            key,
            question,
            remembered,
            secret,
            target,
            invitation,
            session,
            organisation,
            machine,
            workspace_token,
        }
    }

    /// The path with the id of one of these.
    fn path(&self, template: &str) -> String {
        let id = match template.split('/').nth(2) {
            Some("images") => &self.image,
            Some("keys") => &self.key,
            Some("secrets") => &self.secret,
            Some("sessions") => &self.session,
            Some("users" | "members") => &self.target,
            Some("accounts") => &self.account,
            Some("invitations") => &self.invitation,
            Some("egress") if template.contains("remembered") => &self.remembered,
            Some("egress") => &self.question,
            _ => &self.agent,
        };
        template.replace("{id}", id)
    }

    /// What nobody of another account may ever be told.
    fn ids(&self) -> [&str; 9] {
        [
            &self.agent,
            &self.image,
            &self.key,
            &self.question,
            &self.remembered,
            &self.secret,
            &self.invitation,
            &self.session,
            ACME,
        ]
    }

    /// All that its owner sees of the account.
    async fn everything(&self, world: &World) -> Vec<Value> {
        let mut all = Vec::new();
        for path in [
            "agents",
            "images",
            "keys",
            "secrets",
            "members",
            "invitations",
            "egress/questions",
            "egress/remembered",
            "sessions",
        ] {
            let path = format!("/v1/{path}");
            let owner = &self.organisation.owner;
            all.push(owner.call_in(world, ACME, "GET", &path, None).await.expect(200));
        }
        let data_key = all[0]["items"][0]["account"].clone();
        all.push(data_key);
        all
    }
}

/// What is answered to: somebody of another account, the operator, a member, an admin, an owner.
type Answers = [u16; 5];

struct Case {
    method: &'static str,
    path: &'static str,
    body: Option<Value>,
    answers: Answers,
}

fn case(method: &'static str, path: &'static str, body: Value, answers: Answers) -> Case {
    Case { method, path, body: (!body.is_null()).then_some(body), answers }
}

/// In the order in which they are called: what is taken away comes last.
fn cases(image: &str) -> Vec<Case> {
    // Seen by those of the account alone; others hear that there is no such thing.
    const OURS: Answers = [404, 404, 200, 200, 200];
    // Everybody has their own.
    const OWN: Answers = [200; 5];
    // A member may not, and knows that it is there.
    const ADMINS: Answers = [404, 404, 403, 200, 200];
    // Nobody but the person of a session.
    const PERSON: Answers = [403, 403, 200, 200, 200];
    const OPERATOR: Answers = [403, 200, 403, 403, 403];
    let none = Value::Null;
    let to =
        |status: u16, answers: Answers| answers.map(|answer| if answer == 200 { status } else { answer });
    let register = json!({"name": "alpine", "digest": "cd".repeat(32), "size": 1});
    vec![
        case("GET", "/v1/whoami", none.clone(), OWN),
        case("GET", "/v1/agents", none.clone(), OWN),
        case("GET", "/v1/agents/{id}", none.clone(), OURS),
        case("GET", "/v1/agents/{id}/evidence", none.clone(), OURS),
        case("GET", "/v1/agents/{id}/timeline", none.clone(), OURS),
        case("GET", "/v1/agents/{id}/policy", none.clone(), OURS),
        case("PUT", "/v1/agents/{id}/policy", json!({"version": 1}), OURS),
        case("POST", "/v1/agents/{id}/token", json!({"scopes": ["exec"]}), to(201, OURS)),
        case("POST", "/v1/agents/{id}/pause", none.clone(), OURS),
        case("POST", "/v1/agents/{id}/resume", none.clone(), OURS),
        case("POST", "/v1/agents/{id}/start", none.clone(), OURS),
        case("POST", "/v1/agents/{id}/stop", none.clone(), OURS),
        case("POST", "/v1/agents/{id}/clone", json!({"name": "copy"}), to(201, OURS)),
        // An owner and an admin in a session, and nobody by a key; here there is no account to give it to. See `transfers`.
        case("POST", "/v1/agents/{id}/transfer", json!({"account": "nowhere"}), [403, 403, 403, 404, 404]),
        case("POST", "/v1/agents", json!({"name": "another", "image": image}), to(201, OURS)),
        case("GET", "/v1/images", none.clone(), OWN),
        case("GET", "/v1/images/{id}", none.clone(), OURS),
        case("GET", "/v1/images/{id}/diff?with=debian", none.clone(), OURS),
        // Without a node's word only the operator has it; see `images`.
        case("POST", "/v1/images", register, [403, 201, 403, 403, 403]),
        case(
            "POST",
            "/v1/images/{id}/grant",
            json!({"account": model::AccountId::new()}),
            [403, 404, 403, 403, 403],
        ),
        case("GET", "/v1/nodes", none.clone(), OWN),
        case("GET", "/v1/events", none.clone(), OWN),
        case("GET", "/v1/audit/entries", none.clone(), OWN),
        case("GET", "/v1/audit/receipt", none.clone(), OWN),
        case("GET", "/v1/egress/log", none.clone(), OWN),
        case("GET", "/v1/egress/questions", none.clone(), OWN),
        case("GET", "/v1/egress/remembered", none.clone(), OWN),
        case("POST", "/v1/egress/questions/{id}/answer", json!({"decision": "once"}), OURS),
        case("GET", "/v1/secrets", none.clone(), OWN),
        case("GET", "/v1/secrets/{id}", none.clone(), OURS),
        case("POST", "/v1/secrets", json!({"name": "second", "value": "hunter2"}), [201, 201, 403, 201, 201]),
        case("POST", "/v1/secrets/{id}/rotate", json!({"value": "hunter3"}), ADMINS),
        case("PUT", "/v1/secrets/{id}/hosts", json!({"hosts": ["a.example"]}), ADMINS),
        case("POST", "/v1/data-key/rotate", none.clone(), [204, 204, 403, 403, 204]),
        case("POST", "/v1/wrapping-key/rotate", none.clone(), to(204, OPERATOR)),
        case("GET", "/v1/keys", none.clone(), OWN),
        case("POST", "/v1/keys", json!({"name": "second"}), to(201, OWN)),
        // That of the owner is no key of a member's, and not an admin's to delete.
        case("DELETE", "/v1/keys/{id}", none.clone(), [404, 404, 404, 403, 204]),
        case("GET", "/v1/users", none.clone(), OPERATOR),
        case("POST", "/v1/users", json!({"email": "x@example.com"}), to(201, OPERATOR)),
        // At the machine alone; see `people::resets`.
        case("POST", "/v1/users/{id}/reset", none.clone(), [403; 5]),
        case("DELETE", "/v1/users/{id}/second-factor", none.clone(), [403; 5]),
        case("GET", "/v1/accounts", none.clone(), OWN),
        case("GET", "/v1/quota", none.clone(), OWN),
        case("GET", "/v1/usage", none.clone(), OWN),
        case("PUT", "/v1/accounts/{id}/quota", json!({"agents": 100}), OPERATOR),
        case("POST", "/v1/accounts", json!({"name": "fresh"}), to(201, PERSON)),
        case("GET", "/v1/members", none.clone(), OWN),
        case("PUT", "/v1/members/{id}", json!({"role": "admin"}), ADMINS),
        case("GET", "/v1/invitations", none.clone(), [200, 200, 403, 200, 200]),
        case("POST", "/v1/invitations", json!({"email": "y@example.com"}), [201, 201, 403, 201, 201]),
        case("GET", "/v1/session", none.clone(), PERSON),
        case("POST", "/v1/session/proof", json!({"password": PASSWORD}), to(204, PERSON)),
        case("GET", "/v1/sessions", none.clone(), PERSON),
        // It is the owner's.
        case("DELETE", "/v1/sessions/{id}", none.clone(), [403, 403, 404, 404, 204]),
        case("PUT", "/v1/password", json!({"current": "x", "password": "nine dry herons"}), to(400, PERSON)),
        case("POST", "/v1/second-factor", none.clone(), to(201, PERSON)),
        case("PUT", "/v1/second-factor", json!({"code": "none"}), to(400, PERSON)),
        case("DELETE", "/v1/second-factor", none.clone(), to(204, PERSON)),
        case("DELETE", "/v1/egress/remembered/{id}", none.clone(), to(204, OURS)),
        case("DELETE", "/v1/secrets/{id}", none.clone(), to(204, ADMINS)),
        case("DELETE", "/v1/images/{id}", none.clone(), to(409, OURS)),
        case("DELETE", "/v1/agents/{id}", none.clone(), OURS),
        case("DELETE", "/v1/invitations/{id}", none.clone(), to(204, ADMINS)),
        case("DELETE", "/v1/members/{id}", none.clone(), to(204, ADMINS)),
        // The last owner stays.
        case("DELETE", "/v1/membership", none.clone(), [403, 403, 204, 204, 409]),
        // Those who left are asked for an account that they are not in.
        case("DELETE", "/v1/session", none, [403, 403, 404, 404, 204]),
    ]
}

/// Endpoints that answer to anybody.
const OPEN: [(&str, &str); 2] = [("GET", "/v1/healthz"), ("GET", "/v1/openapi.json")];
/// Endpoints that want a password or a token in their body.
const BY_BODY: [(&str, &str); 3] =
    [("POST", "/v1/session"), ("POST", "/v1/password-reset"), ("POST", "/v1/invitations/accept")];

#[tokio::test]
async fn every_endpoint_has_its_case() {
    let world = World::new().await;
    let paths = world.document()["paths"].as_object().unwrap();
    let documented: BTreeSet<(String, String)> = paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys();
            methods.map(move |method| (method.to_uppercase(), path.clone()))
        })
        .collect();
    let cases = cases("x");
    let tried = cases
        .iter()
        .map(|case| (case.method, case.path.split('?').next().unwrap()))
        .chain(OPEN)
        .chain(BY_BODY);
    let tried: Vec<_> = tried.map(|(method, path)| (method.to_owned(), path.to_owned())).collect();
    let once: BTreeSet<_> = tried.iter().cloned().collect();
    assert_eq!(once.len(), tried.len(), "an endpoint has two cases");
    assert_eq!(once, documented);
}

/// Calls everything as one of those who are in the table.
async fn check(column: usize) {
    let world = World::new().await;
    let mine = Mine::new(&world).await;
    let before = mine.everything(&world).await;
    let Organisation { owner, admin, member } = &mine.organisation;
    let person = [None, None, Some(member), Some(admin), Some(owner)][column];
    let mut wrong = Vec::new();
    for Case { method, path, body, answers } in cases(&mine.image) {
        let at = mine.path(path);
        let answer = match person {
            Some(person) => person.call_in(&world, ACME, method, &at, body).await,
            None => {
                let key = [&world.other, &world.key][column];
                world.call_as(key, method, &at, body).await
            }
        };
        let told = answer.json.to_string();
        if answer.status.as_u16() != answers[column] {
            wrong.push(format!("{method} {path}: {} {told}", answer.status));
        }
        if answer.status.as_u16() == 404 {
            assert_eq!(answer.problem().0, "NOT_FOUND", "{method} {path} by {column}");
        }
        if person.is_none() {
            let ours = mine.ids().into_iter().find(|id| answer.status.is_success() && told.contains(*id));
            assert_eq!(ours, None, "{method} {path} by {column}");
        }
    }
    assert!(wrong.is_empty(), "by {column}: {wrong:#?}");
    if person.is_none() {
        assert_eq!(mine.everything(&world).await, before, "somebody else moved something");
    }
}

#[tokio::test]
async fn every_endpoint_by_another_account() {
    check(0).await;
}

#[tokio::test]
async fn every_endpoint_by_the_operator() {
    check(1).await;
}

#[tokio::test]
async fn every_endpoint_by_a_member() {
    check(2).await;
}

#[tokio::test]
async fn every_endpoint_by_an_admin() {
    check(3).await;
}

#[tokio::test]
async fn every_endpoint_by_an_owner() {
    check(4).await;
}

#[tokio::test]
async fn every_endpoint_by_nobody_a_node_and_a_workspace_token() {
    let world = World::new().await;
    let mine = Mine::new(&world).await;
    let before = mine.everything(&world).await;
    let stolen = format!("__Host-cofferdam={}", mine.workspace_token);
    for Case { method, path, body, .. } in cases(&mine.image) {
        let at = mine.path(path);
        let unauthenticated = |answer: &Answer, who: &str| {
            assert_eq!(answer.problem().0, "UNAUTHENTICATED", "{method} {path} by {who}");
            assert!(answer.headers.contains_key("www-authenticate"));
        };
        let bare = world.request(method, &at).body(Body::empty()).unwrap();
        unauthenticated(&world.send(bare).await, "nobody");
        for key in [
            "cof_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "x",
            "",
            &mine.machine.token,
            &mine.workspace_token,
        ] {
            unauthenticated(&world.call_as(key, method, &at, body.clone()).await, key);
        }
        let headers = [("cookie", stolen.as_str()), ("origin", ORIGIN)];
        unauthenticated(&browse(&world, method, &at, &headers, body.as_ref()).await, "a cookie");
    }
    for (method, path) in OPEN {
        world.call_as("", method, path, None).await.expect(200);
    }
    for (method, path) in BY_BODY {
        let body = match path {
            "/v1/session" => json!({"email": "olga@example.com", "password": "nobody's own"}),
            _ => json!({"token": mine.workspace_token, "password": "nobody's own"}),
        };
        let headers = [("origin", ORIGIN)];
        let answer = browse(&world, method, path, &headers, Some(&body)).await;
        assert_eq!(answer.problem().0, "UNAUTHENTICATED", "{path}");
    }
    assert_eq!(mine.everything(&world).await, before, "nobody moved something");
}

#[tokio::test]
async fn node_endpoints_want_node_credentials() {
    let world = World::new().await;
    let mine = Mine::new(&world).await;
    let owner = &mine.organisation.owner;
    let session = owner.cookie.split_once('=').unwrap().1;
    for (method, path, body) in [
        (
            "POST",
            "/node/v1/enroll",
            json!({"public_key": "A".repeat(43), "capacity": {"slots": 1, "cpus": 1.0, "memory": 1}}),
        ),
        ("POST", "/node/v1/token", json!({"assertion": "x"})),
        ("GET", "/node/v1/desired", Value::Null),
        ("GET", "/node/v1/images", Value::Null),
        ("POST", "/node/v1/egress", json!({})),
        ("POST", "/node/v1/agents/agt_01h455vb4pex5vsknk084sn02q/secrets", json!({"assertion": "x"})),
        ("POST", "/node/v1/observed", json!({"agents": [], "orphans": []})),
    ] {
        // Neither a stranger, nor a holder of an API key, a session or a workspace token is a node.
        let body = (!body.is_null()).then_some(body);
        for key in ["x", &world.key, &mine.workspace_token, session] {
            let answer = world.call_as(key, method, path, body.clone()).await;
            assert_eq!(answer.problem().0, "UNAUTHENTICATED", "{method} {path}");
        }
        let answer = owner.call_in(&world, ACME, method, path, body).await;
        assert_eq!(answer.problem().0, "UNAUTHENTICATED", "{method} {path} by a cookie");
    }
}

#[tokio::test]
async fn a_nodes_token_opens_nothing_else() {
    let world = World::new().await;
    let machine = Machine::enrolled(&world, "node-1", 1).await;
    let answer = world.call_as(&machine.token, "GET", "/v1/agents", None).await;
    assert_eq!(answer.problem().0, "UNAUTHENTICATED");
}

#[tokio::test]
async fn web_pages_are_kept_out() {
    let world = World::new().await;
    let send = async |header: &'static str, value: &'static str| {
        let request = world
            .request("GET", "/v1/whoami")
            .header("authorization", format!("Bearer {}", world.key))
            .header(header, value)
            .body(Body::empty())
            .unwrap();
        world.send(request).await
    };
    for origin in ["null", "http://127.0.0.1:7700", "https://evil.example"] {
        assert_eq!(send("origin", origin).await.problem().0, "CROSS_ORIGIN");
    }
    for site in ["cross-site", "same-site"] {
        assert_eq!(send("sec-fetch-site", site).await.problem().0, "CROSS_ORIGIN");
    }
    send("sec-fetch-site", "none").await.expect(200);
    for host in
        ["evil.example", "127.0.0.1", "127.0.0.1:7701", "localhost.evil.example:7700", "[::2]:7700", ""]
    {
        let request =
            axum::http::Request::get("/v1/healthz").header("host", host).body(Body::empty()).unwrap();
        assert_eq!(world.send(request).await.problem().0, "MISDIRECTED", "{host}");
    }
    for host in [HOST, "localhost:7700", "LOCALHOST:7700", "[::1]:7700"] {
        let request =
            axum::http::Request::get("/v1/healthz").header("host", host).body(Body::empty()).unwrap();
        world.send(request).await.expect(200);
    }
    let twice =
        world.request("GET", "/v1/healthz").header("host", "evil.example").body(Body::empty()).unwrap();
    assert_eq!(world.send(twice).await.problem().0, "MISDIRECTED");
    let none = axum::http::Request::get("/v1/healthz").body(Body::empty()).unwrap();
    assert_eq!(world.send(none).await.problem().0, "MISDIRECTED");
}

#[tokio::test]
async fn a_deleted_key_opens_nothing_and_takes_tokens_along() {
    let world = World::new().await;
    let machine = Machine::enrolled(&world, "node-1", 2).await;
    world.image().await;
    let agent = world.agent("a").await;
    machine.saw(&world, &agent, 1, Observed::Running).await;
    let before = machine.desired(&world, "").await;
    // One that no workspace token was issued to ends none.
    let key = world.post("/v1/keys", json!({"name": "without"})).await.expect(201);
    let path = format!("/v1/keys/{}", key["id"].as_str().unwrap());
    world.call_as(&world.key, "DELETE", &path, None).await.expect(204);
    let same = machine.desired(&world, "").await;
    assert_eq!((same.rev, same.agents[0].token_epoch), (before.rev, before.agents[0].token_epoch));
    let key = world.post("/v1/keys", json!({"name": "second"})).await.expect(201);
    let (id, secret) = (key["id"].as_str().unwrap(), key["secret"].as_str().unwrap());
    assert!(secret.starts_with("cof_"));
    world.call_as(secret, "GET", "/v1/whoami", None).await.expect(200);
    assert!(!world.get("/v1/keys").await.expect(200).to_string().contains("secret"));
    let (token, scopes) = (format!("/v1/agents/{agent}/token"), json!({"scopes": ["exec"]}));
    world.call_as(secret, "POST", &token, Some(scopes)).await.expect(201);
    world.call_as(secret, "DELETE", &format!("/v1/keys/{id}"), None).await.expect(204);
    world.call_as(secret, "GET", "/v1/whoami", None).await.expect(401);
    let after = machine.desired(&world, "").await;
    assert!(after.agents[0].token_epoch > before.agents[0].token_epoch);
    assert!(after.rev > before.rev);

    let last = world.get("/v1/whoami").await.expect(200)["key"].clone();
    let answer =
        world.call_as(&world.key, "DELETE", &format!("/v1/keys/{}", last.as_str().unwrap()), None).await;
    assert_eq!(answer.problem().0, "IN_USE");
    world.get("/v1/whoami").await.expect(200);
}
