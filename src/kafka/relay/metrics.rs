//! What the relay counts, declared once, on a registry that is passed in.
//!
//! Promises bounded labels: topics and kinds of failure are closed sets.

use std::time::Duration;

use horizons_actors::ids::{LogTopic, Topic};
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

/// Bounds of the publish latency, in seconds: fine around the limits of requirement T (5, 20 and 50 ms).
const PUBLISH_BUCKETS_SECONDS: [f64; 18] = [
    0.000_5, 0.001, 0.001_5, 0.002, 0.003, 0.004, 0.005, 0.007_5, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25,
    1.0, 5.0, 30.0,
];

/// Bounds of the record sizes, in bytes, up to what a topic takes.
const SIZE_BUCKETS_BYTES: [f64; 10] =
    [256.0, 512.0, 1_024.0, 2_048.0, 4_096.0, 16_384.0, 65_536.0, 262_144.0, 524_288.0, 1_048_576.0];

/// The metrics of publishing (requirement P6).
#[derive(Debug, Clone)]
pub struct RelayMetrics {
    publish_seconds: HistogramVec,
    record_bytes: HistogramVec,
    published: IntCounterVec,
    skipped: IntCounterVec,
    failures: IntCounterVec,
    rebuilds: IntCounter,
    removed: IntCounter,
    waiting: IntGaugeVec,
    stopped: IntGaugeVec,
    oldest_seconds: Gauge,
    in_flight_bytes: IntGauge,
    is_leader: IntGauge,
}

/// The handles of one topic, looked up once.
#[derive(Debug, Clone)]
pub(super) struct TopicMetrics {
    pub(super) publish_seconds: Histogram,
    pub(super) record_bytes: Histogram,
    pub(super) published: IntCounter,
    pub(super) skipped: IntCounter,
}

impl RelayMetrics {
    /// Declares the metrics on a registry.
    ///
    /// *Errors*: when a name is declared twice.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters =
            |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
                let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
                registry.register(Box::new(metric.clone()))?;
                Ok(metric)
            };
        let gauges = |name: &str, help: &str| -> Result<IntGaugeVec, prometheus::Error> {
            let metric = IntGaugeVec::new(Opts::new(name, help), &["topic"])?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let histograms =
            |name: &str, help: &str, buckets: &[f64]| -> Result<HistogramVec, prometheus::Error> {
                let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
                let metric = HistogramVec::new(options, &["topic"])?;
                registry.register(Box::new(metric.clone()))?;
                Ok(metric)
            };
        let rebuilds = IntCounter::new(
            "horizons_publish_rebuilds_total",
            "Producers made anew because a record was not delivered",
        )?;
        let removed =
            IntCounter::new("horizons_outbox_removed_records_total", "Sent records removed from the outbox")?;
        let oldest_seconds =
            Gauge::new("horizons_outbox_oldest_seconds", "Age of the oldest record that waits, in seconds")?;
        let in_flight_bytes =
            IntGauge::new("horizons_publish_in_flight_bytes", "Bytes handed over and not acknowledged")?;
        let is_leader =
            IntGauge::new("horizons_relay_is_leader", "1 while this process sends what the outbox holds")?;
        registry.register(Box::new(rebuilds.clone()))?;
        registry.register(Box::new(removed.clone()))?;
        registry.register(Box::new(oldest_seconds.clone()))?;
        registry.register(Box::new(in_flight_bytes.clone()))?;
        registry.register(Box::new(is_leader.clone()))?;
        Ok(Self {
            publish_seconds: histograms(
                "horizons_publish_seconds",
                "Time from a record's commit in the outbox to Kafka's acknowledgement",
                &PUBLISH_BUCKETS_SECONDS,
            )?,
            record_bytes: histograms(
                "horizons_published_record_bytes",
                "Key, headers and payload of published records",
                &SIZE_BUCKETS_BYTES,
            )?,
            published: counters(
                "horizons_published_records_total",
                "Records that Kafka has acknowledged",
                &["topic"],
            )?,
            skipped: counters(
                "horizons_publish_skipped_total",
                "Records not sent because they were found in Kafka after a start, takeover or rebuild",
                &["topic"],
            )?,
            failures: counters(
                "horizons_publish_failures_total",
                "Records that were not delivered and looks that failed, by kind; each is tried again or waits for an operator",
                &["topic", "kind"],
            )?,
            rebuilds,
            removed,
            waiting: gauges("horizons_outbox_waiting_records", "Records that Kafka has not acknowledged")?,
            stopped: gauges(
                "horizons_outbox_stopped_partitions",
                "Partitions whose next record Kafka refuses for good; an operator must act",
            )?,
            oldest_seconds,
            in_flight_bytes,
            is_leader,
        })
    }

    pub(super) fn of_topic(&self, topic: LogTopic) -> TopicMetrics {
        let name = topic.to_string();
        TopicMetrics {
            publish_seconds: self.publish_seconds.with_label_values(&[&name]),
            record_bytes: self.record_bytes.with_label_values(&[&name]),
            published: self.published.with_label_values(&[&name]),
            skipped: self.skipped.with_label_values(&[&name]),
        }
    }

    pub(super) fn count_failures(&self, topic: LogTopic, kind: &'static str, count: u64) {
        self.failures.with_label_values(&[topic.to_string().as_str(), kind]).inc_by(count);
    }

    pub(super) fn count_rebuild(&self) {
        self.rebuilds.inc();
    }

    pub(super) fn count_removed(&self, records: u64) {
        self.removed.inc_by(records);
    }

    /// Sets the gauges; topics that are not given have nothing to tell.
    pub(super) fn observe(
        &self,
        is_leader: bool,
        in_flight_bytes: usize,
        oldest: Duration,
        topics: &[(LogTopic, u64, u64)],
    ) {
        self.is_leader.set(i64::from(is_leader));
        self.in_flight_bytes.set(i64::try_from(in_flight_bytes).unwrap_or(i64::MAX));
        self.oldest_seconds.set(oldest.as_secs_f64());
        let all =
            Topic::ALL.into_iter().flat_map(|topic| [LogTopic::Record(topic), LogTopic::DeadLetter(topic)]);
        for topic in all {
            let found = topics.iter().find(|(named, _, _)| *named == topic);
            let (waiting, stopped) = found.map_or((0, 0), |(_, waiting, stopped)| (*waiting, *stopped));
            let name = topic.to_string();
            self.waiting.with_label_values(&[&name]).set(i64::try_from(waiting).unwrap_or(i64::MAX));
            self.stopped.with_label_values(&[&name]).set(i64::try_from(stopped).unwrap_or(i64::MAX));
        }
    }
}
