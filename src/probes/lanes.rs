//! The groups: their dispatchers and their lanes, as the status board has them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use horizons_actors::clock::{Clock, Moment, Now};
use horizons_actors::lane::status::StatusBoard;
use horizons_actors::probes::{Finding, ProbeKind, ProbeName, ProbeState};
use horizons_actors::snapshot::{ActorState, GroupSnapshot, LaneSnapshot};

use super::ProbeSource;
use super::process::listed;

/// How long a lane may open before it counts as stuck.
pub const OPENING_LIMIT: Duration = Duration::from_secs(10);

/// A lane of a group: group, lane, and the lane's life.
type LaneLife = (String, String, u64);

/// Tells how the groups' dispatchers and lanes are. Remembers since when lanes have been seen opening: one that
/// opens for a moment is well.
pub struct LaneProbes {
    board: Arc<StatusBoard>,
    clock: Arc<dyn Clock>,
    opening_limit: Duration,
    since: Mutex<BTreeMap<LaneLife, Moment>>,
}

impl std::fmt::Debug for LaneProbes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LaneProbes").field("opening_limit", &self.opening_limit).finish_non_exhaustive()
    }
}

impl LaneProbes {
    /// Looks at a board; a lane may open for so long.
    pub fn new(board: Arc<StatusBoard>, clock: Arc<dyn Clock>, opening_limit: Duration) -> Self {
        Self { board, clock, opening_limit, since: Mutex::default() }
    }

    /// Judges every group; lanes that have left their opening are forgotten.
    fn judge(&self, now: Now) -> Vec<Finding> {
        let tree = self.board.snapshot(now);
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = BTreeMap::new();
        let findings = tree.groups.iter().flat_map(|group| {
            let faults = group.lanes.iter().filter_map(|lane| {
                let name = lane.topic_partition.to_string();
                if lane.state != ActorState::Opening {
                    return fault_of(lane).map(|fault| format!("{name} {fault}"));
                }
                let life = (group.group.clone(), name.clone(), lane.incarnation);
                let first = since.get(&life).copied().unwrap_or(now.moment);
                seen.insert(life, first);
                let opening = now.moment.since(first);
                (opening >= self.opening_limit).then(|| format!("{name} opening for {} s", opening.as_secs()))
            });
            let faults = faults.collect();
            let named = |kind| ProbeName { kind, of: Some(group.group.clone()) };
            let (state, detail) = dispatcher(group);
            [
                Finding::new(named(ProbeKind::Dispatcher), state, detail),
                lanes(named(ProbeKind::Lanes), group, faults),
            ]
        });
        let findings = findings.collect();
        *since = seen;
        findings
    }
}

/// Tells how a group's dispatcher is.
fn dispatcher(group: &GroupSnapshot) -> (ProbeState, String) {
    let error = group.last_error.as_deref().map_or_else(String::new, |error| format!(": {error}"));
    match group.state {
        ActorState::Running | ActorState::Opening => (ProbeState::Ok, group.state.name().to_owned()),
        // The event log's probe says it.
        ActorState::Waiting => (ProbeState::Ok, "waits for the event log".to_owned()),
        ActorState::Restarting | ActorState::Paused | ActorState::Gap => {
            (ProbeState::Degraded, format!("{}{error}", group.state.name()))
        }
        ActorState::Stopped => (ProbeState::Failed, format!("stopped{error}")),
    }
}

/// How long a transaction may be open until it counts as hanging: what producers give theirs by default.
///
/// *Source*: Kafka, `transaction.timeout.ms`.
const HANGING_SECONDS: f64 = 60.0;

/// Says what keeps a lane from its work.
fn fault_of(lane: &LaneSnapshot) -> Option<String> {
    let error = lane.last_error.as_deref().map_or_else(String::new, |error| format!(": {error}"));
    match lane.state {
        ActorState::Running if lane.transaction_open_seconds >= HANGING_SECONDS => {
            Some("is held back by a transaction that another producer has not ended".to_owned())
        }
        ActorState::Running | ActorState::Opening => None,
        ActorState::Gap => Some("gap".to_owned()),
        ActorState::Waiting | ActorState::Paused | ActorState::Restarting | ActorState::Stopped => {
            Some(format!("{}{error}", lane.state.name()))
        }
    }
}

/// Judges a group's lanes: while one of them can work, the process is of use.
fn lanes(name: ProbeName, group: &GroupSnapshot, faults: Vec<String>) -> Finding {
    let waits = |lane: &LaneSnapshot| matches!(lane.state, ActorState::Gap | ActorState::Paused);
    let all_wait = !group.lanes.is_empty() && group.lanes.iter().all(waits);
    match (faults.is_empty(), all_wait) {
        (true, _) if group.lanes.is_empty() => Finding::ok(name, "no partition is here"),
        (true, _) => Finding::ok(name, format!("{} lanes", group.lanes.len())),
        (false, false) => Finding::degraded(name, listed(faults)),
        (false, true) => Finding::failed(name, listed(faults)),
    }
}

impl ProbeSource for LaneProbes {
    fn look(&self) -> BoxFuture<'_, Vec<Finding>> {
        let findings = self.judge(self.clock.reading());
        async move { findings }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use horizons_actors::clock::SystemClock;
    use horizons_actors::ids::{Group, Incarnation, LaneKey, Offset, Topic};
    use horizons_actors::lane::status::LaneStatus;
    use horizons_actors::ports::log::LogEnds;

    /// The wall clock stands still: only what went by counts.
    fn at(seconds: i64) -> Now {
        Now { moment: Moment::from_millis(seconds * 1000), ..Now::default() }
    }

    /// A group with so many lanes that run.
    fn group_of(lanes: usize) -> (LaneProbes, Vec<Arc<LaneStatus>>) {
        let board = Arc::new(StatusBoard::default());
        board.set_group(&Group::jobs(), ActorState::Running, None);
        let partitions = Topic::JobLifecycle.all_partitions().take(lanes);
        let lanes = partitions.map(|topic_partition| {
            let lane = board.lane(&LaneKey { group: Group::jobs(), topic_partition });
            lane.set_state(ActorState::Running);
            lane
        });
        let lanes = lanes.collect();
        (LaneProbes::new(board, Arc::new(SystemClock), OPENING_LIMIT), lanes)
    }

    fn lanes_at(probes: &LaneProbes, second: i64) -> (ProbeState, String) {
        let findings = probes.judge(at(second));
        let found = findings.into_iter().find(|finding| finding.name.kind == ProbeKind::Lanes);
        found.map(|finding| (finding.state, finding.detail)).unwrap()
    }

    #[test]
    fn lanes_opening_too_long_is_degraded() {
        let (probes, lanes) = group_of(1);
        lanes[0].opening(Incarnation(1));

        let seen = [0, 9, 10].map(|second| lanes_at(&probes, second));
        lanes[0].opening(Incarnation(2));
        let again = lanes_at(&probes, 20);

        let well = || (ProbeState::Ok, "1 lanes".to_owned());
        let stuck = (ProbeState::Degraded, "job-lifecycle-0 opening for 10 s".to_owned());
        assert_eq!(seen, [well(), well(), stuck]);
        assert_eq!(again, well());
    }

    #[test]
    fn lanes_one_that_waits_is_degraded_and_all_that_wait_for_an_operator_have_failed() {
        let (probes, lanes) = group_of(2);

        lanes[0].set_state(ActorState::Gap);
        let one = lanes_at(&probes, 0);
        lanes[1].held("100 of the last 1000 records were poison");
        let all = lanes_at(&probes, 0);
        lanes[0].waiting(&"10000 records wait behind one key");
        let behind_a_key = lanes_at(&probes, 0);

        let held = "job-lifecycle-1 paused: 100 of the last 1000 records were poison";
        assert_eq!(one, (ProbeState::Degraded, "job-lifecycle-0 gap".to_owned()));
        assert_eq!(all, (ProbeState::Failed, format!("job-lifecycle-0 gap, {held}")));
        let waiting = "job-lifecycle-0 waiting: 10000 records wait behind one key";
        assert_eq!(behind_a_key, (ProbeState::Degraded, format!("{waiting}, {held}")));
    }

    #[test]
    fn lanes_held_back_by_a_hanging_transaction_are_degraded() {
        let (probes, lanes) = group_of(1);
        let open = LogEnds { stable: Offset(5), high: Offset(9) };
        lanes[0].log_ends_at(open, at(0).moment);
        lanes[0].log_ends_at(open, at(30).moment);

        let seen = [59, 60].map(|second| lanes_at(&probes, second).0);
        lanes[0].log_ends_at(LogEnds::closed(Offset(9)), at(70).moment);
        let ended = lanes_at(&probes, 70).0;

        assert_eq!((seen, ended), ([ProbeState::Ok, ProbeState::Degraded], ProbeState::Ok));
    }

    #[test]
    fn dispatcher_stopped_has_failed_and_one_that_restarts_is_degraded() {
        let (probes, _lanes) = group_of(1);
        let seen = [ActorState::Running, ActorState::Waiting, ActorState::Restarting, ActorState::Stopped]
            .map(|state| {
                probes.board.set_group(&Group::jobs(), state, None);
                let findings = probes.judge(at(0));
                let found = findings.into_iter().find(|finding| finding.name.kind == ProbeKind::Dispatcher);
                found.map(|finding| finding.state).unwrap()
            });

        assert_eq!(seen, [ProbeState::Ok, ProbeState::Ok, ProbeState::Degraded, ProbeState::Failed]);
    }
}
