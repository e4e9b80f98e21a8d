//! What the shared code asks of PostgreSQL.
//!
//! Promises the names that every engine's folder has: the connection, how a transaction begins and ends, how
//! rows are written in bulk, and what a failure means.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use diesel::connection::{DefaultLoadingMode, SimpleConnection};
use diesel::prelude::*;
use diesel::query_dsl::methods::LoadQuery;
use diesel::r2d2::{ConnectionManager, Pool};
use diesel::sql_types::{Array, BigInt, Binary, Bool, Nullable, Text};
use horizons_actors::effect::TimerId;
use horizons_actors::ids::{EventId, JobId, Sequence};
use horizons_actors::ports::store::StoreError;
use horizons_actors::state::LifecycleOwner;

use super::errors::{Fault, fault_of};
use super::fixed::{Fixed, run};
use super::lease;
use super::outbox::{OutboxRange, OutboxRow};
use super::parking::NewParkedRow;
use super::schema::{audit_logs, parked_records};
use super::state::{AuditLogRow, uuid};
use crate::db::outcome::RoundError;
use crate::db::words::WordsRef;

pub(super) use super::connection::used_bytes;
pub(super) use super::errors::store_error;
pub(super) use super::gates::take_locks;
pub(super) use super::heads::{advance_cursors, take_offsets};
pub(super) use super::progress::advance;
pub(super) use super::scan::{SCAN, WEIGH};

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

/// From so many rows on they go by COPY; fewer go by statements that need no planning.
pub(super) const COPY_ROWS: usize = 32;

/// Rows of the largest statement over rows. Each size is its own prepared statement.
const ROWS_AT_ONCE: usize = 64;

/// Gives how many of so many rows the next statement takes: a power of two, so that the statements are few and
/// the last rows of many are not written one by one.
pub(super) fn rows_at_once(left: usize) -> usize {
    left.checked_ilog2().map_or(0, |bits| (1 << bits).min(ROWS_AT_ONCE))
}

/// Runs a statement over a list of rows, so many at once that the statements are few and kept.
macro_rules! run_by_rows {
    ($connection:expr, $all:expr, |$rows:ident| $statement:expr) => {{
        let mut left: &[_] = $all;
        while !left.is_empty() {
            let ($rows, later) = left.split_at($crate::db::postgres::engine::rows_at_once(left.len()));
            $crate::db::postgres::fixed::run($connection, $statement)
                .map_err($crate::db::postgres::engine::engine)?;
            left = later;
        }
    }};
}
pub(super) use run_by_rows;

/// Inserts a list of rows: a few by statements that are kept, many by COPY in its binary form, which is planned
/// anew each time.
macro_rules! insert_rows {
    ($connection:expr, $table:expr, $rows:expr) => {{
        let rows = $rows;
        if rows.len() >= $crate::db::postgres::engine::COPY_ROWS {
            diesel::copy_from($table)
                .from_insertable(rows)
                .execute($connection)
                .map_err($crate::db::postgres::engine::engine)?;
        } else {
            $crate::db::postgres::engine::run_by_rows!($connection, &rows, |rows| {
                diesel::insert_into($table).values(rows)
            });
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
    ($connection:expr, $table:expr, $rows:expr, key: $key:expr, set: [$($column:path),+ $(,)?]) => {
        $crate::db::postgres::engine::run_by_rows!($connection, $rows, |rows| {
            diesel::insert_into($table)
                .values(rows)
                .on_conflict($key)
                .do_update()
                .set(($($column.eq(diesel::upsert::excluded($column)),)+))
        })
    };
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
        $crate::db::postgres::engine::run_by_rows!($connection, $rows, |rows| {
            diesel::insert_into($table).values(rows).on_conflict_do_nothing()
        })
    };
}
pub(super) use insert_or_ignore_rows;

diesel::define_sql_function! {
    /// The hash that stands for a key in indexes: a key may be longer than an index takes.
    fn sha256(bytes: Binary) -> Binary;
}

/// Tells whether a row has a key, in the words of the indexes over the keys' hashes: without the hash the engine would
/// walk all of a lane.
macro_rules! is_key {
    ($column:expr, $key:expr) => {
        $crate::db::postgres::engine::sha256($column)
            .eq($crate::db::postgres::engine::sha256($key))
            .and($column.eq($key))
    };
}
pub(super) use is_key;

/// Inserts records that wait; tells of each whether it is new.
pub(super) fn insert_parked(
    connection: &mut Connection,
    rows: &[NewParkedRow],
) -> Result<Vec<bool>, StoreError> {
    let mut written: HashSet<(Vec<u8>, i64)> = HashSet::new();
    let mut left = rows;
    while !left.is_empty() {
        let (some, later) = left.split_at(rows_at_once(left.len()));
        let insert = diesel::insert_into(parked_records::table)
            .values(some)
            .on_conflict_do_nothing()
            .returning((parked_records::key, parked_records::record_offset));
        written.extend(Fixed(insert).load::<(Vec<u8>, i64)>(connection).map_err(engine)?);
        left = later;
    }
    // One that comes twice is new once.
    Ok(rows.iter().map(|row| written.remove(&(row.key.0.to_vec(), row.record_offset))).collect())
}

/// Removes records that wait behind a key; gives how many.
pub(super) fn remove_parked(
    connection: &mut Connection,
    lane: i64,
    key: &[u8],
    offsets: &[i64],
) -> Result<i64, StoreError> {
    let delete = diesel::sql_query(
        "DELETE FROM parked_records
         WHERE lane = $1 AND sha256(key) = sha256($2) AND key = $2 AND record_offset = ANY($3)",
    )
    .bind::<BigInt, _>(lane)
    .bind::<Binary, _>(key)
    .bind::<Array<BigInt>, _>(offsets);
    let removed = delete.execute(connection).map_err(engine)?;
    Ok(i64::try_from(removed).unwrap_or(i64::MAX))
}

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

/// Makes whoever names the same thing wait until this transaction ends: two processes may do the same.
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

/// Removes timers of a lane, those of one kind at once: joined to a list, the server would rather walk all timers.
pub(super) fn clear_timers(connection: &mut Connection, lane: i64, all: &[TimerId]) -> QueryResult<()> {
    let mut of_kinds: BTreeMap<&str, Vec<WordsRef<'_>>> = BTreeMap::new();
    for id in all {
        of_kinds.entry(id.kind.as_str()).or_default().push(WordsRef(&id.key));
    }
    for (kind, keys) in of_kinds {
        let delete = diesel::sql_query("DELETE FROM timers WHERE lane = $1 AND kind = $2 AND key = ANY($3)")
            .bind::<BigInt, _>(lane)
            .bind::<Text, _>(WordsRef(kind))
            .bind::<Array<Text>, _>(keys);
        run(connection, delete)?;
    }
    Ok(())
}

/// Removes jobs from the list of those that live.
pub(super) fn clear_live(connection: &mut Connection, ended: &[(i64, &str)]) -> QueryResult<()> {
    if ended.is_empty() {
        return Ok(());
    }
    let (lanes, jobs): (Vec<i64>, Vec<&str>) = ended.iter().copied().unzip();
    let delete = diesel::sql_query(
        "DELETE FROM live_job_views AS l USING unnest($1, $2) AS e (lane, job_id)
         WHERE l.job_id = e.job_id AND l.lane = e.lane",
    )
    .bind::<Array<BigInt>, _>(lanes)
    .bind::<Array<Text>, _>(jobs);
    run(connection, delete)
}

/// Writes where audit logs stand.
pub(super) fn store_audit_logs(connection: &mut Connection, rows: &[AuditLogRow]) -> Result<(), StoreError> {
    replace_rows!(
        connection,
        audit_logs::table,
        rows,
        key: audit_logs::lane,
        set: [
            audit_logs::size,
            audit_logs::chain_head,
            audit_logs::frontier,
            audit_logs::last_offset,
            audit_logs::segment_number,
            audit_logs::segment_first,
            audit_logs::segment_opened_at,
        ]
    );
    Ok(())
}

/// What the orchestrator has written about a sequence, if it knows the job.
#[derive(QueryableByName)]
struct OwnerRow {
    #[diesel(sql_type = Nullable<Binary>)]
    event_id: Option<Vec<u8>>,
    #[diesel(sql_type = Bool)]
    is_known: bool,
}

/// What is read of each sequence that is wanted (`w`), and where from.
const OWNERS: &str = "SELECT e.event_id, e.job_id IS NOT NULL OR j.job_id IS NOT NULL AS is_known";
const OF_OWNERS: &str = "LEFT JOIN job_events AS e ON e.job_id = w.job_id AND e.sequence = w.sequence
    LEFT JOIN jobs AS j ON j.job_id = w.job_id";

/// Loads what the orchestrator has written about lifecycle sequences, in the order given.
pub(super) fn load_owners(
    connection: &mut Connection,
    wanted: &[(&JobId, Sequence)],
) -> Result<Vec<Option<LifecycleOwner>>, StoreError> {
    let sequence = |sequence: &Sequence| sequence.0.cast_signed();
    let rows: Vec<OwnerRow> = match wanted {
        // One is the rule, and the server plans a list anew each time, as it may be long.
        [(job_id, one)] => {
            let select = diesel::sql_query(format!(
                "{OWNERS} FROM (VALUES ($1, $2)) AS w (job_id, sequence) {OF_OWNERS}"
            ))
            .bind::<Text, _>(job_id.as_str())
            .bind::<BigInt, _>(sequence(one));
            Fixed(select).load(connection)
        }
        many => {
            let (jobs, sequences): (Vec<&str>, Vec<i64>) =
                many.iter().map(|(job_id, one)| (job_id.as_str(), sequence(one))).unzip();
            let select = diesel::sql_query(format!(
                "{OWNERS} FROM unnest($1, $2) WITH ORDINALITY AS w (job_id, sequence, number) {OF_OWNERS}
                 ORDER BY w.number"
            ))
            .bind::<Array<Text>, _>(jobs)
            .bind::<Array<BigInt>, _>(sequences);
            Fixed(select).load(connection)
        }
    }
    .map_err(engine)?;
    let owner = |row: OwnerRow| -> Result<Option<LifecycleOwner>, StoreError> {
        let event_id = row.event_id.as_deref().map(uuid).transpose()?.map(EventId);
        Ok(row.is_known.then_some(LifecycleOwner { event_id }))
    };
    rows.into_iter().map(owner).collect()
}

/// Gives one statement that reads several ranges of the outbox, one after the other.
pub(super) fn read_outbox(
    ranges: &[OutboxRange],
) -> impl LoadQuery<'static, Connection, OutboxRow, DefaultLoadingMode> {
    let of = |number: fn(&OutboxRange) -> i64| -> Vec<i64> { ranges.iter().map(number).collect() };
    let select = diesel::sql_query(
        "SELECT r.*
         FROM unnest($1, $2, $3) WITH ORDINALITY AS w (first, last, rows, number)
         CROSS JOIN LATERAL (
             SELECT position, recorded_at, time_type, key, headers, payload
             FROM log
             WHERE position BETWEEN w.first AND w.last
             ORDER BY position
             LIMIT w.rows
         ) AS r
         ORDER BY w.number, r.position",
    )
    .bind::<Array<BigInt>, _>(of(|range| range.first))
    .bind::<Array<BigInt>, _>(of(|range| range.last))
    .bind::<Array<BigInt>, _>(of(|range| range.rows));
    Fixed(select)
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
