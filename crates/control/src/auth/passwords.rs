//! Passwords: Argon2id (RFC 9106), and which ones are refused.
//!
//! Checking one costs as much for somebody who is not known as for somebody who is. It is done on threads that may block, few at a time: each
//! takes `passwords.memory`, and whoever asks for many at once waits. One turn is for those who are known: strangers never have all of them.

mod common;

use crate::auth::secret::NoRandomness;
use crate::config;
use crate::problems::Fault;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use model::people::{MAX_PASSWORD, MIN_PASSWORD};
use model::secret::SecretValue;
use model::{Code, Problem};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long somebody waits for their turn.
const WAIT: Duration = Duration::from_secs(10);
/// So many strangers may wait; more are refused at once.
const WAITING: usize = 16;

/// Who has a password checked or hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asks {
    /// Somebody who has shown nothing yet, or no more than a token.
    Stranger,
    /// Somebody in a session, or who has just shown their password.
    Known,
}

/// What checks and makes hashes.
pub(crate) struct Passwords {
    argon: Argon2<'static>,
    /// Everybody's turns.
    turns: Arc<Semaphore>,
    /// The one that strangers do not get.
    reserved: Arc<Semaphore>,
    waiting: Semaphore,
    /// The hash of a password that nobody has, for those who are not known.
    nobodys: String,
}

/// What a password turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verified {
    Wrong,
    Right,
    /// Right, and hashed with less than is asked for now.
    RightButOld,
}

impl Passwords {
    pub(crate) fn new(config: &config::Passwords) -> Result<Self, NoRandomness> {
        let memory = u32::try_from(config.memory.0 >> 10).unwrap_or(u32::MAX);
        let params = Params::new(memory, config.passes, 1, None).expect("`config` has checked the bounds");
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        // Random bytes in place of a hash are as good as one: nothing hashes to them.
        let (mut salt, mut random) = ([0; 16], [0; 32]);
        getrandom::fill(&mut salt).and_then(|()| getrandom::fill(&mut random)).map_err(|_| NoRandomness)?;
        let [salt, random] = [STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(random)];
        let nobodys = format!("$argon2id$v=19$m={memory},t={},p=1${salt}${random}", config.passes);
        let turns = Arc::new(Semaphore::new(config.at_once.max(2) - 1));
        let (reserved, waiting) = (Arc::new(Semaphore::new(1)), Semaphore::new(WAITING));
        Ok(Self { argon, turns, reserved, waiting, nobodys })
    }

    async fn turn(&self, asks: Asks) -> Result<OwnedSemaphorePermit, Fault> {
        let busy = || {
            let problem = Problem::new(Code::TooMany, "too many passwords are being checked just now");
            Fault::from(problem.remedy("ask again in a moment"))
        };
        if let Ok(turn) = self.turns.clone().try_acquire_owned() {
            return Ok(turn);
        }
        let turn = async {
            match asks {
                Asks::Stranger => {
                    let _place = self.waiting.try_acquire().map_err(|_| busy())?;
                    self.turns.clone().acquire_owned().await.map_err(|_| busy())
                }
                Asks::Known => tokio::select! {
                    turn = self.reserved.clone().acquire_owned() => turn.map_err(|_| busy()),
                    turn = self.turns.clone().acquire_owned() => turn.map_err(|_| busy()),
                },
            }
        };
        tokio::time::timeout(WAIT, turn).await.map_err(|_| busy())?
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        asks: Asks,
        work: impl FnOnce(Argon2<'static>) -> T + Send + 'static,
    ) -> Result<T, Fault> {
        let turn = self.turn(asks).await?;
        let argon = self.argon.clone();
        let done = tokio::task::spawn_blocking(move || {
            // Held until it is done, also when nobody waits for the answer any more.
            let _turn = turn;
            work(argon)
        });
        done.await.map_err(|error| Fault::internal(&error))
    }

    /// Whether a password is the one that was hashed. Without a hash it is not, after as long.
    pub(crate) async fn verify(
        &self,
        asks: Asks,
        given: &SecretValue,
        hash: Option<&str>,
    ) -> Result<Verified, Fault> {
        let known = hash.is_some();
        let (given, hash) = (given.clone(), hash.unwrap_or(&self.nobodys).to_owned());
        self.in_turn(asks, move |argon| {
            let Ok(parsed) = PasswordHash::new(&hash) else { return Verified::Wrong };
            // What is longer than any password can be costs no more for it.
            let bytes = given.expose().as_bytes();
            let bytes = &bytes[..bytes.len().min(MAX_PASSWORD + 1)];
            let right = argon.verify_password(bytes, &parsed).is_ok();
            let now = argon.params();
            let same = Params::try_from(&parsed).is_ok_and(|then| {
                (then.m_cost(), then.t_cost(), then.p_cost()) == (now.m_cost(), now.t_cost(), now.p_cost())
            });
            match (right && known, same) {
                (false, _) => Verified::Wrong,
                (true, true) => Verified::Right,
                (true, false) => Verified::RightButOld,
            }
        })
        .await
    }

    /// What is kept of a password.
    pub(crate) async fn hash(&self, asks: Asks, given: &SecretValue) -> Result<String, Fault> {
        let given = given.clone();
        let hashed = self.in_turn(asks, move |argon| {
            argon.hash_password(given.expose().as_bytes()).map(|hash| hash.to_string())
        });
        hashed.await?.map_err(|error| Fault::internal(&error))
    }
}

/// Refuses a password that others would try: too short, among the common ones, or the person's own address or account.
pub(crate) fn check(password: &SecretValue, about: &[&str]) -> Result<(), Fault> {
    let text = password.expose();
    let refuse = |detail: &str, remedy: &str| Err(Problem::invalid("password", detail).remedy(remedy).into());
    if text.chars().count() < MIN_PASSWORD {
        return refuse("a password has at least 8 characters", "choose a longer one; several words are good");
    }
    if text.len() > MAX_PASSWORD {
        return refuse("a password has at most 1024 bytes", "choose a shorter one");
    }
    if common::is_common(text) {
        return refuse(
            "this password is one of those that are tried first",
            "choose one that nobody else has",
        );
    }
    let lower = text.to_lowercase();
    let given_away = |word: &&str| word.len() >= 4 && lower.contains(&word.to_lowercase());
    if about.iter().any(given_away) || lower.contains("cofferdam") {
        let remedy = "choose one that has nothing to do with you or with this place";
        return refuse("this password holds the address or the name of the account", remedy);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::quantity::ByteSize;

    fn passwords(passes: u32) -> Passwords {
        let config = config::Passwords { memory: ByteSize(64 << 10), passes, at_once: 2 };
        Passwords::new(&config).unwrap()
    }

    fn word(text: &str) -> SecretValue {
        SecretValue::new(text.to_owned())
    }

    #[tokio::test]
    async fn the_right_one_and_no_other() {
        let now = passwords(1);
        let hash = now.hash(Asks::Known, &word("a long walk home")).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{hash}");
        assert_ne!(
            hash,
            now.hash(Asks::Known, &word("a long walk home")).await.unwrap(),
            "each has a salt of its own"
        );
        let check = async |given: &str, hash: Option<&str>| {
            now.verify(Asks::Stranger, &word(given), hash).await.unwrap()
        };
        assert_eq!(check("a long walk home", Some(&hash)).await, Verified::Right);
        assert_eq!(check("a long walk home ", Some(&hash)).await, Verified::Wrong);
        assert_eq!(check("", Some(&hash)).await, Verified::Wrong);
        assert_eq!(check("a long walk home", None).await, Verified::Wrong);
        assert_eq!(check("a long walk home", Some("nonsense")).await, Verified::Wrong);
        let later = passwords(2);
        let old = later.verify(Asks::Known, &word("a long walk home"), Some(&hash)).await.unwrap();
        assert_eq!(old, Verified::RightButOld);
    }

    #[tokio::test]
    async fn nobody_costs_as_much_as_somebody() {
        // Not by the clock, which lies on a busy machine: what is held against nobody has to be a hash of the same cost.
        let passwords = passwords(1);
        let nobodys = PasswordHash::new(&passwords.nobodys).unwrap();
        let theirs = passwords.hash(Asks::Known, &word("a long walk home")).await.unwrap();
        let theirs = PasswordHash::new(&theirs).unwrap();
        assert_eq!(Params::try_from(&nobodys).unwrap(), Params::try_from(&theirs).unwrap());
        let lengths = |hash: &PasswordHash| (hash.salt.unwrap().len(), hash.hash.unwrap().len());
        assert_eq!(lengths(&nobodys), lengths(&theirs));
    }

    #[tokio::test]
    async fn strangers_neither_have_every_turn_nor_wait_without_end() {
        let passwords = Arc::new(passwords(1));
        let turn = passwords.turn(Asks::Stranger).await.unwrap();
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..WAITING {
            let passwords = passwords.clone();
            waiting.spawn(async move { passwords.turn(Asks::Stranger).await.is_ok() });
        }
        while passwords.waiting.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let Err(Fault(refused)) = passwords.turn(Asks::Stranger).await else { panic!("one more waits") };
        assert_eq!(refused.code, Code::TooMany);
        assert_eq!(passwords.waiting.available_permits(), 0, "at once: nobody else gave up by then");
        // Who is known is served meanwhile, one after the other.
        for _ in 0..3 {
            drop(passwords.turn(Asks::Known).await.unwrap());
        }
        assert_eq!(passwords.waiting.available_permits(), 0);
        drop(turn);
        while let Some(served) = waiting.join_next().await {
            assert!(served.unwrap());
        }
        assert_eq!(passwords.waiting.available_permits(), WAITING);
        drop(passwords.turn(Asks::Stranger).await.unwrap());
    }

    #[test]
    fn what_others_would_try_is_refused() {
        for bad in [
            "short",
            "1234567",
            "password",
            "Password1!",
            "p4$$w0rd2024",
            "qwertyuiop",
            "12345678",
            "87654321",
            "aaaaaaaa",
            "abcabcabc",
            "abcdefgh",
            "iloveyou!!",
            "letmein123",
            "ada.lovelace!",
            "1qaz2wsx",
            "engines42",
            "my-Cofferdam",
            &"x".repeat(1025),
        ] {
            assert!(check(&word(bad), &["ada.lovelace", "engines"]).is_err(), "{bad}");
        }
        for good in ["correct horse battery", "tZ4-kk09-qq", "\u{fc}bergangsfrist", "seven wet otters"] {
            assert!(check(&word(good), &["ada", "a"]).is_ok(), "{good}");
        }
    }
}
