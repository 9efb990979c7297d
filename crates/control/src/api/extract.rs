//! Bodies, path parameters and headers, refused with problems of our own.

use crate::app::App;
use crate::auth::secret;
use crate::decode::decode;
use crate::limits::Kind;
use crate::peer::Client;
use crate::problems::Fault;
use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::{HeaderMap, header, request::Parts};
use model::people::{AcceptInvitation, Login, RedeemReset};
use model::{AccountId, Code, Problem};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use store::Idempotency;
use zeroize::{Zeroize, Zeroizing};

const MAX_BODY: usize = 1 << 20;
/// Of a body with a secret: each byte of it may be written as `\u00XX`.
const MAX_PRIVATE: usize = 512 << 10;
/// Of a body that anybody may send: a password of 1024 bytes, written like that, beside an address and a code.
const MAX_ANYBODYS: usize = 8 << 10;
/// Of what a node tells in whole.
const MAX_WHOLE: usize = 8 << 20;
/// A body that is too large is read on for this many bytes, so that its sender gets to read the answer.
const MAX_DRAIN: usize = 32 << 20;
const BODY_TIME: Duration = Duration::from_secs(20);
const MAX_IDEMPOTENCY_KEY: usize = 200;

/// A JSON body.
pub(crate) struct Json<T>(pub(crate) T);

/// A JSON body that tells something of all agents of a node.
pub(crate) struct Whole<T>(pub(crate) T);

/// A JSON body that holds a secret: it is overwritten once it was read, and no problem repeats a piece of it.
pub(crate) struct Private<T>(pub(crate) T);

/// The same of somebody whom nobody knows yet. Whoever asked too often is refused before any of it is read.
pub(crate) struct Anybodys<T>(pub(crate) T);

/// How often what [`Anybodys`] send is taken.
pub(crate) trait Counted {
    const KIND: Kind;
}

impl Counted for Login {
    const KIND: Kind = Kind::Login;
}

impl Counted for RedeemReset {
    const KIND: Kind = Kind::Redemption;
}

impl Counted for AcceptInvitation {
    const KIND: Kind = Kind::Redemption;
}

/// A request without a body; `{}` is accepted for clients that always send one.
pub(crate) struct Empty;

fn too_large(max: usize) -> Fault {
    let most = if max < 1 << 20 { format!("{} KiB", max >> 10) } else { format!("{} MiB", max >> 20) };
    let detail = format!("the body is larger than {most}");
    Problem::new(Code::TooLarge, detail).remedy("send less").into()
}

async fn collect(mut body: Body, max: usize, room: usize) -> Result<Vec<u8>, Fault> {
    let (mut bytes, mut seen) = (Vec::with_capacity(room), 0);
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|_| Problem::new(Code::Validation, "the body ended too early"))?;
        let Ok(data) = frame.into_data() else { continue };
        seen += data.len();
        if seen <= max {
            bytes.extend_from_slice(&data);
        } else if seen > MAX_DRAIN {
            break;
        }
    }
    if seen > max { Err(too_large(max)) } else { Ok(bytes) }
}

async fn read(request: Request, max: usize, room: usize) -> Result<Vec<u8>, Fault> {
    let slow = || Problem::new(Code::Validation, "the body did not arrive within 20 seconds");
    tokio::time::timeout(BODY_TIME, collect(request.into_body(), max, room)).await.map_err(|_| slow())?
}

fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = media_type.and_then(|it| it.split(';').next()).map(str::trim);
    essence.is_some_and(|it| it.eq_ignore_ascii_case("application/json"))
}

fn read_json(bytes: &[u8]) -> Result<Value, Fault> {
    serde_json::from_slice(bytes).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        Problem::new(Code::Validation, format!("the body is not JSON: see line {line}, column {column}"))
            .remedy("send one JSON object, in UTF-8")
            .into()
    })
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    Ok(decode(&read_json(bytes)?)?)
}

/// The same, and what was read on the way is overwritten.
fn parse_private<T: DeserializeOwned>(bytes: Vec<u8>) -> Result<T, Fault> {
    let mut value = read_json(&Zeroizing::new(bytes))?;
    let decoded = decode(&value).map_err(|fault| fault.without_unknown().into());
    overwrite(&mut value);
    decoded
}

fn overwrite(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(overwrite),
        Value::Object(fields) => {
            for (mut name, mut value) in std::mem::take(fields) {
                name.zeroize();
                overwrite(&mut value);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn check_json(headers: &HeaderMap) -> Result<(), Fault> {
    if is_json(headers) {
        return Ok(());
    }
    let problem = Problem::new(Code::UnsupportedMediaType, "the body must be JSON");
    Err(problem.remedy("send `Content-Type: application/json`").into())
}

async fn json<T: DeserializeOwned>(request: Request, max: usize) -> Result<T, Fault> {
    check_json(request.headers())?;
    parse(&read(request, max, 0).await?)
}

async fn private<T: DeserializeOwned>(request: Request, max: usize) -> Result<T, Fault> {
    check_json(request.headers())?;
    // With room for all of it from the start: a buffer that grows leaves copies behind.
    parse_private(read(request, max, max).await?)
}

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Json<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &Arc<App>) -> Result<Self, Fault> {
        Ok(Self(json(request, MAX_BODY).await?))
    }
}

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Private<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &Arc<App>) -> Result<Self, Fault> {
        Ok(Self(private(request, MAX_PRIVATE).await?))
    }
}

impl<T: DeserializeOwned + Counted> FromRequest<Arc<App>> for Anybodys<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Fault> {
        let (mut parts, body) = request.into_parts();
        let Ok(from) = Client::from_request_parts(&mut parts, app).await;
        app.limits.look(T::KIND, from.address).await?;
        Ok(Self(private(Request::from_parts(parts, body), MAX_ANYBODYS).await?))
    }
}

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Whole<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &Arc<App>) -> Result<Self, Fault> {
        Ok(Self(json(request, MAX_WHOLE).await?))
    }
}

impl FromRequest<Arc<App>> for Empty {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &Arc<App>) -> Result<Self, Fault> {
        #[derive(serde::Deserialize)]
        struct Nothing {}
        let bytes = read(request, MAX_BODY, 0).await?;
        if !bytes.is_empty() {
            let Nothing {} = parse(&bytes)?;
        }
        Ok(Self)
    }
}

/// The `{id}` of a path: an id, or a name where things have names.
pub(crate) struct Id(pub(crate) String);

impl FromRequestParts<Arc<App>> for Id {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Fault> {
        let Path(id) = Path::<String>::from_request_parts(parts, app)
            .await
            .map_err(|_| Problem::new(Code::NotFound, "there is nothing of that name"))?;
        Ok(Self(id))
    }
}

/// Headers that guard a change.
pub(crate) struct Guards(HeaderMap);

impl FromRequestParts<Arc<App>> for Guards {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Fault> {
        Ok(Self(parts.headers.clone()))
    }
}

impl Guards {
    /// The number that `If-Match` names: of a generation, or of a revision. `*` matches any.
    pub(crate) fn if_match(&self) -> Result<Option<u64>, Fault> {
        let Some(value) = self.0.get(header::IF_MATCH) else { return Ok(None) };
        let tag = value.to_str().unwrap_or_default().trim();
        if tag == "*" {
            return Ok(None);
        }
        let number = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')?.parse().ok());
        let wrong = || Problem::invalid("If-Match", "expected the ETag of an answer, such as \"3\", or *");
        Ok(Some(number.ok_or_else(wrong)?))
    }

    /// The idempotency key, tied to nothing yet.
    pub(crate) fn idempotency_key(&self) -> Result<Option<&str>, Fault> {
        let Some(value) = self.0.get("idempotency-key") else { return Ok(None) };
        let key = value.to_str().unwrap_or_default();
        if key.is_empty() || key.len() > MAX_IDEMPOTENCY_KEY {
            let detail = "an idempotency key has 1 to 200 printable ASCII characters";
            return Err(Problem::invalid("Idempotency-Key", detail).into());
        }
        Ok(Some(key))
    }

    /// The idempotency key, tied to the operation and its request.
    pub(crate) fn idempotency<T: Serialize>(
        &self,
        account: AccountId,
        operation: &str,
        request: &T,
    ) -> Result<Option<Idempotency>, Fault> {
        let Some(key) = self.idempotency_key()? else { return Ok(None) };
        let request = serde_json::to_vec(&(operation, request)).map_err(|error| Fault::internal(&error))?;
        let request = secret::hex(&Sha256::digest(&request));
        Ok(Some(Idempotency { account, key: key.to_owned(), request }))
    }
}
