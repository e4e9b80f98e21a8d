//! What the program counts about itself and its HTTP interface, declared once, on a registry that is passed in.
//!
//! Promises bounded labels: routes are templates, methods and statuses closed sets; never a path, a user or
//! an id. What lanes count is in [`horizons_actors::metrics`].

use std::time::Duration;

use horizons_actors::ids::Topic;
use horizons_actors::probes::{Probe, ProbeState};
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use warp::http::Method;

use crate::disk::{AttemptSpace, Room};
use crate::telemetry;

/// Bounds of the answer times, in seconds: from a read of one row to a submit that waits for its verdict.
const ANSWER_BUCKETS_SECONDS: [f64; 13] =
    [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0];

/// The metrics of the program itself and of HTTP.
#[derive(Debug, Clone)]
pub struct ProcessMetrics {
    requests: IntCounterVec,
    answer_seconds: HistogramVec,
    connections: IntGauge,
    resident_memory_bytes: IntGauge,
    log_lines_dropped: IntCounter,
    probe_state: IntGaugeVec,
}

impl ProcessMetrics {
    /// Declares the metrics on a registry.
    ///
    /// *Errors*: when a name is declared twice.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let requests = IntCounterVec::new(
            Opts::new("horizons_http_requests_total", "Requests answered, by route template and status"),
            &["route", "method", "status"],
        )?;
        let answer_seconds = HistogramVec::new(
            HistogramOpts::new(
                "horizons_http_request_seconds",
                "Time from a request's headers until its answer is made",
            )
            .buckets(ANSWER_BUCKETS_SECONDS.to_vec()),
            &["route"],
        )?;
        let connections = IntGauge::new("horizons_http_connections", "Connections that are served now")?;
        let resident_memory_bytes = IntGauge::new(
            "process_resident_memory_bytes",
            "Resident memory in bytes; 0 where the operating system does not tell",
        )?;
        let log_lines_dropped = IntCounter::new(
            "horizons_log_lines_dropped_total",
            "Lines of the log that were dropped because its reader did not read",
        )?;
        let probe_state = IntGaugeVec::new(
            Opts::new("horizons_probe_state", "How a part of the process is: 0 ok, 1 degraded, 2 failed"),
            &["probe"],
        )?;
        let build = IntGaugeVec::new(Opts::new("horizons_build_info", "Always 1"), &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);

        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(answer_seconds.clone()))?;
        registry.register(Box::new(connections.clone()))?;
        registry.register(Box::new(resident_memory_bytes.clone()))?;
        registry.register(Box::new(log_lines_dropped.clone()))?;
        registry.register(Box::new(probe_state.clone()))?;
        registry.register(Box::new(build))?;
        Ok(Self {
            requests,
            answer_seconds,
            connections,
            resident_memory_bytes,
            log_lines_dropped,
            probe_state,
        })
    }

    /// Counts a request: `route` is a path template, or one fixed name for all that match none.
    pub fn count_request(&self, route: &'static str, method: &Method, status: u16, took: Duration) {
        let status = status.to_string();
        self.requests.with_label_values(&[route, method_label(method), status.as_str()]).inc();
        self.answer_seconds.with_label_values(&[route]).observe(took.as_secs_f64());
    }

    /// Counts a connection until the mark is dropped.
    pub fn count_connection(&self) -> CountedConnection {
        self.connections.inc();
        CountedConnection(self.connections.clone())
    }

    /// Sets the gauges of probes; called when metrics are read. Those of parts that are gone go too.
    pub fn observe_probes(&self, probes: &[Probe]) {
        self.probe_state.reset();
        for probe in probes {
            let state = match probe.state {
                ProbeState::Ok => 0,
                ProbeState::Degraded => 1,
                ProbeState::Failed => 2,
            };
            self.probe_state.with_label_values(&[probe.name.as_str()]).set(state);
        }
    }

    /// Reads what the operating system and the log say about the process; called when metrics are read.
    pub fn observe_process(&self) {
        self.resident_memory_bytes.set(resident_memory_bytes().unwrap_or(0));
        // Two who look at once may count a few lines twice: the log counts for the whole process.
        self.log_lines_dropped
            .inc_by(telemetry::dropped_lines().saturating_sub(self.log_lines_dropped.get()));
    }
}

/// The metrics of the data folder's file system.
#[derive(Debug, Clone)]
pub struct DiskMetrics {
    free_bytes: IntGauge,
    ballast_bytes: IntGauge,
    is_full: IntGauge,
    attempt_bytes: IntGaugeVec,
}

impl DiskMetrics {
    /// Declares the metrics on a registry.
    ///
    /// *Errors*: when a name is declared twice.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let free_bytes =
            IntGauge::new("horizons_disk_free_bytes", "Bytes free on the data folder's file system")?;
        let ballast_bytes =
            IntGauge::new("horizons_disk_ballast_bytes", "Bytes of the ballast that are set aside now")?;
        let is_full = IntGauge::new(
            "horizons_disk_full",
            "1 while the disk is full: new work is refused, agents hold still",
        )?;
        let attempt_bytes = IntGaugeVec::new(
            Opts::new("horizons_attempts_bytes", "Bytes that the folders of attempts take, as last counted"),
            &["part"],
        )?;
        for gauge in [&free_bytes, &ballast_bytes, &is_full] {
            registry.register(Box::new(gauge.clone()))?;
        }
        registry.register(Box::new(attempt_bytes.clone()))?;
        Ok(Self { free_bytes, ballast_bytes, is_full, attempt_bytes })
    }

    /// Takes what a look at the disk found.
    pub fn observe(&self, room: Room, is_full: bool) {
        self.free_bytes.set(gauge_value(room.free_bytes));
        self.ballast_bytes.set(gauge_value(room.ballast_bytes));
        self.is_full.set(i64::from(is_full));
    }

    /// Takes what all attempts take.
    pub fn observe_attempts(&self, space: AttemptSpace) {
        for (part, bytes) in [("output", space.output_bytes), ("work", space.work_bytes)] {
            self.attempt_bytes.with_label_values(&[part]).set(gauge_value(bytes));
        }
    }
}

fn gauge_value(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// How many partitions the topics of an event log on Kafka have.
#[derive(Debug, Clone)]
pub struct TopicMetrics {
    partitions: IntGaugeVec,
    unadopted: IntGaugeVec,
}

impl TopicMetrics {
    /// Declares the metrics on a registry.
    ///
    /// *Errors*: when a name is declared twice.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let partitions = IntGaugeVec::new(
            Opts::new("horizons_topic_partitions", "Partitions that the topic has at the brokers"),
            &["topic"],
        )?;
        let unadopted = IntGaugeVec::new(
            Opts::new(
                "horizons_topic_partitions_unadopted",
                "Partitions that were added to the topic and of which nothing is read until they are adopted",
            ),
            &["topic"],
        )?;
        registry.register(Box::new(partitions.clone()))?;
        registry.register(Box::new(unadopted.clone()))?;
        Ok(Self { partitions, unadopted })
    }

    /// Notes how many partitions a topic has, and how many of them count.
    pub fn set_partitions(&self, topic: Topic, found: u16, counted: u16) {
        self.partitions.with_label_values(&[topic.name()]).set(i64::from(found));
        self.unadopted.with_label_values(&[topic.name()]).set(i64::from(found.saturating_sub(counted)));
    }
}

/// Marks a connection that is served.
#[derive(Debug)]
pub struct CountedConnection(IntGauge);

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Gives a method's label: any text may stand in a request.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        _ => "other",
    }
}

/// Reads the resident memory.
///
/// *Source*: `proc_pid_status(5)`: `VmRSS` in KiB. The file is made by the kernel; reading it waits for no disk.
fn resident_memory_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn register_twice_is_refused() {
        let registry = Registry::new();

        let first = ProcessMetrics::register(&registry);
        let second = ProcessMetrics::register(&registry);

        assert!(first.is_ok() && second.is_err());
    }

    #[test]
    fn connection_gauge_follows_its_marks() {
        let metrics = ProcessMetrics::register(&Registry::new()).unwrap();

        let mark = metrics.count_connection();
        let during = metrics.connections.get();
        drop(mark);

        assert_eq!((during, metrics.connections.get()), (1, 0));
    }

    #[test]
    fn method_label_unknown_methods_share_one() {
        let odd = Method::from_bytes(b"BREW").unwrap();

        assert_eq!((method_label(&odd), method_label(&Method::POST)), ("other", "POST"));
    }
}
