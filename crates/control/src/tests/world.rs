//! An installation with two accounts, and a node that is played by the tests.

use crate::app::App;
use crate::auth::secret;
use crate::{Config, Database, api, assemble};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use model::agent::Observed;
use model::clock::Clock;
use model::egress::EgressReport;
use model::mode::Mode;
use model::node_api::{DesiredState, ObservedAgent, ObservedState};
use model::token::NodeAssertion;
use model::{AgentId, NodeId};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use store::{Actor, NewAccount};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub(super) const HOST: &str = "127.0.0.1:7700";

/// Time that stands still until it is moved.
pub(super) struct HeldClock(Mutex<OffsetDateTime>);

impl HeldClock {
    pub(super) fn forward(&self, by: time::Duration) {
        *self.0.lock().unwrap() += by;
    }
}

impl Clock for HeldClock {
    fn now(&self) -> OffsetDateTime {
        *self.0.lock().unwrap()
    }
}

pub(super) struct World {
    pub(super) app: Arc<App>,
    pub(super) clock: Arc<HeldClock>,
    pub(super) router: Router,
    /// A key of the first account.
    pub(super) key: String,
    /// A key of another account.
    pub(super) other: String,
    pub(super) config: Config,
    document: Value,
    _directory: tempfile::TempDir,
    server: Option<Arc<testdb::Database>>,
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) json: Value,
}

impl Answer {
    #[track_caller]
    pub(super) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.json);
        self.json
    }

    /// The problem's code, and its field.
    #[track_caller]
    pub(super) fn problem(&self) -> (&str, Option<&str>) {
        (self.json["code"].as_str().expect("a problem"), self.json["field"].as_str())
    }
}

/// The path template of the document that a path belongs to.
pub(super) fn template(path: &str) -> String {
    let path = path.split('?').next().unwrap();
    let mut segments: Vec<&str> = path.split('/').collect();
    if segments.len() > 3
        && matches!(
            segments[2],
            "agents"
                | "images"
                | "keys"
                | "secrets"
                | "accounts"
                | "users"
                | "members"
                | "sessions"
                | "invitations"
        )
        && segments[3] != "accept"
    {
        segments[3] = "{id}";
    }
    if segments.len() > 4 && segments[2] == "egress" {
        segments[4] = "{id}";
    }
    segments.join("/")
}

impl World {
    /// On the database that this run of the tests is about: SQLite, unless COFFERDAM_TEST_DATABASE is `postgres`.
    pub(super) async fn new() -> Self {
        match std::env::var("COFFERDAM_TEST_DATABASE").as_deref() {
            Ok("postgres") => Self::on_server().await.expect("PostgreSQL"),
            _ => Self::on(None).await,
        }
    }

    /// On a server, where there is one.
    pub(super) async fn on_server() -> Option<Self> {
        let server = testdb::Database::new().inspect_err(|why| eprintln!("skipped: {why}")).ok()?;
        Some(Self::on(Some(Arc::new(server))).await)
    }

    async fn on(server: Option<Arc<testdb::Database>>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let database = Database { url: server.as_ref().map(|server| server.url()), ..Database::default() };
        // Passwords cost next to nothing here.
        let passwords = crate::config::Passwords { memory: model::ByteSize(64 << 10), passes: 1, at_once: 2 };
        let data = directory.path().join("control");
        let config = Config { data, database, passwords, ..Config::default() };
        let first = crate::initialise(&config).await.unwrap().unwrap();
        let clock = Arc::new(HeldClock(Mutex::new(OffsetDateTime::now_utc())));
        let own: SocketAddr = HOST.parse().unwrap();
        let app = assemble(&config, clock.clone(), own, CancellationToken::new()).await.unwrap();
        let other = secret::generate(secret::API_KEY).unwrap();
        let account = NewAccount {
            name: "other".parse().unwrap(),
            key: "first".parse().unwrap(),
            hash: secret::hash(&other),
        };
        app.store.create_account(Actor::System, &account).await.unwrap();
        let router = api::router(app.clone());
        let document = serde_json::from_str(&crate::openapi()).unwrap();
        let key = first.api_key;
        Self { app, clock, router, key, other, config, document, _directory: directory, server }
    }

    /// Another control process of the same installation, on another machine.
    pub(super) async fn replica(&self) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = Config { data: directory.path().join("control"), ..self.config.clone() };
        std::fs::create_dir(&config.data).unwrap();
        let keys = [
            (self.config.signing_key(), config.signing_key()),
            (self.config.secrets_key(), config.secrets_key()),
        ];
        for (from, to) in keys {
            std::fs::copy(from, to).unwrap();
        }
        let own: SocketAddr = HOST.parse().unwrap();
        let app = assemble(&config, self.clock.clone(), own, CancellationToken::new()).await.unwrap();
        let (key, other, document) = (self.key.clone(), self.other.clone(), self.document.clone());
        let (clock, router, server) = (self.clock.clone(), api::router(app.clone()), self.server.clone());
        Self { app, clock, router, key, other, config, document, _directory: directory, server }
    }

    /// The server that the database is on.
    pub(super) fn server(&self) -> Option<&Arc<testdb::Database>> {
        self.server.as_ref()
    }

    pub(super) fn document(&self) -> &Value {
        &self.document
    }

    /// Sends a request as it is. Whatever the answer, it must have the shape that all answers have.
    pub(super) async fn send(&self, request: Request<Body>) -> Answer {
        let (method, path) = (request.method().as_str().to_lowercase(), template(request.uri().path()));
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 8 << 20).await.unwrap();
        let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let id = parts.headers["x-request-id"].to_str().unwrap();
        let status = parts.status;
        if status.is_client_error() || status.is_server_error() {
            assert_eq!(parts.headers["content-type"], "application/problem+json");
            assert_eq!(json["status"], status.as_u16());
            assert_eq!(json["request_id"], id);
            let codes = model::Code::ALL.iter().map(|code| code.as_str());
            assert!(codes.into_iter().any(|code| json["code"] == code), "{json}");
            let operation = &self.document["paths"][&path][&method];
            let documented = &operation["responses"][status.as_str()];
            let says = documented["description"].as_str().unwrap_or_default();
            let code = json["code"].as_str().unwrap();
            assert!(operation.is_null() || says.contains(code), "{method} {path} does not document {code}");
        }
        Answer { status, headers: parts.headers, json }
    }

    pub(super) fn request(&self, method: &str, path: &str) -> axum::http::request::Builder {
        Request::builder().method(method).uri(path).header("host", HOST)
    }

    pub(super) async fn call_as(&self, key: &str, method: &str, path: &str, body: Option<Value>) -> Answer {
        let request = self.request(method, path).header("authorization", format!("Bearer {key}"));
        let request = match body {
            Some(body) => {
                request.header("content-type", "application/json").body(Body::from(body.to_string()))
            }
            None => request.body(Body::empty()),
        };
        self.send(request.unwrap()).await
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.call_as(&self.key, "GET", path, None).await
    }

    pub(super) async fn post(&self, path: &str, body: Value) -> Answer {
        self.call_as(&self.key, "POST", path, Some(body)).await
    }

    pub(super) async fn verb(&self, id: &str, verb: &str) -> Answer {
        self.call_as(&self.key, "POST", &format!("/v1/agents/{id}/{verb}"), None).await
    }

    /// Restarts control as an installation of another kind.
    pub(super) async fn switch(&mut self, mode: Mode) {
        self.config.mode = mode;
        self.restart().await;
    }

    pub(super) async fn restart(&mut self) {
        let own: SocketAddr = HOST.parse().unwrap();
        let ending = CancellationToken::new();
        self.app = assemble(&self.config, self.clock.clone(), own, ending).await.unwrap();
        self.router = api::router(self.app.clone());
    }

    /// Registers the image `debian` and tells its id.
    pub(super) async fn image(&self) -> String {
        let image = json!({"name": "debian", "digest": "ab".repeat(32), "size": 4096,
            "config": {"env": {"LANG": "C.UTF-8", "A": "image"}, "cwd": "/srv"}});
        self.post("/v1/images", image).await.expect(201)["id"].as_str().unwrap().to_owned()
    }

    /// The first account.
    pub(super) async fn account(&self) -> model::AccountId {
        let me = self.get("/v1/whoami").await.expect(200);
        me["account"].as_str().unwrap().parse().unwrap()
    }

    /// Makes an agent and tells its id.
    pub(super) async fn agent(&self, name: &str) -> String {
        let agent = self.post("/v1/agents", json!({"name": name, "image": "debian"})).await.expect(201);
        agent["id"].as_str().unwrap().to_owned()
    }
}

/// A machine, as control sees it.
pub(super) struct Machine {
    pub(super) id: NodeId,
    pub(super) installation: String,
    pub(super) pair: Ed25519KeyPair,
    pub(super) token: String,
}

pub(super) fn public(pair: &Ed25519KeyPair) -> String {
    URL_SAFE_NO_PAD.encode(pair.public_key().as_ref())
}

pub(super) fn sign(pair: &Ed25519KeyPair, claims: &NodeAssertion) -> String {
    let der = pair.to_pkcs8v1().unwrap();
    let key = EncodingKey::from_ed_der(der.as_ref());
    jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), claims, &key).unwrap()
}

impl Machine {
    pub(super) async fn enrolled(world: &World, name: &str, slots: u32) -> Self {
        let bootstrap = crate::bootstrap_token(&world.config, &name.parse().unwrap()).await.unwrap();
        let pair = Ed25519KeyPair::generate().unwrap();
        let capacity = json!({"slots": slots, "cpus": 2.0, "memory": 1u64 << 40});
        let body = json!({"public_key": public(&pair), "capacity": capacity});
        let enrolled = world.call_as(&bootstrap, "POST", "/node/v1/enroll", Some(body)).await.expect(200);
        let mut machine = Self {
            id: enrolled["node"].as_str().unwrap().parse().unwrap(),
            installation: enrolled["installation"].as_str().unwrap().to_owned(),
            pair,
            token: String::new(),
        };
        machine.renew(world).await;
        machine
    }

    /// Gets another callback token: each lasts a day.
    pub(super) async fn renew(&mut self, world: &World) {
        let assertion = sign(&self.pair, &self.assertion(world));
        let body = json!({"assertion": assertion});
        let token = world.call_as("x", "POST", "/node/v1/token", Some(body)).await.expect(200);
        self.token = token["token"].as_str().unwrap().to_owned();
    }

    pub(super) fn assertion(&self, world: &World) -> NodeAssertion {
        let now = world.clock.now().unix_timestamp();
        NodeAssertion {
            iss: self.id,
            aud: self.installation.clone(),
            jti: model::EventId::new().to_string(),
            iat: now,
            exp: now + 60,
        }
    }

    pub(super) async fn desired(&self, world: &World, query: &str) -> DesiredState {
        let path = format!("/node/v1/desired{query}");
        let json = world.call_as(&self.token, "GET", &path, None).await.expect(200);
        serde_json::from_value(json).unwrap()
    }

    pub(super) async fn report(&self, world: &World, report: &ObservedState) {
        let body = serde_json::to_value(report).unwrap();
        world.call_as(&self.token, "POST", "/node/v1/observed", Some(body)).await.expect(204);
    }

    pub(super) async fn egress(&self, world: &World, report: &EgressReport) {
        let body = serde_json::to_value(report).unwrap();
        world.call_as(&self.token, "POST", "/node/v1/egress", Some(body)).await.expect(204);
    }

    /// Reports one agent at a generation.
    pub(super) async fn saw(&self, world: &World, id: &str, generation: u64, observed: Observed) {
        let agent = seen(world, id.parse().unwrap(), generation, observed);
        self.report(world, &ObservedState { agents: vec![agent], ..ObservedState::default() }).await;
    }
}

pub(super) fn seen(world: &World, id: AgentId, generation: u64, observed: Observed) -> ObservedAgent {
    ObservedAgent {
        id,
        generation,
        observed,
        reason: None,
        evidence: Vec::new(),
        observation: None,
        workspace_url: Some("http://127.0.0.1:7701".to_owned()),
        last_activity: Some(world.clock.now()),
    }
}
