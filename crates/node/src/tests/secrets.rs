//! Secrets on their way from control, which is played here, to a gate, which is a script: each message that it hears is a line of
//! the test.

use super::gates::{World, agent};
use super::spec;
use crate::control::{Caller, Standing};
use crate::key::NodeKey;
use crate::secrets::{Secrets, Unready};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use model::gate_api::{Condition, Credential, ToGate};
use model::node_api::{AgentSecret, AgentSecrets, CallbackToken, SealedSecrets, SecretsRequest};
use model::secret::SecretValue;
use model::token::SealAssertion;
use model::{AccountId, AgentId, NodeId};
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256;
use rustls::crypto::hpke::{Hpke, HpkePublicKey};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Says what it hears, as long as it hears something.
const ECHO: &str = "while read -r line <&3; do echo \"$line\" >&9; done\n";
/// More than anything takes here.
const LONG: Duration = Duration::from_secs(20);

/// What control does with a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    Answer,
    /// Seals to a key of its own.
    OtherKey,
    /// Seals what is another agent's.
    OtherAgent,
    /// Seals it as if it were of the revision after.
    OtherRevision,
    /// Seals something else.
    Nonsense,
    /// Has only what was before.
    Behind,
    /// Says no.
    Refuse,
    /// Has an outage.
    Away,
}

struct Control {
    node: NodeId,
    public_key: String,
    inner: Mutex<Inner>,
}

struct Inner {
    does: Does,
    revision: u64,
    secrets: Vec<AgentSecret>,
    nonces: BTreeSet<String>,
    asked: usize,
    /// How often the agent was given to another account.
    transfers: u64,
}

async fn token() -> Json<CallbackToken> {
    Json(CallbackToken { token: "cfd_callback_1".into(), expires_in: 3600 })
}

async fn secrets(
    State(control): State<Arc<Control>>,
    Path(agent): Path<AgentId>,
    headers: HeaderMap,
    Json(request): Json<SecretsRequest>,
) -> Result<Json<SealedSecrets>, (StatusCode, String)> {
    assert_eq!(headers["authorization"], "Bearer cfd_callback_1");
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_audience(&["ins_1/secrets"]);
    let key = DecodingKey::from_ed_components(&control.public_key).unwrap();
    let claims = jsonwebtoken::decode::<SealAssertion>(&request.assertion, &key, &validation).unwrap().claims;
    assert_eq!((claims.iss, claims.sub), (control.node, agent));
    assert!(claims.exp - claims.iat <= 60);
    let seal = URL_SAFE_NO_PAD.decode(claims.seal).unwrap();
    assert_eq!(seal.len(), 32);

    let mut inner = control.inner.lock().unwrap();
    assert!(inner.nonces.insert(claims.jti), "one question, one assertion");
    inner.asked += 1;
    let problem = |status: StatusCode, code| {
        let text = format!(
            "{{\"code\":\"{code}\",\"status\":{},\"detail\":\"its key is locked\"}}",
            status.as_u16()
        );
        Err((status, text))
    };
    if request.transfers != inner.transfers {
        return problem(StatusCode::CONFLICT, "WRONG_STATE");
    }
    match inner.does {
        Does::Refuse => return problem(StatusCode::CONFLICT, "CONFLICT"),
        Does::Away => return problem(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
        _ => {}
    }
    let suite = DH_KEM_X25519_HKDF_SHA256_AES_256;
    let to = match inner.does {
        Does::OtherKey => suite.generate_key_pair().unwrap().0,
        _ => HpkePublicKey(seal),
    };
    let revision = if inner.does == Does::Behind { inner.revision - 1 } else { inner.revision };
    let aad = match inner.does {
        Does::OtherAgent => SealedSecrets::aad(AgentId::new(), revision),
        Does::OtherRevision => SealedSecrets::aad(agent, revision + 1),
        _ => SealedSecrets::aad(agent, revision),
    };
    let plain = match inner.does {
        Does::Nonsense => b"{\"secrets\":[{\"name\":\"a\",\"value\":\"planted-nonsense".to_vec(),
        _ => serde_json::to_vec(&AgentSecrets { secrets: inner.secrets.clone() }).unwrap(),
    };
    let (enc, ciphertext) = suite.seal(SealedSecrets::INFO, aad.as_bytes(), &plain, &to).unwrap();
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    Ok(Json(SealedSecrets { revision, enc: encode(&enc.0), ciphertext: encode(&ciphertext) }))
}

fn secret(name: &str, value: &str, placeholder: Option<&str>) -> AgentSecret {
    AgentSecret {
        name: name.parse().unwrap(),
        value: SecretValue::new(value.to_owned()),
        placeholder: placeholder.map(|random| format!("cofferdam-placeholder-{random}")),
    }
}

const RANDOM: &str = "abcdefghijklmnopqrstuvwxyz234567";

/// A node's part between a control and a gate.
struct Node {
    control: Arc<Control>,
    caller: Arc<Caller>,
    world: World,
    secrets: Arc<Secrets>,
    running: JoinHandle<()>,
    account: AccountId,
    agent: AgentId,
}

impl Node {
    async fn new(gate: &str) -> Self {
        let world = World::new(gate);
        let key = NodeKey::load_or_make(&world.directory.path().join("node")).unwrap();
        let standing = Standing {
            node: NodeId::new(),
            installation: "ins_1".into(),
            database_epoch: 1,
            keys: Vec::new(),
        };
        let control = Arc::new(Control {
            node: standing.node,
            public_key: key.public().to_owned(),
            inner: Mutex::new(Inner {
                does: Does::Answer,
                revision: 1,
                secrets: vec![secret("api", "planted-1", Some(RANDOM)), secret("own", "planted-own", None)],
                nonces: BTreeSet::new(),
                asked: 0,
                transfers: 0,
            }),
        });
        let router = Router::new()
            .route("/node/v1/token", post(token))
            .route("/node/v1/agents/{agent}/secrets", post(secrets))
            .with_state(control.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let http = crate::control::client(&origin, None).unwrap().0;
        let caller = Arc::new(Caller::new(http, &origin, key, &standing));
        let spec = spec();
        let (secrets, running) = begin(&caller, &world);
        Self { control, caller, world, secrets, running, account: spec.account, agent: spec.id }
    }

    /// Its gate runs, and knows its agent. Back come no lines that were said about that.
    async fn with_agent(gate: &str) -> Self {
        let mut node = Self::new(gate).await;
        node.world.gates.ensure(node.account).unwrap();
        assert!(node.world.line().await.contains("\"state\""));
        node.world.gates.set(node.account, agent(node.agent, Condition::Running), None, None);
        assert!(node.world.line().await.contains("\"set\""));
        node
    }

    fn does(&self, does: Does) {
        self.control.inner.lock().unwrap().does = does;
    }

    /// The secret has another value.
    fn rotate(&self, value: &str) {
        let mut inner = self.control.inner.lock().unwrap();
        inner.secrets[0].value = SecretValue::new(value.to_owned());
        inner.revision += 1;
    }

    fn asked(&self) -> usize {
        self.control.inner.lock().unwrap().asked
    }

    fn heard(&self, revision: u64) {
        self.secrets.heard(self.agent, revision, 0, &self.world.gates);
    }

    /// The next thing that the gate hears is about credentials: their values.
    async fn credentials(&mut self) -> Vec<String> {
        match serde_json::from_str(&self.world.line().await).unwrap() {
            ToGate::Credentials { agent, credentials } if agent == self.agent => {
                credentials.iter().map(|credential| credential.value.expose().to_owned()).collect()
            }
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.running.abort();
    }
}

fn begin(caller: &Arc<Caller>, world: &World) -> (Arc<Secrets>, JoinHandle<()>) {
    let secrets = Arc::new(Secrets::default());
    let (run, caller, gates) = (secrets.clone(), caller.clone(), world.gates.clone());
    (secrets, tokio::spawn(async move { run.run(&caller, &gates).await }))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sealed_reaches_the_gate_and_the_start() {
    let mut node = Node::with_agent(ECHO).await;
    node.heard(1);
    // Nobody has use of them yet.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(node.asked(), 0);
    let values = node.secrets.of(node.agent, LONG).await.unwrap();
    assert_eq!(values.iter().map(|own| own.value.expose()).collect::<Vec<_>>(), ["planted-1", "planted-own"]);
    let credential = Credential {
        secret: "api".parse().unwrap(),
        value: SecretValue::new("planted-1".into()),
        placeholder: format!("cofferdam-placeholder-{RANDOM}"),
    };
    // What the agent is given itself is none of its gate's business.
    match serde_json::from_str(&node.world.line().await).unwrap() {
        ToGate::Credentials { credentials, .. } => assert_eq!(credentials, [credential]),
        other => panic!("{other:?}"),
    }
    // It is asked for once.
    node.heard(1);
    node.secrets.need(node.agent);
    node.secrets.of(node.agent, LONG).await.unwrap();
    assert_eq!(node.asked(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_secrets_asks_for_none() {
    let node = Node::with_agent(ECHO).await;
    node.heard(0);
    assert!(node.secrets.of(node.agent, LONG).await.unwrap().is_empty());
    assert_eq!(node.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_for_somebody_else_is_none() {
    let wrong = [Does::OtherKey, Does::OtherAgent, Does::OtherRevision, Does::Nonsense, Does::Behind];
    for does in wrong {
        let mut node = Node::with_agent(ECHO).await;
        node.does(does);
        node.heard(1);
        match node.secrets.of(node.agent, Duration::from_millis(300)).await {
            Err(Unready::Away { detail, .. }) => assert!(!detail.contains("planted"), "{does:?}: {detail}"),
            other => panic!("{does:?}: {other:?}"),
        }
        assert!(node.asked() > 0, "{does:?}");
        // The gate heard of none of them: the first that it hears of are the right ones.
        node.does(Does::Answer);
        node.secrets.of(node.agent, LONG).await.unwrap();
        assert_eq!(node.credentials().await, ["planted-1"], "{does:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn control_may_be_away_or_refuse() {
    let mut node = Node::with_agent(ECHO).await;
    // It was not heard since the node started.
    match node.secrets.of(node.agent, Duration::from_millis(50)).await {
        Err(Unready::Away { detail, .. }) => assert!(detail.contains("not heard"), "{detail}"),
        other => panic!("{other:?}"),
    }
    node.does(Does::Away);
    node.heard(1);
    let error = node.secrets.of(node.agent, Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(error, Unready::Away { .. }), "{error}");
    node.does(Does::Answer);
    node.secrets.of(node.agent, LONG).await.unwrap();
    assert_eq!(node.credentials().await, ["planted-1"]);
    // Nobody waits for an answer that is no.
    node.does(Does::Refuse);
    node.rotate("planted-2");
    node.heard(2);
    let error = node.secrets.of(node.agent, LONG).await.unwrap_err();
    assert!(matches!(&error, Unready::Refused(words) if words.contains("its key is locked")), "{error}");
    // What is done about it counts with the next start, at once.
    node.does(Does::Answer);
    node.secrets.rest(node.agent, &node.world.gates);
    assert!(node.credentials().await.is_empty());
    node.secrets.of(node.agent, LONG).await.unwrap();
    assert_eq!(node.credentials().await, ["planted-2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_value_reaches_the_gate_while_the_agent_runs() {
    let mut node = Node::with_agent(ECHO).await;
    node.secrets.need(node.agent);
    node.heard(1);
    assert_eq!(node.credentials().await, ["planted-1"]);
    node.rotate("planted-2");
    node.heard(2);
    assert_eq!(node.credentials().await, ["planted-2"]);
    // While the next is not to be had, the gate keeps the one that it has; with the last it has none.
    node.does(Does::Away);
    node.heard(3);
    tokio::time::sleep(Duration::from_millis(200)).await;
    node.heard(0);
    assert!(node.credentials().await.is_empty());
}

/// What an agent is to have and its secrets come by two ways: a start takes none of a time that it was not told of.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_ahead_of_the_wish_waits_for_it() {
    let mut node = Node::with_agent(ECHO).await;
    node.rotate("planted-2");
    node.secrets.need(node.agent);
    node.heard(1);
    // The gate may have them at once.
    assert_eq!(node.credentials().await, ["planted-2"]);
    let error = node.secrets.of(node.agent, Duration::from_millis(100)).await.unwrap_err();
    assert!(matches!(error, Unready::Away { .. }), "{error}");
    node.heard(2);
    node.secrets.of(node.agent, LONG).await.unwrap();
    assert_eq!(node.asked(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_starts_again_gets_them_again() {
    // It ends after each two lines.
    let mut node = Node::new("for n in 1 2; do read -r line <&3 || exit; echo \"$line\" >&9; done\n").await;
    // They may be there before the gate.
    node.heard(1);
    node.secrets.of(node.agent, LONG).await.unwrap();
    node.world.gates.ensure(node.account).unwrap();
    node.world.gates.set(node.account, agent(node.agent, Condition::Running), None, None);
    let mut heard = 0;
    while heard < 3 {
        let line = node.world.line().await;
        if line.contains("\"credentials\"") {
            assert!(line.contains("planted-1"));
            heard += 1;
        }
    }
    assert_eq!(node.asked(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_again_asks_again() {
    let mut node = Node::with_agent(ECHO).await;
    node.secrets.need(node.agent);
    node.heard(1);
    assert_eq!(node.credentials().await, ["planted-1"]);
    node.running.abort();
    (node.secrets, node.running) = begin(&node.caller, &node.world);
    node.rotate("planted-2");
    // An agent that it adopts, of which control says what it said before.
    node.secrets.need(node.agent);
    node.heard(2);
    assert_eq!(node.credentials().await, ["planted-2"]);
    assert_eq!(node.asked(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn those_of_an_agent_that_went_are_forgotten() {
    let mut node = Node::with_agent(ECHO).await;
    node.heard(1);
    node.secrets.need(node.agent);
    assert_eq!(node.credentials().await, ["planted-1"]);
    node.secrets.rest(node.agent, &node.world.gates);
    assert!(node.credentials().await.is_empty());
    // What control says of it meanwhile is not asked for.
    node.rotate("planted-2");
    node.heard(2);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(node.asked(), 1);
    node.secrets.need(node.agent);
    assert_eq!(node.credentials().await, ["planted-2"]);
    // Gone for good, its gate hears that, and there is nothing to hear of another agent of that id.
    node.secrets.rest(node.agent, &node.world.gates);
    node.secrets.forget(node.agent);
    assert!(node.credentials().await.is_empty());
    node.world.gates.remove(node.account, node.agent);
    assert!(node.world.line().await.contains("\"gone\""));
    // Nothing of it was written.
    for entry in walk(node.world.directory.path()) {
        let bytes = std::fs::read(&entry).unwrap();
        assert!(!bytes.windows(7).any(|part| part == b"planted"), "{}", entry.display());
    }
}

/// All files beneath.
fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries
        .flat_map(|entry| match entry.file_type().unwrap() {
            kind if kind.is_dir() => walk(&entry.path()),
            kind if kind.is_file() => vec![entry.path()],
            _ => Vec::new(),
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn by_what_servers_are_verified_comes_first() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "certificates").unwrap();
    let resolver = "tls://9.9.9.9#dns.example".parse().unwrap();
    let egress = crate::Egress { roots: file.path().to_owned(), resolver, ..crate::Egress::default() };
    let mut world = World::with(ECHO, egress);
    world.gates.ensure(AccountId::new()).unwrap();
    match serde_json::from_str(&world.line().await).unwrap() {
        ToGate::Roots { pem } => assert_eq!(pem, "certificates"),
        other => panic!("{other:?}"),
    }
    match serde_json::from_str(&world.line().await).unwrap() {
        ToGate::Resolver { resolver } => assert_eq!(resolver.to_string(), "tls://9.9.9.9:853#dns.example"),
        other => panic!("{other:?}"),
    }
    assert!(world.line().await.contains("\"state\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_account_bound_is_asked_for_once_the_agent_is_that_accounts() {
    let node = Node::with_agent(ECHO).await;
    node.heard(1);
    // Given away, and this node has not acted on it: it asks for the account before, and is told nothing.
    node.control.inner.lock().unwrap().transfers = 1;
    let early = node.secrets.of(node.agent, LONG).await;
    assert!(matches!(early, Err(Unready::Refused(_))), "{early:?}");
    node.secrets.heard(node.agent, 1, 1, &node.world.gates);
    assert!(node.secrets.of(node.agent, LONG).await.is_ok());
}
