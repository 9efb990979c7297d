//! Copies of volumes. The worker of the source makes them, between its own steps: so that nobody starts, ends or removes the source
//! meanwhile; and the worker of the copy waits for it, as long as the copy is wanted.

use super::{Stuck, Worker};
use crate::fleet::CopyOrder;
use crate::local::{Motion, Phase};
use model::Desired;
use model::clone::Origin;
use tokio::sync::oneshot;

impl Worker {
    /// Has the volume made as a copy of another agent's. What stands in the way of that for good is told to whoever made the agent.
    pub(super) async fn begin_as_copy(&mut self, origin: Origin) -> Result<(), Stuck> {
        let Some(local) = &self.local else { return Ok(()) };
        let (volume, account) = (local.desired.spec.volume, local.desired.spec.account);
        let mut seen = self.seen.clone();
        let (done, copied) = oneshot::channel();
        let asked = async {
            let copier = self.shared.copier(origin.agent)?;
            let turn = self.shared.copying.clone().acquire_owned().await.ok()?;
            copier.send(CopyOrder { account, to: volume, done, turn }).await.ok()?;
            copied.await.ok()
        };
        // Asked also when it seems to be there: an order from before that nobody waits for any more may be about to remove it, and orders
        // are answered one after the other.
        let made = tokio::select! {
            made = asked => made,
            // Perhaps it is not wanted any more.
            Ok(()) = seen.changed() => return Ok(()),
        };
        let gone = || Err("the agent that it is to be a copy of is not on this node any more".to_owned());
        match made.unwrap_or_else(gone) {
            // One that was made whole before outlives its source.
            Err(detail) if !self.shared.sandbox.has_volume(volume) => {
                self.fail(detail);
                return Ok(());
            }
            _ => {}
        }
        self.change(|local| local.copied = true);
        self.save()
    }

    /// Makes a copy of this agent's volume for another of the account.
    pub(super) async fn copy(&mut self, order: CopyOrder) {
        let CopyOrder { account, to, done, turn: _turn } = order;
        if done.is_closed() {
            return;
        }
        let made =
            match self.local.as_ref().map(|local| local.desired.spec.account == account && !local.leaves) {
                Some(true) => self.copied(to).await,
                Some(false) => Err("the agent that it is to be a copy of is another account's".to_owned()),
                None => Err("there is nothing yet of the agent that it is to be a copy of".to_owned()),
            };
        let there = made.is_ok();
        if let Err(error) = &made {
            tracing::warn!(agent = %self.agent, error, "not copied");
        }
        if done.send(made).is_err() && there {
            // Nobody waits for it any more, and nobody would ever remove it.
            let trashed = self.heavy("trash the copy", move |sandbox| sandbox.trash_volume(to)).await;
            if !matches!(trashed, Ok(Ok(()))) {
                tracing::error!(agent = %self.agent, volume = %to, "a copy that nobody wants is left");
            }
        }
    }

    async fn copied(&mut self, to: model::VolumeId) -> Result<(), String> {
        let failed = |error: Stuck| error.to_string();
        self.look().await.map_err(failed)?;
        let Some(local) = &self.local else { return Err("it is gone".to_owned()) };
        let (from, phase) = (local.desired.spec.volume, local.phase);
        if local.desired.desired == Desired::Destroyed || !self.shared.sandbox.has_volume(from) {
            return Err("the agent that it is to be a copy of has no volume any more, or not yet".to_owned());
        }
        if self.shared.sandbox.has_volume(to) {
            return Ok(());
        }
        let runs = match phase {
            Phase::Live(Motion::Running) => true,
            Phase::Live(Motion::Frozen) | Phase::Idle | Phase::Parked | Phase::Ended => false,
            Phase::Live(Motion::Unknown) | Phase::Launching | Phase::Ending(_) | Phase::Destroyed => {
                let detail =
                    "the agent that it is to be a copy of is on its way elsewhere; start this one again";
                return Err(detail.to_owned());
            }
        };
        if runs {
            // It is on record that it stands still: a node that dies over the copy leaves it to the next to let it go on.
            self.set_motion(Motion::Frozen).await.map_err(|error| {
                format!("the agent that it is to be a copy of does not stand still; stop it first: {error}")
            })?;
        }
        let copied = self.heavy("copy the volume", move |sandbox| sandbox.copy_volume(from, to)).await;
        if runs && let Err(error) = self.set_motion(Motion::Running).await {
            // The plan is made anew, and tries again.
            tracing::error!(agent = %self.agent, %error, "still frozen after it was copied");
        }
        match copied {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(crate::chain(&error)),
            Err(error) => Err(failed(error)),
        }
    }
}
