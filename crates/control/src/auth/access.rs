//! Who may do what: the one place that decides it. Each operation of the API asks for one [`Action`], which [`required`] tells; what is not
//! listed there nobody may. Pure: no database, no clock.
//!
//! Whose a thing is, is decided before: everything is looked up within the caller's account, and what is another's does not exist (404).

use axum::http::Method;
use model::people::{KeyScope, Role};

/// What an operation is, for those who decide on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// See what the account has.
    Read,
    /// Make, change and remove agents and images, and decide what leaves agents.
    Agents,
    /// Set, replace, bind and delete secrets.
    Secrets,
    /// Have keys of one's own.
    Keys,
    /// See and delete keys that others made.
    KeysOfOthers,
    /// Invite people, say what they are, and remove them.
    People,
    /// The same of owners.
    Owners,
    /// Decide over the account itself: the key of its secrets.
    Account,
    /// Give an agent to another account that one belongs to.
    Transfer,
    /// Do what a person does for themselves: have accounts, leave one.
    Person,
    /// Look after one's own password, second factor and sessions.
    Session,
    /// Look after the installation. It shows nothing of an account but its own.
    Operate,
    /// What lets an operator become somebody else, or takes from them what they are known by: for operators at the machine. Whoever
    /// operates the machine is root there, and reaches everything anyway; this keeps out operators who have the API alone.
    Impersonate,
}

/// Who somebody is in the account that they act in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) role: Role,
    /// Of the key that they act by; nothing for a session, which does all that its person may.
    pub(crate) scopes: Option<Vec<KeyScope>>,
    /// Whether the account operates the installation.
    pub(crate) operator: bool,
    /// Whether a person acts, themselves or by a key that they made.
    pub(crate) person: bool,
    pub(crate) place: Place,
}

/// Where somebody asks from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// From the machine itself, by a socket that only control's user and its group may open.
    Machine,
    /// From anywhere.
    Network,
}

/// What is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allow,
    /// Not theirs to know of: 404.
    Missing,
    /// Theirs to know of and not to do: 403. Why, and what to do.
    Forbid(&'static str, &'static str),
}

/// Decides.
pub(crate) fn decide(who: &Standing, action: Action) -> Verdict {
    use Action as A;
    if matches!(action, A::Operate | A::Impersonate) && !who.operator {
        return Verdict::Forbid("this is the operator's to do", "ask who operates this installation");
    }
    let least = match action {
        A::Read | A::Agents | A::Keys | A::Person | A::Session => Role::Member,
        A::Secrets | A::People | A::KeysOfOthers | A::Transfer | A::Operate | A::Impersonate => Role::Admin,
        A::Owners | A::Account => Role::Owner,
    };
    if who.role < least {
        return match (action, least) {
            (A::KeysOfOthers, _) => Verdict::Missing,
            (_, Role::Owner) => {
                Verdict::Forbid("only an owner of the account may do this", "ask one of its owners")
            }
            _ => Verdict::Forbid("a member of the account may not do this", "ask one of its admins"),
        };
    }
    if let Some(scopes) = &who.scopes {
        let scope = match action {
            A::Read => None,
            A::Agents => Some(KeyScope::Agents),
            A::Secrets => Some(KeyScope::Secrets),
            _ => Some(KeyScope::Admin),
        };
        if scope.is_some_and(|scope| !scopes.contains(&scope) && !scopes.contains(&KeyScope::Admin)) {
            return Verdict::Forbid("this key is not for that", "use a key with a scope that allows it");
        }
        if action == A::Transfer {
            return Verdict::Forbid("a key is for one account", "log in as somebody who belongs to both");
        }
        if action == A::Session {
            return Verdict::Forbid("a key cannot do this for a person", "log in with the password");
        }
    }
    if action == A::Person && !who.person {
        return Verdict::Forbid("this key is nobody's", "log in, or use a key that a person made");
    }
    if action == A::Impersonate && who.place != Place::Machine {
        let remedy = "run it on the machine as root: root's context uses the socket";
        return Verdict::Forbid("this is done at the machine that control runs on alone", remedy);
    }
    Verdict::Allow
}

/// Whether somebody who is this in an account may make another something else there, or remove them.
pub(crate) fn manages(from: Role, to: Option<Role>) -> Action {
    if from == Role::Owner || to == Some(Role::Owner) { Action::Owners } else { Action::People }
}

/// What an operation asks for; `None` for what nobody may. `path` is the route's.
pub(crate) fn required(method: &Method, path: &str) -> Option<Action> {
    use Action as A;
    // A HEAD is a GET whose answer is not read.
    let method = if method == Method::HEAD { "GET" } else { method.as_str() };
    Some(match (method, path) {
        (
            "GET",
            "/v1/agents"
            | "/v1/agents/{id}"
            | "/v1/agents/{id}/evidence"
            | "/v1/agents/{id}/timeline"
            | "/v1/agents/{id}/policy"
            | "/v1/images"
            | "/v1/images/{id}"
            | "/v1/images/{id}/diff"
            | "/v1/nodes"
            | "/v1/events"
            | "/v1/audit/entries"
            | "/v1/audit/receipt"
            | "/v1/egress/log"
            | "/v1/egress/questions"
            | "/v1/egress/remembered"
            | "/v1/secrets"
            | "/v1/secrets/{id}"
            | "/v1/whoami"
            | "/v1/accounts"
            | "/v1/members"
            | "/v1/quota"
            | "/v1/usage",
        )
        // Whom that is for decides what it asks for: see `app::users`.
        | ("POST", "/v1/accounts") => A::Read,
        (
            "POST",
            "/v1/agents"
            | "/v1/agents/{id}/pause"
            | "/v1/agents/{id}/resume"
            | "/v1/agents/{id}/stop"
            | "/v1/agents/{id}/start"
            | "/v1/agents/{id}/token"
            | "/v1/agents/{id}/clone"
            | "/v1/images"
            | "/v1/egress/questions/{id}/answer",
        )
        | ("PUT", "/v1/agents/{id}/policy")
        | ("DELETE", "/v1/agents/{id}" | "/v1/images/{id}" | "/v1/egress/remembered/{id}") => A::Agents,
        ("POST", "/v1/secrets" | "/v1/secrets/{id}/rotate")
        | ("PUT", "/v1/secrets/{id}/hosts")
        | ("DELETE", "/v1/secrets/{id}") => A::Secrets,
        ("GET" | "POST", "/v1/keys") | ("DELETE", "/v1/keys/{id}") => A::Keys,
        ("GET" | "POST", "/v1/invitations")
        | ("DELETE", "/v1/invitations/{id}")
        | ("PUT" | "DELETE", "/v1/members/{id}") => A::People,
        ("POST", "/v1/agents/{id}/transfer") => A::Transfer,
        ("POST", "/v1/data-key/rotate") => A::Account,
        ("DELETE", "/v1/membership") => A::Person,
        ("GET" | "DELETE", "/v1/session")
        | ("POST", "/v1/session/proof")
        | ("GET", "/v1/sessions")
        | ("DELETE", "/v1/sessions/{id}")
        | ("PUT", "/v1/password")
        | ("POST" | "PUT" | "DELETE", "/v1/second-factor") => A::Session,
        ("POST", "/v1/wrapping-key/rotate" | "/v1/images/{id}/grant" | "/v1/users/{id}/reset")
        | ("GET" | "POST", "/v1/users")
        | ("DELETE", "/v1/users/{id}/second-factor")
        | ("PUT", "/v1/accounts/{id}/quota") => A::Operate,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Action; 13] = [
        Action::Read,
        Action::Agents,
        Action::Secrets,
        Action::Keys,
        Action::KeysOfOthers,
        Action::People,
        Action::Owners,
        Action::Account,
        Action::Transfer,
        Action::Person,
        Action::Session,
        Action::Operate,
        Action::Impersonate,
    ];

    /// A letter for each action: `y` for allowed, `-` for 403, `?` for 404.
    #[track_caller]
    fn check(who: &Standing, expected: &str) {
        let letters: String = ALL
            .iter()
            .map(|action| match decide(who, *action) {
                Verdict::Allow => 'y',
                Verdict::Missing => '?',
                Verdict::Forbid(..) => '-',
            })
            .collect();
        assert_eq!(letters, expected, "{who:?}");
    }

    fn session(role: Role, operator: bool) -> Standing {
        Standing { role, scopes: None, operator, person: true, place: Place::Network }
    }

    fn key(role: Role, scopes: &[KeyScope]) -> Standing {
        Standing { role, scopes: Some(scopes.to_vec()), operator: true, person: false, place: Place::Machine }
    }

    #[test]
    fn roles_and_scopes() {
        check(&session(Role::Member, true), "yy-y?----yy--");
        check(&session(Role::Admin, false), "yyyyyy--yyy--");
        check(&session(Role::Owner, false), "yyyyyyyyyyy--");
        check(&session(Role::Admin, true), "yyyyyy--yyyy-");
        check(&key(Role::Owner, &[KeyScope::Admin]), "yyyyyyyy---yy");
        check(&key(Role::Owner, &[KeyScope::Read]), "y------------");
        check(&key(Role::Owner, &[KeyScope::Agents]), "yy-----------");
        check(&key(Role::Owner, &[KeyScope::Agents, KeyScope::Secrets]), "yyy----------");
        check(&key(Role::Member, &[KeyScope::Secrets]), "y---?--------");
        check(&key(Role::Owner, &[]), "y------------");
        // At the machine, and nobody's operator.
        let nobody = Standing { operator: false, ..key(Role::Owner, &[KeyScope::Admin]) };
        check(&nobody, "yyyyyyyy-----");
    }

    #[test]
    fn what_is_not_listed_nobody_may() {
        assert_eq!(required(&Method::GET, "/v1/agents/{id}"), Some(Action::Read));
        assert_eq!(required(&Method::HEAD, "/v1/agents/{id}"), Some(Action::Read));
        for (method, path) in
            [(Method::PATCH, "/v1/agents"), (Method::GET, "/v1/other"), (Method::GET, "/v1/agents/x")]
        {
            assert_eq!(required(&method, path), None);
        }
    }
}
