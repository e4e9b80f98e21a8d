//! A job's whole life, and a parked key's, as a person sees them through the command line.

use std::process::Output;

use horizons::exit::Exit;
use serde_json::Value;

use super::checker;
use super::crash::settle;
use super::load::{Appended, Ledger, Submit, external_event};
use super::server::{Server, World, wait_for, wait_some};
use crate::services::promtool::check_metrics;

fn assert_exit(output: &Output, exit: Exit) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(i32::from(exit.code())), "{said}");
}

/// Reads what a command with `--json` printed: one object a line.
fn lines(output: &Output) -> Vec<Value> {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn show(world: &World, server: &Server, job_id: &str) -> Value {
    let output = world.cli(server, &["jobs", "show", job_id, "--json"]);
    assert_exit(&output, Exit::Done);
    lines(&output).remove(0)
}

/// Gives what happened to a job, as its timeline tells: the typed events in order.
fn story(world: &World, server: &Server, job_id: &str) -> Vec<String> {
    let shown = show(world, server, job_id);
    let steps = shown["timeline"]["steps"].as_array().unwrap();
    let types = steps.iter().map(|step| step["event_type"].as_str().unwrap().to_owned());
    types.filter(|name| name != "job.status_changed").collect()
}

fn status(server: &Server, job_id: &str) -> String {
    server.client().get(&format!("/jobs/{job_id}")).json()["job"]["status"].as_str().unwrap().to_owned()
}

fn remember(ledger: &mut Ledger, agent: &'static str, job_id: &str) {
    let submit = Submit { agent, job_id: Some(job_id.to_owned()) };
    ledger.submits.insert(format!("by hand {job_id}"), submit);
}

#[test]
fn jobs_completing_failing_and_cancelled_tell_their_whole_story() {
    let world = World::new();
    let server = world.serve();
    let mut ledger = Ledger::default();

    let ends = [("quick", Exit::Done), ("slow", Exit::Done), ("fail", Exit::Failed)].map(|(agent, exit)| {
        let output = world.cli(&server, &["jobs", "submit", agent, "data-1", "--wait", "--json"]);
        assert_exit(&output, exit);
        let job_id = lines(&output)[0]["job_id"].as_str().unwrap().to_owned();
        remember(&mut ledger, agent, &job_id);
        job_id
    });
    let output = world.cli(&server, &["jobs", "submit", "long", "data-1", "--json"]);
    assert_exit(&output, Exit::Done);
    let long = lines(&output)[0]["job_id"].as_str().unwrap().to_owned();
    remember(&mut ledger, "long", &long);
    wait_for("the agent to run", || status(&server, &long) == "RUNNING");
    assert_exit(&world.cli(&server, &["jobs", "cancel", &long, "--reason", "wrong data"]), Exit::Done);
    wait_for("the cancel", || status(&server, &long) == "CANCELLED");
    settle(&world);

    for (job_id, last) in [&ends[0], &ends[1], &ends[2], &long].into_iter().zip([
        "job.completed",
        "job.completed",
        "job.failed",
        "job.cancelled",
    ]) {
        let wanted = ["job.submitted", "job.queued", "job.running", last];
        assert_eq!(story(&world, &server, job_id), wanted);
        let output = world.cli(&server, &["audit", "query", "--job", job_id, "--limit", "500", "--json"]);
        assert_exit(&output, Exit::Done);
        let topics: Vec<Value> = lines(&output).iter().map(|line| line["topic"].clone()).collect();
        let shown = show(&world, &server, job_id);
        let steps = shown["timeline"]["steps"].as_array().unwrap().len();
        assert_eq!(topics.iter().filter(|topic| *topic == "job-lifecycle").count(), steps);
    }
    let measured = show(&world, &server, &ends[1])["metrics"]["attempts"][0].clone();
    assert!(measured["aggregates"]["cpu_usage_percent"]["count"].as_u64().unwrap() >= 2, "{measured}");
    assert!(measured["summary"].is_object(), "{measured}");
    assert_exit(&world.cli(&server, &["audit", "verify"]), Exit::Done);
    server.stop();
    assert_exit(&world.command(&["audit", "verify", "--data", "data"]).output().unwrap(), Exit::Done);
    checker::check(&world, &ledger);
}

#[test]
fn parked_key_discarded_through_the_command_line_lets_the_rest_flow() {
    let world = World::new();
    let server = world.serve();
    let mut ledger = Ledger::default();
    let (key, payload, headers) = external_event("external-1");
    let poison = world.cli(
        &server,
        &["events", "publish", "job-lifecycle", "--key", &key, "--value", "not an event", "--json"],
    );
    assert_exit(&poison, Exit::Done);
    let parked = |server: &Server| lines(&world.cli(server, &["parked", "list", "--json"]));
    let found =
        wait_some("both groups to park the key", || Some(parked(&server)).filter(|rows| rows.len() == 2));
    let partition = found[0]["partition"].as_u64().unwrap();
    let answer = server.client().append("job-lifecycle", Some(key.as_bytes()), &payload, headers).unwrap();
    assert_eq!(answer.status, 201, "{answer:?}");
    wait_for("the event to wait", || parked(&server).iter().all(|row| row["records"] == 2));
    assert_eq!(server.client().get("/jobs/external-1").status, 404);

    let wish = |verb: &str, group: &str| {
        let partition = partition.to_string();
        let lane = ["--group", group, "--topic", "job-lifecycle", "--partition", &partition];
        let arguments = [&["parked", verb][..], &lane, &["--key", &key, "--reason", "test"]].concat();
        assert_exit(&world.cli(&server, &arguments), Exit::Done);
    };
    check_metrics(&server.client().get("/metrics").text);
    wish("release", "jobs");
    wait_for("the head to be tried again", || {
        let letters = server.client().get("/dead-letters?group=jobs").json();
        letters["dead_letters"][0]["attempts"] == 2
    });
    assert_eq!(parked(&server).len(), 2);
    wish("discard", "jobs");
    wish("discard", "job-metrics");

    wait_for("the event behind it", || server.client().get("/jobs/external-1").status == 200);
    wait_for("nothing to be parked", || parked(&server).is_empty());
    settle(&world);
    server.stop();
    for (offset, payload, is_poison) in [(0, b"not an event".to_vec(), true), (1, payload, false)] {
        let (topic, key) = ("job-lifecycle", key.clone());
        ledger.appended.push(Appended { topic, partition, offset, key, payload, is_poison });
    }
    checker::check(&world, &ledger);
}
