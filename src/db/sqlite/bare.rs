//! The bare insert: what this machine's SQLite takes when nothing is done but inserting, as a limit to
//! compare a real consumer with (`benches/README.md`).
//!
//! Promises the settings of the store's own writing connection and the rows and bytes of an audited record
//! (an entry and a body), committed and synced every so many records while another thread moves the log into
//! the file. Its tables have no triggers, no checks and no rules of type; nothing is hashed, decoded or
//! fenced.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use diesel::sqlite::SqliteConnection;
use horizons_actors::ids::{LogTopic, Offset, TopicPartition};
use horizons_actors::ports::store::StoreError;
use horizons_actors::record::LogRecord;

use super::checkpoint::{self, WriteAheadLog};
use super::config::SqliteConfig;
use super::connection;
use super::engine::insert_rows;
use super::folder::FolderLock;
use super::key;
use super::records::{Blob, Digest, blob};
use crate::db::bare_tables::{bare_bodies, bare_entries};
use crate::db::error::{OpenError, engine};
use crate::periodic::Periodic;
use crate::private::Access;

const TABLES: &str = "
    CREATE TABLE bare_entries (entry INTEGER PRIMARY KEY, record_offset, leaf_hash, chain_hash, mark, appended_at);
    CREATE TABLE bare_bodies (entry INTEGER PRIMARY KEY, recorded_at, time_type, key, headers, payload);";

/// Stands where an entry has hashes: the same bytes, without the work.
const HASH: Digest = Digest([0xA5; 32]);

/// Stands where an entry has its time.
const APPENDED_AT: i64 = 1_700_000_000_000_000;

/// The mark of nearly every entry.
const MARK: &str = "event";

#[derive(Insertable)]
#[diesel(table_name = bare_entries, treat_none_as_default_value = false)]
struct EntryRow {
    entry: i64,
    record_offset: i64,
    leaf_hash: Digest,
    chain_hash: Digest,
    mark: &'static str,
    appended_at: i64,
}

#[derive(Insertable)]
#[diesel(table_name = bare_bodies, treat_none_as_default_value = false)]
struct BodyRow {
    entry: i64,
    recorded_at: i64,
    time_type: i32,
    key: Option<Blob>,
    headers: Blob,
    payload: Option<Blob>,
}

/// A row with one number.
#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

/// A store that only inserts.
pub struct BareInsert {
    connection: SqliteConnection,
    wal: Arc<WriteAheadLog>,
    _checkpointer: Periodic,
    _lock: FolderLock,
}

impl std::fmt::Debug for BareInsert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BareInsert").finish_non_exhaustive()
    }
}

impl BareInsert {
    /// Makes the tables in a folder of their own.
    ///
    /// *Errors*: those of opening a store.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        let config = SqliteConfig::new(folder);
        let lock = FolderLock::take(folder, Access::Owner)?;
        let file = connection::database_file(folder);
        let mut connection = connection::open_writer(&config)?;
        connection.batch_execute(TABLES).map_err(|error| connection::open_error(&file, error.to_string()))?;
        let wal = Arc::new(WriteAheadLog::new(&file, config.wal_limit_bytes));
        let checkpointer = checkpoint::start(
            connection::open_checkpointer(&file)?,
            Arc::clone(&wal),
            config.checkpoint_interval,
            Arc::clone(&config.on_fatal),
        )
        .map_err(|source| OpenError::Folder { folder: folder.to_owned(), source })?;
        Ok(Self { connection, wal, _checkpointer: checkpointer, _lock: lock })
    }

    /// Inserts batches in one commit through cached statements of many rows each; gives the time of inserting
    /// and committing alone.
    pub fn insert(&mut self, batches: &[(TopicPartition, Vec<LogRecord>)]) -> Result<Duration, StoreError> {
        let mut entries = Vec::new();
        let mut bodies = Vec::new();
        for (partition, records) in batches {
            for record in records {
                let entry =
                    key::in_log(LogTopic::Record(partition.topic), partition.partition, record.offset)?;
                entries.push(EntryRow {
                    entry,
                    record_offset: record.offset.0.cast_signed(),
                    leaf_hash: HASH,
                    chain_hash: HASH,
                    mark: MARK,
                    appended_at: APPENDED_AT,
                });
                bodies.push(BodyRow {
                    entry,
                    recorded_at: record.timestamp.as_micros(),
                    time_type: i32::from(record.timestamp_type.code()),
                    key: blob(record.key.as_ref()),
                    headers: Blob(record.headers.as_block().clone()),
                    payload: blob(record.payload.as_ref()),
                });
            }
        }
        let start = Instant::now();
        self.connection.batch_execute("BEGIN IMMEDIATE").map_err(engine)?;
        insert_rows!(&mut self.connection, bare_entries::table, entries);
        insert_rows!(&mut self.connection, bare_bodies::table, bodies);
        self.connection.batch_execute("COMMIT").map_err(engine)?;
        let taken = start.elapsed();
        self.wal.written();
        self.wal.begin_anew(&mut self.connection).map_err(engine)?;
        Ok(taken)
    }

    /// Attaches the store of another folder as the source of [`BareInsert::copy`].
    pub fn attach(&mut self, folder: &Path) -> Result<(), StoreError> {
        diesel::sql_query("ATTACH ? AS source")
            .bind::<diesel::sql_types::Text, _>(connection::read_uri(folder))
            .execute(&mut self.connection)
            .map(|_| ())
            .map_err(engine)
    }

    /// Inserts ranges of the attached log in one commit by two statements of the engine a range, without a
    /// value that passes through us; gives the time of all of it.
    pub fn copy(&mut self, ranges: &[(TopicPartition, Offset, Offset)]) -> Result<Duration, StoreError> {
        let start = Instant::now();
        self.connection.batch_execute("BEGIN IMMEDIATE").map_err(engine)?;
        for (partition, first, last) in ranges {
            let at = |offset| key::in_log(LogTopic::Record(partition.topic), partition.partition, offset);
            let (first, last) = (at(*first)?, at(*last)?);
            for statement in [COPY_ENTRIES, COPY_BODIES] {
                diesel::sql_query(statement)
                    .bind::<BigInt, _>(first)
                    .bind::<BigInt, _>(last)
                    .execute(&mut self.connection)
                    .map_err(engine)?;
            }
        }
        self.connection.batch_execute("COMMIT").map_err(engine)?;
        let taken = start.elapsed();
        self.wal.written();
        self.wal.begin_anew(&mut self.connection).map_err(engine)?;
        Ok(taken)
    }

    /// Counts what stands in both tables.
    pub fn rows(&mut self) -> Result<(u64, u64), StoreError> {
        let mut count = |table: &str| {
            diesel::sql_query(format!("SELECT count(*) AS count FROM {table}"))
                .get_result::<Count>(&mut self.connection)
                .map(|row| row.count.cast_unsigned())
                .map_err(engine)
        };
        Ok((count("bare_entries")?, count("bare_bodies")?))
    }
}

const COPY_ENTRIES: &str = "
    INSERT INTO bare_entries
    SELECT position, position & 1099511627775,
           x'A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5',
           x'A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5A5',
           'event', 1700000000000000
    FROM source.log WHERE position BETWEEN ? AND ?";

const COPY_BODIES: &str = "
    INSERT INTO bare_bodies
    SELECT position, recorded_at, time_type, key, headers, payload
    FROM source.log WHERE position BETWEEN ? AND ?";
