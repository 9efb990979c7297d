//! PostgreSQL, on a server that several control processes may use.

use super::Pool;
use crate::Error;
use crate::group::Durability;
use sqlx::migrate::Migrator;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{Connection, Executor, Postgres, Row};
use std::net::IpAddr;
use std::time::Duration;

/// How long a change waits for those of other processes before it says that the database is locked.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How long a server works at one statement.
const WORK: Duration = Duration::from_secs(20);
/// How long it is waited for to answer: a network that swallows everything says nothing either.
const ANSWER: Duration = Duration::from_secs(30);
/// One more listens.
const READERS: u32 = 8;
/// More than there are statements.
const STATEMENTS: usize = 500;

/// What the server's list of who is connected calls a process that serves.
pub(super) const SERVING: &str = "cofferdam";

/// Whoever writes has this lock until its transaction ends: changes of all processes are made one after the other, as SQLite's are.
/// The number is taken behind it, so that it grows from commit to commit.
const DURABLE: &str = "BEGIN; SELECT pg_advisory_xact_lock(7700); SELECT nextval('changes')";
const REPEATABLE: &str = "BEGIN; SET LOCAL synchronous_commit = off; SELECT pg_advisory_xact_lock(7700);
    SELECT nextval('changes')";

/// A database on a server, and who may use it.
#[derive(Clone)]
pub struct Server(PgConnectOptions);

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Server").field(&self.place()).finish()
    }
}

/// Why a URL names no database that control could use. It never repeats the URL, which may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlFault {
    /// Not of the form.
    #[error(
        "must be postgres://USER@HOST:PORT/DATABASE, with a socket's directory as %2Frun%2Fpostgresql in place of the host"
    )]
    Form,
    /// No user, or no database.
    #[error("must name a user and a database: postgres://USER@HOST/DATABASE")]
    Incomplete,
    /// What crosses the network could be read or changed there.
    #[error(
        "names another machine, and `sslmode` lets anybody in between read along: leave it out, or make it verify-full"
    )]
    Clear,
}

impl Server {
    /// Of a URL, whose password this one takes the place of. Unless the URL says otherwise, a server on another machine shows a
    /// certificate for its name.
    pub fn new(url: &str, password: Option<&str>) -> Result<Self, UrlFault> {
        let scheme = url.split_once("://").map(|(scheme, _)| scheme);
        if !matches!(scheme, Some("postgres" | "postgresql")) {
            return Err(UrlFault::Form);
        }
        let mut options: PgConnectOptions = url.parse().map_err(|_| UrlFault::Form)?;
        let named = url.contains('@') && !options.get_username().is_empty();
        if !named || options.get_database().is_none_or(str::is_empty) {
            return Err(UrlFault::Incomplete);
        }
        if let Some(password) = password {
            options = options.password(password);
        }
        let host = options.get_host();
        let here = options.get_socket().is_some()
            || host.starts_with('/')
            || host == "localhost"
            || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
        if !url.contains("sslmode=") && !url.contains("ssl-mode=") {
            options = options.ssl_mode(if here { PgSslMode::Prefer } else { PgSslMode::VerifyFull });
        }
        let verified = matches!(options.get_ssl_mode(), PgSslMode::VerifyFull | PgSslMode::VerifyCa);
        if !here && !verified {
            return Err(UrlFault::Clear);
        }
        Ok(Self(options.application_name(SERVING).statement_cache_capacity(STATEMENTS)))
    }

    /// The same, by another name in the server's list of who is connected.
    pub(crate) fn named(&self, name: &str) -> Self {
        Self(self.0.clone().application_name(name))
    }

    /// Which database it is, without a password.
    pub fn place(&self) -> String {
        let (options, database) = (&self.0, self.0.get_database().unwrap_or_default());
        match options.get_socket() {
            Some(socket) => format!("{database} at {}", socket.display()),
            None => format!("{database} at {}:{}", options.get_host(), options.get_port()),
        }
    }
}

pub(crate) fn migrations() -> Migrator {
    super::migrator([
        ("initial", include_str!("../../migrations/postgres/0001_initial.sql")),
        ("changes", include_str!("../../migrations/postgres/0002_changes.sql")),
        ("free_slots", include_str!("../../migrations/postgres/0003_free_slots.sql")),
        ("levels", include_str!("../../migrations/postgres/0004_levels.sql")),
        ("observation", include_str!("../../migrations/postgres/0005_observation.sql")),
        ("policy", include_str!("../../migrations/postgres/0006_policy.sql")),
        ("egress", include_str!("../../migrations/postgres/0007_egress.sql")),
        ("secrets", include_str!("../../migrations/postgres/0008_secrets.sql")),
        ("people", include_str!("../../migrations/postgres/0009_people.sql")),
        ("quotas", include_str!("../../migrations/postgres/0010_quotas.sql")),
        ("ledger", include_str!("../../migrations/postgres/0011_ledger.sql")),
        ("transfers", include_str!("../../migrations/postgres/0012_transfers.sql")),
        ("packages", include_str!("../../migrations/postgres/0013_packages.sql")),
        ("shown", include_str!("../../migrations/postgres/0014_shown.sql")),
        ("creation", include_str!("../../migrations/postgres/0015_creation.sql")),
        ("restored", include_str!("../../migrations/postgres/0016_restored.sql")),
        ("periods", include_str!("../../migrations/postgres/0017_periods.sql")),
        ("usage", include_str!("../../migrations/postgres/0018_usage.sql")),
    ])
}

/// Connects, and brings the schema up to date: the connection that writes, and those that read.
pub(crate) async fn open(server: &Server, patience: Duration) -> Result<(Pool, Pool), Error> {
    let place = || server.place();
    let opening = |source| Error::opening(place(), source);
    // A connection is asked whether it is still there before it is used.
    let pool = || PgPoolOptions::new().acquire_timeout(2 * patience);
    let millis = |span: Duration| span.as_millis().to_string();
    // It takes as long as it takes, and others wait for it.
    let mut alone = PgConnection::connect_with(&server.0).await.map_err(opening)?;
    migrations().run(&mut alone).await.map_err(|source| Error::migrating(place(), source))?;
    alone.close().await.map_err(opening)?;
    // Whoever stands still with the lock is put out, or all would wait for it.
    let writing = [
        ("statement_timeout", millis(WORK)),
        ("lock_timeout", millis(patience)),
        ("idle_in_transaction_session_timeout", millis(2 * patience)),
        ("tcp_user_timeout", millis(2 * patience)),
    ];
    let writing = server.0.clone().options(writing);
    let writer = pool().max_connections(1).connect_with(writing).await.map_err(opening)?;
    let reading = [("statement_timeout", millis(WORK)), ("default_transaction_read_only", "on".to_owned())];
    let reading = server.0.clone().options(reading);
    let reader = pool().max_connections(READERS + 1).connect_with(reading).await.map_err(opening)?;
    Ok((Pool::Postgres(writer), Pool::Postgres(reader)))
}

/// The answer, or that there is none. Nobody goes on with the connection then: see [`Transaction::drop`], and what a pool does with one
/// that does not answer.
pub(crate) async fn answered<T>(
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    match tokio::time::timeout(ANSWER, work).await {
        Ok(answer) => answer,
        Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
    }
}

/// A transaction that has the lock.
pub(crate) struct Transaction {
    connection: PoolConnection<Postgres>,
    pub(super) number: u64,
    ended: bool,
}

impl Transaction {
    pub(super) async fn begin(pool: &PgPool, durability: Durability) -> Result<Self, sqlx::Error> {
        let mut tx = Self { connection: pool.acquire().await?, number: 0, ended: false };
        let sql = match durability {
            Durability::Durable => DURABLE,
            Durability::Repeatable => REPEATABLE,
        };
        let rows = answered(tx.connection.fetch_all(sqlx::raw_sql(sql))).await?;
        let number: i64 = rows.last().ok_or(sqlx::Error::RowNotFound)?.try_get(0)?;
        tx.number = number.unsigned_abs();
        Ok(tx)
    }

    pub(super) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    pub(super) async fn end(mut self, how: &'static str) -> Result<(), sqlx::Error> {
        answered(self.connection.execute(sqlx::raw_sql(how))).await?;
        self.ended = true;
        Ok(())
    }
}

impl Drop for Transaction {
    /// Nobody goes on with a connection of which nobody knows what it is in the middle of; the server undoes what it began.
    fn drop(&mut self) {
        if !self.ended {
            self.connection.close_on_drop();
        }
    }
}
