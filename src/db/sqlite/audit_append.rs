//! Appending to the audit log: entries and bodies numbered in the order of writing, and the runs that tell
//! which numbers a lane's indexes have.
//!
//! Promises that every row of entries and bodies goes to the end of its table, whatever lanes a commit is of:
//! rows in the middle, as numbers that begin with the lane have them, take 45 % more time with 20 lanes
//! (`benches/README.md`). Promises that a lane's entries follow those before them without a gap, and that an
//! index which was written is refused. Numbers that a commit took and did not write are lost.

use std::borrow::Cow;
use std::cell::Cell;

use diesel::dsl::max;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use horizons_actors::effect::{AuditEntry, AuditMark, Effects};
use horizons_actors::ports::store::StoreError;
use horizons_actors::state::{StateKey, StateValue};

use super::key;
use super::records::{Blob, Digest, blob, insert_rows};
use super::schema::{audit_bodies, audit_entries, audit_logs, audit_runs};
use crate::db::error::engine;

/// The number of the next entry; it only grows, so that a commit that failed or may have failed gives none back.
#[derive(Debug)]
pub(super) struct EntryNumbers {
    next: Cell<i64>,
}

impl EntryNumbers {
    /// Reads where the tables end.
    pub(super) fn load(connection: &mut SqliteConnection) -> Result<Self, StoreError> {
        let entries: Option<i64> =
            audit_entries::table.select(max(audit_entries::entry)).first(connection).map_err(engine)?;
        // A body whose entry was removed keeps its number.
        let bodies: Option<i64> =
            audit_bodies::table.select(max(audit_bodies::entry)).first(connection).map_err(engine)?;
        Ok(Self { next: Cell::new(entries.max(bodies).unwrap_or(0).saturating_add(1)) })
    }

    /// Takes so many numbers and gives the first.
    fn take(&self, count: i64) -> Result<i64, StoreError> {
        let first = self.next.get();
        let next = first
            .checked_add(count)
            .ok_or_else(|| StoreError::Broken(format!("numbers of audit entries end at {first}")))?;
        self.next.set(next);
        Ok(first)
    }
}

#[derive(Insertable)]
#[diesel(table_name = audit_entries, treat_none_as_default_value = false)]
struct NewEntryRow {
    entry: i64,
    record_offset: i64,
    leaf_hash: Digest,
    chain_hash: Digest,
    mark: Cow<'static, str>,
    appended_at: i64,
}

#[derive(Insertable)]
#[diesel(table_name = audit_bodies, treat_none_as_default_value = false)]
struct NewBodyRow {
    entry: i64,
    recorded_at: i64,
    time_type: i32,
    key: Option<Blob>,
    headers: Blob,
    payload: Option<Blob>,
}

#[derive(Insertable)]
#[diesel(table_name = audit_runs, treat_none_as_default_value = false)]
struct NewRunRow {
    lane: i64,
    first_index: i64,
    base_entry: i64,
    entries: i64,
}

/// What the lanes of one commit append.
pub(super) struct AuditRows<'a> {
    numbers: &'a EntryNumbers,
    runs: Vec<NewRunRow>,
    heads: Vec<NewEntryRow>,
    bodies: Vec<NewBodyRow>,
}

impl<'a> AuditRows<'a> {
    /// Makes an empty list.
    pub(super) const fn new(numbers: &'a EntryNumbers) -> Self {
        Self { numbers, runs: Vec::new(), heads: Vec::new(), bodies: Vec::new() }
    }

    /// Takes the entries of a lane's transaction, before the state of its log is written.
    pub(super) fn gather(
        &mut self,
        connection: &mut SqliteConnection,
        lane: i64,
        effects: &Effects,
    ) -> Result<(), StoreError> {
        let entries = effects.audit_entries.as_slice();
        if entries.is_empty() {
            return Ok(());
        }
        let first_index = stored_size(connection, lane)?;
        check_follows(first_index.cast_unsigned(), effects)?;
        let count = i64::try_from(entries.len()).unwrap_or(i64::MAX);
        let base_entry = self.numbers.take(count)?;
        self.runs.push(NewRunRow { lane, first_index, base_entry, entries: count });
        self.heads.reserve(entries.len());
        self.bodies.reserve(entries.len());
        for (number, entry) in (base_entry..).zip(entries) {
            self.push(number, entry);
        }
        Ok(())
    }

    fn push(&mut self, number: i64, entry: &AuditEntry) {
        self.heads.push(NewEntryRow {
            entry: number,
            record_offset: entry.record.offset.0.cast_signed(),
            leaf_hash: Digest(entry.leaf_hash),
            chain_hash: Digest(entry.chain_hash),
            mark: mark_text(&entry.mark),
            appended_at: entry.appended_at.as_micros(),
        });
        self.bodies.push(NewBodyRow {
            entry: number,
            recorded_at: entry.record.timestamp.as_micros(),
            time_type: i32::from(entry.record.timestamp_type.code()),
            key: blob(entry.record.key.as_ref()),
            headers: Blob(entry.record.headers.as_block().clone()),
            payload: blob(entry.record.payload.as_ref()),
        });
    }

    /// Writes what was gathered.
    pub(super) fn write(self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        insert_rows!(connection, audit_runs::table, self.runs);
        insert_rows!(connection, audit_entries::table, self.heads);
        insert_rows!(connection, audit_bodies::table, self.bodies);
        Ok(())
    }
}

/// Gives the stored text of a mark, without making one for the frequent marks.
fn mark_text(mark: &AuditMark) -> Cow<'static, str> {
    match mark {
        AuditMark::Event => Cow::Borrowed("event"),
        AuditMark::Duplicate => Cow::Borrowed("duplicate"),
        AuditMark::Malformed(_) => Cow::Owned(mark.to_stored()),
    }
}

/// Reads how many entries a lane's log has.
fn stored_size(connection: &mut SqliteConnection, lane: i64) -> Result<i64, StoreError> {
    let size: Option<i64> = audit_logs::table
        .filter(audit_logs::lane.eq(lane))
        .select(audit_logs::size)
        .first(connection)
        .optional()
        .map_err(engine)?;
    Ok(size.unwrap_or(0))
}

/// Checks that entries continue a log of a size, and that the state written with them counts them.
fn check_follows(size: u64, effects: &Effects) -> Result<(), StoreError> {
    let mut end = size;
    for entry in &effects.audit_entries {
        key::low_bits(entry.index)?;
        if entry.index != end {
            return Err(StoreError::Broken(format!("wanted audit index {end}, got {}", entry.index)));
        }
        end += 1;
    }
    let written = effects.states.iter().find_map(|(key, value)| match (key, value) {
        (StateKey::AuditLog, StateValue::AuditLog(log)) => Some(log.size),
        _ => None,
    });
    if written == Some(end) {
        Ok(())
    } else {
        Err(StoreError::Broken(format!(
            "wanted an audit log of size {end} with its entries, got {written:?}"
        )))
    }
}
