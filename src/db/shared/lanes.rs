//! Lanes: their numbers, their progress and the compare-and-set that fences them (design D2).

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;
use diesel::prelude::*;
use horizons_actors::clock::Timestamp;
use horizons_actors::ids::{
    Epoch, Generation, Group, LaneKey, LogId, Offset, Partition, ProcessId, Revision, Topic, TopicPartition,
};
use horizons_actors::ports::query::HeldLane;
use horizons_actors::ports::store::{
    DesiredState, Fence, LaneOpened, LaneOrders, LanePosition, LaneTransaction, ParkedKeyState, ParkedWish,
    Progress, ResumeAnswer, StoreError,
};
use horizons_actors::record::Digest32;

use super::engine::{Connection, IS_SHARED, engine, insert_or_ignore, lock_row};
use super::schema::{lanes, parked_keys, progress, timers};
use super::{gaps, layouts, trials};
use crate::db::error::unreadable;

/// A generation of a lane with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredLane {
    pub(super) lane: LaneKey,
    pub(super) generation: Generation,
    pub(super) number: i64,
}

/// The numbers of the lanes of a log that are committed, shared by the writer and those who read.
#[derive(Debug)]
pub(super) struct Lanes {
    log_id: LogId,
    known: RwLock<BTreeMap<(LaneKey, Generation), i64>>,
}

impl Lanes {
    /// Finds the number of a lane's newest generation that this process has opened or found.
    pub(super) fn number(&self, lane: &LaneKey) -> Option<i64> {
        let generations = (lane.clone(), Generation(0))..=(lane.clone(), Generation(u32::MAX));
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.range(generations).next_back().map(|(_, number)| *number)
    }

    /// Finds the number of a lane, also of one that another process has made since.
    pub(super) fn find(
        &self,
        connection: &mut Connection,
        lane: &LaneKey,
    ) -> Result<Option<i64>, StoreError> {
        match self.number(lane) {
            None if IS_SHARED => Ok(read_newest(connection, &self.log_id, lane)?.map(|found| found.number)),
            known => Ok(known),
        }
    }

    /// Finds the number of a lane's newest generation, also where another process has made a newer one than this one
    /// has seen: what an operator asks for is about that.
    pub(super) fn find_newest(
        &self,
        connection: &mut Connection,
        lane: &LaneKey,
    ) -> Result<Option<i64>, StoreError> {
        if IS_SHARED {
            Ok(read_newest(connection, &self.log_id, lane)?.map(|found| found.number))
        } else {
            Ok(self.number(lane))
        }
    }

    /// Lists the lanes in order of their keys and generations, those of other processes too.
    pub(super) fn sorted(&self, connection: &mut Connection) -> Result<Vec<StoredLane>, StoreError> {
        if IS_SHARED {
            self.publish(read_all(connection, &self.log_id)?);
        }
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let lanes = known.iter().map(|((lane, generation), number)| StoredLane {
            lane: lane.clone(),
            generation: *generation,
            number: *number,
        });
        Ok(lanes.collect())
    }

    /// Gives the id under which a generation is stored and hashed.
    pub(super) fn log_id(&self, generation: Generation) -> Result<LogId, StoreError> {
        generation_id(&self.log_id, generation)
    }

    /// Adds lanes after the commit that made them.
    pub(super) fn publish(&self, made: impl IntoIterator<Item = StoredLane>) {
        let made = made.into_iter().map(|made| ((made.lane, made.generation), made.number));
        self.known.write().unwrap_or_else(PoisonError::into_inner).extend(made);
    }

    /// Reads all lanes of a log.
    pub(super) fn load(connection: &mut Connection, log_id: &LogId) -> Result<Self, StoreError> {
        let lanes = Self { log_id: log_id.clone(), known: RwLock::default() };
        lanes.publish(read_all(connection, log_id)?);
        Ok(lanes)
    }
}

/// Gives the id of a generation of a log.
fn generation_id(log_id: &LogId, generation: Generation) -> Result<LogId, StoreError> {
    log_id.of_generation(generation).map_err(|error| unreadable("log id of a generation", error))
}

/// Reads a stored generation.
fn generation(number: i64) -> Result<Generation, StoreError> {
    u32::try_from(number).map(Generation).map_err(|_| unreadable("generation", number))
}

/// Reads all generations of all lanes of a log.
fn read_all(connection: &mut Connection, log_id: &LogId) -> Result<Vec<StoredLane>, StoreError> {
    let rows: Vec<(i64, String, String, i64, i64, i64)> = lanes::table
        .select((
            lanes::lane,
            lanes::log_id,
            lanes::group_name,
            lanes::topic,
            lanes::partition,
            lanes::generation,
        ))
        .load(connection)
        .map_err(engine)?;
    let mut found = Vec::with_capacity(rows.len());
    for (number, stored_id, group, topic, partition, stored_generation) in rows {
        let generation = generation(stored_generation)?;
        if stored_id != generation_id(log_id, generation)?.as_str() {
            continue;
        }
        let group = Group::parse(&group).map_err(|error| unreadable("group", error))?;
        let lane = LaneKey { group, topic_partition: topic_partition(topic, partition)? };
        found.push(StoredLane { lane, generation, number });
    }
    Ok(found)
}

/// Reads the newest generation of a lane.
fn read_newest(
    connection: &mut Connection,
    log_id: &LogId,
    lane: &LaneKey,
) -> Result<Option<StoredLane>, StoreError> {
    let rows: Vec<(i64, String, i64)> = lanes::table
        .filter(lanes::group_name.eq(lane.group.as_str()))
        .filter(lanes::topic.eq(i64::from(lane.topic_partition.topic.code())))
        .filter(lanes::partition.eq(i64::from(lane.topic_partition.partition.0)))
        .order(lanes::generation.desc())
        .select((lanes::lane, lanes::log_id, lanes::generation))
        .load(connection)
        .map_err(engine)?;
    for (number, stored_id, stored_generation) in rows {
        let generation = generation(stored_generation)?;
        if stored_id == generation_id(log_id, generation)?.as_str() {
            return Ok(Some(StoredLane { lane: lane.clone(), generation, number }));
        }
    }
    Ok(None)
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
    opened_by: Option<Vec<u8>>,
    ended_in_order: i32,
    starts_aside: i64,
    held_because: Option<String>,
}

/// Reads 32 bytes.
pub(super) fn digest(what: &str, bytes: &[u8]) -> Result<Digest32, StoreError> {
    bytes.try_into().map_err(|_| unreadable(what, format_args!("{} bytes", bytes.len())))
}

/// Reads a stored desired state.
fn desired(name: &str) -> Result<DesiredState, StoreError> {
    match name {
        DESIRED_AT_FIRST => Ok(DesiredState::Running),
        HELD => Ok(DesiredState::Paused),
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

/// Gives the newest generation of a lane, making the first one if the lane is new.
pub(super) fn find_or_make(
    connection: &mut Connection,
    log_id: &LogId,
    lane: &LaneKey,
) -> Result<StoredLane, StoreError> {
    match read_newest(connection, log_id, lane)? {
        Some(found) => Ok(found),
        None => make(connection, log_id, lane, Generation(0)),
    }
}

/// Makes a generation of a lane; another process may make it at the same time.
pub(super) fn make(
    connection: &mut Connection,
    log_id: &LogId,
    lane: &LaneKey,
    generation: Generation,
) -> Result<StoredLane, StoreError> {
    insert_or_ignore!(
        connection,
        lanes::table,
        (
            lanes::log_id.eq(generation_id(log_id, generation)?.as_str()),
            lanes::group_name.eq(lane.group.as_str()),
            lanes::topic.eq(i64::from(lane.topic_partition.topic.code())),
            lanes::partition.eq(i64::from(lane.topic_partition.partition.0)),
            lanes::generation.eq(i64::from(generation.0)),
        )
    );
    read_newest(connection, log_id, lane)?
        .filter(|made| made.generation == generation)
        .ok_or_else(|| StoreError::Broken(format!("generation {generation} of lane `{lane}` was not made")))
}

/// Makes a lane and the row of its progress where they are missing, and gives its number. Called in the order of
/// lanes: others may make the same ones now.
pub(super) fn begin(connection: &mut Connection, log_id: &LogId, lane: &LaneKey) -> Result<i64, StoreError> {
    let number = find_or_make(connection, log_id, lane)?.number;
    insert_or_ignore!(
        connection,
        progress::table,
        (
            progress::lane.eq(number),
            progress::owner_epoch.eq(0),
            progress::revision.eq(0),
            progress::starts_at_next.eq(0),
            progress::desired.eq(DESIRED_AT_FIRST),
        )
    );
    Ok(number)
}

/// Takes a new epoch for a lane and reads where it stands.
pub(super) fn open(
    connection: &mut Connection,
    log_id: &LogId,
    stored: &StoredLane,
    process: ProcessId,
) -> Result<LaneOpened, StoreError> {
    let number = stored.number;
    diesel::insert_into(progress::table)
        .values((
            progress::lane.eq(number),
            progress::owner_epoch.eq(1),
            progress::revision.eq(0),
            progress::starts_at_next.eq(0),
            progress::desired.eq(DESIRED_AT_FIRST),
        ))
        .on_conflict(progress::lane)
        .do_update()
        .set(progress::owner_epoch.eq(progress::owner_epoch + 1))
        .execute(connection)
        .map_err(engine)?;
    let row: ProgressRow =
        progress::table.filter(progress::lane.eq(number)).first(connection).map_err(engine)?;
    let process = process.0.as_bytes();
    let is_other = row.opened_by.as_deref().is_some_and(|before| before != process);
    let unclean = i64::from(is_other && row.ended_in_order == 0);
    let (starts_at_next, starts_aside) = (row.starts_at_next + unclean, row.starts_aside + unclean);
    diesel::update(progress::table.filter(progress::lane.eq(number)))
        .set((
            progress::starts_at_next.eq(starts_at_next),
            progress::starts_aside.eq(starts_aside),
            progress::opened_by.eq(process.as_slice()),
            progress::ended_in_order.eq(0),
        ))
        .execute(connection)
        .map_err(engine)?;
    let next = row.next_offset.map(|next| Offset(next.cast_unsigned()));
    let last_fingerprint =
        row.last_fingerprint.as_deref().map(|bytes| digest("fingerprint", bytes)).transpose()?;
    Ok(LaneOpened {
        fence: Fence {
            epoch: Epoch(row.owner_epoch.cast_unsigned()),
            revision: Revision(row.revision.cast_unsigned()),
        },
        next,
        last_fingerprint,
        log_id: generation_id(log_id, stored.generation)?,
        generation: stored.generation,
        layout: layouts::read_or_make(connection, log_id, stored.lane.topic_partition.topic)?,
        starts_at_next: u32::try_from(starts_at_next).unwrap_or(u32::MAX),
        starts_aside: u32::try_from(starts_aside).unwrap_or(u32::MAX),
        trials: trials::opened(connection, number, next, is_other)?,
        open_gap: gaps::read_open(connection, number)?.map(|gap| gap.kind),
        parked: parked(connection, number)?,
        desired: desired(&row.desired)?,
        held_because: row.held_because,
        next_timer: next_timer(connection, number)?,
    })
}

/// Tells whether an epoch owns a lane, and holds the row until the transaction ends.
pub(super) fn is_owned_by(
    connection: &mut Connection,
    number: i64,
    epoch: Epoch,
) -> Result<bool, StoreError> {
    let progress = lock_progress(connection, number)?;
    Ok(progress.is_some_and(|progress| progress.fence.epoch == epoch))
}

/// Notes that a lane's owner ended in order.
pub(super) fn end_in_order(connection: &mut Connection, number: i64) -> Result<(), StoreError> {
    diesel::update(progress::table.filter(progress::lane.eq(number)))
        .set(progress::ended_in_order.eq(1))
        .execute(connection)
        .map_err(engine)?;
    Ok(())
}

/// Lets a lane go on at a position, with an epoch that nobody has.
pub(super) fn skip_to(connection: &mut Connection, number: i64, low: Offset) -> Result<(), StoreError> {
    diesel::update(progress::table.filter(progress::lane.eq(number)))
        .set((
            progress::owner_epoch.eq(progress::owner_epoch + 1),
            progress::next_offset.eq(low.0.cast_signed()),
            progress::last_fingerprint.eq(None::<Vec<u8>>),
            progress::starts_at_next.eq(0),
        ))
        .execute(connection)
        .map_err(engine)?;
    Ok(())
}

/// Ends a generation, and begins another one with an epoch above all of the old one's: no incarnation of before
/// can pass for one of the new generation.
pub(super) fn hand_on(connection: &mut Connection, old: i64, new: i64) -> Result<(), StoreError> {
    let (epoch, wanted, held_because): (i64, String, Option<String>) =
        diesel::update(progress::table.filter(progress::lane.eq(old)))
            .set(progress::owner_epoch.eq(progress::owner_epoch + 1))
            .returning((progress::owner_epoch, progress::desired, progress::held_because))
            .get_result(connection)
            .map_err(engine)?;
    diesel::insert_into(progress::table)
        .values((
            progress::lane.eq(new),
            progress::owner_epoch.eq(epoch),
            progress::revision.eq(0),
            progress::starts_at_next.eq(0),
            progress::desired.eq(wanted),
            progress::held_because.eq(held_because),
        ))
        .execute(connection)
        .map_err(engine)?;
    Ok(())
}

/// Holds a lane until an operator resumes it.
pub(super) fn hold(connection: &mut Connection, number: i64, reason: &str) -> Result<(), StoreError> {
    diesel::update(progress::table.filter(progress::lane.eq(number)))
        .set((progress::desired.eq(HELD), progress::held_because.eq(reason)))
        .execute(connection)
        .map_err(engine)?;
    Ok(())
}

/// Lets a lane go on that is held.
pub(super) fn resume(
    connection: &mut Connection,
    lanes: &Lanes,
    lane: &LaneKey,
) -> Result<ResumeAnswer, StoreError> {
    let Some(number) = lanes.find_newest(connection, lane)? else { return Ok(ResumeAnswer::NoLane) };
    let held = progress::table.filter(progress::lane.eq(number)).filter(progress::desired.eq(HELD));
    let resumed = diesel::update(held)
        .set((progress::desired.eq(DESIRED_AT_FIRST), progress::held_because.eq(None::<String>)))
        .execute(connection)
        .map_err(engine)?;
    Ok(if resumed == 1 { ResumeAnswer::Resumed } else { ResumeAnswer::NotHeld })
}

/// Lists the lanes that are held, in order of lane. One row a lane and generation is looked at.
pub(super) fn list_held(connection: &mut Connection, lanes: &Lanes) -> Result<Vec<HeldLane>, StoreError> {
    let held: BTreeMap<i64, Option<String>> = progress::table
        .filter(progress::desired.eq(HELD))
        .select((progress::lane, progress::held_because))
        .load(connection)
        .map_err(engine)?
        .into_iter()
        .collect();
    // Of a lane's generations the newest comes last.
    let mut newest = BTreeMap::new();
    for StoredLane { lane, generation, number } in lanes.sorted(connection)? {
        newest.insert(lane, (generation, number));
    }
    let listed = newest.into_iter().filter_map(|(lane, (generation, number))| {
        held.get(&number).map(|reason| HeldLane { lane, generation, reason: reason.clone() })
    });
    Ok(listed.collect())
}

/// A lane works until something holds it.
const DESIRED_AT_FIRST: &str = "running";

/// What is stored of a lane that is held.
const HELD: &str = "paused";

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
    let row: Option<(String, Option<String>)> = progress::table
        .filter(progress::lane.eq(number))
        .select((progress::desired, progress::held_because))
        .first(connection)
        .optional()
        .map_err(engine)?;
    let parked = parked(connection, number)?;
    Ok(match row {
        Some((name, held_because)) => LaneOrders { parked, desired: desired(&name)?, held_because },
        None => LaneOrders { parked, ..LaneOrders::default() },
    })
}

/// Reads how far the lanes of a group and topic are, in the order of their partitions.
pub(super) fn positions(
    connection: &mut Connection,
    lanes: &Lanes,
    group: &Group,
    topic: Topic,
) -> Result<Vec<LanePosition>, StoreError> {
    let mut numbers: BTreeMap<i64, Partition> = BTreeMap::new();
    let mut newest: BTreeMap<Partition, i64> = BTreeMap::new();
    for stored in lanes.sorted(connection)? {
        let TopicPartition { topic: of, partition } = stored.lane.topic_partition;
        if stored.lane.group == *group && of == topic {
            // In order of generation: the newest one stays.
            newest.insert(partition, stored.number);
        }
    }
    numbers.extend(newest.iter().map(|(partition, number)| (*number, *partition)));
    let wanted: Vec<i64> = numbers.keys().copied().collect();
    let mut positions: BTreeMap<Partition, LanePosition> = newest
        .keys()
        .map(|partition| (*partition, LanePosition { partition: *partition, next: None, parked: Vec::new() }))
        .collect();
    // Progress first: a key that is parked behind a position is seen then.
    let progressed: Vec<(i64, Option<i64>)> = progress::table
        .filter(progress::lane.eq_any(&wanted))
        .select((progress::lane, progress::next_offset))
        .load(connection)
        .map_err(engine)?;
    let parked: Vec<(i64, Vec<u8>)> = parked_keys::table
        .filter(parked_keys::lane.eq_any(&wanted))
        .select((parked_keys::lane, parked_keys::key))
        .load(connection)
        .map_err(engine)?;
    for (number, next) in progressed {
        if let Some(position) = numbers.get(&number).and_then(|partition| positions.get_mut(partition)) {
            position.next = next.map(|next| Offset(next.cast_unsigned()));
        }
    }
    for (number, key) in parked {
        if let Some(position) = numbers.get(&number).and_then(|partition| positions.get_mut(partition)) {
            position.parked.push(Bytes::from(key));
        }
    }
    Ok(positions.into_values().collect())
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
