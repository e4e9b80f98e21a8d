//! Requests that read: jobs, audit trail, dead letters, parked keys, actors, metrics, health.

use std::time::Duration;

use horizons_actors::clock::{Clock as _, Timestamp};
use horizons_actors::effect::{
    AuditEntry, AuditMark, DeadLetter, Effects, Outcome, ParkedKey, ParkedRecord, Refusal, TimelineEntry,
};
use horizons_actors::event::{EventType, JobStatus, TaccSystem};
use horizons_actors::ids::{Attempt, EventId, Group, Incarnation, JobId, LaneKey, Offset, Sequence, Topic};
use horizons_actors::lane::credit::Credit;
use horizons_actors::record::{Headers, LogRecord, RecordBatch, TimestampType};
use horizons_actors::rejection::Rejection;
use horizons_actors::snapshot::ActorState;
use horizons_actors::state::{
    Aggregate, AttemptSummary, AuditLogState, AuditSegment, JobAggregate, JobOrigin, JobView, StateKey,
    StateValue,
};
use horizons_actors::testkit::EventBuilder;
use serde_json::{Value, json};
use uuid::Uuid;

use super::schemas::check_answer;
use super::world::{World, at, job_row};

fn lane(group: Group, topic: Topic) -> LaneKey {
    let topic_partition = topic.all_partitions().next().unwrap();
    LaneKey { group, topic_partition }
}

fn view(job_id: &str, origin: JobOrigin) -> JobView {
    JobView {
        job_id: JobId::parse(job_id).unwrap(),
        origin,
        user_id: "ada".parse().unwrap(),
        agent: None,
        tacc_system: Some(TaccSystem::Vista),
        status: JobStatus::Running,
        attempt: Attempt(2),
        will_retry: false,
        is_confirmed: true,
        last_sequence: Sequence(5),
        last_event_id: EventId(Uuid::from_u128(5)),
        submitted_at: at(0),
        status_since: at(1),
        updated_at: at(2),
    }
}

fn text_record(offset: u64, key: &'static str, payload: &'static str) -> LogRecord {
    LogRecord {
        offset: Offset(offset),
        timestamp: at(0),
        timestamp_type: TimestampType::CreateTime,
        key: Some(key.into()),
        headers: Headers::none(),
        payload: Some(payload.into()),
    }
}

fn names(rows: &Value, field: &str) -> Vec<String> {
    rows.as_array().unwrap().iter().map(|row| row[field].to_string().replace('"', "")).collect()
}

#[tokio::test]
async fn jobs_pages_walk_from_newest_to_oldest() {
    let world = World::start().await;
    for number in 0..5 {
        world.add_job(job_row(&format!("j-{number}"), number / 2)).await;
    }
    let mut seen = Vec::new();
    let mut target = "/jobs?limit=2".to_owned();

    loop {
        let page = world.get(&target).await.json();
        seen.extend(names(&page["jobs"], "job_id"));
        let Some(next) = page["next"].as_str() else { break };
        target = format!("/jobs?limit=2&cursor={next}");
    }

    assert_eq!(seen, ["j-4", "j-3", "j-2", "j-1", "j-0"]);
}

#[tokio::test]
async fn jobs_filters_and_wrong_parameters_are_named() {
    let world = World::start().await;
    world.add_job(job_row("j-1", 0)).await;
    let cases = [
        ("limit=0", "limit: wanted 1..=1000, got `0`"),
        ("limit=-3", "limit: wanted 1..=1000, got `-3`"),
        ("limit=100000", "limit: wanted 1..=1000, got `100000`"),
        ("cursor=x", "cursor: wanted `next` of an earlier page of jobs"),
        (
            "status=DONE",
            "status: wanted one of `SUBMITTED`, `QUEUED`, `RUNNING`, `COMPLETED`, `FAILED`, `CANCELLED`, got `DONE`",
        ),
        ("user=", "user: wanted 1..=255 characters, got none"),
        ("origin=mine", "origin: wanted `owned` or `external`, got `mine`"),
        ("page=2", "page: wanted `origin`, `user`, `status`, `id_beginning`, `limit`, `cursor`, got `page`"),
        ("id_beginning=j-1", "id_beginning: wanted 4..=255 characters, got 3"),
    ];

    for (query, wanted) in cases {
        assert_eq!(world.get(&format!("/jobs?{query}")).await.refusal(), format!("400 {wanted}"));
    }
    for (query, count) in [("user=ada", 1), ("user=bob", 0), ("status=QUEUED", 1), ("status=FAILED", 0)] {
        let page = world.get(&format!("/jobs?{query}")).await.json();
        assert_eq!((page["jobs"].as_array().unwrap().len(), &page["next"]), (count, &Value::Null), "{query}");
    }
}

#[tokio::test]
async fn jobs_by_a_beginning_of_their_ids_come_in_order_of_id() {
    let world = World::start().await;
    let uuids = [1, 2].map(|number| format!("0193a1c0-0000-7000-8000-00000000000{number}"));
    for (minute, id) in (0..).zip(["job-2", "job-1", "job-10", "0193A1-night", &uuids[1], &uuids[0]]) {
        world.add_job(job_row(id, minute)).await;
    }
    let mut seen = Vec::new();
    let mut target = "/jobs?id_beginning=job-&limit=2".to_owned();
    let mut cursor = String::new();

    loop {
        let page = world.get(&target).await.json();
        seen.extend(names(&page["jobs"], "job_id"));
        let Some(next) = page["next"].as_str() else { break };
        next.clone_into(&mut cursor);
        target = format!("/jobs?id_beginning=job-&limit=2&cursor={next}");
    }
    let of_uuids = world.get("/jobs?id_beginning=0193A1c0").await.json();
    let in_capitals = world.get("/jobs?id_beginning=0193A1").await.json();
    let newest_first = world.get(&format!("/jobs?cursor={cursor}")).await.refusal();

    assert_eq!(seen, ["job-1", "job-10", "job-2"]);
    assert_eq!(names(&of_uuids["jobs"], "job_id"), uuids);
    assert_eq!(names(&in_capitals["jobs"], "job_id"), ["0193A1-night", &uuids[0], &uuids[1]]);
    assert_eq!(newest_first, "400 cursor: wanted `next` of an earlier page of jobs");
    assert_eq!(world.get("/jobs/job-").await.status, 404, "a path names a job by its whole id");
}

#[tokio::test]
async fn job_owned_and_external_are_told_apart() {
    let world = World::start().await;
    world.add_job(job_row("mine", 0)).await;
    let states = [("mine", JobOrigin::Owned), ("a/b", JobOrigin::External)].map(|(id, origin)| {
        (StateKey::JobView(JobId::parse(id).unwrap()), StateValue::JobView(view(id, origin)))
    });
    let effects = Effects { states: states.into(), ..Effects::default() };
    world.commit(&lane(Group::jobs(), Topic::JobLifecycle), effects).await;

    let mine = world.get("/jobs/mine").await.json();
    let external = world.get("/jobs/a%2Fb").await.json();
    let nobody = world.get("/jobs/nobody").await;
    let listed = world.get("/jobs").await.json();
    let others = world.get("/jobs?origin=external").await.json();

    let origins = |page: &Value| names(&page["jobs"], "origin");
    assert_eq!((origins(&listed).len(), origins(&others)), (2, vec!["external".to_owned()]));
    assert_eq!((&mine["job"]["origin"], &mine["job"]["status"]), (&json!("owned"), &json!("QUEUED")));
    assert_eq!(mine["job"]["parameters"], json!({"depth": "3"}));
    assert_eq!(mine["job"]["json_parameters"], json!(["depth"]));
    assert_eq!(mine["job"]["view"]["status"], "RUNNING");
    assert_eq!((&external["job"]["origin"], &external["job"]["attempt"]), (&json!("external"), &json!(2)));
    assert_eq!(external["job"]["agent"], Value::Null);
    assert_eq!(nobody.refusal(), "404 -: job `nobody` does not exist");
}

#[tokio::test]
async fn timeline_steps_and_refusals_are_shown() {
    let world = World::start().await;
    world.add_job(job_row("j", 0)).await;
    let job_id = JobId::parse("j").unwrap();
    let step = TimelineEntry {
        job_id: job_id.clone(),
        offset: Offset(4),
        event_id: EventId(Uuid::from_u128(4)),
        event_type: EventType::JobQueued,
        sequence: Sequence(3),
        status: JobStatus::Queued,
        attempt: Attempt(1),
        happened_at: at(0),
        applied_at: at(1),
        payload: "{\"tac_job_id\":\"7\"}".to_owned(),
    };
    let refusal = Refusal {
        offset: Offset(5),
        event_id: EventId(Uuid::from_u128(5)),
        job_id: Some(job_id),
        event_type: EventType::JobQueued,
        reason: "late",
        detail: "sequence 3 was applied".to_owned(),
        refused_at: at(1),
    };
    let empty = world.get("/jobs/j/timeline").await.json();
    let effects = Effects { timeline: vec![step], refusals: vec![refusal], ..Effects::default() };
    world.commit(&lane(Group::jobs(), Topic::JobLifecycle), effects).await;

    let timeline = world.get("/jobs/j/timeline").await.json();

    assert_eq!(empty, json!({"steps": [], "refusals": [], "next": null}));
    assert_eq!(timeline["steps"][0]["event_type"], "job.queued");
    assert_eq!(timeline["steps"][0]["payload"], json!({"tac_job_id": "7"}));
    assert_eq!(
        (&timeline["refusals"][0]["reason"], &timeline["refusals"][0]["group"]),
        (&json!("late"), &json!("jobs"))
    );
    assert_eq!(world.get("/jobs/nobody/timeline").await.status, 404);
}

#[tokio::test]
async fn metrics_of_a_job_have_mean_and_differences_and_pages_that_join() {
    let world = World::start().await;
    let samples = Aggregate { count: 2, sum: 6.0, min: 1.0, max: 5.0 };
    let row = JobAggregate {
        job_id: JobId::parse("j").unwrap(),
        attempt: Attempt(1),
        cpu_usage_percent: samples,
        memory_usage_mb: samples,
        io_operations: Aggregate::default(),
        execution_time_seconds: samples,
        last_sequence: Some(Sequence(2)),
        summary: Some(AttemptSummary {
            cpu_usage_percent: 3.0,
            memory_usage_mb: 9.0,
            io_operations: 0,
            execution_time_seconds: 5.0,
        }),
        updated_at: at(1),
    };
    let second = JobAggregate { attempt: Attempt(2), ..row.clone() };
    let states = [row, second]
        .map(|row| (StateKey::JobAggregate(row.job_id.clone(), row.attempt), StateValue::JobAggregate(row)));
    let effects = Effects { states: states.into(), ..Effects::default() };
    world.commit(&lane(Group::job_metrics(), Topic::JobMetrics), effects).await;

    let first = world.get("/jobs/j/metrics?limit=1").await.json();
    let attempt = first["attempts"][0].clone();
    let cursor = first["next"].as_str().unwrap();
    let last = world.get(&format!("/jobs/j/metrics?limit=1&cursor={cursor}")).await.json();

    let wanted = json!({"count": 2, "sum": 6.0, "min": 1.0, "max": 5.0, "mean": 3.0});
    assert_eq!(attempt["aggregates"]["cpu_usage_percent"], wanted);
    let none = json!({"count": 0, "sum": 0.0, "min": null, "max": null, "mean": null});
    assert_eq!(attempt["aggregates"]["io_operations"], none);
    assert_eq!(attempt["summary"]["memory_usage_mb"], 9.0);
    let differences =
        json!([{"quantity": "memory_usage_mb", "deviation": "below", "samples": 5.0, "summary": 9.0}]);
    assert_eq!(attempt["differences"], differences);
    assert_eq!((first["attempts"].as_array().unwrap().len(), &attempt["attempt"]), (1, &json!(1)));
    assert_eq!((&last["attempts"][0]["attempt"], &last["next"]), (&json!(2), &Value::Null));
    assert_eq!(world.get("/jobs/nobody/metrics").await.status, 404);
}

fn audit_effects() -> Effects {
    let builders = [
        EventBuilder::audit_action_recorded().log_record(0),
        LogRecord { key: Some("job-1".into()), ..text_record(1, "job-1", "no event") },
    ];
    let marks = [AuditMark::Event, AuditMark::Malformed("malformed_bytes")];
    let entries = builders.into_iter().zip(marks).zip(0_u8..).map(|((record, mark), index)| AuditEntry {
        index: index.into(),
        leaf_hash: [index; 32],
        chain_hash: [0xf0 | index; 32],
        mark,
        appended_at: at(1),
        record,
    });
    let log = AuditLogState {
        size: 1,
        chain_head: [0xf1; 32],
        frontier: vec![[7; 32]],
        last_offset: Some(Offset(1)),
        segment: AuditSegment { number: 0, first_index: 0, opened_at: at(0), closed: None },
    };
    Effects {
        audit_entries: entries.collect(),
        states: vec![(StateKey::AuditLog, StateValue::AuditLog(log))],
        ..Effects::default()
    }
}

#[tokio::test]
async fn audit_entries_say_what_happened_and_keep_every_byte() {
    let world = World::start().await;
    world.commit(&lane(Group::audit_trail(), Topic::AuditTrail), audit_effects()).await;

    let first = world.get("/audit/entries?topic=audit-trail&partition=0&limit=1").await.json();
    let next = first["next"].as_str().unwrap();
    let second = world.get(&format!("/audit/entries?limit=1&cursor={next}")).await.json();

    let entry = &first["entries"][0];
    assert_eq!((&entry["index"], &entry["mark"]), (&json!(0), &json!("event")));
    assert_eq!(entry["leaf_hash"], "00".repeat(32));
    assert_eq!(entry["chain_hash"], "f0".repeat(32));
    assert_eq!(entry["event"]["action"], "job.cancel");
    assert_eq!(entry["event"]["resource_id"], "job-1");
    assert_eq!(entry["event"]["user_id"], "ada");
    assert_eq!(entry["event"]["changes"]["status"]["to"], "CANCELLED");
    assert!(entry["event"]["correlation_id"].is_string() && entry["event"]["timestamp"].is_string());
    let entry = &second["entries"][0];
    assert_eq!((&entry["mark"], &entry["event"]), (&json!("malformed:malformed_bytes"), &Value::Null));
    assert_eq!(entry["record"]["value_base64"], "bm8gZXZlbnQ=");
    assert_eq!(entry["record"]["headers_base64"], "AAAAAA==");
    assert_eq!(second["next"], Value::Null);
}

#[tokio::test]
async fn audit_events_of_jobs_are_acts_on_their_job() {
    let world = World::start().await;
    let record = EventBuilder::job_submitted().log_record(0);
    let entry = AuditEntry {
        index: 0,
        leaf_hash: [0; 32],
        chain_hash: [0; 32],
        mark: AuditMark::Event,
        appended_at: at(1),
        record,
    };
    let effects = Effects { audit_entries: vec![entry], ..Effects::default() };
    world.commit(&lane(Group::audit_trail(), Topic::JobLifecycle), effects).await;

    let page = world.get("/audit/entries?job=job-1").await.json();
    let other = world.get("/audit/entries?job=job-2").await.json();

    let event = &page["entries"][0]["event"];
    assert_eq!((&event["action"], &event["resource_id"]), (&json!("job.submitted"), &json!("job-1")));
    assert_eq!(event["changes"]["agent"], "imaging");
    assert_eq!(other["entries"], json!([]));
}

#[tokio::test]
async fn audit_wrong_parameters_are_named() {
    let world = World::start().await;
    let jobs_cursor = "WyJqb2JzIixbMSwiaiJdXQ";
    let cases = [
        (
            "topic=x".to_owned(),
            "topic: wanted one of `job-lifecycle`, `job-metrics`, `notifications`, `audit-trail`, `system-health`, got `x`",
        ),
        ("partition=1".to_owned(), "partition: wanted `topic` beside it"),
        ("topic=system-health&partition=3".to_owned(), "partition: wanted 0..=2 of `system-health`, got `3`"),
        (format!("cursor={jobs_cursor}"), "cursor: wanted `next` of an earlier page of audit entries"),
    ];

    for (query, wanted) in cases {
        assert_eq!(world.get(&format!("/audit/entries?{query}")).await.refusal(), format!("400 {wanted}"));
    }
    assert_eq!(world.get(&format!("/jobs?cursor={jobs_cursor}")).await.status, 200);
    assert_eq!(
        world.get("/audit/logs?topic=x").await.refusal(),
        "400 topic: wanted no parameter, got `topic`"
    );
}

#[tokio::test]
async fn audit_logs_have_size_root_and_head() {
    let world = World::start().await;
    world.commit(&lane(Group::audit_trail(), Topic::AuditTrail), audit_effects()).await;

    let body = world.get("/audit/logs").await.json();

    assert_eq!(body["log_id"], "log-1");
    let log = &body["logs"][0];
    assert_eq!(
        (&log["topic"], &log["partition"], &log["size"]),
        (&json!("audit-trail"), &json!(0), &json!(1))
    );
    assert_eq!((&log["root"], &log["chain_head"]), (&json!("07".repeat(32)), &json!("f1".repeat(32))));
    assert_eq!(log["frontier"], json!(["07".repeat(32)]));
}

fn poison(offset: u64, key: &'static str) -> DeadLetter {
    DeadLetter {
        record: text_record(offset, key, "poison"),
        rejection: Rejection::MissingField { field: "agent".to_owned() },
        is_parked: true,
        rejected_at: at(1),
    }
}

#[tokio::test]
async fn dead_letters_pages_walk_all_lanes() {
    let world = World::start().await;
    for group in [Group::jobs(), Group::audit_trail()] {
        let effects = Effects {
            dead_letters: (0..3).map(|offset| poison(offset, "j-1")).collect(),
            ..Effects::default()
        };
        world.commit(&lane(group, Topic::JobLifecycle), effects).await;
    }
    let mut seen = Vec::new();
    let mut target = "/dead-letters?limit=2".to_owned();

    loop {
        let page = world.get(&target).await.json();
        seen.extend(page["dead_letters"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else { break };
        target = format!("/dead-letters?limit=2&cursor={next}");
    }
    let of_jobs = world.get("/dead-letters?group=jobs").await.json();

    let seen = Value::Array(seen);
    assert_eq!(names(&seen, "offset"), ["0", "1", "2", "0", "1", "2"]);
    assert_eq!(names(&seen, "group")[..4], ["audit-trail", "audit-trail", "audit-trail", "jobs"]);
    assert_eq!(seen[0]["reason"], "missing_field");
    assert_eq!(
        (&seen[0]["state"], &seen[0]["record"]["value_base64"]),
        (&json!("parked"), &json!("cG9pc29u"))
    );
    assert_eq!(names(&of_jobs["dead_letters"], "offset"), ["0", "1", "2"]);
    assert_eq!(world.get("/dead-letters?limit=0").await.status, 400);
}

#[tokio::test]
async fn parked_keys_are_listed_up_to_the_limit() {
    let world = World::start().await;
    let mut effects = Effects::default();
    for (offset, key) in [(0, "a"), (1, "b")] {
        let DeadLetter { record, rejection, .. } = poison(offset, key);
        effects.keys_parked.push(ParkedKey {
            key: key.into(),
            head: Offset(offset),
            rejection,
            parked_at: at(1),
        });
        effects.records_parked.push(ParkedRecord { key: key.into(), record, parked_at: at(1) });
    }
    world.commit(&lane(Group::jobs(), Topic::JobLifecycle), effects).await;

    let all = world.get("/parked").await.json();
    let one = world.get("/parked?limit=1").await.json();

    let first = &all["parked"][0];
    assert_eq!((&first["group"], &first["key_base64"]), (&json!("jobs"), &json!("YQ==")));
    assert_eq!((&first["records"], &first["wish"], &first["head"]), (&json!(1), &json!("wait"), &json!(0)));
    assert_eq!((names(&all["parked"], "head").len(), &all["next"]), (2, &Value::Null));
    let next = one["next"].as_str().unwrap();
    let rest = world.get(&format!("/parked?limit=1&cursor={next}")).await.json();
    assert_eq!([&one["parked"][0], &rest["parked"][0]], [&all["parked"][0], &all["parked"][1]]);
    assert_eq!(rest["next"], Value::Null);
    assert_eq!(
        world.get("/parked?group=jobs").await.refusal(),
        "400 group: wanted `limit`, `cursor`, got `group`"
    );
}

#[tokio::test]
async fn actors_tree_is_the_boards() {
    let world = World::start().await;
    world.board.set_group(&Group::jobs(), ActorState::Running, None);
    let status = world.board.lane(&lane(Group::jobs(), Topic::JobLifecycle));
    status.placed(Offset(3), Offset(9), world.clock.moment());
    world.clock.advance(Duration::from_millis(2_500));
    world.board.count_job_supervisors_with(|| 2);

    let tree = world.get("/actors").await.json();

    assert_eq!((&tree["job_supervisors"], &tree["groups"][0]["group"]), (&json!(2), &json!("jobs")));
    let lane = &tree["groups"][0]["lanes"][0];
    assert_eq!((&lane["topic"], &lane["lag_records"]), (&json!("job-lifecycle"), &json!(6)));
    assert_eq!(lane["lag_seconds"], json!(2.5));
    assert_eq!((&lane["events_per_second"], &lane["processing_p99_ms"]), (&json!(0.0), &Value::Null));
    check_answer("GET", "/actors", 200, &tree);
}

/// Makes a record without anything in it.
fn record_at(offset: u64) -> LogRecord {
    LogRecord {
        offset: Offset(offset),
        timestamp: at(0),
        timestamp_type: TimestampType::CreateTime,
        key: None,
        headers: Headers::none(),
        payload: None,
    }
}

/// Has a lane answer four records of a batch, one of them poison, 100 ms after they came; it is held then.
fn answer_and_hold(world: &World) {
    let key = lane(Group::jobs(), Topic::JobLifecycle);
    let status = world.board.lane(&key);
    status.placed(Offset(3), Offset(7), world.clock.moment());
    let batch = RecordBatch {
        topic_partition: key.topic_partition,
        incarnation: Incarnation::default(),
        from: Offset(3),
        next: Offset(7),
        records: (3..7).map(record_at).collect(),
        log_end: Offset(7),
        credit: Credit::unlimited(key.topic_partition),
    };
    status.delivered(&batch, world.clock.moment());
    world.clock.advance(Duration::from_millis(100));
    let outcomes = [Outcome::Applied, Outcome::Waiting, Outcome::Duplicate, Outcome::Parked];
    status.committed(world.clock.reading(), Offset(7), &outcomes, 1, 2);
    status.held("1 of the last 4 records were poison");
    world.clock.advance(Duration::from_millis(1_900));
}

#[tokio::test]
async fn actors_tree_and_metrics_tell_the_pace_and_what_is_held() {
    let world = World::start().await;
    world.board.set_group(&Group::jobs(), ActorState::Running, None);
    world.board.count_rebalance(&Group::jobs());
    answer_and_hold(&world);

    let tree = world.get("/actors").await.json();
    let metrics = world.get("/metrics").await.text().to_owned();

    check_answer("GET", "/actors", 200, &tree);
    let group = &tree["groups"][0];
    assert_eq!((&group["rebalances"], &group["lanes"][0]["state"]), (&json!(1), &json!("paused")));
    for shown in [group, &group["lanes"][0]] {
        assert_eq!((&shown["events_per_second"], &shown["error_rate"]), (&json!(2.0), &json!(0.25)));
        assert_eq!(shown["waiting_rate"], 0.25);
        for quantile in ["processing_p50_ms", "processing_p95_ms", "processing_p99_ms"] {
            let millis = shown[quantile].as_f64().unwrap();
            assert!((99.0..=101.0).contains(&millis), "{quantile}: {millis}");
        }
    }
    let labels = "{group=\"jobs\",partition=\"0\",topic=\"job-lifecycle\"}";
    for series in [
        format!("horizons_events_per_second{labels} 2"),
        format!("horizons_error_ratio{labels} 0.25"),
        format!("horizons_waiting_ratio{labels} 0.25"),
        format!("horizons_parked_records{labels} 2"),
        format!("horizons_lane_paused{labels} 1"),
        "horizons_processing_seconds{group=\"jobs\",partition=\"0\",percentile=\"99\",topic=\"job-lifecycle\"} 0.1"
            .to_owned(),
    ] {
        assert!(metrics.contains(&series), "{series} in {metrics}");
    }
}

#[tokio::test]
async fn actors_tree_wall_clock_that_is_set_makes_no_other_rate_and_no_other_lag() {
    for step_millis in [-3_600_000, 3_600_000] {
        let world = World::start().await;
        world.board.set_group(&Group::jobs(), ActorState::Running, None);
        answer_and_hold(&world);
        let behind = world.board.lane(&lane(Group::jobs(), Topic::JobMetrics));
        behind.placed(Offset(3), Offset(9), world.clock.moment());
        world.clock.advance(Duration::from_secs(2));
        world.clock.set(Timestamp::from_millis(world.clock.now().as_millis() + step_millis));

        let tree = world.get("/actors").await.json();

        let lanes = &tree["groups"][0]["lanes"];
        assert_eq!(lanes[0]["events_per_second"], json!(1.0), "{step_millis}: {lanes}");
        assert_eq!(lanes[1]["lag_seconds"], json!(2.0), "{step_millis}: {lanes}");
    }
}

#[tokio::test]
async fn metrics_text_has_lanes_requests_and_the_process() {
    let world = World::start().await;
    let status = world.board.lane(&lane(Group::jobs(), Topic::JobLifecycle));
    status.placed(Offset(3), Offset(9), world.clock.moment());
    world.clock.advance(Duration::from_secs(90));
    world.store.faults().away();
    world.get("/jobs/secret-job").await;
    world.get("/secret-path").await;

    let answer = world.get("/metrics").await;

    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = answer.text();
    for series in [
        "horizons_lag_records{group=\"jobs\",partition=\"0\",topic=\"job-lifecycle\"} 6",
        "horizons_lag_seconds{group=\"jobs\",partition=\"0\",topic=\"job-lifecycle\"} 90",
        "horizons_http_requests_total{method=\"GET\",route=\"/jobs/{job_id}\",status=\"503\"} 1",
        "horizons_http_requests_total{method=\"GET\",route=\"unmatched\",status=\"404\"} 1",
        "horizons_http_request_seconds_count{route=\"unmatched\"} 1",
        "horizons_build_info{version=\"",
        "horizons_http_connections ",
    ] {
        assert!(text.contains(series), "{series} in {text}");
    }
    assert!(!text.contains("secret"), "{text}");
    let resident = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    assert!(resident.unwrap().parse::<f64>().unwrap() > 1e6, "{resident:?}");
}
