//! What can go wrong in a call.

use model::{Code, Problem};

/// A call that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused, and said why.
    #[error("{0}")]
    Problem(Problem),
    /// No connection to the server.
    #[error("cannot reach {url}: {reason}")]
    Unreachable {
        /// Where the call went.
        url: String,
        /// What the system said.
        reason: String,
    },
    /// The connection ended in the middle of a call.
    #[error("the connection to {url} was lost: {reason}")]
    Lost {
        /// Where the call went.
        url: String,
        /// What the system said.
        reason: String,
    },
    /// The answer is not what this API answers.
    #[error("{url} does not answer like Cofferdam: {reason}")]
    Protocol {
        /// Where the call went.
        url: String,
        /// What was wrong with it.
        reason: String,
    },
    /// A file or stream on this side failed.
    #[error("{attempt}: {source}")]
    Local {
        /// What was attempted.
        attempt: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A tree from inside an agent was refused.
    #[error(transparent)]
    Extract(#[from] crate::extract::ExtractError),
}

impl Error {
    /// The code that a program can act on, when the server or the connection gave one.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Problem(problem) => Some(problem.code),
            Self::Unreachable { .. } | Self::Lost { .. } => Some(Code::Unavailable),
            Self::Protocol { .. } | Self::Local { .. } | Self::Extract(_) => None,
        }
    }

    /// Whether the server said that there is no such thing.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(Code::NotFound)
    }

    pub(crate) fn protocol(url: &str, reason: impl std::fmt::Display) -> Self {
        Self::Protocol { url: url.to_owned(), reason: reason.to_string() }
    }

    pub(crate) fn lost(url: &str, reason: impl std::fmt::Display) -> Self {
        Self::Lost { url: url.to_owned(), reason: reason.to_string() }
    }
}

/// The problem behind an answer that is not a success. A proxy or a broken server may send anything, so the
/// body is used only when it has the shape of a problem, and the status speaks otherwise.
pub(crate) fn problem(status: u16, body: &[u8]) -> Problem {
    if let Ok(problem) = serde_json::from_slice::<Problem>(body) {
        return problem;
    }
    let code = match status {
        400 | 422 => Code::Validation,
        401 => Code::Unauthenticated,
        403 => Code::Forbidden,
        404 => Code::NotFound,
        405 => Code::MethodNotAllowed,
        409 => Code::WrongState,
        412 => Code::PreconditionFailed,
        413 => Code::TooLarge,
        415 => Code::UnsupportedMediaType,
        421 => Code::Misdirected,
        429 => Code::TooMany,
        502 | 503 => Code::Unavailable,
        504 => Code::Timeout,
        507 => Code::DiskFull,
        _ => Code::Internal,
    };
    let mut problem = Problem::new(code, format!("The server answered with status {status}."));
    problem.status = status;
    problem
}

/// The innermost cause: what the system said, without the layers above it.
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
