//! The program as a person starts it: arguments, output, exit codes, and what client commands send.

mod job_ids;
mod lanes;
mod publish;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use horizons::exit::Exit;
use serde_json::{Value, json};

mod parameters;

/// No request of these tests takes longer.
const REQUEST_LIMIT: Duration = Duration::from_secs(20);

/// Prepares the program in an empty folder, without any variable of ours.
fn horizons(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_horizons"));
    command.args(arguments).current_dir(std::env::temp_dir()).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HORIZONS_")) {
        command.env_remove(name);
    }
    command
}

fn run(arguments: &[&str]) -> Output {
    horizons(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn assert_exit(output: &Output, exit: Exit) {
    let code = output.status.code();
    assert_eq!(code, Some(i32::from(exit.code())), "{}{}", text(&output.stdout), text(&output.stderr));
}

/// A request as it came over the wire.
#[derive(Debug)]
struct Received {
    line: String,
    headers: Vec<(String, String)>,
    body: Value,
    /// The body as it came.
    text: String,
}

impl Received {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

/// A server that gives prepared answers, one connection each, and tells what it was asked.
struct ScriptedServer {
    url: String,
    requests: Receiver<Received>,
}

impl ScriptedServer {
    fn new(answers: &[(u16, &str, Value)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answers: Vec<(u16, String, Value)> = answers
            .iter()
            .map(|(status, header, body)| (*status, (*header).to_owned(), body.clone()))
            .collect();
        let (sender, requests) = channel();
        std::thread::spawn(move || {
            for (status, header, body) in answers {
                let (stream, _) = listener.accept().unwrap();
                let received = receive(&stream);
                respond(&stream, status, &header, &body);
                sender.send(received).unwrap();
            }
        });
        Self { url, requests }
    }

    fn ok(body: Value) -> Self {
        Self::new(&[(200, "", body)])
    }

    fn run(&self, arguments: &[&str]) -> Output {
        horizons(arguments).env("HORIZONS_URL", &self.url).output().unwrap()
    }

    fn request(&self) -> Received {
        self.requests.recv_timeout(REQUEST_LIMIT).unwrap()
    }
}

fn receive(stream: &TcpStream) -> Received {
    stream.set_read_timeout(Some(REQUEST_LIMIT)).unwrap();
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let headers: Vec<(String, String)> = lines
        .iter()
        .skip(1)
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let mut body = vec![0; length.map_or(0, |(_, length)| length.parse().unwrap())];
    reader.read_exact(&mut body).unwrap();
    let text = String::from_utf8(body).unwrap();
    let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() };
    Received { line: lines[0].clone(), headers, body, text }
}

fn respond(mut stream: &TcpStream, status: u16, header: &str, body: &Value) {
    let body = body.to_string();
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{header}connection: close\r\n\r\n{body}"
    )
    .unwrap();
}

#[test]
fn help_of_every_command_shows_an_example() {
    let commands = [
        "serve",
        "demo",
        "bench",
        "jobs submit",
        "jobs list",
        "jobs show",
        "jobs logs",
        "jobs cancel",
        "events publish",
        "audit query",
        "audit verify",
        "actors tree",
        "parked list",
        "parked release",
        "parked discard",
        "dead-letters list",
        "gaps list",
        "lanes list",
        "config check",
        "config show",
        "config reference",
    ];
    for command in commands {
        let arguments: Vec<&str> = command.split(' ').chain(["--help"]).collect();

        let output = run(&arguments);

        assert_exit(&output, Exit::Done);
        assert!(text(&output.stdout).contains(&format!("  horizons {command}")), "{command}");
    }
}

#[test]
fn help_of_the_program_lists_every_exit_code_and_hides_the_shim() {
    let output = run(&["--help"]);

    let help = text(&output.stdout);
    for exit in Exit::ALL {
        assert!(help.contains(&format!("{:>3}  {}", exit.code(), exit.meaning())), "{exit:?}");
    }
    assert!(!help.contains("run-agent"), "{help}");
}

#[test]
fn arguments_wrong_end_as_usage() {
    for arguments in [
        &["nonsense"][..],
        &[],
        &["jobs", "list", "--limit", "0"],
        &["jobs", "list", "--limit", "-1"],
        &["jobs", "submit", "calibrate", "d", "--parameter", "no-equals"],
        &["audit", "query", "--topic", "nope"],
        &["jobs", "list", "--url", "https://127.0.0.1:1"],
        &["parked", "release", "--group", "jobs", "--topic", "t", "--partition", "0", "--reason", "r"],
    ] {
        let output = run(arguments);

        assert_exit(&output, Exit::Usage);
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn config_check_wrong_file_names_every_problem() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    std::fs::write(&path, "[http]\nlisten = \"0.0.0.0:1\"\nslots = 3\n").unwrap();

    let output = horizons(&["config", "check"]).env("HORIZONS_CONFIG", &path).output().unwrap();

    assert_exit(&output, Exit::Config);
    let message = text(&output.stderr);
    assert!(message.contains("`http.listen`") && message.contains("`http.slots`"), "{message}");
    assert!(output.stdout.is_empty());
}

#[test]
fn config_show_json_tells_the_origin_of_every_key() {
    let output = horizons(&["config", "show", "--json"]).env("HORIZONS_LOG_LEVEL", "debug").output().unwrap();

    assert_exit(&output, Exit::Done);
    let rows: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(rows.contains(
        &json!({"key": "log.level", "value": "debug", "origin": "environment HORIZONS_LOG_LEVEL"})
    ));
    assert!(rows.contains(&json!({"key": "scheduler.slots", "value": 2, "origin": "default"})));
    assert_eq!(rows.len(), horizons::config::KEYS.len());
}

#[test]
fn config_file_in_working_folder_is_found() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.toml"), "[scheduler]\nslots = 0\n").unwrap();

    let output = horizons(&["config", "check"]).current_dir(folder.path()).output().unwrap();

    assert_exit(&output, Exit::Config);
    assert!(text(&output.stderr).contains("(config.toml:2)"), "{}", text(&output.stderr));
}

#[test]
fn client_no_server_ends_as_unreachable() {
    // A port that was free a moment ago and that nobody listens on.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();

    let output = run(&["jobs", "list", "--url", &format!("http://{address}")]);

    assert_exit(&output, Exit::Unreachable);
    assert!(text(&output.stderr).contains("is `horizons serve` running?"));
}

#[test]
fn client_asks_where_the_configuration_says_that_the_server_is() {
    let folder = tempfile::tempdir().unwrap();
    let server = ScriptedServer::new(&[(200, "", json!([])), (200, "", json!([])), (200, "", json!([]))]);
    let address = server.url.strip_prefix("http://").unwrap();
    // A mistake elsewhere does not hide where the server is.
    let file = format!("[http]\nlisten = \"{address}\"\n[scheduler]\nslots = 0\n");
    std::fs::write(folder.path().join("config.toml"), &file).unwrap();
    std::fs::write(folder.path().join("other.toml"), &file).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.toml");

    let by_folder = horizons(&["jobs", "list"]).current_dir(folder.path()).output().unwrap();
    let by_option = run(&["jobs", "list", "--config", path.to_str().unwrap()]);
    let by_variable = horizons(&["jobs", "list"])
        .current_dir(elsewhere.path())
        .env("HORIZONS_HTTP_LISTEN", address)
        .output()
        .unwrap();

    for output in [by_folder, by_option, by_variable] {
        assert_exit(&output, Exit::Done);
    }
}

#[test]
fn client_configuration_without_an_address_is_an_error_that_names_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.toml"), "[http]\nlisten = 7\n").unwrap();

    let output = horizons(&["jobs", "list"]).current_dir(folder.path()).output().unwrap();

    assert_exit(&output, Exit::Config);
    let said = text(&output.stderr);
    assert!(said.contains("`http.listen` (config.toml:2)") && said.contains("`--url`"), "{said}");
}

#[test]
fn config_check_names_agents_whose_program_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let agents = "[agents.gone]\nprogram = \"/no/such\"\n[agents.there]\nprogram = \"/bin/sh\"\n";
    let check = |text: &str| {
        std::fs::write(folder.path().join("config.toml"), text).unwrap();
        horizons(&["config", "check"]).current_dir(folder.path()).output().unwrap()
    };

    let here = check(agents);
    let elsewhere = check(&format!("[scheduler]\nkind = \"none\"\n{agents}"));

    assert_exit(&here, Exit::Config);
    let said = text(&here.stderr);
    assert!(
        said.contains("`agents.gone.program` (config.toml:2): wanted a program, got `/no/such`"),
        "{said}"
    );
    assert!(!said.contains("agents.there"), "{said}");
    // Its programs are on the machine that runs them.
    assert_exit(&elsewhere, Exit::Done);
}

#[test]
fn client_foreign_server_ends_as_failed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let other = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = receive(&stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>").unwrap();
    });

    let output = run(&["jobs", "list", "--url", &url]);

    other.join().unwrap();
    assert_exit(&output, Exit::Failed);
}

#[test]
fn jobs_submit_sends_every_field() {
    let server = ScriptedServer::new(&[(
        201,
        "",
        json!({"job": {"job_id": "j-1", "status": "QUEUED", "attempt": 1}}),
    )]);

    let output = server.run(&[
        "jobs",
        "submit",
        "image",
        "-ngc",
        "--parameter",
        "width=256",
        "--parameter",
        "name=m 31",
        "--idempotency-key",
        "night-7",
        "--user",
        "ada",
        "--json",
    ]);

    assert_exit(&output, Exit::Done);
    let request = server.request();
    assert_eq!(request.line, "POST /jobs HTTP/1.1");
    assert_eq!(request.header("x-horizons-user"), Some("ada"));
    assert_eq!(request.header("idempotency-key"), Some("night-7"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("host").map(|host| format!("http://{host}")), Some(server.url.clone()));
    let wanted = json!({
        "agent": "image", "dataset_id": "-ngc", "tacc_system": "local",
        "parameters": {"width": "256", "name": "m 31"},
    });
    assert_eq!(request.body, wanted);
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed["job_id"], "j-1");
}

#[test]
fn jobs_submit_waiting_for_failed_job_ends_as_failed() {
    let server = ScriptedServer::new(&[
        (201, "", json!({"job_id": "j/1", "status": "QUEUED"})),
        (200, "", json!({"job_id": "j/1", "status": "FAILED", "will_retry": true})),
        (200, "", json!({"job_id": "j/1", "status": "FAILED", "will_retry": false})),
    ]);

    let output = server.run(&["jobs", "submit", "fail", "d", "--wait"]);

    assert_exit(&output, Exit::Failed);
    assert_eq!(server.request().line, "POST /jobs HTTP/1.1");
    assert_eq!(server.request().line, "GET /jobs/j%2F1 HTTP/1.1");
    assert_eq!(server.request().line, "GET /jobs/j%2F1 HTTP/1.1");
}

#[test]
fn client_refused_prints_field_and_reason() {
    let problem = json!({
        "type": "about:blank", "title": "unknown agent", "status": 422,
        "detail": "wanted a declared agent, got `x`", "field": "agent",
    });
    let server = ScriptedServer::new(&[(422, "content-type: application/problem+json\r\n", problem)]);

    let output = server.run(&["jobs", "submit", "x", "d"]);

    assert_exit(&output, Exit::Refused);
    assert_eq!(text(&output.stderr), "error: `agent`: wanted a declared agent, got `x` (422)\n");
    assert!(output.stdout.is_empty());
}

#[test]
fn client_overloaded_server_tells_when_to_try_again() {
    let server = ScriptedServer::new(&[(503, "retry-after: 3\r\n", json!({"title": "too much to do"}))]);

    let output = server.run(&["jobs", "list"]);

    assert_exit(&output, Exit::Refused);
    assert_eq!(text(&output.stderr), "error: too much to do (503); try again in 3 s\n");
}

#[test]
fn ready_prints_every_probe_and_ends_with_1_when_one_has_failed() {
    let answer = |is_ready: bool, state: &str| {
        let probe =
            json!({"name": "store", "state": state, "detail": "words", "since": "2026-11-28T10:00:00Z"});
        json!({"is_ready": is_ready, "state": state, "probes": [probe]})
    };
    let kind = "content-type: application/json\r\n";
    let server = ScriptedServer::new(&[
        (200, kind, answer(true, "degraded")),
        (503, kind, answer(false, "failed")),
        (503, "retry-after: 3\r\n", json!({"title": "too much to do"})),
    ]);

    let [degraded, failed, refused] = std::array::from_fn(|_| server.run(&["ready"]));

    assert_exit(&degraded, Exit::Done);
    let wanted = "PROBE  STATE     SINCE                 DETAIL\n\
                  store  degraded  2026-11-28T10:00:00Z  words\n";
    assert_eq!(text(&degraded.stdout), wanted);
    assert_exit(&failed, Exit::Failed);
    assert!(text(&failed.stdout).contains("store  failed"), "{}", text(&failed.stdout));
    assert_exit(&refused, Exit::Refused);
}

#[test]
fn jobs_list_prints_a_table_and_the_next_page() {
    let rows = json!([{"job_id": "j-1", "origin": "owned", "status": "RUNNING", "attempt": 1, "agent": "image", "user_id": "ada"}]);
    let server = ScriptedServer::ok(json!({"jobs": rows, "next": "c-2"}));

    let output = server
        .run(&["jobs", "list", "--of", "a&b", "--status", "RUNNING", "--limit", "1", "--cursor", "c-1"]);

    assert_exit(&output, Exit::Done);
    assert_eq!(server.request().line, "GET /jobs?user=a%26b&status=RUNNING&limit=1&cursor=c-1 HTTP/1.1");
    let wanted = "JOB  ORIGIN  STATUS   ATTEMPT  AGENT  USER  SUBMITTED\n\
                  j-1  owned   RUNNING  1        image  ada   -\n";
    assert_eq!((text(&output.stdout), text(&output.stderr)), (wanted, "more: --cursor c-2\n"));
}

#[test]
fn lists_json_prints_rows_alone() {
    for arguments in [
        &["jobs", "list", "--json"][..],
        &["dead-letters", "list", "--json"],
        &["audit", "query", "--json"],
        &["parked", "list", "--json"],
        &["gaps", "list", "--json"],
        &["relay", "list", "--json"],
    ] {
        let server = ScriptedServer::ok(json!({"rows": [{"a": 1}, {"a": 2}], "next": "c-2"}));

        let output = server.run(arguments);

        assert_eq!(text(&output.stdout), "{\"a\":1}\n{\"a\":2}\n", "{arguments:?}");
        assert_eq!(text(&output.stderr), "more: --cursor c-2\n", "{arguments:?}");
    }
}

#[test]
fn jobs_show_asks_for_job_timeline_and_metrics() {
    let server = ScriptedServer::new(&[
        (200, "", json!({"job_id": "j-1", "status": "RUNNING"})),
        (
            200,
            "",
            json!({"steps": [{"event_type": "job.queued", "sequence": 2}], "refusals": [], "next": null}),
        ),
        (200, "", json!({"attempts": [{"attempt": 1, "aggregates": {"cpu_usage_percent": {"count": 7}}}]})),
    ]);

    let output = server.run(&["jobs", "show", "j-1"]);

    assert_exit(&output, Exit::Done);
    let lines: Vec<String> = (0..3).map(|_| server.request().line).collect();
    let wanted =
        ["GET /jobs/j-1 HTTP/1.1", "GET /jobs/j-1/timeline HTTP/1.1", "GET /jobs/j-1/metrics HTTP/1.1"];
    assert_eq!(lines, wanted);
    let printed = text(&output.stdout);
    assert!(printed.contains("status  RUNNING") && printed.contains("2         job.queued"), "{printed}");
    assert!(printed.contains("\nmetrics\n") && printed.contains("1        7"), "{printed}");
    assert!(!printed.contains("refused"), "{printed}");
}

#[test]
fn commands_that_act_send_what_they_are_told() {
    let key = [
        "--group",
        "jobs",
        "--topic",
        "job-lifecycle",
        "--partition",
        "3",
        "--key",
        "j-1",
        "--reason",
        "fixed",
    ];
    let parked = json!({
        "group": "jobs", "topic": "job-lifecycle", "partition": 3, "key_base64": "ai0x", "reason": "fixed",
    });
    let record = json!({"records": [{"key_base64": "aw==", "value_base64": "bm90IGFuIGV2ZW50", "headers": {"a": "b=c"}}]});
    let publish =
        ["events", "publish", "job-lifecycle", "--key", "k", "--value", "not an event", "--header", "a=b=c"];
    let cases: [(Vec<&str>, &str, Value); 4] = [
        ([&["parked", "release"], &key[..]].concat(), "POST /parked/release HTTP/1.1", parked.clone()),
        ([&["parked", "discard"], &key[..]].concat(), "POST /parked/discard HTTP/1.1", parked),
        (publish.to_vec(), "POST /topics/job-lifecycle/records HTTP/1.1", record),
        (
            vec!["jobs", "cancel", "j-1", "--reason", "wrong"],
            "POST /jobs/j-1/cancel HTTP/1.1",
            json!({"reason": "wrong"}),
        ),
    ];
    for (arguments, line, body) in cases {
        let server = ScriptedServer::ok(json!({}));

        let output = server.run(&arguments);

        assert_exit(&output, Exit::Done);
        let request = server.request();
        assert_eq!((request.line.as_str(), request.body), (line, body));
    }
}

#[test]
fn commands_that_read_ask_for_what_they_are_told() {
    let cases = [
        (&["dead-letters", "list", "--group", "jobs"][..], "GET /dead-letters?group=jobs&limit=50 HTTP/1.1"),
        (&["parked", "list"], "GET /parked?limit=50 HTTP/1.1"),
        (&["actors", "tree"], "GET /actors HTTP/1.1"),
        (
            &["audit", "query", "--topic", "job-metrics", "--partition", "2", "--job", "j-1"],
            "GET /audit/entries?topic=job-metrics&partition=2&job=j-1&limit=50 HTTP/1.1",
        ),
    ];
    for (arguments, line) in cases {
        let server = ScriptedServer::ok(json!({"rows": [], "next": null}));

        let output = server.run(arguments);

        assert_exit(&output, Exit::Done);
        assert_eq!(server.request().line, line);
    }
}

#[test]
fn gaps_list_prints_what_accepting_each_does() {
    let gap = |state: &str, kind: &str, remedy: &str, skipped: u64| {
        json!({
            "group": "jobs", "topic": "job-lifecycle", "partition": 3, "generation": 0, "state": state,
            "kind": kind, "next": 41, "low": 90, "high": 120, "found_at": "2026-01-02T03:04:05.000000Z",
            "remedy": remedy, "records_skipped": skipped, "records_to_read": 30, "decision": null,
        })
    };
    let gaps = [gap("open", "trimmed", "skip", 49), gap("accepted", "replaced", "read_anew", 0)];
    let page = json!({"gaps": gaps, "next": null});

    let [people, machines] = [&["gaps", "list"][..], &["gaps", "list", "--json"]].map(|arguments| {
        let server = ScriptedServer::ok(page.clone());
        let output = server.run(arguments);
        assert_exit(&output, Exit::Done);
        assert_eq!(server.request().line, "GET /gaps?limit=50 HTTP/1.1");
        text(&output.stdout).to_owned()
    });

    let rows: Vec<Vec<&str>> = people.lines().map(|line| line.split_whitespace().collect()).collect();
    let found = "2026-01-02T03:04:05.000000Z";
    let wanted = [
        ["GROUP", "TOPIC", "PARTITION", "STATE", "KIND", "NEXT", "LOW", "REMEDY", "SKIPPED", "FOUND"],
        ["jobs", "job-lifecycle", "3", "open", "trimmed", "41", "90", "skip", "49", found],
        ["jobs", "job-lifecycle", "3", "accepted", "replaced", "41", "90", "read_anew", "0", found],
    ];
    assert_eq!(rows, wanted);
    let objects: Vec<Value> = machines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects, gaps);
}

#[test]
fn gaps_accept_sends_the_gap_as_it_was_shown() {
    let accept = ["gaps", "accept", "--group", "jobs", "--topic", "job-lifecycle", "--partition", "3"];
    let shown = ["--kind", "trimmed", "--next", "41", "--low", "90", "--reason", "retention was too short"];
    let answer =
        json!({"command_id": "2f0e7f3e-6f0f-4b39-8a55-000000000001", "generation": 0, "resumes_at": 90});
    let server = ScriptedServer::new(&[(202, "", answer)]);

    let output = server.run(&[&accept[..], &shown].concat());

    assert_exit(&output, Exit::Done);
    let request = server.request();
    let body = json!({
        "group": "jobs", "topic": "job-lifecycle", "partition": 3, "kind": "trimmed", "next": 41, "low": 90,
        "reason": "retention was too short",
    });
    assert_eq!((request.line.as_str(), request.body), ("POST /gaps/accept HTTP/1.1", body));
    assert_eq!(text(&output.stdout), "gap accepted: jobs/job-lifecycle-3 goes on at 90\n");
}

#[test]
fn gaps_accept_without_what_was_shown_asks_nobody() {
    let output = run(&["gaps", "accept", "--group", "jobs", "--topic", "job-lifecycle", "--partition", "3"]);

    assert_exit(&output, Exit::Usage);
    for missing in ["--kind", "--next", "--low", "--reason"] {
        assert!(text(&output.stderr).contains(missing), "{missing}: {}", text(&output.stderr));
    }
}

#[test]
fn actors_tree_prints_groups_and_lanes() {
    let lane = json!({"topic": "job-lifecycle", "partition": 0, "state": "running", "next_offset": 7, "log_end_offset": 9, "log_high_offset": 12, "transaction_open_seconds": 1.5, "lag_records": 2, "lag_seconds": 4.25, "events_per_second": 12.5, "processing_p99_ms": null});
    let group = json!({
        "group": "jobs", "state": "running", "restarts": 1, "rebalances": 2, "last_error": null,
        "events_per_second": 12.5, "error_rate": 0.25, "waiting_rate": 0.5, "processing_p50_ms": 1.5, "processing_p95_ms": 2.0,
        "processing_p99_ms": 3.25, "lanes": [lane],
    });
    let server = ScriptedServer::ok(json!({"job_supervisors": 3, "groups": [group]}));

    let output = server.run(&["actors", "tree"]);

    let printed = text(&output.stdout);
    let head = "job supervisors: 3\n\njobs: running, 1 restarts, 2 rebalances\n  \
                last minute: 12.500 events/s, error rate 0.250, waiting 0.500, processing P50 1.500 P95 2.000 P99 3.250 ms\nTOPIC";
    assert!(printed.starts_with(head), "{printed}");
    let row =
        "job-lifecycle  0          running  7     9    12    1.500   2    4.250  12.500    -       -       -";
    assert!(printed.contains(row), "{printed}");
}

#[test]
fn output_text_from_elsewhere_cannot_steer_the_terminal() {
    let server = ScriptedServer::ok(json!({"jobs": [{"job_id": "\u{1b}[2Jgone", "status": "RUNNING"}]}));

    let output = server.run(&["jobs", "list"]);

    assert!(!output.stdout.contains(&0x1b), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("\\u{1b}[2Jgone"));
}
