//! What a command that failed says, and the exit code that it leaves.

use crate::clean;
use client::Error;
use model::{Code, Problem};

/// Everything else that went wrong.
pub const FAILURE: u8 = 1;
/// The command line, or a value in the request, is not valid.
pub const USAGE: u8 = 2;
/// There is no such thing.
pub const NOT_FOUND: u8 = 3;
/// Not allowed: the credential, or the state that something is in.
pub const REFUSED: u8 = 4;
/// Not now: a server does not answer, has no room, or a wait ran out.
pub const UNAVAILABLE: u8 = 5;
/// `run` and `exec`: Cofferdam failed, not the command.
pub const PLATFORM: u8 = 125;
/// `run` and `exec`: the command is there and cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// `run` and `exec`: there is no such command inside.
pub const NO_COMMAND: u8 = 127;

/// A failure with an exit code of its own.
#[derive(Debug)]
pub struct Failure {
    /// What to leave with.
    pub exit: u8,
    /// What to say.
    pub problem: Problem,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.problem.detail)
    }
}

impl std::error::Error for Failure {}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self { exit: exit_code(problem.code), problem }
    }
}

/// A failure that this program found itself.
pub fn fail(code: Code, detail: impl Into<String>) -> anyhow::Error {
    Failure::from(Problem::new(code, detail)).into()
}

/// The same, with what to do about it.
pub fn fail_with(code: Code, detail: impl Into<String>, remedy: impl Into<String>) -> anyhow::Error {
    Failure::from(Problem::new(code, detail).remedy(remedy)).into()
}

/// The exit code that goes with a problem's code.
pub fn exit_code(code: Code) -> u8 {
    match code {
        Code::Validation | Code::TooLarge | Code::UnsupportedMediaType => USAGE,
        Code::NotFound => NOT_FOUND,
        Code::Unauthenticated
        | Code::SecondFactorRequired
        | Code::Forbidden
        | Code::ProofRequired
        | Code::NotSigned
        | Code::CrossOrigin
        | Code::ModeRefuses
        | Code::LevelUnavailable
        | Code::NameTaken
        | Code::WrongState
        | Code::InUse
        | Code::IdempotencyMismatch
        | Code::PreconditionFailed
        | Code::Misdirected => REFUSED,
        Code::Unavailable | Code::NoCapacity | Code::Timeout | Code::TooMany => UNAVAILABLE,
        Code::MethodNotAllowed | Code::DiskFull | Code::Internal => FAILURE,
    }
}

/// The problem in an error, made up where there is none.
pub fn problem_of(error: &anyhow::Error) -> (u8, Problem) {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return (failure.exit, failure.problem.clone());
    }
    let problem = match error.downcast_ref::<Error>() {
        Some(Error::Problem(problem)) => hinted(problem.clone()),
        Some(unreachable @ (Error::Unreachable { .. } | Error::Lost { .. })) => {
            Problem::new(Code::Unavailable, format!("{unreachable}."))
                .remedy("is it up? `cofferdam up --detach` starts it on this machine")
        }
        _ => Problem::new(Code::Internal, chain(error)),
    };
    (exit_code(problem.code), problem)
}

/// The error and its causes, without those that it has repeated already.
fn chain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| match said {
        said if said.is_empty() => cause,
        said if said.contains(&cause) => said,
        said => format!("{said}: {cause}"),
    })
}

/// A library's words as the beginning of a sentence.
pub fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}", chars.as_str())
}

/// Remedies are worded for callers of the API; where it has a command for it, this program says that.
fn hinted(problem: Problem) -> Problem {
    let names_the_api = |remedy: &String| remedy.starts_with("GET /v1/");
    match problem.code {
        Code::Unauthenticated => problem.remedy("`cofferdam login URL` keeps a key that is valid there"),
        Code::NotFound if problem.remedy.as_ref().is_some_and(|said| said.starts_with("GET /v1/secrets")) => {
            problem.remedy("`cofferdam secret ls` shows those there are")
        }
        Code::NotFound if problem.remedy.as_ref().is_some_and(names_the_api) => {
            problem.remedy("`cofferdam ls` and `cofferdam image ls` show those there are")
        }
        _ => problem,
    }
}

/// Says on stderr what went wrong; returns the exit code.
pub fn report(error: &anyhow::Error, json: bool) -> u8 {
    let (exit, problem) = problem_of(error);
    // Nobody reads what was written, so nobody wants to hear about it either.
    if is_broken_pipe(error) {
        return 128 + 13;
    }
    if json {
        if let Ok(text) = serde_json::to_string(&problem) {
            eprintln!("{text}");
        }
    } else {
        eprint!("{}", worded(&problem));
    }
    exit
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

/// The problem in words for a person: a sentence, the field, the remedy, the code.
pub fn worded(problem: &Problem) -> String {
    let mut text = format!("cofferdam: {}\n", clean::text(&problem.detail));
    let mut line = |label: &str, value: &str| {
        text.push_str(&format!("  {label}: {}\n", clean::text(value)));
    };
    if let Some(field) = &problem.field {
        line("field", field);
    }
    if let Some(remedy) = &problem.remedy {
        line("try", remedy);
    }
    if problem.code != Code::Internal || problem.request_id.is_some() {
        line("code", problem.code.as_str());
    }
    if let Some(id) = &problem.request_id {
        line("request", id);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_documented() {
        let table = include_str!("../../../docs/errors.md");
        let codes = table.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(codes, Code::ALL.len(), "docs/errors.md has a row for each code and no others");
        for code in Code::ALL {
            let row = format!("| `{code}` | {} | {} |", code.status(), exit_code(*code));
            assert!(table.contains(&row), "docs/errors.md lacks or contradicts: {row}");
        }
    }
}
