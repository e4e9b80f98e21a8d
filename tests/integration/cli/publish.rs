//! Publishing a file of records: in parts, in order, and with the line of what goes wrong.

use std::net::TcpListener;
use std::process::Output;

use horizons::exit::Exit;
use serde_json::json;

use super::{ScriptedServer, assert_exit, receive, run, text};

/// Publishes a file against prepared answers.
fn publish_file(server: &ScriptedServer, records: &[u8]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.jsonl");
    std::fs::write(&path, records).unwrap();
    server.run(&["events", "publish", "job-metrics", "--records", path.to_str().unwrap()])
}

/// Records that each name their line.
fn numbered(lines: std::ops::RangeInclusive<usize>) -> String {
    lines.map(|line| format!("{{\"value_base64\":null,\"n\":{line}}}\n")).collect()
}

#[test]
fn events_publish_bad_line_names_it_and_sends_nothing() {
    let server = ScriptedServer::new(&[]);

    let output = publish_file(&server, b"{\"value_base64\": \"\"}\n\n{broken\n");

    assert_exit(&output, Exit::Usage);
    assert!(text(&output.stderr).contains("`--records` line 3"), "{}", text(&output.stderr));
}

#[test]
fn events_publish_large_file_goes_in_parts_and_in_order() {
    let server = ScriptedServer::new(&[(201, "", json!({})), (201, "", json!({})), (201, "", json!({}))]);

    let output = publish_file(&server, format!("\u{feff}{}", numbered(1..=1_001)).as_bytes());

    assert_exit(&output, Exit::Done);
    assert_eq!(text(&output.stdout), "appended 1001 records to job-metrics\n");
    let sent: Vec<u64> = (0..3)
        .flat_map(|_| server.request().body["records"].as_array().unwrap().clone())
        .map(|record| record["n"].as_u64().unwrap())
        .collect();
    assert_eq!(sent, (1..=1_001).collect::<Vec<u64>>());
}

#[test]
fn events_publish_part_too_large_for_the_server_is_cut() {
    let too_large = (413, "", json!({"title": "too large"}));
    let server = ScriptedServer::new(&[too_large, (201, "", json!({})), (201, "", json!({}))]);

    let output = publish_file(&server, numbered(1..=3).as_bytes());

    assert_exit(&output, Exit::Done);
    let sizes: Vec<usize> =
        (0..3).map(|_| server.request().body["records"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [3, 2, 1]);
}

#[test]
fn events_publish_refused_record_names_its_line_and_what_was_appended() {
    let refusal = json!({"title": "wrong", "detail": "wanted base64", "field": "records[2].value_base64"});
    let server = ScriptedServer::new(&[(201, "", json!({})), (422, "", refusal)]);

    let output = publish_file(&server, format!("\n{}", numbered(1..=600)).as_bytes());

    assert_exit(&output, Exit::Refused);
    let said = text(&output.stderr);
    assert!(said.contains("appended 500 records to job-metrics; then: `--records` line 504: "), "{said}");
}

#[test]
fn events_publish_without_an_answer_says_which_lines_are_unknown() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let _ = receive(&stream);
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.jsonl");
    std::fs::write(&path, numbered(1..=2)).unwrap();

    let output =
        run(&["events", "publish", "job-metrics", "--url", &url, "--records", path.to_str().unwrap()]);

    server.join().unwrap();
    assert_exit(&output, Exit::Unreachable);
    let said = text(&output.stderr);
    assert!(said.contains("`--records` lines 1 to 2: ") && said.contains("may be appended or not"), "{said}");
}
