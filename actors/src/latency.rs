//! Latencies, measured exactly: every sample is kept.
//!
//! Promises exact quantiles by nearest rank (the least sample that at least that share of all samples does
//! not exceed), never interpolated. Pure: durations are arguments. Takes eight bytes per sample, so it is
//! for tests, demonstrations and benchmarks; a program that runs for ever counts in histogram buckets.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::ids::Topic;

/// Nanoseconds in a millisecond.
const NANOS_PER_MILLI: f64 = 1e6;

/// What was measured.
///
/// *Units*: milliseconds, and samples per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct LatencySummary {
    /// Samples.
    pub count: u64,
    /// Their mean; 0 while there is none, as everything below.
    pub mean_ms: f64,
    /// Their standard deviation, of the samples as a whole population.
    pub standard_deviation_ms: f64,
    /// The least.
    pub min_ms: f64,
    /// Half of the samples are not above it.
    pub p50_ms: f64,
    /// 95 % of the samples are not above it.
    pub p95_ms: f64,
    /// 99 % of the samples are not above it.
    pub p99_ms: f64,
    /// The greatest.
    pub max_ms: f64,
    /// Samples divided by the time they were taken in; 0 when that is zero.
    pub throughput_per_second: f64,
}

impl std::fmt::Display for LatencySummary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} samples, {:.1}/s, mean {:.3} ms (sd {:.3}), p50 {:.3}, p95 {:.3}, p99 {:.3}, max {:.3}",
            self.count,
            self.throughput_per_second,
            self.mean_ms,
            self.standard_deviation_ms,
            self.p50_ms,
            self.p95_ms,
            self.p99_ms,
            self.max_ms
        )
    }
}

/// Records latencies per topic.
///
/// ```
/// use std::time::Duration;
/// use horizons_actors::ids::Topic;
/// use horizons_actors::latency::LatencyRecorder;
///
/// let mut latencies = LatencyRecorder::default();
/// latencies.record(Topic::JobLifecycle, Duration::from_millis(2));
/// latencies.record_batch(Topic::JobMetrics, 3, Duration::from_millis(10));
///
/// let all = latencies.summary(Duration::from_secs(2));
/// assert_eq!((all.count, all.p50_ms, all.throughput_per_second), (4, 10.0, 2.0));
/// assert_eq!(latencies.topic_summary(Topic::JobLifecycle, Duration::from_secs(2)).count, 1);
/// ```
#[derive(Debug, Clone, Default)]
pub struct LatencyRecorder {
    /// Nanoseconds, in the order of recording.
    samples: BTreeMap<Topic, Vec<u64>>,
}

impl LatencyRecorder {
    /// Records how long one event took.
    pub fn record(&mut self, topic: Topic, latency: Duration) {
        self.record_batch(topic, 1, latency);
    }

    /// Records a batch: each of its events took as long as the batch, for none was done before it.
    pub fn record_batch(&mut self, topic: Topic, events: usize, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.samples.entry(topic).or_default().extend(std::iter::repeat_n(nanos, events));
    }

    /// Takes in what another recorder recorded.
    pub fn merge(&mut self, other: LatencyRecorder) {
        for (topic, samples) in other.samples {
            self.samples.entry(topic).or_default().extend(samples);
        }
    }

    /// Sums up all topics; `elapsed` is the time in which the samples were taken.
    pub fn summary(&self, elapsed: Duration) -> LatencySummary {
        summarise(self.samples.values().flatten().copied().collect(), elapsed)
    }

    /// Sums up one topic.
    pub fn topic_summary(&self, topic: Topic, elapsed: Duration) -> LatencySummary {
        summarise(self.samples.get(&topic).cloned().unwrap_or_default(), elapsed)
    }

    /// Sums up each topic that has samples.
    pub fn by_topic(&self, elapsed: Duration) -> Vec<(Topic, LatencySummary)> {
        self.samples.keys().map(|topic| (*topic, self.topic_summary(*topic, elapsed))).collect()
    }
}

fn summarise(mut samples: Vec<u64>, elapsed: Duration) -> LatencySummary {
    samples.sort_unstable();
    let (Some(min), Some(max)) = (samples.first(), samples.last()) else {
        return LatencySummary::default();
    };
    let count = samples.len() as f64;
    let mean = samples.iter().map(|sample| *sample as f64).sum::<f64>() / count;
    let variance = samples.iter().map(|sample| (*sample as f64 - mean).powi(2)).sum::<f64>() / count;
    let seconds = elapsed.as_secs_f64();
    LatencySummary {
        count: samples.len() as u64,
        mean_ms: mean / NANOS_PER_MILLI,
        standard_deviation_ms: variance.sqrt() / NANOS_PER_MILLI,
        min_ms: *min as f64 / NANOS_PER_MILLI,
        p50_ms: quantile_ms(&samples, 50),
        p95_ms: quantile_ms(&samples, 95),
        p99_ms: quantile_ms(&samples, 99),
        max_ms: *max as f64 / NANOS_PER_MILLI,
        throughput_per_second: if seconds > 0.0 { count / seconds } else { 0.0 },
    }
}

/// Finds the least of the sorted samples that at least `percent` of them do not exceed.
fn quantile_ms(sorted: &[u64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    let sample = sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default();
    sample as f64 / NANOS_PER_MILLI
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, word for word and slow.
    fn naive_quantile_ms(samples: &[u64], percent: usize) -> f64 {
        let reaches = |candidate: u64| {
            samples.iter().filter(|sample| **sample <= candidate).count() * 100 >= samples.len() * percent
        };
        let least = samples.iter().copied().filter(|sample| reaches(*sample)).min();
        least.unwrap_or_default() as f64 / NANOS_PER_MILLI
    }

    #[test]
    fn summary_without_samples_is_all_zero() {
        let summary = LatencyRecorder::default().summary(Duration::from_secs(1));

        assert_eq!(summary, LatencySummary::default());
    }

    #[test]
    fn summary_known_samples_gives_textbook_figures() {
        let mut latencies = LatencyRecorder::default();
        for millis in [2, 4, 4, 4, 5, 5, 7, 9] {
            latencies.record(Topic::AuditTrail, Duration::from_millis(millis));
        }

        let summary = latencies.summary(Duration::from_secs(4));

        assert_eq!((summary.mean_ms, summary.standard_deviation_ms), (5.0, 2.0));
        assert_eq!((summary.p50_ms, summary.p99_ms, summary.throughput_per_second), (4.0, 9.0, 2.0));
        assert_eq!(
            summary.to_string(),
            "8 samples, 2.0/s, mean 5.000 ms (sd 2.000), p50 4.000, p95 9.000, p99 9.000, max 9.000"
        );
    }

    proptest! {
        #[test]
        fn summary_any_samples_equals_naive_reference(
            samples in proptest::collection::vec((0_usize..5, 0_u64..5_000_000_000), 1..300),
        ) {
            let mut left = LatencyRecorder::default();
            let mut right = LatencyRecorder::default();
            for (index, (topic, nanos)) in samples.iter().enumerate() {
                let half = if index % 2 == 0 { &mut left } else { &mut right };
                half.record(Topic::ALL[*topic], Duration::from_nanos(*nanos));
            }

            left.merge(right);
            let all = left.summary(Duration::from_secs(1));

            let nanos: Vec<u64> = samples.iter().map(|(_, nanos)| *nanos).collect();
            prop_assert_eq!(all.count, nanos.len() as u64);
            prop_assert_eq!(all.p50_ms, naive_quantile_ms(&nanos, 50));
            prop_assert_eq!(all.p95_ms, naive_quantile_ms(&nanos, 95));
            prop_assert_eq!(all.p99_ms, naive_quantile_ms(&nanos, 99));
            prop_assert!(all.min_ms <= all.mean_ms + 1e-6 && all.mean_ms <= all.max_ms + 1e-6);
            let counted: u64 = left.by_topic(Duration::ZERO).iter().map(|(_, summary)| summary.count).sum();
            prop_assert_eq!(counted, all.count);
        }
    }
}
