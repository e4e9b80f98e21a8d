//! How far a lane is behind the end of its partition, in records and in time. Pure.
//!
//! Promises that both are zero when nothing is unread, and that what is kept for it is bounded: a mark for each
//! record that is delivered and not applied, which credits limit, and a bounded number of samples of the partition's
//! end. Knows nothing of parked records: the lane has passed them.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::{Moment, Now, Timestamp};
use crate::ids::Offset;

/// Samples that are kept of where the partition ended. Once they are used up, neighbours are joined and samples
/// are taken half as often: the error stays a small part of the time they span.
const SAMPLES_MAX: usize = 64;

/// The least time between two samples while there are few: finer than anybody reads a lag.
const FIRST_RESOLUTION: Duration = Duration::from_millis(100);

/// A record that was delivered and is not applied.
#[derive(Debug, Clone, Copy)]
struct Delivered {
    offset: Offset,
    timestamp: Timestamp,
}

/// Where the partition ended.
#[derive(Debug, Clone, Copy)]
struct Sample {
    end: Offset,
    /// When the end first passed the sample before this one.
    heard_at: Moment,
}

/// Where a lane stands between what it has applied and the end of its partition.
#[derive(Debug, Clone)]
pub struct Lag {
    /// The next record to apply.
    next: Offset,
    /// The end of the partition, as far as it was heard of.
    log_end: Offset,
    /// In order of offset, from `next` on.
    delivered: VecDeque<Delivered>,
    /// In order of end, all beyond `next`.
    samples: VecDeque<Sample>,
    resolution: Duration,
}

impl Default for Lag {
    fn default() -> Self {
        Self {
            next: Offset::default(),
            log_end: Offset::default(),
            delivered: VecDeque::new(),
            samples: VecDeque::new(),
            resolution: FIRST_RESOLUTION,
        }
    }
}

impl Lag {
    /// Gives the next record to apply.
    pub fn next(&self) -> Offset {
        self.next
    }

    /// Gives the end of the partition, as far as it was heard of.
    pub fn log_end(&self) -> Offset {
        self.log_end
    }

    /// Notes where a new incarnation found its position and the end of the partition. When either went back the
    /// log is another one, and nothing known of it counts any more.
    pub fn placed(&mut self, next: Offset, log_end: Offset, now: Moment) {
        if next < self.next || log_end < self.log_end {
            *self = Self::default();
        }
        // All that was delivered will be again; until then the oldest of it stays the oldest.
        self.delivered.truncate(1);
        self.applied(next);
        self.ends_at(log_end, now);
    }

    /// Notes records that were delivered, in order of offset. Those below the position count for nothing, nor
    /// do those that were delivered before.
    pub fn delivered(&mut self, records: impl IntoIterator<Item = (Offset, Timestamp)>) {
        let known_below = self.delivered.back().map_or(self.next, |last| last.offset.following());
        let fresh = records
            .into_iter()
            .filter(|(offset, _)| *offset >= known_below)
            .map(|(offset, timestamp)| Delivered { offset, timestamp });
        self.delivered.extend(fresh);
    }

    /// Notes that everything below an offset is applied.
    pub fn applied(&mut self, next: Offset) {
        self.next = self.next.max(next);
        self.log_end = self.log_end.max(self.next);
        while self.delivered.front().is_some_and(|record| record.offset < self.next) {
            self.delivered.pop_front();
        }
        while self.samples.front().is_some_and(|sample| sample.end <= self.next) {
            self.samples.pop_front();
        }
        if self.samples.is_empty() {
            self.resolution = FIRST_RESOLUTION;
        }
    }

    /// Notes where the partition ends now.
    pub fn ends_at(&mut self, end: Offset, now: Moment) {
        if end <= self.log_end {
            return;
        }
        self.log_end = end;
        match self.samples.back_mut() {
            Some(last) if now.since(last.heard_at) < self.resolution => last.end = end,
            _ => {
                self.samples.push_back(Sample { end, heard_at: now });
                if self.samples.len() > SAMPLES_MAX {
                    self.join_neighbours();
                }
            }
        }
    }

    /// Halves the samples; each of them takes the earlier time of its two, so that a lag is never understated.
    fn join_neighbours(&mut self) {
        let mut joined = VecDeque::with_capacity(self.samples.len());
        while let Some(first) = self.samples.pop_front() {
            let end = self.samples.pop_front().map_or(first.end, |second| second.end);
            joined.push_back(Sample { end, heard_at: first.heard_at });
        }
        self.samples = joined;
        self.resolution *= 2;
    }

    /// Gives how many records lie between the position and the end.
    pub fn records(&self) -> u64 {
        self.log_end.0.saturating_sub(self.next.0)
    }

    /// Gives how far the lane is behind in time: the age of the oldest record that was delivered and is not
    /// applied; where none was delivered, or its timestamp is missing or in the future, the time since the
    /// partition's end was first heard to lie beyond the position.
    pub fn time(&self, now: Now) -> Duration {
        let oldest = self
            .delivered
            .front()
            .map(|record| record.timestamp)
            .filter(|timestamp| timestamp.as_micros() > 0 && *timestamp <= now.wall);
        match (oldest, self.samples.front()) {
            // Somebody else's clock has dated it: only the date can tell.
            (Some(dated), _) => now.wall.since(dated),
            (None, Some(sample)) => now.moment.since(sample.heard_at),
            (None, None) => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + millis)
    }

    fn moment(millis: i64) -> Moment {
        Moment::from_millis(5_000_000 + millis)
    }

    fn now(millis: i64) -> Now {
        Now { wall: at(millis), moment: moment(millis) }
    }

    /// Makes a lag of a lane that has applied everything below 10, at the time 0.
    fn caught_up() -> Lag {
        let mut lag = Lag::default();
        lag.placed(Offset(10), Offset(10), moment(0));
        lag
    }

    fn millis(lag: &Lag, at: i64) -> u128 {
        lag.time(now(at)).as_millis()
    }

    #[test]
    fn lag_nothing_unread_is_zero_however_long() {
        let mut lag = caught_up();
        lag.ends_at(Offset(12), moment(100));
        lag.delivered([(Offset(10), at(90)), (Offset(11), at(95))]);
        lag.applied(Offset(12));

        assert_eq!((lag.records(), millis(&lag, 1_000_000)), (0, 0));
    }

    #[test]
    fn lag_delivered_record_counts_from_its_timestamp() {
        let mut lag = caught_up();
        lag.ends_at(Offset(12), moment(5_000));
        lag.delivered([(Offset(10), at(1_000)), (Offset(11), at(4_000))]);

        assert_eq!(millis(&lag, 6_000), 5_000);
        lag.applied(Offset(11));
        assert_eq!((lag.records(), millis(&lag, 6_000)), (1, 2_000));
    }

    #[test]
    fn lag_nothing_delivered_counts_from_when_the_end_passed() {
        let mut lag = caught_up();
        lag.ends_at(Offset(12), moment(1_000));
        lag.ends_at(Offset(15), moment(3_000));
        lag.ends_at(Offset(15), moment(9_000));

        assert_eq!((lag.records(), millis(&lag, 10_000)), (5, 9_000));
        lag.applied(Offset(11));
        assert_eq!(millis(&lag, 10_000), 9_000, "one record of the first sample is unread");
        lag.applied(Offset(12));
        assert_eq!(millis(&lag, 10_000), 7_000);
    }

    #[test]
    fn lag_useless_timestamp_counts_from_samples() {
        for timestamp in [Timestamp::from_millis(-1), Timestamp::default(), at(60_000)] {
            let mut lag = caught_up();
            lag.ends_at(Offset(11), moment(1_000));
            lag.delivered([(Offset(10), timestamp)]);

            assert_eq!(millis(&lag, 4_000), 3_000, "{timestamp}");
        }
    }

    #[test]
    fn lag_records_below_the_position_count_for_nothing() {
        let mut lag = caught_up();
        lag.delivered([(Offset(8), at(-9_000)), (Offset(9), at(-8_000)), (Offset(10), at(-1_000))]);

        assert_eq!(millis(&lag, 0), 1_000);
        lag.applied(Offset(11));
        assert_eq!(millis(&lag, 0), 0);
    }

    #[test]
    fn lag_new_incarnation_keeps_the_oldest_record_and_takes_the_others_again() {
        let mut lag = caught_up();
        let records = [(Offset(10), at(1_000)), (Offset(11), at(2_000)), (Offset(12), at(3_000))];
        lag.ends_at(Offset(13), moment(3_000));
        lag.delivered(records);

        lag.placed(Offset(10), Offset(13), moment(7_000));
        assert_eq!(millis(&lag, 8_000), 7_000, "before anything is delivered again");
        lag.delivered(records);
        lag.applied(Offset(12));

        assert_eq!((lag.records(), millis(&lag, 8_000)), (1, 5_000));
    }

    #[test]
    fn lag_log_made_anew_forgets_the_old_one() {
        let mut lag = caught_up();
        lag.ends_at(Offset(13), moment(1_000));
        lag.delivered([(Offset(10), at(900))]);

        lag.placed(Offset(0), Offset(2), moment(50_000));

        assert_eq!((lag.next(), lag.log_end(), lag.records()), (Offset(0), Offset(2), 2));
        assert_eq!(millis(&lag, 51_000), 1_000);
    }

    proptest! {
        #[test]
        fn lag_any_growth_is_never_understated_and_little_overstated(
            steps in proptest::collection::vec((1_u64..5, 1_i64..400), 1..600),
            applied_share in 0.0_f64..1.0,
        ) {
            let mut lag = caught_up();
            let (mut end, mut now) = (10, 0);
            let mut heard = Vec::new();
            for (records, pause) in steps {
                now += pause;
                end += records;
                lag.ends_at(Offset(end), moment(now));
                heard.push((end, now));
            }
            let span = now - heard[0].1;
            let next = 10 + ((end - 10) as f64 * applied_share) as u64;

            lag.applied(Offset(next));

            let true_lag = heard.iter().find(|(end, _)| *end > next).map_or(0, |(_, since)| now - since) as u128;
            let shown = millis(&lag, now);
            prop_assert!(lag.samples.len() <= SAMPLES_MAX);
            prop_assert!(shown >= true_lag, "{shown} < {true_lag}");
            let allowed = 100.max(span as u128 / 32 * 2 + 400);
            prop_assert!(shown <= true_lag + allowed, "{shown} > {true_lag} + {allowed} of {span}");
        }
    }
}
