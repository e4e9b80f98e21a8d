//! What the shared code asks of PostgreSQL.
//!
//! Promises the names that every engine's folder has: the connection, how a transaction begins and ends, how
//! rows are written in bulk, and what a failure means.

use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, Pool};
use diesel::sql_types::{Array, BigInt, Text};
use horizons_actors::effect::TimerId;
use horizons_actors::ports::store::StoreError;

use super::errors::{Fault, fault_of};
use super::fixed::Fixed;
use super::lease;
use super::schema::live_job_views;
use crate::db::outcome::RoundError;
use crate::db::words::WordsRef;

pub(super) use super::connection::used_bytes;
pub(super) use super::errors::store_error;
pub(super) use super::heads::take_offsets;
pub(super) use super::progress::advance;
pub(super) use super::scan::SCAN;

/// The engine.
pub(super) type Backend = diesel::pg::Pg;

/// A connection to it.
pub(super) type Connection = diesel::pg::PgConnection;

/// Connections that only read.
pub(super) type ReadPool = Pool<ConnectionManager<Connection>>;

/// How long what the database takes is believed: the server looks at each of its files to tell.
pub(super) const USED_BYTES_FRESH: Duration = Duration::from_secs(1);

/// Whether other processes may write here too.
pub(super) const IS_SHARED: bool = true;

/// Rows of one statement that reads the log: all of them are in memory at once.
pub(super) const READ_ROWS: usize = 128;

/// From so many rows on, COPY is faster than an insert of many rows.
pub(super) const COPY_ROWS: usize = 8;

/// Rows of one upsert; the rest is written by single ones. Each size is its own prepared statement.
pub(super) const UPSERT_ROWS: usize = 16;

/// Inserts a list of rows: a few by one statement, many by COPY in its binary form.
macro_rules! insert_rows {
    ($connection:expr, $table:expr, $rows:expr) => {{
        let rows = $rows;
        if rows.len() >= $crate::db::postgres::engine::COPY_ROWS {
            diesel::copy_from($table)
                .from_insertable(rows)
                .execute($connection)
                .map_err($crate::db::postgres::engine::engine)?;
        } else if !rows.is_empty() {
            $crate::db::postgres::fixed::Fixed(diesel::insert_into($table).values(rows))
                .execute($connection)
                .map_err($crate::db::postgres::engine::engine)?;
        }
    }};
}
pub(super) use insert_rows;

/// Inserts rows that borrow what they hold, as [`insert_rows`] does.
macro_rules! insert_borrowed {
    ($connection:expr, $table:expr, $rows:expr) => {
        $crate::db::postgres::engine::insert_rows!($connection, $table, $rows)
    };
}
pub(super) use insert_borrowed;

/// Inserts a list of rows; one with the same key is replaced. No key comes twice.
macro_rules! replace_rows {
    ($connection:expr, $table:expr, $rows:expr, key: $key:tt, set: [$($column:path),+ $(,)?]) => {{
        let (many, rest) = $rows.as_chunks::<{ $crate::db::postgres::engine::UPSERT_ROWS }>();
        for rows in many {
            let rows: &[_] = rows;
            let upsert = diesel::insert_into($table)
                .values(rows)
                .on_conflict($key)
                .do_update()
                .set(($($column.eq(diesel::upsert::excluded($column)),)+));
            $crate::db::postgres::fixed::Fixed(upsert)
                .execute($connection)
                .map_err($crate::db::postgres::engine::engine)?;
        }
        for row in rest {
            let upsert = diesel::insert_into($table)
                .values(row)
                .on_conflict($key)
                .do_update()
                .set(($($column.eq(diesel::upsert::excluded($column)),)+));
            $crate::db::postgres::fixed::Fixed(upsert)
                .execute($connection)
                .map_err($crate::db::postgres::engine::engine)?;
        }
    }};
}
pub(super) use replace_rows;

/// Inserts a row unless one with the same key is there; gives how many were inserted.
macro_rules! insert_or_ignore {
    ($connection:expr, $table:expr, $values:expr) => {
        diesel::insert_into($table)
            .values($values)
            .on_conflict_do_nothing()
            .execute($connection)
            .map_err($crate::db::postgres::engine::engine)?
    };
}
pub(super) use insert_or_ignore;

/// Inserts those rows of a list whose key is not there.
macro_rules! insert_or_ignore_rows {
    ($connection:expr, $table:expr, $rows:expr) => {
        for rows in $rows.chunks($crate::db::postgres::engine::UPSERT_ROWS) {
            let insert = diesel::insert_into($table).values(rows).on_conflict_do_nothing();
            $crate::db::postgres::fixed::Fixed(insert)
                .execute($connection)
                .map_err($crate::db::postgres::engine::engine)?;
        }
    };
}
pub(super) use insert_or_ignore_rows;

/// Makes a query wait for whoever is writing its row.
macro_rules! lock_row {
    ($query:expr) => {
        $query.for_update()
    };
}
pub(super) use lock_row;

/// Turns a failure into the port's error, for `map_err`.
pub(super) fn engine(error: diesel::result::Error) -> StoreError {
    store_error(&error)
}

/// Keeps a statement for the connection's life, whose text is always the same.
pub(super) const fn prepared<S>(statement: S) -> Fixed<S> {
    Fixed(statement)
}

/// Begins a transaction that writes.
pub(super) fn begin(connection: &mut Connection) -> Result<(), StoreError> {
    connection.batch_execute("BEGIN").map_err(engine)
}

/// Makes a transaction durable. Only an answer tells: without one, the server may have done it or not.
pub(super) fn commit(connection: &mut Connection) -> Result<(), RoundError> {
    let Err(error) = connection.batch_execute("COMMIT") else { return Ok(()) };
    if fault_of(&error) != Fault::Cut && connection.batch_execute("ROLLBACK").is_ok() {
        // The server refused and still answers: the transaction is over, without a trace.
        return Err(RoundError::RolledBack(store_error(&error)));
    }
    Err(RoundError::Unknown(error.to_string()))
}

/// Ends a transaction without a trace. Where the connection is gone, the server does so by itself.
pub(super) fn roll_back(connection: &mut Connection) {
    if let Err(error) = connection.batch_execute("ROLLBACK") {
        tracing::debug!(%error, "connection was gone before its transaction was rolled back");
    }
}

/// Makes whoever names the same thing wait until this transaction ends: two processes may be asked the same.
pub(super) fn take_turns(connection: &mut Connection, name: &str) -> Result<(), StoreError> {
    diesel::sql_query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))")
        .bind::<Text, _>(WordsRef(name))
        .execute(connection)
        .map(|_| ())
        .map_err(engine)
}

/// Ends a transaction that has read.
pub(super) fn end_snapshot(connection: &mut Connection) -> Result<(), StoreError> {
    connection.batch_execute("COMMIT").map_err(engine)
}

/// Begins a transaction that reads one state of the database.
pub(super) fn begin_snapshot(connection: &mut Connection) -> Result<(), StoreError> {
    connection.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").map_err(engine)
}

/// Removes timers of a lane.
pub(super) fn clear_timers(connection: &mut Connection, lane: i64, all: &[TimerId]) -> QueryResult<()> {
    if all.is_empty() {
        return Ok(());
    }
    let (kinds, keys): (Vec<_>, Vec<_>) =
        all.iter().map(|id| (WordsRef(&id.kind), WordsRef(&id.key))).unzip();
    let delete = diesel::sql_query(
        "DELETE FROM timers AS t USING unnest($2, $3) AS c (kind, key)
         WHERE t.lane = $1 AND t.kind = c.kind AND t.key = c.key",
    )
    .bind::<BigInt, _>(lane)
    .bind::<Array<Text>, _>(kinds)
    .bind::<Array<Text>, _>(keys);
    Fixed(delete).execute(connection).map(|_| ())
}

/// Removes jobs from the list of those that live.
pub(super) fn clear_live(connection: &mut Connection, lane: i64, jobs: &[&str]) -> QueryResult<()> {
    if jobs.is_empty() {
        return Ok(());
    }
    diesel::delete(
        live_job_views::table
            .filter(live_job_views::job_id.eq_any(jobs))
            .filter(live_job_views::lane.eq(lane)),
    )
    .execute(connection)
    .map(|_| ())
}

/// The lease of the relay.
const RELAY_LEASE: &str = "relay";

/// Takes the lease of the relay, unless another has it; gives its epoch.
pub(super) fn take_relay_lease(
    connection: &mut Connection,
    holder: &str,
    duration: Duration,
) -> Result<Option<i64>, StoreError> {
    let holder = lease::holder_text(holder)?;
    Ok(lease::try_take(connection, duration, RELAY_LEASE, &holder)?.ok())
}

/// Prolongs the lease of the relay; false when it is another's.
pub(super) fn renew_relay_lease(
    connection: &mut Connection,
    holder: &str,
    epoch: i64,
    duration: Duration,
) -> Result<bool, StoreError> {
    lease::renew(connection, RELAY_LEASE, &lease::holder_text(holder)?, epoch, duration)
}

/// Gives the lease of the relay back.
pub(super) fn release_relay_lease(
    connection: &mut Connection,
    holder: &str,
    epoch: i64,
) -> Result<(), StoreError> {
    lease::give_back(connection, RELAY_LEASE, &lease::holder_text(holder)?, epoch)
}
