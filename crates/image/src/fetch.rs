//! The confined half of a pull: speaks HTTP with a registry and hands over what it answers. It parses headers, redirects
//! and tokens, and nothing else; what content is, is for others to verify.
//!
//! Its caller writes requests as JSON lines to descriptor 0 and reads frames from descriptor 1: a byte for the kind,
//! four for the length (little endian), and so many bytes.

mod auth;
mod way;

use crate::reference::Host;
use crate::store::Digest;
use auth::{Credentials, Login};
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_RANGE, HeaderMap, HeaderValue, LOCATION, RANGE, WWW_AUTHENTICATE,
};
use reqwest::{Method, Response, StatusCode, Url};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, Write};
use way::{Ways, no_way};

pub use auth::Credentials as RegistryCredentials;

/// Bytes of content in one frame at most.
pub(crate) const MAX_FRAME: usize = 1 << 20;
/// Redirects that are followed for one request.
const MAX_REDIRECTS: usize = 5;

const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json, \
                         application/vnd.docker.distribution.manifest.v2+json";

/// Where to fetch from: the first line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Setup {
    pub(crate) registry: Host,
    pub(crate) repository: String,
    pub(crate) rules: Rules,
    pub(crate) credentials: Option<Credentials>,
}

/// What the operator allows beyond the public internet and its certificate authorities.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Hosts that may be at any address.
    pub open: Vec<Host>,
    /// Those of them that are spoken to without TLS.
    pub plain: Vec<Host>,
    /// Certificates (PEM) of authorities to trust besides the system's.
    pub authorities: Option<String>,
}

/// One thing to fetch: every further line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "get", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// A manifest by tag or digest.
    Manifest { reference: String },
    /// Content, from an offset on.
    Blob { digest: Digest, from: u64, most: u64 },
    /// Whether these credentials may have some content.
    Probe { digest: Digest },
}

/// Frames of an answer, in this order: one `Start`, any number of `Data`, one `End`; or `Failed` at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Frame {
    Start = b's',
    Data = b'd',
    End = b'e',
    Failed = b'f',
}

/// The content of [`Frame::Start`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Start {
    /// Where the data begins: the offset that was asked for, or 0.
    pub(crate) from: u64,
}

/// The content of [`Frame::Failed`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Failed {
    pub(crate) kind: FailedKind,
    /// For the user.
    pub(crate) why: String,
}

/// What a failure means for who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FailedKind {
    /// Not with these credentials.
    Denied,
    /// There is none.
    Missing,
    /// It would have led somewhere that it must not.
    Refused,
    /// Perhaps later.
    Passing,
    /// Not at all.
    Broken,
}

impl Failed {
    fn new(kind: FailedKind, why: impl Into<String>) -> Self {
        let why: String = why.into();
        Self { kind, why: why.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1500).collect() }
    }
}

/// Serves requests until there are no more.
pub(crate) fn main() -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("the download could not be started: {error}"))?;
    let mut lines = io::stdin().lock().lines();
    let mut next = || lines.next().and_then(Result::ok);
    let setup = next().and_then(|line| serde_json::from_str(&line).ok());
    let setup: Setup = setup.ok_or("image-worker is started by cofferdam itself, not by hand")?;
    let mut registry = Registry::new(setup);
    while let Some(line) = next() {
        let Ok(request) = serde_json::from_str(&line) else {
            return Err("a request makes no sense".to_owned());
        };
        let (kind, body) = match runtime.block_on(registry.serve(&request)) {
            Ok(()) => (Frame::End, Vec::new()),
            Err(Stop::Failed(failed)) => (Frame::Failed, serde_json::to_vec(&failed).unwrap_or_default()),
            // Nobody reads any more.
            Err(Stop::Gone) => return Ok(()),
        };
        if send(kind, &body).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Why an answer ended early.
enum Stop {
    Failed(Failed),
    Gone,
}

impl From<Failed> for Stop {
    fn from(failed: Failed) -> Self {
        Self::Failed(failed)
    }
}

fn send(kind: Frame, bytes: &[u8]) -> Result<(), Stop> {
    let mut out = io::stdout().lock();
    let length = (bytes.len() as u32).to_le_bytes();
    let head = [kind as u8, length[0], length[1], length[2], length[3]];
    out.write_all(&head)
        .and_then(|()| out.write_all(bytes))
        .and_then(|()| out.flush())
        .map_err(|_| Stop::Gone)
}

struct Registry {
    ways: Ways,
    registry: Host,
    base: String,
    login: Login,
}

impl Registry {
    fn new(setup: Setup) -> Self {
        let scheme = if setup.rules.plain.contains(&setup.registry) { "http" } else { "https" };
        Self {
            base: format!("{scheme}://{}/v2/{}", setup.registry, setup.repository),
            login: Login::new(setup.credentials, &setup.repository),
            registry: setup.registry,
            ways: Ways::new(setup.rules),
        }
    }

    async fn serve(&mut self, request: &Request) -> Result<(), Stop> {
        let start = |from| send(Frame::Start, &serde_json::to_vec(&Start { from }).unwrap_or_default());
        match request {
            Request::Manifest { reference } => {
                let url = format!("{}/manifests/{reference}", self.base);
                let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(MANIFESTS))]);
                let answer = self.ask(Method::GET, &url, headers).await?;
                start(0)?;
                pass_on(answer, crate::oci::MAX_DOCUMENT).await
            }
            Request::Blob { digest, from, most } => {
                let url = format!("{}/blobs/sha256:{digest}", self.base);
                let mut headers = HeaderMap::new();
                if *from > 0
                    && let Ok(range) = HeaderValue::from_str(&format!("bytes={from}-"))
                {
                    headers.insert(RANGE, range);
                }
                let answer = self.ask(Method::GET, &url, headers).await?;
                let from = match answer.status() {
                    StatusCode::PARTIAL_CONTENT if *from > 0 => continues_at(&answer, *from)?,
                    _ => 0,
                };
                start(from)?;
                pass_on(answer, most - from).await
            }
            Request::Probe { digest } => {
                let url = format!("{}/blobs/sha256:{digest}", self.base);
                self.ask(Method::HEAD, &url, HeaderMap::new()).await?;
                start(0)
            }
        }
    }

    /// Asks the registry, logging in where it wants that, and goes where it sends us.
    async fn ask(&mut self, method: Method, url: &str, headers: HeaderMap) -> Result<Response, Failed> {
        let url = Url::parse(url)
            .map_err(|_| Failed::new(FailedKind::Broken, "the registry's address is no URL"))?;
        let answer = self.follow(method.clone(), url.clone(), &headers).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return judge(answer, &self.registry);
        }
        let challenges: Vec<String> = answer
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok().map(str::to_owned))
            .collect();
        drop(answer);
        self.login.answer(&challenges, &mut self.ways, &self.registry).await?;
        judge(self.follow(method, url, &headers).await?, &self.registry)
    }

    async fn follow(&mut self, method: Method, url: Url, headers: &HeaderMap) -> Result<Response, Failed> {
        let origin = url.origin();
        let mut url = url;
        for _ in 0..=MAX_REDIRECTS {
            let mut request =
                self.ways.to(&url).await?.request(method.clone(), url.clone()).headers(headers.clone());
            // What was entered for the registry is for the registry alone.
            if url.origin() == origin
                && let Some(value) = self.login.header()
            {
                request = request.header(AUTHORIZATION, value);
            }
            let answer = request.send().await.map_err(|error| no_way(&url, &error))?;
            if !answer.status().is_redirection() || answer.status() == StatusCode::NOT_MODIFIED {
                return Ok(answer);
            }
            let to = answer.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            let next = to.and_then(|to| url.join(to).ok());
            url = next.ok_or_else(|| Failed::new(FailedKind::Broken, "the registry redirects to nowhere"))?;
        }
        Err(Failed::new(
            FailedKind::Broken,
            format!("the registry redirects more than {MAX_REDIRECTS} times"),
        ))
    }
}

fn continues_at(answer: &Response, from: u64) -> Result<u64, Failed> {
    let range = answer.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
    let first = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse::<u64>().ok());
    match first {
        Some(first) if first == from => Ok(from),
        _ => Err(Failed::new(
            FailedKind::Broken,
            "the registry answers with another part than it was asked for",
        )),
    }
}

fn judge(answer: Response, registry: &Host) -> Result<Response, Failed> {
    let status = answer.status();
    let failed = |kind, why: String| Err(Failed::new(kind, why));
    match status.as_u16() {
        200 | 206 => Ok(answer),
        401 | 403 => {
            failed(FailedKind::Denied, format!("{registry} denies access with these credentials ({status})"))
        }
        416 => failed(FailedKind::Broken, format!("{registry} has fewer bytes of it than the manifest says")),
        404 => failed(FailedKind::Missing, format!("{registry} has no such image, or shows it to nobody")),
        408 | 429 | 500..=599 => {
            failed(FailedKind::Passing, format!("{registry} cannot answer now ({status})"))
        }
        _ => failed(FailedKind::Broken, format!("{registry} gives an answer that makes no sense ({status})")),
    }
}

/// Hands over an answer's content as it comes.
async fn pass_on(mut answer: Response, most: u64) -> Result<(), Stop> {
    let mut left = most;
    let url = answer.url().clone();
    loop {
        let Some(piece) = answer.chunk().await.map_err(|error| no_way(&url, &error))? else { return Ok(()) };
        left = left.checked_sub(piece.len() as u64).ok_or_else(|| {
            Failed::new(
                FailedKind::Broken,
                format!("the registry sends more than the {most} bytes that there should be"),
            )
        })?;
        for frame in piece.chunks(MAX_FRAME) {
            send(Frame::Data, frame)?;
        }
    }
}
