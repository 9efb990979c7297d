//! `execs`: processes started through the API, as resources.

use super::convert;
use super::input::{self, ExecParam, Json};
use super::list::{Kind, collect};
use super::session::Session;
use crate::limits;
use crate::problems::Refusal;
use ::channel::{ExecRequest, Reply, Request, Size};
use axum::Json as Answer;
use axum::http::StatusCode;
use model::workspace::{CreateExec, Exec, SendSignal, TerminalSize};
use model::{ExecId, Problem};

/// `POST execs`
pub async fn create(
    session: Session,
    Json(wanted): Json<CreateExec>,
) -> Result<(StatusCode, Answer<Exec>), Refusal> {
    let id = ExecId::new();
    let argv = wanted.argv.clone();
    let request = Request::Exec(Box::new(exec_request(id, wanted, false)?));
    let Reply::Exec(info) = session.ask(&request, limits::REPLY_TIME).await? else {
        return Err(session.nonsense());
    };
    // What was asked for is known better here than there.
    let exec = Exec { id, argv, pid: info.pid, tty: info.tty, exit: info.exit.map(convert::exit) };
    Ok((StatusCode::CREATED, Answer(exec)))
}

/// `GET execs`
pub async fn list(session: Session) -> Result<Answer<Vec<Exec>>, Refusal> {
    Ok(Answer(all(&session).await?))
}

/// `GET execs/X`
pub async fn get(session: Session, ExecParam(id): ExecParam) -> Result<Answer<Exec>, Refusal> {
    let exec = all(&session).await?.into_iter().find(|exec| exec.id == id);
    Ok(Answer(exec.ok_or_else(input::no_such_exec)?))
}

/// `DELETE execs/X`
pub async fn forget(session: Session, ExecParam(id): ExecParam) -> Result<StatusCode, Refusal> {
    session.order(&Request::Forget { id: id.to_string() }, limits::REPLY_TIME).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST execs/X/signal`
pub async fn signal(
    session: Session,
    ExecParam(id): ExecParam,
    Json(SendSignal { signal }): Json<SendSignal>,
) -> Result<StatusCode, Refusal> {
    check_signal(signal)?;
    session.order(&Request::Signal { id: id.to_string(), signal }, limits::REPLY_TIME).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn all(session: &Session) -> Result<Vec<Exec>, Refusal> {
    let part = |reply| match reply {
        Reply::Execs { execs, more } => Some((execs, more)),
        _ => None,
    };
    collect(session, &Request::Execs, Kind { part, entry: convert::exec }).await
}

/// Whether a signal may be sent.
pub fn check_signal(signal: i32) -> Result<(), Problem> {
    if (1..=31).contains(&signal) {
        return Ok(());
    }
    Err(Problem::invalid("signal", "The signal must be a number from 1 to 31."))
}

/// Checks what a client wants started, and puts it in init's words.
pub fn exec_request(id: ExecId, wanted: CreateExec, attach: bool) -> Result<ExecRequest, Problem> {
    let CreateExec { argv, env, cwd, user, tty, stdin, timeout_ms, output_limit } = wanted;
    if argv.first().is_none_or(String::is_empty) {
        return Err(Problem::invalid("argv", "`argv` must begin with the program to run."));
    }
    for text in &argv {
        check_word("argv", text)?;
    }
    for (name, value) in &env {
        if name.is_empty() || name.contains('=') {
            return Err(Problem::invalid("env", "A variable's name may not be empty or contain `=`."));
        }
        check_word("env", name)?;
        check_word("env", value)?;
    }
    if timeout_ms == Some(0) {
        return Err(Problem::invalid("timeout_ms", "A timeout must be at least one millisecond."));
    }
    Ok(ExecRequest {
        id: id.to_string(),
        argv,
        env,
        cwd: cwd.map(|path| input::check_path("cwd", path)).transpose()?,
        user: user.map(convert::user),
        tty: tty.map(size).transpose()?,
        stdin,
        timeout_ms,
        output_limit,
        attach,
    })
}

fn check_word(field: &str, text: &str) -> Result<(), Problem> {
    if text.contains('\0') {
        return Err(Problem::invalid(field, "A NUL byte cannot be part of an argument or a variable."));
    }
    // MAX_ARG_STRLEN, less the ending NUL: Linux takes no longer word.
    if text.len() >= 128 << 10 {
        return Err(Problem::invalid(field, "An argument or variable must have less than 128 KiB."));
    }
    Ok(())
}

fn size(TerminalSize { rows, cols }: TerminalSize) -> Result<Size, Problem> {
    if rows == 0 || cols == 0 {
        return Err(Problem::invalid("tty", "A terminal has at least one row and one column."));
    }
    Ok(Size { rows, cols })
}
