//! Fifty jobs at once, their whole lives through Kafka: ends of each kind, in order, and one correlation id from
//! the request to the last effect.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use uuid::Uuid;

use super::stage::{Engine, Stage, place_on};
use crate::process::checker::{Record, TOPICS, bytes};
use crate::process::client::Client;
use crate::process::crash::settle;
use crate::process::load::Submit;
use crate::process::look::Look;
use crate::process::server::wait_for;
use crate::services::kafka::Kafka;
use crate::services::promtool::check_metrics;

/// How many of each agent, and how its jobs end.
const JOBS: [(&str, usize, &str); 4] =
    [("quick", 25, "COMPLETED"), ("slow", 5, "COMPLETED"), ("fail", 10, "FAILED"), ("long", 10, "CANCELLED")];

/// A job as its submitter knows it.
struct Mine {
    job_id: String,
    agent: &'static str,
    end: &'static str,
    correlation_id: String,
}

fn submit(client: Client, key: &str, agent: &'static str, end: &'static str) -> Mine {
    let correlation_id = Uuid::new_v4().hyphenated().to_string();
    let body = json!({ "agent": agent, "dataset_id": "data-1" }).to_string();
    let headers = [("idempotency-key", key), ("x-correlation-id", correlation_id.as_str())];
    let answer = client.send("POST", "/jobs", &headers, Some(body.as_bytes())).unwrap();
    assert!(matches!(answer.status, 201 | 202), "{answer:?}");
    Mine { job_id: answer.job_id(), agent, end, correlation_id }
}

fn status(client: Client, job_id: &str) -> Value {
    client.get(&format!("/jobs/{job_id}")).json()["job"]["status"].clone()
}

/// Event ids by the correlation id of their event.
type ByCorrelation = BTreeMap<String, BTreeSet<String>>;

/// Gives the ids of the audited events, from the bodies that the auditor keeps.
fn audited(look: &mut Look) -> ByCorrelation {
    let mut ids = ByCorrelation::new();
    for row in look.rows("'payload', hex(payload)", "audit_bodies") {
        let event: Value = serde_json::from_slice(&bytes(row["payload"].as_str().unwrap())).unwrap();
        ids.entry(text(&event["correlation_id"])).or_default().insert(text(&event["event_id"]));
    }
    ids
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("wanted a text, got {value}")).to_owned()
}

/// Follows a job by its correlation id: header and body of each record in Kafka, the steps of its timeline, the
/// entries of the audit trail.
fn assert_followed(client: Client, records: &[Record], audited: &ByCorrelation, job: &Mine) {
    let id = job.correlation_id.as_str();
    let of_job = |record: &&Record| {
        record.topic < TOPICS.len() as u64
            && (record.event["job_id"] == job.job_id.as_str()
                || record.event["payload"]["resource_id"] == job.job_id.as_str())
    };
    let mut by_topic: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for record in records.iter().filter(of_job).filter(|record| !is_cancel_act(&record.event)) {
        by_topic.entry(record.topic).or_default().insert(text(&record.event["event_id"]));
        let header = record.headers.iter().find(|(name, _)| name == "correlation-id");
        let in_header = header.and_then(|(_, value)| value.as_deref()).map(String::from_utf8_lossy);
        assert_eq!(in_header.as_deref(), Some(id), "header of {record:?}");
        assert_eq!(record.event["correlation_id"], id, "body of {record:?}");
    }
    let steps = client.get(&format!("/jobs/{}/timeline", job.job_id)).json()["steps"].clone();
    let steps: BTreeSet<String> =
        steps.as_array().unwrap().iter().map(|step| text(&step["event_id"])).collect();

    assert!(steps.len() >= 3, "{}: {steps:?}", job.job_id);
    assert_eq!(by_topic.get(&0), Some(&steps), "timeline of {}", job.job_id);
    assert_eq!(by_topic.get(&3).map(BTreeSet::len), Some(1), "acts of {}", job.job_id);
    let all: BTreeSet<String> = by_topic.into_values().flatten().collect();
    assert_eq!(audited.get(id), Some(&all), "audit entries of {}", job.job_id);
}

/// The request to cancel is a request of its own, with an id of its own.
fn is_cancel_act(event: &Value) -> bool {
    event["payload"]["action"] == "job.cancel"
}

fn whole_lives(engine: Engine) {
    let kafka = Kafka::shared();
    let stage = Stage::at("whole lives", place_on(engine, kafka));
    let client = stage.client();
    let wanted: Vec<(&str, &str)> =
        JOBS.iter().flat_map(|(agent, count, end)| std::iter::repeat_n((*agent, *end), *count)).collect();

    let jobs: Vec<Mine> = std::thread::scope(|scope| {
        let submits: Vec<_> = wanted
            .iter()
            .enumerate()
            .map(|(number, (agent, end))| {
                scope.spawn(move || submit(client, &format!("key-{number}"), agent, end))
            })
            .collect();
        submits.into_iter().map(|submit| submit.join().unwrap()).collect()
    });
    {
        let mut ledger = stage.load.ledger.lock().unwrap();
        for (number, job) in jobs.iter().enumerate() {
            let submit = Submit { agent: job.agent, job_id: Some(job.job_id.clone()) };
            ledger.submits.insert(format!("key-{number}"), submit);
        }
    }
    for job in jobs.iter().filter(|job| job.end == "CANCELLED") {
        assert!(stage.load.cancel(client, &job.job_id));
    }
    for job in &jobs {
        wait_for("the job's end", || status(client, &job.job_id) == job.end);
    }
    settle(&stage.world);
    check_metrics(&client.get("/metrics").text);
    let mut look = Look::of(&stage.world);
    let records = look.topics().unwrap().read_all();
    let audited = audited(&mut look);
    drop(look);
    for job in &jobs {
        assert_followed(client, &records, &audited, job);
    }
    let seen = stage.finish();

    let ends = BTreeMap::from([("COMPLETED", 30), ("FAILED", 10), ("CANCELLED", 10)]);
    let got: BTreeMap<&str, usize> =
        seen.by_status.iter().map(|(status, count)| (status.as_str(), *count)).collect();
    assert_eq!(got, ends);
}

#[test]
fn fifty_jobs_through_kafka_on_sqlite_live_their_whole_lives() {
    whole_lives(Engine::Sqlite);
}

#[test]
fn fifty_jobs_through_kafka_on_postgres_live_their_whole_lives() {
    whole_lives(Engine::Postgres);
}
