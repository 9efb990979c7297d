//! The node's life with control: enrols once, then pulls and reports. Control may be away for as long as it likes.

use crate::backoff::Backoff;
use crate::control::{self, CallError, Caller, EnrollError, Foreign, Known, Standing};
use crate::gates::Gates;
use crate::journal::Journal;
use crate::key::NodeKey;
use crate::outbox::Outbox;
use crate::report::Reporter;
use crate::secrets::Secrets;
use model::AgentId;
use model::node_api::{Capacity, DesiredState};
use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;
use zeroize::Zeroizing;

/// The record of the node's place in an installation.
pub(crate) const ENROLLED: &str = "enrolled.json";
/// The bootstrap token, gone once it was used.
const BOOTSTRAP: &str = "bootstrap-token";
/// Answers that say nothing new come at most this often, however quick control is with them.
const CALM: Duration = Duration::from_secs(1);
/// Between an answer with news and the next question: what changes meanwhile comes in one answer, and the work that the
/// news made begins before control is kept busy again.
const GATHER: Duration = Duration::from_millis(3);

/// What a session works with.
pub(crate) struct Session {
    pub journal: Arc<Journal>,
    pub gates: Arc<Gates>,
    pub reporter: Arc<Reporter>,
    pub outbox: Arc<Outbox>,
    pub secrets: Arc<Secrets>,
    /// Acts on a desired state; returns the agents that a whole one leaves out.
    pub apply: Box<dyn Fn(DesiredState) -> Option<Vec<AgentId>> + Send + Sync>,
    pub http: reqwest::Client,
    pub origin: String,
    pub capacity: Capacity,
    /// Told after the first attempt to reach control.
    pub attempted: Option<oneshot::Sender<()>>,
}

impl Session {
    /// Goes on until the node ends. Returns only when the node has no place in an installation and gets none.
    pub(crate) async fn run(mut self, key: NodeKey, standing: Option<Standing>) -> Result<(), EnrollError> {
        let standing = match standing {
            Some(standing) => {
                if fs::remove_file(self.journal.root().join(BOOTSTRAP)).is_ok() {
                    tracing::info!(
                        "this node is enrolled; the bootstrap token is not needed and was removed"
                    );
                }
                standing
            }
            None => self.enroll(&key).await?,
        };
        self.gates.set_keys(&standing.installation, &standing.keys);
        let caller = Arc::new(Caller::new(self.http.clone(), &self.origin, key, &standing));
        let (reporter, outbox) = (self.reporter.clone(), self.outbox.clone());
        let (secrets, gates) = (self.secrets.clone(), self.gates.clone());
        tokio::join!(
            self.pull(&caller, standing),
            reporter.run(&caller),
            outbox.run(&caller),
            secrets.run(&caller, &gates)
        );
        Ok(())
    }

    async fn enroll(&mut self, key: &NodeKey) -> Result<Standing, EnrollError> {
        let path = self.journal.root().join(BOOTSTRAP);
        let mut backoff = Backoff::to_control();
        loop {
            let token = match fs::read_to_string(&path) {
                Ok(token) => Zeroizing::new(token),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(EnrollError::NoToken(path));
                }
                Err(source) => return Err(EnrollError::Token { path, source }),
            };
            match control::enroll(&self.http, &self.origin, key, token.trim(), self.capacity).await {
                Ok(enrolled) => {
                    let standing = Standing {
                        node: enrolled.node,
                        installation: enrolled.installation,
                        database_epoch: 0,
                        keys: Vec::new(),
                    };
                    self.journal.write_own(ENROLLED, &standing)?;
                    // Used up. Left behind it would do no harm, but it need not lie around.
                    let _ = fs::remove_file(&path);
                    tracing::info!(node = %standing.node, installation = standing.installation, "enrolled");
                    return Ok(standing);
                }
                Err(source @ CallError::Refused { status: 400..=428 | 430..=499, .. }) => {
                    return Err(EnrollError::Refused { path, source });
                }
                Err(error) => {
                    tracing::warn!(error = %crate::chain(&error), "not enrolled yet; tried again");
                    self.tell_attempted();
                    tokio::time::sleep(backoff.delay()).await;
                }
            }
        }
    }

    /// Asks for the desired state, for ever.
    async fn pull(&mut self, caller: &Caller, mut standing: Standing) {
        let mut backoff = Backoff::to_control();
        let mut known: Option<Known> = None;
        let mut trouble: Option<String> = None;
        loop {
            let asked = Instant::now();
            let answer = caller.desired(known).await;
            self.tell_attempted();
            let found = match answer {
                Ok(state) => {
                    // An answer too early that says nothing new must not become a busy loop.
                    let calm = if known.is_some_and(|known| known.rev == state.rev) {
                        CALM.saturating_sub(asked.elapsed())
                    } else {
                        GATHER
                    };
                    let next = Some(Known { rev: state.rev, epoch: state.database_epoch });
                    self.take(state, &mut standing)
                        .map(|()| (next, calm))
                        .map_err(|foreign| foreign.to_string())
                }
                Err(error) => Err(crate::chain(&error)),
            };
            match found {
                Ok((next, calm)) => {
                    known = next;
                    if trouble.take().is_some() {
                        tracing::info!("control answers again");
                        self.reporter.control_answers();
                        // It may be another process on an older state.
                        self.reporter.repeat_all();
                        self.outbox.control_answers();
                    }
                    backoff.reset();
                    tokio::time::sleep(calm).await;
                }
                Err(error) => {
                    if trouble.as_ref() != Some(&error) {
                        tracing::warn!(error, "no desired state from control; agents go on as they are");
                        trouble = Some(error);
                    }
                    known = None;
                    tokio::time::sleep(backoff.delay()).await;
                }
            }
        }
    }

    /// Acts on a desired state, if it may speak to this node.
    fn take(&self, mut state: DesiredState, standing: &mut Standing) -> Result<(), Foreign> {
        standing.check(&state.installation, state.database_epoch)?;
        let known =
            Standing { database_epoch: state.database_epoch, keys: state.keys.clone(), ..standing.clone() };
        if known != *standing {
            let restored = known.database_epoch > standing.database_epoch;
            if let Err(error) = self.journal.write_own(ENROLLED, &known) {
                tracing::error!(error = %crate::chain(&error), "could not remember what control said");
            }
            *standing = known;
            self.gates.set_keys(&standing.installation, &standing.keys);
            if restored {
                self.reporter.repeat_all();
            }
        }
        self.gates.set_attention(std::mem::take(&mut state.attention));
        if let Some(orphans) = (self.apply)(state) {
            self.reporter.set_orphans(orphans);
        }
        Ok(())
    }

    fn tell_attempted(&mut self) {
        if let Some(attempted) = self.attempted.take() {
            let _ = attempted.send(());
        }
    }
}
