//! Partitions that are added to a topic on Kafka: told while the process runs, no obstacle to the next start, and adopted by an
//! operator without a job's order being lost.

use horizons_actors::event::partition_among;
use horizons_actors::ids::{JobId, Topic};
use horizons_actors::testkit::EventBuilder;
use serde_json::json;

use super::outside::Outside;
use super::stage::{Engine, Stage, metric, place_on};
use crate::process::client::Client;
use crate::process::load::parts;
use crate::process::server::wait_for;
use crate::services::kafka::Kafka;

/// What the topic begins with, and what it has then.
const BEFORE: u16 = 10;
const AFTER: u16 = 12;

fn home(job: &str, partitions: u16) -> i32 {
    partition_among(partitions, job.as_bytes()).0.into()
}

/// Gives a job of another producer's that goes to an added partition with the change, or to one that was there.
fn moving_job(is_to_added: bool) -> String {
    let is_wanted = |job: &String| {
        home(job, BEFORE) != home(job, AFTER) && (home(job, AFTER) >= i32::from(BEFORE)) == is_to_added
    };
    (0..).map(|number| format!("moving-{number}")).find(is_wanted).unwrap()
}

fn produce(outside: &Outside<'_>, job: &str, event: EventBuilder, sequence: u64, partitions: u16) {
    let (payload, _) = parts(event.job(job).sequence(sequence));
    outside.produce("job-lifecycle", home(job, partitions), &[(job.as_bytes(), &payload)]);
}

fn status(client: Client, job: &str) -> String {
    client.get(&format!("/jobs/{job}")).json()["job"]["status"].as_str().unwrap_or_default().to_owned()
}

fn is_told(client: Client) -> bool {
    let probes = client.get("/ready").json()["probes"].to_string();
    probes.contains("job-lifecycle has 12 partitions, 10 count")
        && metric(client, "horizons_topic_partitions_unadopted") == 2.0
}

fn grow(engine: Engine) {
    let kafka = Kafka::shared();
    let mut stage = Stage::at("layout", place_on(engine, kafka));
    let outside = Outside::of(kafka, &stage.world.place().events);
    let jobs = [moving_job(true), moving_job(false)];
    for job in &jobs {
        produce(&outside, job, EventBuilder::job_submitted(), 1, BEFORE);
        produce(&outside, job, EventBuilder::job_queued(), 2, BEFORE);
    }
    assert!(stage.load.submit_new(stage.client(), "quick"));

    kafka.add_partitions(&outside.name("job-lifecycle"), AFTER.into());
    wait_for("the added partitions to be told", || is_told(stage.client()));
    assert_eq!(stage.client().get("/ready").status, 200);
    stage.start_again(None);
    wait_for("them to be told after a start", || is_told(stage.client()));
    // A producer that has seen them already.
    produce(&outside, &jobs[0], EventBuilder::job_running(), 3, AFTER);
    assert!(stage.load.submit_new(stage.client(), "quick"));
    for job in &jobs {
        wait_for("what stands on the partitions of before", || status(stage.client(), job) == "QUEUED");
    }

    let client = stage.client();
    let adopt =
        || client.post("/topics/job-lifecycle/layout", &json!({ "reason": "producers wait" })).unwrap();
    let adopted = adopt();
    assert_eq!((adopted.status, adopted.json()["partitions"].as_u64()), (202, Some(12)), "{}", adopted.text);
    assert_eq!(adopt().status, 409);
    produce(&outside, &jobs[1], EventBuilder::job_running(), 3, AFTER);
    for job in &jobs {
        produce(&outside, job, EventBuilder::job_completed(), 4, AFTER);
    }
    for job in &jobs {
        wait_for("the end of a job that moved", || status(client, job) == "COMPLETED");
        let view = client.get(&format!("/jobs/{job}")).json();
        assert_eq!(view["job"]["sequence"].as_u64().unwrap_or(4), 4, "{view}");
    }
    wait_for("nothing to be told any more", || metric(client, "horizons_topic_partitions_unadopted") == 0.0);
    assert!(stage.load.submit_new(client, "quick"));
    stage.start_again(None);
    let client = stage.client();
    assert!(stage.load.submit_new(client, "quick"));
    let owned: Vec<JobId> = {
        let ledger = stage.load.ledger.lock().unwrap();
        let ids = ledger.submits.values().filter_map(|submit| submit.job_id.clone());
        ids.map(|text| JobId::parse(&text).unwrap()).collect()
    };
    assert!(owned.len() >= 4, "{owned:?}");
    for job in &owned {
        wait_for("an owned job's view to end", || status(client, job.as_str()) == "COMPLETED");
    }
    let letters = client.get("/dead-letters?limit=100").json()["dead_letters"].clone();
    assert_eq!(letters, json!([]), "nothing was set aside of {}", Topic::JobLifecycle);
    stage.server.stop();
}

#[test]
fn partitions_added_under_postgres_are_told_and_adopted_in_order() {
    grow(Engine::Postgres);
}

#[test]
fn partitions_added_under_sqlite_are_told_and_adopted_in_order() {
    grow(Engine::Sqlite);
}
