//! Lanes: their numbers, their progress and the compare-and-set that fences them (design D2).

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;
use diesel::prelude::*;
use horizons_actors::clock::Timestamp;
use horizons_actors::ids::{
    Epoch, Group, LaneKey, LogId, Offset, Partition, Revision, Topic, TopicPartition,
};
use horizons_actors::ports::store::{
    DesiredState, Fence, LaneOpened, LaneOrders, LaneTransaction, ParkedKeyState, ParkedWish, Progress,
    StoreError,
};
use horizons_actors::record::Digest32;

use super::engine::{Connection, IS_SHARED, engine, insert_or_ignore, lock_row};
use super::schema::{lanes, parked_keys, progress, timers};
use crate::db::error::unreadable;

/// The numbers of the lanes of a log that are committed, shared by the writer and those who read.
#[derive(Debug)]
pub(super) struct Lanes {
    log_id: LogId,
    numbers: RwLock<HashMap<LaneKey, i64>>,
}

impl Lanes {
    /// Finds the number of a lane that this process has opened or found.
    pub(super) fn number(&self, lane: &LaneKey) -> Option<i64> {
        self.numbers.read().unwrap_or_else(PoisonError::into_inner).get(lane).copied()
    }

    /// Finds the number of a lane, also of one that another process has made since.
    pub(super) fn find(
        &self,
        connection: &mut Connection,
        lane: &LaneKey,
    ) -> Result<Option<i64>, StoreError> {
        match self.number(lane) {
            None if IS_SHARED => read_number(connection, &self.log_id, lane),
            known => Ok(known),
        }
    }

    /// Lists the lanes in order of their keys, those of other processes too.
    pub(super) fn sorted(&self, connection: &mut Connection) -> Result<Vec<(LaneKey, i64)>, StoreError> {
        if IS_SHARED {
            self.publish(read_numbers(connection, &self.log_id)?);
        }
        let mut lanes: Vec<_> = self
            .numbers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(lane, number)| (lane.clone(), *number))
            .collect();
        lanes.sort();
        Ok(lanes)
    }

    /// Adds lanes after the commit that made them.
    pub(super) fn publish(&self, made: impl IntoIterator<Item = (LaneKey, i64)>) {
        self.numbers.write().unwrap_or_else(PoisonError::into_inner).extend(made);
    }

    /// Reads all lanes of a log.
    pub(super) fn load(connection: &mut Connection, log_id: &LogId) -> Result<Self, StoreError> {
        let numbers = read_numbers(connection, log_id)?;
        Ok(Self { log_id: log_id.clone(), numbers: RwLock::new(numbers) })
    }
}

/// Reads the numbers of all lanes of a log.
fn read_numbers(connection: &mut Connection, log_id: &LogId) -> Result<HashMap<LaneKey, i64>, StoreError> {
    let rows: Vec<(i64, String, i64, i64)> = lanes::table
        .filter(lanes::log_id.eq(log_id.as_str()))
        .select((lanes::lane, lanes::group_name, lanes::topic, lanes::partition))
        .load(connection)
        .map_err(engine)?;
    let mut numbers = HashMap::with_capacity(rows.len());
    for (number, group, topic, partition) in rows {
        let group = Group::parse(&group).map_err(|error| unreadable("group", error))?;
        numbers.insert(LaneKey { group, topic_partition: topic_partition(topic, partition)? }, number);
    }
    Ok(numbers)
}

/// Reads the number of a lane.
fn read_number(
    connection: &mut Connection,
    log_id: &LogId,
    lane: &LaneKey,
) -> Result<Option<i64>, StoreError> {
    lanes::table
        .filter(lanes::log_id.eq(log_id.as_str()))
        .filter(lanes::group_name.eq(lane.group.as_str()))
        .filter(lanes::topic.eq(i64::from(lane.topic_partition.topic.code())))
        .filter(lanes::partition.eq(i64::from(lane.topic_partition.partition.0)))
        .select(lanes::lane)
        .first(connection)
        .optional()
        .map_err(engine)
}

/// Reads the stored name of a partition of record.
pub(super) fn topic_partition(topic: i64, partition: i64) -> Result<TopicPartition, StoreError> {
    let topic =
        u8::try_from(topic).ok().and_then(Topic::from_code).ok_or_else(|| unreadable("topic", topic))?;
    let partition = u16::try_from(partition).map_err(|_| unreadable("partition", partition))?;
    Ok(TopicPartition { topic, partition: Partition(partition) })
}

/// A row of progress as it is read.
#[derive(Debug, Queryable)]
struct ProgressRow {
    _lane: i64,
    next_offset: Option<i64>,
    owner_epoch: i64,
    revision: i64,
    last_fingerprint: Option<Vec<u8>>,
    starts_at_next: i64,
    desired: String,
}

/// Reads 32 bytes.
pub(super) fn digest(what: &str, bytes: &[u8]) -> Result<Digest32, StoreError> {
    bytes.try_into().map_err(|_| unreadable(what, format_args!("{} bytes", bytes.len())))
}

/// Reads a stored desired state.
fn desired(name: &str) -> Result<DesiredState, StoreError> {
    match name {
        "running" => Ok(DesiredState::Running),
        "paused" => Ok(DesiredState::Paused),
        other => Err(unreadable("desired state", other)),
    }
}

/// Reads a stored wish.
pub(super) fn wish(name: &str) -> Result<ParkedWish, StoreError> {
    [ParkedWish::Wait, ParkedWish::Release, ParkedWish::DiscardHead]
        .into_iter()
        .find(|wish| wish.name() == name)
        .ok_or_else(|| unreadable("wish", name))
}

/// Gives the number of a lane, making it if it is new.
pub(super) fn number_or_make(
    connection: &mut Connection,
    log_id: &LogId,
    lane: &LaneKey,
) -> Result<i64, StoreError> {
    if let Some(number) = read_number(connection, log_id, lane)? {
        return Ok(number);
    }
    // Another process may make it at the same time.
    insert_or_ignore!(
        connection,
        lanes::table,
        (
            lanes::log_id.eq(log_id.as_str()),
            lanes::group_name.eq(lane.group.as_str()),
            lanes::topic.eq(i64::from(lane.topic_partition.topic.code())),
            lanes::partition.eq(i64::from(lane.topic_partition.partition.0)),
        )
    );
    read_number(connection, log_id, lane)?
        .ok_or_else(|| StoreError::Broken(format!("lane `{lane}` was not made")))
}

/// Takes a new epoch for a lane and reads where it stands.
pub(super) fn open(connection: &mut Connection, number: i64) -> Result<LaneOpened, StoreError> {
    diesel::insert_into(progress::table)
        .values((
            progress::lane.eq(number),
            progress::owner_epoch.eq(1),
            progress::revision.eq(0),
            progress::starts_at_next.eq(1),
            progress::desired.eq(DESIRED_AT_FIRST),
        ))
        .on_conflict(progress::lane)
        .do_update()
        .set((
            progress::owner_epoch.eq(progress::owner_epoch + 1),
            progress::starts_at_next.eq(progress::starts_at_next + 1),
        ))
        .execute(connection)
        .map_err(engine)?;
    let row: ProgressRow =
        progress::table.filter(progress::lane.eq(number)).first(connection).map_err(engine)?;
    let last_fingerprint =
        row.last_fingerprint.as_deref().map(|bytes| digest("fingerprint", bytes)).transpose()?;
    Ok(LaneOpened {
        fence: Fence {
            epoch: Epoch(row.owner_epoch.cast_unsigned()),
            revision: Revision(row.revision.cast_unsigned()),
        },
        next: row.next_offset.map(|next| Offset(next.cast_unsigned())),
        last_fingerprint,
        starts_at_next: u32::try_from(row.starts_at_next).unwrap_or(u32::MAX),
        parked: parked(connection, number)?,
        desired: desired(&row.desired)?,
        next_timer: next_timer(connection, number)?,
    })
}

/// A lane works until an operator holds it.
const DESIRED_AT_FIRST: &str = "running";

/// Lists the parked keys of a lane.
fn parked(connection: &mut Connection, number: i64) -> Result<Vec<ParkedKeyState>, StoreError> {
    let rows: Vec<(Vec<u8>, i64, String, i64)> = parked_keys::table
        .filter(parked_keys::lane.eq(number))
        .order(parked_keys::key)
        .select((parked_keys::key, parked_keys::head_offset, parked_keys::wish, parked_keys::records))
        .load(connection)
        .map_err(engine)?;
    rows.into_iter()
        .map(|(key, head, name, records)| {
            Ok(ParkedKeyState {
                key: Bytes::from(key),
                head: Offset(head.cast_unsigned()),
                wish: wish(&name)?,
                records: records.cast_unsigned(),
            })
        })
        .collect()
}

/// Gives when the earliest timer of a lane falls due.
pub(super) fn next_timer(connection: &mut Connection, number: i64) -> Result<Option<Timestamp>, StoreError> {
    let due: Option<i64> = timers::table
        .filter(timers::lane.eq(number))
        .order(timers::due_at)
        .select(timers::due_at)
        .first(connection)
        .optional()
        .map_err(engine)?;
    Ok(due.map(Timestamp::from_micros))
}

/// The columns of progress as they are read for an answer.
type ProgressColumns = (Option<i64>, i64, i64);

fn into_progress((next, epoch, revision): ProgressColumns) -> Progress {
    Progress {
        fence: Fence { epoch: Epoch(epoch.cast_unsigned()), revision: Revision(revision.cast_unsigned()) },
        next: next.map(|next| Offset(next.cast_unsigned())),
    }
}

/// Reads how far a lane is.
pub(super) fn read_progress(
    connection: &mut Connection,
    number: i64,
) -> Result<Option<Progress>, StoreError> {
    let row: Option<ProgressColumns> = progress::table
        .filter(progress::lane.eq(number))
        .select((progress::next_offset, progress::owner_epoch, progress::revision))
        .first(connection)
        .optional()
        .map_err(engine)?;
    Ok(row.map(into_progress))
}

/// Reads how far a lane is, behind a transaction that is still about to end: after a commit whose answer was
/// lost, the server may not have heard of that yet (design D2).
pub(super) fn lock_progress(
    connection: &mut Connection,
    number: i64,
) -> Result<Option<Progress>, StoreError> {
    let row = progress::table.filter(progress::lane.eq(number)).select((
        progress::next_offset,
        progress::owner_epoch,
        progress::revision,
    ));
    let row: Option<ProgressColumns> = lock_row!(row).first(connection).optional().map_err(engine)?;
    Ok(row.map(into_progress))
}

/// Reads what operators want of a lane.
pub(super) fn read_orders(connection: &mut Connection, number: i64) -> Result<LaneOrders, StoreError> {
    let name: Option<String> = progress::table
        .filter(progress::lane.eq(number))
        .select(progress::desired)
        .first(connection)
        .optional()
        .map_err(engine)?;
    Ok(LaneOrders {
        parked: parked(connection, number)?,
        desired: name.as_deref().map(desired).transpose()?.unwrap_or_default(),
    })
}

/// What moving a lane's progress has shown beside, so that nobody need ask again; none where nobody looked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The size of its audit log.
    pub(super) audit_size: Option<i64>,
    /// When its earliest timer falls due, if it has one, before the transaction.
    pub(super) next_timer: Option<Option<i64>>,
}

/// Whether a lane may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ownership {
    /// Its progress is moved.
    Owned(Seen),
    /// Another owner or another position.
    Fenced,
}

/// Gives the fence after a transaction.
pub(super) fn following(fence: Fence) -> Fence {
    Fence { epoch: fence.epoch, revision: fence.revision.following() }
}

/// Refuses a transaction that goes back.
pub(super) fn check_forward(transaction: &LaneTransaction) -> Result<(), StoreError> {
    match transaction.from {
        Some(from) if transaction.next < from => Err(StoreError::Broken(format!(
            "lane `{}` wanted to go back from {from} to {}",
            transaction.lane, transaction.next
        ))),
        _ => Ok(()),
    }
}
