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
        Self { limits: Limits::new(clock.clone(), &Config::default(), None, ""), clock }
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
    let look = async |address| world.limits.look(Kind::Login, Some(address)).await.is_ok();
    for _ in 0..100 {
        assert!(look(v4(1)).await);
    }
    assert_eq!(world.admitted(Kind::Login, 1000, |time| (v4(1), format!("user-{time}"))).await, 30);
    assert!(!look(v4(1)).await);
    assert!(look(v4(2)).await);
    assert!(world.limits.look(Kind::Login, None).await.is_ok());
    assert!(world.limits.look(Kind::Redemption, Some(v4(1))).await.is_ok());
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

/// A Redis of this test alone, at a socket of its own.
struct Server {
    process: std::process::Child,
    directory: tempfile::TempDir,
}

const WORD: &str = "opensesame";

impl Server {
    /// `None` where it is not installed. In CI that is a failure.
    fn start() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("redis.sock");
        let started = std::process::Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--requirepass", WORD, "--unixsocket"])
            .arg(&socket)
            .current_dir(directory.path())
            .stdout(std::process::Stdio::null())
            .spawn();
        let mut process = match started {
            Ok(process) => process,
            Err(why) => {
                assert!(std::env::var_os("CI").is_none(), "redis-server: {why}");
                eprintln!("skipped: redis-server: {why}");
                return None;
            }
        };
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(process.try_wait().unwrap().is_none(), "redis-server ended");
            std::thread::yield_now();
        }
        Some(Self { process, directory })
    }

    fn config(&self) -> Config {
        let url = format!("unix://{}", self.directory.path().join("redis.sock").display());
        Config { redis: Some(url), ..Config::default() }
    }

    /// One of several control processes, all of which go by one clock.
    fn replica(&self, clock: &Arc<Held>) -> World {
        let limits = Limits::new(clock.clone(), &self.config(), Some(WORD.to_owned()), "one");
        World { limits, clock: clock.clone() }
    }

    fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const ADA: &str = "ada@example.com";
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

#[tokio::test]
async fn replicas_count_together_and_as_one_process_does() {
    let Some(server) = Server::start() else { return };
    let alone = World::new();
    let replicas = [server.replica(&alone.clock), server.replica(&alone.clock)];
    let elsewhere = Limits::new(alone.clock.clone(), &server.config(), Some(WORD.to_owned()), "another");
    let mut refused = 0;
    // Steps of every size, over several windows, by either replica, from several addresses.
    for step in 0_u32..400 {
        let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, (step % 5) as u8));
        let account = format!("person-{}@example.com", step % 3);
        let expected = alone.ask(Kind::Login, Some(address), Some(&account)).await;
        let replica = &replicas[(step / 7 % 2) as usize];
        assert_eq!(replica.ask(Kind::Login, Some(address), Some(&account)).await, expected, "{step}");
        let looked = [&alone, replica].map(|world| world.limits.look(Kind::Login, Some(address)));
        let [one, other] = looked;
        assert_eq!(one.await.is_ok(), other.await.is_ok(), "{step}");
        refused += u32::from(expected.is_some());
        alone.forward(i64::from(step * step % 41));
    }
    assert!((50..350).contains(&refused), "{refused}");
    // Another installation in the same Redis counts for itself.
    let account: &(dyn Display + Sync) = &"person-0@example.com";
    assert!(elsewhere.check(Kind::Login, Some(HERE), Some(account)).await.is_ok());
}

#[tokio::test]
async fn without_redis_each_process_counts_by_itself_and_none_is_open() {
    let Some(mut server) = Server::start() else { return };
    let clock = World::new().clock;
    let [one, other] = [server.replica(&clock), server.replica(&clock)];
    for replica in [&one, &other] {
        for _ in 0..5 {
            assert_eq!(replica.ask(Kind::Login, None, Some(ADA)).await, None);
        }
    }
    for replica in [&one, &other] {
        assert!(replica.ask(Kind::Login, None, Some(ADA)).await.is_some(), "ten are all, wherever they were");
    }
    server.stop();
    // What each had let through still counts: five more.
    for _ in 0..5 {
        assert_eq!(one.ask(Kind::Login, None, Some(ADA)).await, None);
    }
    assert!(one.ask(Kind::Login, None, Some(ADA)).await.is_some());
    // One that never reached it is limited, too.
    let late = server.replica(&clock);
    for _ in 0..10 {
        assert_eq!(late.ask(Kind::Login, None, Some("bob@example.com")).await, None);
    }
    assert!(late.ask(Kind::Login, None, Some("bob@example.com")).await.is_some());
}

#[tokio::test]
async fn a_wrong_password_is_no_way_around() {
    let Some(server) = Server::start() else { return };
    let clock = World::new().clock;
    let limits = Limits::new(clock.clone(), &server.config(), Some("wrong".to_owned()), "one");
    let world = World { limits, clock };
    let admitted = world.admitted(Kind::Login, 30, |_| (HERE, ADA.to_owned())).await;
    assert_eq!(admitted, 10);
}

#[tokio::test]
async fn limits_are_what_the_configuration_says() {
    let custom = Custom { seconds: Some(60), address: None, account: Some(3) };
    let config = Config { rules: BTreeMap::from([(Kind::Login, custom)]), ..Config::default() };
    let clock = World::new().clock;
    let world = World { limits: Limits::new(clock.clone(), &config, None, "one"), clock };
    assert_eq!(world.admitted(Kind::Login, 30, |_| (HERE, ADA.to_owned())).await, 3);
    assert_eq!(world.admitted(Kind::Proof, 30, |_| (HERE, ADA.to_owned())).await, 10, "another is as it was");
    world.forward(120);
    assert_eq!(world.admitted(Kind::Login, 30, |_| (HERE, ADA.to_owned())).await, 3);
    let bad = Custom { seconds: Some(0), address: Some(0), account: Some(0) };
    let config = Config { rules: BTreeMap::from([(Kind::Login, bad)]), ..Config::default() };
    assert_eq!(config.faults().len(), 3);
}
