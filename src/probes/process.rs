//! What is there once in a process: the store, the event log, the relay, the way to the scheduler.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use horizons_actors::lane::status::StatusBoard;
use horizons_actors::ports::query::QueryStore;
use horizons_actors::ports::relay::{RelaySnapshot, RelayView};
use horizons_actors::probes::{Finding, ProbeKind, ProbeState};

use super::ProbeSource;
use crate::disk::DiskState;

/// How long the store may take to answer.
pub const STORE_LIMIT: Duration = Duration::from_secs(1);

/// A record that waits longer for Kafka, while nothing says why, means that publishing does not keep up.
const RELAY_WAIT_LIMIT: Duration = Duration::from_secs(30);

/// Partitions that a probe names; the rest is counted.
const NAMED_MAX: usize = 10;

/// Joins what was found, and counts what is too much for one line.
pub(super) fn listed(mut faults: Vec<String>) -> String {
    let unnamed = faults.len().saturating_sub(NAMED_MAX);
    faults.truncate(NAMED_MAX);
    match unnamed {
        0 => faults.join(", "),
        unnamed => format!("{} and {unnamed} more", faults.join(", ")),
    }
}

/// Asks the store whether it answers.
pub struct StoreProbe {
    store: Arc<dyn QueryStore>,
    limit: Duration,
}

impl std::fmt::Debug for StoreProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreProbe").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl StoreProbe {
    /// Asks a store, for no longer than a limit.
    pub const fn new(store: Arc<dyn QueryStore>, limit: Duration) -> Self {
        Self { store, limit }
    }

    async fn ask(&self) -> Finding {
        match tokio::time::timeout(self.limit, self.store.answers()).await {
            Ok(Ok(())) => Finding::ok(ProbeKind::Store, "answers"),
            Ok(Err(error)) => {
                tracing::debug!(error = %error, "store probe failed");
                Finding::failed(ProbeKind::Store, "answers with an error")
            }
            Err(_) => {
                let limit = self.limit.as_secs_f64();
                Finding::failed(ProbeKind::Store, format!("no answer within {limit} s"))
            }
        }
    }
}

impl ProbeSource for StoreProbe {
    fn look(&self) -> BoxFuture<'_, Vec<Finding>> {
        async move { vec![self.ask().await] }.boxed()
    }
}

/// Tells whether the disk has room for new work.
#[derive(Debug)]
pub struct DiskProbe(Arc<DiskState>);

impl DiskProbe {
    /// Tells of a disk.
    pub const fn new(disk: Arc<DiskState>) -> Self {
        Self(disk)
    }
}

impl ProbeSource for DiskProbe {
    fn look(&self) -> BoxFuture<'_, Vec<Finding>> {
        let available = self.0.available_bytes();
        let finding = match self.0.is_full() {
            true => Finding::failed(
                ProbeKind::Disk,
                format!("disk full: {available} bytes are left for new work"),
            ),
            false => Finding::ok(ProbeKind::Disk, "has room"),
        };
        async move { vec![finding] }.boxed()
    }
}

/// Tells how the event log is, as the groups' readers see it.
pub struct EventLogProbe {
    board: Arc<StatusBoard>,
    /// Whether brokers have answered since the start, where the log is on Kafka.
    has_answered: Option<Box<dyn Fn() -> bool + Send + Sync>>,
}

impl std::fmt::Debug for EventLogProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventLogProbe").finish_non_exhaustive()
    }
}

impl EventLogProbe {
    /// Tells of a log in the store, which is as well as the store is.
    pub const fn embedded(board: Arc<StatusBoard>) -> Self {
        Self { board, has_answered: None }
    }

    /// Tells of a log on Kafka; `has_answered` knows whether brokers have answered since the start.
    pub fn on_kafka(
        board: Arc<StatusBoard>,
        has_answered: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { board, has_answered: Some(Box::new(has_answered)) }
    }

    /// Tells of topics that have grown: what is in the added partitions waits for an operator, all else is done.
    fn judge_topics(&self) -> Finding {
        let apart = self.board.topics_apart();
        if apart.is_empty() {
            return Finding::ok(ProbeKind::EventLog, "answers");
        }
        let told = apart.iter().map(|(topic, found, counted)| {
            format!("{topic} has {found} partitions, {counted} count: `horizons topics adopt-layout {topic}`")
        });
        Finding::degraded(ProbeKind::EventLog, listed(told.collect()))
    }

    fn judge(&self) -> Finding {
        let away = self.board.groups_waiting();
        match (&self.has_answered, away.as_slice()) {
            (Some(has_answered), []) if !has_answered() => {
                Finding::degraded(ProbeKind::EventLog, "the brokers have not answered since the start")
            }
            (None, []) => Finding::ok(ProbeKind::EventLog, "in the store"),
            (Some(_), []) => self.judge_topics(),
            (_, away) => {
                let named = away.iter().map(|(group, error)| format!("group {group}: {error}"));
                Finding::degraded(ProbeKind::EventLog, listed(named.collect()))
            }
        }
    }
}

impl ProbeSource for EventLogProbe {
    fn look(&self) -> BoxFuture<'_, Vec<Finding>> {
        let finding = self.judge();
        async move { vec![finding] }.boxed()
    }
}

/// Tells how publishing to Kafka stands.
pub struct RelayProbe {
    relay: Arc<dyn RelayView>,
}

impl std::fmt::Debug for RelayProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayProbe").finish_non_exhaustive()
    }
}

impl RelayProbe {
    /// Tells of a relay.
    pub const fn new(relay: Arc<dyn RelayView>) -> Self {
        Self { relay }
    }
}

/// Judges how publishing stands.
fn judge_relay(relay: &RelaySnapshot) -> Finding {
    let held = relay.partitions.iter().filter(|one| matches!(one.condition, "stopped" | "waiting"));
    let held = held.map(|one| {
        let why = one.detail.as_deref().map_or_else(String::new, |detail| format!(": {detail}"));
        format!("{}-{} {}{why}", one.topic, one.partition, one.condition)
    });
    let faults: Vec<String> = relay.trouble.iter().cloned().chain(held).collect();
    if !faults.is_empty() {
        return Finding::degraded(ProbeKind::Relay, listed(faults));
    }
    if relay.is_leader && relay.oldest_seconds > RELAY_WAIT_LIMIT.as_secs_f64() {
        let waiting =
            format!("{} records wait, the oldest for {:.0} s", relay.waiting_records, relay.oldest_seconds);
        return Finding::degraded(ProbeKind::Relay, waiting);
    }
    Finding::ok(ProbeKind::Relay, if relay.is_leader { "publishes" } else { "another process may publish" })
}

impl ProbeSource for RelayProbe {
    fn look(&self) -> BoxFuture<'_, Vec<Finding>> {
        let finding = judge_relay(&self.relay.snapshot());
        async move { vec![finding] }.boxed()
    }
}

/// Tells how carrying jobs to the scheduler stands.
pub struct SchedulerProbe(Box<dyn Fn() -> (ProbeState, String) + Send + Sync>);

impl std::fmt::Debug for SchedulerProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SchedulerProbe").finish_non_exhaustive()
    }
}

impl SchedulerProbe {
    /// Takes who knows.
    pub fn new(judge: impl Fn() -> (ProbeState, String) + Send + Sync + 'static) -> Self {
        Self(Box::new(judge))
    }
}

impl ProbeSource for SchedulerProbe {
    fn look(&self) -> BoxFuture<'_, Vec<Finding>> {
        let (state, detail) = (self.0)();
        async move { vec![Finding::new(ProbeKind::Scheduler, state, detail)] }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use horizons_actors::ids::{Group, Offset, Partition};
    use horizons_actors::ports::relay::RelayPartition;
    use horizons_actors::snapshot::ActorState;

    fn relay() -> RelaySnapshot {
        RelaySnapshot {
            is_leader: true,
            trouble: None,
            waiting_records: 3,
            oldest_seconds: 1.0,
            in_flight_records: 0,
            in_flight_bytes: 0,
            rebuilds: 0,
            partitions: Vec::new(),
        }
    }

    #[test]
    fn relay_each_thing_in_the_way_is_told() {
        let partition = RelayPartition {
            topic: "job-metrics".to_owned(),
            partition: Partition(4),
            next: Offset(7),
            end: Offset(9),
            condition: "stopped",
            detail: Some("message is too large".to_owned()),
        };
        let cases = [
            (relay(), ProbeState::Ok, "publishes"),
            (RelaySnapshot { is_leader: false, ..relay() }, ProbeState::Ok, "another process may publish"),
            (
                RelaySnapshot { trouble: Some("brokers are down".to_owned()), ..relay() },
                ProbeState::Degraded,
                "brokers are down",
            ),
            (
                RelaySnapshot { partitions: vec![partition], ..relay() },
                ProbeState::Degraded,
                "job-metrics-4 stopped: message is too large",
            ),
            (
                RelaySnapshot { oldest_seconds: 31.0, ..relay() },
                ProbeState::Degraded,
                "3 records wait, the oldest for 31 s",
            ),
        ];

        for (snapshot, state, detail) in cases {
            assert_eq!(judge_relay(&snapshot), Finding::new(ProbeKind::Relay, state, detail));
        }
    }

    #[test]
    fn event_log_away_is_degraded_and_never_failed() {
        let board = Arc::new(StatusBoard::default());
        board.set_group(&Group::jobs(), ActorState::Running, None);
        let silent = EventLogProbe::on_kafka(Arc::clone(&board), || false).judge();
        let probe = EventLogProbe::on_kafka(Arc::clone(&board), || true);

        let well = probe.judge();
        board.set_group(&Group::jobs(), ActorState::Waiting, Some("brokers are down".to_owned()));
        let away = probe.judge();

        let degraded = |detail| Finding::degraded(ProbeKind::EventLog, detail);
        assert_eq!(silent, degraded("the brokers have not answered since the start"));
        assert_eq!(well, Finding::ok(ProbeKind::EventLog, "answers"));
        assert_eq!(away, degraded("group jobs: brokers are down"));
    }

    #[test]
    fn listed_long_lists_are_counted() {
        let faults = (0..12).map(|number| number.to_string()).collect();

        assert_eq!(listed(faults), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more");
    }
}
