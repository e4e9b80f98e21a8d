//! Poison, and what waits behind it (design D6).
//!
//! Promises that a key is unparked only when nothing waits behind it, that a record parked twice is the same
//! record, and that the stored count of waiting records is the count of rows.

use std::collections::BTreeMap;

use diesel::prelude::*;
use horizons_actors::clock::Timestamp;
use horizons_actors::command::{Command, ParkedKeyId};
use horizons_actors::effect::{
    DeadLetter, DeadLetterOutcome, DeadLetterSettlement, Effects, ParkedKey, ParkedRecord, ParkedRecordId,
};
use horizons_actors::ids::Offset;
use horizons_actors::ports::store::{ParkedWish, StoreError, WishAnswer};
use horizons_actors::ports::wishes::Wished;
use horizons_actors::record::{LogRecord, OutgoingRecord};

use super::engine::{self, Connection, engine, insert_or_ignore, is_key};
use super::key;
use super::locks::Locks;
use super::operation::{Operation, Writing, Written};
use super::records::{Blob, RecordColumns, blob, slice};
use super::schema::{dead_letters, parked_keys, parked_records};
use crate::db::words::{Words, WordsRef};

/// States of a dead letter.
const STATE_PARKED: &str = "parked";
const STATE_DEAD: &str = "dead";
const STATE_RELEASED: &str = "released";
const STATE_DISCARDED: &str = "discarded";

/// Writes everything about poison.
pub(super) fn write(connection: &mut Connection, lane: i64, effects: &Effects) -> Result<(), StoreError> {
    for letter in &effects.dead_letters {
        write_letter(connection, lane, letter)?;
    }
    for settlement in &effects.dead_letters_settled {
        settle(connection, lane, settlement)?;
    }
    // What leaves goes first: a key may be unparked and parked again in one transaction.
    unpark_records(connection, lane, &effects.records_unparked)?;
    for key in &effects.keys_unparked {
        if !effects.keys_parked.iter().any(|parked| parked.key == key) {
            unpark_key(connection, lane, key)?;
        }
    }
    for parked in &effects.keys_parked {
        park_key(connection, lane, parked)?;
    }
    park_records(connection, lane, &effects.records_parked)
}

fn write_letter(connection: &mut Connection, lane: i64, letter: &DeadLetter) -> Result<(), StoreError> {
    let row = key::in_lane(lane, letter.record.offset.0)?;
    let record = &letter.record;
    let at = letter.rejected_at.as_micros();
    let written = insert_or_ignore!(
        connection,
        dead_letters::table,
        (
            dead_letters::letter.eq(row),
            dead_letters::recorded_at.eq(record.timestamp.as_micros()),
            dead_letters::time_type.eq(i32::from(record.timestamp_type.code())),
            dead_letters::key.eq(slice(record.key.as_ref())),
            dead_letters::headers.eq(record.headers.as_block().as_ref()),
            dead_letters::payload.eq(slice(record.payload.as_ref())),
            dead_letters::reason.eq(letter.rejection.name()),
            dead_letters::detail.eq(Words::of(&letter.rejection.to_string())),
            dead_letters::state.eq(if letter.is_parked { STATE_PARKED } else { STATE_DEAD }),
            dead_letters::attempts.eq(1),
            dead_letters::rejected_at.eq(at),
            dead_letters::updated_at.eq(at),
        )
    );
    if written == 1 {
        return Ok(());
    }
    let stored: Option<RecordColumns> = dead_letters::table
        .filter(dead_letters::letter.eq(row))
        .select((
            dead_letters::recorded_at,
            dead_letters::time_type,
            dead_letters::key,
            dead_letters::headers,
            dead_letters::payload,
        ))
        .first(connection)
        .optional()
        .map_err(engine)?;
    same_record("dead letter", stored, record)
}

/// Refuses another record at an offset that is taken.
fn same_record(what: &str, stored: Option<RecordColumns>, record: &LogRecord) -> Result<(), StoreError> {
    let stored = stored
        .ok_or_else(|| StoreError::Broken(format!("{what} at offset {} was not taken", record.offset)))?
        .into_record(record.offset.0)?;
    if stored == *record {
        Ok(())
    } else {
        Err(StoreError::Broken(format!("{what} at offset {} exists with other bytes", record.offset)))
    }
}

fn settle(
    connection: &mut Connection,
    lane: i64,
    settlement: &DeadLetterSettlement,
) -> Result<(), StoreError> {
    let row = dead_letters::table.filter(dead_letters::letter.eq(key::in_lane(lane, settlement.offset.0)?));
    let at = dead_letters::updated_at.eq(settlement.settled_at.as_micros());
    let changed = match &settlement.outcome {
        DeadLetterOutcome::RejectedAgain(rejection) => diesel::update(row)
            .set((
                at,
                dead_letters::attempts.eq(dead_letters::attempts + 1),
                dead_letters::reason.eq(rejection.name()),
                dead_letters::detail.eq(Words::of(&rejection.to_string())),
            ))
            .execute(connection),
        DeadLetterOutcome::Released => {
            diesel::update(row).set((at, dead_letters::state.eq(STATE_RELEASED))).execute(connection)
        }
        DeadLetterOutcome::Discarded => {
            diesel::update(row).set((at, dead_letters::state.eq(STATE_DISCARDED))).execute(connection)
        }
    }
    .map_err(engine)?;
    if changed == 0 {
        return Err(StoreError::Broken(format!("no dead letter at offset {}", settlement.offset)));
    }
    Ok(())
}

/// Parks a key; one that is parked already gets the new head and waits for a new wish.
fn park_key(connection: &mut Connection, lane: i64, parked: &ParkedKey) -> Result<(), StoreError> {
    let head = parked.head.0.cast_signed();
    let detail = parked.rejection.to_string();
    let changed = diesel::update(
        parked_keys::table
            .filter(parked_keys::lane.eq(lane))
            .filter(is_key!(parked_keys::key, parked.key.as_ref())),
    )
    .set((
        parked_keys::head_offset.eq(head),
        parked_keys::reason.eq(parked.rejection.name()),
        parked_keys::detail.eq(WordsRef(&detail)),
        parked_keys::wish.eq(ParkedWish::Wait.name()),
        parked_keys::wished_by.eq(None::<Vec<u8>>),
        parked_keys::parked_at.eq(parked.parked_at.as_micros()),
    ))
    .execute(connection)
    .map_err(engine)?;
    if changed == 1 {
        return Ok(());
    }
    diesel::insert_into(parked_keys::table)
        .values((
            parked_keys::lane.eq(lane),
            parked_keys::key.eq(parked.key.as_ref()),
            parked_keys::head_offset.eq(head),
            parked_keys::reason.eq(parked.rejection.name()),
            parked_keys::detail.eq(WordsRef(&detail)),
            parked_keys::records.eq(0),
            parked_keys::wish.eq(ParkedWish::Wait.name()),
            parked_keys::parked_at.eq(parked.parked_at.as_micros()),
        ))
        .execute(connection)
        .map_err(engine)?;
    Ok(())
}

/// A record that waits.
#[derive(Insertable)]
#[diesel(table_name = parked_records, treat_none_as_default_value = false)]
pub(super) struct NewParkedRow {
    lane: i64,
    pub(super) key: Blob,
    pub(super) record_offset: i64,
    recorded_at: i64,
    time_type: i32,
    record_key: Option<Blob>,
    headers: Blob,
    payload: Option<Blob>,
    parked_at: i64,
}

impl NewParkedRow {
    fn new(lane: i64, parked: &ParkedRecord) -> Self {
        let record = &parked.record;
        Self {
            lane,
            key: Blob(parked.key.clone()),
            record_offset: record.offset.0.cast_signed(),
            recorded_at: record.timestamp.as_micros(),
            time_type: i32::from(record.timestamp_type.code()),
            record_key: blob(record.key.as_ref()),
            headers: Blob(record.headers.as_block().clone()),
            payload: blob(record.payload.as_ref()),
            parked_at: parked.parked_at.as_micros(),
        }
    }
}

/// Parks records; one that is parked already must be the same.
fn park_records(connection: &mut Connection, lane: i64, all: &[ParkedRecord]) -> Result<(), StoreError> {
    let rows: Vec<NewParkedRow> = all.iter().map(|parked| NewParkedRow::new(lane, parked)).collect();
    let mut counts: BTreeMap<&[u8], i64> = BTreeMap::new();
    for (parked, is_new) in all.iter().zip(engine::insert_parked(connection, &rows)?) {
        if is_new {
            *counts.entry(parked.key.as_ref()).or_default() += 1;
        } else {
            check_parked(connection, lane, parked)?;
        }
    }
    counts.into_iter().try_for_each(|(key, count)| count_records(connection, lane, key, count))
}

/// Refuses another record at the place of one that is parked.
fn check_parked(connection: &mut Connection, lane: i64, parked: &ParkedRecord) -> Result<(), StoreError> {
    let stored: Option<RecordColumns> = parked_records::table
        .filter(parked_records::lane.eq(lane))
        .filter(is_key!(parked_records::key, parked.key.as_ref()))
        .filter(parked_records::record_offset.eq(parked.record.offset.0.cast_signed()))
        .select((
            parked_records::recorded_at,
            parked_records::time_type,
            parked_records::record_key,
            parked_records::headers,
            parked_records::payload,
        ))
        .first(connection)
        .optional()
        .map_err(engine)?;
    same_record("parked record", stored, &parked.record)
}

/// Moves the count of records behind a key.
fn count_records(connection: &mut Connection, lane: i64, key: &[u8], change: i64) -> Result<(), StoreError> {
    let counted = diesel::update(
        parked_keys::table.filter(parked_keys::lane.eq(lane)).filter(is_key!(parked_keys::key, key)),
    )
    .set(parked_keys::records.eq(parked_keys::records + change))
    .execute(connection)
    .map_err(engine)?;
    if counted == 1 {
        Ok(())
    } else {
        Err(StoreError::Broken("a record waits behind a key that is not parked".to_owned()))
    }
}

/// Takes records out of their queues, those of one key at once. One that is not parked leaves what was wanted.
fn unpark_records(connection: &mut Connection, lane: i64, ids: &[ParkedRecordId]) -> Result<(), StoreError> {
    let mut of_keys: BTreeMap<&[u8], Vec<i64>> = BTreeMap::new();
    for id in ids {
        of_keys.entry(id.key.as_ref()).or_default().push(id.offset.0.cast_signed());
    }
    for (key, offsets) in of_keys {
        let removed = engine::remove_parked(connection, lane, key, &offsets)?;
        if removed > 0 {
            count_records(connection, lane, key, -removed)?;
        }
    }
    Ok(())
}

fn unpark_key(connection: &mut Connection, lane: i64, key: &[u8]) -> Result<(), StoreError> {
    let row = parked_keys::table.filter(parked_keys::lane.eq(lane)).filter(is_key!(parked_keys::key, key));
    let removed =
        diesel::delete(row.filter(parked_keys::records.eq(0))).execute(connection).map_err(engine)?;
    if removed == 1 {
        return Ok(());
    }
    let waiting: Option<i64> =
        row.select(parked_keys::records).first(connection).optional().map_err(engine)?;
    match waiting {
        // Unparking a key that is not parked leaves what was wanted.
        None => Ok(()),
        Some(count) => Err(StoreError::Broken(format!("{count} records still wait behind the key"))),
    }
}

/// What an operator wants of a parked key.
pub(super) struct SetParkedWish {
    pub(super) command: Command,
    pub(super) key: ParkedKeyId,
    pub(super) wish: ParkedWish,
    /// A head that was tried so often is not released any more.
    pub(super) attempts_limit: u32,
    pub(super) audit: OutgoingRecord,
}

impl Operation for SetParkedWish {
    type Answer = WishAnswer;

    fn lock<'a>(&'a self, locks: &mut Locks<'a>) {
        locks.newest.insert(&self.key.lane);
    }

    fn write<'a>(&'a self, round: &mut Writing<'_, 'a>) -> Result<Written<WishAnswer>, StoreError> {
        let answer = self.store(round)?;
        if answer == WishAnswer::Stored {
            round.tell(Wished::Lane(self.key.lane.clone()));
            round.publish(&self.audit);
        }
        Ok(Written::Done(answer))
    }
}

impl SetParkedWish {
    fn store(&self, round: &mut Writing<'_, '_>) -> Result<WishAnswer, StoreError> {
        let connection = &mut *round.connection;
        let Some(lane) = round.context.lanes.find_newest(connection, &self.key.lane)? else {
            return Ok(WishAnswer::NotParked);
        };
        let key = self.key.key.as_ref();
        let row =
            parked_keys::table.filter(parked_keys::lane.eq(lane)).filter(is_key!(parked_keys::key, key));
        if self.wish == ParkedWish::Release {
            let head: Option<i64> =
                row.select(parked_keys::head_offset).first(connection).optional().map_err(engine)?;
            let Some(head) = head else { return Ok(WishAnswer::NotParked) };
            let attempts = attempts(connection, lane, Offset(head.cast_unsigned()))?;
            if attempts >= self.attempts_limit {
                return Ok(WishAnswer::TriedTooOften { attempts });
            }
        }
        let changed = diesel::update(row)
            .set((
                parked_keys::wish.eq(self.wish.name()),
                parked_keys::wished_by.eq(self.command.command_id.0.as_bytes().as_slice()),
            ))
            .execute(connection)
            .map_err(engine)?;
        Ok(if changed == 1 { WishAnswer::Stored } else { WishAnswer::NotParked })
    }
}

/// Tells how often a dead letter was tried.
fn attempts(connection: &mut Connection, lane: i64, head: Offset) -> Result<u32, StoreError> {
    let attempts: Option<i64> = dead_letters::table
        .filter(dead_letters::letter.eq(key::in_lane(lane, head.0)?))
        .select(dead_letters::attempts)
        .first(connection)
        .optional()
        .map_err(engine)?;
    Ok(attempts.map_or(0, |attempts| u32::try_from(attempts).unwrap_or(u32::MAX)))
}

/// Loads records behind a key, in offset order.
pub(super) fn load(
    connection: &mut Connection,
    lane: i64,
    id: &ParkedKeyId,
    limit: usize,
) -> Result<Vec<ParkedRecord>, StoreError> {
    let rows: Vec<(i64, i64, RecordColumns)> = parked_records::table
        .filter(parked_records::lane.eq(lane))
        .filter(is_key!(parked_records::key, id.key.as_ref()))
        .order(parked_records::record_offset)
        .limit(i64::try_from(limit).unwrap_or(i64::MAX))
        .select((
            parked_records::record_offset,
            parked_records::parked_at,
            (
                parked_records::recorded_at,
                parked_records::time_type,
                parked_records::record_key,
                parked_records::headers,
                parked_records::payload,
            ),
        ))
        .load(connection)
        .map_err(engine)?;
    rows.into_iter()
        .map(|(offset, parked_at, record)| {
            Ok(ParkedRecord {
                key: id.key.clone(),
                record: record.into_record(offset.cast_unsigned())?,
                parked_at: Timestamp::from_micros(parked_at),
            })
        })
        .collect()
}
