//! The bare COPY: what this server takes when nothing is done but appending, as a limit to compare a real
//! consumer with (`benches/README.md`).
//!
//! Promises the settings of the store's own writing connection and the rows and bytes of an audited record (an
//! entry and a body, each with its primary key), in COPY's binary form, which is made before the clock starts,
//! committed every so many records. Its tables have no triggers, no checks and no references; nothing is
//! hashed, decoded or fenced.

use std::io::Write;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::pg::CopyFormat;
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use horizons_actors::ports::store::StoreError;
use horizons_actors::record::{OutgoingRecord, TimestampType};

use super::config::{PostgresConfig, quoted};
use super::connection;
use super::engine::{Connection, engine};
use crate::db::bare_tables::{bare_bodies, bare_entries};
use crate::db::error::OpenError;

const TABLES: &str = "
    CREATE TABLE bare_entries (entry BIGINT PRIMARY KEY, record_offset BIGINT NOT NULL, leaf_hash BYTEA NOT NULL,
        chain_hash BYTEA NOT NULL, mark TEXT COLLATE \"C\" NOT NULL, appended_at BIGINT NOT NULL);
    CREATE TABLE bare_bodies (entry BIGINT PRIMARY KEY, recorded_at BIGINT NOT NULL, time_type INTEGER NOT NULL,
        key BYTEA, headers BYTEA NOT NULL, payload BYTEA);";

/// Stands where an entry has hashes: the same bytes, without the work.
const HASH: [u8; 32] = [0xA5; 32];

/// Stands where an entry has its time.
const APPENDED_AT: i64 = 1_700_000_000_000_000;

/// The mark of nearly every entry.
const MARK: &[u8] = b"event";

/// What binary COPY data begins with: the signature, no flags, no extension.
///
/// *Source*: PostgreSQL documentation, COPY, binary format.
const COPY_BEGIN: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// What binary COPY data ends with.
const COPY_END: [u8; 2] = (-1_i16).to_be_bytes();

/// The columns of each table.
const COLUMNS: i16 = 6;

/// A row with one number.
#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

/// A store that only copies.
pub struct BareCopy {
    connection: Connection,
    next_entry: i64,
}

impl std::fmt::Debug for BareCopy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BareCopy").finish_non_exhaustive()
    }
}

/// Makes the data of one COPY.
struct CopyData(Vec<u8>);

impl CopyData {
    fn new() -> Self {
        Self(COPY_BEGIN.to_vec())
    }

    fn row(&mut self, columns: [Option<&[u8]>; COLUMNS as usize]) {
        self.0.extend_from_slice(&COLUMNS.to_be_bytes());
        for column in columns {
            let length = column.map_or(-1, |bytes| i32::try_from(bytes.len()).unwrap_or(i32::MAX));
            self.0.extend_from_slice(&length.to_be_bytes());
            self.0.extend_from_slice(column.unwrap_or_default());
        }
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&COPY_END);
        self.0
    }
}

impl BareCopy {
    /// Makes the tables in the configuration's schema, which is made with them.
    ///
    /// *Errors*: those of opening a store.
    pub fn open(config: &PostgresConfig) -> Result<Self, OpenError> {
        let mut connection = connection::open(config)?;
        connection
            .batch_execute(&format!("CREATE SCHEMA {}; {TABLES}", quoted(&config.schema)))
            .map_err(|error| connection::open_error(config, &error))?;
        Ok(Self { connection, next_entry: 1 })
    }

    /// Appends records in one commit; gives the time of copying and committing alone.
    pub fn copy(&mut self, records: &[OutgoingRecord]) -> Result<Duration, StoreError> {
        let (mut entries, mut bodies) = (CopyData::new(), CopyData::new());
        for record in records {
            let number = self.next_entry.to_be_bytes();
            self.next_entry += 1;
            entries.row([
                Some(&number),
                Some(&number),
                Some(&HASH),
                Some(&HASH),
                Some(MARK),
                Some(&APPENDED_AT.to_be_bytes()),
            ]);
            bodies.row([
                Some(&number),
                Some(&record.timestamp.as_micros().to_be_bytes()),
                Some(&i32::from(TimestampType::CreateTime.code()).to_be_bytes()),
                record.key.as_deref(),
                Some(record.headers.as_block()),
                record.payload.as_deref(),
            ]);
        }
        let (entries, bodies) = (entries.end(), bodies.end());
        let written = |out: &mut dyn Write, data: &[u8]| {
            out.write_all(data).map_err(|error| diesel::result::Error::SerializationError(Box::new(error)))
        };
        let start = Instant::now();
        self.connection.batch_execute("BEGIN").map_err(engine)?;
        diesel::copy_from(bare_entries::table)
            .from_raw_data(bare_entries::table, |out| written(out, &entries))
            .with_format(CopyFormat::Binary)
            .execute(&mut self.connection)
            .map_err(engine)?;
        diesel::copy_from(bare_bodies::table)
            .from_raw_data(bare_bodies::table, |out| written(out, &bodies))
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

/// Has the server write out what it holds, so that nobody pays for what was written before; a role that may
/// not is told nothing.
pub fn checkpoint(config: &PostgresConfig) -> Result<(), OpenError> {
    let mut connection = connection::open(config)?;
    if let Err(error) = connection.batch_execute("SET statement_timeout = 0; CHECKPOINT") {
        tracing::debug!(%error, "the role may not make a checkpoint");
    }
    Ok(())
}
