//! Asking an agent to end, over its channel. Nothing that it answers is read: only its end counts.

use channel::{Hello, Kind, Request};
use std::future::Future;
use std::path::Path;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

/// What its processes may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);
/// What init may take beyond that, for its record and for clients that still read.
const MARGIN: Duration = Duration::from_secs(3);
/// What a connection to a live init may take.
const CONNECT: Duration = Duration::from_secs(2);

/// Asks, and returns when `exited` does, or when it did not in time. An agent that cannot be asked has no grace.
pub(crate) async fn ask_and_wait(channel: &Path, exited: impl Future<Output = ()>) {
    let asked = tokio::time::timeout(CONNECT, ask(channel)).await;
    // Held until the end: a connection that closes might be taken for a client that lost interest.
    let _connection = match asked {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::warn!(channel = %channel.display(), %error, "the agent could not be asked to end");
            return;
        }
        Err(_) => {
            tracing::warn!(channel = %channel.display(), "the agent's init does not answer");
            return;
        }
    };
    let _ = tokio::time::timeout(GRACE + MARGIN, exited).await;
}

async fn ask(channel: &Path) -> std::io::Result<UnixStream> {
    let mut stream = UnixStream::connect(channel).await?;
    let mut bytes = Vec::new();
    let grace_ms = GRACE.as_millis() as u64;
    channel::encode_json(Kind::Hello, &Hello::OURS, &mut bytes)
        .and_then(|()| channel::encode_json(Kind::Request, &Request::Terminate { grace_ms }, &mut bytes))
        .map_err(std::io::Error::other)?;
    stream.write_all(&bytes).await?;
    Ok(stream)
}
