//! The lines between node and the gate (`model::gate_api`).

use crate::egress::Egress;
use crate::limits;
use crate::state::{Answer, Shared};
use futures_util::{SinkExt, StreamExt};
use model::gate_api::{FromGate, ToGate};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio_util::codec::{FramedRead, FramedWrite, LinesCodec, LinesCodecError};
use tokio_util::sync::CancellationToken;

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

/// Follows what node says until it says no more. `first` is told when the first state is in force.
pub async fn listen(
    socket: OwnedReadHalf,
    shared: &Shared,
    egress: &Egress,
    first: oneshot::Sender<()>,
) -> Result<(), ControlError> {
    let mut lines = FramedRead::new(socket, LinesCodec::new_with_max_length(limits::NODE_LINE));
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
            ToGate::Roots { pem } => egress.trust(&pem),
            ToGate::Resolver { resolver } => egress.resolve_by(&resolver),
            ToGate::Credentials { agent, credentials } => egress.credentials(agent, credentials),
            ToGate::Stats { request, stats } => shared.came(request, Answer::Stats(stats)),
            ToGate::Logs { request, logs } => shared.came(request, Answer::Logs(logs)),
        }
    }
    Ok(())
}

/// Tells node what is there for it: until node hears nothing any more, or to the end of what is there once it is `over`.
pub async fn speak(
    socket: OwnedWriteHalf,
    mut for_node: mpsc::Receiver<FromGate>,
    over: CancellationToken,
) -> Result<(), ControlError> {
    let mut out = FramedWrite::new(socket, LinesCodec::new());
    loop {
        let message = tokio::select! {
            message = for_node.recv() => message,
            () = over.cancelled(), if !for_node.is_closed() => {
                for_node.close();
                continue;
            }
        };
        let Some(message) = message else { return Ok(()) };
        let line = serde_json::to_string(&message).map_err(ControlError::Line)?;
        out.send(line).await?;
    }
}
