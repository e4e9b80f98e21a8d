//! Whether the process lives, and what of it works: `/live`, `/ready`, and the metric of the probes.

use std::time::Duration;

use horizons_actors::clock::Clock as _;
use horizons_actors::ids::{Group, Incarnation, LaneKey, Topic};
use horizons_actors::snapshot::ActorState;
use horizons_actors::testkit::{Fault, StoreCall};
use serde_json::{Value, json};

use super::world::World;

fn lanes() -> [LaneKey; 2] {
    let mut partitions = Topic::JobLifecycle.all_partitions();
    std::array::from_fn(|_| LaneKey { group: Group::jobs(), topic_partition: partitions.next().unwrap() })
}

/// Gives status and state of an answer, and each probe that is not well.
async fn ready(world: &World) -> (u16, String, Vec<String>) {
    let answer = world.get("/ready").await;
    let body = answer.json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let probes = body["probes"].as_array().unwrap().iter().filter(|probe| probe["state"] != "ok");
    let unwell = probes.map(|probe| {
        format!("{} {}: {}", text(&probe["name"]), text(&probe["state"]), text(&probe["detail"]))
    });
    assert_eq!(body["is_ready"], answer.status == 200);
    (answer.status, text(&body["state"]), unwell.collect())
}

#[tokio::test]
async fn ready_well_system_names_every_probe() {
    let world = World::start().await;
    world.board.set_group(&Group::jobs(), ActorState::Running, None);
    world.board.lane(&lanes()[0]).set_state(ActorState::Running);

    let live = world.get("/live").await;
    let ready = world.get("/ready").await;

    assert_eq!((live.status, live.json()), (200, json!({"is_live": true})));
    let since = json!(world.clock.now());
    let probe =
        |name: &str, detail: &str| json!({"name": name, "state": "ok", "detail": detail, "since": since});
    let probes = json!([
        probe("store", "answers"),
        probe("disk", "has room"),
        probe("event_log", "in the store"),
        probe("dispatcher/jobs", "running"),
        probe("lanes/jobs", "1 lanes"),
        probe("scheduler", "takes jobs"),
    ]);
    let wanted = json!({"is_ready": true, "state": "ok", "probes": probes});
    assert_eq!((ready.status, ready.json()), (200, wanted));
}

#[tokio::test]
async fn ready_lost_store_is_not_ready_and_the_process_lives() {
    let world = World::start().await;

    world.store.faults().script(StoreCall::Query, Fault::Hang);
    let silent = ready(&world).await;
    world.store.faults().away();
    let away = ready(&world).await;
    let live = world.get("/live").await;

    let failed = |detail: &str| (503, "failed".to_owned(), vec![format!("store failed: {detail}")]);
    assert_eq!(silent, failed("no answer within 0.05 s"));
    assert_eq!(away, failed("answers with an error"));
    assert_eq!(live.status, 200);
}

#[tokio::test]
async fn ready_disk_full_is_not_ready_and_says_so() {
    let world = World::start().await;

    world.state.disk.set(true, 17);
    let full = ready(&world).await;
    world.state.disk.set(false, 1 << 30);
    let with_room = ready(&world).await;

    let detail = "disk failed: disk full: 17 bytes are left for new work".to_owned();
    assert_eq!(full, (503, "failed".to_owned(), vec![detail]));
    assert_eq!(with_room, (200, "ok".to_owned(), vec![]));
}

#[tokio::test]
async fn ready_log_away_is_degraded_and_still_ready() {
    let world = World::on_kafka().await;
    world.board.set_group(&Group::jobs(), ActorState::Waiting, Some("brokers are down".to_owned()));

    let seen = ready(&world).await;

    let unwell = vec![
        "event_log degraded: group jobs: brokers are down".to_owned(),
        "relay degraded: job-metrics-4 stopped: message is too large".to_owned(),
    ];
    assert_eq!(seen, (200, "degraded".to_owned(), unwell));
}

#[tokio::test]
async fn ready_lane_that_does_not_work_is_degraded_until_none_does() {
    let world = World::start().await;
    world.board.set_group(&Group::jobs(), ActorState::Running, None);
    let [first, second] = lanes().map(|lane| world.board.lane(&lane));
    second.set_state(ActorState::Running);
    let mut seen = Vec::new();

    first.opening(Incarnation(1));
    seen.push(ready(&world).await);
    world.clock.advance(Duration::from_secs(10));
    seen.push(ready(&world).await);
    first.waiting(&"10 records wait behind one key");
    seen.push(ready(&world).await);
    first.held("20 of the last 100 records were poison");
    seen.push(ready(&world).await);
    second.set_state(ActorState::Gap);
    seen.push(ready(&world).await);
    world.board.set_group(&Group::jobs(), ActorState::Stopped, None);
    second.set_state(ActorState::Running);
    first.set_state(ActorState::Running);
    seen.push(ready(&world).await);

    let degraded =
        |detail: &str| (200, "degraded".to_owned(), vec![format!("lanes/jobs degraded: {detail}")]);
    let failed = |probe: &str| (503, "failed".to_owned(), vec![probe.to_owned()]);
    let held = "job-lifecycle-0 paused: 20 of the last 100 records were poison";
    let wanted = [
        (200, "ok".to_owned(), vec![]),
        degraded("job-lifecycle-0 opening for 10 s"),
        degraded("job-lifecycle-0 waiting: 10 records wait behind one key"),
        degraded(held),
        failed(&format!("lanes/jobs failed: {held}, job-lifecycle-1 gap")),
        failed("dispatcher/jobs failed: stopped"),
    ];
    assert_eq!(seen, wanted);
}

#[tokio::test]
async fn metrics_tell_the_state_of_each_probe() {
    let world = World::on_kafka().await;
    world.store.faults().away();
    world.get("/ready").await;

    let text = world.get("/metrics").await.text();

    for (probe, state) in [("store", 2), ("event_log", 0), ("relay", 1)] {
        let line = format!("horizons_probe_state{{probe=\"{probe}\"}} {state}");
        assert!(text.lines().any(|one| one == line), "{line} in {text}");
    }
}
