//! How often sensitive things may be asked for: a sliding window each, by address and by account.
//!
//! One address is one of IPv4, or a /64 of IPv6, which is what one customer has at least; the network around it (/24, /48) may ask
//! [`NETWORK`] times as often. What is refused is not counted, so that whoever asks too often is served at the rate that is
//! allowed. Counts are in the memory of this process, of a size that no flood changes ([`sketch`]), and, where several replicas run, in a
//! Redis that they share ([`shared`]).

mod shared;
mod sketch;
#[cfg(test)]
mod tests;

use crate::problems::Fault;
use model::clock::Clock;
use model::{Code, Network, Problem};
use serde::{Deserialize, Serialize};
use shared::{Asks, Count, Shared};
use sketch::Sketch;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
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

/// The table `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where several control processes count together: `redis://HOST:PORT/DB` or `unix:///PATH`.
    pub redis: Option<String>,
    /// The file that holds its password, and that nobody else may read.
    pub redis_password_file: Option<PathBuf>,
    /// Other limits than those that there are unless told.
    pub rules: BTreeMap<Kind, Custom>,
}

/// A limit as it is told; what is left out stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Custom {
    /// Within how many seconds.
    pub seconds: Option<u32>,
    /// How often from one address.
    pub address: Option<u16>,
    /// How often of one account.
    pub account: Option<u16>,
}

/// A day: counts are kept for two windows.
const LONGEST: u32 = 86_400;

impl Config {
    /// Each with its key.
    pub(crate) fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        for (kind, custom) in &self.rules {
            let name = RULES[index(*kind)].name();
            if custom.seconds.is_some_and(|seconds| !(1..=LONGEST).contains(&seconds)) {
                faults.push((
                    format!("limits.rules.{name}.seconds"),
                    format!("must be between 1 and {LONGEST}"),
                ));
            }
            for (key, most) in [("address", custom.address), ("account", custom.account)] {
                if most == Some(0) {
                    faults.push((
                        format!("limits.rules.{name}.{key}"),
                        "must be between 1 and 65535".to_owned(),
                    ));
                }
            }
        }
        if let Some(url) = &self.redis {
            // Whoever shows the configuration shows what is in it.
            let user = url.split_once("://").and_then(|(_, rest)| rest.split_once('@')).is_some();
            let known = ["redis://", "unix:///"].iter().any(|scheme| url.starts_with(scheme));
            if user || url.contains("pass=") {
                let detail = "names a user or a password; put that into a file, limits.redis_password_file";
                faults.push(("limits.redis".to_owned(), detail.to_owned()));
            } else if !known || Shared::new(url, None, "").is_err() {
                let detail = "must be a URL such as redis://10.0.0.5:6379/0 or unix:///run/redis/redis.sock";
                faults.push(("limits.redis".to_owned(), detail.to_owned()));
            }
        }
        if self.redis.is_none() && self.redis_password_file.is_some() {
            faults.push(("limits.redis".to_owned(), "is missing, and there is a password for it".to_owned()));
        }
        if self.redis_password_file.as_ref().is_some_and(|path| !path.is_absolute()) {
            faults.push(("limits.redis_password_file".to_owned(), "must be an absolute path".to_owned()));
        }
        faults
    }
}

/// How often within how many seconds.
#[derive(Debug, Clone, Copy)]
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

/// What of a rule others count by.
#[derive(Debug, Clone, Copy)]
struct Settings {
    kind: Kind,
    seconds: u32,
}

impl Rule {
    /// As it is written in `control.toml`.
    fn name(&self) -> String {
        let name = serde_json::to_value(self.kind).unwrap_or_default();
        name.as_str().unwrap_or_default().to_owned()
    }

    fn told(self, custom: Option<&Custom>) -> Self {
        let Custom { seconds, address, account } = custom.copied().unwrap_or_default();
        Self {
            seconds: seconds.unwrap_or(self.seconds),
            address: address.unwrap_or(self.address),
            account: account.unwrap_or(self.account),
            ..self
        }
    }

    fn settings(&self) -> Settings {
        Settings { kind: self.kind, seconds: self.seconds }
    }
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
    rules: [Rule; RULES.len()],
    counts: Mutex<Vec<Counts>>,
    shared: Option<Shared>,
}

/// Whose request is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Address,
    Account,
}

/// What a request is counted as: two networks and an account.
struct Asked {
    far: Option<Network>,
    near: Option<Network>,
    account: Option<String>,
}

impl Asked {
    fn new(address: Option<IpAddr>, account: Option<&(dyn Display + Sync)>) -> Self {
        Self {
            far: address.map(|address| around(address, 24, 48)),
            near: address.map(|address| around(address, 32, 64)),
            account: account.map(|account| account.to_string()),
        }
    }

    /// The same for those who count elsewhere, each with whose it is.
    fn counts(&self, rule: &Rule) -> (Vec<Whose>, Vec<Count>) {
        let address = |network: &Network, most: u16| {
            (Whose::Address, Count { key: format!("address {network}"), most })
        };
        let account =
            |name: &String| (Whose::Account, Count { key: format!("account {name}"), most: rule.account });
        let far = self.far.as_ref().map(|far| address(far, rule.address.saturating_mul(NETWORK)));
        let near = self.near.as_ref().map(|near| address(near, rule.address));
        [far, near, self.account.as_ref().map(account)].into_iter().flatten().unzip()
    }
}

impl Limits {
    /// Counts as `config` says, which has no faults, with the password of its Redis.
    pub(crate) fn new(
        clock: Arc<dyn Clock>,
        config: &Config,
        password: Option<String>,
        installation: &str,
    ) -> Self {
        let rules = RULES.map(|rule| rule.told(config.rules.get(&rule.kind)));
        let counts = rules
            .iter()
            .map(|rule| Counts { addresses: Sketch::new(rule.seconds), accounts: Sketch::new(rule.seconds) });
        let counts = Mutex::new(counts.collect());
        let shared = config.redis.as_ref().and_then(|url| Shared::new(url, password, installation).ok());
        Self { clock, rules, counts, shared }
    }

    /// Counts one more, or refuses it. The account is whatever name it goes by, be there such an account or not; an address of `None`
    /// is this machine's unix socket.
    pub(crate) async fn check(
        &self,
        kind: Kind,
        address: Option<IpAddr>,
        account: Option<&(dyn Display + Sync)>,
    ) -> Result<(), Fault> {
        self.decide(kind, &Asked::new(address, account), Asks::Counts).await
    }

    /// Refuses an address that [`Limits::check`] would refuse, and counts nothing: for what comes before that it is known whom it is about.
    pub(crate) async fn look(&self, kind: Kind, address: Option<IpAddr>) -> Result<(), Fault> {
        self.decide(kind, &Asked::new(address, None), Asks::Looks).await
    }

    async fn decide(&self, kind: Kind, asked: &Asked, asks: Asks) -> Result<(), Fault> {
        let rule = &self.rules[index(kind)];
        let Some(shared) = &self.shared else { return self.here(rule, asked, asks) };
        let (whose, counts) = asked.counts(rule);
        let now = u64::try_from(self.clock.now().unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
        match shared.decide(rule.settings(), now, asks, &counts).await {
            Some(Some((place, wait))) => {
                let whose = whose.get(place).copied().unwrap_or(Whose::Address);
                Err(refused(rule.what, &whose, wait.div_ceil(1000)))
            }
            Some(None) => {
                // Counted here, too, for when nobody answers; it was decided there.
                let _ = self.here(rule, asked, asks);
                Ok(())
            }
            None => self.here(rule, asked, asks),
        }
    }

    /// By the counts of this process.
    fn here(&self, rule: &Rule, asked: &Asked, asks: Asks) -> Result<(), Fault> {
        let Rule { kind, address: of_address, account: of_account, what, .. } = *rule;
        let now = self.clock.now();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let Counts { addresses, accounts } = &mut counts[index(kind)];
        let Asked { far, near, account } = asked;
        let far_most = of_address.saturating_mul(NETWORK);
        let asked = [
            far.and_then(|far| Some((Whose::Address, addresses.wait(&far, far_most, now)?))),
            near.and_then(|near| Some((Whose::Address, addresses.wait(&near, of_address, now)?))),
            account.as_ref().and_then(|of| Some((Whose::Account, accounts.wait(of, of_account, now)?))),
        ];
        if let Some((whose, seconds)) = asked.into_iter().flatten().max_by_key(|(_, seconds)| *seconds) {
            return Err(refused(what, &whose, seconds));
        }
        if asks == Asks::Looks {
            return Ok(());
        }
        for network in [far, near].into_iter().flatten() {
            addresses.count(network, now);
        }
        if let Some(account) = account {
            accounts.count(account, now);
        }
        Ok(())
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
