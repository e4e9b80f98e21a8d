//! The store as the program holds it, whichever engine keeps it.
//!
//! Promises that whoever is given a [`Store`] knows no engine; which one it is is decided here, once.

use std::sync::Arc;
use std::time::Duration;

use horizons_actors::ids::LogId;
use horizons_actors::layout::Layout;
use horizons_actors::ports::log::RecordSource;
use horizons_actors::ports::outbox::OutboxStore;
use horizons_actors::ports::query::QueryStore;
use horizons_actors::ports::store::{JobStore, LaneStore};

use super::log::BrokersSeen;
use super::{escalate, log};
use crate::config::{Config, EventLogKind, Migrations as WhoMigrates, SchedulerKind, StoreEngine};
use crate::db::error::OpenError;
use crate::db::log_choice::LogChoice;
use crate::db::postgres::{
    ConnectionUrl, Lease, Migrations, PostgresConfig, PostgresReader, PostgresStore, Taken, migrate,
};
use crate::db::sqlite::{SqliteConfig, SqliteReader, SqliteStore};
use crate::exit::{Exit, Failure};
use crate::kafka::relay::Writers;

/// Everything that is asked of a store.
pub trait Store: LaneStore + JobStore + QueryStore + RecordSource + OutboxStore {}

impl<T: LaneStore + JobStore + QueryStore + RecordSource + OutboxStore> Store for T {}

/// An open store and the log that its rows are about.
#[derive(Clone)]
pub struct OpenStore {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The log.
    pub log_id: LogId,
    /// Held by the one process that has the scheduler, where others may share the store.
    scheduler_lease: Option<Arc<Lease>>,
    /// Whether the brokers have answered since the start.
    pub(super) brokers: BrokersSeen,
}

/// What the lease of the process with the scheduler is called.
const SCHEDULER_LEASE: &str = "scheduler";

impl OpenStore {
    /// Opens the configured store for the configured event log.
    ///
    /// *Errors*: [`Exit::Occupied`] when another process has it, [`Exit::Unreachable`] when the database or, for
    /// a new store, the brokers do not answer, else [`Exit::Store`].
    pub fn open(config: &Config, commit_delay: Option<Duration>) -> Result<Self, Failure> {
        let brokers = BrokersSeen::default();
        let log = log::choose(config, &brokers)?;
        match config.store.engine {
            StoreEngine::Sqlite => {
                let store = open_sqlite_for(config, log, commit_delay)?;
                Ok(Self { log_id: store.log_id(), store, scheduler_lease: None, brokers })
            }
            StoreEngine::Postgres => Self::open_postgres(config, log, brokers, commit_delay),
        }
    }

    fn open_postgres(
        config: &Config,
        log: LogChoice,
        brokers: BrokersSeen,
        commit_delay: Option<Duration>,
    ) -> Result<Self, Failure> {
        let settings = PostgresConfig { log, commit_delay, ..postgres_config(config) };
        let (store, scheduler_lease) = match config.event_log {
            EventLogKind::Embedded => (PostgresStore::open_alone(settings), None),
            EventLogKind::Kafka => {
                let opened = PostgresStore::open(settings.clone());
                // The tables must be there before there can be a lease.
                let lease = match (&opened, config.scheduler.kind) {
                    (Ok(_), SchedulerKind::Local) => Some(Arc::new(take_scheduler(&settings)?)),
                    _ => None,
                };
                (opened, lease)
            }
        };
        let store = Arc::new(store.map_err(|error| open_failure(&error))?);
        Ok(Self { log_id: store.log_id(), store, scheduler_lease, brokers })
    }

    /// Tells whether other processes may write to the store.
    pub fn writers(config: &Config) -> Writers {
        match config.store.engine {
            StoreEngine::Sqlite => Writers::ThisProcess,
            StoreEngine::Postgres => Writers::Several,
        }
    }

    /// Gives what must be held as long as jobs are driven here.
    pub(super) fn scheduler_lease(&self) -> Option<Arc<Lease>> {
        self.scheduler_lease.clone()
    }
}

/// Takes the lease of the process that has the scheduler; ends the process when another takes it after all.
fn take_scheduler(settings: &PostgresConfig) -> Result<Lease, Failure> {
    let lost = || escalate("scheduler", "another process has taken the lease of the scheduler");
    match Lease::take(settings, SCHEDULER_LEASE, lost) {
        Ok(Taken::Ours(lease)) => Ok(lease),
        Ok(Taken::Held(holder)) => Err(Failure::text(
            Exit::Occupied,
            format!(
                "failed to start the scheduler `local`: `{holder}` has it; a process beside that one is started with \
                 `scheduler.kind = \"none\"`"
            ),
        )),
        Err(error) => Err(Failure::new(Exit::Unreachable, &error)),
    }
}

/// Names the process that has the scheduler, where the store tells. Blocks.
pub(super) fn scheduler_holder(config: &Config) -> Option<String> {
    match config.store.engine {
        StoreEngine::Sqlite => None,
        StoreEngine::Postgres => {
            let holder = Lease::holder_of(&postgres_config(config), SCHEDULER_LEASE);
            holder.inspect_err(|error| tracing::warn!(%error, "failed to ask who has the scheduler")).ok()?
        }
    }
}

/// Gives what the store on PostgreSQL is told, but for the log.
pub(super) fn postgres_config(config: &Config) -> PostgresConfig {
    let postgres = &config.postgres;
    let url = ConnectionUrl::new(postgres.url.clone());
    let url = match postgres.password.is_empty() {
        true => url,
        false => url.with_password(postgres.password.reveal()),
    };
    PostgresConfig {
        schema: postgres.schema.clone(),
        migrations: match postgres.migrations {
            WhoMigrates::AtStart => Migrations::AtOpen,
            WhoMigrates::ByOperator => Migrations::ByOperator,
        },
        grant_to: postgres.grant_to.clone(),
        disk_limit_bytes: Some(config.store.disk_limit_bytes - config.store.disk_reserve_bytes),
        command_queue: config.store.command_queue,
        readers: usize::try_from(postgres.connections / 2).unwrap_or(1).max(1),
        statement_timeout: postgres.timeout,
        network_timeout: postgres.timeout.min(PostgresConfig::new(ConnectionUrl::new("")).network_timeout),
        ..PostgresConfig::new(url)
    }
}

/// Makes and changes the tables of the configured store: `horizons store migrate`.
///
/// *Errors*: [`Exit::Config`] for a store that needs nobody to do that, else as [`OpenStore::open`].
pub fn migrate_store(config: Config) -> Result<Exit, Failure> {
    match config.store.engine {
        StoreEngine::Sqlite => {
            let text = "`store.engine` is `sqlite`: `serve` makes and changes its tables by itself";
            Err(Failure::text(Exit::Config, text))
        }
        StoreEngine::Postgres => {
            migrate(&postgres_config(&config)).map_err(|error| open_failure(&error))?;
            Ok(Exit::Done)
        }
    }
}

/// Opens the SQLite store of the configured folder, with the embedded log.
///
/// *Errors*: [`Exit::Occupied`] when another process has the folder, else [`Exit::Store`].
pub(super) fn open_sqlite(
    config: &Config,
    commit_delay: Option<Duration>,
) -> Result<Arc<SqliteStore>, Failure> {
    open_sqlite_for(config, LogChoice::Embedded, commit_delay)
}

/// Opens the SQLite store of the configured folder for a log.
///
/// *Errors*: as [`open_sqlite`].
pub(super) fn open_sqlite_for(
    config: &Config,
    log: LogChoice,
    commit_delay: Option<Duration>,
) -> Result<Arc<SqliteStore>, Failure> {
    let store = SqliteConfig {
        log,
        // The limit that is configured is for all; the part that is kept for lanes comes off it.
        disk_limit_bytes: config.store.disk_limit_bytes - config.store.disk_reserve_bytes,
        reserve_bytes: config.store.disk_reserve_bytes,
        command_queue: config.store.command_queue,
        commit_delay,
        ..SqliteConfig::new(&config.store.folder)
    };
    SqliteStore::open(store).map(Arc::new).map_err(|error| open_failure(&error))
}

/// Reads the layouts of topics out of the configured store, if there is one that can be read: without, topics have what they
/// begin with.
pub(super) fn stored_layouts(config: &Config) -> Vec<Layout> {
    let read = match config.store.engine {
        StoreEngine::Sqlite => SqliteReader::open(&config.store.folder).map(|reader| reader.layouts()),
        StoreEngine::Postgres => {
            PostgresReader::open(&postgres_config(config)).map(|reader| reader.layouts())
        }
    };
    match read {
        Ok(Ok(layouts)) => layouts,
        Ok(Err(error)) => {
            tracing::debug!(error = %error, "failed to read the layouts of topics");
            Vec::new()
        }
        Err(error) => {
            tracing::debug!(error = %error, "no store to read the layouts of topics from");
            Vec::new()
        }
    }
}

/// Gives the exit code of a store that cannot be opened.
pub fn open_failure(error: &OpenError) -> Failure {
    let exit = match error {
        OpenError::Locked { .. } | OpenError::LeaseHeld { .. } => Exit::Occupied,
        OpenError::Unreachable { .. } | OpenError::NoLog => Exit::Unreachable,
        _ => Exit::Store,
    };
    Failure::new(exit, error)
}
