//! The node's own socket, for root on this machine: one line of JSON in, one line out.

use crate::blanks::Ready;
use crate::fleet::Fleet;
use crate::verify::Signed;
use model::AgentId;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

const MAX_LINE: u64 = 4096;
const PATIENCE: Duration = Duration::from_secs(10);

/// What may be asked.
#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
enum Ask {
    /// End every boundary, and then the node. They start again with it.
    Shutdown,
    /// How is it.
    Status,
    /// What is an agent's boundary worth, seen from outside and tried from inside.
    Verify { agent: AgentId },
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Answer {
    Done { ok: bool },
    Status { agents: usize, blanks: Ready },
    Verified(Box<Signed>),
    Error { error: String },
}

/// A shutdown that was asked for.
pub(crate) struct Shutdown {
    /// Told when every boundary has ended.
    pub parked: oneshot::Sender<()>,
    /// Closed when the answer was sent.
    pub answered: oneshot::Receiver<()>,
}

/// The socket, removed when dropped.
pub(crate) struct Admin {
    listener: UnixListener,
    path: PathBuf,
}

impl Admin {
    /// Listens. What a dead node left there is replaced: the lock on the journal says that it is dead.
    pub(crate) fn listen(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Answers, for ever. A shutdown is passed on with a way to say that it is done.
    pub(crate) async fn serve(&self, fleet: Arc<Fleet>, shutdown: mpsc::Sender<Shutdown>) {
        loop {
            match self.listener.accept().await {
                // Between bind and chmod others could have connected.
                Ok((stream, _)) if stream.peer_cred().is_ok_and(|peer| peer.uid() == 0) => {
                    let (fleet, shutdown) = (fleet.clone(), shutdown.clone());
                    tokio::spawn(async move {
                        if let Err(error) = converse(stream, &fleet, &shutdown).await {
                            tracing::debug!(%error, "on the admin socket");
                        }
                    });
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%error, "the admin socket");
                    // Out of descriptors, most likely: they come back when something ends.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn converse(stream: UnixStream, fleet: &Fleet, shutdown: &mpsc::Sender<Shutdown>) -> io::Result<()> {
    let (reading, mut writing) = stream.into_split();
    let mut line = Vec::new();
    let mut reading = BufReader::new(reading).take(MAX_LINE);
    tokio::time::timeout(PATIENCE, reading.read_until(b'\n', &mut line)).await??;
    // Dropped when this function ends.
    let _answered: oneshot::Sender<()>;
    let answered;
    let answer = match serde_json::from_slice(&line) {
        Ok(Ask::Status) => Answer::Status { agents: fleet.count(), blanks: fleet.blanks() },
        Ok(Ask::Shutdown) => {
            let (parked, done) = oneshot::channel();
            (_answered, answered) = oneshot::channel();
            let ok = shutdown.send(Shutdown { parked, answered }).await.is_ok() && done.await.is_ok();
            Answer::Done { ok }
        }
        Ok(Ask::Verify { agent }) => match fleet.verify(agent).await {
            Ok(found) => Answer::Verified(Box::new(found)),
            Err(error) => Answer::Error { error },
        },
        Err(_) => Answer::Error {
            error: r#"expected {"op":"status"}, {"op":"shutdown"} or {"op":"verify","agent":ID}"#.to_owned(),
        },
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    writing.write_all(&line).await?;
    writing.shutdown().await
}
