//! What an agent is given at its start beside its spec: its secrets, placeholders for those that its gate puts in, and whom it is
//! to trust.

use super::steps::stuck;
use super::{Stuck, Worker};
use crate::local::Phase;
use crate::secrets::{self, PATIENCE, Unready};
use crate::{authority, gates};
use model::AgentSpec;
use model::agent::Level;
use model::gate_api::Authority;
use model::policy::Policy;
use sandbox::Given;
use time::OffsetDateTime;

impl Worker {
    /// All of it, with the authority of this start if its policy needs one; `None` when it does not start now.
    pub(super) async fn given(
        &mut self,
        spec: &AgentSpec,
    ) -> Result<Option<(Given, Option<Authority>)>, Stuck> {
        let policy = self.local.as_ref().and_then(|local| local.desired.policy.clone());
        let Some(mut given) = self.secrets(spec, policy.as_ref()).await? else { return Ok(None) };
        // Nothing of a workspace passes a gate.
        let looked_into =
            spec.level != Level::Workspace && policy.is_some_and(|policy| policy.terminates_anything());
        if !looked_into {
            return Ok(Some((given, None)));
        }
        let made = authority::make(self.agent, OffsetDateTime::now_utc());
        let made = made.map_err(|error| stuck("make its authority", &error))?;
        given.authority = Some(made.certificate.clone());
        let roots = self.shared.config.egress.roots.clone();
        given.roots = self.blocking("read certificates", move |_| gates::read_roots(&roots).ok()).await?;
        Ok(Some((given, Some(made))))
    }

    /// What it is given at its start; `None` when it does not start now.
    async fn secrets(&mut self, spec: &AgentSpec, policy: Option<&Policy>) -> Result<Option<Given>, Stuck> {
        if secrets::needs_none(spec, policy) {
            return Ok(Some(Given::default()));
        }
        let mut seen = self.seen.clone();
        let shared = self.shared.clone();
        let found = tokio::select! {
            found = shared.secrets.of(self.agent, PATIENCE) => found,
            // Perhaps it is not to start any more.
            Ok(()) = seen.changed() => return Ok(None),
        };
        let parked = self.local.as_ref().is_some_and(|local| local.phase == Phase::Parked);
        let given = match found {
            // It starts by itself, and goes on trying by itself.
            Err(error @ Unready::Away { .. }) if parked => return Err(stuck("fetch its secrets", &error)),
            Err(error) => Err(error.to_string()),
            Ok(values) => secrets::given(spec, policy, &values).map_err(|error| error.to_string()),
        };
        match given {
            Ok(given) => Ok(Some(given)),
            Err(detail) => {
                tracing::warn!(agent = %self.agent, detail, "not launched");
                self.fail(detail);
                Ok(None)
            }
        }
    }
}
