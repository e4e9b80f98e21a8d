//! Requests that change state: what reaches the receiver of commands, and what is refused before it.

use horizons_actors::command::CommandKind;
use horizons_actors::effect::Effects;
use horizons_actors::event::{JobStatus, TaccSystem};
use horizons_actors::ids::{Group, LaneKey, Partition, Topic, TopicPartition};
use horizons_actors::ports::commands::{CommandError, Verdict};
use serde_json::{Value, json};

use super::schemas::check_answer;
use super::world::{JSON, World};

fn job() -> Value {
    json!({"agent": "imaging", "dataset_id": "d-1", "parameters": {"depth": 3}})
}

#[tokio::test]
async fn submit_accepted_job_is_created() {
    let world = World::start().await;
    let headers = format!(
        "{JSON}X-Horizons-User: grace\r\nIdempotency-Key: night-7\r\n\
         X-Correlation-Id: 00000000-0000-0000-0000-00000000002a\r\n"
    );

    let answer = world.send("POST", "/jobs", &headers, &job().to_string()).await;

    assert_eq!((answer.status, answer.header("location")), (201, Some("/jobs/job%2D1")));
    assert_eq!(answer.header("x-correlation-id"), Some("00000000-0000-0000-0000-00000000002a"));
    assert_eq!(answer.json()["job"]["status"], "QUEUED");
    assert_eq!(answer.json()["job"]["user_id"], "grace");
    let command = world.last_command();
    assert_eq!(command.principal.user_id.as_str(), "grace");
    assert_eq!(command.idempotency_key.as_deref(), Some("night-7"));
    assert_eq!(command.correlation_id.0.as_u128(), 42);
    let CommandKind::SubmitJob(request) = command.kind else { panic!("{command:?}") };
    assert_eq!((request.agent.as_str(), request.dataset_id.as_str()), ("imaging", "d-1"));
    assert_eq!(request.parameters.to_json(), r#"{"depth":3}"#);
    assert_eq!(request.tacc_system, TaccSystem::Local);
}

#[tokio::test]
async fn submit_parameters_reach_the_command_to_the_letter() {
    let world = World::start().await;
    let parameters = r#"{"a":20200219123456789012,"b":1.10,"c":[1e5, -0.0],"d":"1.10","e":null}"#;
    let body = |parameters: &str| format!(r#"{{"agent":"a","dataset_id":"d","parameters":{parameters}}}"#);

    let taken = world.send("POST", "/jobs", JSON, &body(parameters)).await;
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(65), "]".repeat(65));
    let too_deep = world.send("POST", "/jobs", JSON, &body(&deep)).await;
    let no_number = world.send("POST", "/jobs", JSON, &body(r#"{"x":1e400}"#)).await;

    assert_eq!(taken.status, 201);
    let CommandKind::SubmitJob(request) = world.last_command().kind else { panic!("no submit") };
    assert_eq!(request.parameters.to_json(), parameters);
    assert_eq!(too_deep.refusal(), "422 parameters.x: wanted at most 64 levels of nesting, got 65");
    assert!(no_number.refusal().starts_with("400 -: failed to read the body as JSON: number out of range"));
}

#[tokio::test]
async fn submit_without_user_is_local() {
    let world = World::start().await;

    world.post("/jobs", &job()).await;

    assert_eq!(world.last_command().principal.user_id.as_str(), "local");
}

#[tokio::test]
async fn submit_each_verdict_has_its_status() {
    let world = World::start().await;
    let refused = Verdict::Refused { field: Some("dataset_id".to_owned()), reason: "too large".to_owned() };
    let cases = [
        (Verdict::Accepted, false, 201, true),
        (Verdict::Accepted, true, 200, false),
        (Verdict::Pending, false, 202, true),
        (Verdict::Pending, true, 202, true),
        (refused, false, 422, false),
    ];

    for (verdict, is_repeat, status, has_location) in cases {
        world.script(|script| {
            script.verdict = verdict.clone();
            script.is_repeat = is_repeat;
        });
        let answer = world.post("/jobs", &job()).await;

        let got = (answer.status, answer.header("location").is_some());
        assert_eq!(got, (status, has_location), "{verdict:?}, repeat {is_repeat}");
    }
    let refusal = world.post("/jobs", &job()).await.problem();
    assert_eq!((&refusal["field"], &refusal["job_id"]), (&json!("dataset_id"), &json!("job-1")));
}

#[tokio::test]
async fn submit_wrong_fields_are_named_and_reach_nobody() {
    let world = World::start().await;
    let cases = [
        (json!({}), "422 agent: wanted a text, got nothing"),
        (json!({"agent": 7}), "422 agent: wanted a text, got `7`"),
        (json!({"agent": "", "dataset_id": "d"}), "422 agent: wanted 1..=255 characters, got none"),
        (
            json!({"agent": "a", "dataset_id": "a\u{7}"}),
            "422 dataset_id: wanted text without control characters",
        ),
        (
            json!({"agent": "a", "dataset_id": "d", "parameters": [1]}),
            "422 parameters: wanted an object, got `[1]`",
        ),
        (
            json!({"agent": "a", "dataset_id": "d", "tacc_system": "moon"}),
            "422 tacc_system: wanted one of `frontera`, `lonestar6`, `stampede3`, `vista`, `local`, got `moon`",
        ),
        (
            json!({"agent": "a", "dataset_id": "d", "user_id": "root"}),
            "422 user_id: wanted only `agent`, `dataset_id`, `parameters`, `tacc_system`, got an unknown field",
        ),
        (json!([]), "422 body: wanted an object, got `[]`"),
    ];

    for (body, wanted) in cases {
        assert_eq!(world.post("/jobs", &body).await.refusal(), wanted);
    }
    let twice = world.send("POST", "/jobs", JSON, r#"{"agent":"a","parameters":{"x":1,"x":2}}"#).await;
    assert_eq!(twice.refusal(), "422 parameters.x: wanted once, got twice");
    let key = format!("{JSON}Idempotency-Key: a\r\nIdempotency-Key: b\r\n");
    let twice = world.send("POST", "/jobs", &key, &job().to_string()).await;
    assert_eq!(twice.refusal(), "400 Idempotency-Key: wanted once, got twice");
    assert_eq!(world.post("/jobs?x=1", &job()).await.refusal(), "400 x: wanted no parameter, got `x`");
    assert_eq!(world.command_count(), 0);
}

#[tokio::test]
async fn cancel_escaped_id_and_reason_reach_the_receiver() {
    let world = World::start().await;

    let first = world.post("/jobs/a%2Fb%20%C3%BC/cancel", &json!({"reason": "wrong data"})).await;
    let command = world.last_command();
    world.script(|script| script.is_repeat = true);
    let again = world.post("/jobs/j/cancel", &json!({"reason": null})).await;
    world.script(|script| {
        script.is_repeat = false;
        script.status = JobStatus::Cancelled;
    });
    let at_once = world.post("/jobs/j/cancel", &json!({})).await;

    assert_eq!([first.status, again.status, at_once.status], [202, 200, 200]);
    assert_eq!(first.json()["job"]["job_id"], "a/b ü");
    assert_eq!(command.reason.as_deref(), Some("wrong data"));
    assert!(matches!(command.kind, CommandKind::CancelJob { job_id } if job_id.as_str() == "a/b ü"));
    assert_eq!(world.last_command().reason, None);
}

#[tokio::test]
async fn cancel_broken_escapes_are_refused() {
    let world = World::start().await;

    for id in ["%zz", "%", "%f", "%ff", "a%2"] {
        let answer = world.post(&format!("/jobs/{id}/cancel"), &json!({})).await;

        let wanted = format!("400 job_id: wanted UTF-8 in percent escapes, got `{id}`");
        assert_eq!(answer.refusal(), wanted);
    }
    assert_eq!(world.post("/jobs/%00/cancel", &json!({})).await.status, 404);
    assert_eq!(world.command_count(), 0);
}

#[tokio::test]
async fn append_records_arrive_byte_for_byte() {
    let world = World::start().await;
    let body = json!({"records": [
        {"key_base64": "ai0x", "value_base64": "AP8=", "headers": {"content-type": "x", "none": null}},
        {"key_base64": "", "value_base64": null},
    ]});

    let answer = world.post("/topics/job-lifecycle/records", &body).await;

    assert_eq!(answer.status, 201);
    let appended = json!([{"partition": 2, "offset": 0}, {"partition": 2, "offset": 1}]);
    assert_eq!(answer.json(), json!({ "appended": appended }));
    let records = world.commands.records.lock().unwrap().clone();
    assert_eq!(records[0].key.as_deref(), Some(b"j-1".as_slice()));
    assert_eq!(records[0].payload.as_deref(), Some([0, 0xff].as_slice()));
    let headers: Vec<_> = records[0].headers.iter().collect();
    assert_eq!(headers, [(b"content-type".as_slice(), Some(b"x".as_slice())), (b"none".as_slice(), None)]);
    assert_eq!((records[1].key.as_deref(), &records[1].payload), (Some([].as_slice()), &None));
    let command = world.last_command();
    assert!(matches!(command.kind, CommandKind::AppendRecord { topic: Topic::JobLifecycle, .. }));
}

#[tokio::test]
async fn append_wrong_records_are_named() {
    let world = World::start().await;
    let cases = [
        ("job-lifecycle", json!({}), "422 records: wanted a list, got nothing"),
        ("job-lifecycle", json!({"records": [3]}), "422 records[0]: wanted an object, got `3`"),
        (
            "job-lifecycle",
            json!({"records": [{}, {"headers": {"a": 1}}]}),
            "422 records[1].headers.a: wanted a text or null",
        ),
        (
            "job-lifecycle",
            json!({"records": [{"topic": "x"}]}),
            "422 records[0].topic: wanted only `key_base64`, `value_base64`, `headers`, got an unknown field",
        ),
        ("moon", json!({"records": []}), "404 -: topic `moon` does not exist"),
        ("job-lifecycle.dlq", json!({"records": []}), "404 -: topic `job-lifecycle.dlq` does not exist"),
    ];

    for (topic, body, wanted) in cases {
        let answer = world.post(&format!("/topics/{topic}/records"), &body).await;

        assert_eq!(answer.refusal(), wanted);
    }
    let body = json!({"records": [{"value_base64": "?"}]});
    let base64 = world.post("/topics/job-lifecycle/records", &body).await.refusal();
    assert!(base64.starts_with("422 records[0].value_base64: wanted base64 with padding"), "{base64}");
    assert_eq!(world.command_count(), 0);
}

#[tokio::test]
async fn parked_wishes_reach_the_receiver() {
    let world = World::start().await;
    let topic_partition = TopicPartition { topic: Topic::JobLifecycle, partition: Partition(3) };
    let lane = LaneKey { group: Group::jobs(), topic_partition };
    let body = json!({"group": "jobs", "topic": "job-lifecycle", "partition": 3, "key_base64": "ai0x",
        "reason": "producer is fixed"});

    let release = world.post("/parked/release", &body).await;
    let released = world.last_command();
    let discard = world.post("/parked/discard", &body).await;
    let discarded = world.last_command();

    assert_eq!((release.status, discard.status), (202, 202));
    assert_eq!(release.json()["command_id"], json!(released.command_id));
    assert_eq!(released.reason.as_deref(), Some("producer is fixed"));
    assert!(matches!(released.kind, CommandKind::ReleaseKey(key) if key.lane == lane && key.key == "j-1"));
    assert!(matches!(discarded.kind, CommandKind::DiscardHead(key) if key.lane == lane && key.key == "j-1"));
}

#[tokio::test]
async fn parked_wrong_wishes_are_named() {
    let world = World::start().await;
    let good = json!({"group": "jobs", "topic": "job-lifecycle", "partition": 3, "key_base64": "ai0x",
        "reason": "r"});
    let cases = [
        ("partition", json!(10), "422 partition: wanted 0..=9 of `job-lifecycle`, got 10"),
        ("partition", json!(-1), "422 partition: wanted a partition's number, got `-1`"),
        ("key_base64", json!(null), "422 key_base64: wanted the key in base64, got nothing"),
        ("reason", json!(null), "422 reason: wanted a text, got nothing"),
        ("group", json!(""), "422 group: wanted 1..=255 characters, got none"),
    ];

    for (field, value, wanted) in cases {
        let mut body = good.clone();
        body[field] = value;

        assert_eq!(world.post("/parked/release", &body).await.refusal(), wanted);
    }
    let what = "parked key `j-1` of `jobs/job-lifecycle-3`".to_owned();
    world.script(|script| script.error = Some(CommandError::NotFound { what }));
    let missing = world.post("/parked/discard", &good).await;
    assert_eq!(missing.refusal(), "404 -: parked key `j-1` of `jobs/job-lifecycle-3` does not exist");
}

#[tokio::test]
async fn lanes_paused_are_listed_by_group_and_topic_with_what_they_met() {
    let world = World::start().await;
    for (group, partition) in [(Group::jobs(), 3), (Group::jobs(), 4), (Group::job_metrics(), 3)] {
        let topic_partition = TopicPartition { topic: Topic::JobLifecycle, partition: Partition(partition) };
        let effects = Effects {
            held_because: Some("100 of the last 1000".to_owned()).filter(|_| partition == 3),
            ..Effects::default()
        };
        world.commit(&LaneKey { group, topic_partition }, effects).await;
    }
    let count = async |query: &str| {
        let page = world.get(&format!("/lanes/paused{query}")).await.json();
        page["lanes"].as_array().map(Vec::len)
    };

    let listed = world.get("/lanes/paused?group=jobs&topic=job-lifecycle").await.json();

    check_answer("GET", "/lanes/paused", 200, &listed);
    let wanted = json!({
        "group": "jobs", "topic": "job-lifecycle", "partition": 3, "generation": 0,
        "reason": "100 of the last 1000",
    });
    assert_eq!(listed, json!({"lanes": [wanted]}));
    assert_eq!(count("").await, Some(2));
    assert_eq!(count("?topic=job-metrics").await, Some(0));
    let refused = world.get("/lanes/paused?topic=x").await.refusal();
    assert!(refused.starts_with("400 topic: wanted one of `job-lifecycle`"), "{refused}");
}

#[tokio::test]
async fn lanes_resume_reaches_the_receiver_and_wrong_ones_are_named() {
    let world = World::start().await;
    let topic_partition = TopicPartition { topic: Topic::JobLifecycle, partition: Partition(3) };
    let lane = LaneKey { group: Group::jobs(), topic_partition };
    let good =
        json!({"group": "jobs", "topic": "job-lifecycle", "partition": 3, "reason": "producer is fixed"});

    let resumed = world.post("/lanes/resume", &good).await;

    check_answer("POST", "/lanes/resume", 202, &resumed.json());
    let command = world.last_command();
    assert_eq!((resumed.status, &resumed.json()["command_id"]), (202, &json!(command.command_id)));
    assert_eq!(command.kind, CommandKind::ResumeLane(lane));
    assert_eq!(command.reason.as_deref(), Some("producer is fixed"));
    let cases = [
        ("partition", json!(10), "422 partition: wanted 0..=9 of `job-lifecycle`, got 10"),
        ("topic", json!(null), "422 topic: wanted a text, got nothing"),
        ("reason", json!(null), "422 reason: wanted a text, got nothing"),
    ];
    for (field, value, wanted) in cases {
        let mut body = good.clone();
        body[field] = value;

        assert_eq!(world.post("/lanes/resume", &body).await.refusal(), wanted);
    }
    let error = CommandError::NotPossible { what: "lane".to_owned(), reason: "it is not paused".to_owned() };
    world.script(|script| script.error = Some(error));
    assert_eq!(world.post("/lanes/resume", &good).await.refusal(), "409 -: lane: it is not paused");
}
