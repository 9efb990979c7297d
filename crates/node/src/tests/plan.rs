use super::wish;
use crate::local::{After, Local, Motion, Phase, Refusal};
use crate::plan::{Step, plan};
use Step::*;
use model::agent::{Level, Observed};
use model::node_api::DesiredAgent;
use model::policy::{Egress, Policy, Preset};
use model::{AgentSpec, Desired, ExitReason};
use proptest::prelude::*;
use sandbox::UidRange;

const LEASE: UidRange = UidRange { base: 0x7000_0000 };

/// A record in a phase, as a node leaves it that acted on `desired` at `generation`.
fn local(desired: Desired, generation: u64, phase: Phase) -> Local {
    let mut local = Local::new(wish(desired, generation), 1);
    local.phase = phase;
    if phase != Phase::Idle {
        local.served = Some(generation);
    }
    if matches!(phase, Phase::Live(_) | Phase::Ending(_) | Phase::Launching) {
        local.lease = Some(LEASE);
    }
    local
}

/// The same agent, wanted otherwise.
fn then(local: &Local, desired: Desired, generation: u64) -> DesiredAgent {
    DesiredAgent { desired, generation, ..local.desired.clone() }
}

fn check(local: &Local, desired: Desired, generation: u64, expected: &[Step]) {
    let steps = plan(&then(local, desired, generation), Some(local));
    assert_eq!(steps, expected, "{:?} wanted {desired:?} at {generation}", local.phase);
}

#[test]
fn a_new_agent() {
    let check =
        |desired, expected: &[Step]| assert_eq!(plan(&wish(desired, 1), None), expected, "{desired:?}");
    check(Desired::Running, &[Accept, Admit, Lease, Volume, Launch]);
    check(Desired::Paused, &[Accept, Admit, Lease, Volume, Launch, Freeze]);
    check(Desired::Stopped, &[Accept, Settle]);
    check(Desired::Destroyed, &[Accept, Trash, Bury]);
}

#[test]
fn a_live_agent() {
    let running = local(Desired::Running, 3, Phase::Live(Motion::Running));
    check(&running, Desired::Running, 3, &[]);
    check(&running, Desired::Running, 4, &[Accept]);
    check(&running, Desired::Paused, 4, &[Accept, Freeze]);
    check(&running, Desired::Stopped, 4, &[Accept, Terminate, Clean]);
    check(&running, Desired::Destroyed, 4, &[Accept, Kill, Clean, Trash, Bury]);
    let frozen = local(Desired::Paused, 3, Phase::Live(Motion::Frozen));
    check(&frozen, Desired::Running, 4, &[Accept, Thaw]);
    check(&frozen, Desired::Stopped, 4, &[Accept, Thaw, Terminate, Clean]);
    check(&frozen, Desired::Destroyed, 4, &[Accept, Kill, Clean, Trash, Bury]);
    // Adopted: the node before may have died between the freezer and its journal.
    check(&local(Desired::Running, 3, Phase::Live(Motion::Unknown)), Desired::Running, 3, &[Thaw]);
    check(&local(Desired::Paused, 3, Phase::Live(Motion::Unknown)), Desired::Paused, 3, &[Freeze]);
}

#[test]
fn an_agent_without_boundary() {
    let start = [Admit, Lease, Volume, Launch];
    let ended = local(Desired::Running, 3, Phase::Ended);
    check(&ended, Desired::Running, 3, &[]);
    check(&ended, Desired::Running, 4, &[&[Accept], &start[..]].concat());
    check(&ended, Desired::Stopped, 4, &[Accept]);
    check(&ended, Desired::Destroyed, 4, &[Accept, Trash, Bury]);
    let parked = local(Desired::Running, 3, Phase::Parked);
    check(&parked, Desired::Running, 3, &start);
    check(&parked, Desired::Stopped, 4, &[Accept, Settle]);
    let dying = local(Desired::Running, 3, Phase::Ending(After::Ended));
    check(&dying, Desired::Running, 3, &[Clean]);
    check(&dying, Desired::Running, 4, &[&[Accept, Clean], &start[..]].concat());
    let torn = local(Desired::Running, 3, Phase::Launching);
    check(&torn, Desired::Running, 3, &[Recover]);
    check(&torn, Desired::Stopped, 4, &[Accept, Recover]);
    check(&torn, Desired::Destroyed, 4, &[Accept, Recover]);
    // Ids were leased, and then the wish changed before anything used them.
    let mut leased = local(Desired::Running, 3, Phase::Idle);
    leased.lease = Some(LEASE);
    check(&leased, Desired::Destroyed, 4, &[Accept, Clean, Trash, Bury]);
    check(&leased, Desired::Stopped, 4, &[Accept, Clean, Settle]);
}

#[test]
fn what_may_not_be_acted_on() {
    let running = local(Desired::Running, 3, Phase::Live(Motion::Running));
    check(&running, Desired::Destroyed, 2, &[]);
    check(&running, Desired::Destroyed, 3, &[]);
    assert_eq!(
        running.check(&then(&running, Desired::Stopped, 2)),
        Err(Refusal::Stale { offered: 2, known: 3 })
    );
    let gone = local(Desired::Destroyed, 3, Phase::Destroyed);
    check(&gone, Desired::Running, 4, &[]);
    check(&gone, Desired::Destroyed, 3, &[]);
}

#[test]
fn what_an_agent_is_never_changes() {
    let mut running = local(Desired::Running, 3, Phase::Live(Motion::Running));
    let before = running.desired.spec.clone();
    running.accept(&wish(Desired::Paused, 4));
    assert_eq!(running.desired.spec, before);
    assert_eq!(running.desired.desired, Desired::Paused);
}

/// The same agent, given to another account.
fn given(local: &Local, desired: Desired, generation: u64) -> DesiredAgent {
    let mut given = then(local, desired, generation);
    given.spec.account = model::AccountId::new();
    given.transfers += 1;
    given.token_epoch += 1;
    given
}

#[test]
fn what_a_backup_knows_of_an_owner_before_is_refused() {
    let mut theirs = local(Desired::Running, 3, Phase::Live(Motion::Running));
    let before = then(&theirs, Desired::Running, 9);
    theirs.accept(&given(&theirs, Desired::Running, 4));
    assert_eq!(theirs.check(&before), Err(Refusal::GivenSince));
    // Given to somebody else instead, for the first time once more.
    let elsewhere = DesiredAgent { transfers: 1, ..given(&theirs, Desired::Running, 9) };
    assert_eq!(theirs.check(&elsewhere), Err(Refusal::GivenSince));
    assert_eq!(theirs.check(&given(&theirs, Desired::Running, 9)), Ok(()));
    assert_eq!(theirs.check(&DesiredAgent { desired: Desired::Destroyed, ..before }), Ok(()));
}

#[test]
fn what_was_given_away_ends_before_it_is_anothers() {
    let begin = [Accept, Admit, Lease, Volume, Launch];
    let check = |mut local: Local, desired, first: &[Step], then: &[Step]| {
        let wish = given(&local, desired, 4);
        assert_eq!(plan(&wish, Some(&local)), first, "{:?} wanted {desired:?}", local.phase);
        // As the steps leave it.
        local.leaves = true;
        (local.phase, local.lease) = (Phase::Ended, None);
        assert_eq!(plan(&wish, Some(&local)), then, "wanted {desired:?}");
        // Nothing is begun for the account before, whatever is known of the wish.
        local.phase = Phase::Parked;
        assert_eq!(plan(&local.desired.clone(), Some(&local)), []);
        assert_eq!(local.observed(), None);
        local.accept(&wish);
        assert_eq!(local.desired.spec.account, wish.spec.account);
        assert!(!local.leaves && !local.moves(&wish));
    };
    let live = |motion| local(Desired::Running, 3, Phase::Live(motion));
    check(live(Motion::Running), Desired::Running, &[Part, Terminate, Clean], &begin);
    check(
        live(Motion::Frozen),
        Desired::Paused,
        &[Part, Thaw, Terminate, Clean],
        &[&begin[..], &[Freeze]].concat(),
    );
    check(live(Motion::Running), Desired::Destroyed, &[Part, Kill, Clean], &[Accept, Trash, Bury]);
    check(local(Desired::Running, 3, Phase::Launching), Desired::Running, &[Part, Recover], &begin);
    check(local(Desired::Running, 3, Phase::Ending(After::Parked)), Desired::Running, &[Part, Clean], &begin);
    check(local(Desired::Stopped, 3, Phase::Ended), Desired::Stopped, &[Part], &[Accept]);
}

#[test]
fn a_transfer_changes_whose_it_is_and_nothing_else() {
    let mut ended = local(Desired::Stopped, 3, Phase::Ended);
    let before = ended.desired.spec.clone();
    let mut wish = given(&ended, Desired::Stopped, 4);
    assert!(ended.is_still(&wish));
    wish.spec.run_as = model::agent::RunAs::Root;
    wish.spec.image_digest = Some("ef".repeat(32));
    wish.spec.volume = model::VolumeId::new();
    assert!(!ended.is_still(&wish));
    ended.accept(&wish);
    let expected = AgentSpec { account: wish.spec.account, ..before };
    assert_eq!(ended.desired.spec, expected);
    // An older wish than that is none.
    assert!(ended.check(&then(&ended, Desired::Running, 3)).is_err());
}

#[test]
fn token_epochs_only_rise() {
    let mut running = local(Desired::Running, 3, Phase::Live(Motion::Running));
    let epoch = |epoch, running: &Local| DesiredAgent { token_epoch: epoch, ..running.desired.clone() };
    assert_eq!(plan(&epoch(5, &running), Some(&running)), [Accept]);
    running.accept(&epoch(5, &running));
    assert_eq!(plan(&epoch(4, &running), Some(&running)), []);
    assert_eq!(running.desired.token_epoch, 5);
}

#[test]
fn policies_only_move_on() {
    let mut running = local(Desired::Running, 3, Phase::Live(Motion::Running));
    let policy = |preset| Policy { version: 1, egress: Egress { preset, ..Egress::default() } };
    let with = |policy_revision, policy, running: &Local| DesiredAgent {
        policy: Some(policy),
        policy_revision,
        ..running.desired.clone()
    };
    let newer = with(5, policy(Preset::Https), &running);
    // Nothing is started or ended for it.
    assert_eq!(plan(&newer, Some(&running)), [Accept]);
    let before = running.clone();
    running.accept(&newer);
    assert_eq!(
        (running.phase, running.served, &running.boundary),
        (before.phase, before.served, &before.boundary)
    );
    assert_eq!(running.desired.policy, Some(policy(Preset::Https)));
    for older in [4, 5] {
        let older = with(older, policy(Preset::None), &running);
        assert_eq!(plan(&older, Some(&running)), []);
        running.accept(&older);
        assert_eq!(running.desired.policy, Some(policy(Preset::Https)));
    }
    // It can be taken away, too.
    let none = DesiredAgent { policy: None, policy_revision: 6, ..running.desired.clone() };
    running.accept(&none);
    assert_eq!((&running.desired.policy, running.desired.policy_revision), (&None, 6));
    // A restored database counts anew.
    let restored = with(2, policy(Preset::None), &running);
    running.rebase(9, &restored);
    assert_eq!((&running.desired.policy, running.desired.policy_revision), (&restored.policy, 2));
}

#[test]
fn what_is_reported() {
    let check = |desired, phase, reason: Option<ExitReason>, expected| {
        let mut local = local(desired, 1, phase);
        local.reason = reason;
        assert_eq!(local.observed(), expected, "{local:?}");
    };
    let lost = Some(ExitReason::Lost { detail: String::new() });
    let failed = Some(ExitReason::Boundary { detail: String::new() });
    let exited = Some(ExitReason::Exited { code: 1 });
    check(Desired::Running, Phase::Idle, None, None);
    check(Desired::Running, Phase::Launching, None, None);
    check(Desired::Running, Phase::Parked, None, None);
    check(Desired::Running, Phase::Live(Motion::Running), None, Some(Observed::Running));
    check(Desired::Running, Phase::Live(Motion::Unknown), None, None);
    check(Desired::Paused, Phase::Live(Motion::Frozen), None, Some(Observed::Paused));
    check(Desired::Running, Phase::Ended, exited.clone(), Some(Observed::Stopped));
    check(Desired::Running, Phase::Ended, Some(ExitReason::OutOfMemory), Some(Observed::Stopped));
    check(Desired::Running, Phase::Ended, lost, Some(Observed::Failed));
    check(Desired::Running, Phase::Ended, failed.clone(), Some(Observed::Failed));
    check(Desired::Stopped, Phase::Ended, failed, Some(Observed::Stopped));
    check(Desired::Destroyed, Phase::Destroyed, None, Some(Observed::Destroyed));
    check(Desired::Destroyed, Phase::Ended, exited, Some(Observed::Stopped));
}

#[test]
fn an_old_end_is_not_reported_for_a_new_generation() {
    let mut ended = local(Desired::Running, 3, Phase::Ended);
    ended.reason = Some(ExitReason::Exited { code: 1 });
    assert_eq!(ended.observed(), Some(Observed::Stopped));
    ended.accept(&then(&ended, Desired::Running, 4));
    assert_eq!(ended.observed(), None);
}

#[test]
fn a_restored_database() {
    // Served before, as its older generation: not started again, not forgotten.
    let mut ended = local(Desired::Running, 9, Phase::Ended);
    let offered = then(&ended, Desired::Running, 4);
    assert_eq!(plan(&offered, Some(&ended)), [], "stale without a restore");
    ended.rebase(2, &offered);
    assert_eq!(plan(&offered, Some(&ended)), []);
    assert_eq!(plan(&then(&ended, Desired::Running, 5), Some(&ended)).last(), Some(&Launch));
    // It runs, and the restored wish differs.
    let mut running = local(Desired::Running, 9, Phase::Live(Motion::Running));
    let offered = then(&running, Desired::Stopped, 9);
    assert_eq!(plan(&offered, Some(&running)), [], "a contradiction without a restore");
    running.rebase(2, &offered);
    assert_eq!(plan(&offered, Some(&running)), [Terminate, Clean]);
    // What was destroyed stays destroyed.
    let mut gone = local(Desired::Destroyed, 9, Phase::Destroyed);
    let offered = then(&gone, Desired::Running, 4);
    gone.rebase(2, &offered);
    assert_eq!(plan(&offered, Some(&gone)), []);
    assert_eq!(gone.observed(), Some(Observed::Destroyed));
}

#[test]
fn what_a_backup_had_ends_nothing_and_makes_nothing() {
    let mut running = local(Desired::Running, 9, Phase::Live(Motion::Running));
    let offered = DesiredAgent { restored: true, ..then(&running, Desired::Stopped, 4) };
    running.rebase(2, &offered);
    assert!(running.outlived(&offered));
    assert_eq!((running.desired.desired, running.desired.generation), (Desired::Running, 4));
    assert_eq!(running.observed(), Some(Observed::Running));
    // Control took that over; what it says from there on counts.
    let taken = DesiredAgent { restored: false, desired: Desired::Running, ..offered.clone() };
    assert!(!running.outlived(&taken));
    assert_eq!(plan(&taken, Some(&running)), []);
    assert_eq!(plan(&then(&running, Desired::Stopped, 5), Some(&running)), [Accept, Terminate, Clean]);
    // What was to be destroyed before the backup is.
    let mut running = local(Desired::Running, 3, Phase::Live(Motion::Running));
    let offered = DesiredAgent { restored: true, ..then(&running, Desired::Destroyed, 4) };
    running.rebase(2, &offered);
    assert!(!running.outlived(&offered));
    assert_eq!(plan(&offered, Some(&running)).last(), Some(&Bury));
    // One of which nothing is left is not made, and says so in whatever generation it is told to start.
    let mut lost = Local::lost(DesiredAgent { restored: true, ..wish(Desired::Running, 4) }, 2);
    assert_eq!(plan(&lost.desired.clone(), Some(&lost)), []);
    assert_eq!(lost.observed(), Some(Observed::Destroyed));
    let again = then(&lost, Desired::Running, 5);
    assert_eq!(plan(&again, Some(&lost)), [Accept]);
    lost.accept(&again);
    assert_eq!((lost.observed(), lost.desired.generation), (Some(Observed::Destroyed), 5));
}

/// What may happen to an agent on a node.
#[derive(Debug, Clone, Copy)]
enum Happening {
    Wish(Desired),
    /// It is given to another account, and is to be that there.
    Given(Desired),
    /// An older wish comes late.
    Late(Desired, u64),
    Exit,
    Reboot,
    /// The node dies after this many steps, and another adopts.
    Crash(usize),
    LaunchFails,
}

fn desires() -> impl Strategy<Value = Desired> {
    prop_oneof![
        Just(Desired::Running),
        Just(Desired::Paused),
        Just(Desired::Stopped),
        Just(Desired::Destroyed)
    ]
}

fn happenings() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => desires().prop_map(Happening::Wish),
        2 => desires().prop_map(Happening::Given),
        1 => (desires(), 1u64..4).prop_map(|(desired, age)| Happening::Late(desired, age)),
        2 => Just(Happening::Exit),
        1 => Just(Happening::Reboot),
        2 => (0usize..6).prop_map(Happening::Crash),
        1 => Just(Happening::LaunchFails),
    ]
}

/// The executor without a kernel: what each step does to the record when it succeeds.
#[derive(Debug, Default)]
struct World {
    local: Option<Local>,
    /// The generations that a boundary was started in.
    starts: Vec<u64>,
    /// Starts that a reboot or a crash allows again.
    allowances: usize,
    launch_fails: bool,
    volume: bool,
    /// A boundary that the kernel has, whatever the record says.
    alive: bool,
    /// The account that it was made for.
    made_for: Option<model::AccountId>,
}

impl World {
    fn execute(&mut self, step: Step, desired: &DesiredAgent, torn: bool) {
        if step == Accept && self.local.is_none() {
            self.local = Some(Local::new(desired.clone(), 1));
        }
        let local = self.local.as_mut().expect("accepted first");
        match step {
            Accept => {
                assert!(
                    !local.moves(desired) || !self.alive,
                    "what lives is the account's that it was made for"
                );
                local.accept(desired);
            }
            Part => local.leaves = true,
            Admit => {}
            Lease => local.lease = Some(LEASE),
            Volume => self.volume = true,
            Launch => {
                assert!(local.lease.is_some() && self.volume && !self.alive && !local.leaves);
                self.made_for = Some(local.desired.spec.account);
                local.launching(None);
                if torn {
                    return;
                }
                if std::mem::take(&mut self.launch_fails) {
                    local.failed(ExitReason::Boundary { detail: "no image".into() });
                    return;
                }
                self.starts.push(local.desired.generation);
                self.alive = true;
                local.phase = Phase::Live(Motion::Running);
            }
            Recover => {
                self.allowances += 1;
                local.ended(After::Parked, ExitReason::Lost { detail: String::new() });
            }
            Freeze => local.phase = Phase::Live(Motion::Frozen),
            Thaw => local.phase = Phase::Live(Motion::Running),
            Terminate | Kill => {
                assert!(self.alive);
                self.alive = false;
                local.ended(After::Ended, ExitReason::Requested);
            }
            Clean => {
                assert!(!self.alive, "ids are freed only when nothing uses them");
                local.cleaned();
            }
            Settle => local.phase = Phase::Ended,
            Trash => {
                assert_eq!(local.desired.desired, Desired::Destroyed, "only a tombstone removes a volume");
                assert!(!self.alive);
                self.volume = false;
            }
            Bury => local.phase = Phase::Destroyed,
        }
    }

    /// Plans and steps until nothing is to do, or until the node dies.
    fn converge(&mut self, desired: &DesiredAgent, crash: Option<usize>) {
        let mut done = 0;
        for _ in 0..10 {
            let steps = plan(desired, self.local.as_ref());
            if steps.is_empty() {
                return;
            }
            for step in steps {
                if crash == Some(done) {
                    if step == Launch {
                        self.execute(step, desired, true);
                    }
                    return;
                }
                let fails = step == Launch && self.launch_fails;
                self.execute(step, desired, false);
                done += 1;
                if fails {
                    break;
                }
            }
        }
        panic!("it does not settle: {:?}", self.local);
    }
}

proptest! {
    #[test]
    fn any_life_settles(lives in proptest::collection::vec(happenings(), 1..30)) {
        let mut world = World::default();
        let mut newest = wish(Desired::Running, 1);
        world.converge(&newest, None);
        for happening in lives {
            let mut crash = None;
            match happening {
                Happening::Wish(desired) => {
                    // Control never takes a tombstone back.
                    if newest.desired != Desired::Destroyed {
                        newest = DesiredAgent { desired, generation: newest.generation + 1, ..newest };
                    }
                }
                Happening::Given(desired) => {
                    if newest.desired != Desired::Destroyed {
                        let (generation, transfers) = (newest.generation + 1, newest.transfers + 1);
                        newest = DesiredAgent { desired, generation, transfers, ..newest };
                        newest.spec.account = model::AccountId::new();
                    }
                }
                Happening::Late(desired, age) => {
                    let late = DesiredAgent { desired, generation: newest.generation.saturating_sub(age), ..newest.clone() };
                    let before = world.local.clone();
                    prop_assert_eq!(plan(&late, before.as_ref()), []);
                }
                Happening::Exit | Happening::Reboot => {
                    if world.alive {
                        world.alive = false;
                        let after = if matches!(happening, Happening::Exit) { After::Ended } else { After::Parked };
                        world.allowances += usize::from(after == After::Parked);
                        if let Some(local) = &mut world.local {
                            local.ended(after, ExitReason::Exited { code: 0 });
                        }
                    }
                }
                Happening::Crash(after) => crash = Some(after),
                Happening::LaunchFails => world.launch_fails = true,
            }
            if crash.is_some() {
                world.converge(&newest, crash);
                if let Some(local) = &mut world.local
                    && matches!(local.phase, Phase::Live(_))
                {
                    local.phase = Phase::Live(Motion::Unknown);
                }
            }
            world.converge(&newest, None);

            let local = world.local.clone().expect("it was heard of");
            // Settled means settled: the same wish, asked again or remembered, does nothing.
            prop_assert_eq!(plan(&newest, Some(&local)), []);
            prop_assert_eq!(plan(&local.desired, Some(&local)), []);
            // Ids are held exactly while there is a boundary.
            prop_assert_eq!(local.lease.is_some(), world.alive);
            // What lives was made for whose it is.
            prop_assert!(!local.leaves && local.desired.spec.account == newest.spec.account);
            prop_assert!(!world.alive || world.made_for == Some(newest.spec.account));
            match newest.desired {
                Desired::Stopped => prop_assert!(!world.alive),
                Desired::Destroyed => prop_assert!(local.phase == Phase::Destroyed && !world.alive && !world.volume),
                Desired::Running | Desired::Paused => {
                    prop_assert!(matches!(local.phase, Phase::Live(_) | Phase::Ended), "{:?}", local.phase);
                }
            }
        }
        // Each generation starts one boundary at most, but for reboots and launches that were cut short.
        let mut distinct = world.starts.clone();
        distinct.dedup();
        prop_assert!(world.starts.len() <= distinct.len() + world.allowances);
        if world.allowances == 0 {
            prop_assert_eq!(distinct.len(), world.starts.len());
        }
    }
}

/// One that is an OS user stays the same one from its first start until it is destroyed.
#[test]
fn an_os_user_keeps_its_ids() {
    let mut wish = wish(Desired::Stopped, 4);
    wish.spec = model::AgentSpec { level: Level::Process, image: None, image_digest: None, ..wish.spec };
    let mut stopped = Local::new(wish, 1);
    (stopped.phase, stopped.served, stopped.lease) = (Phase::Ending(After::Ended), Some(4), Some(LEASE));
    check(&stopped, Desired::Stopped, 4, &[Clean]);
    stopped.cleaned();
    assert_eq!((stopped.phase, stopped.lease), (Phase::Ended, Some(LEASE)));
    check(&stopped, Desired::Stopped, 4, &[]);
    check(&stopped, Desired::Running, 5, &[Accept, Admit, Lease, Volume, Launch]);
    check(&stopped, Desired::Destroyed, 5, &[Accept, Trash, Bury]);
}
