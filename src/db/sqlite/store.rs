//! The store as others hold it: opening, closing, and the ports that write.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use horizons_actors::clock::{Clock, SystemClock, Timestamp};
use horizons_actors::command::{Command, Order, ParkedKeyId};
use horizons_actors::effect::{ParkedRecord, Timer, TimerId};
use horizons_actors::ids::{JobId, LaneKey, LogId};
use horizons_actors::ports::Reply;
use horizons_actors::ports::log::LogHeads;
use horizons_actors::ports::store::{
    AppendedAt, CommitError, JobRow, JobStore, JobWrite, JobWritten, LaneCommitted, LaneOpened, LaneOrders,
    LaneStore, LaneTransaction, OrderAnswer, ParkedWish, Progress, StoreError,
};
use horizons_actors::record::OutgoingRecord;
use horizons_actors::state::{StateKey, StateValue};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::audit_append::EntryNumbers;
use super::checkpoint::{self, Stop, WriteAheadLog};
use super::config::SqliteConfig;
use super::connection::{self, ReadPool};
use super::folder::FolderLock;
use super::lanes::{self, Lanes};
use super::profile::{WriterProfile, WriterTimes};
use super::queue::{CommandWork, LaneWork, Queue, QueueLimits};
use super::readers::Readers;
use super::schema::{store_identity, timers};
use super::writer::{self, Writer};
use super::{jobs, parking, source, state};
use crate::db::error::{OpenError, engine};

/// Connections for readers of the log, beside those of the reading threads: one for each consumer group.
const LOG_READERS: usize = 5;

/// Stands for a lane that was never opened: numbers start at 1.
const NO_LANE: i64 = 0;

/// Most rows that one call reads, whatever is asked for.
pub(super) const ROWS_MAX: usize = 10_000;

/// Gives a limit as SQL takes it.
pub(super) fn limit(wanted: usize) -> i64 {
    i64::try_from(wanted.min(ROWS_MAX)).unwrap_or(i64::MAX)
}

/// The reading side of a store.
pub struct SqliteReader {
    pub(super) pool: ReadPool,
    /// Reads of lanes.
    pub(super) for_lanes: Readers,
    /// Reads of people, on threads of their own so that they cannot hold lanes up.
    pub(super) for_people: Readers,
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
        let log_id = read_identity(&mut connection)
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
        heads.advance(source::ends(connection).map_err(failed)?);
        let connections = config.readers * 2 + LOG_READERS;
        let pool = connection::read_pool(&file, u32::try_from(connections).unwrap_or(u32::MAX))?;
        let threads = |name| {
            Readers::start(name, &pool, config.readers, config.read_queue)
                .map_err(|source| OpenError::Folder { folder: config.folder.clone(), source })
        };
        Ok(Self {
            for_lanes: threads("store-load")?,
            for_people: threads("store-query")?,
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
    queue: Arc<Queue>,
    stop: Arc<Stop>,
    profile: Arc<WriterProfile>,
    threads: Vec<JoinHandle<()>>,
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
        let lock = FolderLock::take(&config.folder)?;
        let file = connection::database_file(&config.folder);
        let mut connection = connection::open_writer(&config)?;
        let log_id =
            identity(&mut connection).map_err(|error| connection::open_error(&file, error.to_string()))?;
        let reader = SqliteReader::start(&config, &mut connection, log_id)?;
        let entry_numbers = EntryNumbers::load(&mut connection)
            .map_err(|error| connection::open_error(&file, error.to_string()))?;
        let queue = Arc::new(Queue::new(QueueLimits {
            commands: config.command_queue,
            lanes: config.batch_queue,
            commands_per_commit: config.commands_per_commit,
        }));
        let wal = Arc::new(WriteAheadLog::new(&file, config.wal_limit_bytes));
        let stop = Arc::new(Stop::default());
        let no_thread = |source| OpenError::Folder { folder: config.folder.clone(), source };
        let checkpointer = checkpoint::start(
            connection::open_checkpointer(&file)?,
            Arc::clone(&wal),
            config.checkpoint_interval,
            Arc::clone(&stop),
            Arc::clone(&config.on_fatal),
        )
        .map_err(no_thread)?;
        let profile = Arc::new(WriterProfile::default());
        let writer = writer::start(Writer {
            connection,
            queue: Arc::clone(&queue),
            lanes: Arc::clone(&reader.lanes),
            heads: Arc::clone(&reader.heads),
            log_id: reader.log_id(),
            disk_limit_bytes: config.disk_limit_bytes,
            wal,
            profile: Arc::clone(&profile),
            entry_numbers,
            commit_delay: config.commit_delay,
            on_fatal: Arc::clone(&config.on_fatal),
        })
        .map_err(no_thread)?;
        Ok(Self { reader, queue, stop, profile, threads: vec![writer, checkpointer], _lock: lock })
    }

    /// Gives the id of the embedded log that lives in this store.
    pub fn log_id(&self) -> LogId {
        self.reader.log_id()
    }

    /// Tells what the writing thread did with its time since the store was opened.
    pub fn writer_times(&self) -> WriterTimes {
        self.profile.times()
    }

    /// Queues a command and gives its answer.
    fn command<T: Send + 'static>(
        &self,
        work: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> CommandWork,
    ) -> Reply<T, StoreError> {
        let (answer, receiver) = oneshot::channel();
        match self.queue.push_command(work(answer)) {
            Ok(()) => Box::pin(async move { receiver.await.unwrap_or_else(|_| Err(away())) }),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    /// Queues work of a lane and gives its answer.
    fn lane<T: Send + 'static>(
        &self,
        work: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> LaneWork,
    ) -> Reply<T, StoreError> {
        let (answer, receiver) = oneshot::channel();
        match self.queue.push_lane(work(answer)) {
            Ok(()) => Box::pin(async move { receiver.await.unwrap_or_else(|_| Err(away())) }),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.queue.close();
        self.stop.set();
        for thread in self.threads.drain(..) {
            // A thread that panicked has told so through the fatal hook.
            let _ = thread.join();
        }
    }
}

/// What is answered when the writer ended before it answered.
fn away() -> StoreError {
    StoreError::Unavailable("the store ended before it answered".to_owned())
}

/// Reads who the store is.
fn read_identity(connection: &mut SqliteConnection) -> Result<Option<LogId>, StoreError> {
    let text: Option<String> =
        store_identity::table.select(store_identity::log_id).first(connection).optional().map_err(engine)?;
    text.map(|text| state::parsed("log id", &text, LogId::parse)).transpose()
}

/// Reads who the store is, or decides it. Takes the write lock either way, which a read-only file refuses.
fn identity(connection: &mut SqliteConnection) -> Result<LogId, StoreError> {
    connection.batch_execute("BEGIN IMMEDIATE").map_err(engine)?;
    let log_id = match read_identity(connection)? {
        Some(log_id) => log_id,
        None => {
            let made = Uuid::new_v4().to_string();
            diesel::insert_into(store_identity::table)
                .values((
                    store_identity::one.eq(1),
                    store_identity::log_id.eq(&made),
                    store_identity::created_at.eq(SystemClock.now().as_micros()),
                ))
                .execute(connection)
                .map_err(engine)?;
            state::parsed("log id", &made, LogId::parse)?
        }
    };
    connection.batch_execute("COMMIT").map_err(engine)?;
    Ok(log_id)
}

impl LaneStore for SqliteStore {
    fn open_lane(&self, lane: LaneKey) -> Reply<LaneOpened, StoreError> {
        self.lane(|answer| LaneWork::Open { lane, answer })
    }

    fn read_progress(&self, lane: LaneKey) -> Reply<Option<Progress>, StoreError> {
        self.lane(|answer| LaneWork::ReadProgress { lane, answer })
    }

    fn read_orders(&self, lane: LaneKey) -> Reply<LaneOrders, StoreError> {
        let lanes = Arc::clone(&self.reader.lanes);
        self.reader.for_lanes.ask(move |connection| match lanes.number(&lane) {
            Some(number) => lanes::read_orders(connection, number),
            None => Ok(LaneOrders { parked: Vec::new(), desired: Default::default() }),
        })
    }

    fn load(&self, lane: LaneKey, keys: Vec<StateKey>) -> Reply<Vec<(StateKey, StateValue)>, StoreError> {
        let lanes = Arc::clone(&self.reader.lanes);
        self.reader.for_lanes.ask(move |connection| {
            let number = lanes.number(&lane).unwrap_or(NO_LANE);
            // One snapshot for all keys.
            connection
                .transaction(|connection| {
                    let mut rows = Vec::with_capacity(keys.len());
                    for key in keys {
                        if let Some(value) = state::load(connection, number, &key)? {
                            rows.push((key, value));
                        }
                    }
                    Ok::<_, ReadError>(rows)
                })
                .map_err(ReadError::into_store_error)
        })
    }

    fn load_due_timers(
        &self,
        lane: LaneKey,
        until: Timestamp,
        wanted: usize,
    ) -> Reply<Vec<Timer>, StoreError> {
        let lanes = Arc::clone(&self.reader.lanes);
        self.reader.for_lanes.ask(move |connection| {
            let Some(number) = lanes.number(&lane) else { return Ok(Vec::new()) };
            let rows: Vec<(String, String, i64)> = timers::table
                .filter(timers::lane.eq(number))
                .filter(timers::due_at.le(until.as_micros()))
                .order((timers::due_at, timers::kind, timers::key))
                .limit(limit(wanted))
                .select((timers::kind, timers::key, timers::due_at))
                .load(connection)
                .map_err(engine)?;
            Ok(rows
                .into_iter()
                .map(|(kind, key, due_at)| Timer {
                    id: TimerId { kind, key },
                    due_at: Timestamp::from_micros(due_at),
                })
                .collect())
        })
    }

    fn load_parked(&self, key: ParkedKeyId, wanted: usize) -> Reply<Vec<ParkedRecord>, StoreError> {
        let lanes = Arc::clone(&self.reader.lanes);
        self.reader.for_lanes.ask(move |connection| match lanes.number(&key.lane) {
            Some(number) => parking::load(connection, number, &key, wanted.min(ROWS_MAX)),
            None => Ok(Vec::new()),
        })
    }

    fn commit(&self, transaction: LaneTransaction) -> Reply<LaneCommitted, CommitError> {
        let (answer, receiver) = oneshot::channel();
        match self.queue.push_lane(LaneWork::Commit { transaction: Box::new(transaction), answer }) {
            Ok(()) => Box::pin(async move {
                receiver.await.unwrap_or_else(|_| Err(CommitError::Unknown(away().to_string())))
            }),
            Err(error) => Box::pin(std::future::ready(Err(CommitError::Store(error)))),
        }
    }
}

/// An error inside a reading transaction.
enum ReadError {
    /// Of the store.
    Store(StoreError),
    /// Of diesel's own transaction statements.
    Engine(diesel::result::Error),
}

impl ReadError {
    fn into_store_error(self) -> StoreError {
        match self {
            ReadError::Store(error) => error,
            ReadError::Engine(error) => engine(error),
        }
    }
}

impl From<diesel::result::Error> for ReadError {
    fn from(error: diesel::result::Error) -> Self {
        ReadError::Engine(error)
    }
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        ReadError::Store(error)
    }
}

impl JobStore for SqliteStore {
    fn write_job(&self, write: JobWrite) -> Reply<JobWritten, StoreError> {
        self.command(|answer| CommandWork::WriteJob { write: Box::new(write), answer })
    }

    fn read_job(&self, job_id: JobId) -> Reply<Option<JobRow>, StoreError> {
        self.reader.for_lanes.ask(move |connection| jobs::read(connection, &job_id))
    }

    fn live_jobs(&self, after: Option<JobId>, wanted: usize) -> Reply<Vec<JobRow>, StoreError> {
        self.reader.for_lanes.ask(move |connection| jobs::live(connection, after.as_ref(), limit(wanted)))
    }

    fn open_orders(&self, wanted: usize) -> Reply<Vec<Order>, StoreError> {
        self.reader.for_lanes.ask(move |connection| jobs::open_orders(connection, limit(wanted)))
    }

    fn answer_order(&self, order: Order, reply: OrderAnswer) -> Reply<(), StoreError> {
        self.command(|answer| CommandWork::AnswerOrder { order, reply, answer })
    }

    fn append_records(
        &self,
        records: Vec<OutgoingRecord>,
        audit: Vec<OutgoingRecord>,
    ) -> Reply<Vec<AppendedAt>, StoreError> {
        self.command(|answer| CommandWork::AppendRecords { records, audit, answer })
    }

    fn set_parked_wish(
        &self,
        command: Command,
        key: ParkedKeyId,
        wish: ParkedWish,
        audit: OutgoingRecord,
    ) -> Reply<bool, StoreError> {
        self.command(|answer| CommandWork::SetParkedWish {
            command: Box::new(command),
            key,
            wish,
            audit,
            answer,
        })
    }
}
