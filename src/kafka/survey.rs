//! Looking again at records that could not be read, each partition on its own.
//!
//! librdkafka 2.12.1 leaves out what it cannot read, and only part of that is told (`rdkafka_msgset_reader.c`):
//!
//! - A batch whose checksum is wrong (`check.crcs`): `_BAD_MSG` comes in its place among the records, and reading goes
//!   on behind it, the fetch position included.
//! - A batch with a magic byte above 2: `_NOT_IMPLEMENTED` comes, and the position moves by one offset. Fetched again
//!   from there the rest of the batch is left out in silence, for ever.
//! - A compression that is unknown or broken, or a batch that does not parse: nothing comes, and the same fetch is
//!   repeated for ever.
//! - An error of the broker for the partition (`CORRUPT_MESSAGE`, `UNKNOWN_SERVER_ERROR`): it comes, and the same fetch
//!   is repeated.
//!
//! The Rust wrapper tells an error's code without its partition. So whoever meets one, or meets nothing where there
//! should be records, has every partition in question looked at by a client that reads that partition alone. Only
//! what cannot be read there again and again, while the same broker answers for the partition's end, is called a hole.
//! Blocks: on a thread of its own.

use std::collections::BTreeSet;
use std::sync::Weak;
use std::time::{Duration, Instant};

use horizons_actors::ids::{Offset, TopicPartition};
use horizons_actors::lane::guard::guard;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::Offset as KafkaOffset;

use super::config::KafkaConfig;
use super::error::is_unreadable;
use super::inspector::{InspectorConsumer, InspectorContext};
use super::look::{LookError, ends_of};
use super::names::TopicNames;
use super::shared::Shared;
use crate::periodic;

/// How often a place is looked at before it is called unreadable.
const LOOKS: u32 = 2;

/// How long is waited before each further look.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How long silence lasts until it counts as an answer, where the broker answers otherwise.
const SILENCE: Duration = Duration::from_secs(3);

/// The same for the many looks that search for the end of a hole.
const SEARCH_SILENCE: Duration = Duration::from_millis(500);

/// How long the first record behind an error is waited for.
const BEHIND: Duration = Duration::from_millis(500);

/// Offsets that are tried one by one for the end of a hole; beyond that the steps double, and a record between two
/// holes within one step may be missed.
const STEPS_ONE_BY_ONE: u64 = 64;

/// How long one poll waits.
const POLL: Duration = Duration::from_millis(20);

/// What is found at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// A record.
    Readable,
    /// No record up to an end: nothing but markers and what aborted transactions left.
    Nothing(Offset),
    /// Records that cannot be read; the first offset from which reading goes on.
    Hole(Offset),
    /// The log does not answer.
    Unknown(String),
}

/// What was found at a place of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) partition: TopicPartition,
    pub(super) from: Offset,
    pub(super) seen: Seen,
}

/// What a single reading met first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Met {
    Record,
    End,
    /// An error, and the first record behind it if one came.
    Error(Option<Offset>),
    Silence,
}

/// The thread that looks, and what it waits for.
pub(super) const THREAD: &str = "kafka-survey";
pub(super) const THREAD_WAITS_FOR: &str = "brokers that answer";

/// Looks at places on a thread of its own, and tells the reader of each and at the end.
pub(super) fn start(
    config: KafkaConfig,
    names: TopicNames,
    reader: Weak<Shared>,
    places: Vec<(TopicPartition, Offset)>,
) -> std::io::Result<()> {
    // Each question has a limit; how many there are does not.
    periodic::once(THREAD, THREAD_WAITS_FOR, move || {
        let looked = guard(|| {
            let surveyor = Surveyor::new(&config, &names);
            for (partition, from) in places {
                let seen = seen_by(surveyor.as_ref(), partition, from);
                let is_hole = matches!(seen, Seen::Hole(_));
                let Some(reader) = reader.upgrade() else { return };
                reader.tell_finding(Finding { partition, from, seen });
                if is_hole {
                    // It was the cause, most likely; if not, the next error asks again.
                    return;
                }
            }
        });
        if let Err(panic) = looked {
            tracing::error!(error = %panic, "a survey panicked");
        }
        if let Some(reader) = reader.upgrade() {
            reader.tell_survey_over();
        }
    })
}

/// Waits on a thread that nothing wakes.
fn pause(time: Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}

/// Looks at one place.
pub(super) fn examine(
    config: &KafkaConfig,
    names: &TopicNames,
    partition: TopicPartition,
    from: Offset,
) -> Seen {
    seen_by(Surveyor::new(config, names).as_ref(), partition, from)
}

fn seen_by(surveyor: Result<&Surveyor<'_>, &KafkaError>, partition: TopicPartition, from: Offset) -> Seen {
    let seen = match surveyor {
        Ok(surveyor) => surveyor.examine(partition, from).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    seen.unwrap_or_else(Seen::Unknown)
}

/// A client that reads one partition at a time.
struct Surveyor<'a> {
    consumer: InspectorConsumer,
    names: &'a TopicNames,
    limit: Duration,
}

impl<'a> Surveyor<'a> {
    fn new(config: &KafkaConfig, names: &'a TopicNames) -> Result<Self, KafkaError> {
        let consumer = InspectorConsumer::from_config_and_context(&config.surveyor(), InspectorContext)?;
        Ok(Self { consumer, names, limit: config.request_limit })
    }

    fn examine(&self, partition: TopicPartition, from: Offset) -> Result<Seen, LookError> {
        let end = self.end(partition)?;
        if end <= from {
            return Ok(Seen::Readable);
        }
        let mut behind = None;
        for look in 0..LOOKS {
            if look > 0 {
                pause(LOOK_AGAIN);
            }
            match self.read_from(partition, from, SILENCE)? {
                Met::Record => return Ok(Seen::Readable),
                Met::End => return Ok(Seen::Nothing(end)),
                Met::Error(record) => behind = record,
                Met::Silence => {}
            }
        }
        // Where not even the end can be read, the log is away rather than broken.
        if self.read_from(partition, end, SILENCE)? == Met::Silence {
            return Ok(Seen::Unknown("the log does not answer".to_owned()));
        }
        match behind {
            Some(record) => Ok(Seen::Hole(record)),
            None => self.search(partition, from, end).map(Seen::Hole),
        }
    }

    fn end(&self, partition: TopicPartition) -> Result<Offset, LookError> {
        let wanted = BTreeSet::from([partition]);
        let ends = ends_of(&self.consumer, self.names, &wanted, KafkaOffset::End, self.limit)?;
        match ends.get(&partition) {
            Some(Ok(end)) => Ok(*end),
            Some(Err(reason)) => Err(LookError::Refused(reason.clone())),
            None => Err(LookError::TimedOut(self.limit)),
        }
    }

    /// Finds the first offset behind `from` at which reading goes on; that is `end` if no record is in between.
    fn search(&self, partition: TopicPartition, from: Offset, end: Offset) -> Result<Offset, LookError> {
        let (mut bad, mut step) = (from.0, 1);
        let mut good = loop {
            let at = bad.saturating_add(step).min(end.0);
            if at == end.0 || self.is_readable(partition, at)? {
                break at;
            }
            bad = at;
            if bad - from.0 >= STEPS_ONE_BY_ONE {
                step *= 2;
            }
        };
        while bad + 1 < good {
            let middle = bad + (good - bad) / 2;
            match self.is_readable(partition, middle)? {
                true => good = middle,
                false => bad = middle,
            }
        }
        Ok(Offset(good))
    }

    fn is_readable(&self, partition: TopicPartition, at: u64) -> Result<bool, LookError> {
        Ok(matches!(self.read_from(partition, Offset(at), SEARCH_SILENCE)?, Met::Record | Met::End))
    }

    /// Reads from an offset until something is met.
    fn read_from(
        &self,
        partition: TopicPartition,
        from: Offset,
        silence: Duration,
    ) -> Result<Met, LookError> {
        let place = KafkaOffset::Offset(i64::try_from(from.0).unwrap_or(i64::MAX));
        self.consumer.assign(&self.names.list([(partition, place)]))?;
        let met = self.read_assigned(partition, from, silence);
        self.consumer.unassign()?;
        Ok(met)
    }

    fn read_assigned(&self, partition: TopicPartition, from: Offset, silence: Duration) -> Met {
        let mut met = Met::Silence;
        let mut until = Instant::now() + silence;
        while Instant::now() < until {
            match self.consumer.poll(POLL) {
                None => {}
                Some(Err(KafkaError::PartitionEOF(_))) if met == Met::Silence => return Met::End,
                Some(Err(error)) => {
                    let code = error.rdkafka_error_code();
                    if code.is_some_and(is_unreadable) && met == Met::Silence {
                        tracing::debug!(partition = %partition, offset = %from, error = %error, "records cannot be read");
                        met = Met::Error(None);
                        until = Instant::now() + BEHIND;
                    }
                }
                Some(Ok(message)) => {
                    let offset = u64::try_from(message.offset()).map_or(from, Offset);
                    return match met {
                        Met::Error(_) => Met::Error(Some(offset)),
                        Met::Record | Met::End | Met::Silence => Met::Record,
                    };
                }
            }
        }
        met
    }
}
