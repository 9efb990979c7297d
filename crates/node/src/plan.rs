//! From what should be and what is to the steps between. Pure: no clock, no IO, no memory.
//!
//! Steps are done in order, and the plan is made anew as soon as one fails, or the wish or the boundary changed
//! under it: so a new wish, a failure, and a node that died in between are all the same case.

use crate::local::{After, Local, Motion, Phase};
use model::Desired;
use model::node_api::DesiredAgent;

/// One idempotent step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// Take the wish over.
    Accept,
    /// Have the gate of the account forget it that it was given away by.
    Part,
    /// Check the spec against what this node allows at all.
    Admit,
    /// Take a range of ids.
    Lease,
    /// Make the volume if it is not there.
    Volume,
    /// Make the boundary and start its init.
    Launch,
    /// Find out what became of a launch that a dead node left.
    Recover,
    /// Stop its processes where they are.
    Freeze,
    /// Let them go on.
    Thaw,
    /// Ask it to end, and end it when the grace is over.
    Terminate,
    /// End it now.
    Kill,
    /// Remove what is left of a boundary whose init is gone, and free its ids.
    Clean,
    /// Call an agent without a boundary stopped.
    Settle,
    /// Move its volume to the trash.
    Trash,
    /// Write the tombstone.
    Bury,
}

/// The steps from what is to what should be. None when nothing is to do, or the wish may not be acted on.
pub(crate) fn plan(desired: &DesiredAgent, local: Option<&Local>) -> Vec<Step> {
    let Some(local) = local else {
        let blank = Local::new(desired.clone(), 0);
        return [vec![Step::Accept], steps(&blank)].concat();
    };
    if local.check(desired).is_err() {
        return Vec::new();
    }
    if local.leaves || local.moves(desired) {
        let parting = part(local, desired.desired);
        if !parting.is_empty() {
            return parting;
        }
        if !local.moves(desired) {
            // Whose it is, control has not said since this node started.
            return Vec::new();
        }
    }
    let mut accepted = local.clone();
    accepted.accept(desired);
    let steps = steps(&accepted);
    if accepted == *local { steps } else { [vec![Step::Accept], steps].concat() }
}

fn steps(local: &Local) -> Vec<Step> {
    match local.desired.desired {
        Desired::Running => start(local, Motion::Running),
        Desired::Paused => start(local, Motion::Frozen),
        Desired::Stopped => stop(local),
        Desired::Destroyed => destroy(local),
    }
}

/// What ends in the account that an agent was given away by, before anything of it is the next one's.
fn part(local: &Local, wanted: Desired) -> Vec<Step> {
    let end = match local.phase {
        Phase::Live(_) if wanted == Desired::Destroyed => vec![Step::Kill, Step::Clean],
        Phase::Live(Motion::Running) => vec![Step::Terminate, Step::Clean],
        // A frozen process takes no signal.
        Phase::Live(_) => vec![Step::Thaw, Step::Terminate, Step::Clean],
        Phase::Launching => vec![Step::Recover],
        Phase::Idle | Phase::Parked | Phase::Ending(_) | Phase::Ended | Phase::Destroyed => rest(local),
    };
    match local.leaves {
        true => end,
        false => [vec![Step::Part], end].concat(),
    }
}

fn start(local: &Local, wanted: Motion) -> Vec<Step> {
    let mut steps = match local.phase {
        Phase::Live(motion) if motion == wanted => return Vec::new(),
        Phase::Live(_) => return vec![if wanted == Motion::Frozen { Step::Freeze } else { Step::Thaw }],
        // What follows depends on what is found.
        Phase::Launching => return vec![Step::Recover],
        Phase::Ending(_) => vec![Step::Clean],
        Phase::Idle | Phase::Parked | Phase::Ended | Phase::Destroyed if local.wants_start() => Vec::new(),
        Phase::Idle | Phase::Parked | Phase::Ended | Phase::Destroyed => rest(local),
    };
    if local.wants_start() {
        steps.extend([Step::Admit, Step::Lease, Step::Volume, Step::Launch]);
        if wanted == Motion::Frozen {
            steps.push(Step::Freeze);
        }
    }
    steps
}

fn stop(local: &Local) -> Vec<Step> {
    match local.phase {
        // A frozen process takes no signal.
        Phase::Live(Motion::Running) => vec![Step::Terminate, Step::Clean],
        Phase::Live(_) => vec![Step::Thaw, Step::Terminate, Step::Clean],
        Phase::Launching => vec![Step::Recover],
        Phase::Ending(After::Parked) => vec![Step::Clean, Step::Settle],
        Phase::Idle | Phase::Parked => [rest(local), vec![Step::Settle]].concat(),
        Phase::Ending(After::Ended) | Phase::Ended | Phase::Destroyed => rest(local),
    }
}

fn destroy(local: &Local) -> Vec<Step> {
    let gone = vec![Step::Trash, Step::Bury];
    match local.phase {
        Phase::Destroyed => Vec::new(),
        Phase::Launching => vec![Step::Recover],
        Phase::Live(_) => [vec![Step::Kill, Step::Clean], gone].concat(),
        _ => [rest(local), gone].concat(),
    }
}

/// What is due when there is no boundary. Ids may be held for one that was never made.
fn rest(local: &Local) -> Vec<Step> {
    if matches!(local.phase, Phase::Ending(_)) || local.lease.is_some() && !local.keeps_ids() {
        vec![Step::Clean]
    } else {
        Vec::new()
    }
}
