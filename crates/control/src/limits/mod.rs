//! How often sensitive things may be asked for: a sliding window each, by address and by account.
//!
//! One address is one of IPv4, or a /64 of IPv6, which is what one customer has at least; the network around it (/24, /48) may ask
//! [`NETWORK`] times as often. What is refused is not counted, so that whoever asks too often is served at the rate that is
//! allowed. Counts are in the memory of this process, of a size that no flood changes ([`sketch`]). [`Limits::check`] is all that
//! others see of it: where several replicas run, a shared place to count takes its body.

mod sketch;
#[cfg(test)]
mod tests;

use crate::problems::Fault;
use model::clock::Clock;
use model::{Code, Network, Problem};
use sketch::Sketch;
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Redeeming a bootstrap token.
    Enrolment,
    /// A node's trade of an assertion for a callback token.
    TokenExchange,
    /// A node's question for the secrets of one agent, which stands for the account here.
    Delivery,
    /// Setting and replacing values of secrets.
    Secrets,
    /// Other keys in place of those that secrets are under.
    Rekey,
    /// Making API keys.
    ApiKeys,
    /// Deleting them, of one person or key, which stands for the account here: it may end workspace tokens of others.
    KeyDeletions,
    /// Credentials that are not valid. A valid one is never refused for those of others: an address may be that of many.
    Failures,
    /// Passwords that are tried at the door.
    Login,
    /// Passwords of those who are logged in, shown once more: nobody outside keeps them from it.
    Proof,
    /// Codes of second factors, behind the right password.
    SecondFactor,
    /// Tokens that let somebody set another password, made.
    Reset,
    /// Tokens of resets and invitations, redeemed.
    Redemption,
    /// Invitations made.
    Invitations,
    /// Organisations made.
    Accounts,
}

/// How often within how many seconds.
struct Rule {
    kind: Kind,
    seconds: u32,
    /// Of one address.
    address: u16,
    /// Of one account.
    account: u16,
    /// For messages.
    what: &'static str,
}

const RULES: [Rule; 15] = [
    rule(Kind::Enrolment, 60, 30, 30, "attempts to enrol a node"),
    // A node asks twice a day; hundreds behind one address start at the same time.
    rule(Kind::TokenExchange, 60, 300, 20, "attempts to get a callback token"),
    // A node asks when they changed and when it starts: one that asks all the time is broken or was taken over.
    rule(Kind::Delivery, 60, u16::MAX, 30, "questions for secrets"),
    rule(Kind::Secrets, 60, 240, 120, "changes of secrets"),
    rule(Kind::Rekey, 600, 40, 20, "changes of keys"),
    rule(Kind::ApiKeys, 600, 60, 30, "new API keys"),
    rule(Kind::KeyDeletions, 600, 120, 20, "deletions of API keys"),
    rule(Kind::Failures, 60, 60, 60, "credentials that are not valid"),
    rule(Kind::Login, 600, 30, 10, "attempts to log in"),
    rule(Kind::Proof, 600, 30, 10, "passwords"),
    // Three codes of a million are right at any time.
    rule(Kind::SecondFactor, 3600, 60, 20, "codes"),
    rule(Kind::Reset, 3600, 60, 5, "resets of a password"),
    rule(Kind::Redemption, 600, 30, 10, "attempts to redeem a token"),
    rule(Kind::Invitations, 3600, 240, 60, "invitations"),
    rule(Kind::Accounts, 3600, 60, 10, "new organisations"),
];

const fn rule(kind: Kind, seconds: u32, address: u16, account: u16, what: &'static str) -> Rule {
    Rule { kind, seconds, address, account, what }
}

/// How much more often than one address its whole network may ask.
const NETWORK: u16 = 8;

/// Counts of one kind. Accounts have their own, which addresses without number cannot fill.
struct Counts {
    addresses: Sketch,
    accounts: Sketch,
}

/// All counts.
pub(crate) struct Limits {
    clock: Arc<dyn Clock>,
    counts: Mutex<Vec<Counts>>,
}

/// Whose request is counted.
enum Whose {
    Address,
    Account,
}

impl Limits {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let counts = RULES
            .iter()
            .map(|rule| Counts { addresses: Sketch::new(rule.seconds), accounts: Sketch::new(rule.seconds) });
        Self { clock, counts: Mutex::new(counts.collect()) }
    }

    /// Counts one more, or refuses it. The account is whatever name it goes by, be there such an account or not; an address of `None`
    /// is this machine's unix socket. (Asynchronous for those that will ask over a network.)
    pub(crate) async fn check(
        &self,
        kind: Kind,
        address: Option<IpAddr>,
        account: Option<&(dyn Display + Sync)>,
    ) -> Result<(), Fault> {
        let index = index(kind);
        let Rule { address: of_address, account: of_account, what, .. } = RULES[index];
        let now = self.clock.now();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let Counts { addresses, accounts } = &mut counts[index];
        let near = address.map(|address| around(address, 32, 64));
        let far = address.map(|address| around(address, 24, 48));
        let account = account.map(|account| account.to_string());
        let far_most = of_address.saturating_mul(NETWORK);
        let asked = [
            far.and_then(|far| Some((Whose::Address, addresses.wait(&far, far_most, now)?))),
            near.and_then(|near| Some((Whose::Address, addresses.wait(&near, of_address, now)?))),
            account.as_ref().and_then(|of| Some((Whose::Account, accounts.wait(of, of_account, now)?))),
        ];
        if let Some((whose, seconds)) = asked.into_iter().flatten().max_by_key(|(_, seconds)| *seconds) {
            return Err(refused(what, &whose, seconds));
        }
        for network in [far, near].into_iter().flatten() {
            addresses.count(&network, now);
        }
        if let Some(account) = &account {
            accounts.count(account, now);
        }
        Ok(())
    }

    /// Refuses an address that [`Limits::check`] would refuse, and counts nothing: for what comes before that it is known whom it is about.
    pub(crate) fn look(&self, kind: Kind, address: Option<IpAddr>) -> Result<(), Fault> {
        let Some(address) = address else { return Ok(()) };
        let Rule { address: most, what, .. } = RULES[index(kind)];
        let now = self.clock.now();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let addresses = &mut counts[index(kind)].addresses;
        let far = addresses.wait(&around(address, 24, 48), most.saturating_mul(NETWORK), now);
        let near = addresses.wait(&around(address, 32, 64), most, now);
        far.max(near).map_or(Ok(()), |seconds| Err(refused(what, &Whose::Address, seconds)))
    }
}

fn index(kind: Kind) -> usize {
    RULES.iter().position(|rule| rule.kind == kind).expect("every kind has its rule")
}

/// The network of an address: of `four` bits if it is of IPv4, of `six` if it is of IPv6.
fn around(address: IpAddr, four: u32, six: u32) -> Network {
    let address = address.to_canonical();
    Network::around(address, if address.is_ipv4() { four } else { six })
}

fn refused(what: &str, whose: &Whose, seconds: u64) -> Fault {
    let whose = match whose {
        Whose::Address => "from this address",
        Whose::Account => "of this account",
    };
    let problem = Problem::new(Code::TooMany, format!("there were too many {what} {whose} lately"));
    problem.remedy(format!("ask again in {seconds} s")).retry_after(seconds).into()
}
