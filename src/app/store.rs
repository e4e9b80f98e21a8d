//! The store as the program holds it, whichever engine keeps it.
//!
//! Promises that whoever is given a [`Store`] knows no engine; which one it is is decided here, once.

use std::sync::Arc;
use std::time::Duration;

use horizons_actors::ids::LogId;
use horizons_actors::ports::log::RecordSource;
use horizons_actors::ports::query::QueryStore;
use horizons_actors::ports::store::{JobStore, LaneStore};

use crate::config::{Config, StoreEngine};
use crate::db::error::OpenError;
use crate::db::sqlite::{SqliteConfig, SqliteStore};
use crate::exit::{Exit, Failure};

/// Everything that is asked of a store.
pub trait Store: LaneStore + JobStore + QueryStore + RecordSource {}

impl<T: LaneStore + JobStore + QueryStore + RecordSource> Store for T {}

/// An open store and the log that its rows are about.
#[derive(Clone)]
pub struct OpenStore {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The log.
    pub log_id: LogId,
}

impl OpenStore {
    /// Opens the configured store.
    ///
    /// *Errors*: [`Exit::Occupied`] when another process has it, else [`Exit::Store`].
    pub fn open(config: &Config, commit_delay: Option<Duration>) -> Result<Self, Failure> {
        match config.store.engine {
            StoreEngine::Sqlite => {
                let store = open_sqlite(config, commit_delay)?;
                Ok(Self { log_id: store.log_id(), store })
            }
            StoreEngine::Postgres => {
                Err(Failure::text(Exit::Store, "this build has no PostgreSQL store yet"))
            }
        }
    }
}

/// Opens the SQLite store of the configured folder.
///
/// *Errors*: [`Exit::Occupied`] when another process has the folder, else [`Exit::Store`].
pub(super) fn open_sqlite(
    config: &Config,
    commit_delay: Option<Duration>,
) -> Result<Arc<SqliteStore>, Failure> {
    let store = SqliteConfig {
        // The limit that is configured is for all; the part that is kept for lanes comes off it.
        disk_limit_bytes: config.store.disk_limit_bytes - config.store.disk_reserve_bytes,
        reserve_bytes: config.store.disk_reserve_bytes,
        command_queue: config.store.command_queue,
        commit_delay,
        ..SqliteConfig::new(&config.store.folder)
    };
    SqliteStore::open(store).map(Arc::new).map_err(|error| open_failure(&error))
}

/// Gives the exit code of a store that cannot be opened.
pub fn open_failure(error: &OpenError) -> Failure {
    let exit = match error {
        OpenError::Locked { .. } => Exit::Occupied,
        _ => Exit::Store,
    };
    Failure::new(exit, error)
}
