//! The one table from what went wrong to what a client is told (RFC 9457).
//!
//! A fault of ours is told as `INTERNAL` with the request id; what it was goes to the log alone.

use crate::decode;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use model::{Code, Problem};

/// How long to leave a server alone that cannot answer now, where nothing says it better.
const RETRY_SECONDS: u64 = 5;

/// A problem on its way out. `api::shield` renders it, once it knows the request id.
#[derive(Debug, Clone)]
pub(crate) struct Fault(pub(crate) Problem);

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<decode::Fault> for Fault {
    fn from(fault: decode::Fault) -> Self {
        let mut problem = Problem::new(Code::Validation, fault.detail.clone());
        problem.field = fault.field();
        Self(problem.remedy("GET /v1/openapi.json describes every request"))
    }
}

impl From<store::Error> for Fault {
    fn from(error: store::Error) -> Self {
        use store::Error as E;
        let say = |code| Problem::new(code, sentence(&error));
        let problem = match &error {
            E::NotFound { what } => {
                say(Code::NotFound).remedy(format!("GET /v1/{what}s lists those that there are"))
            }
            E::NameTaken { .. } => Problem { field: Some("name".to_owned()), ..say(Code::NameTaken) }
                .remedy("choose another name, or leave it out to have one made up"),
            E::EmailTaken { .. } => Problem { field: Some("email".to_owned()), ..say(Code::NameTaken) }
                .remedy("GET /v1/users lists those that there are"),
            E::Quota(exceeded) => Problem { field: Some(exceeded.field.to_owned()), ..say(Code::QuotaExceeded) }.remedy(
                "destroy an agent that is no longer needed, ask for less, or have the operator raise the quota (GET /v1/quota tells it)",
            ),
            E::NoCapacity => say(Code::NoCapacity).remedy(
                "destroy an agent that is no longer needed, ask for less memory, or enrol another node",
            ),
            E::Stays { obstacles } => {
                let remedies: std::collections::BTreeSet<_> =
                    obstacles.iter().map(model::transfer::Obstacle::remedy).collect();
                say(Code::CannotTransfer).remedy(Vec::from_iter(remedies).join("; "))
            }
            E::InUse { .. } => say(Code::InUse).remedy("remove what uses it first"),
            E::Personal => say(Code::InUse).remedy("make an organisation: `cofferdam account create`"),
            E::IllegalVerb(_) => {
                say(Code::WrongState).remedy("GET the agent with ?wait=settled, and look at its state")
            }
            E::Stale { .. } => say(Code::PreconditionFailed).remedy("GET the agent again and decide anew"),
            E::StalePolicy { .. } => {
                say(Code::PreconditionFailed).remedy("GET the policy again and decide anew")
            }
            E::Restored => say(Code::WrongState)
                .remedy("start its node, if it does not run; ask again once it has answered, or destroy the agent"),
            E::Ended { .. } => say(Code::WrongState).remedy("create another agent"),
            E::Answered { .. } => say(Code::WrongState)
                .remedy("change the agent's policy, if it is to be otherwise; GET /v1/egress/questions lists what waits"),
            E::NoRule { .. } => {
                say(Code::WrongState).remedy("remove rules from that policy, or decide `once`")
            }
            E::TooManyRemembered { .. } => say(Code::WrongState)
                .remedy("DELETE some of GET /v1/egress/remembered, or decide `agent`"),
            E::Secret { field, remedy, .. } => {
                Problem::invalid(field.clone(), sentence(&error)).remedy(remedy.clone())
            }
            E::TooManySecrets { .. } => say(Code::WrongState).remedy("DELETE some of GET /v1/secrets"),
            E::TooManyOrganisations { .. } => {
                say(Code::WrongState).remedy("have whoever operates this installation make it, or give one to another owner")
            }
            E::Overtaken => say(Code::WrongState).remedy("ask again"),
            E::IdempotencyMismatch => {
                Problem { field: Some("Idempotency-Key".to_owned()), ..say(Code::IdempotencyMismatch) }
                    .remedy("use a new key for every new request")
            }
            E::TokenRefused => say(Code::Unauthenticated).remedy("ask for another one"),
            E::CredentialEnded => say(Code::Unauthenticated).remedy("log in, or use another key"),
            E::RoleLowered => say(Code::Forbidden).remedy("ask somebody who may"),
            E::MembershipEnded => {
                say(Code::NotFound).remedy("GET /v1/accounts lists those that there are")
            }
            E::Replayed => say(Code::Unauthenticated).remedy("sign a new assertion with a new jti"),
            // Where the database lies is filled in by `api::shield`, which knows.
            E::Locked => say(Code::Unavailable),
            E::Busy | E::Undone => say(Code::Unavailable).remedy("ask again in a while"),
            E::DiskFull => say(Code::DiskFull),
            E::Unreachable { .. } => {
                tracing::error!(%error, "the database cannot be reached");
                Problem::new(Code::Unavailable, "The database cannot be reached; nothing was changed.")
                    .remedy("ask again in a while")
            }
            E::Unanswered => say(Code::Unavailable)
                .remedy("look whether it was made, or ask again with the same Idempotency-Key"),
            E::Text => say(Code::Validation).remedy("leave out the character NUL"),
            E::Open { .. } | E::Migrate { .. } | E::Corrupt { .. } | E::Unaudited | E::Database(_) => {
                return Self::internal(&error);
            }
        };
        Self(problem)
    }
}

fn sentence(error: &dyn std::error::Error) -> String {
    error.to_string()
}

impl Fault {
    /// There is no such thing, or it is somebody else's: these are told apart for nobody.
    pub(crate) fn missing(what: &str, key: &str) -> Self {
        // Quoted, so that what was asked for shows where it begins, and cannot write to a terminal.
        let key: String = key.chars().take(80).collect();
        let detail = format!("there is no {what} {key:?}");
        Self(
            Problem::new(Code::NotFound, detail)
                .remedy(format!("GET /v1/{what}s lists those that there are")),
        )
    }

    /// What was found under this key; when it was not, the key is named.
    pub(crate) fn or_missing<T>(found: Result<T, store::Error>, what: &str, key: &str) -> Result<T, Self> {
        match found {
            Err(store::Error::NotFound { .. }) => Err(Self::missing(what, key)),
            found => Ok(found?),
        }
    }

    /// Where to look, when the database could not be used.
    pub(crate) fn locate(problem: &mut Problem, database: Option<&std::path::Path>) {
        if problem.remedy.is_some() {
            return;
        }
        let Some(database) = database.map(std::path::Path::display) else {
            problem.remedy = match problem.code {
                Code::DiskFull => Some("free some space on the database's server, and ask again".to_owned()),
                Code::Unavailable => Some("ask again in a while".to_owned()),
                _ => None,
            };
            return;
        };
        problem.remedy = match problem.code {
            Code::DiskFull => {
                Some(format!("free some space on the disk that holds {database}, and ask again"))
            }
            Code::Unavailable => Some(format!(
                "end the process that holds {database} (`fuser {database}` shows it), and ask again"
            )),
            _ => None,
        };
    }

    /// Our own fault: to the log with it.
    pub(crate) fn internal(error: &dyn std::error::Error) -> Self {
        tracing::error!(error = %sentence(error), "a request failed");
        Self(Problem::new(Code::Internal, "control failed; its log has more, under the request id"))
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let mut response = status(self.0.code).into_response();
        response.extensions_mut().insert(self.0);
        response
    }
}

fn status(code: Code) -> StatusCode {
    StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn retry_after(problem: &Problem) -> Option<u64> {
    let passes = matches!(problem.code, Code::Unavailable | Code::TooMany);
    problem.retry_after.or(passes.then_some(RETRY_SECONDS))
}

/// Writes out the problem that a response carries, under its request id.
pub(crate) fn render(mut response: Response, request_id: &str) -> Response {
    let Some(mut problem) = response.extensions_mut().remove::<Problem>() else { return response };
    problem.request_id = Some(request_id.to_owned());
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let mut rendered = (status(problem.code), body).into_response();
    let headers = rendered.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(seconds) = retry_after(&problem) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if matches!(problem.code, Code::Unauthenticated | Code::SecondFactorRequired) {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    // A method that is not there answers with those that are.
    if let Some(allow) = response.headers_mut().remove(header::ALLOW) {
        headers.insert(header::ALLOW, allow);
    }
    rendered
}
