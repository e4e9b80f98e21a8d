//! The store as others hold it: opening and closing; its ports are those of every engine.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use diesel::connection::SimpleConnection;
use diesel::sqlite::SqliteConnection;
use horizons_actors::ids::LogId;
use horizons_actors::ports::log::LogHeads;
use horizons_actors::ports::store::StoreError;

use super::checkpoint::{self, WriteAheadLog};
use super::config::SqliteConfig;
use super::connection;
use super::engine::ReadPool;
use super::folder::FolderLock;
use super::identity::Identity;
use super::lanes::Lanes;
use super::link::Link;
use super::numbers::EntryNumbers;
use super::placing::Placing;
use super::profile::{WriterProfile, WriterTimes};
use super::queue::{Queue, QueueLimits};
use super::readers::Readers;
use super::round::UsedBytes;
use super::writer::{self, Writer};
use super::{identity, source};
use crate::db::error::{OpenError, engine};
use crate::db::log_choice::LogChoice;
use crate::periodic::Periodic;

/// Threads that read for probes.
const PROBE_READERS: usize = 1;

/// Connections for readers of the log, beside those of the reading threads: one for each consumer group.
const LOG_READERS: usize = 5;

/// The reading side of a store, by the name that the shared code knows.
pub(super) type Reader = SqliteReader;

/// The store, by the name that the shared code knows.
pub(super) type Store = SqliteStore;

/// The reading side of a store.
pub struct SqliteReader {
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

impl std::fmt::Debug for SqliteReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteReader").field("log_id", &self.log_id).finish_non_exhaustive()
    }
}

impl SqliteReader {
    /// Opens the store of a folder for reading alone. It takes no lock and may stand beside a server, but what
    /// it knows of lanes and log ends is as of now.
    ///
    /// *Errors*: [`OpenError::Missing`] without a store, [`OpenError::OlderSchema`] when a server of this version
    /// has not opened it yet, and what else opening can meet.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        let file = connection::database_file(folder);
        let mut connection = connection::check_readable(&file)?;
        let config = SqliteConfig::new(folder);
        let log_id = identity::read(&mut connection)
            .map_err(|error| connection::open_error(&file, error.to_string()))?
            .ok_or_else(|| OpenError::OlderSchema { file: file.clone() })?;
        Self::start(&config, &mut connection, log_id)
    }

    /// Reads what is kept in memory and starts the reading threads.
    fn start(
        config: &SqliteConfig,
        connection: &mut SqliteConnection,
        log_id: LogId,
    ) -> Result<Self, OpenError> {
        let file = connection::database_file(&config.folder);
        let failed = |error: StoreError| connection::open_error(&file, error.to_string());
        let lanes = Arc::new(Lanes::load(connection, &log_id).map_err(failed)?);
        let heads = Arc::new(LogHeads::default());
        source::refresh(connection, &heads).map_err(failed)?;
        let connections = config.readers * 2 + PROBE_READERS + LOG_READERS;
        let pool = connection::read_pool(&file, u32::try_from(connections).unwrap_or(u32::MAX))?;
        let threads = |name, threads| {
            Readers::start(name, &pool, threads, config.read_queue)
                .map_err(|source| OpenError::Folder { folder: config.folder.clone(), source })
        };
        Ok(Self {
            for_lanes: threads("store-load", config.readers)?,
            for_people: threads("store-query", config.readers)?,
            for_probes: threads("store-probe", PROBE_READERS)?,
            pool: pool.clone(),
            lanes,
            heads,
            disk_limit_bytes: config.disk_limit_bytes,
            log_id,
        })
    }

    /// Gives the id of the embedded log that lives in this store.
    pub fn log_id(&self) -> LogId {
        self.log_id.clone()
    }
}

/// The embedded store.
///
/// Dropping it writes what is queued, then ends its threads and gives the folder free.
pub struct SqliteStore {
    pub(super) reader: SqliteReader,
    pub(super) queue: Arc<Queue>,
    profile: Arc<WriterProfile>,
    writer: Option<JoinHandle<()>>,
    _checkpointer: Periodic,
    _lock: FolderLock,
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore").field("log_id", &self.reader.log_id).finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens the store of a folder, making it if there is none.
    ///
    /// *Errors*: each variant of [`OpenError`] but those of reading alone; nothing is damaged by any of them.
    pub fn open(config: SqliteConfig) -> Result<Self, OpenError> {
        config.check()?;
        let lock = FolderLock::take(&config.folder, config.access)?;
        let file = connection::database_file(&config.folder);
        let mut connection = connection::open_writer(&config)?;
        let identity = identity(&mut connection, &config.log)
            .map_err(|error| connection::open_error(&file, error.to_string()))?;
        let log_id = match identity {
            Identity::Settled(log_id) => log_id,
            Identity::Other(stored) => {
                return Err(OpenError::OtherLog { stored, wanted: config.log });
            }
            Identity::Unknown => return Err(OpenError::NoLog),
        };
        let reader = SqliteReader::start(&config, &mut connection, log_id)?;
        let entry_numbers = EntryNumbers::load(&mut connection)
            .map_err(|error| connection::open_error(&file, error.to_string()))?;
        let queue = Arc::new(Queue::new(QueueLimits {
            commands: config.command_queue,
            lanes: config.batch_queue,
            commands_per_commit: config.commands_per_commit,
        }));
        let wal = Arc::new(WriteAheadLog::new(&file, config.wal_limit_bytes));
        let no_thread = |source| OpenError::Folder { folder: config.folder.clone(), source };
        let checkpointer = checkpoint::start(
            connection::open_checkpointer(&file)?,
            Arc::clone(&wal),
            config.checkpoint_interval,
            Arc::clone(&config.on_fatal),
        )
        .map_err(no_thread)?;
        let profile = Arc::new(WriterProfile::default());
        let writer = writer::start(Writer {
            link: Link::new(connection, wal),
            queue: Arc::clone(&queue),
            lanes: Arc::clone(&reader.lanes),
            heads: Arc::clone(&reader.heads),
            log_id: reader.log_id(),
            disk_limit_bytes: config.disk_limit_bytes,
            used: UsedBytes::default(),
            profile: Arc::clone(&profile),
            entry_numbers,
            placing: Placing::default(),
            commit_delay: config.commit_delay,
            on_fatal: Arc::clone(&config.on_fatal),
        })
        .map_err(no_thread)?;
        Ok(Self { reader, queue, profile, writer: Some(writer), _checkpointer: checkpointer, _lock: lock })
    }

    /// Gives the id of the embedded log that lives in this store.
    pub fn log_id(&self) -> LogId {
        self.reader.log_id()
    }

    /// Tells what the writing thread did with its time since the store was opened.
    pub fn writer_times(&self) -> WriterTimes {
        self.profile.times()
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(writer) = self.writer.take() {
            // A thread that panicked has told so through the fatal hook.
            let _ = writer.join();
        }
    }
}

/// Reads who the store is, or decides it. Takes the write lock either way, which a read-only file refuses.
fn identity(connection: &mut SqliteConnection, log: &LogChoice) -> Result<Identity, StoreError> {
    connection.batch_execute("BEGIN IMMEDIATE").map_err(engine)?;
    let identity = identity::settle(connection, log)?;
    connection.batch_execute("COMMIT").map_err(engine)?;
    Ok(identity)
}
