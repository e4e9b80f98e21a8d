//! Bad input through HTTP and the command line: the error names the field, and nothing is stored.

use horizons::exit::Exit;
use serde_json::json;

use super::crash::settle;
use super::load::Load;
use super::look::Look;
use super::server::{Server, World, wait_for};

/// Method, target and body of a request, and the status and field of its refusal.
type Case<'a> = (&'a str, &'a str, Option<Vec<u8>>, u16, Option<&'a str>);

/// Counts the rows of every table that a request can reach.
fn rows(world: &World) -> Vec<(String, i64)> {
    let mut look = Look::into(&world.data());
    let names = look.rows("'name', name", "sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'");
    names
        .into_iter()
        .map(|row| {
            let name = row["name"].as_str().unwrap().to_owned();
            let count = look.count(&name);
            (name, count)
        })
        .collect()
}

/// Starts a server with one completed job, whose id is given too.
fn served(world: &World) -> (Server, String) {
    let server = world.serve();
    let load = Load::default();
    load.submit_new(server.client(), "quick");
    let job_id = load.ledger.lock().unwrap().submits["key-000000"].job_id.clone().unwrap();
    let path = format!("/jobs/{job_id}");
    wait_for("the job's end", || server.client().get(&path).json()["job"]["status"] == "COMPLETED");
    settle(world);
    (server, job_id)
}

#[test]
fn http_bad_input_is_named_and_stores_nothing() {
    let world = World::new();
    let (server, done) = served(&world);
    let client = server.client();
    let before = rows(&world);
    let job = |body: serde_json::Value| Some(body.to_string().into_bytes());
    let cancel = format!("/jobs/{done}/cancel");
    let oversized = format!(
        "{{\"agent\":\"quick\",\"dataset_id\":\"d\",\"parameters\":{{\"x\":\"{}\"}}}}",
        "x".repeat(2 << 20)
    );
    let cases: [Case<'_>; 26] = [
        ("POST", "/jobs", job(json!({"agent": "nope", "dataset_id": "d"})), 422, Some("agent")),
        ("POST", "/jobs", job(json!({"agent": "quick"})), 422, Some("dataset_id")),
        ("POST", "/jobs", job(json!({"agent": "quick", "dataset_id": ""})), 422, Some("dataset_id")),
        ("POST", "/jobs", job(json!({"agent": "quick", "dataset_id": 3})), 422, Some("dataset_id")),
        ("POST", "/jobs", job(json!({"agent": "quick", "dataset_id": "-rf"})), 422, Some("dataset_id")),
        ("POST", "/jobs", job(json!({"agent": "quick", "dataset_id": "d", "more": 1})), 422, Some("more")),
        (
            "POST",
            "/jobs",
            job(json!({"agent": "quick", "dataset_id": "d", "parameters": []})),
            422,
            Some("parameters"),
        ),
        (
            "POST",
            "/jobs",
            job(json!({"agent": "quick", "dataset_id": "d", "tacc_system": "moon"})),
            422,
            Some("tacc_system"),
        ),
        ("POST", "/jobs", Some(b"{\"agent\":\"quick\",\"agent\":\"slow\"}".to_vec()), 422, Some("agent")),
        ("POST", "/jobs", Some(b"{\"agent\": ".to_vec()), 400, None),
        ("POST", "/jobs", Some(b"[1]".to_vec()), 422, Some("body")),
        ("POST", "/jobs", Some(oversized.into_bytes()), 413, None),
        ("POST", cancel.as_str(), job(json!({})), 409, None),
        ("POST", "/jobs/nobody/cancel", job(json!({})), 404, None),
        ("GET", "/jobs/nobody", None, 404, None),
        ("GET", "/jobs/%00", None, 404, None),
        ("GET", "/jobs?limit=-1", None, 400, Some("limit")),
        ("GET", "/jobs?limit=0", None, 400, Some("limit")),
        ("GET", "/jobs?limit=1000000", None, 400, Some("limit")),
        ("GET", "/jobs?cursor=junk", None, 400, Some("cursor")),
        ("GET", "/jobs?status=LOST", None, 400, Some("status")),
        ("GET", "/jobs?page=2", None, 400, Some("page")),
        ("GET", "/audit/entries?partition=3", None, 400, Some("partition")),
        ("POST", "/topics/nowhere/records", job(json!({"records": [{}]})), 404, None),
        (
            "POST",
            "/topics/job-lifecycle/records",
            job(json!({"records": [{"key_base64": "?"}]})),
            422,
            Some("records[0].key_base64"),
        ),
        (
            "POST",
            "/parked/release",
            job(
                json!({"group": "jobs", "topic": "job-lifecycle", "partition": 99, "key_base64": "aw==", "reason": "r"}),
            ),
            422,
            Some("partition"),
        ),
    ];
    for (method, target, body, status, field) in cases {
        let answer = client.send(method, target, &[], body.as_deref()).unwrap();

        let problem = answer.json();
        let got = (answer.status, problem["field"].as_str());
        assert_eq!(got, (status, field), "{method} {target}: {problem}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{problem}");
        assert_eq!(rows(&world), before, "{method} {target}");
    }
    for (headers, field) in [
        (("origin", "http://elsewhere.example"), "Origin"),
        (("x-horizons-user", ""), "X-Horizons-User"),
        (("x-correlation-id", "none"), "X-Correlation-Id"),
    ] {
        let body = json!({"agent": "quick", "dataset_id": "d"}).to_string();
        let answer = client.send("POST", "/jobs", &[headers], Some(body.as_bytes())).unwrap();
        assert!(matches!(answer.status, 400 | 403), "{answer:?}");
        assert_eq!(answer.json()["field"], field);
    }
    let reused = client.submit("key-000000", "slow", "data-1").unwrap();
    assert_eq!(
        (reused.status, reused.json()["field"].as_str()),
        (409, Some("Idempotency-Key")),
        "{reused:?}"
    );
    assert_eq!(rows(&world), before);
    assert!(world.noted().iter().all(|(_, job_id, _)| *job_id == done));
    server.stop();
}

#[test]
fn command_line_bad_input_is_named_and_stores_nothing() {
    let world = World::new();
    let (server, done) = served(&world);
    let before = rows(&world);

    for (arguments, exit, named) in [
        (&["jobs", "submit", "nope", "d"][..], Exit::Refused, "`agent`"),
        (&["jobs", "submit", "quick", "-rf"], Exit::Refused, "`dataset_id`"),
        (&["jobs", "submit", "quick", "d", "--tacc-system", "moon"], Exit::Refused, "`tacc_system`"),
        (&["jobs", "submit", "quick", "d", "--parameter", "nothing"], Exit::Usage, "NAME=VALUE"),
        (&["jobs", "list", "--limit", "-1"], Exit::Usage, "-1"),
        (&["jobs", "list", "--cursor", "junk"], Exit::Refused, "`cursor`"),
        (&["jobs", "cancel", &done], Exit::Refused, "COMPLETED"),
        (&["jobs", "cancel", "nobody"], Exit::Refused, "nobody"),
        (&["jobs", "show", "nobody"], Exit::Refused, "nobody"),
        (&["events", "publish", "nowhere", "--value", "x"], Exit::Refused, "nowhere"),
    ] {
        let output = world.cli(&server, arguments);

        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(i32::from(exit.code())), "{arguments:?}: {said}");
        assert!(said.contains(named), "{arguments:?}: {said}");
        assert_eq!(rows(&world), before, "{arguments:?}");
    }
    server.stop();
}
