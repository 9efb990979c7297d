//! The lines between node and the gate (`model::gate_api`).

use crate::egress::Egress;
use crate::limits;
use crate::state::{Answer, Shared};
use futures_util::{SinkExt, StreamExt};
use model::gate_api::{FromGate, ToGate};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::codec::{FramedRead, FramedWrite, LinesCodec, LinesCodecError};

/// Why the conversation with node ended.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket failed, or a line was over its limit.
    #[error("the connection to node failed")]
    Socket(#[from] LinesCodecError),
    /// A line that is none of ours. The gate ends, because what it did not understand may have been a revocation.
    #[error("node sent a line that this version does not understand")]
    Line(#[source] serde_json::Error),
}

/// Follows node until it closes the socket. `first` is told when the first state is in force.
pub async fn follow(
    socket: UnixStream,
    shared: &Shared,
    egress: &Egress,
    mut for_node: mpsc::Receiver<FromGate>,
    first: oneshot::Sender<()>,
) -> Result<(), ControlError> {
    let (reading, writing) = socket.into_split();
    let mut lines = FramedRead::new(reading, LinesCodec::new_with_max_length(limits::NODE_LINE));
    let mut out = FramedWrite::new(writing, LinesCodec::new());
    let speak = async {
        while let Some(message) = for_node.recv().await {
            let line = serde_json::to_string(&message).map_err(ControlError::Line)?;
            out.send(line).await?;
        }
        Ok(())
    };
    let listen = async {
        let mut first = Some(first);
        while let Some(line) = lines.next().await {
            match serde_json::from_str(&line?).map_err(ControlError::Line)? {
                ToGate::State { installation, account, keys, agents, tools, names } => {
                    egress.replace(&agents, tools, names);
                    shared.replace(installation, account, keys, agents);
                    if let Some(first) = first.take() {
                        let _ = first.send(());
                    }
                }
                ToGate::Agents { set, gone } => {
                    egress.update(&set, &gone);
                    shared.update(set, gone);
                }
                ToGate::Attention { agents } => egress.attend(agents),
                ToGate::Stats { request, stats } => shared.came(request, Answer::Stats(stats)),
                ToGate::Logs { request, logs } => shared.came(request, Answer::Logs(logs)),
            }
        }
        Ok(())
    };
    tokio::select! {
        ended = listen => ended,
        // Node closed its reading half: the same as the end.
        ended = speak => ended,
    }
}
