//! Appending to the audit log: entries and bodies numbered in the order of writing, and the runs that tell
//! which numbers a lane's indexes have.
//!
//! Promises that every row of entries and bodies goes to the end of its table, whatever lanes a commit is of:
//! rows in the middle, as numbers that begin with the lane have them, take 45 % more time with 20 lanes
//! (`benches/README.md`). Promises that a lane's entries follow those before them without a gap, and that an
//! index which was written is refused. Numbers that a commit took and did not write are lost.

use std::borrow::Cow;

use diesel::prelude::*;
use horizons_actors::effect::{AuditEntry, AuditMark, Effects};
use horizons_actors::ports::store::StoreError;
use horizons_actors::state::{StateKey, StateValue};

use super::engine::{Connection, engine, insert_rows};
use super::key;
use super::lanes::Seen;
use super::numbers::EntryNumbers;
use super::records::{Blob, Digest, blob};
use super::schema::{audit_bodies, audit_entries, audit_logs, audit_runs};
use crate::db::words::Words;

#[derive(Insertable)]
#[diesel(table_name = audit_entries, treat_none_as_default_value = false)]
struct NewEntryRow {
    entry: i64,
    record_offset: i64,
    leaf_hash: Digest,
    chain_hash: Digest,
    mark: Words,
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
        connection: &mut Connection,
        lane: i64,
        effects: &Effects,
        seen: &Seen,
    ) -> Result<(), StoreError> {
        let entries = effects.audit_entries.as_slice();
        if entries.is_empty() {
            return Ok(());
        }
        let first_index = match seen.audit_size {
            Some(size) => size,
            None => stored_size(connection, lane)?,
        };
        check_follows(first_index.cast_unsigned(), effects)?;
        self.heads.reserve(entries.len());
        self.bodies.reserve(entries.len());
        let (mut rest, mut first_index) = (entries, first_index);
        while !rest.is_empty() {
            let wanted = i64::try_from(rest.len()).unwrap_or(i64::MAX);
            let (base_entry, entries) = self.numbers.take(connection, wanted)?;
            self.runs.push(NewRunRow { lane, first_index, base_entry, entries });
            let (taken, left) = rest.split_at(usize::try_from(entries).unwrap_or(usize::MAX).min(rest.len()));
            for (number, entry) in (base_entry..).zip(taken) {
                self.push(number, entry);
            }
            first_index += entries;
            rest = left;
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
    pub(super) fn write(self, connection: &mut Connection) -> Result<(), StoreError> {
        insert_rows!(connection, audit_runs::table, self.runs);
        insert_rows!(connection, audit_entries::table, self.heads);
        insert_rows!(connection, audit_bodies::table, self.bodies);
        Ok(())
    }
}

/// Gives the stored text of a mark, without making one for the frequent marks.
fn mark_text(mark: &AuditMark) -> Words {
    Words(match mark {
        AuditMark::Event => Cow::Borrowed("event"),
        AuditMark::Duplicate => Cow::Borrowed("duplicate"),
        AuditMark::WrongPartition => Cow::Borrowed("wrong_partition"),
        AuditMark::Malformed(_) => Cow::Owned(mark.to_stored()),
    })
}

/// Reads how many entries a lane's log has.
fn stored_size(connection: &mut Connection, lane: i64) -> Result<i64, StoreError> {
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
