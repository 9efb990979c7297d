//! Counts that several control processes share: the same window as in [`super::sketch`], in a Redis, decided and counted by one script.
//!
//! Redis is asked for a moment at most. Whoever cannot reach it counts by itself, which it does all the time beside it: what was
//! counted before still counts, and nothing is let through because nobody answered.

use crate::limits::Settings;
use redis::aio::MultiplexedConnection;
use redis::{Client, RedisError, Script};
use sha2::{Digest, Sha256};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(250);
/// After a failure, nobody asks for so long.
const AGAIN: Duration = Duration::from_secs(1);

/// Of each key, one after the other: its window, how often it was counted in it, and how often in the one before. What is refused is not
/// counted. A process whose clock is behind counts in the window of the others.
const SCRIPT: &str = r"
local length, now, counts = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1'
local longest, whose, rows = 0, 0, {}
for index, key in ipairs(KEYS) do
    local most = math.max(tonumber(ARGV[3 + index]), 1)
    local window, into, current, before = math.floor(now / length), now % length, 0, 0
    local row = redis.call('HMGET', key, 'w', 'c', 'b')
    local stored = tonumber(row[1] or '')
    if stored then
        if stored > window then window, into = stored, 0 end
        if stored == window then
            current, before = tonumber(row[2]), tonumber(row[3])
        elseif stored == window - 1 then
            before = tonumber(row[2])
        end
    end
    local wait
    if current < most then
        local left = length
        if before > 0 then left = math.floor((most - 1 - current) * length / before) end
        wait = math.max(math.max(length - left, 0) - into, 0)
    else
        wait = length - into + math.max(length - math.floor((most - 1) * length / current), 0)
    end
    if wait > longest then longest, whose = wait, index end
    rows[index] = { window, current + 1, before }
end
if longest == 0 and counts then
    for index, key in ipairs(KEYS) do
        redis.call('HSET', key, 'w', rows[index][1], 'c', rows[index][2], 'b', rows[index][3])
        redis.call('PEXPIRE', key, 2 * length)
    end
end
return { longest, whose }
";

/// The Redis, and how it was reached last.
pub(super) struct Shared {
    client: Client,
    password: Option<String>,
    script: Script,
    /// What all keys of an installation begin with.
    prefix: String,
    link: Mutex<Link>,
}

#[derive(Default)]
struct Link {
    connection: Option<MultiplexedConnection>,
    /// When it failed last.
    failed: Option<Instant>,
}

/// One key to count, and how often it may be.
pub(super) struct Count {
    pub(super) key: String,
    pub(super) most: u16,
}

/// Whether what is asked for is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asks {
    Counts,
    Looks,
}

/// For how many milliseconds the one at this place is refused; `None` if nobody is.
pub(super) type Wait = Option<(usize, u64)>;

impl Shared {
    pub(super) fn new(url: &str, password: Option<String>, installation: &str) -> Result<Self, RedisError> {
        let (client, script) = (Client::open(url)?, Script::new(SCRIPT));
        let prefix = format!("cofferdam:{installation}:limit:");
        Ok(Self { client, password, script, prefix, link: Mutex::default() })
    }

    /// A hash: what is counted may be an address of somebody's mail, and is not for whoever lists keys.
    fn key(&self, kind: usize, key: &str) -> String {
        let hash = crate::auth::secret::hex(&Sha256::digest(key.as_bytes()));
        format!("{}{kind}:{}", self.prefix, &hash[..32])
    }

    async fn connection(&self) -> Result<MultiplexedConnection, Option<RedisError>> {
        let mut link = self.link.lock().await;
        if let Some(connection) = &link.connection {
            return Ok(connection.clone());
        }
        if link.failed.is_some_and(|failed| failed.elapsed() < AGAIN) {
            return Err(None);
        }
        // Counted as failed until it is there, also for those who wait for the lock behind somebody who gave up.
        link.failed = Some(Instant::now());
        let mut connection = self.client.get_multiplexed_async_connection().await.map_err(Some)?;
        if let Some(password) = &self.password {
            let auth = redis::cmd("AUTH").arg(password).to_owned();
            auth.query_async::<()>(&mut connection).await.map_err(Some)?;
        }
        tracing::info!("limits are counted in Redis");
        *link = Link { connection: Some(connection.clone()), failed: None };
        Ok(connection)
    }

    async fn ask(
        &self,
        settings: Settings,
        now: u64,
        asks: Asks,
        counts: &[Count],
    ) -> Result<Wait, Option<RedisError>> {
        let mut connection = self.connection().await?;
        let mut call = self.script.prepare_invoke();
        call.arg(u64::from(settings.seconds) * 1000).arg(now).arg(u8::from(asks == Asks::Counts));
        for count in counts {
            call.key(self.key(settings.kind as usize, &count.key)).arg(count.most);
        }
        let (wait, place): (u64, usize) = call.invoke_async(&mut connection).await.map_err(Some)?;
        Ok(place.checked_sub(1).map(|place| (place, wait)))
    }

    /// Asks, and counts unless somebody is refused. `None` if nobody answers: then whoever asks decides by itself.
    pub(super) async fn decide(
        &self,
        settings: Settings,
        now: u64,
        asks: Asks,
        counts: &[Count],
    ) -> Option<Wait> {
        let asked = tokio::time::timeout(PATIENCE, self.ask(settings, now, asks, counts)).await;
        let why = match asked {
            Ok(Ok(wait)) => return Some(wait),
            Ok(Err(why)) => why.map(|why| why.to_string()),
            Err(_) => Some(format!("it did not answer within {} ms", PATIENCE.as_millis())),
        };
        if let Some(why) = why {
            tracing::warn!(why, "Redis cannot be asked; this process counts by itself");
            *self.link.lock().await = Link { connection: None, failed: Some(Instant::now()) };
        }
        None
    }
}
