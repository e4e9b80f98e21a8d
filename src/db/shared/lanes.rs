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
    DesiredState, Fence, LaneOpened, LaneOrders, ParkedKeyState, ParkedWish, Progress, StoreError,
};
use horizons_actors::record::Digest32;

use super::engine::{Connection, engine};
use super::schema::{lanes, parked_keys, progress, timers};
use crate::db::error::unreadable;

/// The numbers of the lanes that are committed, shared by the writer and those who read.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    numbers: RwLock<HashMap<LaneKey, i64>>,
}

impl Lanes {
    /// Finds the number of a lane.
    pub(super) fn number(&self, lane: &LaneKey) -> Option<i64> {
        self.numbers.read().unwrap_or_else(PoisonError::into_inner).get(lane).copied()
    }

    /// Lists the lanes in order of their keys.
    pub(super) fn sorted(&self) -> Vec<(LaneKey, i64)> {
        let mut lanes: Vec<_> = self
            .numbers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(lane, number)| (lane.clone(), *number))
            .collect();
        lanes.sort();
        lanes
    }

    /// Adds lanes after the commit that made them.
    pub(super) fn publish(&self, made: impl IntoIterator<Item = (LaneKey, i64)>) {
        self.numbers.write().unwrap_or_else(PoisonError::into_inner).extend(made);
    }

    /// Reads all lanes of a log.
    pub(super) fn load(connection: &mut Connection, log_id: &LogId) -> Result<Self, StoreError> {
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
        Ok(Self { numbers: RwLock::new(numbers) })
    }
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
    let topic = i64::from(lane.topic_partition.topic.code());
    let partition = i64::from(lane.topic_partition.partition.0);
    let known: Option<i64> = lanes::table
        .filter(lanes::log_id.eq(log_id.as_str()))
        .filter(lanes::group_name.eq(lane.group.as_str()))
        .filter(lanes::topic.eq(topic))
        .filter(lanes::partition.eq(partition))
        .select(lanes::lane)
        .first(connection)
        .optional()
        .map_err(engine)?;
    if let Some(number) = known {
        return Ok(number);
    }
    diesel::insert_into(lanes::table)
        .values((
            lanes::log_id.eq(log_id.as_str()),
            lanes::group_name.eq(lane.group.as_str()),
            lanes::topic.eq(topic),
            lanes::partition.eq(partition),
        ))
        .returning(lanes::lane)
        .get_result(connection)
        .map_err(engine)
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

/// Reads how far a lane is.
pub(super) fn read_progress(
    connection: &mut Connection,
    number: i64,
) -> Result<Option<Progress>, StoreError> {
    let row: Option<(Option<i64>, i64, i64)> = progress::table
        .filter(progress::lane.eq(number))
        .select((progress::next_offset, progress::owner_epoch, progress::revision))
        .first(connection)
        .optional()
        .map_err(engine)?;
    Ok(row.map(|(next, epoch, revision)| Progress {
        fence: Fence { epoch: Epoch(epoch.cast_unsigned()), revision: Revision(revision.cast_unsigned()) },
        next: next.map(|next| Offset(next.cast_unsigned())),
    }))
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

/// Whether a lane may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ownership {
    /// Its progress is moved.
    Owned,
    /// Another owner or another position.
    Fenced,
}

/// Gives the fence after a transaction.
pub(super) fn following(fence: Fence) -> Fence {
    Fence { epoch: fence.epoch, revision: fence.revision.following() }
}
