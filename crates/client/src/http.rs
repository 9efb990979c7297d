//! HTTP as both APIs use it: bearer tokens, JSON both ways, problems as errors.

use crate::authorities::Authorities;
use crate::credential::{Credential, Prover};
use crate::error::{Error, problem, root_cause};
use model::Code;
use reqwest::{Client, RequestBuilder, Response, Url};
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio_tungstenite::tungstenite::Bytes;

/// The largest JSON answer that is read into memory.
const MAX_JSON: usize = 64 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Servers close connections that are idle for long, and a call on one that is being closed just then fails.
const IDLE: Duration = Duration::from_secs(5);

/// One server and the credential for it.
#[derive(Clone)]
pub(crate) struct Endpoint {
    client: Client,
    base: Url,
    /// As it was given, for messages.
    given: String,
    credential: Credential,
    authorities: Option<Authorities>,
    prover: Option<Prover>,
    /// Whether the client speaks plain HTTP to any address, so that others can use it too.
    plain: bool,
}

impl Endpoint {
    /// Another server, by way of the same connections where that is possible.
    pub(crate) fn beside(&self, url: &str, credential: Credential) -> Result<Self, Error> {
        match Url::parse(url) {
            Ok(base) if self.plain && base.scheme() == "http" && base.host_str().is_some() => Ok(Self {
                client: self.client.clone(),
                base,
                given: url.trim_end_matches('/').to_owned(),
                credential,
                authorities: None,
                prover: None,
                plain: true,
            }),
            _ => Self::new(url, credential, self.authorities.clone()),
        }
    }

    pub(crate) fn new(
        url: &str,
        credential: Credential,
        authorities: Option<Authorities>,
    ) -> Result<Self, Error> {
        // `unix:///run/cofferdam/control.sock`: whoever listens there has no name but this one.
        let socket = url.strip_prefix("unix://").filter(|path| path.starts_with('/'));
        let base = Url::parse(if socket.is_some() { "http://localhost" } else { url });
        let base = base.map_err(|error| Error::protocol(url, error))?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(Error::protocol(url, "expected a URL such as https://cofferdam.example.com"));
        }
        // Redirects are not followed: nothing of ours redirects, and the credential must not travel.
        let mut builder = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE);
        if base.scheme() == "http" {
            // Without TLS there is no use for the system's certificates, and reading them takes longer
            // than most calls. A proxy for plain HTTP would see the credential.
            builder = builder.tls_certs_only([]).no_proxy();
        }
        if let Some(authorities) = &authorities
            && base.scheme() == "https"
        {
            builder = builder.tls_certs_only(authorities.certificates());
        }
        if let Some(path) = socket {
            builder = builder.unix_socket(path);
        }
        let client = builder.build().map_err(|error| Error::protocol(url, root_cause(&error)))?;
        let plain = base.scheme() == "http" && socket.is_none();
        let given = url.trim_end_matches('/').to_owned();
        Ok(Self { client, base, given, credential, authorities, prover: None, plain })
    }

    /// The same, which asks for a proof where the server wants one.
    pub(crate) fn proving(self, prover: Prover) -> Self {
        Self { prover: Some(prover), ..self }
    }

    /// The address of a path of this API; the segments are escaped.
    pub(crate) fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.clear().extend(segments);
        }
        url
    }

    pub(crate) fn token(&self) -> Option<&str> {
        self.credential.bearer()
    }

    pub(crate) fn is_person(&self) -> bool {
        matches!(self.credential, Credential::Session(_))
    }

    /// What pages of this server say that they come from.
    pub(crate) fn page(&self) -> String {
        self.base.origin().ascii_serialization()
    }

    /// The server, for messages.
    pub(crate) fn origin(&self) -> &str {
        &self.given
    }

    pub(crate) fn request(&self, method: reqwest::Method, segments: &[&str]) -> RequestBuilder {
        let request = self.client.request(method, self.url(segments));
        self.credential.show(request, &self.page())
    }

    pub(crate) fn get(&self, segments: &[&str]) -> RequestBuilder {
        self.request(reqwest::Method::GET, segments)
    }

    pub(crate) fn post(&self, segments: &[&str]) -> RequestBuilder {
        self.request(reqwest::Method::POST, segments)
    }

    pub(crate) fn put(&self, segments: &[&str]) -> RequestBuilder {
        self.request(reqwest::Method::PUT, segments)
    }

    pub(crate) fn delete(&self, segments: &[&str]) -> RequestBuilder {
        self.request(reqwest::Method::DELETE, segments)
    }

    /// Sends, and turns anything but a success into an error. What a proof is missing for is sent once more behind one.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        let again = self.prover.as_ref().and_then(|prover| Some((prover, request.try_clone()?)));
        let refused = match (self.send_once(request).await, again) {
            (Err(Error::Problem(refused)), Some(again)) if refused.code == Code::ProofRequired => {
                (refused, again)
            }
            (answer, _) => return answer,
        };
        let (refused, (prover, again)) = refused;
        let proof = prover(self.origin()).ok_or(Error::Problem(refused))?;
        self.send_once(self.post(&["v1", "session", "proof"]).json(&proof)).await?;
        self.send_once(again).await
    }

    async fn send_once(&self, request: RequestBuilder) -> Result<Response, Error> {
        let response = request.send().await.map_err(|error| self.failed(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let body = self.body(response).await.unwrap_or_default();
        Err(Error::Problem(problem(status, &body)))
    }

    /// Sends, and reads the answer.
    pub(crate) async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Error> {
        let response = self.send(request).await?;
        self.read(response).await
    }

    /// Reads an answer.
    pub(crate) async fn read<T: DeserializeOwned>(&self, response: Response) -> Result<T, Error> {
        let body = self.body(response).await?;
        serde_json::from_slice(&body).map_err(|error| Error::protocol(self.origin(), error))
    }

    /// Sends, and reads the answer with the number that its entity tag is.
    pub(crate) async fn tagged<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
    ) -> Result<(T, u64), Error> {
        let response = self.send(request).await?;
        let tag = response.headers().get("etag").and_then(|tag| tag.to_str().ok()).and_then(number);
        let tag = tag.ok_or_else(|| Error::protocol(self.origin(), "its answer has no entity tag"))?;
        Ok((self.read(response).await?, tag))
    }

    /// Sends, and reads the answer as a stream.
    pub(crate) async fn stream(&self, request: RequestBuilder) -> Result<ByteStream, Error> {
        let response = self.send(request).await?;
        Ok(ByteStream { response, origin: self.origin().to_owned() })
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        while let Some(chunk) =
            response.chunk().await.map_err(|error| Error::lost(self.origin(), root_cause(&error)))?
        {
            if body.len() + chunk.len() > MAX_JSON {
                return Err(Error::protocol(self.origin(), "the answer is larger than 64 MiB"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn failed(&self, error: &reqwest::Error) -> Error {
        let reason = root_cause(error);
        if error.is_connect() {
            Error::Unreachable { url: self.origin().to_owned(), reason }
        } else {
            Error::lost(self.origin(), reason)
        }
    }
}

/// The number in an entity tag such as `"3"`.
fn number(tag: &str) -> Option<u64> {
    tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok()
}

/// A body that is read as it comes.
pub struct ByteStream {
    response: Response,
    origin: String,
}

impl ByteStream {
    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        // The system's words are about chunks; what they mean is that the end is missing.
        self.response.chunk().await.map_err(|_| Error::lost(&self.origin, "its answer ended too early"))
    }

    /// How many bytes the server announced.
    pub fn announced(&self) -> Option<u64> {
        self.response.content_length()
    }
}
