//! Single looks at a cluster with a client that is a member of no group: bounds of partitions, and the record
//! before a position.
//!
//! Promises that each call ends within its time limit and asks about many partitions at once; that one topic
//! that is gone does not spoil the answers about the others. Blocks: for the inspector's thread only.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use horizons_actors::ids::{Offset, TopicPartition};
use horizons_actors::record::Digest32;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::Offset as KafkaOffset;

use super::config::KafkaConfig;
use super::error::is_unreadable;
use super::inspector::{InspectorConsumer, InspectorContext};
use super::names::TopicNames;
use super::record::record_of;

/// How far below a position its last record is looked for, one try after the other: what lies between may be
/// markers of transactions, or offsets that compaction emptied. Where none is found so close, nothing can be
/// compared, and the position is believed.
const SEARCH_BACK: [u64; 3] = [1, 64, 4_096];

/// How long one poll waits while records are still to come.
const POLL: Duration = Duration::from_millis(20);

/// Tells why a look failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookError {
    #[error("failed to look at the log: {0}")]
    Client(#[from] KafkaError),
    #[error("failed to look at the log: no answer within {0:?}")]
    TimedOut(Duration),
    #[error("failed to look at the log: {0}")]
    Refused(String),
    #[error("failed to look at the log: there is no client")]
    Gone,
}

/// Asks for the last record below `next`, and not below `low`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Previous {
    pub(super) partition: TopicPartition,
    pub(super) next: Offset,
    pub(super) low: Offset,
}

/// How long a reading waits for anything: some records that cannot be read are left out in silence.
const SILENCE: Duration = Duration::from_secs(2);

/// How a reading ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ReadEnd {
    Done,
    /// Records of one of the partitions cannot be read.
    Unreadable,
    /// Nothing came any more of these.
    Silent(BTreeSet<TopicPartition>),
}

/// Bounds by partition, or why one is not known.
pub(super) type Bounds = BTreeMap<TopicPartition, Result<Offset, String>>;

/// What was found before positions.
pub(super) type Found = BTreeMap<Previous, Option<(Offset, Digest32)>>;

/// What a client sees of transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sees {
    /// What is committed.
    Committed,
    /// What is open, and what was aborted, too.
    Everything,
}

/// See the module.
pub(super) struct Looker {
    consumer: InspectorConsumer,
    names: TopicNames,
    limit: Duration,
}

impl Looker {
    pub(super) fn new(config: &KafkaConfig, names: TopicNames, sees: Sees) -> Result<Self, LookError> {
        let client = match sees {
            Sees::Committed => config.inspector(),
            Sees::Everything => config.uncommitted_inspector(),
        };
        let consumer = InspectorConsumer::from_config_and_context(&client, InspectorContext)?;
        Ok(Self { consumer, names, limit: config.request_limit })
    }

    /// Gives the offsets of the oldest retained records.
    pub(super) fn lows(&self, partitions: &BTreeSet<TopicPartition>) -> Bounds {
        self.bounds(partitions, KafkaOffset::Beginning, self.limit)
    }

    /// Gives the ends of partitions, as far as transactions have ended or, for a client that sees everything, at all.
    pub(super) fn highs(&self, partitions: &BTreeSet<TopicPartition>, within: Duration) -> Bounds {
        self.bounds(partitions, KafkaOffset::End, within.min(self.limit))
    }

    fn bounds(&self, partitions: &BTreeSet<TopicPartition>, which: KafkaOffset, limit: Duration) -> Bounds {
        let topics: BTreeSet<_> = partitions.iter().map(|one| one.topic).collect();
        match self.bounds_at_once(partitions, which, limit) {
            Ok(bounds) => bounds,
            Err(error) if topics.len() == 1 => {
                partitions.iter().map(|one| (*one, Err(error.to_string()))).collect()
            }
            // Perhaps only one topic is at fault.
            Err(_) => {
                let of_topic = |topic| -> BTreeSet<TopicPartition> {
                    partitions.iter().copied().filter(|one| one.topic == topic).collect()
                };
                let mut all = Bounds::new();
                for partitions in topics.into_iter().map(of_topic) {
                    match self.bounds_at_once(&partitions, which, limit) {
                        Ok(bounds) => all.extend(bounds),
                        Err(error) => {
                            all.extend(partitions.into_iter().map(|one| (one, Err(error.to_string()))));
                        }
                    }
                }
                all
            }
        }
    }

    fn bounds_at_once(
        &self,
        partitions: &BTreeSet<TopicPartition>,
        which: KafkaOffset,
        limit: Duration,
    ) -> Result<Bounds, LookError> {
        ends_of(&self.consumer, &self.names, partitions, which, limit)
    }

    /// Reads the last record below each position.
    pub(super) fn previous(&self, wanted: &BTreeSet<Previous>) -> Result<Found, LookError> {
        let deadline = Instant::now() + self.limit;
        let mut found = Found::new();
        let mut open: Vec<Previous> = wanted.iter().copied().collect();
        for distance in SEARCH_BACK {
            // A round reads each partition once, and one topic only: where a partition ends is told by its
            // number alone.
            while let Some(first) = open.first() {
                let topic = first.partition.topic;
                let mut round: BTreeMap<TopicPartition, Previous> = BTreeMap::new();
                open.retain(|one| {
                    let is_in = one.partition.topic == topic && !round.contains_key(&one.partition);
                    if is_in {
                        round.insert(one.partition, *one);
                    }
                    !is_in
                });
                self.read_round(&round, distance, deadline, &mut found)?;
            }
            let unresolved = |one: &&Previous| {
                found.get(*one).copied().flatten().is_none() && one.next.0 - one.low.0 > distance
            };
            open = wanted.iter().filter(unresolved).copied().collect();
        }
        Ok(found)
    }

    /// Reads each partition from so far below its position up to it, and keeps the last record.
    fn read_round(
        &self,
        round: &BTreeMap<TopicPartition, Previous>,
        distance: u64,
        deadline: Instant,
        found: &mut Found,
    ) -> Result<(), LookError> {
        let starts: Vec<(TopicPartition, Offset)> = round
            .values()
            .map(|one| (one.partition, Offset(one.next.0.saturating_sub(distance).max(one.low.0))))
            .collect();
        let list = starts
            .iter()
            .map(|(one, start)| (*one, KafkaOffset::Offset(i64::try_from(start.0).unwrap_or(i64::MAX))));
        self.consumer.assign(&self.names.list(list))?;
        let read = self.read_assigned(round, deadline, found);
        self.consumer.unassign()?;
        let open = match read? {
            ReadEnd::Done => return Ok(()),
            ReadEnd::Unreadable => round.keys().copied().collect(),
            ReadEnd::Silent(open) => open,
        };
        if round.len() > 1 {
            // Which of them it is does not show: each is read alone.
            for one in round.iter().filter(|(partition, _)| open.contains(partition)) {
                let alone = BTreeMap::from([(*one.0, *one.1)]);
                self.read_round(&alone, distance, deadline, found)?;
            }
            return Ok(());
        }
        // What cannot be read is not compared; a log that gives nothing at all is away.
        for partition in open {
            if !self.gives_its_end(partition)? {
                return Err(LookError::TimedOut(SILENCE));
            }
        }
        Ok(())
    }

    /// Tells whether a partition can be read at its end.
    fn gives_its_end(&self, partition: TopicPartition) -> Result<bool, LookError> {
        self.consumer.assign(&self.names.list([(partition, KafkaOffset::End)]))?;
        let until = Instant::now() + SILENCE;
        let mut has_come = false;
        while !has_come && Instant::now() < until {
            has_come = matches!(self.consumer.poll(POLL), Some(Ok(_) | Err(KafkaError::PartitionEOF(_))));
        }
        self.consumer.unassign()?;
        Ok(has_come)
    }

    fn read_assigned(
        &self,
        round: &BTreeMap<TopicPartition, Previous>,
        deadline: Instant,
        found: &mut Found,
    ) -> Result<ReadEnd, LookError> {
        let mut open: BTreeSet<TopicPartition> = round.keys().copied().collect();
        for one in round.values() {
            found.entry(*one).or_default();
        }
        let mut heard = Instant::now();
        while !open.is_empty() {
            if Instant::now() >= deadline {
                return Err(LookError::TimedOut(self.limit));
            }
            if heard.elapsed() >= SILENCE {
                return Ok(ReadEnd::Silent(open));
            }
            match self.consumer.poll(POLL) {
                None => {}
                Some(Err(KafkaError::PartitionEOF(number))) => {
                    heard = Instant::now();
                    open.retain(|one| i32::from(one.partition.0) != number);
                }
                // The clients of a broker that is away report that again and again; the time limit ends it.
                Some(Err(KafkaError::MessageConsumption(code))) if is_passing(code) => {}
                Some(Err(KafkaError::MessageConsumption(code))) if is_unreadable(code) => {
                    return Ok(ReadEnd::Unreadable);
                }
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(message)) => {
                    heard = Instant::now();
                    let Some(partition) = self.names.find(message.topic(), message.partition()) else {
                        continue;
                    };
                    let Some(asked) = round.get(&partition) else { continue };
                    let offset = u64::try_from(message.offset()).unwrap_or(u64::MAX);
                    if offset < asked.next.0
                        && let Some(record) = record_of(&message)
                    {
                        found.insert(*asked, Some((record.offset, record.fingerprint())));
                    }
                    if offset.saturating_add(1) >= asked.next.0 {
                        open.remove(&partition);
                    }
                }
            }
        }
        Ok(ReadEnd::Done)
    }
}

/// Asks for one of the bounds of some partitions, with one request.
pub(super) fn ends_of(
    consumer: &InspectorConsumer,
    names: &TopicNames,
    partitions: &BTreeSet<TopicPartition>,
    which: KafkaOffset,
    limit: Duration,
) -> Result<Bounds, LookError> {
    if partitions.is_empty() {
        return Ok(Bounds::new());
    }
    // The library passes the special offsets on as the protocol's special times: oldest and newest.
    let list = names.list(partitions.iter().map(|one| (*one, which)));
    let answer = consumer.offsets_for_times(list, limit)?;
    let bounds = answer.elements().into_iter().filter_map(|element| {
        let partition = names.find(element.topic(), element.partition())?;
        let offset = match (element.error(), element.offset()) {
            (Ok(()), KafkaOffset::Offset(offset)) => {
                u64::try_from(offset).map(Offset).map_err(|error| error.to_string())
            }
            (Ok(()), other) => Err(format!("the broker answered {other:?}")),
            (Err(error), _) => Err(error.to_string()),
        };
        Some((partition, offset))
    });
    Ok(bounds.collect())
}

/// Tells whether an error is about a connection or the coordinator, not about what is read.
fn is_passing(code: rdkafka::types::RDKafkaErrorCode) -> bool {
    use rdkafka::types::RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::OperationTimedOut
            | Code::GroupAuthorizationFailed
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::NotLeaderForPartition
            | Code::LeaderNotAvailable
    )
}
