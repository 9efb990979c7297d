//! Questions of agents, and the person who answers them.
//!
//! Control decides nothing here that was not typed at a question which is open; and nothing that is typed at one reaches an agent.

mod dialogue;
mod line;
mod watch;

pub use dialogue::{After, Asker, Manner};
pub use watch::Watch;

use crate::policies::with_port;
use model::egress::{Answered, Decision, OpenQuestion};

/// Where a question's connections want to go.
pub fn destination(question: &OpenQuestion) -> String {
    with_port(&question.host, Some(question.port))
}

/// A decision, as a value parser.
pub fn decision(text: &str) -> Result<Decision, String> {
    match text {
        "once" => Ok(Decision::Once),
        "agent" => Ok(Decision::Agent),
        "always" => Ok(Decision::Always),
        "deny" => Ok(Decision::Deny),
        _ => Err("expected once, agent, always or deny".to_owned()),
    }
}

/// What was decided, in words.
pub fn answered(answered: &Answered) -> String {
    let (agent, to) = (&answered.question.name, destination(&answered.question));
    match answered.decision {
        Decision::Once => format!("{agent} may connect to {to}, this once"),
        Decision::Agent => format!("{agent} may reach {to} from now on"),
        Decision::Always => {
            let policies = match answered.changed.len() {
                1 => "1 policy has".to_owned(),
                count => format!("{count} policies have"),
            };
            format!("every agent that asks may reach {to} from now on; {policies} a new rule")
        }
        Decision::Deny => {
            format!("{agent} may not connect to {to}; it asks again in ten minutes at the earliest")
        }
    }
}
