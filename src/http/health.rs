//! Whether the process lives, and whether it does its work.
//!
//! Promises that `/live` asks nobody, and that `/ready` names every probe with its result within the probe
//! timeout. A lane that waits for store or log is no failure of its own: the store's probe tells.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use horizons_actors::clock::Timestamp;
use horizons_actors::snapshot::{ActorState, GroupSnapshot, TreeSnapshot};
use serde::Serialize;
use serde_json::json;
use warp::http::StatusCode;
use warp::reply::Response;

use super::Shared;
use super::answer::json_answer;
use super::error::ApiError;
use super::request::ApiRequest;
use super::route::{Route, RouteMethod};
use crate::disk::DiskState;

pub(super) const ROUTES: &[Route] = &[
    Route { method: RouteMethod::Get, template: "/live", handler: |s, r| live(s, r).boxed() },
    Route { method: RouteMethod::Get, template: "/ready", handler: |s, r| ready(s, r).boxed() },
];

/// Lanes that a probe names; the rest is counted.
const NAMED_LANES_MAX: usize = 10;

/// One probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Probe {
    name: String,
    ok: bool,
    detail: String,
}

async fn live(_shared: Arc<Shared>, request: ApiRequest) -> Result<Response, ApiError> {
    request.query(&[])?;
    Ok(json_answer(StatusCode::OK, &json!({ "is_live": true })))
}

async fn ready(shared: Arc<Shared>, request: ApiRequest) -> Result<Response, ApiError> {
    request.query(&[])?;
    let now = shared.state.clock.now();
    let tree = shared.state.board.snapshot(now);
    let mut probes = vec![store_probe(&shared).await, disk_probe(&shared.state.disk)];
    probes.extend(shared.opening.probes(&tree, shared.limits.opening_limit));
    let is_ready = probes.iter().all(|probe| probe.ok);
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok(json_answer(status, &json!({ "is_ready": is_ready, "probes": probes })))
}

async fn store_probe(shared: &Shared) -> Probe {
    let limit = shared.limits.probe_timeout;
    let (ok, detail) = match tokio::time::timeout(limit, shared.state.queries.usage()).await {
        Ok(Ok(_usage)) => (true, "answers".to_owned()),
        Ok(Err(error)) => {
            tracing::debug!(error = %error, "store probe failed");
            (false, "answers with an error".to_owned())
        }
        Err(_) => (false, format!("no answer within {} s", limit.as_secs_f64())),
    };
    Probe { name: "store".to_owned(), ok, detail }
}

fn disk_probe(disk: &DiskState) -> Probe {
    let available = disk.available_bytes();
    let detail = match disk.is_full() {
        true => format!("disk full: {available} bytes are left for new work"),
        false => "has room".to_owned(),
    };
    Probe { name: "disk".to_owned(), ok: !disk.is_full(), detail }
}

/// A lane of a group, for the watch: group, lane, and the lane's life.
type LaneLife = (String, String, u64);

/// Remembers since when lanes have been seen opening: a lane that opens for a moment is well.
#[derive(Debug, Default)]
pub(super) struct OpeningWatch {
    since: Mutex<BTreeMap<LaneLife, Timestamp>>,
}

impl OpeningWatch {
    /// Judges every group; lanes that have left their opening are forgotten.
    fn probes(&self, tree: &TreeSnapshot, limit: std::time::Duration) -> Vec<Probe> {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = BTreeMap::new();
        let probes = tree.groups.iter().map(|group| {
            let mut faults = Vec::new();
            for lane in &group.lanes {
                let name = lane.topic_partition.to_string();
                if lane.state == ActorState::Gap {
                    faults.push(format!("{name} gap"));
                } else if lane.state == ActorState::Opening {
                    let life = (group.group.clone(), name.clone(), lane.incarnation);
                    let first = since.get(&life).copied().unwrap_or(tree.taken_at);
                    seen.insert(life, first);
                    if tree.taken_at.since(first) >= limit {
                        faults.push(format!("{name} opening for {} s", tree.taken_at.since(first).as_secs()));
                    }
                }
            }
            group_probe(group, faults)
        });
        let probes = probes.collect();
        *since = seen;
        probes
    }
}

fn group_probe(group: &GroupSnapshot, mut faults: Vec<String>) -> Probe {
    if matches!(group.state, ActorState::Stopped | ActorState::Gap) {
        faults.insert(0, format!("dispatcher {}", group.state.name()));
    }
    let ok = faults.is_empty();
    let unnamed = faults.len().saturating_sub(NAMED_LANES_MAX);
    faults.truncate(NAMED_LANES_MAX);
    let detail = match (ok, unnamed) {
        (true, _) => format!("{} lanes", group.lanes.len()),
        (false, 0) => faults.join(", "),
        (false, unnamed) => format!("{} and {unnamed} more", faults.join(", ")),
    };
    Probe { name: format!("group {}", group.group), ok, detail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use horizons_actors::ids::{Group, Incarnation, LaneKey, Topic};
    use horizons_actors::lane::status::StatusBoard;
    use std::time::Duration;

    const LIMIT: Duration = Duration::from_secs(10);

    fn board_with_lane() -> (StatusBoard, Arc<horizons_actors::lane::status::LaneStatus>) {
        let board = StatusBoard::default();
        board.set_group(&Group::jobs(), ActorState::Running, None);
        let topic_partition = Topic::JobLifecycle.all_partitions().next().unwrap();
        let lane = board.lane(&LaneKey { group: Group::jobs(), topic_partition });
        (board, lane)
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn probes_lane_opening_too_long_is_stuck() {
        let (board, _lane) = board_with_lane();
        let watch = OpeningWatch::default();

        let details = [0, 9, 10].map(|second| {
            let [probe] = watch.probes(&board.snapshot(at(second)), LIMIT).try_into().unwrap();
            (probe.ok, probe.detail)
        });

        let well = || (true, "1 lanes".to_owned());
        assert_eq!(details, [well(), well(), (false, "job-lifecycle-0 opening for 10 s".to_owned())]);
    }

    #[test]
    fn probes_lane_opening_again_starts_over() {
        let (board, lane) = board_with_lane();
        let watch = OpeningWatch::default();

        watch.probes(&board.snapshot(at(0)), LIMIT);
        lane.opening(Incarnation(2));
        let probes = watch.probes(&board.snapshot(at(20)), LIMIT);

        assert!(probes.iter().all(|probe| probe.ok), "{probes:?}");
    }

    #[test]
    fn probes_gap_and_stopped_dispatcher_are_named() {
        let (board, lane) = board_with_lane();
        lane.set_state(ActorState::Gap);
        board.set_group(&Group::jobs(), ActorState::Stopped, None);

        let probes = OpeningWatch::default().probes(&board.snapshot(at(0)), LIMIT);

        let detail = "dispatcher stopped, job-lifecycle-0 gap".to_owned();
        assert_eq!(probes, [Probe { name: "group jobs".to_owned(), ok: false, detail }]);
    }
}
