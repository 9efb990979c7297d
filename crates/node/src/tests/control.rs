//! The session against a control that holds the node to the API: one-time enrolment, signed assertions that are
//! traded once, bearer tokens that end, long polls, strict reports.

use super::wish;
use crate::control::{ClientError, EnrollError, Standing, client};
use crate::gates::{Gates, Settings};
use crate::journal::Journal;
use crate::key::NodeKey;
use crate::outbox::Outbox;
use crate::report::Reporter;
use crate::session::{ENROLLED, Session};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use model::agent::Observed;
use model::node_api::{
    CallbackToken, Capacity, DesiredState, Enroll, Enrolled, ObservedAgent, ObservedState, TokenRequest,
};
use model::token::{NodeAssertion, VerifyingKey};
use model::{Desired, KeyId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

const BOOTSTRAP: &str = "cfd_bootstrap_1";

struct Control {
    installation: String,
    node: NodeId,
    inner: Mutex<Inner>,
    desired: watch::Sender<DesiredState>,
    reports: mpsc::UnboundedSender<ObservedState>,
}

#[derive(Default)]
struct Inner {
    public_key: Option<String>,
    traded: BTreeSet<String>,
    tokens: BTreeSet<String>,
    polls: usize,
    away: bool,
    /// Of a version that does not know of observations.
    earlier: bool,
}

type Refused = (StatusCode, String);

fn refuse(status: StatusCode) -> Refused {
    (status, format!("{{\"code\":\"UNAUTHENTICATED\",\"status\":{},\"detail\":\"no\"}}", status.as_u16()))
}

impl Control {
    fn authenticate(&self, headers: &HeaderMap) -> Result<(), Refused> {
        let inner = self.inner.lock().unwrap();
        if inner.away {
            return Err(refuse(StatusCode::SERVICE_UNAVAILABLE));
        }
        let known = bearer(headers).is_some_and(|token| inner.tokens.contains(token));
        known.then_some(()).ok_or_else(|| refuse(StatusCode::UNAUTHORIZED))
    }

    fn revoke_all(&self) {
        self.inner.lock().unwrap().tokens.clear();
    }

    fn exchanges(&self) -> usize {
        self.inner.lock().unwrap().traded.len()
    }

    fn say(&self, change: impl FnOnce(&mut DesiredState)) {
        self.desired.send_modify(|state| {
            state.rev += 1;
            change(state);
        });
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get("authorization")?.to_str().ok()?.strip_prefix("Bearer ")
}

async fn enroll(
    State(control): State<Arc<Control>>,
    headers: HeaderMap,
    Json(request): Json<Enroll>,
) -> Result<Json<Enrolled>, Refused> {
    let mut inner = control.inner.lock().unwrap();
    if bearer(&headers) != Some(BOOTSTRAP) || inner.public_key.is_some() {
        return Err(refuse(StatusCode::UNAUTHORIZED));
    }
    inner.public_key = Some(request.public_key);
    Ok(Json(Enrolled { node: control.node, installation: control.installation.clone() }))
}

async fn token(
    State(control): State<Arc<Control>>,
    Json(request): Json<TokenRequest>,
) -> Result<Json<CallbackToken>, Refused> {
    let mut inner = control.inner.lock().unwrap();
    if inner.away {
        return Err(refuse(StatusCode::SERVICE_UNAVAILABLE));
    }
    let key = inner.public_key.clone().ok_or_else(|| refuse(StatusCode::UNAUTHORIZED))?;
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_audience(&[&control.installation]);
    let claims = jsonwebtoken::decode::<NodeAssertion>(
        &request.assertion,
        &DecodingKey::from_ed_components(&key).unwrap(),
        &validation,
    )
    .map_err(|_| refuse(StatusCode::UNAUTHORIZED))?
    .claims;
    if claims.iss != control.node || claims.exp - claims.iat > 60 || !inner.traded.insert(claims.jti) {
        return Err(refuse(StatusCode::UNAUTHORIZED));
    }
    let token = format!("cfd_callback_{}", inner.traded.len());
    inner.tokens.insert(token.clone());
    Ok(Json(CallbackToken { token, expires_in: 3600 }))
}

async fn desired(
    State(control): State<Arc<Control>>,
    Query(query): Query<BTreeMap<String, u64>>,
    headers: HeaderMap,
) -> Result<Json<DesiredState>, Refused> {
    control.inner.lock().unwrap().polls += 1;
    control.authenticate(&headers)?;
    let mut changes = control.desired.subscribe();
    let waited = changes.wait_for(|state| Some(&state.rev) != query.get("rev"));
    let _ = tokio::time::timeout(Duration::from_secs(query["wait"]), waited).await;
    Ok(Json(control.desired.borrow().clone()))
}

async fn observed(
    State(control): State<Arc<Control>>,
    headers: HeaderMap,
    Json(report): Json<ObservedState>,
) -> Result<impl IntoResponse, Refused> {
    control.authenticate(&headers)?;
    if control.inner.lock().unwrap().earlier && report.agents.iter().any(|agent| agent.observation.is_some())
    {
        return Err(refuse(StatusCode::BAD_REQUEST));
    }
    let _ = control.reports.send(report);
    Ok(StatusCode::NO_CONTENT)
}

/// A control and a session, in one directory.
struct World {
    control: Arc<Control>,
    origin: String,
    reports: mpsc::UnboundedReceiver<ObservedState>,
    directory: tempfile::TempDir,
    journal: Arc<Journal>,
    reporter: Arc<Reporter>,
    applied: mpsc::UnboundedReceiver<DesiredState>,
    session: Option<Session>,
    attempt: oneshot::Receiver<()>,
}

impl World {
    async fn new() -> Self {
        let (reports, received) = mpsc::unbounded_channel();
        let installation = "ins_1".to_owned();
        let state = DesiredState {
            installation: installation.clone(),
            database_epoch: 3,
            rev: 1,
            agents: vec![wish(Desired::Running, 1)],
            since: None,
            gone: Vec::new(),
            keys: vec![VerifyingKey { kid: KeyId::new(), x: "AAAA".into() }],
            attention: Vec::new(),
        };
        let control = Arc::new(Control {
            installation,
            node: NodeId::new(),
            inner: Mutex::default(),
            desired: watch::channel(state).0,
            reports,
        });
        let router = Router::new()
            .route("/node/v1/enroll", post(enroll))
            .route("/node/v1/token", post(token))
            .route("/node/v1/desired", get(desired))
            .route("/node/v1/observed", post(observed))
            .with_state(control.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });

        let directory = tempfile::tempdir().unwrap();
        let journal = Arc::new(Journal::open(&directory.path().join("node"), directory.path()).unwrap());
        let reporter = Arc::new(Reporter::default());
        let settings = Settings {
            directory: directory.path().join("gates"),
            guard: "127.0.0.1:0".parse().unwrap(),
            // Nobody else's: whatever runs under these is ended.
            uid_first: 0x6a00_0000,
            jail: "/nonexistent".into(),
            program: "/nonexistent".into(),
            linger: std::time::Duration::from_millis(50),
            egress: crate::Egress::default(),
            tools: BTreeMap::new(),
            sandbox: None,
        };
        let outbox = Arc::new(Outbox::new());
        let gates = Gates::open(settings, journal.clone(), reporter.clone(), outbox.clone()).unwrap();
        let (apply, applied) = mpsc::unbounded_channel();
        let (attempted, attempt) = oneshot::channel();
        let session = Session {
            journal: journal.clone(),
            gates,
            reporter: reporter.clone(),
            outbox,
            secrets: Arc::default(),
            apply: Box::new(move |state| {
                let _ = apply.send(state);
                None
            }),
            http: client(&origin, None).unwrap().0,
            origin: origin.clone(),
            capacity: Capacity { slots: 4, cpus: 2.0, memory: 1 << 30 },
            attempted: Some(attempted),
        };
        let session = Some(session);
        Self { control, origin, reports: received, directory, journal, reporter, applied, session, attempt }
    }

    fn root(&self) -> &Path {
        self.journal.root()
    }

    fn key(&self) -> NodeKey {
        NodeKey::load_or_make(self.root()).unwrap()
    }

    fn write_bootstrap(&self, token: &str) {
        std::fs::write(self.root().join("bootstrap-token"), format!("{token}\n")).unwrap();
    }

    fn start(&mut self) -> tokio::task::JoinHandle<Result<(), EnrollError>> {
        let standing = self.journal.read_own(ENROLLED).unwrap();
        let (session, key) = (self.session.take().unwrap(), self.key());
        tokio::spawn(session.run(key, standing))
    }

    async fn applied(&mut self) -> DesiredState {
        within(self.applied.recv()).await.unwrap()
    }

    async fn reported(&mut self) -> ObservedState {
        loop {
            let report = within(self.reports.recv()).await.unwrap();
            // The first one says that there is nothing to say.
            if !report.agents.is_empty() {
                return report;
            }
        }
    }
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what).await.expect("it did not happen in 20 s")
}

fn running(state: &DesiredState) -> ObservedAgent {
    ObservedAgent {
        id: state.agents[0].spec.id,
        generation: state.agents[0].generation,
        observed: Observed::Running,
        reason: None,
        evidence: Vec::new(),
        observation: None,
        workspace_url: Some("http://127.0.0.1:7701".into()),
        last_activity: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn enrols_pulls_and_reports() {
    let mut world = World::new().await;
    world.write_bootstrap(BOOTSTRAP);
    let session = world.start();
    let state = world.applied().await;
    assert_eq!((state.rev, state.agents.len()), (1, 1));
    within(&mut world.attempt).await.unwrap();
    assert!(!world.root().join("bootstrap-token").exists(), "a used token does not lie around");
    let standing: Standing = world.journal.read_own(ENROLLED).unwrap().unwrap();
    assert_eq!((standing.node, standing.database_epoch), (world.control.node, 3));
    assert_eq!(standing.keys, state.keys, "gates need them when control is away");

    world.reporter.set(running(&state));
    assert_eq!(world.reported().await.agents, [running(&state)]);
    world.control.say(|state| state.agents[0].generation = 2);
    assert_eq!(world.applied().await.agents[0].generation, 2);
    assert_eq!(world.control.exchanges(), 1);

    // Every token is revoked: the node proves itself again, with a new assertion.
    world.control.revoke_all();
    world.reporter.set(ObservedAgent { observed: Observed::Paused, ..running(&state) });
    assert_eq!(world.reported().await.agents[0].observed, Observed::Paused);
    assert_eq!(world.control.exchanges(), 2);
    session.abort();
}

/// Control may be of an earlier version, and refuse what it does not know.
#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_control_is_told_what_it_knows() {
    let mut world = World::new().await;
    world.write_bootstrap(BOOTSTRAP);
    let session = world.start();
    let state = world.applied().await;
    let observation = Some(model::evidence::Observation {
        at: time::OffsetDateTime::UNIX_EPOCH,
        kernel: "6.18".to_owned(),
        version: "0.2.0".to_owned(),
        init: String::new(),
    });
    let seen = ObservedAgent { observation, ..running(&state) };
    world.reporter.set(seen.clone());
    assert_eq!(world.reported().await.agents, std::slice::from_ref(&seen));
    world.control.inner.lock().unwrap().earlier = true;
    world.reporter.set(ObservedAgent { observed: Observed::Paused, ..seen });
    assert_eq!(
        world.reported().await.agents,
        [ObservedAgent { observed: Observed::Paused, ..running(&state) }]
    );
    session.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn obeys_nobody_else() {
    let mut world = World::new().await;
    world.write_bootstrap(BOOTSTRAP);
    let session = world.start();
    world.applied().await;
    // An older database, then one of another installation, both with an order to destroy.
    let agents = world.control.desired.borrow().agents.clone();
    world.control.say(|state| {
        state.database_epoch = 2;
        state.agents[0].desired = Desired::Destroyed;
        state.agents[0].generation = 9;
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.control.say(|state| {
        state.database_epoch = 9;
        state.installation = "ins_2".into();
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(world.applied.try_recv().is_err(), "nothing was acted on");
    world.control.say(|state| {
        state.installation = "ins_1".into();
        state.database_epoch = 4;
        state.agents = agents;
    });
    let state = world.applied().await;
    assert_eq!((state.database_epoch, state.agents[0].desired), (4, Desired::Running));
    let standing: Standing = world.journal.read_own(ENROLLED).unwrap().unwrap();
    assert_eq!((standing.installation.as_str(), standing.database_epoch), ("ins_1", 4));
    session.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_sat_out() {
    let mut world = World::new().await;
    world.write_bootstrap(BOOTSTRAP);
    let session = world.start();
    let state = world.applied().await;
    world.control.say(|_| {});
    world.applied().await;
    world.control.inner.lock().unwrap().away = true;
    // The poll that may be under way is answered; those after it are not.
    world.control.say(|_| {});
    let before = world.control.inner.lock().unwrap().polls;
    world.reporter.set(running(&state));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    while world.applied.try_recv().is_ok() {}
    let polls = world.control.inner.lock().unwrap().polls - before;
    assert!((1..=8).contains(&polls), "{polls} calls in 1.5 s of outage");
    while let Ok(report) = world.reports.try_recv() {
        assert!(report.agents.is_empty(), "{report:?} was taken by a control that is away");
    }
    world.control.inner.lock().unwrap().away = false;
    world.applied().await;
    // Nothing was lost, and after an outage the whole is said again.
    assert_eq!(world.reported().await.agents, [running(&state)]);
    session.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_is_not_given() {
    let mut world = World::new().await;
    let error = within(world.start()).await.unwrap().unwrap_err();
    assert!(matches!(error, EnrollError::NoToken(_)), "{error}");

    let mut world = World::new().await;
    world.write_bootstrap("cfd_bootstrap_2");
    let error = within(world.start()).await.unwrap().unwrap_err();
    assert!(matches!(error, EnrollError::Refused { .. }), "{error}");
    assert!(world.root().join("bootstrap-token").exists());
    assert!(world.directory.path().exists() && !world.origin.is_empty());
}

#[test]
fn authorities_that_are_none_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    let made = || client("https://control.example", Some(&path));
    let error = made().err().unwrap();
    assert!(matches!(error, ClientError::Read { .. }), "{error}");
    let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for text in ["", "nonsense", damaged] {
        std::fs::write(&path, text).unwrap();
        let error = made().err().unwrap();
        assert!(matches!(error, ClientError::NoAuthority { .. }), "{text}: {error}");
        assert!(error.to_string().contains("control_ca"), "{error}");
    }
    let params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
    std::fs::write(&path, certificate).unwrap();
    assert_eq!(made().unwrap().1, "https://control.example");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolled_node_is_ready_without_control() {
    let mut world = World::new().await;
    let standing =
        Standing { node: NodeId::new(), installation: "ins_1".into(), database_epoch: 1, keys: Vec::new() };
    world.journal.write_own(ENROLLED, &standing).unwrap();
    world.control.inner.lock().unwrap().away = true;
    let session = world.start();
    within(&mut world.attempt).await.unwrap();
    assert!(world.applied.try_recv().is_err());
    session.abort();
}
