//! What the shared code asks of SQLite.
//!
//! Promises the names that every engine's folder has: the connection, how a transaction begins and ends, how
//! rows are written in bulk, and what a failure means.

use std::time::Duration;

use diesel::connection::{DefaultLoadingMode, SimpleConnection};
use diesel::prelude::*;
use diesel::query_dsl::methods::LoadQuery;
use diesel::r2d2::{ConnectionManager, Pool};
use horizons_actors::effect::TimerId;
use horizons_actors::ids::{Epoch, JobId, Sequence};
use horizons_actors::ports::outbox::CursorMove;
use horizons_actors::ports::store::{LaneTransaction, StoreError};
use horizons_actors::state::LifecycleOwner;

use super::lanes::{self, Ownership, Seen};
use super::locks::Wanted;
use super::outbox::{OutboxRange, OutboxRow};
use super::parking::NewParkedRow;
use super::records::{Head, WantedOffsets};
use super::schema::{audit_logs, live_job_views, log_head, outbox_cursors, parked_records, progress, timers};
use super::state::{self, AuditLogRow};
use crate::db::error::{Fault, fault_of, store_error};
use crate::db::outcome::RoundError;
use crate::db::words::WordsRef;

pub(super) use super::connection::used_bytes;
pub(super) use crate::db::error::engine;

/// The engine.
pub(super) type Backend = diesel::sqlite::Sqlite;

/// A connection to it.
pub(super) type Connection = diesel::sqlite::SqliteConnection;

/// Connections that only read.
pub(super) type ReadPool = Pool<ConnectionManager<Connection>>;

/// How long what the database takes is believed: asking costs nothing.
pub(super) const USED_BYTES_FRESH: Duration = Duration::ZERO;

/// Whether other processes may write here too.
pub(super) const IS_SHARED: bool = false;

/// Rows of one statement that reads the log: they are read one by one, up to where reading stops, so it is all that
/// one call may ask for.
pub(super) const READ_ROWS: usize = super::ports::ROWS_MAX;

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

/// Inserts rows that borrow what they hold one by one: the statement for one row is cached, one for many is not.
macro_rules! insert_borrowed {
    ($connection:expr, $table:expr, $rows:expr) => {
        for row in &$rows {
            diesel::insert_into($table)
                .values(row)
                .execute($connection)
                .map_err($crate::db::sqlite::engine::engine)?;
        }
    };
}
pub(super) use insert_borrowed;

/// Inserts rows one by one; one with the same key is replaced.
///
/// `key` and `set` are for engines that must be told what to do with the row that is there.
macro_rules! replace_rows {
    ($connection:expr, $table:expr, $rows:expr, key: $key:expr, set: [$($column:path),+ $(,)?]) => {
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

/// Inserts those rows of a list whose key is not there.
macro_rules! insert_or_ignore_rows {
    ($connection:expr, $table:expr, $rows:expr) => {
        for row in $rows {
            let _ = $crate::db::sqlite::engine::insert_or_ignore!($connection, $table, row);
        }
    };
}
pub(super) use insert_or_ignore_rows;

/// Tells whether a row has a key.
macro_rules! is_key {
    ($column:expr, $key:expr) => {
        $column.eq($key)
    };
}
pub(super) use is_key;

/// Inserts records that wait; tells of each whether it is new.
pub(super) fn insert_parked(
    connection: &mut Connection,
    rows: &[NewParkedRow],
) -> Result<Vec<bool>, StoreError> {
    let mut insert = |row: &NewParkedRow| Ok(insert_or_ignore!(connection, parked_records::table, row) == 1);
    rows.iter().map(&mut insert).collect()
}

/// Removes records that wait behind a key; gives how many.
pub(super) fn remove_parked(
    connection: &mut Connection,
    lane: i64,
    key: &[u8],
    offsets: &[i64],
) -> Result<i64, StoreError> {
    let mut removed = 0;
    for offset in offsets {
        let row = parked_records::table
            .filter(parked_records::lane.eq(lane))
            .filter(parked_records::key.eq(key))
            .filter(parked_records::record_offset.eq(offset));
        removed += i64::from(diesel::delete(row).execute(connection).map_err(engine)? == 1);
    }
    Ok(removed)
}

/// Makes a query wait for whoever is writing its row; one writes here, in turn with this.
macro_rules! lock_row {
    ($query:expr) => {
        $query
    };
}
pub(super) use lock_row;

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
            .set((revision, progress::starts_aside.eq(0), progress::last_fingerprint.eq(print.as_slice())))
            .execute(connection),
        (false, None) => {
            diesel::update(row).set((revision, progress::starts_aside.eq(0))).execute(connection)
        }
    }
    .map_err(engine)?;
    if changed == 0 {
        return Ok(Ownership::Fenced);
    }
    lanes::check_forward(transaction)?;
    Ok(Ownership::Owned(Seen::default()))
}

/// Takes the locks of a round; one writes here, so there is nobody to wait for.
pub(super) const fn take_locks(_: &mut Connection, _: &Wanted<'_>) -> Result<(), StoreError> {
    Ok(())
}

/// Takes the lease of the relay: the folder's lock makes this process the only one, so it is always had. Gives
/// an epoch above every cursor's.
pub(super) fn take_relay_lease(
    connection: &mut Connection,
    _holder: &str,
    _duration: Duration,
) -> Result<Option<i64>, StoreError> {
    Ok(Some(relay_epoch(connection)? + 1))
}

/// Prolongs the lease of the relay: it is had until another relay of this process takes it.
pub(super) fn renew_relay_lease(
    connection: &mut Connection,
    _holder: &str,
    epoch: i64,
    _duration: Duration,
) -> Result<bool, StoreError> {
    Ok(relay_epoch(connection)? == epoch)
}

/// Gives the lease of the relay back: nobody waits for it.
pub(super) const fn release_relay_lease(
    _: &mut Connection,
    _holder: &str,
    _epoch: i64,
) -> Result<(), StoreError> {
    Ok(())
}

/// Moves cursors whose epoch and place are the stored ones; tells of each whether it was moved.
pub(super) fn advance_cursors(
    connection: &mut Connection,
    epoch: Epoch,
    moves: &[CursorMove],
) -> Result<Vec<bool>, StoreError> {
    let mut advance = |step: &CursorMove| {
        let row = outbox_cursors::table
            .filter(outbox_cursors::topic.eq(i64::from(step.partition.topic.code())))
            .filter(outbox_cursors::partition.eq(i64::from(step.partition.partition.0)))
            .filter(outbox_cursors::epoch.eq(epoch.0.cast_signed()))
            .filter(outbox_cursors::next_offset.eq(step.from.0.cast_signed()));
        let next = outbox_cursors::next_offset.eq(step.next.0.cast_signed());
        let tail = outbox_cursors::tail_offset.eq(step.tail.0.cast_signed());
        Ok(diesel::update(row).set((next, tail)).execute(connection).map_err(engine)? == 1)
    };
    moves.iter().map(&mut advance).collect()
}

/// Gives one statement that reads several ranges of the outbox, one after the other; it holds nothing but numbers.
pub(super) fn read_outbox(
    ranges: &[OutboxRange],
) -> impl LoadQuery<'static, Connection, OutboxRow, DefaultLoadingMode> {
    let part = |(index, range): (usize, &OutboxRange)| {
        let OutboxRange { first, last, rows } = range;
        format!(
            "SELECT * FROM (SELECT position, recorded_at, time_type, key, headers, payload FROM log \
             WHERE position BETWEEN {first} AND {last} ORDER BY position LIMIT {rows}) AS part_{index}"
        )
    };
    let parts: Vec<String> = ranges.iter().enumerate().map(part).collect();
    diesel::sql_query(parts.join(" UNION ALL "))
}

fn relay_epoch(connection: &mut Connection) -> Result<i64, StoreError> {
    let epoch: Option<i64> = outbox_cursors::table
        .select(diesel::dsl::max(outbox_cursors::epoch))
        .first(connection)
        .map_err(engine)?;
    Ok(epoch.unwrap_or(0))
}

/// Ends a transaction that has read.
pub(super) fn end_snapshot(connection: &mut Connection) -> Result<(), StoreError> {
    connection.batch_execute("COMMIT").map_err(engine)
}

/// Begins a transaction that reads one state of the database.
pub(super) fn begin_snapshot(connection: &mut Connection) -> Result<(), StoreError> {
    connection.batch_execute("BEGIN").map_err(engine)
}

/// Writes the statement that walks the wanted entries of a range and gives some of their columns.
macro_rules! scan {
    ($columns:literal) => {
        concat!(
            "SELECT r.first_index + (e.entry - r.base_entry) AS \"index\", ",
            $columns,
            "
    FROM audit_runs AS r
    CROSS JOIN audit_entries AS e
      ON e.entry BETWEEN r.base_entry + max(?2 - r.first_index, 0)
                     AND r.base_entry + min(?3 - r.first_index, r.entries - 1)
    LEFT JOIN audit_bodies AS b ON b.entry = e.entry
    WHERE r.lane = ?1
      AND r.first_index <= ?3
      AND r.first_index >= coalesce(
            (SELECT max(h.first_index) FROM audit_runs AS h WHERE h.lane = ?1 AND h.first_index <= ?2), ?2)
      AND r.first_index + r.entries <= coalesce(
            (SELECT min(n.first_index) FROM audit_runs AS n WHERE n.lane = ?1 AND n.first_index > r.first_index),
            (SELECT size FROM audit_logs WHERE lane = ?1))
      AND (?5 IS NULL OR b.key = ?5)
    ORDER BY r.first_index, e.entry
    LIMIT ?4"
        )
    };
}

/// Reads the wanted entries of a range: lane, first and last index, most rows, and the key of the record or null.
///
/// The run that holds an index is the last one that begins at or before it, whatever page it is asked for with.
/// A run is believed only if it ends before the next one begins and before its log ends: what a changed or
/// inserted run covers is missing then, and a verification finds it.
///
/// `CROSS JOIN` holds the engine to this order of loops, which is the order of indexes.
pub(super) const SCAN: &str = scan!(
    "e.record_offset, e.leaf_hash, e.chain_hash, e.mark, e.appended_at, b.recorded_at, b.time_type, b.key, b.headers, b.payload"
);

/// Weighs the same entries: the bytes of their bodies. What is weighed is not read.
pub(super) const WEIGH: &str = scan!(
    "CAST(coalesce(octet_length(b.key), 0) + coalesce(octet_length(b.headers), 0) \
     + coalesce(octet_length(b.payload), 0) AS BIGINT) AS weight"
);

/// Removes timers of a lane.
pub(super) fn clear_timers(connection: &mut Connection, lane: i64, all: &[TimerId]) -> QueryResult<()> {
    for id in all {
        diesel::delete(
            timers::table
                .filter(timers::lane.eq(lane))
                .filter(timers::kind.eq(WordsRef(&id.kind)))
                .filter(timers::key.eq(WordsRef(&id.key))),
        )
        .execute(connection)?;
    }
    Ok(())
}

/// Removes jobs from the list of those that live.
pub(super) fn clear_live(connection: &mut Connection, ended: &[(i64, &str)]) -> QueryResult<()> {
    for (lane, job_id) in ended {
        diesel::delete(
            live_job_views::table
                .filter(live_job_views::job_id.eq(job_id))
                .filter(live_job_views::lane.eq(lane)),
        )
        .execute(connection)?;
    }
    Ok(())
}

/// Writes where audit logs stand. Their rows are never removed, not even to be replaced.
pub(super) fn store_audit_logs(connection: &mut Connection, rows: &[AuditLogRow]) -> Result<(), StoreError> {
    for row in rows {
        let update = diesel::update(audit_logs::table.filter(audit_logs::lane.eq(row.lane))).set(row);
        if update.execute(connection).map_err(engine)? == 0 {
            diesel::insert_into(audit_logs::table).values(row).execute(connection).map_err(engine)?;
        }
    }
    Ok(())
}

/// Loads what the orchestrator has written about lifecycle sequences, in the order given.
pub(super) fn load_owners(
    connection: &mut Connection,
    wanted: &[(&JobId, Sequence)],
) -> Result<Vec<Option<LifecycleOwner>>, StoreError> {
    wanted.iter().map(|(job_id, sequence)| state::load_owner(connection, job_id, *sequence)).collect()
}

/// Moves the ends of partitions, in the order given, and gives the new ones.
pub(super) fn take_offsets(
    connection: &mut Connection,
    wanted: &[WantedOffsets],
) -> Result<Vec<Head>, StoreError> {
    wanted.iter().map(|wanted| take_of_partition(connection, wanted).map_err(engine)).collect()
}

/// Moves the end of a partition and gives it.
fn take_of_partition(connection: &mut Connection, wanted: &WantedOffsets) -> QueryResult<Head> {
    let head = log_head::table
        .filter(log_head::topic.eq(wanted.topic))
        .filter(log_head::partition.eq(wanted.partition));
    let moved: Option<(i64, Option<i64>, Option<i64>)> = diesel::update(head)
        .set(log_head::next_offset.eq(log_head::next_offset + wanted.count))
        .returning((log_head::next_offset, log_head::spread, log_head::held_at))
        .get_result(connection)
        .optional()?;
    if let Some((end, spread, held_at)) = moved {
        return Ok(Head { end: end.cast_unsigned(), spread, held_at });
    }
    diesel::insert_into(log_head::table)
        .values((
            log_head::topic.eq(wanted.topic),
            log_head::partition.eq(wanted.partition),
            log_head::next_offset.eq(wanted.count),
        ))
        .execute(connection)?;
    Ok(Head { end: wanted.count.cast_unsigned(), spread: None, held_at: None })
}
