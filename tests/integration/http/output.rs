//! What agents wrote, over HTTP: what is asked of the port, and each answer of it.

use horizons_actors::ids::{Attempt, AttemptId, JobId};
use horizons_actors::ports::output::{OutputCursor, OutputError, OutputQuery, OutputStream};
use serde_json::json;

use super::schemas::check_answer;
use super::world::{World, job_row};

fn attempt(number: u32) -> AttemptId {
    AttemptId { job_id: JobId::parse("job-1").unwrap(), attempt: Attempt(number) }
}

async fn world() -> World {
    let world = World::start().await;
    world.add_job(job_row("job-1", 0)).await;
    world
}

#[tokio::test]
async fn output_comes_in_parts_from_the_latest_attempt_or_the_named_one() {
    let world = world().await;

    let first = world.get("/jobs/job-1/output").await.json();
    let next = first["next"].as_str().unwrap();
    let path = format!("/jobs/job-1/output?stream=stderr&attempt=3&limit_bytes=7&cursor={next}");
    let second = world.get(&path).await;

    check_answer("GET", "/jobs/{job_id}/output", 200, &first);
    assert_eq!((&first["content_base64"], &first["attempt"]), (&json!("/wo="), &json!(1)));
    assert_eq!(second.status, 200);
    let wanted = [
        OutputQuery { attempt: attempt(1), stream: OutputStream::Stdout, cursor: None, limit_bytes: 65_536 },
        OutputQuery {
            attempt: attempt(3),
            stream: OutputStream::Stderr,
            cursor: Some(OutputCursor::Current(2)),
            limit_bytes: 7,
        },
    ];
    assert_eq!(*world.output.seen.lock().unwrap(), wanted);
}

#[tokio::test]
async fn output_that_cannot_be_given_says_why() {
    let world = world().await;
    let cases = [
        (OutputError::Missing(attempt(1)), 404, "output of attempt `job-1#1` does not exist"),
        (
            OutputError::Elsewhere { holder: Some("process 7 on node-2".to_owned()) },
            409,
            "output of attempt `job-1#1`: the files of jobs are with another process: `process 7 on node-2`",
        ),
        (
            OutputError::Unavailable("secret".to_owned()),
            503,
            "store or scheduler are away or have too much to do",
        ),
    ];

    for (error, status, detail) in cases {
        *world.output.error.lock().unwrap() = Some(error);

        let answer = world.get("/jobs/job-1/output").await;

        assert_eq!((answer.status, &answer.problem()["detail"]), (status, &json!(detail)));
    }
    assert_eq!(world.get("/jobs/job-2/output").await.status, 404);
}

#[tokio::test]
async fn output_wrong_parameters_are_named() {
    let world = world().await;

    for (query, field) in [
        ("stream=stdin", "stream"),
        ("attempt=0", "attempt"),
        ("attempt=-1", "attempt"),
        ("limit_bytes=0", "limit_bytes"),
        ("limit_bytes=1048577", "limit_bytes"),
        ("cursor=x", "cursor"),
        ("from=1", "from"),
    ] {
        let answer = world.get(&format!("/jobs/job-1/output?{query}")).await;

        assert_eq!((answer.status, &answer.problem()["field"]), (400, &json!(field)), "{query}");
    }
    assert!(world.output.seen.lock().unwrap().is_empty());
}
