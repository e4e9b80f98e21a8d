//! How much was answered of late, how it ended and how long it took (requirement C10). Pure.
//!
//! Promises figures of the last half to whole minute, however long a lane has lived, in bounded memory: two spans of
//! half a minute, of which the older one is whole. Quantiles are exact to one part in a hundred.

use std::collections::VecDeque;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::clock::Moment;
use crate::effect::Outcome;
use crate::ids::Offset;

/// How long a span is.
const SPAN: Duration = Duration::from_secs(30);

/// The least time that a rate is taken over: below this, one batch would be a flood.
const RATE_TIME_MIN: Duration = Duration::from_secs(1);

/// The longest time that is told apart from longer ones.
const LONGEST: Duration = Duration::from_secs(3_600);

/// Significant digits of a time.
const DIGITS: u8 = 2;

/// Microseconds in a millisecond.
const MICROS_PER_MILLI: f64 = 1_000.0;

/// What was answered of late.
///
/// *Units*: records, and milliseconds from a record's arrival at its lane to the commit of its effects. Over the last
/// 30 to 60 seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Default)]
pub struct Recent {
    /// Records answered in a second.
    pub events_per_second: f64,
    /// The part of them that ended in error (poison, with or without a key), 0 to 1; duplicates, refused ones and
    /// those that wait behind a parked key did not.
    pub error_rate: f64,
    /// The part of them that came to wait behind a parked key, 0 to 1.
    pub waiting_rate: f64,
    /// Half of the records took no longer; none where nothing was answered, as the next two.
    pub processing_p50_ms: Option<f64>,
    /// 95 % took no longer.
    pub processing_p95_ms: Option<f64>,
    /// 99 % took no longer.
    pub processing_p99_ms: Option<f64>,
}

/// What was answered within a span.
#[derive(Debug, Clone, Default)]
struct Answered {
    outcomes: [u64; Outcome::ALL.len()],
    /// Microseconds; none until something was answered, as most lanes are idle.
    processing: Option<Histogram<u32>>,
}

impl Answered {
    fn note(&mut self, outcomes: &[Outcome], took: Duration) {
        for outcome in outcomes {
            if let Some(count) = self.outcomes.get_mut(*outcome as usize) {
                *count += 1;
            }
        }
        let longest = micros(LONGEST);
        if self.processing.is_none() {
            self.processing = Histogram::new_with_bounds(1, longest, DIGITS).ok();
        }
        if let Some(processing) = &mut self.processing {
            processing.saturating_record_n(micros(took).clamp(1, longest), saturated(outcomes.len()));
        }
    }

    fn add(&mut self, other: &Self) {
        for (sum, count) in self.outcomes.iter_mut().zip(other.outcomes) {
            *sum += count;
        }
        match (&mut self.processing, &other.processing) {
            (Some(sum), Some(other)) => {
                // Both have the same bounds.
                let _added = sum.add(other);
            }
            (sum @ None, Some(other)) => *sum = Some(other.clone()),
            (_, None) => {}
        }
    }

    fn count(&self, outcomes: &[Outcome]) -> u64 {
        outcomes.iter().filter_map(|outcome| self.outcomes.get(*outcome as usize)).sum()
    }

    fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        let processing = self.processing.as_ref().filter(|processing| !processing.is_empty())?;
        Some(processing.value_at_quantile(quantile) as f64 / MICROS_PER_MILLI)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn saturated(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// What one or several lanes answered of late.
#[derive(Debug, Clone, Default)]
pub(super) struct Sum {
    answered: Answered,
    events_per_second: f64,
}

impl Sum {
    /// Adds what another lane answered.
    pub(super) fn add(&mut self, other: &Self) {
        self.answered.add(&other.answered);
        self.events_per_second += other.events_per_second;
    }

    /// Gives it as figures.
    pub(super) fn figures(&self) -> Recent {
        let all = self.answered.count(&Outcome::ALL);
        let part = |outcomes: &[Outcome]| match all {
            0 => 0.0,
            all => self.answered.count(outcomes) as f64 / all as f64,
        };
        Recent {
            events_per_second: self.events_per_second,
            error_rate: part(&[Outcome::Parked, Outcome::DeadLettered]),
            waiting_rate: part(&[Outcome::Waiting]),
            processing_p50_ms: self.answered.quantile_ms(0.5),
            processing_p95_ms: self.answered.quantile_ms(0.95),
            processing_p99_ms: self.answered.quantile_ms(0.99),
        }
    }
}

/// A batch that came to a lane.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    /// Behind its last record.
    end: Offset,
    /// Records of it that are not answered.
    left: usize,
    at: Moment,
}

/// What a lane answered of late.
#[derive(Debug, Clone, Default)]
pub(super) struct Pace {
    /// When the lane began, and the younger span.
    began: Option<(Moment, Moment)>,
    current: Answered,
    /// The span before; empty while the lane is younger.
    previous: Answered,
    /// Batches that are not answered whole, in order.
    arrivals: VecDeque<Arrival>,
}

impl Pace {
    /// Forgets what came to the incarnation before: it will come again.
    pub(super) fn opening(&mut self) {
        self.arrivals.clear();
    }

    /// Notes a batch that came, by the offset behind its last record and how many of its records are to be answered.
    pub(super) fn arrived(&mut self, end: Offset, records: usize, now: Moment) {
        self.roll(now);
        self.arrivals.push_back(Arrival { end, left: records, at: now });
    }

    /// Notes records that were answered together, of one batch or of several, by the position behind them. There are
    /// none where a batch only moved the position.
    pub(super) fn answered(&mut self, next: Offset, outcomes: &[Outcome], now: Moment) {
        self.roll(now);
        let mut rest = outcomes;
        while let Some(arrival) = self.arrivals.front_mut() {
            let (of_batch, others) = rest.split_at(arrival.left.min(rest.len()));
            arrival.left -= of_batch.len();
            rest = others;
            if !of_batch.is_empty() {
                self.current.note(of_batch, now.since(arrival.at));
            }
            if arrival.end > next {
                break;
            }
            self.arrivals.pop_front();
        }
        if !rest.is_empty() {
            // What came to an incarnation before.
            self.current.note(rest, Duration::ZERO);
        }
    }

    /// Sums up what was answered of late.
    pub(super) fn sum(&mut self, now: Moment) -> Sum {
        let (lane, span) = self.roll(now);
        let mut answered = self.previous.clone();
        answered.add(&self.current);
        let time = now.since(lane).min(now.since(span) + SPAN).max(RATE_TIME_MIN);
        let events_per_second = answered.count(&Outcome::ALL) as f64 / time.as_secs_f64();
        Sum { answered, events_per_second }
    }

    /// Begins a new span when it is time; gives when the lane and the younger span began.
    fn roll(&mut self, now: Moment) -> (Moment, Moment) {
        let (lane, span) = self.began.get_or_insert((now, now));
        let age = now.since(*span);
        if age >= SPAN * 2 {
            (self.previous, self.current) = Default::default();
            *span = now;
        } else if age >= SPAN {
            self.previous = std::mem::take(&mut self.current);
            *span = span.plus(SPAN);
        }
        (*lane, *span)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: i64) -> Moment {
        Moment::from_millis(1_700_000_000_000 + millis)
    }

    fn near(value: Option<f64>, wanted: f64) -> bool {
        value.is_some_and(|value| (value - wanted).abs() <= wanted / 100.0)
    }

    #[test]
    fn sum_of_nothing_is_zero_and_without_times() {
        let mut pace = Pace::default();

        assert_eq!(pace.sum(at(0)).figures(), Recent::default());
    }

    #[test]
    fn sum_each_record_took_from_its_batches_arrival_to_its_commit() {
        let mut pace = Pace::default();
        pace.arrived(Offset(100), 100, at(0));
        pace.arrived(Offset(200), 100, at(50));
        // The first batch in two transactions, the second one in one.
        pace.answered(Offset(98), &[Outcome::Applied; 98], at(10));
        pace.answered(Offset(100), &[Outcome::Applied; 2], at(30));
        pace.answered(Offset(200), &[Outcome::Applied; 100], at(250));

        let recent = pace.sum(at(2_000)).figures();

        assert!(near(recent.processing_p50_ms, 30.0), "{recent:?}");
        assert!(near(recent.processing_p95_ms, 200.0), "{recent:?}");
        assert_eq!((recent.events_per_second, recent.error_rate), (100.0, 0.0));
    }

    #[test]
    fn sum_records_of_several_batches_took_from_the_arrival_of_their_own() {
        let mut pace = Pace::default();
        // Offsets need not be dense, and a batch may hold no record.
        pace.arrived(Offset(300), 90, at(0));
        pace.arrived(Offset(310), 0, at(50));
        pace.arrived(Offset(700), 10, at(100));
        pace.answered(Offset(20), &[Outcome::Applied; 10], at(10));
        pace.answered(Offset(700), &[Outcome::Applied; 90], at(200));

        let recent = pace.sum(at(2_000)).figures();

        assert!(near(recent.processing_p50_ms, 200.0) && near(recent.processing_p95_ms, 200.0), "{recent:?}");
        assert_eq!(recent.events_per_second, 50.0);
        assert!(pace.arrivals.is_empty());
        let quickest = pace.current.quantile_ms(0.15);
        assert!(near(quickest, 100.0), "the last ten came late: {quickest:?}");
    }

    #[test]
    fn sum_counts_what_waits_behind_a_parked_key_apart_from_errors() {
        let mut pace = Pace::default();
        pace.arrived(Offset(100), 100, at(0));
        let mut outcomes = vec![Outcome::Waiting; 100];
        outcomes[0] = Outcome::Parked;
        pace.answered(Offset(100), &outcomes, at(1));

        let recent = pace.sum(at(1)).figures();

        assert_eq!((recent.error_rate, recent.waiting_rate), (0.01, 0.99));
    }

    #[test]
    fn sum_counts_errors_apart_from_duplicates_and_refusals() {
        let mut pace = Pace::default();
        pace.arrived(Offset(10), 8, at(0));
        let outcomes = [
            Outcome::Applied,
            Outcome::Duplicate,
            Outcome::Refused,
            Outcome::Parked,
            Outcome::DeadLettered,
            Outcome::Applied,
            Outcome::Applied,
            Outcome::Applied,
        ];
        pace.answered(Offset(10), &outcomes, at(1));

        assert_eq!(pace.sum(at(1)).figures().error_rate, 0.25);
    }

    #[test]
    fn sum_forgets_what_is_older_than_two_spans_and_counts_idle_time() {
        let mut pace = Pace::default();
        pace.arrived(Offset(60), 60, at(0));
        pace.answered(Offset(60), &[Outcome::Applied; 60], at(0));

        let rates: Vec<f64> = [500, 10_000, 29_999, 45_000, 61_000]
            .map(|millis| pace.sum(at(millis)).figures().events_per_second)
            .to_vec();

        assert_eq!(rates[..2], [60.0, 6.0]);
        assert!((rates[2] - 2.0).abs() < 0.01, "{rates:?}");
        assert!((rates[3] - 60.0 / 45.0).abs() < 0.01, "{rates:?}");
        assert_eq!(rates[4], 0.0);
        pace.arrived(Offset(120), 60, at(200_000));
        pace.answered(Offset(120), &[Outcome::Applied; 60], at(200_000));
        let after_rest = pace.sum(at(200_001)).figures().events_per_second;
        assert!((after_rest - 2.0).abs() < 0.01, "it rested for a span at least: {after_rest}");
    }

    #[test]
    fn opening_forgets_arrivals_that_come_again() {
        let mut pace = Pace::default();
        pace.arrived(Offset(10), 10, at(0));
        pace.opening();
        pace.arrived(Offset(10), 10, at(5_000));
        pace.answered(Offset(10), &[Outcome::Applied; 10], at(5_020));

        assert!(near(pace.sum(at(6_000)).figures().processing_p99_ms, 20.0));
    }

    #[test]
    fn clock_that_goes_back_makes_no_negative_time() {
        let mut pace = Pace::default();
        pace.arrived(Offset(10), 10, at(5_000));
        pace.answered(Offset(10), &[Outcome::Applied; 10], at(0));

        let recent = pace.sum(at(-10_000)).figures();

        assert!(near(recent.processing_p99_ms, 0.001), "{recent:?}");
        assert_eq!(recent.events_per_second, 10.0);
    }

    proptest! {
        /// Against the list of all records: what is added up over lanes is what one lane would have.
        #[test]
        fn sum_of_lanes_counts_every_record_once(
            batches in proptest::collection::vec((0_usize..3, 1_usize..50, 0_i64..2_000), 1..40),
        ) {
            let mut lanes = [Pace::default(), Pace::default(), Pace::default()];
            let mut ends = [0_u64; 3];
            let mut took: Vec<i64> = Vec::new();
            for (lane, records, millis) in batches {
                ends[lane] += records as u64;
                lanes[lane].arrived(Offset(ends[lane]), records, at(0));
                lanes[lane].answered(Offset(ends[lane]), &vec![Outcome::Applied; records], at(millis));
                took.extend(std::iter::repeat_n(millis, records));
            }
            let mut sum = Sum::default();
            for lane in &mut lanes {
                sum.add(&lane.sum(at(20_000)));
            }
            took.sort_unstable();

            prop_assert_eq!(sum.answered.count(&Outcome::ALL), took.len() as u64);
            let half = took[(took.len() - 1) / 2] as f64;
            let measured = sum.figures().processing_p50_ms.unwrap_or_default();
            prop_assert!((measured - half).abs() <= half / 100.0 + 0.001, "{} {}", measured, half);
        }
    }
}
