//! Partitions that are added to a topic on Kafka: told while the process runs, no obstacle to the next start, and adopted by an
//! operator without a job's order being lost.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use horizons_actors::event::partition_among;
use horizons_actors::ids::{JobId, Topic};
use horizons_actors::testkit::EventBuilder;
use serde_json::json;

use super::acts::Pair;
use super::outside::Outside;
use super::stage::{Engine, Stage, metric, place_on, wait_until_it_works};
use crate::process::client::Client;
use crate::process::load::parts;
use crate::process::server::{wait_for, wait_some};
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

/// Threads that append events while the layout changes, and jobs that each of them has done before and after it at least.
const PRODUCERS: usize = 4;
const JOBS_EACH: usize = 12;

/// The events of a job of another producer's, in order.
fn story() -> [EventBuilder; 4] {
    [
        EventBuilder::job_submitted(),
        EventBuilder::job_queued(),
        EventBuilder::job_running(),
        EventBuilder::job_completed(),
    ]
}

/// Appends the events of one job after the other, each by another of the processes, until told to stop; gives the jobs.
fn append_stories(
    clients: &[Client],
    number: usize,
    done: &AtomicUsize,
    is_over: &AtomicBool,
) -> Vec<String> {
    let mut jobs = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let job = format!("flow-{number}-{}", jobs.len());
        for (step, event) in story().into_iter().enumerate() {
            let (payload, headers) = parts(event.job(&job).sequence(step as u64 + 1));
            let client = clients[(jobs.len() + step) % clients.len()];
            let answer = client.append("job-lifecycle", Some(job.as_bytes()), &payload, headers).unwrap();
            assert_eq!(answer.status, 202, "{answer:?}");
        }
        jobs.push(job);
        done.fetch_add(1, Ordering::Relaxed);
    }
    jobs
}

/// Adds partitions to a topic and has a process adopt them.
fn grow_topic(outside: &Outside<'_>, clients: &[Client], topic: Topic) {
    let more = topic.partitions() + 2;
    Kafka::shared().add_partitions(&outside.name(topic.name()), more.into());
    let adopt = || {
        let body = json!({ "reason": "more partitions" });
        clients[0].post(&format!("/topics/{}/layout", topic.name()), &body).unwrap()
    };
    let told = || clients.iter().all(|client| metric(*client, "horizons_topic_partitions_unadopted") > 0.0);
    wait_for("the added partitions to be told everywhere", told);
    let mut was_sent_away = false;
    let adopted = wait_some("the adoption to be answered", || {
        let answer = adopt();
        was_sent_away |= answer.status == 503;
        (answer.status != 503).then_some(answer)
    });
    // What was begun and could not be finished in time is finished by itself.
    if !was_sent_away || adopted.status != 409 {
        let answer = (adopted.status, adopted.json()["partitions"].as_u64());
        assert_eq!(answer, (202, Some(more.into())), "{}", adopted.text);
    }
}

/// Lets events flow through all processes while both topics with records of ours that are keyed by others than our jobs
/// grow; nothing of it may be set aside, doubled or overtaken.
fn flow_across(clients: &[Client], outside: &Outside<'_>) {
    let (done, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let all_have_done = |jobs: usize| wait_for("events to flow", || done.load(Ordering::Relaxed) >= jobs);

    let jobs: Vec<String> = std::thread::scope(|scope| {
        let producers: Vec<_> = (0..PRODUCERS)
            .map(|number| {
                let (done, is_over) = (&done, &is_over);
                scope.spawn(move || append_stories(clients, number, done, is_over))
            })
            .collect();
        let grow = std::panic::AssertUnwindSafe(|| {
            for topic in [Topic::JobLifecycle, Topic::AuditTrail] {
                all_have_done(done.load(Ordering::Relaxed) + JOBS_EACH * PRODUCERS);
                grow_topic(outside, clients, topic);
            }
            all_have_done(done.load(Ordering::Relaxed) + JOBS_EACH * PRODUCERS);
        });
        let grown = std::panic::catch_unwind(grow);
        is_over.store(true, Ordering::Relaxed);
        let jobs = producers.into_iter().flat_map(|producer| producer.join().unwrap()).collect();
        grown.unwrap_or_else(|cause| std::panic::resume_unwind(cause));
        jobs
    });

    for job in &jobs {
        wait_for("a job's last event", || status(clients[0], job) == "COMPLETED");
        let timeline = clients[0].get(&format!("/jobs/{job}/timeline")).json();
        let steps = timeline["steps"].as_array().unwrap();
        assert!(steps.is_sorted_by_key(|step| step["applied_at"].as_str().unwrap()), "{job}: {timeline}");
        let steps: Vec<u64> = steps.iter().filter_map(|step| step["sequence"].as_u64()).collect();
        assert_eq!((steps, &timeline["refusals"]), (vec![1, 2, 3, 4], &json!([])), "{job}: {timeline}");
    }
    for client in clients {
        wait_for("every process to count them", || {
            metric(*client, "horizons_topic_partitions_unadopted") == 0.0
        });
        wait_for("nothing to be left in any lane", || metric(*client, "horizons_lag_records") == 0.0);
        assert_eq!(metric(*client, "horizons_rejections_total"), 0.0, "nothing is set aside");
    }
    let letters = clients[0].get("/dead-letters?limit=100").json()["dead_letters"].clone();
    assert_eq!(letters, json!([]));
    let moved = jobs.iter().filter(|job| home(job, BEFORE) != home(job, AFTER)).count();
    println!("layout: {} jobs of others, {moved} of them at home elsewhere since the change", jobs.len());
}

#[test]
fn records_on_their_way_when_a_layout_is_adopted_are_applied_in_order() {
    let place = place_on(Engine::Sqlite, Kafka::shared());
    let stage = Stage::at("layout under way", place);
    let outside = Outside::of(Kafka::shared(), &stage.world.place().events);
    wait_until_it_works(&stage.load, stage.client());

    flow_across(&[stage.client()], &outside);

    stage.server.stop();
}

#[test]
fn two_processes_take_up_an_adopted_layout_while_events_flow() {
    let pair = Pair::at("layout of two");
    let outside = Outside::of(Kafka::shared(), &pair.stage.world.place().events);
    wait_until_it_works(&pair.stage.load, pair.stage.client());

    flow_across(&pair.clients(), &outside);

    pair.stop();
}
