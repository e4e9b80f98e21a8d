//! Job ids that are shortened to what tells a job apart.

use horizons::exit::Exit;
use serde_json::{Value, json};

use super::{ScriptedServer, assert_exit, text};

const WHOLE: &str = "0f9a1111-0000-4000-8000-0000000000aa";
const LOOK: &str = "GET /jobs?id_beginning=0f9a&limit=11 HTTP/1.1";

fn not_found() -> (u16, &'static str, Value) {
    (404, "", json!({"title": "not found", "detail": "there is no job `0f9a`"}))
}

/// The page of jobs with these ids.
fn found(ids: &[&str]) -> (u16, &'static str, Value) {
    let jobs = ids.iter().map(|id| {
        json!({"job_id": id, "status": "RUNNING", "submitted_at": "2026-11-28T10:00:00Z", "origin": "owned"})
    });
    (200, "", json!({"jobs": jobs.collect::<Vec<_>>(), "next": null}))
}

fn lines(server: &ScriptedServer, count: usize) -> Vec<String> {
    (0..count).map(|_| server.request().line).collect()
}

#[test]
fn jobs_cancel_by_a_beginning_cancels_the_one_job_and_names_it_whole() {
    let server = ScriptedServer::new(&[not_found(), found(&[WHOLE]), (202, "", json!({}))]);

    let output = server.run(&["jobs", "cancel", "0f9a", "--reason", "wrong"]);

    assert_exit(&output, Exit::Done);
    assert_eq!(text(&output.stdout), format!("cancel asked for: {WHOLE}\n"));
    let last = format!("POST /jobs/{WHOLE}/cancel HTTP/1.1");
    assert_eq!(lines(&server, 2), ["POST /jobs/0f9a/cancel HTTP/1.1", LOOK]);
    let request = server.request();
    assert_eq!((request.line, request.body), (last, json!({"reason": "wrong"})));
}

#[test]
fn jobs_show_by_a_beginning_looks_once() {
    let server = ScriptedServer::new(&[
        not_found(),
        found(&[WHOLE]),
        (200, "", json!({"job": {"job_id": WHOLE}})),
        (200, "", json!({"steps": [], "refusals": [], "next": null})),
        (200, "", json!({"attempts": []})),
    ]);

    let output = server.run(&["jobs", "show", "0f9a"]);

    assert_exit(&output, Exit::Done);
    let job = format!("GET /jobs/{WHOLE}");
    let asked = ["GET /jobs/0f9a HTTP/1.1", LOOK].map(str::to_owned).into_iter();
    let asked = asked.chain(["", "/timeline", "/metrics"].map(|path| format!("{job}{path} HTTP/1.1")));
    assert_eq!(lines(&server, 5), asked.collect::<Vec<_>>());
}

#[test]
fn jobs_logs_by_a_beginning_prints_the_one_jobs_output() {
    let part =
        json!({"attempt": 1, "content_base64": "aGkK", "next": "c", "has_more": false, "was_cut": false});
    let server = ScriptedServer::new(&[not_found(), found(&[WHOLE]), (200, "", part)]);

    let output = server.run(&["jobs", "logs", "0f9a"]);

    assert_exit(&output, Exit::Done);
    assert_eq!(text(&output.stdout), "hi\n");
    let asked = lines(&server, 3);
    assert!(asked[2].starts_with(&format!("GET /jobs/{WHOLE}/output?stream=stdout")), "{asked:?}");
}

#[test]
fn job_id_that_begins_several_is_an_error_that_lists_ten_of_them() {
    let ids: Vec<String> = (0..11).map(|number| format!("0f9a-{number:02}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    for (count, more) in [(2, ""), (10, ""), (11, "  and more\n")] {
        let server = ScriptedServer::new(&[not_found(), found(&ids[..count])]);

        let output = server.run(&["jobs", "cancel", "0f9a"]);

        assert_exit(&output, Exit::Usage);
        let rows: String = ids[..count.min(10)]
            .iter()
            .map(|id| format!("  {id}  RUNNING    submitted 2026-11-28T10:00:00Z\n"))
            .collect();
        let wanted =
            format!("error: job `0f9a`: wanted more of its id, as several jobs' ids begin so:\n{rows}{more}");
        assert_eq!((text(&output.stdout), text(&output.stderr)), ("", wanted.as_str()));
    }
}

#[test]
fn job_id_that_is_whole_is_not_taken_for_the_beginning_of_another() {
    // It has no output yet.
    let server = ScriptedServer::new(&[not_found(), found(&["0f9a", "0f9a-2"])]);

    let output = server.run(&["jobs", "logs", "0f9a"]);

    assert_exit(&output, Exit::Refused);
    assert_eq!(text(&output.stderr), "error: there is no job `0f9a` (404)\n");
}

#[test]
fn job_id_that_begins_none_is_not_found_by_name() {
    let server = ScriptedServer::new(&[not_found(), found(&[])]);

    let output = server.run(&["jobs", "show", "0f9a"]);

    assert_exit(&output, Exit::Refused);
    assert_eq!(text(&output.stderr), "error: there is no job `0f9a` (404)\n");
}

#[test]
fn job_id_that_is_whole_or_too_short_is_asked_for_once() {
    for (asked, told) in [
        (WHOLE, ""),
        ("0F9A1111-0000-4000-8000-0000000000AA", ""),
        ("0f9", "a job id may be shortened to 4 characters, not further\n"),
    ] {
        let server = ScriptedServer::new(&[not_found()]);

        let output = server.run(&["jobs", "show", asked]);

        assert_exit(&output, Exit::Refused);
        let wanted = format!("{told}error: there is no job `0f9a` (404)\n");
        assert_eq!(text(&output.stderr), wanted, "{asked}");
    }
}

#[test]
fn jobs_list_by_a_beginning_asks_for_it() {
    let server = ScriptedServer::new(&[found(&[WHOLE])]);

    let output = server.run(&["jobs", "list", "--id", "0f9a", "--status", "RUNNING"]);

    assert_exit(&output, Exit::Done);
    assert_eq!(server.request().line, "GET /jobs?status=RUNNING&id_beginning=0f9a&limit=50 HTTP/1.1");
}
