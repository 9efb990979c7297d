//! Talking to an agent's init, as gate does.

use channel::{Decoder, Event, ExecRequest, Hello, Kind, Request, Size, User};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Asks an agent's init, as gate does: all frames of the answer, up to the end of what was asked for.
pub fn ask(channel: &Path, request: &Request) -> Vec<(Kind, String)> {
    let mut socket = UnixStream::connect(channel).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut out = Vec::new();
    channel::encode_json(Kind::Hello, &Hello::OURS, &mut out).unwrap();
    channel::encode_json(Kind::Request, request, &mut out).unwrap();
    socket.write_all(&out).unwrap();
    let (mut decoder, mut frames, mut buffer) = (Decoder::new(), Vec::new(), [0; 4096]);
    loop {
        while let Some(frame) = decoder.next().unwrap() {
            let ended = frame.kind == Kind::Event && matches!(frame.json(), Ok(Event::Exited(_)));
            frames.push((frame.kind, String::from_utf8_lossy(&frame.payload).into_owned()));
            if ended || frames.last().unwrap().0 == Kind::Error {
                return frames;
            }
        }
        match socket.read(&mut buffer).unwrap() {
            0 => return frames,
            count => decoder.push(&buffer[..count]),
        }
    }
}

/// What a process said, on both of its outputs.
pub fn text(frames: &[(Kind, String)]) -> String {
    frames
        .iter()
        .filter(|(kind, _)| matches!(kind, Kind::Data1 | Kind::Data2))
        .map(|(_, text)| text.as_str())
        .collect()
}

/// Runs a script to its end.
pub fn exec(channel: &Path, script: &str, user: Option<User>, tty: Option<Size>) -> Vec<(Kind, String)> {
    let exec = ExecRequest {
        id: format!("exe_{:x}", NUMBER.fetch_add(1, Ordering::Relaxed)),
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: Default::default(),
        cwd: None,
        user,
        tty,
        stdin: false,
        timeout_ms: None,
        output_limit: None,
        attach: true,
    };
    ask(channel, &Request::Exec(Box::new(exec)))
}
