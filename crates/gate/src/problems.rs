//! From what went wrong to the problem that a client sees: the one place where that is decided.
//!
//! Texts that come from inside an agent pass [`from_inside`] before they get into a problem. A parser's own
//! words never do.

use crate::limits;
use ::channel::{ChannelError, ErrorKind, FrameError};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use model::{Code, Problem};

/// A problem on its way out of a handler.
#[derive(Debug)]
pub struct Refusal(pub Box<Problem>);

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // The request id joins it in the outermost layer, which finds the problem here.
        let mut response = (status, to_json(&self.0)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response.extensions_mut().insert(std::sync::Arc::new(*self.0));
        response
    }
}

/// The problem as it is sent.
pub fn to_json(problem: &Problem) -> String {
    serde_json::to_string(problem).unwrap_or_default()
}

/// Why a conversation with an agent's init did not go to its end.
#[derive(Debug, thiserror::Error)]
pub enum ChannelFault {
    /// Nobody accepts on its socket.
    #[error("the agent's channel cannot be reached")]
    Connect(#[source] std::io::Error),
    /// Too many conversations with this agent already.
    #[error("the agent has too many open connections")]
    Connections,
    /// All memory for the output of execs that are waited for is in use.
    #[error("there is no room for more output")]
    Room,
    /// It took too long.
    #[error("the agent's init did not answer in time")]
    Slow,
    /// The connection ended too early.
    #[error("the agent's init closed the connection")]
    Closed,
    /// Reading or writing failed.
    #[error("the connection to the agent's init failed")]
    Io(#[from] std::io::Error),
    /// What came makes no sense.
    #[error("the agent's init does not keep to the protocol")]
    Protocol(#[from] FrameError),
    /// It speaks no version that we speak.
    #[error("the agent's init speaks another version of the protocol")]
    Version,
    /// It said no, in order.
    #[error("the agent's init refused")]
    Refused(ChannelError),
    /// The token was revoked or the agent went away while it lasted.
    #[error("the agent is no longer served")]
    Revoked,
}

impl From<ChannelFault> for Refusal {
    fn from(fault: ChannelFault) -> Self {
        let unavailable = |detail: &str| Problem::new(Code::Unavailable, detail);
        match fault {
            ChannelFault::Refused(error) => refused(error),
            ChannelFault::Connections => {
                Problem::new(Code::TooMany, "The agent has too many open connections.")
                    .remedy("Close some of its execs' attachments, relays or transfers.")
            }
            ChannelFault::Room => {
                Problem::new(Code::TooMany, "Too much output of execs is being held for answers.")
                    .remedy("Attach to the exec, which goes on, or wait for fewer at a time.")
            }
            ChannelFault::Connect(_) | ChannelFault::Closed => unavailable("The agent does not answer.")
                .remedy("It may be ending or starting: look at its state and try again."),
            ChannelFault::Slow => unavailable("The agent did not answer in time.")
                .remedy("It may be out of processor time or memory: look at its stats and try again."),
            ChannelFault::Io(_) => unavailable("The connection to the agent broke.").remedy("Try again."),
            ChannelFault::Protocol(_) => unavailable("The agent answered something that makes no sense.")
                .remedy("Its init may be damaged: stop and start the agent."),
            ChannelFault::Version => {
                unavailable("The agent runs an init of another version.").remedy("Stop and start the agent.")
            }
            ChannelFault::Revoked => revoked(),
        }
        .into()
    }
}

/// The agent went away, or its tokens were revoked, during the call.
pub fn revoked() -> Problem {
    Problem::new(Code::Unauthenticated, "The token was revoked, or the agent is no longer here.")
        .remedy("Ask control for a new token.")
}

fn refused(error: ChannelError) -> Problem {
    let said = from_inside(&error.message);
    let code = match error.kind {
        ErrorKind::NotFound | ErrorKind::NoSuchExec | ErrorKind::CommandNotFound => Code::NotFound,
        ErrorKind::PermissionDenied | ErrorKind::NotExecutable => Code::Forbidden,
        ErrorKind::Exists => Code::NameTaken,
        ErrorKind::NotADirectory | ErrorKind::IsADirectory | ErrorKind::Invalid => Code::Validation,
        ErrorKind::NotEmpty => Code::InUse,
        ErrorKind::TooMany => Code::TooMany,
        ErrorKind::DiskFull => Code::DiskFull,
        ErrorKind::Refused | ErrorKind::Internal => Code::Unavailable,
    };
    let field = match error.kind {
        ErrorKind::CommandNotFound | ErrorKind::NotExecutable => Some("argv"),
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory => Some("path"),
        ErrorKind::NoSuchExec => Some("exec"),
        ErrorKind::Refused => Some("port"),
        _ => None,
    };
    let remedy = match error.kind {
        ErrorKind::CommandNotFound => Some("Give a program that is in PATH inside the agent, or its path."),
        ErrorKind::NotExecutable => Some("Make the file executable, or run it with its interpreter."),
        ErrorKind::PermissionDenied => Some("Use a path of the agent's user, or ask as user root."),
        ErrorKind::NotEmpty => Some("Ask with recursive=true."),
        ErrorKind::TooMany => Some("End some of the agent's execs or processes."),
        ErrorKind::DiskFull => Some("Remove files, or create the agent with a larger disk."),
        ErrorKind::Refused => Some("Start a server on that port inside the agent."),
        ErrorKind::IsADirectory => Some("Use tar, or view=list."),
        _ => None,
    };
    let mut problem = Problem::new(code, said);
    problem.field = field.map(str::to_owned);
    problem.remedy = remedy.map(str::to_owned);
    problem
}

/// A text that the agent may have chosen, fit for a person's terminal and log: one line, bounded, without
/// control and formatting characters.
pub fn from_inside(text: &str) -> String {
    // Besides the C0 and C1 controls: marks that reorder or hide text (bidi, zero width, line separators).
    let hidden = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
                | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' | '\u{61c}')
    };
    let cleaned: String = text
        .chars()
        .take(limits::INSIDE_TEXT)
        .map(|letter| if hidden(letter) { '\u{fffd}' } else { letter })
        .collect();
    if cleaned.trim().is_empty() { "The agent refused without a reason.".to_owned() } else { cleaned }
}
