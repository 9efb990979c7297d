//! The node's own caller of control: enrols, proves itself, pulls, reports.
//!
//! What control answers is data: it is bounded, parsed strictly, and never shown to a shell or a path.

use crate::journal::JournalError;
use crate::key::{KeyError, NodeKey};
use crate::secrets::{Seal, SealError};
use model::egress::{Attention, EgressReport};
use model::node_api::{
    AgentSecret, CallbackToken, Capacity, DesiredAgent, DesiredState, Enroll, Enrolled, ImagesInUse,
    ObservedState, SealedSecrets, SecretsRequest, TokenRequest,
};
use model::token::VerifyingKey;
use model::{AgentId, NodeId, Problem};
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::Mutex;
use tokio::time::Instant;
use zeroize::Zeroizing;

/// How long control may hold a question for desired state. With each question control hears that the node still
/// speaks, and acts on an idle timeout only then.
pub(crate) const WAIT: Duration = Duration::from_secs(10);
/// What an answer may take beyond that.
const PATIENCE: Duration = Duration::from_secs(15);
/// The largest answer that is read.
const MAX_ANSWER: usize = 64 << 20;

/// Why a call to control did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No connection, or it broke.
    #[error("control at {origin} does not answer")]
    Unreachable {
        /// Where.
        origin: String,
        /// Why.
        source: reqwest::Error,
    },
    /// It answered that it will not.
    #[error("control answered {status}: {detail}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Its words.
        detail: String,
    },
    /// It answered something else.
    #[error("control's answer to {what} cannot be read: {detail}")]
    Malformed {
        /// What was asked.
        what: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// No assertion could be made.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl CallError {
    /// Whether asking the same again is pointless.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { status: 400 | 404 | 409 | 413 | 422, .. })
    }

    fn is_unauthenticated(&self) -> bool {
        matches!(self, Self::Refused { status: 401, .. })
    }
}

/// What the node remembers of its place in an installation, and what its gates need when control is away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// Who this node is.
    pub node: NodeId,
    /// The only installation that it obeys.
    pub installation: String,
    /// The highest that was seen.
    pub database_epoch: u64,
    /// The newest keys that verify workspace tokens. Public.
    pub keys: Vec<VerifyingKey>,
}

/// Why a desired state is not acted on. Agents live on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Foreign {
    /// Another installation.
    #[error(
        "control speaks for the installation {theirs}, and this node belongs to {ours}: nothing is changed; \
         point `control` in node.toml to the right one"
    )]
    Installation {
        /// Whose node this is.
        ours: String,
        /// Who spoke.
        theirs: String,
    },
    /// An older state of the database than was seen before.
    #[error(
        "control's database has the epoch {theirs}, and this node has seen {ours}: an old copy is being served, \
         nothing is changed; restore it through `cofferdam` so that its epoch is raised"
    )]
    Epoch {
        /// Seen before.
        ours: u64,
        /// Offered.
        theirs: u64,
    },
}

impl Standing {
    /// Whether what speaks is what the node enrolled with, or follows it.
    pub(crate) fn check(&self, installation: &str, database_epoch: u64) -> Result<(), Foreign> {
        if installation != self.installation {
            return Err(Foreign::Installation {
                ours: self.installation.clone(),
                theirs: installation.escape_debug().take(128).collect(),
            });
        }
        if database_epoch < self.database_epoch {
            return Err(Foreign::Epoch { ours: self.database_epoch, theirs: database_epoch });
        }
        Ok(())
    }
}

/// As [`DesiredState`], but one agent that cannot be read does not hide the others.
#[derive(Deserialize)]
struct RawDesired {
    installation: String,
    database_epoch: u64,
    rev: u64,
    #[serde(default)]
    since: Option<u64>,
    #[serde(default)]
    gone: Vec<AgentId>,
    agents: Vec<serde_json::Value>,
    keys: Vec<VerifyingKey>,
    #[serde(default)]
    attention: Vec<Attention>,
}

/// The revision that the node has in whole, and in which database epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    pub rev: u64,
    pub epoch: u64,
}

struct Held {
    token: Zeroizing<String>,
    /// Renewed from here on.
    half: Instant,
    /// Useless from here on.
    end: Instant,
}

/// Speaks to control in the name of one node.
pub(crate) struct Caller {
    http: reqwest::Client,
    origin: String,
    key: NodeKey,
    node: NodeId,
    installation: String,
    token: Mutex<Option<Held>>,
}

/// Why control cannot be called at all.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The authorities could not be read.
    #[error("cannot read {}, which `control_ca` in node.toml names", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("{}, which `control_ca` in node.toml names, holds no certificate of an authority in PEM", path.display())]
    NoAuthority {
        /// Which file.
        path: PathBuf,
    },
    /// No HTTP client.
    #[error("could not prepare calls to control")]
    Http(#[source] reqwest::Error),
}

/// A client that speaks to control only: no proxy of the environment, no redirects to elsewhere. With the origin to call
/// with it: a socket has no name of its own. `authorities` is a file with those that control's certificate has to come from.
pub(crate) fn client(
    control: &str,
    authorities: Option<&Path>,
) -> Result<(reqwest::Client, String), ClientError> {
    let socket = control.strip_prefix("unix://");
    let mut builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(5))
        .timeout(WAIT + PATIENCE);
    if let Some(path) = socket {
        builder = builder.unix_socket(path);
    }
    if let Some(path) = authorities {
        builder = builder.tls_certs_only(certificates(path)?);
    }
    let origin = if socket.is_some() { "http://localhost" } else { control };
    // What is in the file was not looked into before this.
    let client = builder.build().map_err(|source| match authorities {
        Some(path) => ClientError::NoAuthority { path: path.to_owned() },
        None => ClientError::Http(source),
    });
    Ok((client?, origin.to_owned()))
}

fn certificates(path: &Path) -> Result<Vec<reqwest::Certificate>, ClientError> {
    let pem = std::fs::read(path).map_err(|source| ClientError::Read { path: path.to_owned(), source })?;
    let certificates = reqwest::Certificate::from_pem_bundle(&pem).unwrap_or_default();
    if certificates.is_empty() {
        return Err(ClientError::NoAuthority { path: path.to_owned() });
    }
    Ok(certificates)
}

/// Trades the bootstrap token for a place in the installation.
pub(crate) async fn enroll(
    http: &reqwest::Client,
    origin: &str,
    key: &NodeKey,
    bootstrap: &str,
    capacity: Capacity,
) -> Result<Enrolled, CallError> {
    let body = Enroll { public_key: key.public().to_owned(), capacity };
    let request = http.post(format!("{origin}/node/v1/enroll")).bearer_auth(bootstrap).json(&body);
    answer(origin, "enroll", request).await
}

impl Caller {
    /// Nothing is sent yet.
    pub(crate) fn new(http: reqwest::Client, origin: &str, key: NodeKey, standing: &Standing) -> Self {
        Self {
            http,
            origin: origin.to_owned(),
            key,
            node: standing.node,
            installation: standing.installation.clone(),
            token: Mutex::new(None),
        }
    }

    /// All that this node should make true; waits until it is not `rev` any more.
    pub(crate) async fn desired(&self, known: Option<Known>) -> Result<DesiredState, CallError> {
        let wait = WAIT.as_secs();
        let query = match known {
            Some(Known { rev, epoch }) => format!("?rev={rev}&wait={wait}&epoch={epoch}"),
            // Without a wait: the first question is also whether control is there.
            None => "?rev=0&wait=0".to_owned(),
        };
        let raw: RawDesired = self.call(Method::GET, &format!("desired{query}"), None::<&()>).await?;
        let agents = raw.agents.into_iter().filter_map(|value| {
            let id = value.pointer("/spec/id").and_then(|id| id.as_str()).map(str::to_owned);
            serde_json::from_value::<DesiredAgent>(value)
                .map_err(|error| {
                    tracing::error!(agent = ?id, %error, "this agent's desired state cannot be read; left as it is");
                })
                .ok()
        });
        Ok(DesiredState {
            agents: agents.collect(),
            installation: raw.installation,
            database_epoch: raw.database_epoch,
            rev: raw.rev,
            since: raw.since,
            gone: raw.gone,
            keys: raw.keys,
            attention: raw.attention,
        })
    }

    /// What no store may lose.
    pub(crate) async fn images(&self) -> Result<ImagesInUse, CallError> {
        self.call(Method::GET, "images", None::<&()>).await
    }

    /// What the node saw.
    pub(crate) async fn report(&self, report: &ObservedState) -> Result<(), CallError> {
        let _: serde::de::IgnoredAny = self.call(Method::POST, "observed", Some(report)).await?;
        Ok(())
    }

    /// What left agents, and what waits.
    pub(crate) async fn report_egress(&self, report: &EgressReport) -> Result<(), CallError> {
        let _: serde::de::IgnoredAny = self.call(Method::POST, "egress", Some(report)).await?;
        Ok(())
    }

    /// An agent's secrets, and as of which revision; asked for as one that was given to another account so often.
    pub(crate) async fn secrets(
        &self,
        agent: AgentId,
        transfers: u64,
    ) -> Result<(u64, Vec<AgentSecret>), CallError> {
        let malformed = |error: SealError| CallError::Malformed {
            what: "a question for secrets",
            detail: error.to_string(),
        };
        let seal = Seal::new().map_err(malformed)?;
        let now = OffsetDateTime::now_utc();
        let assertion = self.key.seal_assertion(self.node, &self.installation, agent, seal.public(), now)?;
        let path = format!("agents/{agent}/secrets");
        let sealed: SealedSecrets =
            self.call(Method::POST, &path, Some(&SecretsRequest { assertion, transfers })).await?;
        Ok((sealed.revision, seal.open(agent, &sealed).map_err(malformed)?))
    }

    async fn call<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<T, CallError> {
        for attempt in 0.. {
            let token = self.token().await?;
            let mut request = self
                .http
                .request(method.clone(), format!("{}/node/v1/{path}", self.origin))
                .bearer_auth(token.as_str());
            if let Some(body) = body {
                request = request.json(body);
            }
            match answer(&self.origin, "a call", request).await {
                Err(error) if error.is_unauthenticated() && attempt == 0 => self.discard(&token).await,
                other => return other,
            }
        }
        unreachable!("the second attempt returns")
    }

    /// The token, renewed when half of its life is over. While a renewal fails, the old one is good to its end.
    async fn token(&self) -> Result<Zeroizing<String>, CallError> {
        let mut held = self.token.lock().await;
        let now = Instant::now();
        if let Some(held) = held.as_ref().filter(|held| now < held.half) {
            return Ok(held.token.clone());
        }
        match self.exchange().await {
            Ok(fresh) => {
                let token = fresh.token.clone();
                *held = Some(fresh);
                Ok(token)
            }
            Err(error) => match held.as_ref().filter(|held| now < held.end) {
                Some(held) => Ok(held.token.clone()),
                None => Err(error),
            },
        }
    }

    async fn exchange(&self) -> Result<Held, CallError> {
        let assertion = self.key.assertion(self.node, &self.installation, OffsetDateTime::now_utc())?;
        let asked = Instant::now();
        let request =
            self.http.post(format!("{}/node/v1/token", self.origin)).json(&TokenRequest { assertion });
        let token: CallbackToken = answer(&self.origin, "token", request).await?;
        // A life of no time at all would mean an exchange before every call.
        let life = Duration::from_secs(token.expires_in.clamp(2, 86_400));
        Ok(Held { token: Zeroizing::new(token.token), half: asked + life / 2, end: asked + life })
    }

    /// Control does not know this token any more; another task may have replaced it already.
    async fn discard(&self, token: &str) {
        let mut held = self.token.lock().await;
        if held.as_ref().is_some_and(|held| held.token.as_str() == token) {
            *held = None;
        }
    }
}

async fn answer<T: DeserializeOwned>(
    origin: &str,
    what: &'static str,
    request: reqwest::RequestBuilder,
) -> Result<T, CallError> {
    let unreachable = |source: reqwest::Error| CallError::Unreachable {
        origin: origin.to_owned(),
        source: source.without_url(),
    };
    let mut response = request.send().await.map_err(unreachable)?;
    let status = response.status();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(CallError::Malformed {
                what,
                detail: format!("it has more than {MAX_ANSWER} bytes"),
            });
        }
        body.extend_from_slice(&chunk);
    }
    if !status.is_success() {
        return Err(refused(status, &body));
    }
    // An answer without content stands for nothing.
    let body = if body.is_empty() { b"null".as_slice() } else { &body };
    serde_json::from_slice(body).map_err(|error| CallError::Malformed { what, detail: error.to_string() })
}

fn refused(status: StatusCode, body: &[u8]) -> CallError {
    let detail = match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => problem.to_string(),
        Err(_) => String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned(),
    };
    CallError::Refused {
        status: status.as_u16(),
        detail: detail.chars().filter(|c| !c.is_control()).take(500).collect(),
    }
}

/// Why the node has no place in an installation.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// There is nothing to enrol with.
    #[error("this node is not enrolled and {0} is not there; put a bootstrap token into it (mode 0600)")]
    NoToken(PathBuf),
    /// The token cannot be read.
    #[error("could not read the bootstrap token {path}")]
    Token {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Control refuses the token.
    #[error("control does not enrol this node; get a new bootstrap token and put it into {path}")]
    Refused {
        /// Where.
        path: PathBuf,
        /// Its words.
        source: CallError,
    },
    /// It could not be remembered.
    #[error(transparent)]
    Journal(#[from] JournalError),
}
