//! The steps, done. Each may be done again after it was done, half done, or done by a node that died.
//!
//! The record is on disk before anything outside of it changes. What cannot be done uses its generation up
//! (`failed`) when trying again would not help, and is tried again (`Stuck`) when it would.

use super::{Held, Stuck, Worker, channel};
use crate::fleet::lock;
use crate::gates::GateError;
use crate::journal::JournalError;
use crate::lease::Owner;
use crate::local::{After, Local, Motion, Phase, owner};
use crate::plan::Step;
use crate::{blanks, recheck, terminate, validate, verify};
use model::evidence::{Evidence, Observation};
use model::node_api::DesiredAgent;
use model::{AgentSpec, BoundaryId, Desired, Driver, ExitReason};
use sandbox::{
    Blank, Boundary, BoundaryError, BoundaryRecord, Doors, LaunchError, Proof, Sandbox, Shape, UidRange,
};
use std::error::Error;
use std::time::Instant;
use time::OffsetDateTime;

/// Attempts at one launch when the zygote dies under it.
const ATTEMPTS: usize = 3;

impl Worker {
    pub(super) async fn execute(&mut self, step: Step, desired: &DesiredAgent) -> Result<(), Stuck> {
        match step {
            Step::Accept => self.accept(desired),
            Step::Part => self.part(desired)?,
            Step::Admit => self.admit(),
            Step::Lease => self.lease().await,
            Step::Volume => self.volume().await?,
            Step::Launch => self.launch().await?,
            Step::Recover => self.recover().await?,
            Step::Freeze => self.set_motion(Motion::Frozen).await?,
            Step::Thaw => self.set_motion(Motion::Running).await?,
            Step::Terminate => self.terminate(After::Ended).await?,
            Step::Kill => self.kill().await?,
            Step::Clean => self.clean().await?,
            Step::Settle => self.change(|local| {
                local.phase = Phase::Ended;
                local.reason = Some(ExitReason::Requested);
            }),
            Step::Trash => self.trash().await?,
            Step::Bury => {
                self.change(|local| {
                    local.phase = Phase::Destroyed;
                    local.reason = Some(ExitReason::Requested);
                    local.lease = None;
                });
                self.save()?;
                lock(&self.shared.leases).free(self.agent);
            }
        }
        Ok(())
    }

    /// Finds the journaled boundary again, and takes note when its init has ended.
    pub(super) async fn look(&mut self) -> Result<(), Stuck> {
        let lives = matches!(self.local.as_ref().map(|local| local.phase), Some(Phase::Live(_)));
        if self.unadopted || (lives && self.boundary.is_none()) {
            self.adopt().await?;
            self.unadopted = false;
        }
        let ended = self.boundary.take_if(|held| held.has_exited());
        if let Some(held) = ended {
            let boundary = held.boundary.clone();
            let found = self.blocking("read the end", move |_| boundary.exit_reason()).await;
            let reason = match found {
                Ok(reason) => reason,
                Err(error) => {
                    self.boundary = Some(held);
                    return Err(error);
                }
            };
            tracing::info!(agent = %self.agent, %reason, "ended");
            self.change(|local| local.ended(After::Ended, reason));
            self.save()?;
        }
        Ok(())
    }

    async fn adopt(&mut self) -> Result<(), Stuck> {
        let Some(record) = self.local.as_ref().and_then(|local| local.boundary.clone()) else {
            // A live phase without a record: find it as after a launch that was cut short.
            self.change(|local| local.phase = Phase::Launching);
            return Ok(());
        };
        let rebooted = record.boot_id != self.shared.boot_id;
        let found = self
            .blocking("adopt", move |sandbox| match sandbox.adopt(&record) {
                Ok(Some(boundary)) => Ok(Ok(inspected(boundary))),
                Ok(None) => Ok(Err(sandbox.remains(&record).exit_reason())),
                Err(error) => Err(error),
            })
            .await?;
        match found.map_err(|error| stuck("adopt it", &error))? {
            Ok(seen) => {
                tracing::info!(agent = %self.agent, pid = seen.boundary.record().pid, "adopted");
                self.hold(seen, Motion::Unknown).await?;
            }
            Err(reason) => {
                let after = if rebooted { After::Parked } else { After::Ended };
                tracing::info!(agent = %self.agent, %reason, ?after, "ended while no node ran");
                self.change(|local| local.ended(after, reason));
                self.save()?;
            }
        }
        Ok(())
    }

    fn accept(&mut self, desired: &DesiredAgent) {
        let known = self.local.is_some();
        if !known {
            let epoch = match &*self.seen.borrow() {
                super::Seen::Listed(wish) => wish.database_epoch,
                super::Seen::Nothing | super::Seen::Unlisted => 0,
            };
            let stranger = self.shared.strangers.contains(&self.agent);
            let mut local = match desired.restored
                && !stranger
                && desired.desired != Desired::Destroyed
                && !self.shared.sandbox.has_volume(desired.spec.volume)
            {
                true => Local::lost(desired.clone(), epoch),
                false => Local::new(desired.clone(), epoch),
            };
            if stranger {
                // It lives, and the journal was lost: it is found again before anything else.
                local.phase = Phase::Launching;
                local.served = Some(desired.generation);
            }
            self.local = Some(local);
        }
        self.unsaved = true;
        let agent = self.agent;
        let mut restricted = false;
        if let Some(local) = &mut self.local {
            if known && !local.is_still(desired) {
                tracing::error!(%agent, "control changed what the agent is; it stays as it was first seen");
            }
            let before = local.desired.policy_revision;
            let moves = known && local.moves(desired);
            local.accept(desired);
            *lock(&self.owner) = Some(owner(&local.desired));
            if moves {
                // From here on it is the other account's, and so is what is asked for it.
                let DesiredAgent { secrets_revision, transfers, .. } = *desired;
                self.shared.secrets.heard(agent, secrets_revision, transfers, &self.shared.gates);
                tracing::info!(%agent, account = %local.desired.spec.account, "given to another account");
            }
            restricted = local.desired.policy_revision != before;
            self.shared.claim(local.desired.spec.volume, agent);
        }
        // What it may do holds at once, and not when all else is done.
        if restricted && self.boundary.is_some() {
            self.publish();
        }
    }

    /// It is another account's: the gate of this one forgets it now, before anything of it ends, and that outlives this node.
    fn part(&mut self, desired: &DesiredAgent) -> Result<(), Stuck> {
        let epoch = desired.token_epoch;
        self.change(|local| {
            local.leaves = true;
            local.desired.token_epoch = local.desired.token_epoch.max(epoch);
        });
        // First: what is not remembered is at least so as long as this node lives.
        self.publish();
        self.save()
    }

    fn admit(&mut self) {
        let Some(local) = &self.local else { return };
        let spec = &local.desired.spec;
        let fault = validate::allowed(spec.level, &self.shared.config.levels);
        let fault = fault.and_then(|()| validate::check(spec, &self.shared.config)).err().or_else(|| {
            let claimed = self.shared.claim(spec.volume, self.agent);
            (!claimed).then(|| "its volume belongs to another agent of this node".to_owned())
        });
        match fault {
            Some(detail) => self.fail(detail),
            // Its gate comes up and its secrets come while the volume is made. When they do not, the launch says so.
            None => {
                self.shared.secrets.need(self.agent);
                drop(self.shared.gates.ensure(spec.account));
            }
        }
    }

    /// With a blank come its ids, unless they are those of its account.
    async fn lease(&mut self) {
        let Some(local) = &self.local else { return };
        let spec = &local.desired.spec;
        let driver = validate::driver(spec, &self.shared.config);
        let spec = &AgentSpec { driver: Some(driver), ..spec.clone() };
        let owner = Owner::of(spec);
        let mut shape = Shape::of(spec);
        // No OCI runtime makes any ahead.
        let ahead = matches!(driver, Driver::Builtin | Driver::Systemd);
        // A copy brings its own volume.
        let copied = spec.origin.is_some() && !local.copied;
        let fits = ahead && !copied && local.lease.is_none() && !self.shared.sandbox.has_volume(spec.volume);
        if let Owner::Account(_) = owner {
            let Some(range) = self.take_range(owner) else { return };
            shape.base_uid = Some(range.base);
        }
        if fits {
            self.take_blank(&shape).await;
        }
        if self.blank.is_none() {
            self.take_range(owner);
        }
    }

    /// The range that it has from now on, if there is one.
    fn take_range(&mut self, owner: Owner) -> Option<UidRange> {
        let taken = lock(&self.shared.leases).take(self.agent, owner);
        match taken {
            Ok(range) => {
                self.change(|local| local.lease = Some(range));
                Some(range)
            }
            Err(error) => {
                self.fail(error.to_string());
                None
            }
        }
    }

    async fn take_blank(&mut self, shape: &Shape) {
        let (found, mut unused) = self.shared.blanks.take(shape);
        if let Some(blank) = found {
            let lease = blank.lease();
            let given = lock(&self.shared.leases).hand_over(lease, self.agent);
            match given {
                Ok(()) => {
                    self.change(|local| local.lease = Some(lease));
                    self.blank = Some(blank);
                }
                Err(_) => unused.push(blank),
            }
        }
        if !unused.is_empty() {
            blanks::discard(&self.shared, unused).await;
        }
    }

    async fn volume(&mut self) -> Result<(), Stuck> {
        // A blank has one, and until it is launched it needs no record: whatever ends this node ends it.
        if self.blank.is_some() {
            return Ok(());
        }
        let saved = self.save();
        if !self.remembered(saved)? {
            return Ok(());
        }
        let Some(local) = &self.local else { return Ok(()) };
        let (volume, size) = (local.desired.spec.volume, local.desired.spec.resources.disk);
        if let Some(origin) = local.desired.spec.origin.filter(|_| !local.copied) {
            return self.begin_as_copy(origin).await;
        }
        let made = self.heavy("make the volume", move |sandbox| sandbox.create_volume(volume, size)).await?;
        if let Err(error) = made {
            self.fail(crate::chain(&error));
        }
        Ok(())
    }

    async fn launch(&mut self) -> Result<(), Stuck> {
        let Some(local) = &self.local else { return Ok(()) };
        let mut spec = local.desired.spec.clone();
        spec.driver = Some(validate::driver(&spec, &self.shared.config));
        let Some(lease) = local.lease else { return Ok(()) };
        let address = match self.shared.gates.ensure(spec.account) {
            Ok(address) => address,
            Err(GateError::Journal(error)) => {
                return self.remembered(Err(Stuck::Journal(error))).map(drop);
            }
            Err(error @ GateError::Directory { .. }) => {
                return Err(stuck("start its gate", &error));
            }
            Err(error) => {
                self.fail(crate::chain(&error));
                return Ok(());
            }
        };
        let Some((given, authority)) = self.given(&spec).await? else { return Ok(()) };
        let Some(before) = self.local.clone() else { return Ok(()) };
        self.change(|local| local.launching(authority));
        if let Err(error) = self.save() {
            // Nothing was begun.
            self.local = Some(before);
            return self.remembered(Err(error)).map(drop);
        }
        let path = channel(&address.directory, self.agent);
        let mut blank = self.blank.take();
        if let Some(blank) = &mut blank {
            // The pool may have been too busy to look.
            blank.forget(2 * self.shared.config.inspect_every.duration());
        }
        let launched = self
            .heavy("launch", move |sandbox| {
                let mut attempts = 1;
                loop {
                    match sandbox.launch(&spec, &given, lease, address.gid, &path, blank.take()) {
                        Err(error) if error.is_transient() && attempts < ATTEMPTS => attempts += 1,
                        result => return result.map(proved),
                    }
                }
            })
            .await?;
        match launched {
            Ok(seen) => {
                tracing::info!(agent = %self.agent, pid = seen.boundary.record().pid, "launched");
                let now = OffsetDateTime::now_utc();
                self.change(|local| local.last_activity = Some(now));
                self.hold(seen, Motion::Running).await
            }
            // It is there: left by a node whose journal was lost.
            Err(LaunchError::AlreadyRunning { .. }) => self.recover().await,
            Err(error) => {
                let detail = crate::chain(&error);
                tracing::warn!(agent = %self.agent, detail, "not launched");
                self.fail(detail);
                self.save()
            }
        }
    }

    /// A launch was cut short, or the journal was lost. What it made may live.
    async fn recover(&mut self) -> Result<(), Stuck> {
        let agent = self.agent;
        let found = self
            .blocking("recover", move |sandbox| {
                let Some(record) = sandbox.find(agent) else { return Ok(None) };
                Ok(Some(match sandbox.adopt(&record)? {
                    Some(boundary) => Ok(inspected(boundary)),
                    None => Err((sandbox.remains(&record).exit_reason(), record)),
                }))
            })
            .await?;
        match found.map_err(|error: BoundaryError| stuck("recover it", &error))? {
            Some(Ok(seen)) => {
                tracing::info!(%agent, pid = seen.boundary.record().pid, "found after a launch that was cut short");
                self.hold(seen, Motion::Unknown).await
            }
            Some(Err((reason, record))) => {
                // It ran and ended by itself: that was its one start. Else it never really ran.
                let after =
                    if matches!(reason, ExitReason::Lost { .. }) { After::Parked } else { After::Ended };
                self.change(|local| {
                    local.boundary = Some(record);
                    local.ended(after, reason);
                });
                self.save()
            }
            None => {
                let detail = "the node ended while it was being made".to_owned();
                self.change(|local| local.ended(After::Parked, ExitReason::Lost { detail }));
                self.save()
            }
        }
    }

    /// Takes a live boundary in hand.
    async fn hold(&mut self, found: Found, motion: Motion) -> Result<(), Stuck> {
        let Found { boundary, evidence, at, doors } = found;
        let record = boundary.record().clone();
        let held = Held::new(boundary, doors).map_err(|error| stuck("watch it", &error))?;
        let lease = UidRange { base: record.base_uid };
        if let Some(owner) = self.local.as_ref().map(|local| Owner::of(&local.desired.spec))
            && let Err(error) = lock(&self.shared.leases).restore(self.agent, owner, lease)
        {
            tracing::error!(agent = %self.agent, %error, "two agents have the same user ids");
        }
        self.shared.secrets.need(self.agent);
        self.observation = Some(Observation { at, ..verify::observation(&record) });
        self.next_look =
            Instant::now() + recheck::phase(self.agent, self.shared.config.inspect_every.duration());
        self.boundary = Some(held);
        self.evidence = evidence;
        self.change(|local| {
            local.lease = Some(lease);
            local.boundary = Some(record);
            local.phase = Phase::Live(motion);
            local.served = Some(local.desired.generation);
            local.reason = None;
        });
        // Whoever waits for it need not wait for the record: until that is written, a node that finds it adopts it.
        self.publish();
        // What was told now waits for this thread.
        tokio::task::yield_now().await;
        self.save()
    }

    pub(super) async fn set_motion(&mut self, motion: Motion) -> Result<(), Stuck> {
        let Some(held) = &self.boundary else { return Ok(()) };
        let boundary = held.boundary.clone();
        // Frozen is what is recorded last, and running first: a node that dies in between looks again anyway.
        let done = self
            .blocking("freeze or thaw", move |_| match motion {
                Motion::Frozen => boundary.freeze(),
                Motion::Running | Motion::Unknown => match boundary.thaw() {
                    // What cannot be frozen is not frozen.
                    Err(BoundaryError::NoFreezer) => Ok(()),
                    thawed => thawed,
                },
            })
            .await?;
        done.map_err(|error| stuck("freeze or thaw it", &error))?;
        self.change(|local| local.phase = Phase::Live(motion));
        self.save()
    }

    /// Asks it to end, waits for the grace, then ends it.
    async fn terminate(&mut self, after: After) -> Result<(), Stuck> {
        let Some(held) = &self.boundary else { return Ok(()) };
        let path = held.boundary.record().channel.clone();
        let mut seen = self.seen.clone();
        let condemned = async {
            while seen.changed().await.is_ok() {
                if super::is_condemned(&seen.borrow()) {
                    return;
                }
            }
            std::future::pending().await
        };
        tokio::select! {
            () = terminate::ask_and_wait(&path, held.exited()) => {}
            // The grace is for work that somebody may still want.
            () = condemned => {}
        }
        self.end(after).await
    }

    async fn kill(&mut self) -> Result<(), Stuck> {
        self.end(After::Ended).await
    }

    async fn end(&mut self, after: After) -> Result<(), Stuck> {
        let Some(held) = &self.boundary else { return Ok(()) };
        let boundary = held.boundary.clone();
        // The reason is asked for all the same: that collects init.
        let killed = self.heavy("end it", move |_| boundary.kill().map(|()| boundary.exit_reason())).await?;
        let reason = killed.map_err(|error| stuck("end it", &error))?;
        tracing::info!(agent = %self.agent, %reason, "ended on request");
        self.boundary = None;
        self.change(|local| local.ended(after, ExitReason::Requested));
        self.save()
    }

    /// Removes what is left, then frees the ids: first on disk, then for others to take.
    async fn clean(&mut self) -> Result<(), Stuck> {
        let Some(local) = &self.local else { return Ok(()) };
        let record = local.boundary.clone().unwrap_or_else(|| self.nameless(local));
        // One that was never launched has the ids that are freed here.
        let mut blank = self.blank.take();
        let clean = move |sandbox: &Sandbox| {
            let ended = blank.as_mut().map_or(Ok(()), Blank::end).map_err(|error| crate::chain(&error));
            let cleaned = || sandbox.remains(&record).cleanup().map_err(|error| crate::chain(&error));
            (blank, ended.and_then(|()| cleaned()))
        };
        let (blank, cleaned) = self.heavy("clean up", clean).await?;
        self.blank = blank.filter(|_| cleaned.is_err());
        cleaned.map_err(|detail| Stuck::Step { what: "clean up after it", detail })?;
        self.evidence.clear();
        self.shared.secrets.rest(self.agent, &self.shared.gates);
        self.observation = None;
        let before = self.local.clone();
        self.change(Local::cleaned);
        if let Err(error) = self.save() {
            // Else nobody would plan this step again, and the ids would stay taken.
            self.local = before;
            return Err(error);
        }
        if self.local.as_ref().is_none_or(|local| local.lease.is_none()) {
            lock(&self.shared.leases).free(self.agent);
        }
        Ok(())
    }

    /// The record of a boundary of which nothing is known but whose it is: enough to clean up by.
    fn nameless(&self, local: &Local) -> BoundaryRecord {
        let spec = &local.desired.spec;
        let directory = self.shared.gates.directory(spec.account);
        BoundaryRecord {
            boundary: BoundaryId::new(),
            agent: self.agent,
            pid: 0,
            start_time: 0,
            boot_id: self.shared.boot_id.clone(),
            base_uid: local.lease.map_or(0, |lease| lease.base),
            init_digest: String::new(),
            level: spec.level,
            image_digest: spec.image_digest.clone(),
            volume: spec.volume,
            channel: channel(&directory, self.agent),
            landlock_abi: 0,
            driver: Driver::Builtin,
            kernel: None,
        }
    }

    async fn trash(&mut self) -> Result<(), Stuck> {
        let Some(local) = &self.local else { return Ok(()) };
        let volume = local.desired.spec.volume;
        if !self.shared.claim(volume, self.agent) {
            tracing::error!(agent = %self.agent, %volume, "its volume belongs to another agent; left alone");
            return Ok(());
        }
        let trashed = self.heavy("trash the volume", move |sandbox| sandbox.trash_volume(volume)).await?;
        trashed.map_err(|error| stuck("move its volume to the trash", &error))
    }

    /// Ends the boundary so that the next node starts it again.
    pub(super) async fn park(&mut self) {
        let lives = matches!(self.local.as_ref().map(|local| local.phase), Some(Phase::Live(_)));
        let wanted = self
            .local
            .as_ref()
            .is_some_and(|local| matches!(local.desired.desired, Desired::Running | Desired::Paused));
        self.parked = true;
        if !lives {
            return;
        }
        let after = if wanted { After::Parked } else { After::Ended };
        let ended = async {
            self.look().await?;
            if self.boundary.is_some() {
                // A frozen process takes no signal.
                self.set_motion(Motion::Running).await?;
                self.terminate(after).await?;
            }
            self.clean().await
        };
        if let Err(error) = ended.await {
            tracing::error!(agent = %self.agent, %error, "not ended cleanly; the next node sees to it");
        }
    }

    /// Whether what has to be remembered before a start is. When the disk is full, whoever ordered the start is
    /// told so; an agent that starts by itself goes on trying by itself.
    fn remembered(&mut self, saved: Result<(), Stuck>) -> Result<bool, Stuck> {
        let parked = self.local.as_ref().is_some_and(|local| local.phase == Phase::Parked);
        match saved {
            Ok(()) => Ok(true),
            Err(Stuck::Journal(error @ JournalError::Full { .. })) if !parked => {
                self.fail(crate::chain(&error));
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// What the agent's owner is told, and does not change by trying again.
    pub(super) fn fail(&mut self, detail: String) {
        self.failures += 1;
        self.change(|local| local.failed(ExitReason::Boundary { detail }));
    }

    pub(super) fn change(&mut self, change: impl FnOnce(&mut Local)) {
        if let Some(local) = &mut self.local {
            change(local);
            self.unsaved = true;
        }
    }

    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Sandbox) -> T + Send + 'static,
    ) -> Result<T, Stuck> {
        let sandbox = self.shared.sandbox.clone();
        tokio::task::spawn_blocking(move || work(&sandbox))
            .await
            .map_err(|error| Stuck::Step { what, detail: error.to_string() })
    }

    /// The same, but only so many at once.
    pub(super) async fn heavy<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Sandbox) -> T + Send + 'static,
    ) -> Result<T, Stuck> {
        // Never closed.
        let _permit = self.shared.permits.acquire().await;
        self.blocking(what, work).await
    }
}

/// A live boundary, what was seen of it, and where all arrives that leaves it.
struct Found {
    boundary: Boundary,
    evidence: Vec<Evidence>,
    at: OffsetDateTime,
    doors: Option<Doors>,
}

/// A boundary with what was seen of it before it began.
fn proved(boundary: Boundary) -> Found {
    match boundary.proof().cloned() {
        Some(Proof { evidence, at }) => {
            let doors = open_doors(&boundary);
            Found { boundary, evidence, at: at.into(), doors }
        }
        None => inspected(boundary),
    }
}

/// One that was taken over, with what there is around it. What it lacks now it may have lost while nobody looked: it is not
/// ended for that, but nothing more is said of it than this.
fn inspected(boundary: Boundary) -> Found {
    // What leads to its doors is a part of what is looked at.
    let doors = open_doors(&boundary);
    let evidence = boundary.inspect();
    Found { boundary, evidence, at: OffsetDateTime::now_utc(), doors }
}

/// Its doors, if it has any. Without, nothing leaves it, and that is tried again with every look.
pub(super) fn open_doors(boundary: &Boundary) -> Option<Doors> {
    let opened = boundary.open_doors();
    opened
        .inspect_err(|error| {
            let agent = boundary.record().agent;
            tracing::warn!(%agent, error = %crate::chain(error), "it has no doors, so nothing leaves it");
        })
        .ok()
        .flatten()
}

pub(super) fn stuck(what: &'static str, error: &dyn Error) -> Stuck {
    Stuck::Step { what, detail: crate::chain(error) }
}
