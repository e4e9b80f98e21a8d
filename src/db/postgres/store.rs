//! The store as others hold it: opening and closing; its ports are those of every engine.

use std::sync::Arc;
use std::thread::JoinHandle;

use diesel::connection::SimpleConnection;
use horizons_actors::ids::LogId;
use horizons_actors::ports::log::LogHeads;
use horizons_actors::ports::store::StoreError;

use super::config::{Migrations, PostgresConfig};
use super::connection;
use super::engine::{Connection, ReadPool, engine, take_turns};
use super::identity::{self, Identity};
use super::lanes::Lanes;
use super::lease::{Lease, Taken};
use super::link::Link;
use super::numbers::EntryNumbers;
use super::placing::Placing;
use super::profile::{WriterProfile, WriterTimes};
use super::queue::{Queue, QueueLimits};
use super::readers::Readers;
use super::round::UsedBytes;
use super::writer::{self, Writer};
use super::{migrate, source};
use crate::db::error::OpenError;
use crate::db::fatal::FatalError;
use crate::db::log_choice::LogChoice;

/// Threads that read for probes.
const PROBE_READERS: usize = 1;

/// Connections for readers of the log, beside those of the reading threads: one for each consumer group.
const LOG_READERS: usize = 5;

/// The lease of the one process that works where only one may: with the embedded log, or with jobs that are
/// this machine's processes.
const ALONE: &str = "process";

/// The reading side of a store, by the name that the shared code knows.
pub(super) type Reader = PostgresReader;

/// The store, by the name that the shared code knows.
pub(super) type Store = PostgresStore;

/// The reading side of a store.
pub struct PostgresReader {
    pub(super) pool: ReadPool,
    /// Reads of lanes.
    pub(super) for_lanes: Readers,
    /// Reads of people, on threads of their own so that they cannot hold lanes up.
    pub(super) for_people: Readers,
    /// Reads of probes, on a thread of their own so that nothing can hold them up.
    pub(super) for_probes: Readers,
    pub(super) lanes: Arc<Lanes>,
    pub(super) heads: Arc<LogHeads>,
    pub(super) disk_limit_bytes: u64,
    log_id: LogId,
}

impl std::fmt::Debug for PostgresReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresReader").field("log_id", &self.log_id).finish_non_exhaustive()
    }
}

impl PostgresReader {
    /// Opens a store for reading alone; it may stand beside servers. What it knows of log ends is as of now.
    ///
    /// *Errors*: [`OpenError::Missing`] without a store, [`OpenError::OlderSchema`] when it lacks migrations or
    /// was never opened for writing, and what else opening can meet.
    pub fn open(config: &PostgresConfig) -> Result<Self, OpenError> {
        config.check()?;
        let mut connection = connection::open(config)?;
        migrate::check(&mut connection, config)?;
        let log_id = identity::read(&mut connection)
            .map_err(|error| failed(config, error))?
            .ok_or_else(|| OpenError::OlderSchema { file: config.name().into() })?;
        Self::start(config, &mut connection, log_id)
    }

    /// Reads what is kept in memory and starts the reading threads.
    fn start(config: &PostgresConfig, connection: &mut Connection, log_id: LogId) -> Result<Self, OpenError> {
        let lanes = Arc::new(Lanes::load(connection, &log_id).map_err(|error| failed(config, error))?);
        let heads = Arc::new(LogHeads::default());
        source::refresh(connection, &heads).map_err(|error| failed(config, error))?;
        let connections = config.readers * 2 + PROBE_READERS + LOG_READERS;
        let pool = connection::read_pool(config, u32::try_from(connections).unwrap_or(u32::MAX))?;
        let threads = |name, threads| {
            Readers::start(name, &pool, threads, config.read_queue).map_err(|error| no_thread(config, &error))
        };
        Ok(Self {
            for_lanes: threads("store-load", config.readers)?,
            for_people: threads("store-query", config.readers)?,
            for_probes: threads("store-probe", PROBE_READERS)?,
            pool: pool.clone(),
            lanes,
            heads,
            disk_limit_bytes: config.disk_limit_bytes.unwrap_or(u64::MAX),
            log_id,
        })
    }

    /// Gives the id of the log that this store is about.
    pub fn log_id(&self) -> LogId {
        self.log_id.clone()
    }
}

/// The store on PostgreSQL.
///
/// Dropping it writes what is queued, then ends its threads and gives its lease back.
pub struct PostgresStore {
    pub(super) reader: PostgresReader,
    pub(super) queue: Arc<Queue>,
    profile: Arc<WriterProfile>,
    writer: Option<JoinHandle<()>>,
    /// Held by a process that must be the only one.
    lease: Option<Lease>,
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStore").field("log_id", &self.reader.log_id).finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Opens the store as one process of several, making its tables where the configuration says so.
    ///
    /// *Errors*: each variant of [`OpenError`] that is about a server; nothing is damaged by any of them.
    pub fn open(config: PostgresConfig) -> Result<Self, OpenError> {
        let mut connection = prepare(&config)?;
        let log_id = settle(&mut connection, &config)?;
        Self::start(config, connection, log_id, None)
    }

    /// Opens the store as the only process that may: takes the lease for that, and ends the process when it is
    /// lost to another.
    ///
    /// *Errors*: [`OpenError::LeaseHeld`] names the other process; else as [`PostgresStore::open`].
    pub fn open_alone(config: PostgresConfig) -> Result<Self, OpenError> {
        let mut connection = prepare(&config)?;
        let on_fatal = Arc::clone(&config.on_fatal);
        let taken = Lease::take(&config, ALONE, move || on_fatal(&FatalError::LeaseLost(ALONE)));
        let lease = match taken.map_err(|error| failed(&config, error))? {
            Taken::Ours(lease) => lease,
            Taken::Held(holder) => {
                return Err(OpenError::LeaseHeld { store: config.name(), name: ALONE, holder });
            }
        };
        let log_id = settle(&mut connection, &config)?;
        Self::start(config, connection, log_id, Some(lease))
    }

    fn start(
        config: PostgresConfig,
        mut connection: Connection,
        log_id: LogId,
        lease: Option<Lease>,
    ) -> Result<Self, OpenError> {
        let reader = PostgresReader::start(&config, &mut connection, log_id)?;
        let queue = Arc::new(Queue::new(QueueLimits {
            commands: config.command_queue,
            lanes: config.batch_queue,
            commands_per_commit: config.commands_per_commit,
        }));
        let profile = Arc::new(WriterProfile::default());
        let writer = writer::start(Writer {
            link: Link::new(connection, config.clone()),
            queue: Arc::clone(&queue),
            lanes: Arc::clone(&reader.lanes),
            heads: Arc::clone(&reader.heads),
            log_id: reader.log_id(),
            disk_limit_bytes: reader.disk_limit_bytes,
            used: UsedBytes::default(),
            profile: Arc::clone(&profile),
            entry_numbers: EntryNumbers::default(),
            placing: Placing::default(),
            commit_delay: config.commit_delay,
            on_fatal: Arc::clone(&config.on_fatal),
        })
        .map_err(|error| no_thread(&config, &error))?;
        Ok(Self { reader, queue, profile, writer: Some(writer), lease })
    }

    /// Gives the id of the log that this store is about.
    pub fn log_id(&self) -> LogId {
        self.reader.log_id()
    }

    /// Tells what the writing thread did with its time since the store was opened.
    pub fn writer_times(&self) -> WriterTimes {
        self.profile.times()
    }

    /// Gives the lease of the only process, where this one was opened as that.
    pub const fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(writer) = self.writer.take() {
            // A thread that panicked has told so through the fatal hook.
            let _ = writer.join();
        }
    }
}

/// Connects, checks the server, and makes the tables or checks that they are there.
fn prepare(config: &PostgresConfig) -> Result<Connection, OpenError> {
    config.check()?;
    let mut connection = connection::open(config)?;
    connection::check_durable(&mut connection, config)?;
    match config.migrations {
        Migrations::AtOpen => migrate::apply(&mut connection, config)?,
        Migrations::ByOperator => migrate::check(&mut connection, config)?,
    }
    Ok(connection)
}

/// Reads which log the store is about, or decides it.
fn settle(connection: &mut Connection, config: &PostgresConfig) -> Result<LogId, OpenError> {
    let identity = decide(connection, &config.schema, &config.log).map_err(|error| failed(config, error))?;
    match identity {
        Identity::Settled(log_id) => Ok(log_id),
        Identity::Other(stored) => Err(OpenError::OtherLog { stored, wanted: config.log.clone() }),
        Identity::Unknown => Err(OpenError::NoLog),
    }
}

/// Decides in a transaction that other processes wait for.
fn decide(connection: &mut Connection, schema: &str, log: &LogChoice) -> Result<Identity, StoreError> {
    connection.batch_execute("BEGIN").map_err(engine)?;
    take_turns(connection, &format!("identity of {schema}"))?;
    let identity = identity::settle(connection, log)?;
    connection.batch_execute("COMMIT").map_err(engine)?;
    Ok(identity)
}

/// Turns a failure at opening into what an operator can act on.
fn failed(config: &PostgresConfig, error: StoreError) -> OpenError {
    let (store, detail) = (config.name(), error.to_string());
    if error.is_transient() {
        OpenError::Unreachable { store, detail }
    } else {
        OpenError::Refused { store, detail }
    }
}

/// Says that a thread could not be started.
fn no_thread(config: &PostgresConfig, error: &std::io::Error) -> OpenError {
    OpenError::Other { file: config.name().into(), detail: error.to_string() }
}
