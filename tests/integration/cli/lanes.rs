//! Lanes that are paused: which there are, and letting them go on.

use horizons::exit::Exit;
use serde_json::{Value, json};

use super::{ScriptedServer, assert_exit, run, text};

/// The page of paused lanes of `job-lifecycle` in `jobs`.
fn paused(partitions: &[u64]) -> (u16, &'static str, Value) {
    let lanes = partitions.iter().map(|partition| {
        json!({"group": "jobs", "topic": "job-lifecycle", "partition": partition, "generation": 0, "reason": "5 of 100"})
    });
    (200, "", json!({"lanes": lanes.collect::<Vec<_>>()}))
}

fn taken() -> (u16, &'static str, Value) {
    (202, "", json!({"command_id": "2f0e7f3e-6f0f-4b39-8a55-000000000001"}))
}

const ALL: [&str; 8] =
    ["lanes", "resume", "--group", "jobs", "--topic", "job-lifecycle", "--reason", "producer is fixed"];

#[test]
fn lanes_resume_names_the_lane_and_says_why() {
    let answer = json!({"command_id": "2f0e7f3e-6f0f-4b39-8a55-000000000001"});
    let server = ScriptedServer::new(&[(202, "", answer)]);
    let lane = ["lanes", "resume", "--group", "jobs", "--topic", "job-lifecycle", "--partition", "3"];

    let output = server.run(&[&lane[..], &["--reason", "producer is fixed"]].concat());

    assert_exit(&output, Exit::Done);
    let request = server.request();
    let body =
        json!({"group": "jobs", "topic": "job-lifecycle", "partition": 3, "reason": "producer is fixed"});
    assert_eq!((request.line.as_str(), request.body), ("POST /lanes/resume HTTP/1.1", body));
    assert_eq!(text(&output.stdout), "lane goes on: jobs/job-lifecycle-3\n");
    assert_exit(&run(&lane), Exit::Usage);
}

#[test]
fn lanes_resume_without_partition_resumes_all_that_are_paused_anywhere() {
    let moved = (409, "", json!({"title": "not possible", "detail": "lane: it is not paused"}));
    let server = ScriptedServer::new(&[paused(&[2, 3, 4]), taken(), moved, taken()]);

    let output = server.run(&ALL);

    assert_exit(&output, Exit::Done);
    let resumed = "lane goes on: jobs/job-lifecycle-2\nlane goes on: jobs/job-lifecycle-4\n";
    assert_eq!(text(&output.stdout), resumed);
    assert_eq!(server.request().line, "GET /lanes/paused?group=jobs&topic=job-lifecycle HTTP/1.1");
    let asked: Vec<Value> = (0..3).map(|_| server.request().body["partition"].clone()).collect();
    assert_eq!(asked, [2, 3, 4]);
}

#[test]
fn lanes_resume_without_partition_tells_that_none_is_paused() {
    let server = ScriptedServer::new(&[paused(&[])]);

    let output = server.run(&ALL);

    assert_exit(&output, Exit::Done);
    assert_eq!(text(&output.stdout), "no lane is paused\n");
}

#[test]
fn lanes_list_prints_what_is_paused_and_why() {
    let server = ScriptedServer::new(&[paused(&[2])]);

    let output = server.run(&["lanes", "list", "--group", "jobs"]);

    assert_exit(&output, Exit::Done);
    assert_eq!(server.request().line, "GET /lanes/paused?group=jobs HTTP/1.1");
    let wanted = "GROUP  TOPIC          PARTITION  REASON\njobs   job-lifecycle  2          5 of 100\n";
    assert_eq!(text(&output.stdout), wanted);
}
