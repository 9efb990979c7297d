//! What clients send besides streams: queries, path segments and JSON bodies. Strict, bounded, and with our own
//! words for what is wrong.

use crate::limits;
use crate::problems::Refusal;
use ::channel::User;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request};
use axum::http::header;
use axum::http::request::Parts;
use model::{Code, ExecId, Problem};
use serde::de::DeserializeOwned;

/// The parameters of a query, each of which must be taken; [`Parameters::end`] refuses the rest.
pub struct Parameters(Vec<(String, String)>);

impl<S: Sync> FromRequestParts<S> for Parameters {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let all = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
        let Ok(Query(all)) = all else {
            return Err(Problem::invalid("query", "The query cannot be read.").into());
        };
        Ok(Self(all))
    }
}

impl Parameters {
    /// Takes a parameter, which may be there once.
    pub fn take(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let Some(place) = self.0.iter().position(|(key, _)| key == name) else { return Ok(None) };
        let (_, value) = self.0.swap_remove(place);
        if self.0.iter().any(|(key, _)| key == name) {
            return Err(Problem::invalid(name, format!("The parameter `{name}` is given twice.")));
        }
        Ok(Some(value))
    }

    /// Takes an absolute path inside the agent.
    pub fn path(&mut self) -> Result<String, Problem> {
        let path = self.take("path")?;
        let path = path.ok_or_else(|| Problem::invalid("path", "The parameter `path` is missing."))?;
        check_path("path", path)
    }

    /// Takes who does it.
    pub fn user(&mut self) -> Result<Option<User>, Problem> {
        match self.take("user")?.as_deref() {
            None => Ok(None),
            Some("agent") => Ok(Some(User::Agent)),
            Some("root") => Ok(Some(User::Root)),
            Some(_) => Err(Problem::invalid("user", "The user must be `agent` or `root`.")),
        }
    }

    /// Takes a yes or no; absent is no.
    pub fn flag(&mut self, name: &str) -> Result<bool, Problem> {
        match self.take(name)?.as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(Problem::invalid(name, format!("`{name}` must be `true` or `false`."))),
        }
    }

    /// Takes a number of bytes.
    pub fn number(&mut self, name: &str) -> Result<Option<u64>, Problem> {
        let Some(text) = self.take(name)? else { return Ok(None) };
        let number =
            text.parse().map_err(|_| Problem::invalid(name, format!("`{name}` must be a whole number.")))?;
        Ok(Some(number))
    }

    /// Takes permission bits, in octal.
    pub fn mode(&mut self) -> Result<Option<u32>, Problem> {
        let Some(text) = self.take("mode")? else { return Ok(None) };
        let digits = text.bytes().all(|digit| digit.is_ascii_digit());
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if digits && mode <= 0o7777 => Ok(Some(mode)),
            _ => Err(Problem::invalid("mode", "`mode` must be permission bits in octal, such as 644.")),
        }
    }

    /// Refuses parameters that nobody took.
    pub fn end(self) -> Result<(), Problem> {
        let Some((name, _)) = self.0.into_iter().next() else { return Ok(()) };
        // It came from the client and goes back to it, but perhaps to its terminal.
        let name: String = crate::problems::from_inside(&name).chars().take(40).collect();
        Err(Problem::invalid(name, "There is no such parameter here."))
    }
}

/// Checks an absolute path inside the agent.
pub fn check_path(field: &str, path: String) -> Result<String, Problem> {
    if !path.starts_with('/') {
        return Err(Problem::invalid(field, "The path must be absolute: it begins with `/`."));
    }
    if path.len() >= limits::PATH {
        return Err(Problem::invalid(field, format!("The path must have less than {} bytes.", limits::PATH)));
    }
    check_text(field, path)
}

/// Checks a text that becomes a C string.
pub fn check_text(field: &str, text: String) -> Result<String, Problem> {
    if text.contains('\0') {
        return Err(Problem::invalid(field, "A NUL byte cannot be part of it."));
    }
    Ok(text)
}

/// The exec that the path names.
pub struct ExecParam(pub ExecId);

impl<S: Send + Sync> FromRequestParts<S> for ExecParam {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let id = path_segment(parts, state, "exec").await.and_then(|text| text.parse().ok());
        Ok(Self(id.ok_or_else(no_such_exec)?))
    }
}

/// The TCP port that the path names.
pub struct PortParam(pub u16);

impl<S: Send + Sync> FromRequestParts<S> for PortParam {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let port = path_segment(parts, state, "port").await.and_then(|text| text.parse().ok());
        match port {
            Some(port) if port > 0 => Ok(Self(port)),
            _ => Err(Problem::invalid("port", "The port must be a number from 1 to 65535.").into()),
        }
    }
}

async fn path_segment<S: Send + Sync>(parts: &mut Parts, state: &S, name: &str) -> Option<String> {
    let params = RawPathParams::from_request_parts(parts, state).await.ok()?;
    params.iter().find_map(|(key, value)| (key == name).then(|| value.to_owned()))
}

/// No exec of that id.
pub fn no_such_exec() -> Problem {
    let mut problem = Problem::new(Code::NotFound, "There is no such exec.");
    problem.field = Some("exec".to_owned());
    problem.remedy("List the agent's execs; those that ended long ago are forgotten.")
}

/// A JSON body.
pub struct Json<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            let problem = Problem::new(Code::UnsupportedMediaType, "The body must be JSON.");
            return Err(problem.remedy("Send it with `Content-Type: application/json`.").into());
        }
        let body = whole(request.into_body()).await?;
        Ok(Self(from_json(&body)?))
    }
}

async fn whole(body: Body) -> Result<Bytes, Problem> {
    let read = tokio::time::timeout(limits::BODY_TIME, axum::body::to_bytes(body, limits::JSON_BODY)).await;
    let read = read.map_err(|_| Problem::new(Code::Timeout, "The body did not come in time."))?;
    // Either it is too long or the client went away; the latter reads no answer.
    read.map_err(|_| {
        let detail = format!("The body has more than {} bytes.", limits::JSON_BODY);
        Problem::new(Code::TooLarge, detail)
    })
}

/// Reads JSON strictly, and says which field is wrong in our own words.
pub fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // To keep count of where it is takes longer than all the rest, and nobody asks while nothing is wrong.
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Ok(value);
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        // What is missing is known by its name alone: there is no path to it.
        let message = error.inner().to_string();
        let absent = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
        let path = match (error.path().to_string(), absent) {
            (path, None) => path,
            (path, Some(name)) if path == "." => name.to_owned(),
            (path, Some(name)) => format!("{path}.{name}"),
        };
        let path: String = crate::problems::from_inside(&path).chars().take(80).collect();
        let field = if path == "." { "body".to_owned() } else { path };
        match error.inner().classify() {
            serde_json::error::Category::Data => Problem::invalid(
                field,
                "The field is missing or unknown, or its value is not of the right kind.",
            ),
            _ => Problem::invalid("body", "The body is not valid JSON."),
        }
    })?;
    reader.end().map_err(|_| Problem::invalid("body", "Something follows after the JSON document."))?;
    Ok(value)
}
