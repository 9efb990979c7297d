//! On which database a test runs.

use super::HeldClock;
use crate::change::OnCommit;
use crate::db::{BUSY, PATIENCE, Server};
use crate::{Error, Store};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone)]
pub(crate) enum Engine {
    Sqlite,
    Postgres(Arc<testdb::Database>),
}

impl Engine {
    /// `None` where it is not installed.
    pub(crate) fn postgres() -> Option<Self> {
        testdb::Database::new().ok().map(Arc::new).map(Self::Postgres)
    }

    /// On a server that no other test uses.
    pub(crate) fn alone() -> Option<Self> {
        testdb::Database::alone().ok().map(Arc::new).map(Self::Postgres)
    }

    /// The same, with an empty database.
    pub(crate) fn another(&self) -> Self {
        match self {
            Self::Sqlite => Self::Sqlite,
            Self::Postgres(_) => Self::postgres().expect("there was one"),
        }
    }

    pub(super) async fn open(
        &self,
        directory: &Path,
        clock: Arc<HeldClock>,
        on_commit: OnCommit,
        patience: Option<Duration>,
    ) -> Store {
        self.try_open(directory, clock, on_commit, patience).await.unwrap()
    }

    async fn try_open(
        &self,
        directory: &Path,
        clock: Arc<HeldClock>,
        on_commit: OnCommit,
        patience: Option<Duration>,
    ) -> Result<Store, Error> {
        match self {
            Self::Sqlite => {
                let path = directory.join("cofferdam.db");
                Store::open_waiting(&path, clock, on_commit, patience.unwrap_or(BUSY)).await
            }
            Self::Postgres(database) => {
                let server = Server::new(&database.url(), None).unwrap();
                Store::connect_waiting(&server, clock, on_commit, patience.unwrap_or(PATIENCE)).await
            }
        }
    }
}
