//! The whole of a database in one file, and back into an empty one: of either kind, whichever it came from.
//!
//! The file is lines of JSON. The first says what it is ([`Header`]); then for each table a line with its name and columns, and a line for
//! each row, its cells in an array; the last says how many rows there were and the SHA-256 of all bytes before it. A cell is a number, a
//! text, null, `{"real": "0.5"}` or `{"bytes": "base64"}`.
//!
//! It is as secret as the database: hashes of passwords are in it, and ciphertexts of secrets. The key that opens those is not, for it is
//! not in the database either. What lets somebody in is not in it at all: see [`LEFT`].

use crate::change::{Actor, Change};
use crate::db::{Argument, Kind, Snapshot, allow_deletion, columns, count_on, others, query, schema};
use crate::rows::Row;
use crate::{Error, Store};
use model::AccountId;
use model::audit::EventKind;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::time::Duration;

/// What the first line calls the form of the file. A later form has another number.
const FORM: u32 = 1;
/// A line, in bytes: a row has no more.
const LONGEST: u64 = 64 << 20;
/// Parameters of one statement that puts rows in; SQLite takes 32,766, PostgreSQL 65,535.
const PARAMETERS: usize = 8192;
/// Bytes of lines that one such statement puts in.
const BYTES: usize = 4 << 20;
/// How long others are waited for that are just ending.
const ENDING: Duration = Duration::from_secs(10);

/// What a backup holds, in an order in which no row comes before one that it refers to. Each table of the schema is here or in [`LEFT`]:
/// a test says so of new ones.
pub(crate) const TABLES: &[&str] = &[
    "installation",
    "accounts",
    "users",
    "memberships",
    "factors",
    "quotas",
    "nodes",
    "images",
    "agents",
    "transfers",
    "agent_labels",
    "node_slots",
    "assertions",
    "idempotency_keys",
    "data_keys",
    "secrets",
    "secret_values",
    "agent_secrets",
    "egress_log",
    "egress_remembered",
    "events",
    "ledger",
    "ledger_keys",
    "state_periods",
    "usage_days",
    "usage_mark",
];

/// What no backup holds. What lets somebody in (sessions, keys, tokens, invitations) was perhaps taken away since; the public halves of
/// the keys that sign workspace tokens, so that none of before is valid; what nodes tell again; and what is counted from the rest. In an order
/// in which it can be deleted.
pub(crate) const LEFT: &[&str] = &[
    "sessions",
    "password_resets",
    "invitations",
    "api_keys",
    "bootstrap_tokens",
    "callback_tokens",
    "signing_keys",
    "egress_questions",
    "egress_counts",
    "ledger_waiting",
    "leases",
];

/// Why nothing was backed up or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The database did not do it.
    #[error(transparent)]
    Store(#[from] Error),
    /// The file could not be read or written.
    #[error("cannot use the file: {0}")]
    File(#[from] std::io::Error),
    /// It is something else.
    #[error("the file is no backup of cofferdam's, or not whole: {0}")]
    NoBackup(&'static str),
    /// It was changed.
    #[error("the file is not as it was written: its digest is another")]
    Digest,
    /// Another version of this program made it.
    #[error(
        "the backup is of another version of the schema ({theirs} migrations, the last {last}); this one has {ours}"
    )]
    Schema {
        /// Migrations in the file.
        theirs: usize,
        /// The last of them.
        last: String,
        /// Migrations here.
        ours: usize,
    },
    /// There is something already.
    #[error("the database belongs to an installation already")]
    NotEmpty,
    /// There is something of somebody else.
    #[error("the database belongs to another installation than the backup")]
    OtherInstallation,
    /// Nothing to back up.
    #[error("the database is empty: it belongs to no installation")]
    Empty,
    /// Control serves.
    #[error("{0} connections of control processes use the database")]
    Serving(u64),
}

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`FORM`].
    cofferdam_backup: u32,
    /// The names of the schema's migrations.
    schema: Vec<String>,
    /// Whose it is.
    pub installation: String,
    /// The epoch of the database that it was made of.
    pub database_epoch: u64,
    /// When, in RFC 3339.
    pub made_at: String,
}

#[derive(Serialize, Deserialize)]
struct Table {
    table: String,
    columns: Vec<(String, Kind)>,
}

/// The last line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// Of all tables.
    pub rows: u64,
    /// Of all bytes of the lines before, in hexadecimal digits.
    pub sha256: String,
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// What the backup says of itself.
    pub header: Header,
    /// Rows.
    pub rows: u64,
    /// The epoch of the database from now on.
    pub database_epoch: u64,
}

/// Bytes on their way out, counted into the digest.
struct Sink<'w> {
    to: &'w mut (dyn Write + Send),
    digest: Sha256,
}

impl Sink<'_> {
    fn line<T: Serialize>(&mut self, line: &T) -> Result<(), BackupError> {
        let mut text = serde_json::to_vec(line).map_err(std::io::Error::from)?;
        text.push(b'\n');
        self.digest.update(&text);
        Ok(self.to.write_all(&text)?)
    }
}

fn hexadecimal(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn cell(row: &Row, at: usize, kind: Kind) -> Result<Value, Error> {
    Ok(match kind {
        Kind::Number => json!(row.try_get::<Option<i64>, _>(at)?),
        Kind::Text => json!(row.try_get::<Option<&str>, _>(at)?),
        // In digits that lead back to the same number.
        Kind::Real => match row.try_get::<Option<f64>, _>(at)? {
            Some(real) => json!({ "real": format!("{real:?}") }),
            None => Value::Null,
        },
        Kind::Bytes => match row.try_get::<Option<&[u8]>, _>(at)? {
            Some(bytes) => json!({ "bytes": base64::Engine::encode(&BASE64, bytes) }),
            None => Value::Null,
        },
    })
}

const BASE64: base64::engine::GeneralPurpose = base64::engine::general_purpose::STANDARD;

fn argument(cell: Value, kind: Kind) -> Option<Argument> {
    let within = |name| cell.get(name).and_then(Value::as_str);
    Some(match (kind, &cell) {
        (Kind::Number, Value::Null) => Argument::Number(None),
        (Kind::Real, Value::Null) => Argument::Real(None),
        (Kind::Text, Value::Null) => Argument::Text(None),
        (Kind::Bytes, Value::Null) => Argument::Bytes(None),
        (Kind::Number, Value::Number(number)) => Argument::Number(Some(number.as_i64()?)),
        (Kind::Real, _) => Argument::Real(Some(within("real")?.parse().ok()?)),
        (Kind::Bytes, _) => Argument::Bytes(Some(base64::Engine::decode(&BASE64, within("bytes")?).ok()?)),
        (Kind::Text, Value::String(_)) => match cell {
            Value::String(text) => Argument::Text(Some(text)),
            _ => return None,
        },
        _ => return None,
    })
}

fn list(columns: &[(String, Kind)]) -> String {
    columns.iter().map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

/// The order of these counts: pages of events go by it, and a period is taken only behind the one before.
fn order(table: &str) -> &'static str {
    match table {
        "events" => " ORDER BY rowid",
        "egress_log" => " ORDER BY id",
        "state_periods" => " ORDER BY agent, ordinal",
        _ => "",
    }
}

/// A file that was read once to its end, and is what it says.
pub struct Archive<R> {
    from: R,
    header: Header,
    ending: Ending,
}

/// One line; nothing at the end.
fn line(from: &mut impl BufRead, into: &mut Vec<u8>) -> Result<bool, BackupError> {
    into.clear();
    let read = from.by_ref().take(LONGEST).read_until(b'\n', into)?;
    if read > 0 && into.last() != Some(&b'\n') {
        return Err(BackupError::NoBackup("a line has no end"));
    }
    Ok(read > 0)
}

impl<R: Read + Seek> Archive<R> {
    /// Reads a backup to its end, and refuses one that is not whole, not as it was written, or of another version.
    pub fn check(mut from: R) -> Result<Self, BackupError> {
        let mut lines = BufReader::new(&mut from);
        let (mut digest, mut bytes) = (Sha256::new(), Vec::new());
        let foreign = BackupError::NoBackup("its first line is not a backup's");
        if !line(&mut lines, &mut bytes)? {
            return Err(foreign);
        }
        let first: Value = serde_json::from_slice(&bytes)
            .map_err(|_| BackupError::NoBackup("its first line is not a backup's"))?;
        match first.get("cofferdam_backup").and_then(Value::as_u64) {
            None => return Err(foreign),
            Some(form) if form != u64::from(FORM) => {
                return Err(BackupError::NoBackup("it has the form of another version"));
            }
            Some(_) => {}
        }
        let header: Header = serde_json::from_value(first).map_err(|_| foreign)?;
        let (mut rows, mut tables) = (0, 0);
        let ending: Ending = loop {
            digest.update(&bytes);
            if !line(&mut lines, &mut bytes)? {
                return Err(BackupError::NoBackup("it ends before its last line"));
            }
            match bytes.first() {
                Some(b'[') => rows += 1,
                // What is not a table is the end.
                Some(b'{') => match serde_json::from_slice::<Table>(&bytes) {
                    Ok(table) if TABLES.get(tables) == Some(&table.table.as_str()) => tables += 1,
                    Ok(_) => return Err(BackupError::NoBackup("it has other tables, or in another order")),
                    Err(_) => {
                        let ending = serde_json::from_slice(&bytes);
                        break ending
                            .map_err(|_| BackupError::NoBackup("a line of it is none of a backup's"))?;
                    }
                },
                _ => return Err(BackupError::NoBackup("a line of it is none of a backup's")),
            }
        };
        if line(&mut lines, &mut bytes)? {
            return Err(BackupError::NoBackup("it goes on behind its last line"));
        }
        if hexadecimal(digest) != ending.sha256 {
            return Err(BackupError::Digest);
        }
        let own = schema();
        if header.schema != own {
            let last = header.schema.last().cloned().unwrap_or_default();
            return Err(BackupError::Schema { theirs: header.schema.len(), last, ours: own.len() });
        }
        if rows != ending.rows || tables != TABLES.len() {
            return Err(BackupError::NoBackup("tables or rows of it are missing"));
        }
        drop(lines);
        Ok(Self { from, header, ending })
    }

    /// What it says of itself.
    pub fn header(&self) -> &Header {
        &self.header
    }
}

/// Rows of one table, on their way in.
struct Loading {
    table: Table,
    cells: Vec<Argument>,
    /// Of the lines that they stood in.
    bytes: usize,
}

impl Loading {
    fn take(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        let wrong = || BackupError::NoBackup("a row of it does not fit its table");
        let row: Vec<Value> = serde_json::from_slice(bytes).map_err(|_| wrong())?;
        if row.len() != self.table.columns.len() {
            return Err(wrong());
        }
        self.bytes += bytes.len();
        for (cell, (_, kind)) in row.into_iter().zip(&self.table.columns) {
            self.cells.push(argument(cell, *kind).ok_or_else(wrong)?);
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.bytes > BYTES || self.cells.len() + self.table.columns.len() > PARAMETERS
    }

    async fn put(&mut self, change: &mut Change) -> Result<(), Error> {
        let cells = std::mem::take(&mut self.cells);
        self.bytes = 0;
        if cells.is_empty() {
            return Ok(());
        }
        let width = self.table.columns.len();
        let mut sql = format!("INSERT INTO \"{}\" ({})", self.table.table, list(&self.table.columns));
        // Where a database counts by itself, the numbers of the backup count.
        if matches!(change.db().await?, crate::db::Connection::Postgres(_)) {
            sql.push_str(" OVERRIDING SYSTEM VALUE");
        }
        sql.push_str(" VALUES ");
        for row in 0..cells.len() / width {
            sql.push_str(if row == 0 { "(" } else { ", (" });
            let numbers = (1..=width).map(|column| format!("${}", row * width + column));
            sql.push_str(&numbers.collect::<Vec<_>>().join(", "));
            sql.push(')');
        }
        let mut insert = query(sqlx::AssertSqlSafe(sql));
        for cell in cells {
            insert = insert.bind(cell);
        }
        insert.execute(change.db().await?).await.map(drop)
    }
}

impl Store {
    /// Writes all that there is, as it is at one moment, whatever is changed meanwhile.
    pub async fn backup(&self, to: &mut (dyn Write + Send)) -> Result<Ending, BackupError> {
        let mut snapshot = Snapshot::begin(&self.0.reader).await?;
        let written = self.write(&mut snapshot, to).await;
        snapshot.end().await?;
        written
    }

    async fn write(
        &self,
        snapshot: &mut Snapshot,
        to: &mut (dyn Write + Send),
    ) -> Result<Ending, BackupError> {
        let row = query("SELECT id, database_epoch FROM installation")
            .fetch_optional(snapshot.connection())
            .await?;
        let row = row.ok_or(BackupError::Empty)?;
        let made_at = self.now().format(&time::format_description::well_known::Rfc3339).unwrap_or_default();
        let mut sink = Sink { to, digest: Sha256::new() };
        sink.line(&Header {
            cofferdam_backup: FORM,
            schema: schema(),
            installation: row.text("id")?,
            database_epoch: row.number("database_epoch")?,
            made_at,
        })?;
        let mut rows = 0;
        for table in TABLES {
            let columns = columns(snapshot.connection(), table).await?;
            sink.line(&Table { table: (*table).to_owned(), columns: columns.clone() })?;
            let sql = format!("SELECT {} FROM \"{table}\"{}", list(&columns), order(table));
            snapshot
                .each(sql, |row| {
                    let cells = columns.iter().enumerate().map(|(at, (_, kind))| cell(&row, at, *kind));
                    rows += 1;
                    sink.line(&cells.collect::<Result<Vec<_>, _>>()?)
                })
                .await?;
        }
        let Sink { to, digest } = sink;
        let ending = Ending { rows, sha256: hexadecimal(digest) };
        let mut last = serde_json::to_vec(&ending).map_err(std::io::Error::from)?;
        last.push(b'\n');
        to.write_all(&last)?;
        to.flush()?;
        Ok(ending)
    }

    /// Waits until no other process serves on this database, where the database can tell; for a while.
    pub async fn alone(&self) -> Result<(), BackupError> {
        let deadline = tokio::time::Instant::now() + ENDING;
        loop {
            let serving = others(self.0.reader.acquire().await?.connection()).await?;
            match serving {
                0 => return Ok(()),
                _ if tokio::time::Instant::now() >= deadline => return Err(BackupError::Serving(serving)),
                // Nobody tells when a connection is gone.
                _ => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// Puts what a backup holds into this database, which is empty; or, with `replace`, is the same installation's. All of it or nothing.
    ///
    /// The database's epoch is above all that there were. Nobody has a session, a key or a token that is valid: what was
    /// taken away since the backup would be back. Agents are as their nodes say that they are, see `Agent::restored`.
    pub async fn restore<R: Read + Seek>(
        &self,
        archive: Archive<R>,
        replace: bool,
    ) -> Result<Restored, BackupError> {
        let Archive { mut from, header, ending } = archive;
        let mut change = self.change(Actor::System).await?;
        let present =
            query("SELECT id, database_epoch FROM installation").fetch_optional(change.db().await?).await?;
        let mut epoch = header.database_epoch;
        if let Some(present) = present {
            if !replace {
                return Err(BackupError::NotEmpty);
            }
            if present.text("id")? != header.installation {
                return Err(BackupError::OtherInstallation);
            }
            epoch = epoch.max(present.number("database_epoch")?);
            let guards = allow_deletion(change.db().await?).await?;
            for table in LEFT.iter().chain(TABLES.iter().rev()) {
                query(sqlx::AssertSqlSafe(format!("DELETE FROM \"{table}\"")))
                    .execute(change.db().await?)
                    .await?;
            }
            guards.back(change.db().await?).await?;
        }
        from.seek(SeekFrom::Start(0))?;
        let digest = load(&mut change, &mut from).await?;
        if digest != ending.sha256 {
            return Err(BackupError::Digest);
        }
        // Every event that came waits to be chained, also those that are.
        query("DELETE FROM ledger_waiting WHERE event IN (SELECT event FROM ledger)")
            .execute(change.db().await?)
            .await?;
        count_on(change.db().await?).await?;
        // A backup that is restored twice into empty databases must not have the same epoch twice.
        let seconds = change.now / 1000;
        let epoch = (epoch + 1).max(seconds.unsigned_abs());
        query("UPDATE installation SET database_epoch = $1")
            .bind(epoch as i64)
            .execute(change.db().await?)
            .await?;
        query(
            "UPDATE agents SET restored = CASE WHEN state = 'destroyed' THEN 0 ELSE 1 END,
                token_epoch = CASE WHEN token_epoch < $1 THEN $1 ELSE token_epoch + 1 END, shown = shown + 1",
        )
        .bind(seconds)
        .execute(change.db().await?)
        .await?;
        query("UPDATE nodes SET rev = rev + 1").execute(change.db().await?).await?;
        let detail =
            json!({"made_at": header.made_at, "from_epoch": header.database_epoch, "database_epoch": epoch});
        change.event(None, EventKind::InstallationRestored, &header.installation, detail.clone());
        let accounts = query("SELECT id FROM accounts").fetch_all(change.db().await?).await?;
        for row in accounts {
            let account: AccountId = row.parsed("id")?;
            change.event(
                Some(account),
                EventKind::InstallationRestored,
                &header.installation,
                detail.clone(),
            );
        }
        change.touch(crate::Changed::Keys);
        change.commit().await?;
        Ok(Restored { header, rows: ending.rows, database_epoch: epoch })
    }
}

/// Puts all rows in; the digest of what was read.
async fn load(change: &mut Change, from: &mut impl Read) -> Result<String, BackupError> {
    let mut lines = BufReader::new(from);
    let (mut digest, mut bytes, mut loading) = (Sha256::new(), Vec::new(), None::<Loading>);
    let mut first = true;
    while line(&mut lines, &mut bytes)? {
        if std::mem::take(&mut first) {
            digest.update(&bytes);
            continue;
        }
        if bytes.first() == Some(&b'[') {
            digest.update(&bytes);
            let rows = loading.as_mut().ok_or(BackupError::NoBackup("a row of it is of no table"))?;
            rows.take(&bytes)?;
            if rows.is_full() {
                rows.put(change).await?;
            }
            continue;
        }
        if let Some(mut rows) = loading.take() {
            rows.put(change).await?;
        }
        let Ok(table) = serde_json::from_slice::<Table>(&bytes) else { break };
        digest.update(&bytes);
        let mut own = columns(change.db().await?, known(&table.table)?).await?;
        let mut theirs = table.columns.clone();
        own.sort_by(|a, b| a.0.cmp(&b.0));
        theirs.sort_by(|a, b| a.0.cmp(&b.0));
        if own != theirs {
            return Err(BackupError::NoBackup("a table of it has other columns"));
        }
        loading = Some(Loading { table, cells: Vec::new(), bytes: 0 });
    }
    Ok(hexadecimal(digest))
}

/// A name that goes into a statement is one of ours.
fn known(table: &str) -> Result<&'static str, BackupError> {
    TABLES.iter().find(|known| **known == table).copied().ok_or(BackupError::NoBackup("it has other tables"))
}
