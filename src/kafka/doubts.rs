//! What a group's reader does about records that cannot be read, and about positions without records.
//!
//! Promises that nothing behind an error is handed on: all that was read ahead is thrown away and read again from
//! behind what was handed on, with a growing pause; that a partition whose records cannot be read again either stops
//! before them, alone, and its lane is told to look again once it has applied everything before them; and that a
//! position which the client has passed without a record is handed on as such.
//!
//! An error of the client does not tell its partition, and some records are left out without any ([`super::survey`]).
//! So a second error has every partition that should have records looked at, and so does silence where there should
//! be records.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use horizons_actors::ids::{Offset, TopicPartition};
use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::Offset as KafkaOffset;
use rdkafka::types::RDKafkaErrorCode;

use super::holdings::Plan;
use super::reader::Reader;
use super::shared::Hole;
use super::survey::{self, Finding, Seen};

/// After so long without an error the next one counts as the first again.
const FORGET_AFTER: Duration = Duration::from_secs(30);

/// The pause after the second error, and the longest.
const REST_FIRST: Duration = Duration::from_millis(50);
const REST_LIMIT: Duration = Duration::from_secs(2);

/// The least time between two surveys.
const SURVEY_AGAIN: Duration = Duration::from_secs(1);

/// How often silence is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long a partition that ends beyond its position may give nothing before it is looked at.
const SILENT_AFTER: Duration = Duration::from_secs(5);

/// What the reader keeps about all that. Pure.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    errors: u32,
    last_error: Option<Instant>,
    rest_until: Option<Instant>,
    is_surveying: bool,
    survey_over: Option<Instant>,
    looked_at: Option<Instant>,
    /// Since when partitions have given nothing at a position.
    silent: BTreeMap<TopicPartition, (Offset, Instant)>,
}

impl Doubts {
    /// Notes an error; tells whether it is a repeated one.
    fn met_error(&mut self, now: Instant) -> bool {
        if self.last_error.is_none_or(|at| now.duration_since(at) >= FORGET_AFTER) {
            self.errors = 0;
        }
        self.last_error = Some(now);
        self.errors = self.errors.saturating_add(1);
        let is_repeated = self.errors > 1;
        let rest = REST_FIRST.saturating_mul(1 << self.errors.saturating_sub(2).min(8)).min(REST_LIMIT);
        self.rest_until = is_repeated.then_some(now + rest);
        is_repeated
    }

    /// Tells whether nothing is to be fetched anew for a while.
    pub(super) fn is_resting(&self, now: Instant) -> bool {
        self.rest_until.is_some_and(|until| now < until)
    }

    /// Notes that a survey is over.
    pub(super) fn survey_over(&mut self, now: Instant) {
        self.is_surveying = false;
        self.survey_over = Some(now);
    }

    fn may_survey(&self, now: Instant) -> bool {
        !self.is_surveying && self.survey_over.is_none_or(|at| now.duration_since(at) >= SURVEY_AGAIN)
    }

    fn is_look_due(&mut self, now: Instant) -> bool {
        let is_due = self.looked_at.is_none_or(|at| now.duration_since(at) >= LOOK_EVERY);
        if is_due {
            self.looked_at = Some(now);
        }
        is_due
    }

    /// Notes where partitions give nothing though they end beyond; gives those that have done so for long.
    fn silent_for_long(
        &mut self,
        behind: &[(TopicPartition, Offset)],
        now: Instant,
    ) -> Vec<(TopicPartition, Offset)> {
        self.silent.retain(|partition, (offset, _)| behind.contains(&(*partition, *offset)));
        let mut long = Vec::new();
        for (partition, offset) in behind {
            let (_, since) = self.silent.entry(*partition).or_insert((*offset, now));
            if now.duration_since(*since) >= SILENT_AFTER {
                long.push((*partition, *offset));
            }
        }
        long
    }
}

impl Reader {
    /// Throws away what was read ahead after an error, and finds out where it came from when it comes again.
    pub(super) fn doubt_everything(&mut self, code: RDKafkaErrorCode) {
        self.holdings.fetch_all_anew();
        let reading = self.holdings.reading();
        if self.stop_before_holes(&reading) {
            return;
        }
        let now = Instant::now();
        if self.doubts.met_error(now) {
            let behind: Vec<(TopicPartition, Offset)> = reading
                .into_iter()
                .filter(|(partition, position)| self.shared.end(*partition) > *position)
                .collect();
            self.survey(behind, now);
        } else {
            tracing::warn!(group = %self.shared.group, error = %code, "records could not be read: all that was read ahead is read again");
        }
    }

    /// Hands on positions that the client has passed without a record, and has partitions looked at that give
    /// nothing where there should be something. The client must have nothing left to give.
    pub(super) fn doubt_silence(&mut self) {
        let now = Instant::now();
        if !self.doubts.is_look_due(now) {
            return;
        }
        let mut behind = self.holdings.idle();
        behind.retain(|(partition, position)| self.shared.end(*partition) > *position);
        if behind.is_empty() {
            self.doubts.silent.clear();
            return;
        }
        let passed = self.client_positions();
        behind.retain(|(partition, position)| match passed.get(partition) {
            Some(next) if next > position => {
                self.holdings.pass(*partition, *position, *next);
                false
            }
            _ => true,
        });
        let silent = self.doubts.silent_for_long(&behind, now);
        if !silent.is_empty() && !self.shared.is_away() {
            self.survey(silent, now);
        }
    }

    /// Gives how far the client is with what it has handed out, markers of transactions included. It forgets that
    /// when a partition leaves its assignment, before the call that says so returns.
    ///
    /// *Source*: librdkafka 2.12.1, `rd_kafka_fetch_op_app_prepare` and `rd_kafka_toppar_fetch_stopped`.
    fn client_positions(&self) -> BTreeMap<TopicPartition, Offset> {
        let list = match self.consumer.position() {
            Ok(list) => list,
            Err(error) => {
                tracing::debug!(group = %self.shared.group, error = %error, "failed to ask for positions");
                return BTreeMap::new();
            }
        };
        let position = |partition, offset| match offset {
            KafkaOffset::Offset(offset) => Some((partition, Offset(u64::try_from(offset).ok()?))),
            _ => None,
        };
        let elements = list.elements();
        let ours = elements
            .iter()
            .filter_map(|one| position(self.names.find(one.topic(), one.partition())?, one.offset()));
        ours.collect()
    }

    /// Tells whether the client still has a position of before for something that was just entered anew.
    pub(super) fn knows_position_of_before(&self, plan: &Plan) -> bool {
        if plan.enter.is_empty() {
            return false;
        }
        let known = self.client_positions();
        plan.enter.iter().any(|(partition, _)| known.contains_key(partition))
    }

    fn survey(&mut self, places: Vec<(TopicPartition, Offset)>, now: Instant) {
        if places.is_empty() || !self.doubts.may_survey(now) {
            return;
        }
        let (config, names, reader) = (self.config.clone(), self.names.clone(), Arc::downgrade(&self.shared));
        tracing::warn!(group = %self.shared.group, partitions = places.len(), "records cannot be read: partitions are looked at one by one");
        match survey::start(config, names, reader, places) {
            Ok(()) => self.doubts.is_surveying = true,
            Err(error) => {
                tracing::warn!(group = %self.shared.group, error = %error, "failed to start a survey: later again");
                self.doubts.survey_over(now);
            }
        }
    }

    /// Takes what a survey found.
    pub(super) fn take_finding(&mut self, Finding { partition, from, seen }: Finding) {
        self.doubts.silent.remove(&partition);
        match seen {
            Seen::Hole(until) => {
                tracing::error!(group = %self.shared.group, partition = %partition, offset = %from, until = %until, "records cannot be read");
                self.shared.add_hole(partition, Hole { from, until });
            }
            Seen::Nothing(until) => {
                self.holdings.pass(partition, from, until);
                self.holdings.fetch_anew(partition);
            }
            Seen::Readable => self.holdings.fetch_anew(partition),
            Seen::Unknown(reason) => {
                tracing::debug!(group = %self.shared.group, partition = %partition, reason, "a survey found nothing out");
            }
        }
    }

    /// Stops partitions that are read next within a known hole; tells whether there are any.
    fn stop_before_holes(&mut self, reading: &[(TopicPartition, Offset)]) -> bool {
        if !self.shared.has_holes() {
            return false;
        }
        let mut has_stopped = false;
        for (partition, position) in reading {
            if let Some(hole) = self.shared.hole_at(*partition, *position) {
                has_stopped |= self.holdings.stop_before(*partition, hole);
            }
        }
        has_stopped
    }

    /// Goes on where a lane is behind its hole already, as only its duplicate window would have what was there; and
    /// tells a lane that has applied everything before it to look again.
    pub(super) fn face_holes(&mut self) {
        let reading = self.holdings.reading();
        self.stop_before_holes(&reading);
        for (partition, incarnation, hole) in self.holdings.stopped() {
            let place = self.shared.place(partition);
            if place >= hole.until {
                self.holdings.step_over(partition);
            } else if hole.contains(place) {
                self.shared.tell_broken(partition, incarnation);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use horizons_actors::ids::{Partition, Topic};

    use super::*;

    #[test]
    fn doubts_first_error_is_read_again_at_once_and_further_ones_after_growing_pauses() {
        let (mut doubts, start) = (Doubts::default(), Instant::now());
        let rest = |doubts: &Doubts, now| doubts.rest_until.map(|until| until - now);

        assert!(!doubts.met_error(start));
        assert_eq!(rest(&doubts, start), None);
        assert!(doubts.met_error(start));
        assert_eq!(rest(&doubts, start), Some(REST_FIRST));
        assert!(doubts.met_error(start));
        assert_eq!(rest(&doubts, start), Some(REST_FIRST * 2));
        for _ in 0..100 {
            doubts.met_error(start);
        }
        assert_eq!(rest(&doubts, start), Some(REST_LIMIT));
        assert!(doubts.is_resting(start) && !doubts.is_resting(start + REST_LIMIT));
        assert!(!doubts.met_error(start + FORGET_AFTER));
    }

    #[test]
    fn doubts_silence_counts_from_when_a_position_was_first_behind() {
        let (mut doubts, start) = (Doubts::default(), Instant::now());
        let place = |number, offset| {
            (TopicPartition { topic: Topic::JobLifecycle, partition: Partition(number) }, Offset(offset))
        };

        assert_eq!(doubts.silent_for_long(&[place(0, 5), place(1, 7)], start), []);
        let later = start + SILENT_AFTER;
        assert_eq!(doubts.silent_for_long(&[place(0, 5), place(1, 8)], later), [place(0, 5)]);
        assert_eq!(doubts.silent_for_long(&[place(1, 8)], later), []);
        assert_eq!(doubts.silent_for_long(&[place(0, 5), place(1, 8)], later + SILENT_AFTER), [place(1, 8)]);
    }
}
