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
        | Code::QuotaExceeded
        | Code::LevelUnavailable
        | Code::NameTaken
        | Code::WrongState
        | Code::InUse
        | Code::CannotTransfer
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
    let said = problem.remedy.as_deref().unwrap_or_default();
    let remedy = match problem.code {
        Code::Unauthenticated if said.starts_with("POST /v1/session") => {
            "`cofferdam login` begins another session"
        }
        // Of passwords and tokens: that is said for people.
        Code::Unauthenticated if FOR_PEOPLE.iter().any(|begin| said.starts_with(begin)) => said,
        Code::Unauthenticated => "`cofferdam login URL` keeps a key that is valid there, or logs in",
        Code::ProofRequired => {
            "run this at a terminal, which asks for your password or a code, or log in again; programs use a key: `cofferdam key create`"
        }
        Code::WrongState if said.starts_with("POST /v1/second-factor") => {
            "`cofferdam user totp enrol` makes one"
        }
        Code::NotFound | Code::NameTaken => LISTS
            .iter()
            .find_map(|(path, remedy)| said.strip_prefix("GET /v1/")?.starts_with(path).then_some(*remedy))
            .unwrap_or(said),
        _ => said,
    };
    if remedy == said { problem } else { Problem { remedy: Some(remedy.to_owned()), ..problem } }
}

/// How remedies begin that name nothing of the API.
const FOR_PEOPLE: [&str; 3] = ["try again", "ask for another", "log in"];

/// What lists things of the API, beneath `/v1/`.
const LISTS: [(&str, &str); 8] = [
    ("secrets", "`cofferdam secret ls` shows those there are"),
    ("users", "`cofferdam user ls` shows those there are"),
    ("accounts", "`cofferdam account ls` shows yours, `cofferdam account use` acts in another"),
    ("members", "`cofferdam member ls` shows those there are"),
    ("invitations", "`cofferdam invite ls` shows those there are"),
    ("sessions", "`cofferdam user sessions ls` shows those there are"),
    ("keys", "`cofferdam key ls` shows those there are"),
    ("", "`cofferdam ls` and `cofferdam image ls` show those there are"),
];

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
    fn remedies_name_commands() {
        let check = |code, said: &str, expected: &str| {
            let remedy = hinted(Problem::new(code, "x").remedy(said)).remedy.unwrap();
            assert!(remedy.contains(expected), "{said}: {remedy}");
        };
        check(Code::Unauthenticated, "send `Authorization: Bearer cof_\u{2026}`", "cofferdam login URL");
        check(Code::Unauthenticated, "POST /v1/session with an address", "`cofferdam login`");
        check(Code::Unauthenticated, "ask for another one", "ask for another one");
        check(Code::Unauthenticated, "try again; whoever operates", "whoever operates");
        check(Code::Unauthenticated, "log in, and take the invitation then", "log in, and");
        check(Code::ProofRequired, "POST /v1/session/proof", "at a terminal");
        check(Code::NotFound, "GET /v1/members lists those", "cofferdam member ls");
        check(Code::NotFound, "GET /v1/agents lists those", "cofferdam ls");
        check(Code::NotFound, "look again", "look again");
        check(Code::NameTaken, "GET /v1/users lists those", "cofferdam user ls");
    }

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
