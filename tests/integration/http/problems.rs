//! Every kind of refusal and failure, as its whole problem document.

use std::time::Duration;

use horizons::http::HttpLimits;
use horizons_actors::event::JobStatus;
use horizons_actors::ids::JobId;
use horizons_actors::ports::commands::CommandError;
use horizons_actors::testkit::{Fault, StoreCall};
use serde_json::{Value, json};

use super::world::{JSON, World};

fn problem(status: u16, name: &str, title: &str, detail: &str, more: Value) -> Value {
    let mut problem = json!({
        "type": format!("urn:horizons:problem:{name}"), "title": title, "status": status, "detail": detail,
    });
    for (member, value) in more.as_object().unwrap() {
        problem[member] = value.clone();
    }
    problem
}

#[tokio::test]
async fn command_errors_each_have_their_problem() {
    let world = World::start().await;
    let busy = CommandError::Busy { retry_after: Duration::from_millis(1500), reason: "secret".to_owned() };
    let unknown = CommandError::Unknown {
        find_out: "look for job `j-8`".to_owned(),
        job_id: Some(JobId::parse("j-8").unwrap()),
        reason: "secret".to_owned(),
    };
    let disk = CommandError::DiskLimit { used_bytes: 9, limit_bytes: 8 };
    let invalid = CommandError::Invalid { field: "agent".to_owned(), reason: "wanted x".to_owned() };
    let conflict =
        CommandError::Conflict { state: JobStatus::Completed, reason: "wanted one that runs".to_owned() };
    let reused = CommandError::KeyReused { job_id: JobId::parse("j-9").unwrap() };
    let missing = CommandError::NotFound { what: "job `j`".to_owned() };
    let none = json!({});
    let cases = [
        (
            busy,
            problem(
                503,
                "busy",
                "try again later",
                "store or scheduler are away or have too much to do",
                none.clone(),
            ),
            Some("2"),
        ),
        (
            unknown,
            problem(
                503,
                "outcome-unknown",
                "whether it was done is not known",
                "whether it was stored is not known: look for job `j-8`",
                json!({"job_id": "j-8"}),
            ),
            None,
        ),
        (
            disk,
            problem(
                503,
                "disk-limit",
                "disk limit reached",
                "disk limit reached: 9 of 8 bytes are used",
                none.clone(),
            ),
            Some("1"),
        ),
        (
            CommandError::DiskFull { available_bytes: 7 },
            problem(
                503,
                "disk-full",
                "disk full",
                "disk full: 7 bytes are left for new work; come back when there is room",
                none.clone(),
            ),
            Some("1"),
        ),
        (
            CommandError::FolderGone,
            problem(
                503,
                "data-folder-gone",
                "the data folder is gone",
                "the server's data folder was removed, moved or replaced: nothing was stored, and the server ends",
                none.clone(),
            ),
            None,
        ),
        (
            invalid,
            problem(422, "invalid-field", "invalid field", "wanted x", json!({"field": "agent"})),
            None,
        ),
        (
            conflict,
            problem(
                409,
                "conflict",
                "state does not allow it",
                "job is COMPLETED: wanted one that runs",
                json!({"state": "COMPLETED"}),
            ),
            None,
        ),
        (
            reused,
            problem(
                409,
                "idempotency-key-reused",
                "idempotency key was used before",
                "the key was used for another request, which became job `j-9`",
                json!({"field": "Idempotency-Key", "job_id": "j-9"}),
            ),
            None,
        ),
        (missing, problem(404, "not-found", "not found", "job `j` does not exist", none.clone()), None),
        (
            CommandError::Broken("secret".to_owned()),
            problem(
                500,
                "broken",
                "failed inside",
                "failed inside; the log names the cause under the request id",
                none,
            ),
            None,
        ),
    ];

    for (error, wanted, retry_after) in cases {
        world.script(|script| script.error = Some(error));
        let answer = world.post("/jobs/j/cancel", &json!({})).await;

        assert_eq!(answer.header("retry-after"), retry_after);
        assert_eq!(answer.problem(), wanted);
    }
}

#[tokio::test]
async fn handler_that_panics_answers_and_keeps_the_connection() {
    let world = World::start().await;
    world.script(|script| script.panics = true);
    let mut connection = world.connect().await;

    connection
        .write(b"POST /jobs/j/cancel HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
        .await;
    let panicked = connection.read(true).await;
    connection.write(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let after = connection.read(true).await;

    assert_eq!((panicked.status, after.status), (500, 200));
    assert_eq!(panicked.problem()["type"], "urn:horizons:problem:broken");
}

#[tokio::test]
async fn handler_that_hangs_is_answered_for() {
    let limits = HttpLimits { answer_timeout: Duration::from_millis(50), ..HttpLimits::default() };
    let world = World::with_limits(limits).await;
    world.script(|script| script.hangs = true);

    let answer = world.post("/jobs/j/cancel", &json!({})).await;

    let wanted = "503 -: no answer within 0.05 s; it may still be carried out: look before you repeat it";
    assert_eq!((answer.refusal().as_str(), answer.header("retry-after")), (wanted, None));
}

#[tokio::test]
async fn paths_and_methods_unknown_ones_are_refused() {
    let world = World::start().await;

    let unknown = world.get("/nowhere").await;
    let deeper = world.get("/jobs/j/timeline/x").await;
    let method = world.send("DELETE", "/jobs", "", "").await;
    let posted = world.send("POST", "/actors", JSON, "{}").await;

    let wanted = problem(404, "no-such-path", "no such path", "no such path", json!({}));
    assert_eq!((unknown.problem(), deeper.problem()), (wanted.clone(), wanted));
    let detail = "wanted POST, GET, HEAD, got `DELETE`";
    let wanted = problem(405, "method-not-allowed", "method not allowed", detail, json!({}));
    assert_eq!((method.problem(), method.header("allow")), (wanted, Some("POST, GET, HEAD")));
    assert_eq!((posted.status, posted.header("allow")), (405, Some("GET, HEAD")));
}

#[tokio::test]
async fn head_is_get_without_body() {
    let world = World::start().await;

    let get = world.get("/live").await;
    let head = world.send("HEAD", "/live", "", "").await;
    let missing = world.send("HEAD", "/nowhere", "", "").await;

    assert_eq!((head.status, head.header("content-length")), (200, get.header("content-length")));
    assert_eq!(missing.status, 404);
}

#[tokio::test]
async fn body_malformed_json_is_placed() {
    let world = World::start().await;

    let answer = world.send("POST", "/jobs", JSON, "{\n \"agent\": }").await;

    let detail = "failed to read the body as JSON: expected value at line 2 column 11";
    assert_eq!(answer.problem(), problem(400, "malformed-body", "malformed body", detail, json!({})));
}

#[tokio::test]
async fn body_content_type_other_than_json_is_refused() {
    let world = World::start().await;
    let accepted =
        ["application/json", "Application/JSON; charset=UTF-8", "application/json;charset=\"utf-8\""];
    let refused =
        ["text/plain", "application/json; charset=latin1", "application/x-www-form-urlencoded", "json"];

    for value in accepted {
        let header = format!("Content-Type: {value}\r\n");
        assert_eq!(world.send("POST", "/jobs/j/cancel", &header, "{}").await.status, 202, "{value}");
    }
    for value in refused {
        let header = format!("Content-Type: {value}\r\n");
        let answer = world.send("POST", "/jobs/j/cancel", &header, "{}").await;
        assert_eq!(
            answer.problem(),
            problem(
                415,
                "wrong-content-type",
                "wrong content type",
                &format!("wanted `application/json`, got `{value}`"),
                json!({"field": "Content-Type"}),
            )
        );
    }
    let none = world.send("POST", "/jobs/j/cancel", "", "{}").await;
    assert_eq!(none.refusal(), "415 Content-Type: wanted `application/json`, got none, or several");
}

#[tokio::test]
async fn content_encoding_other_than_none_is_refused_by_name() {
    let world = World::start().await;

    for value in ["gzip", "br", "identity, deflate"] {
        let headers = format!("{JSON}Content-Encoding: {value}\r\n");
        let answer = world.send("POST", "/jobs/j/cancel", &headers, "{}").await;
        let got = value.rsplit(", ").next().unwrap();
        let wanted = format!("415 Content-Encoding: wanted no encoding (`identity`), got `{got}`");
        assert_eq!((answer.refusal(), answer.header("accept-encoding")), (wanted, Some("identity")));
    }
    let headers = format!("{JSON}Content-Encoding: identity\r\n");
    assert_eq!(world.send("POST", "/jobs/j/cancel", &headers, "{}").await.status, 202);
}

#[tokio::test]
async fn transfer_coding_other_than_chunked_is_refused_by_name() {
    let world = World::start().await;
    let ask = async |coding: &str| {
        let mut connection = world.connect().await;
        let head = "POST /jobs/j/cancel HTTP/1.1\r\nHost: localhost\r\n";
        let request = format!("{head}{JSON}Transfer-Encoding: {coding}\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n");
        connection.write(request.as_bytes()).await;
        connection.read(true).await
    };

    let wanted = "501 Transfer-Encoding: wanted no transfer coding but `chunked`, got `gzip`";
    assert_eq!(ask("gzip, chunked").await.refusal(), wanted);
    assert_eq!(ask("chunked").await.status, 202);
}

#[tokio::test]
async fn numbers_whole_floats_are_whole_numbers() {
    let world = World::start().await;
    let body = |partition: Value| json!({"group": "jobs", "topic": "job-lifecycle", "partition": partition, "reason": "mended"});

    let whole = world.post("/lanes/resume", &body(json!(3.0))).await;
    let broken = world.post("/lanes/resume", &body(json!(3.5))).await;

    assert_eq!(whole.status, 202);
    assert_eq!(broken.refusal(), "422 partition: wanted a partition's number, got `3.5`");
}

#[tokio::test]
async fn body_too_large_is_refused_with_the_limit() {
    let limits = HttpLimits { body_bytes: 64, ..HttpLimits::default() };
    let world = World::with_limits(limits).await;
    let filled = |length: usize| format!("{{{}}}", " ".repeat(length - 2));

    let fits = world.send("POST", "/jobs/j/cancel", JSON, &filled(64)).await;
    let declared = world.send("POST", "/jobs/j/cancel", JSON, &filled(65)).await;
    let large = world.send("POST", "/jobs/j/cancel", JSON, &filled(3 << 20)).await;
    let mut connection = world.connect().await;
    let chunked = "POST /jobs/j/cancel HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n41\r\n";
    connection.write(format!("{chunked}{}\r\n0\r\n\r\n", filled(65)).as_bytes()).await;
    let chunked = connection.read(true).await;
    let expecting = format!("{JSON}Expect: 100-continue\r\nContent-Length: 65\r\n");
    let expecting = world.send("POST", "/jobs/j/cancel", &expecting, "").await;
    let of_get = world.send("GET", "/live", "", "x").await;

    assert_eq!(fits.status, 202);
    let wanted = problem(413, "body-too-large", "body too large", "wanted at most 64 bytes", json!({}));
    for answer in [declared, large, chunked, expecting] {
        assert_eq!(answer.problem(), wanted);
    }
    assert_eq!(of_get.refusal(), "413 -: wanted at most 0 bytes");
    assert_eq!(world.command_count(), 1);
}

#[tokio::test]
async fn body_that_does_not_arrive_is_refused() {
    let limits = HttpLimits { body_read_timeout: Duration::from_millis(50), ..HttpLimits::default() };
    let world = World::with_limits(limits).await;

    let header = format!("{JSON}Content-Length: 10\r\n");
    let answer = world.send("POST", "/jobs", &header, "").await;

    assert_eq!(answer.refusal(), "408 -: the body did not arrive within 0.05 s");
}

#[tokio::test]
async fn host_other_than_this_machine_is_forbidden() {
    let world = World::start().await;
    let ask = async |head: &str| {
        let mut connection = world.connect().await;
        connection.write(format!("{head}\r\n\r\n").as_bytes()).await;
        connection.read(true).await
    };

    for host in ["localhost:1", "127.0.0.1", "[::1]:8650"] {
        assert_eq!(ask(&format!("GET /live HTTP/1.1\r\nHost: {host}")).await.status, 200, "{host}");
    }
    let evil = ask("GET /live HTTP/1.1\r\nHost: evil.example:80").await;
    let absolute = ask("GET http://evil.example/live HTTP/1.1\r\nHost: localhost").await;
    let none = ask("GET /live HTTP/1.1").await;
    let twice = ask("GET /live HTTP/1.1\r\nHost: localhost\r\nHost: evil.example").await;

    let detail = "wanted `localhost` or a loopback address, got `evil.example:80`";
    assert_eq!(evil.problem(), problem(403, "forbidden", "forbidden", detail, json!({"field": "Host"})));
    assert_eq!(absolute.status, 403);
    assert_eq!(none.refusal(), "400 Host: wanted once, got none");
    assert_eq!(twice.status, 400);
}

#[tokio::test]
async fn origin_of_another_page_is_forbidden() {
    let world = World::start().await;
    let body = json!({}).to_string();

    let own =
        world.send("POST", "/jobs/j/cancel", &format!("{JSON}Origin: http://localhost\r\n"), &body).await;
    let other =
        world.send("POST", "/jobs/j/cancel", &format!("{JSON}Origin: http://evil.example\r\n"), &body).await;

    assert_eq!((own.status, world.command_count()), (202, 1));
    let detail = "wanted the origin of this server, or none, got `http://evil.example`";
    assert_eq!(other.problem(), problem(403, "forbidden", "forbidden", detail, json!({"field": "Origin"})));
}

#[tokio::test]
async fn headers_not_as_wanted_are_named() {
    let world = World::start().await;

    let correlation = world.send("GET", "/live", "X-Correlation-Id: 7\r\n", "").await;
    let user = world.send("GET", "/live", "X-Horizons-User: \r\n", "").await;

    assert_eq!(correlation.refusal(), "400 X-Correlation-Id: wanted a UUID in its hyphenated form, got `7`");
    assert_eq!(user.refusal(), "400 X-Horizons-User: wanted 1..=255 characters, got none");
}

#[tokio::test]
async fn store_away_sends_readers_away() {
    let world = World::start().await;
    world.store.faults().away();

    let away = world.get("/jobs").await;
    world.store.faults().back();
    world.store.faults().script(StoreCall::Query, Fault::Broken("secret".to_owned()));
    let broken = world.get("/jobs").await;

    assert_eq!((away.status, away.header("retry-after")), (503, Some("1")));
    assert_eq!(broken.status, 500);
    assert!(!broken.text().contains("secret"));
}
