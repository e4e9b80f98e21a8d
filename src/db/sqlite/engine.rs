//! What the shared code asks of SQLite.
//!
//! Promises the names that every engine's folder has: the connection, how a transaction begins and ends, how
//! rows are written in bulk, and what a failure means.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, Pool};
use horizons_actors::ports::store::{LaneTransaction, StoreError};

use super::lanes::Ownership;
use super::round::RoundError;
use super::schema::progress;
use crate::db::error::{Fault, fault_of, store_error};

pub(super) use super::connection::used_bytes;
pub(super) use crate::db::error::engine;

/// The engine.
pub(super) type Backend = diesel::sqlite::Sqlite;

/// A connection to it.
pub(super) type Connection = diesel::sqlite::SqliteConnection;

/// Connections that only read.
pub(super) type ReadPool = Pool<ConnectionManager<Connection>>;

/// Rows of one large statement. Each size is its own prepared statement, kept for the connection's life:
/// enough rows to make a statement's fixed cost small, few enough to stay far below SQLite's limit of
/// variables.
pub(super) const ROWS_LARGE: usize = 64;

/// Rows of one medium statement, for what is left of the large ones.
pub(super) const ROWS_MEDIUM: usize = 8;

/// Inserts a slice of rows through cached statements of fixed sizes.
///
/// *Source*: measurement: a statement over a vector is prepared
/// anew each time, one over an array is cached by its type. Audit rows and bodies so written, against a
/// loop over bare prepared statements (release build, seven rounds on a busy machine, median and extremes): 0.89
/// (0.84 to 1.90) at 100 rows a commit, 0.78 (0.34 to 0.83) at 1000. The extremes are other programs' load. One
/// row a statement, five rounds: 0.70 and 0.53. A function cannot be written without repeating
/// diesel's bounds for each of the three sizes.
macro_rules! insert_rows {
    ($connection:expr, $table:expr, $rows:expr) => {{
        let (large, rest) = $rows.as_chunks::<{ $crate::db::sqlite::engine::ROWS_LARGE }>();
        for chunk in large {
            diesel::insert_into($table)
                .values(chunk)
                .execute($connection)
                .map_err($crate::db::sqlite::engine::engine)?;
        }
        let (medium, rest) = rest.as_chunks::<{ $crate::db::sqlite::engine::ROWS_MEDIUM }>();
        for chunk in medium {
            diesel::insert_into($table)
                .values(chunk)
                .execute($connection)
                .map_err($crate::db::sqlite::engine::engine)?;
        }
        for row in rest {
            diesel::insert_into($table)
                .values(row)
                .execute($connection)
                .map_err($crate::db::sqlite::engine::engine)?;
        }
    }};
}
pub(super) use insert_rows;

/// Inserts rows one by one; one with the same key is replaced.
///
/// `key` and `set` are for engines that must be told what to do with the row that is there.
macro_rules! replace_rows {
    ($connection:expr, $table:expr, $rows:expr, key: $key:expr, set: $set:expr) => {
        for row in $rows {
            diesel::replace_into($table)
                .values(row)
                .execute($connection)
                .map_err($crate::db::sqlite::engine::engine)?;
        }
    };
}
pub(super) use replace_rows;

/// Inserts a row unless one with the same key is there; gives how many were inserted.
macro_rules! insert_or_ignore {
    ($connection:expr, $table:expr, $values:expr) => {
        diesel::insert_or_ignore_into($table)
            .values($values)
            .execute($connection)
            .map_err($crate::db::sqlite::engine::engine)?
    };
}
pub(super) use insert_or_ignore;

/// Begins a transaction that writes.
pub(super) fn begin(connection: &mut Connection) -> Result<(), StoreError> {
    connection.batch_execute("BEGIN IMMEDIATE").map_err(engine)
}

/// Makes a transaction durable.
pub(super) fn commit(connection: &mut Connection) -> Result<(), RoundError> {
    let Err(error) = connection.batch_execute("COMMIT") else { return Ok(()) };
    let text = error.to_string();
    let is_rolled_back = connection.batch_execute("ROLLBACK").is_ok();
    Err(match fault_of(&text) {
        Fault::Disk => RoundError::Disk(text),
        _ if is_rolled_back => RoundError::RolledBack(store_error(&error)),
        _ => RoundError::Unknown(text),
    })
}

/// Ends a transaction without a trace.
pub(super) fn roll_back(connection: &mut Connection) {
    // Some failures roll back by themselves; then this answers that no transaction is open, which is as good.
    if let Err(error) = connection.batch_execute("ROLLBACK") {
        tracing::debug!(%error, "transaction was over before it was rolled back");
    }
}

/// Moves the progress of lanes whose fence and position are the stored ones.
pub(super) fn advance(
    connection: &mut Connection,
    transactions: &[(i64, &LaneTransaction)],
) -> Result<Vec<Ownership>, StoreError> {
    transactions.iter().map(|(number, transaction)| advance_one(connection, *number, transaction)).collect()
}

/// Moves the progress of a lane, if its fence and position are the stored ones.
fn advance_one(
    connection: &mut Connection,
    number: i64,
    transaction: &LaneTransaction,
) -> Result<Ownership, StoreError> {
    let from = transaction.from.map(|offset| offset.0.cast_signed());
    let next = transaction.next.0.cast_signed();
    let row = progress::table
        .filter(progress::lane.eq(number))
        .filter(progress::owner_epoch.eq(transaction.fence.epoch.0.cast_signed()))
        .filter(progress::revision.eq(transaction.fence.revision.0.cast_signed()))
        .filter(progress::next_offset.is(from));
    let revision = progress::revision.eq(progress::revision + 1);
    let is_moved = from != Some(next);
    // Four fixed statements instead of one that is built each time: each is prepared once.
    let changed = match (is_moved, transaction.last_fingerprint) {
        (true, Some(print)) => diesel::update(row)
            .set((
                revision,
                progress::next_offset.eq(next),
                progress::starts_at_next.eq(0),
                progress::last_fingerprint.eq(print.as_slice()),
            ))
            .execute(connection),
        (true, None) => diesel::update(row)
            .set((revision, progress::next_offset.eq(next), progress::starts_at_next.eq(0)))
            .execute(connection),
        (false, Some(print)) => diesel::update(row)
            .set((revision, progress::last_fingerprint.eq(print.as_slice())))
            .execute(connection),
        (false, None) => diesel::update(row).set(revision).execute(connection),
    }
    .map_err(engine)?;
    if changed == 0 {
        return Ok(Ownership::Fenced);
    }
    match transaction.from {
        Some(from) if transaction.next < from => Err(StoreError::Broken(format!(
            "lane `{}` wanted to go back from {from} to {}",
            transaction.lane, transaction.next
        ))),
        _ => Ok(Ownership::Owned),
    }
}
