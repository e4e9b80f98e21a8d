//! The outbox as the relay sees it: its lease, its cursors, and what is set aside (design D9).
//!
//! Promises that whatever moves a cursor goes through the one writer, in a transaction that holds the cursor's
//! epoch and place against what the relay believes.

use std::sync::Arc;
use std::time::Duration;

use diesel::connection::DefaultLoadingMode;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Integer, Nullable};
use horizons_actors::clock::Timestamp;
use horizons_actors::command::Command;
use horizons_actors::ids::{Epoch, LogId, LogTopic, Offset, Partition, Topic};
use horizons_actors::layout::Layout;
use horizons_actors::ports::Reply;
use horizons_actors::ports::log::{LogHeads, RecordSource};
use horizons_actors::ports::outbox::{
    Cursor, CursorMove, KEPT_SENT_ROWS, OutboxHeads, OutboxPartition, OutboxRows, OutboxStore, RelayId,
    RelayLease, SetAsideAnswer, SetAsideRecord, WantedRows,
};
use horizons_actors::ports::page::{Page, PageRoom};
use horizons_actors::ports::store::StoreError;
use horizons_actors::ports::wishes::Wished;
use horizons_actors::record::{LogRecord, OutgoingRecord};
use uuid::Uuid;

use super::engine::{self, Connection, engine, insert_or_ignore};
use super::key::{self, OFFSET_END};
use super::layouts;
use super::locks::Locks;
use super::operation::{Operation, Writing, Written};
use super::pages::{RECORD_WEIGHT, fit, weigh, weighed_rows};
use super::placing;
use super::ports::limit;
use super::readers::read_now;
use super::records::RecordColumns;
use super::schema::{log, outbox_cursors, outbox_set_aside};
use super::store::{Reader, Store};
use crate::db::error::unreadable;

/// Takes the lease of the relay.
struct TakeLease {
    holder: RelayId,
    duration: Duration,
}

impl Operation for TakeLease {
    type Answer = Option<RelayLease>;

    fn lock<'a>(&'a self, locks: &mut Locks<'a>) {
        locks.is_of_relay = true;
    }

    fn write<'a>(&'a self, round: &mut Writing<'_, 'a>) -> Result<Written<Option<RelayLease>>, StoreError> {
        take_lease(round.connection, round.context.log_id, self.holder, self.duration).map(Written::Done)
    }
}

/// Prolongs it.
struct RenewLease {
    holder: RelayId,
    epoch: Epoch,
    duration: Duration,
}

impl Operation for RenewLease {
    type Answer = bool;

    fn lock<'a>(&'a self, locks: &mut Locks<'a>) {
        locks.is_of_relay = true;
    }

    fn write<'a>(&'a self, round: &mut Writing<'_, 'a>) -> Result<Written<bool>, StoreError> {
        let (holder, epoch) = (self.holder.to_string(), self.epoch.0.cast_signed());
        engine::renew_relay_lease(round.connection, &holder, epoch, self.duration).map(Written::Done)
    }
}

/// Returns it before its time.
struct ReleaseLease {
    holder: RelayId,
    epoch: Epoch,
}

impl Operation for ReleaseLease {
    type Answer = ();

    fn lock<'a>(&'a self, locks: &mut Locks<'a>) {
        locks.is_of_relay = true;
    }

    fn write<'a>(&'a self, round: &mut Writing<'_, 'a>) -> Result<Written<()>, StoreError> {
        let (holder, epoch) = (self.holder.to_string(), self.epoch.0.cast_signed());
        engine::release_relay_lease(round.connection, &holder, epoch).map(Written::Done)
    }
}

/// Moves cursors behind what was sent. The answer is those that are another owner's.
struct AdvanceCursors {
    epoch: Epoch,
    moves: Vec<CursorMove>,
}

impl Operation for AdvanceCursors {
    type Answer = Vec<OutboxPartition>;

    fn lock<'a>(&'a self, locks: &mut Locks<'a>) {
        locks.is_of_relay = true;
    }

    fn write<'a>(&'a self, round: &mut Writing<'_, 'a>) -> Result<Written<Vec<OutboxPartition>>, StoreError> {
        self.moves.iter().try_for_each(check_forward)?;
        let moved = engine::advance_cursors(round.connection, self.epoch, &self.moves)?;
        let refused = self.moves.iter().zip(moved).filter(|(_, is_moved)| !is_moved);
        Ok(Written::Done(refused.map(|(step, _)| step.partition).collect()))
    }
}

/// Keeps the record that a cursor stands at apart, as an operator decided.
struct SetAside {
    command: Command,
    partition: OutboxPartition,
    offset: Offset,
    audit: OutgoingRecord,
}

impl Operation for SetAside {
    type Answer = SetAsideAnswer;

    fn lock<'a>(&'a self, locks: &mut Locks<'a>) {
        locks.is_of_relay = true;
    }

    fn write<'a>(&'a self, round: &mut Writing<'_, 'a>) -> Result<Written<SetAsideAnswer>, StoreError> {
        let answer = set_aside(round.connection, &self.command, self.partition, self.offset)?;
        if answer == SetAsideAnswer::Done {
            round.tell(Wished::Outbox(self.partition));
            round.publish(&self.audit);
        }
        Ok(Written::Done(answer))
    }
}

/// Stores that a record is to be sent again: the relay that has the partition hears of it.
pub(super) struct SendAgain {
    pub(super) partition: OutboxPartition,
    pub(super) audit: OutgoingRecord,
}

impl Operation for SendAgain {
    type Answer = ();

    fn write<'a>(&'a self, round: &mut Writing<'_, 'a>) -> Result<Written<()>, StoreError> {
        round.tell(Wished::Outbox(self.partition));
        round.publish(&self.audit);
        Ok(Written::Done(()))
    }
}

/// Removes rows that were sent. The answer is how many.
struct RemoveSent {
    epoch: Epoch,
    limit: usize,
}

impl Operation for RemoveSent {
    type Answer = u64;

    fn lock<'a>(&'a self, locks: &mut Locks<'a>) {
        locks.is_of_relay = true;
    }

    fn write<'a>(&'a self, round: &mut Writing<'_, 'a>) -> Result<Written<u64>, StoreError> {
        remove_sent(round.connection, self.epoch, self.limit as u64).map(Written::Done)
    }
}

/// Takes the lease, and with it every cursor.
fn take_lease(
    connection: &mut Connection,
    log_id: &LogId,
    holder: RelayId,
    duration: Duration,
) -> Result<Option<RelayLease>, StoreError> {
    let Some(epoch) = engine::take_relay_lease(connection, &holder.to_string(), duration)? else {
        return Ok(None);
    };
    let layouts = layouts::read_all(connection, log_id)?;
    let spread = placing::read_spread(connection)?;
    let partitions = |topic: Topic| {
        let layout = layouts.iter().find(|layout| layout.topic() == topic);
        let counted = layout.map_or(topic.partitions(), Layout::partitions);
        counted.max(spread.get(&topic).copied().unwrap_or_default())
    };
    for OutboxPartition { topic, partition } in OutboxPartition::all_of(partitions) {
        insert_or_ignore!(
            connection,
            outbox_cursors::table,
            (
                outbox_cursors::topic.eq(i64::from(topic.code())),
                outbox_cursors::partition.eq(i64::from(partition.0)),
                outbox_cursors::next_offset.eq(0_i64),
                outbox_cursors::kept_offset.eq(0_i64),
                outbox_cursors::epoch.eq(epoch),
            )
        );
    }
    diesel::update(outbox_cursors::table)
        .set(outbox_cursors::epoch.eq(epoch))
        .execute(connection)
        .map_err(engine)?;
    Ok(Some(RelayLease { epoch: Epoch(epoch.cast_unsigned()), cursors: cursors(connection)? }))
}

/// A row of the cursors.
type CursorRow = (i64, i64, i64, Option<i64>, i64);

/// Reads every cursor, in the order of partitions.
fn cursors(connection: &mut Connection) -> Result<Vec<Cursor>, StoreError> {
    let rows: Vec<CursorRow> = outbox_cursors::table
        .select((
            outbox_cursors::topic,
            outbox_cursors::partition,
            outbox_cursors::next_offset,
            outbox_cursors::tail_offset,
            outbox_cursors::epoch,
        ))
        .load(connection)
        .map_err(engine)?;
    let cursor = |(topic, partition, next, tail, epoch): CursorRow| {
        Ok(Cursor {
            partition: place(topic, partition)?,
            next: Offset(next.cast_unsigned()),
            tail: tail.map(|tail| Offset(tail.cast_unsigned())),
            epoch: Epoch(epoch.cast_unsigned()),
        })
    };
    let mut cursors = rows.into_iter().map(cursor).collect::<Result<Vec<Cursor>, StoreError>>()?;
    cursors.sort_by_key(|cursor| cursor.partition);
    Ok(cursors)
}

/// Reads the name of a partition.
pub(super) fn place(topic: i64, partition: i64) -> Result<OutboxPartition, StoreError> {
    let topic =
        u8::try_from(topic).ok().and_then(LogTopic::from_code).ok_or_else(|| unreadable("topic", topic))?;
    let partition = u16::try_from(partition).map_err(|_| unreadable("partition", partition))?;
    Ok(OutboxPartition { topic, partition: Partition(partition) })
}

/// Refuses a cursor's move that goes back.
fn check_forward(step: &CursorMove) -> Result<(), StoreError> {
    if step.next >= step.from {
        return Ok(());
    }
    let detail = format!("cursor of `{}` wanted to go back to {}", step.partition, step.next);
    Err(StoreError::Broken(detail))
}

/// Keeps the record that a cursor stands at apart, and moves the cursor behind it.
fn set_aside(
    connection: &mut Connection,
    command: &Command,
    partition: OutboxPartition,
    offset: Offset,
) -> Result<SetAsideAnswer, StoreError> {
    let row = outbox_cursors::table
        .filter(outbox_cursors::topic.eq(i64::from(partition.topic.code())))
        .filter(outbox_cursors::partition.eq(i64::from(partition.partition.0)));
    let next: Option<i64> =
        row.select(outbox_cursors::next_offset).first(connection).optional().map_err(engine)?;
    let next = Offset(next.unwrap_or(0).cast_unsigned());
    if next != offset {
        return Ok(SetAsideAnswer::NotAtCursor { next });
    }
    let position = key::in_log(partition.topic, partition.partition, offset)?;
    let columns = (log::recorded_at, log::time_type, log::key, log::headers, log::payload);
    let found: Option<RecordColumns> = log::table
        .filter(log::position.eq(position))
        .select(columns)
        .first(connection)
        .optional()
        .map_err(engine)?;
    let Some(found) = found else { return Ok(SetAsideAnswer::NotAtCursor { next }) };
    // Guarded by the place it was read at: an owner that moved it meanwhile keeps what it did.
    let moved = diesel::update(row.filter(outbox_cursors::next_offset.eq(offset.0.cast_signed())))
        .set(outbox_cursors::next_offset.eq(offset.following().0.cast_signed()))
        .execute(connection)
        .map_err(engine)?;
    if moved != 1 {
        return Ok(SetAsideAnswer::NotAtCursor { next: offset.following() });
    }
    diesel::insert_into(outbox_set_aside::table)
        .values((
            outbox_set_aside::position.eq(position),
            outbox_set_aside::recorded_at.eq(found.recorded_at),
            outbox_set_aside::time_type.eq(found.time_type),
            outbox_set_aside::key.eq(found.key),
            outbox_set_aside::headers.eq(found.headers),
            outbox_set_aside::payload.eq(found.payload),
            outbox_set_aside::command_id.eq(command.command_id.0.as_bytes().as_slice()),
            outbox_set_aside::set_aside_at.eq(command.requested_at.as_micros()),
        ))
        .execute(connection)
        .map_err(engine)?;
    Ok(SetAsideAnswer::Done)
}

/// Removes rows that lie far enough below their cursor.
fn remove_sent(connection: &mut Connection, epoch: Epoch, limit: u64) -> Result<u64, StoreError> {
    let kept = i64::try_from(KEPT_SENT_ROWS).unwrap_or(i64::MAX);
    let rows: Vec<(i64, i64, i64, i64)> = outbox_cursors::table
        .filter(outbox_cursors::epoch.eq(epoch.0.cast_signed()))
        .filter(outbox_cursors::next_offset.gt(outbox_cursors::kept_offset + kept))
        .order((outbox_cursors::topic, outbox_cursors::partition))
        .select((
            outbox_cursors::topic,
            outbox_cursors::partition,
            outbox_cursors::next_offset,
            outbox_cursors::kept_offset,
        ))
        .load(connection)
        .map_err(engine)?;
    let mut left = i64::try_from(limit).unwrap_or(i64::MAX);
    for (topic, partition, next, first) in rows {
        let OutboxPartition { topic: named, partition: number } = place(topic, partition)?;
        let end = (next - kept).min(first.saturating_add(left));
        if end <= first {
            break;
        }
        let at = |offset: i64| key::in_log(named, number, Offset(offset.cast_unsigned()));
        diesel::delete(log::table.filter(log::position.between(at(first)?, at(end - 1)?)))
            .execute(connection)
            .map_err(engine)?;
        let row = outbox_cursors::table
            .filter(outbox_cursors::topic.eq(topic))
            .filter(outbox_cursors::partition.eq(partition));
        diesel::update(row).set(outbox_cursors::kept_offset.eq(end)).execute(connection).map_err(engine)?;
        left -= end - first;
    }
    Ok(limit.saturating_sub(left.cast_unsigned()))
}

/// A row of the outbox as one statement over several partitions reads it.
#[derive(QueryableByName)]
pub(super) struct OutboxRow {
    #[diesel(sql_type = BigInt)]
    position: i64,
    #[diesel(sql_type = BigInt)]
    recorded_at: i64,
    #[diesel(sql_type = Integer)]
    time_type: i32,
    #[diesel(sql_type = Nullable<Binary>)]
    key: Option<Vec<u8>>,
    #[diesel(sql_type = Binary)]
    headers: Vec<u8>,
    #[diesel(sql_type = Nullable<Binary>)]
    payload: Option<Vec<u8>>,
}

/// What is read of one partition: the first and the last place, and how many rows at most.
pub(super) struct OutboxRange {
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) rows: i64,
}

impl OutboxRange {
    fn of(wanted: &WantedRows) -> Result<Self, StoreError> {
        let WantedRows { partition, from, limit: rows } = wanted;
        let first = key::in_log(partition.topic, partition.partition, *from)?;
        let (_, last) = key::log_range(partition.topic, partition.partition);
        Ok(Self { first, last, rows: limit(*rows) })
    }
}

impl Reader {
    /// Reads rows of several partitions with one statement.
    fn read_rows(&self, wanted: &[WantedRows], max_bytes: usize) -> Result<Vec<OutboxRows>, StoreError> {
        let wanted: Vec<WantedRows> =
            wanted.iter().copied().filter(|one| one.from.0 < OFFSET_END && one.limit > 0).collect();
        let mut found: Vec<OutboxRows> =
            wanted.iter().map(|one| OutboxRows { partition: one.partition, rows: Vec::new() }).collect();
        if wanted.is_empty() {
            return Ok(found);
        }
        read_now(&self.pool, |connection| {
            let ranges = wanted.iter().map(OutboxRange::of).collect::<Result<Vec<_>, _>>()?;
            let rows = engine::read_outbox(&ranges)
                .load_iter::<OutboxRow, DefaultLoadingMode>(connection)
                .map_err(engine)?;
            let (mut bytes, mut at) = (0, 0);
            for row in rows {
                let OutboxRow { position, recorded_at, time_type, key, headers, payload } =
                    row.map_err(engine)?;
                let offset = key::offset_of(position);
                let columns = RecordColumns { recorded_at, time_type, key, headers, payload };
                let record = columns.into_record(offset)?;
                bytes += record.weight_bytes();
                let is_first = found.iter().all(|one| one.rows.is_empty());
                if bytes > max_bytes && !is_first {
                    break;
                }
                put(&mut found, &mut at, position, record)?;
            }
            found.retain(|one| !one.rows.is_empty());
            Ok(found)
        })
    }
}

/// Puts a row where its partition's rows stand; those of one partition come together.
fn put(found: &mut [OutboxRows], at: &mut usize, position: i64, record: LogRecord) -> Result<(), StoreError> {
    let is_of = |one: &OutboxRows| {
        let (first, last) = key::log_range(one.partition.topic, one.partition.partition);
        (first..=last).contains(&position)
    };
    if !found.get(*at).is_some_and(is_of) {
        *at = found.iter().position(is_of).ok_or_else(|| unreadable("position", position))?;
    }
    if let Some(one) = found.get_mut(*at) {
        one.rows.push(record);
    }
    Ok(())
}

impl OutboxStore for Store {
    fn outbox_heads(&self) -> Arc<OutboxHeads> {
        LogHeads::outbox(&self.reader.heads)
    }

    fn refresh_heads(&self) -> Result<(), StoreError> {
        RecordSource::refresh_heads(&self.reader)
    }

    fn take_lease(&self, holder: RelayId, duration: Duration) -> Reply<Option<RelayLease>, StoreError> {
        self.submit(TakeLease { holder, duration })
    }

    fn renew_lease(&self, holder: RelayId, epoch: Epoch, duration: Duration) -> Reply<bool, StoreError> {
        self.submit(RenewLease { holder, epoch, duration })
    }

    fn release_lease(&self, holder: RelayId, epoch: Epoch) -> Reply<(), StoreError> {
        self.submit(ReleaseLease { holder, epoch })
    }

    fn cursors(&self) -> Result<Vec<Cursor>, StoreError> {
        read_now(&self.reader.pool, cursors)
    }

    fn read_outbox(&self, wanted: &[WantedRows], max_bytes: usize) -> Result<Vec<OutboxRows>, StoreError> {
        self.reader.read_rows(wanted, max_bytes)
    }

    fn advance_cursors(
        &self,
        epoch: Epoch,
        moves: Vec<CursorMove>,
    ) -> Reply<Vec<OutboxPartition>, StoreError> {
        self.submit(AdvanceCursors { epoch, moves })
    }

    fn set_aside(
        &self,
        command: Command,
        partition: OutboxPartition,
        offset: Offset,
        audit: OutgoingRecord,
    ) -> Reply<SetAsideAnswer, StoreError> {
        self.submit(SetAside { command, partition, offset, audit })
    }

    fn set_aside_records_after(
        &self,
        after: Option<(OutboxPartition, Offset)>,
        wanted: usize,
    ) -> Reply<Page<SetAsideRecord>, StoreError> {
        self.reader.for_people.ask(move |connection| {
            let mut room = PageRoom::new(wanted);
            let last = after.map(|(at, offset)| key::in_log(at.topic, at.partition, offset)).transpose()?;
            let behind = outbox_set_aside::table
                .filter(outbox_set_aside::position.gt(last.unwrap_or(i64::MIN)))
                .order(outbox_set_aside::position);
            let weights: Vec<i64> = behind
                .limit(weighed_rows(&room))
                .select(weigh(RECORD_WEIGHT))
                .load(connection)
                .map_err(engine)?;
            let (fitting, has_more) = fit(&mut room, weights);
            let rows: Vec<(i64, RecordColumns, Vec<u8>, i64)> = behind
                .limit(fitting)
                .select((
                    outbox_set_aside::position,
                    (
                        outbox_set_aside::recorded_at,
                        outbox_set_aside::time_type,
                        outbox_set_aside::key,
                        outbox_set_aside::headers,
                        outbox_set_aside::payload,
                    ),
                    outbox_set_aside::command_id,
                    outbox_set_aside::set_aside_at,
                ))
                .load(connection)
                .map_err(engine)?;
            let kept = |(position, columns, command_id, at): (i64, RecordColumns, Vec<u8>, i64)| {
                let (topic, partition) = key::place_of(position);
                Ok(SetAsideRecord {
                    partition: place(topic, partition)?,
                    record: columns.into_record(key::offset_of(position))?,
                    command_id: Uuid::from_slice(&command_id)
                        .map_err(|error| unreadable("command id", error))?,
                    set_aside_at: Timestamp::from_micros(at),
                })
            };
            let rows = rows.into_iter().map(kept).collect::<Result<_, StoreError>>()?;
            Ok(Page { rows, has_more })
        })
    }

    fn remove_sent(&self, epoch: Epoch, limit: usize) -> Reply<u64, StoreError> {
        self.submit(RemoveSent { epoch, limit })
    }
}
