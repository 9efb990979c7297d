use super::*;
use proptest::prelude::*;
use std::net::{Ipv4Addr, Ipv6Addr};
use time::{Duration, OffsetDateTime};

struct Held(Mutex<OffsetDateTime>);

impl Clock for Held {
    fn now(&self) -> OffsetDateTime {
        *self.0.lock().unwrap()
    }
}

struct World {
    clock: Arc<Held>,
    limits: Limits,
}

impl World {
    /// At the beginning of a window of every length.
    fn new() -> Self {
        let clock = Arc::new(Held(Mutex::new(OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap())));
        Self { limits: Limits::new(clock.clone()), clock }
    }

    fn forward(&self, seconds: i64) {
        *self.clock.0.lock().unwrap() += Duration::seconds(seconds);
    }

    /// After how many seconds to come again; `None` for what is let through.
    async fn ask(&self, kind: Kind, address: Option<IpAddr>, account: Option<&str>) -> Option<u64> {
        let account = account.as_ref().map(|account| account as &(dyn Display + Sync));
        let Fault(problem) = self.limits.check(kind, address, account).await.err()?;
        assert_eq!(problem.code, Code::TooMany);
        assert!(problem.remedy.is_some());
        problem.retry_after
    }

    async fn admitted(&self, kind: Kind, times: u32, mut who: impl FnMut(u32) -> (IpAddr, String)) -> u32 {
        let mut admitted = 0;
        for time in 0..times {
            let (address, account) = who(time);
            admitted += u32::from(self.ask(kind, Some(address), Some(&account)).await.is_none());
        }
        admitted
    }
}

fn v4(last: u32) -> IpAddr {
    Ipv4Addr::from_bits(0xc633_6400 + last).into()
}

/// Of the /64 of this number, within one /32.
fn v6(network: u32, host: u64) -> IpAddr {
    Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(network) << 64 | u128::from(host)).into()
}

#[tokio::test]
async fn every_kind_has_one_rule() {
    let world = World::new();
    for rule in &RULES {
        assert_eq!(RULES.iter().filter(|other| other.kind == rule.kind).count(), 1);
        assert_eq!(world.ask(rule.kind, Some(v4(1)), Some("a")).await, None);
    }
}

#[tokio::test]
async fn other_addresses_do_not_beat_the_limit_of_an_account() {
    let world = World::new();
    assert_eq!(world.admitted(Kind::Login, 1000, |time| (v6(time << 16, 1), "victim".into())).await, 10);
    assert_eq!(world.ask(Kind::Login, Some(v4(1)), Some("another")).await, None);
}

#[tokio::test]
async fn other_accounts_do_not_beat_the_limit_of_an_address() {
    let world = World::new();
    assert_eq!(world.admitted(Kind::Login, 1000, |time| (v4(1), format!("user-{time}"))).await, 30);
    // All addresses that a customer has are one.
    assert_eq!(
        world.admitted(Kind::Login, 1000, |time| (v6(1, time.into()), format!("six-{time}"))).await,
        30
    );
    // And in disguise it is the same.
    let disguised: IpAddr = "::ffff:198.51.100.1".parse().unwrap();
    assert!(world.ask(Kind::Login, Some(disguised), Some("yet-another")).await.is_some());
}

#[tokio::test]
async fn whoever_looks_is_refused_as_whoever_asks_and_counts_nothing() {
    let world = World::new();
    let look = |address| world.limits.look(Kind::Login, Some(address)).is_ok();
    for _ in 0..100 {
        assert!(look(v4(1)));
    }
    assert_eq!(world.admitted(Kind::Login, 1000, |time| (v4(1), format!("user-{time}"))).await, 30);
    assert!(!look(v4(1)));
    assert!(look(v4(2)));
    assert!(world.limits.look(Kind::Login, None).is_ok());
    assert!(world.limits.look(Kind::Redemption, Some(v4(1))).is_ok());
}

#[tokio::test]
async fn a_network_full_of_addresses_has_a_limit() {
    let world = World::new();
    let mut next = 0;
    let mut account = || {
        next += 1;
        format!("user-{next}")
    };
    assert_eq!(world.admitted(Kind::Login, 5000, |time| (v6(time, 1), account())).await, 240);
    assert_eq!(world.admitted(Kind::Login, 5000, |time| (v4(time % 256), account())).await, 240);
    assert_eq!(world.ask(Kind::Login, Some(v6(1 << 16, 1)), None).await, None, "the next network");
}

#[tokio::test]
async fn a_flood_of_addresses_makes_nobody_forgotten_and_takes_no_memory() {
    let world = World::new();
    let cells = |world: &World| -> usize {
        world.limits.counts.lock().unwrap().iter().map(|counts| counts.addresses.cells()).sum()
    };
    let before = cells(&world);
    assert_eq!(world.admitted(Kind::Login, 100, |_| (v4(1), "victim".into())).await, 10);
    // 20,000 networks, each with an account of its own.
    let flood = world.admitted(Kind::Login, 20_000, |time| (v6(time << 16, 1), format!("user-{time}"))).await;
    assert!(flood > 19_000, "{flood} of those that asked once were served");
    assert!(
        world.ask(Kind::Login, Some(v4(99)), Some("victim")).await.is_some(),
        "the account is not forgotten"
    );
    // Counts of others may add to its own, which refuses a little early, and never late.
    let more = world.admitted(Kind::Login, 100, |time| (v4(1), format!("other-{time}"))).await;
    assert!((1..=20).contains(&more), "nor the address: {more} more were served");
    assert_eq!(cells(&world), before);
}

#[tokio::test]
async fn what_was_refused_comes_through_when_it_was_told_to_come() {
    let world = World::new();
    for _ in 0..10 {
        assert_eq!(world.ask(Kind::Login, None, Some("a")).await, None);
    }
    let wait = world.ask(Kind::Login, None, Some("a")).await.unwrap();
    assert!((600..=1200).contains(&wait), "{wait}");
    world.forward(wait.cast_signed() - 1);
    assert_eq!(world.ask(Kind::Login, None, Some("a")).await, Some(1));
    world.forward(1);
    assert_eq!(world.ask(Kind::Login, None, Some("a")).await, None);
    // The window slides: there are not ten more at once.
    assert!(world.ask(Kind::Login, None, Some("a")).await.is_some());
    world.forward(1200);
    assert_eq!(world.ask(Kind::Login, None, Some("a")).await, None);
}

#[tokio::test]
async fn a_clock_that_was_set_back_keeps_nobody_out() {
    let world = World::new();
    for _ in 0..10 {
        world.ask(Kind::Login, None, Some("a")).await;
    }
    world.forward(-86_400);
    assert_eq!(world.ask(Kind::Login, None, Some("a")).await, None);
}

proptest! {
    /// However somebody spreads requests, no window of time sees many more than the limit: twice as many is what two counters allow at
    /// worst, and what is refused may come when it is told to.
    #[test]
    fn no_window_sees_many_more(pauses in prop::collection::vec(0_i64..400, 1..300)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let world = World::new();
            let mut admitted = Vec::new();
            for pause in pauses {
                world.forward(pause / 4);
                let now = world.clock.now();
                match world.ask(Kind::Login, None, Some("a")).await {
                    None => admitted.push(now),
                    Some(wait) => assert!(wait <= 1200),
                }
                let window = admitted.iter().filter(|at| now - **at < Duration::seconds(600)).count();
                assert!(window < 20, "{window} within one window");
            }
        });
    }
}
