//! Where new rows of the outbox go, and the turn from one layout of a topic to the next.
//!
//! Promises that a row which is written for its key stands where the key is at home under the layout that Kafka will hold
//! it against, whatever the process that made it had heard of the layout: from the commit at which a new layout is
//! begun, rows go by its partitions and are held back (`held_at` of each end); those of before are sent first, and only
//! then does it count. Ends carry over how many partitions keys are spread, and are locked when offsets are taken: a
//! process that went by another number is told so by the very statement that takes them, and writes its round again.
//!
//! A topic that never grew has no number at its ends: then nothing is computed and nothing compared.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use diesel::dsl::max;
use diesel::prelude::*;
use horizons_actors::event::partition_among;
use horizons_actors::ids::{LogId, LogTopic, Offset, Partition, Topic};
use horizons_actors::layout::Layout;
use horizons_actors::ports::store::{StoreError, Unsent, UnsentRows};
use horizons_actors::record::OutgoingRecord;

use super::engine::{Connection, engine};
use super::layouts;
use super::outbox::place;
use super::records::Head;
use super::schema::{log_head, outbox_cursors};
use crate::db::error::unreadable;

/// What a layout's change does to the ends of its topic, with the round that brings it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Keys are spread over so many partitions from here on, and nothing of it is sent.
    Begins {
        /// The topic.
        topic: Topic,
        /// The partitions.
        partitions: u16,
    },
    /// What was held back may be sent.
    Counts {
        /// The topic.
        topic: Topic,
        /// The partitions.
        partitions: u16,
    },
}

impl Turn {
    const fn about(&self) -> (Topic, u16) {
        match *self {
            Turn::Begins { topic, partitions } | Turn::Counts { topic, partitions } => (topic, partitions),
        }
    }

    /// Lists the ends that it is about.
    pub(super) fn ends(&self) -> impl Iterator<Item = (LogTopic, Partition)> + use<> {
        let (topic, partitions) = self.about();
        (0..partitions).map(move |number| (LogTopic::Record(topic), Partition(number)))
    }
}

/// How keys of a topic that has grown are spread.
#[derive(Debug, Clone)]
struct Spread {
    /// Over how many partitions they were before.
    former: Vec<u16>,
    now: u16,
}

/// What the writer knows about topics that have grown.
#[derive(Debug, Default)]
pub(super) struct Placing {
    known: RefCell<Option<BTreeMap<Topic, Spread>>>,
    is_outdated: Cell<bool>,
}

impl Placing {
    /// Gives the partition of a row. One that does not stand where its key was at home in a former layout was put there on
    /// purpose, and stays.
    pub(super) fn home(
        &self,
        connection: &mut Connection,
        log_id: &LogId,
        record: &OutgoingRecord,
    ) -> Result<Partition, StoreError> {
        let mut known = self.known.borrow_mut();
        let spreads = match known.as_ref() {
            Some(spreads) => spreads,
            None => known.insert(read(connection, log_id)?),
        };
        let (LogTopic::Record(topic), Some(key)) = (record.topic, record.key.as_ref()) else {
            return Ok(record.partition);
        };
        let Some(spread) = spreads.get(&topic).filter(|_| topic.is_keyed()) else {
            return Ok(record.partition);
        };
        let was_home = |partitions: &u16| partition_among(*partitions, key) == record.partition;
        let is_by_key = spread.former.iter().any(was_home);
        Ok(if is_by_key { partition_among(spread.now, key) } else { record.partition })
    }

    /// Holds what rows went by against what the end says that was locked for them.
    ///
    /// *Errors*: when another process has begun a layout since; the round is to be written again.
    pub(super) fn check(&self, topic: LogTopic, head: &Head) -> Result<(), StoreError> {
        let (LogTopic::Record(topic), Some(spread)) = (topic, head.spread) else { return Ok(()) };
        let mut known = self.known.borrow_mut();
        let Some(spreads) = known.as_ref() else { return Ok(()) };
        if spreads.get(&topic).is_some_and(|known| i64::from(known.now) == spread) {
            return Ok(());
        }
        *known = None;
        self.is_outdated.set(true);
        Err(StoreError::Unavailable(format!("the layout of `{topic}` has changed")))
    }

    /// Tells once whether rows went by a layout of before.
    pub(super) fn take_outdated(&self) -> bool {
        self.is_outdated.take()
    }

    /// Forgets what is known, to be read again after a change of our own.
    pub(super) fn forget(&self) {
        self.known.replace(None);
    }
}

/// Reads how the keys of topics are spread that have grown.
fn read(connection: &mut Connection, log_id: &LogId) -> Result<BTreeMap<Topic, Spread>, StoreError> {
    let begun = read_spread(connection)?;
    let layouts = layouts::read_all(connection, log_id)?;
    let mut spreads = BTreeMap::new();
    for topic in Topic::ALL {
        let layout = layouts.iter().find(|layout| layout.topic() == topic).cloned();
        let layout = layout.unwrap_or_else(|| Layout::first_of(topic));
        let now = begun.get(&topic).copied().unwrap_or_default().max(layout.partitions());
        let former: Vec<u16> =
            layout.epochs().map(|epoch| epoch.partitions).filter(|one| *one != now).collect();
        if !former.is_empty() {
            spreads.insert(topic, Spread { former, now });
        }
    }
    Ok(spreads)
}

/// Reads over how many partitions keys are spread, of topics where that was changed.
pub(super) fn read_spread(connection: &mut Connection) -> Result<BTreeMap<Topic, u16>, StoreError> {
    let rows: Vec<(i64, Option<i64>)> = log_head::table
        .group_by(log_head::topic)
        .select((log_head::topic, max(log_head::spread)))
        .load(connection)
        .map_err(engine)?;
    let mut spread = BTreeMap::new();
    for (topic, partitions) in rows {
        let (LogTopic::Record(topic), Some(partitions)) = (place(topic, 0)?.topic, partitions) else {
            continue;
        };
        let partitions = u16::try_from(partitions).map_err(|_| unreadable("partitions", partitions))?;
        spread.insert(topic, partitions);
    }
    Ok(spread)
}

/// Reads what the relay has to send of a topic.
pub(super) fn read_unsent(connection: &mut Connection, topic: Topic) -> Result<Unsent, StoreError> {
    let code = i64::from(LogTopic::Record(topic).code());
    // Cursors first: what is sent in between is only told late.
    let cursors: Vec<(i64, i64)> = outbox_cursors::table
        .filter(outbox_cursors::topic.eq(code))
        .select((outbox_cursors::partition, outbox_cursors::next_offset))
        .load(connection)
        .map_err(engine)?;
    let cursors: BTreeMap<i64, i64> = cursors.into_iter().collect();
    let heads: Vec<(i64, i64, Option<i64>, Option<i64>)> = log_head::table
        .filter(log_head::topic.eq(code))
        .order(log_head::partition)
        .select((log_head::partition, log_head::next_offset, log_head::spread, log_head::held_at))
        .load(connection)
        .map_err(engine)?;
    let mut unsent = Unsent::default();
    for (partition, end, spread, held_at) in heads {
        if let (Some(partitions), Some(_)) = (spread, held_at) {
            unsent.begun = Some(u16::try_from(partitions).map_err(|_| unreadable("partitions", partitions))?);
        }
        let next = cursors.get(&partition).copied().unwrap_or_default();
        let end = held_at.unwrap_or(end);
        if next < end {
            let partition = u16::try_from(partition).map_err(|_| unreadable("partition", partition))?;
            let offset = |number: i64| Offset(number.cast_unsigned());
            unsent.places.push(UnsentRows {
                partition: Partition(partition),
                next: offset(next),
                end: offset(end),
            });
        }
    }
    Ok(unsent)
}

/// Gives the end of what may be sent of a partition after a round.
pub(super) fn sendable_end(turns: &[Turn], topic: LogTopic, head: &Head) -> Offset {
    let counts =
        |turn: &Turn| matches!(turn, Turn::Counts { topic: of, .. } if LogTopic::Record(*of) == topic);
    let held_at = head.held_at.filter(|_| !turns.iter().any(counts));
    Offset(held_at.map_or(head.end, i64::cast_unsigned))
}

/// Writes what turns do to the ends, which the round has locked.
pub(super) fn write_turns(
    connection: &mut Connection,
    placing: &Placing,
    turns: &[Turn],
) -> Result<(), StoreError> {
    for turn in turns {
        let (topic, partitions) = turn.about();
        let of_topic = log_head::table.filter(log_head::topic.eq(i64::from(LogTopic::Record(topic).code())));
        let spread = log_head::spread.eq(i64::from(partitions));
        match turn {
            Turn::Begins { .. } => diesel::update(of_topic)
                .set((spread, log_head::held_at.eq(log_head::next_offset.nullable())))
                .execute(connection),
            Turn::Counts { .. } => {
                diesel::update(of_topic).set((spread, log_head::held_at.eq(None::<i64>))).execute(connection)
            }
        }
        .map_err(engine)?;
        placing.forget();
    }
    Ok(())
}
