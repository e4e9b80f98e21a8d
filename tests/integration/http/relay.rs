//! The relay to Kafka over HTTP: what operators see of it and ask of it.

use horizons_actors::command::CommandKind;
use horizons_actors::ids::{LogTopic, Offset, Partition, Topic};
use serde_json::{Value, json};

use super::schemas::check_answer;
use super::world::World;

#[tokio::test]
async fn relay_embedded_log_has_none() {
    let world = World::start().await;
    let order = json!({"topic": "job-metrics", "partition": 4, "reason": "r"});

    let answers = [world.get("/relay").await, world.post("/relay/send-again", &order).await];

    for answer in answers {
        assert_eq!(answer.refusal(), "404 -: relay (the event log is embedded) does not exist");
    }
    assert_eq!(world.command_count(), 0);
}

#[tokio::test]
async fn relay_status_and_kept_records_are_shown() {
    let world = World::on_kafka().await;

    let status = world.get("/relay").await.json();
    let kept = world.get("/relay/set-aside").await.json();

    check_answer("GET", "/relay", 200, &status);
    check_answer("GET", "/relay/set-aside", 200, &kept);
    assert_eq!(status["partitions"][0]["condition"], json!("stopped"));
    assert_eq!((&status["is_leader"], &status["waiting_records"]), (&json!(true), &json!(3)));
    assert_eq!(kept["set_aside"][0]["topic"], json!("job-metrics.dlq"));
    assert_eq!(kept["set_aside"][0]["record"]["offset"], json!(6));
}

#[tokio::test]
async fn relay_orders_reach_the_receiver() {
    let world = World::on_kafka().await;
    let place = json!({"topic": "job-metrics.dlq", "partition": 4, "reason": "limit raised"});
    let mut record = place.clone();
    record["offset"] = json!(7);

    let again = world.post("/relay/send-again", &place).await;
    let again_command = world.last_command();
    let aside = world.post("/relay/set-aside", &record).await;
    let aside_command = world.last_command();

    assert_eq!((again.status, aside.status), (202, 200));
    check_answer("POST", "/relay/send-again", 202, &again.json());
    check_answer("POST", "/relay/set-aside", 200, &aside.json());
    let (topic, partition) = (LogTopic::DeadLetter(Topic::JobMetrics), Partition(4));
    assert_eq!(again_command.kind, CommandKind::SendRecordAgain { topic, partition });
    assert_eq!(again_command.reason.as_deref(), Some("limit raised"));
    assert_eq!(aside_command.kind, CommandKind::SetAsideRecord { topic, partition, offset: Offset(7) });
}

#[tokio::test]
async fn relay_wrong_orders_are_named() {
    let world = World::on_kafka().await;
    let good = json!({"topic": "system-health", "partition": 0, "offset": 1, "reason": "r"});
    let cases: [(&str, Value, &str); 4] = [
        ("partition", json!(3), "422 partition: wanted 0..=2 of `system-health`, got 3"),
        ("offset", json!(-1), "422 offset: wanted a whole number from 0 on, got `-1`"),
        ("offset", json!("7"), "422 offset: wanted a whole number from 0 on, got `\"7\"`"),
        ("reason", json!(null), "422 reason: wanted a text, got nothing"),
    ];

    for (field, value, wanted) in cases {
        let mut body = good.clone();
        body[field] = value;

        assert_eq!(world.post("/relay/set-aside", &body).await.refusal(), wanted);
    }
    let mut unknown = good.clone();
    unknown["topic"] = json!("jobs");
    assert!(world.post("/relay/set-aside", &unknown).await.refusal().starts_with("422 topic: "));
    assert_eq!(world.command_count(), 0);
}

#[tokio::test]
async fn append_on_kafka_tells_places_in_the_outbox() {
    let world = World::on_kafka().await;

    let answer = world.post("/topics/job-lifecycle/records", &json!({"records": [{}]})).await;

    assert_eq!(answer.status, 202);
    check_answer("POST", "/topics/{topic}/records", 202, &answer.json());
    assert_eq!(answer.json()["appended"], json!([{"partition": 2, "outbox_offset": 0}]));
}
