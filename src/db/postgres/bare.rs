//! The bare COPY: what this machine's PostgreSQL takes when nothing is done but copying, as a limit to compare
//! a real consumer with (`benches/README.md`).
//!
//! Promises the settings of the store's own writing connection and the rows and bytes of an audited record (an
//! entry and a body), sent by COPY in its binary form and committed every so many records. Its tables have no
//! triggers and no checks; nothing is hashed, decoded or fenced.

use std::io::Write;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::pg::CopyFormat;
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use horizons_actors::ids::{LogTopic, TopicPartition};
use horizons_actors::ports::store::StoreError;
use horizons_actors::record::LogRecord;

use super::config::{PostgresConfig, quoted};
use super::connection::{self, open_error};
use super::engine::{Connection, engine};
use super::key;
use crate::db::error::OpenError;

diesel::table! {
    bare_entries (entry) {
        entry -> BigInt,
        record_offset -> BigInt,
        leaf_hash -> Binary,
        chain_hash -> Binary,
        mark -> Text,
        appended_at -> BigInt,
    }
}

diesel::table! {
    bare_bodies (entry) {
        entry -> BigInt,
        recorded_at -> BigInt,
        time_type -> Integer,
        key -> Nullable<Binary>,
        headers -> Binary,
        payload -> Nullable<Binary>,
    }
}

const TABLES: &str = "
    CREATE TABLE bare_entries (
        entry BIGINT PRIMARY KEY, record_offset BIGINT, leaf_hash BYTEA, chain_hash BYTEA, mark TEXT, appended_at BIGINT
    );
    CREATE TABLE bare_bodies (
        entry BIGINT PRIMARY KEY, recorded_at BIGINT, time_type INTEGER, key BYTEA, headers BYTEA, payload BYTEA
    );";

/// Stands where an entry has hashes: the same bytes, without the work.
const HASH: [u8; 32] = [0xA5; 32];

/// Stands where an entry has its time.
const APPENDED_AT: i64 = 1_700_000_000_000_000;

/// The mark of nearly every entry.
const MARK: &str = "event";

/// What begins a binary COPY: the signature, no flags, no extension.
const COPY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// What ends it, where the count of a row's fields would stand.
const COPY_TRAILER: i16 = -1;

/// The length of a null.
const NULL_LENGTH: i32 = -1;

/// Fields of a row of either table.
const FIELDS: i16 = 6;

/// A row with one number.
#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

/// A store that only copies.
pub struct BareCopy {
    connection: Connection,
}

impl std::fmt::Debug for BareCopy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BareCopy").finish_non_exhaustive()
    }
}

/// Rows in the binary form of COPY.
struct Rows(Vec<u8>);

impl Rows {
    fn new() -> Self {
        Self(COPY_HEADER.to_vec())
    }

    fn begin(&mut self) {
        self.0.extend_from_slice(&FIELDS.to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let length = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(bytes);
    }

    fn bytes_or_null(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bytes(bytes),
            None => self.0.extend_from_slice(&NULL_LENGTH.to_be_bytes()),
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&COPY_TRAILER.to_be_bytes());
        self.0
    }
}

impl BareCopy {
    /// Makes the tables, in a schema of their own that must not be there.
    ///
    /// *Errors*: those of opening a store.
    pub fn open(config: &PostgresConfig) -> Result<Self, OpenError> {
        config.check()?;
        let mut connection = connection::open(config)?;
        connection::check_durable(&mut connection, config)?;
        connection
            .batch_execute(&format!("CREATE SCHEMA {};{TABLES}", quoted(&config.schema)))
            .map_err(|error| open_error(config, &error))?;
        Ok(Self { connection })
    }

    /// Copies batches in one commit; gives the time of writing the rows down, sending and committing them.
    pub fn insert(&mut self, batches: &[(TopicPartition, Vec<LogRecord>)]) -> Result<Duration, StoreError> {
        let start = Instant::now();
        let (mut entries, mut bodies) = (Rows::new(), Rows::new());
        for (partition, records) in batches {
            for record in records {
                let entry =
                    key::in_log(LogTopic::Record(partition.topic), partition.partition, record.offset)?;
                entries.begin();
                entries.bytes(&entry.to_be_bytes());
                entries.bytes(&record.offset.0.to_be_bytes());
                entries.bytes(&HASH);
                entries.bytes(&HASH);
                entries.bytes(MARK.as_bytes());
                entries.bytes(&APPENDED_AT.to_be_bytes());
                bodies.begin();
                bodies.bytes(&entry.to_be_bytes());
                bodies.bytes(&record.timestamp.as_micros().to_be_bytes());
                bodies.bytes(&i32::from(record.timestamp_type.code()).to_be_bytes());
                bodies.bytes_or_null(record.key.as_deref());
                bodies.bytes(record.headers.as_block());
                bodies.bytes_or_null(record.payload.as_deref());
            }
        }
        let (entries, bodies) = (entries.finish(), bodies.finish());
        self.connection.batch_execute("BEGIN").map_err(engine)?;
        diesel::copy_from(bare_entries::table)
            .from_raw_data(bare_entries::table, |to| send(to, &entries))
            .with_format(CopyFormat::Binary)
            .execute(&mut self.connection)
            .map_err(engine)?;
        diesel::copy_from(bare_bodies::table)
            .from_raw_data(bare_bodies::table, |to| send(to, &bodies))
            .with_format(CopyFormat::Binary)
            .execute(&mut self.connection)
            .map_err(engine)?;
        self.connection.batch_execute("COMMIT").map_err(engine)?;
        Ok(start.elapsed())
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

fn send(to: &mut dyn Write, bytes: &[u8]) -> QueryResult<()> {
    to.write_all(bytes).map_err(|error| diesel::result::Error::SerializationError(Box::new(error)))
}
