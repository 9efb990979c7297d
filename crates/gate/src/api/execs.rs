//! `execs`: processes started through the API, as resources.

use super::convert;
use super::input::{self, ExecParam, Json, Parameters};
use super::list::{Kind, collect};
use super::session::Session;
use crate::limits;
use crate::problems::{ChannelFault, Refusal};
use ::channel::{Event, ExecRequest, Kind as FrameKind, MAX_PAYLOAD, Reply, Request, Size};
use axum::Json as Answer;
use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use model::workspace::{CreateExec, Exec, ExecOutput, SendSignal, TerminalSize};
use model::{ExecId, Problem, Span};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is handed to the connection at a time.
const PIECE: usize = 16 << 10;

/// `POST execs`; with `wait`, once it ended or the time is over, and with what it wrote.
pub async fn create(
    session: Session,
    mut query: Parameters,
    Json(wanted): Json<CreateExec>,
) -> Result<Response, Refusal> {
    let wait = query.take("wait")?.map(|text| wait_time(&text)).transpose()?;
    query.end()?;
    if let Some(wait) = wait {
        return run(&session, wanted, wait).await;
    }
    let id = ExecId::new();
    let argv = wanted.argv.clone();
    let request = Request::Exec(Box::new(exec_request(id, wanted, false)?));
    let Reply::Exec(info) = session.ask(&request, limits::REPLY_TIME).await? else {
        return Err(session.nonsense());
    };
    // What was asked for is known better here than there.
    let exec = Exec { id, argv, pid: info.pid, tty: info.tty, exit: info.exit.map(convert::exit) };
    Ok((StatusCode::CREATED, Answer(exec)).into_response())
}

fn wait_time(text: &str) -> Result<Duration, Problem> {
    let span: Option<Span> = text.parse().ok();
    let wait = span.map(|span| span.duration()).filter(|wait| *wait <= limits::EXEC_WAIT);
    wait.ok_or_else(|| Problem::invalid("wait", "`wait` must be a time of at most 60s, such as 30s."))
}

/// Starts a process and stays with it. When the time is over it goes on by itself.
async fn run(session: &Session, mut wanted: CreateExec, wait: Duration) -> Result<Response, Refusal> {
    if wanted.stdin {
        let problem =
            Problem::invalid("stdin", "Nobody can write to the stdin of an exec that is waited for.");
        return Err(problem.remedy("Attach to it instead.").into());
    }
    let limit = wanted.output_limit.unwrap_or(limits::CAPTURED).min(limits::CAPTURED);
    wanted.output_limit = Some(limit);
    let (id, argv) = (ExecId::new(), wanted.argv.clone());
    let request = Request::Exec(Box::new(exec_request(id, wanted, true)?));
    let mut talk = session.converse(&request).await?;
    let reply = talk.frames.reply(limits::REPLY_TIME).await.map_err(|fault| session.refusal(fault))?;
    let Reply::Attached { exec: info, .. } = reply else { return Err(session.nonsense()) };
    let (mut out, mut err, mut exit) = (Vec::new(), Vec::new(), None);
    let mut room = Room::default();
    let follow = async {
        loop {
            let frame = talk.frames.due().await?;
            match frame.kind {
                FrameKind::Data1 => out.extend_from_slice(frame.payload()),
                FrameKind::Data2 => err.extend_from_slice(frame.payload()),
                FrameKind::End1 | FrameKind::End2 => {}
                FrameKind::Event => {
                    if let Event::Exited(how) = frame.expect(FrameKind::Event)? {
                        exit = Some(convert::exit(how));
                        return Ok(());
                    }
                }
                _ => return Err(frame.fault(FrameKind::Data1)),
            }
            // Init ends it at its limit, and may send the piece that went over it; an honest one sends no more.
            let held = out.len() + err.len();
            if held as u64 > limit + MAX_PAYLOAD as u64 {
                return Err(ChannelFault::Closed);
            }
            room.hold(&session.shared.captured, held)?;
        }
    };
    if let Ok(Err(fault)) = tokio::time::timeout(wait, follow).await {
        return Err(session.refusal(fault));
    }
    let exec = Exec { id, argv, pid: info.pid, tty: info.tty, exit };
    let output = ExecOutput { exec, stdout: out.into(), stderr: err.into() };
    let body = serde_json::to_vec(&output).map_err(|_| session.nonsense())?;
    drop(output);
    room.hold(&session.shared.captured, body.len()).map_err(|fault| session.refusal(fault))?;
    let kind = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    Ok((StatusCode::CREATED, kind, held(body, room)).into_response())
}

/// A body whose memory counts until the client has taken it, however slowly it reads.
fn held(body: Vec<u8>, room: Room) -> Body {
    let pieces = stream::unfold((Bytes::from(body), room), async |(mut rest, room)| {
        let piece = rest.split_to(rest.len().min(PIECE));
        (!piece.is_empty()).then_some((Ok::<_, Infallible>(piece), (rest, room)))
    });
    Body::from_stream(pieces)
}

/// What output takes of the memory that all execs together have which are waited for.
#[derive(Default)]
struct Room(Option<OwnedSemaphorePermit>);

impl Room {
    /// Makes it enough for so many bytes.
    fn hold(&mut self, all: &Arc<Semaphore>, bytes: usize) -> Result<(), ChannelFault> {
        let had = self.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let Some(more) = bytes.div_ceil(1024).checked_sub(had).and_then(|more| u32::try_from(more).ok())
        else {
            return Ok(());
        };
        let more = all.clone().try_acquire_many_owned(more).map_err(|_| ChannelFault::Room)?;
        match &mut self.0 {
            Some(held) => held.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::{Room, held};
    use futures_util::StreamExt;
    use std::sync::Arc;
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn an_answer_counts_until_it_is_taken() {
        let all = Arc::new(Semaphore::new(100));
        let mut room = Room::default();
        room.hold(&all, 90 << 10).unwrap();
        let mut body = held(vec![b'x'; 90 << 10], room).into_data_stream();
        assert!(Room::default().hold(&all, 20 << 10).is_err());
        let mut taken = body.next().await.unwrap().unwrap().len();
        assert_eq!(all.available_permits(), 10, "most of it is still here");
        while let Some(piece) = body.next().await {
            taken += piece.unwrap().len();
        }
        assert_eq!((taken, all.available_permits()), (90 << 10, 100));
    }
}
