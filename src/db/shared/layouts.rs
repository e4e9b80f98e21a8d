//! Where keys are at home: the stored epochs of a topic's layout.
//!
//! Promises that a topic has a first epoch from the moment its first lane is opened, and that none is ever
//! forgotten: a record is judged by the one that is in force at its offset.

use std::collections::BTreeMap;

use diesel::prelude::*;
use horizons_actors::clock::{Clock, SystemClock};
use horizons_actors::command::LayoutAdoption;
use horizons_actors::ids::{LogId, Offset, Partition, Topic, TopicPartition};
use horizons_actors::layout::{Layout, LayoutEpoch};
use horizons_actors::ports::store::{LayoutAdopted, LayoutBegun, StoreError};
use horizons_actors::record::OutgoingRecord;

use super::engine::{Connection, engine, insert_or_ignore};
use super::locks::Locks;
use super::operation::{Operation, Writing, Written};
use super::placing::{self, Turn};
use super::readers::read_now;
use super::schema::{lanes, layout_epochs, progress};
use super::store::Reader;
use crate::db::error::unreadable;

/// Reads a topic's layout, storing what it begins with if there is none. Inside a transaction that writes.
pub(super) fn read_or_make(
    connection: &mut Connection,
    log_id: &LogId,
    topic: Topic,
) -> Result<Layout, StoreError> {
    if let Some(layout) = read(connection, log_id, topic)? {
        return Ok(layout);
    }
    let first = Layout::first_of(topic);
    // Another process may store the same at the same time.
    insert_or_ignore!(connection, layout_epochs::table, columns(log_id, topic, 0, first.newest()));
    Ok(first)
}

/// Reads a topic's layout; none before its first lane was opened.
pub(super) fn read(
    connection: &mut Connection,
    log_id: &LogId,
    topic: Topic,
) -> Result<Option<Layout>, StoreError> {
    let rows: Vec<(i64, Vec<u8>)> = layout_epochs::table
        .filter(layout_epochs::log_id.eq(log_id.as_str()))
        .filter(layout_epochs::topic.eq(i64::from(topic.code())))
        .order(layout_epochs::epoch)
        .select((layout_epochs::partitions, layout_epochs::from_offsets))
        .load(connection)
        .map_err(engine)?;
    let mut epochs = rows.into_iter().map(|(partitions, from)| epoch(partitions, &from));
    let Some(first) = epochs.next() else { return Ok(None) };
    Ok(Some(Layout::new(topic, first?, epochs.collect::<Result<_, _>>()?)))
}

/// Reads the layouts of all topics that have one.
pub(super) fn read_all(connection: &mut Connection, log_id: &LogId) -> Result<Vec<Layout>, StoreError> {
    let mut all = Vec::new();
    for topic in Topic::ALL {
        all.extend(read(connection, log_id, topic)?);
    }
    Ok(all)
}

impl Reader {
    /// Reads the layouts of all topics that have one. Blocks.
    ///
    /// *Errors*: [`StoreError`] when the database cannot be read.
    pub fn layouts(&self) -> Result<Vec<Layout>, StoreError> {
        let log_id = self.log_id();
        read_now(&self.pool, |connection| read_all(connection, &log_id))
    }
}

/// Begins to let more partitions of a topic count; gives what is to be done with the ends of its partitions, where it was
/// not begun before.
fn begin(
    connection: &mut Connection,
    log_id: &LogId,
    adoption: &LayoutAdoption,
) -> Result<(LayoutBegun, Option<Turn>), StoreError> {
    let LayoutAdoption { topic, epochs, partitions, .. } = *adoption;
    let layout = read_or_make(connection, log_id, topic)?;
    if layout.count() != epochs || layout.partitions() >= partitions {
        return Ok((LayoutBegun::Changed(layout), None));
    }
    if let Some(partitions) = placing::read_unsent(connection, topic)?.begun {
        return Ok((LayoutBegun::Begun { partitions }, None));
    }
    Ok((LayoutBegun::Begun { partitions }, Some(Turn::Begins { topic, partitions })))
}

/// Lets more partitions of a topic count. Whoever owned a lane of the topic owns it no more, and no boundary is below what
/// one has written.
fn adopt(
    connection: &mut Connection,
    log_id: &LogId,
    adoption: &LayoutAdoption,
) -> Result<LayoutAdopted, StoreError> {
    let topic = adoption.topic;
    let layout = read_or_make(connection, log_id, topic)?;
    if layout.count() != adoption.epochs || layout.partitions() >= adoption.partitions {
        return Ok(LayoutAdopted::Changed(layout));
    }
    let unsent = placing::read_unsent(connection, topic)?;
    if let Some(begun) = unsent.begun
        && (begun != adoption.partitions || !unsent.places.is_empty())
    {
        return Ok(LayoutAdopted::Unsent(unsent));
    }
    let of_topic = lanes::table
        .filter(lanes::topic.eq(i64::from(topic.code())))
        .order(lanes::lane)
        .select((lanes::lane, lanes::partition, lanes::group_name, lanes::generation))
        .load::<(i64, i64, String, i64)>(connection)
        .map_err(engine)?;
    // Of a lane that began anew only the newest generation is read on.
    let mut newest: BTreeMap<(i64, &str), (i64, i64)> = BTreeMap::new();
    for (lane, partition, group, generation) in &of_topic {
        let known = newest.entry((*partition, group)).or_insert((*generation, *lane));
        *known = (*known).max((*generation, *lane));
    }
    let mut read: BTreeMap<i64, i64> = BTreeMap::new();
    for ((partition, _), (_, lane)) in newest {
        let next: Option<Option<i64>> = diesel::update(progress::table.filter(progress::lane.eq(lane)))
            .set(progress::owner_epoch.eq(progress::owner_epoch + 1))
            .returning(progress::next_offset)
            .get_result(connection)
            .optional()
            .map_err(engine)?;
        let known = read.entry(partition).or_default();
        *known = next.flatten().unwrap_or_default().max(*known);
    }
    let read = |partition: Partition| {
        Offset(read.get(&i64::from(partition.0)).copied().unwrap_or_default().cast_unsigned())
    };
    let following = layout.following(adoption.partitions, &adoption.ends, read);
    let number = i64::try_from(layout.count()).unwrap_or(i64::MAX);
    diesel::insert_into(layout_epochs::table)
        .values(columns(log_id, topic, number, &following))
        .execute(connection)
        .map_err(engine)?;
    Ok(LayoutAdopted::Adopted(layout.grown(following)))
}

/// Lets the newest epoch count in a partition that was made anew from its first record on: its offsets are others.
pub(super) fn begin_anew(
    connection: &mut Connection,
    log_id: &LogId,
    partition: TopicPartition,
) -> Result<(), StoreError> {
    let TopicPartition { topic, partition } = partition;
    let Some(layout) = read(connection, log_id, topic)? else { return Ok(()) };
    for (number, epoch) in (0_i64..).zip(layout.epochs()) {
        let mut from = epoch.from.clone();
        let Some(start) = from.get_mut(usize::from(partition.0)) else { continue };
        *start = Offset(0);
        let row = layout_epochs::table
            .filter(layout_epochs::log_id.eq(log_id.as_str()))
            .filter(layout_epochs::topic.eq(i64::from(topic.code())))
            .filter(layout_epochs::epoch.eq(number));
        diesel::update(row)
            .set(layout_epochs::from_offsets.eq(bytes_of(&from)))
            .execute(connection)
            .map_err(engine)?;
    }
    Ok(())
}

fn bytes_of(from: &[Offset]) -> Vec<u8> {
    from.iter().flat_map(|offset| offset.0.to_be_bytes()).collect()
}

fn epoch(partitions: i64, from: &[u8]) -> Result<LayoutEpoch, StoreError> {
    let partitions = u16::try_from(partitions).map_err(|_| unreadable("partitions", partitions))?;
    let (offsets, rest) = from.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(unreadable("offsets of a layout", format_args!("{} bytes", from.len())));
    }
    let from = offsets.iter().map(|bytes| Offset(u64::from_be_bytes(*bytes))).collect();
    Ok(LayoutEpoch { partitions, from })
}

/// The columns of an epoch on their way into the table.
#[derive(Insertable)]
#[diesel(table_name = layout_epochs)]
struct Columns {
    log_id: String,
    topic: i64,
    epoch: i64,
    partitions: i64,
    from_offsets: Vec<u8>,
    adopted_at: i64,
}

fn columns(log_id: &LogId, topic: Topic, number: i64, epoch: &LayoutEpoch) -> Columns {
    Columns {
        log_id: log_id.as_str().to_owned(),
        topic: i64::from(topic.code()),
        epoch: number,
        partitions: i64::from(epoch.partitions),
        from_offsets: bytes_of(&epoch.from),
        adopted_at: SystemClock.now().as_micros(),
    }
}

/// The beginning of a new layout.
pub(super) struct BeginLayout {
    pub(super) adoption: LayoutAdoption,
    pub(super) audit: OutgoingRecord,
}

impl Operation for BeginLayout {
    type Answer = LayoutBegun;

    fn lock<'a>(&'a self, locks: &mut Locks<'a>) {
        locks.names.insert(name(self.adoption.topic));
    }

    fn write<'a>(&'a self, round: &mut Writing<'_, 'a>) -> Result<Written<LayoutBegun>, StoreError> {
        let (answer, turn) = begin(round.connection, round.context.log_id, &self.adoption)?;
        if let Some(turn) = turn.filter(|turn| !round.gathered.turns.contains(turn)) {
            round.gathered.turns.push(turn);
            round.publish(&self.audit);
        }
        Ok(Written::Done(answer))
    }
}

/// The end of the change to a new layout: it counts.
pub(super) struct AdoptLayout(pub(super) LayoutAdoption);

impl Operation for AdoptLayout {
    type Answer = LayoutAdopted;

    fn lock<'a>(&'a self, locks: &mut Locks<'a>) {
        locks.names.insert(name(self.0.topic));
        locks.topics.insert(self.0.topic);
    }

    fn write<'a>(&'a self, round: &mut Writing<'_, 'a>) -> Result<Written<LayoutAdopted>, StoreError> {
        let answer = adopt(round.connection, round.context.log_id, &self.0)?;
        if let LayoutAdopted::Adopted(layout) = &answer {
            let (topic, partitions) = (layout.topic(), layout.partitions());
            round.gathered.turns.push(Turn::Counts { topic, partitions });
        }
        Ok(Written::Done(answer))
    }
}

/// What a change of a topic's layout is locked under.
fn name(topic: Topic) -> String {
    format!("layout of {topic}")
}
