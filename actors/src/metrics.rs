//! What lanes count, declared once, on a registry that is passed in.
//!
//! Promises bounded labels: groups and topics come from the configuration and enums, never from records.

use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry,
};

use crate::clock::Now;
use crate::effect::Outcome;
use crate::ids::{Group, LaneKey};
use crate::lane::status::StatusBoard;
use crate::rejection::Rejection;
use crate::snapshot::ActorState;

/// Bounds of the time histograms, in seconds: half a millisecond to ten seconds.
const TIME_BUCKETS_SECONDS: [f64; 14] =
    [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// How the log changed what is assigned to a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebalanceKind {
    /// Partitions came.
    Assigned,
    /// Partitions went in good order.
    Revoked,
    /// Partitions were someone else's already.
    Lost,
}

impl RebalanceKind {
    /// Gives the stable name.
    pub const fn name(self) -> &'static str {
        match self {
            RebalanceKind::Assigned => "assigned",
            RebalanceKind::Revoked => "revoked",
            RebalanceKind::Lost => "lost",
        }
    }
}

/// The processing metrics of all lanes.
#[derive(Debug, Clone)]
pub struct LaneMetrics {
    records: IntCounterVec,
    rejections: IntCounterVec,
    commits: HistogramVec,
    retries: IntCounterVec,
    panics: IntCounterVec,
    floods: IntCounterVec,
    restarts: IntCounterVec,
    rebalances: IntCounterVec,
    lag_records: IntGaugeVec,
    lag_seconds: GaugeVec,
    transaction_records: IntGaugeVec,
    transaction_seconds: GaugeVec,
    parked_keys: IntGaugeVec,
    parked_records: IntGaugeVec,
    lane_paused: IntGaugeVec,
    events_per_second: GaugeVec,
    error_rate: GaugeVec,
    waiting_rate: GaugeVec,
    processing: GaugeVec,
}

impl LaneMetrics {
    /// Declares the metrics on a registry.
    ///
    /// *Errors*: when a name is declared twice.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| -> Result<IntGaugeVec, prometheus::Error> {
            let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let commits = HistogramVec::new(
            HistogramOpts::new(
                "horizons_commit_seconds",
                "Time from handing a lane's transaction to the store until its commit is known",
            )
            .buckets(TIME_BUCKETS_SECONDS.to_vec()),
            &["group"],
        )?;
        registry.register(Box::new(commits.clone()))?;
        let real = |name: &str, help: &str, labels: &[&str]| -> Result<GaugeVec, prometheus::Error> {
            let metric = GaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        Ok(Self {
            records: counter(
                "horizons_records_total",
                "Records answered, by outcome",
                &["group", "topic", "outcome"],
            )?,
            rejections: counter(
                "horizons_rejections_total",
                "Poison events, by reason",
                &["group", "topic", "reason"],
            )?,
            commits,
            retries: counter(
                "horizons_lane_retries_total",
                "Transactions tried again because store or log were away",
                &["group"],
            )?,
            panics: counter(
                "horizons_behaviour_panics_total",
                "Panics of a behaviour that were charged to an event",
                &["group"],
            )?,
            floods: counter(
                "horizons_floods_total",
                "Floods of poison that made a lane hold still",
                &["group"],
            )?,
            restarts: counter(
                "horizons_lane_restarts_total",
                "Restarts of lanes after an unplanned end",
                &["group"],
            )?,
            rebalances: counter(
                "horizons_rebalances_total",
                "Changes of what the log assigned to this process, by kind: assigned, revoked, lost",
                &["group", "kind"],
            )?,
            lag_records: gauge(
                "horizons_lag_records",
                "Records not yet applied, parked ones included",
                &["group", "topic", "partition"],
            )?,
            lag_seconds: real(
                "horizons_lag_seconds",
                "Age of the oldest record that a lane has not passed, parked ones left out",
                &["group", "topic", "partition"],
            )?,
            transaction_records: gauge(
                "horizons_open_transaction_records",
                "Offsets between where readers are given records and the end of the partition",
                &["group", "topic", "partition"],
            )?,
            transaction_seconds: real(
                "horizons_open_transaction_seconds",
                "How long an open transaction has held readers back at the same place; 0 while none does",
                &["group", "topic", "partition"],
            )?,
            parked_records: gauge(
                "horizons_parked_records",
                "Records that are parked: poison at the head of its key, and what waits behind it",
                &["group", "topic", "partition"],
            )?,
            parked_keys: gauge(
                "horizons_parked_keys",
                "Keys that are parked",
                &["group", "topic", "partition"],
            )?,
            lane_paused: gauge(
                "horizons_lane_paused",
                "1 while a lane holds still until an operator resumes it",
                &["group", "topic", "partition"],
            )?,
            events_per_second: real(
                "horizons_events_per_second",
                "Records that a lane answered in a second, over the last 30 to 60 s",
                &["group", "topic", "partition"],
            )?,
            error_rate: real(
                "horizons_error_ratio",
                "Part of the records of the last 30 to 60 s that were poison, 0 to 1",
                &["group", "topic", "partition"],
            )?,
            waiting_rate: real(
                "horizons_waiting_ratio",
                "Part of the records of the last 30 to 60 s that came to wait behind a parked key, 0 to 1",
                &["group", "topic", "partition"],
            )?,
            processing: real(
                "horizons_processing_seconds",
                "Percentiles of the time from a record's arrival at its lane to the commit of its effects, over the last 30 to 60 s",
                // The label `quantile` belongs to Prometheus' summaries.
                &["group", "topic", "partition", "percentile"],
            )?,
        })
    }

    /// Counts the outcomes of a committed batch.
    pub fn count_outcomes(&self, lane: &LaneKey, outcomes: &[Outcome]) {
        for outcome in Outcome::ALL {
            let count = outcomes.iter().filter(|one| **one == outcome).count();
            if count > 0 {
                self.records
                    .with_label_values(&[
                        lane.group.as_str(),
                        lane.topic_partition.topic.name(),
                        outcome.name(),
                    ])
                    .inc_by(count as u64);
            }
        }
    }

    /// Counts a poison event.
    pub fn count_rejection(&self, lane: &LaneKey, rejection: &Rejection) {
        self.rejections
            .with_label_values(&[lane.group.as_str(), lane.topic_partition.topic.name(), rejection.name()])
            .inc();
    }

    /// Gives the commit time histogram of a group.
    pub fn commits(&self, group: &Group) -> Histogram {
        self.commits.with_label_values(&[group.as_str()])
    }

    /// Counts a transaction that is tried again.
    pub fn count_retry(&self, group: &Group) {
        self.retries.with_label_values(&[group.as_str()]).inc();
    }

    /// Counts a panic that was charged to an event.
    pub fn count_panic(&self, group: &Group) {
        self.panics.with_label_values(&[group.as_str()]).inc();
    }

    /// Counts a flood of poison.
    pub fn count_flood(&self, group: &Group) {
        self.floods.with_label_values(&[group.as_str()]).inc();
    }

    /// Counts a restart of a lane.
    pub fn count_restart(&self, group: &Group) {
        self.restarts.with_label_values(&[group.as_str()]).inc();
    }

    /// Counts a change of what is assigned to a group.
    pub fn count_rebalance(&self, group: &Group, kind: RebalanceKind) {
        self.rebalances.with_label_values(&[group.as_str(), kind.name()]).inc();
    }

    /// Sets the gauges from the board; called when metrics are read. Series of lanes that are gone go too.
    pub fn observe_board(&self, board: &StatusBoard, now: Now) {
        self.lag_records.reset();
        self.lag_seconds.reset();
        self.transaction_records.reset();
        self.transaction_seconds.reset();
        self.parked_keys.reset();
        self.parked_records.reset();
        self.lane_paused.reset();
        self.events_per_second.reset();
        self.error_rate.reset();
        self.waiting_rate.reset();
        self.processing.reset();
        for (lane, status) in board.lanes() {
            let snapshot = status.snapshot(&lane, now);
            let partition = lane.topic_partition.partition.to_string();
            let labels = [lane.group.as_str(), lane.topic_partition.topic.name(), partition.as_str()];
            let whole = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
            self.lag_records.with_label_values(&labels).set(whole(snapshot.lag_records));
            self.lag_seconds.with_label_values(&labels).set(snapshot.lag_seconds);
            let held_back = snapshot.log_high_offset.saturating_sub(snapshot.log_end_offset);
            self.transaction_records.with_label_values(&labels).set(whole(held_back));
            self.transaction_seconds.with_label_values(&labels).set(snapshot.transaction_open_seconds);
            self.parked_keys.with_label_values(&labels).set(whole(snapshot.parked_keys));
            self.parked_records.with_label_values(&labels).set(whole(snapshot.parked_records));
            let is_paused = snapshot.state == ActorState::Paused;
            self.lane_paused.with_label_values(&labels).set(i64::from(is_paused));
            let recent = snapshot.recent;
            self.events_per_second.with_label_values(&labels).set(recent.events_per_second);
            self.error_rate.with_label_values(&labels).set(recent.error_rate);
            self.waiting_rate.with_label_values(&labels).set(recent.waiting_rate);
            let percentiles = [
                ("50", recent.processing_p50_ms),
                ("95", recent.processing_p95_ms),
                ("99", recent.processing_p99_ms),
            ];
            let [group, topic, partition] = labels;
            // A lane that answered nothing has no times.
            for (percentile, millis) in percentiles {
                if let Some(millis) = millis {
                    let labels = [group, topic, partition, percentile];
                    self.processing.with_label_values(&labels).set(millis / 1_000.0);
                }
            }
        }
    }
}
