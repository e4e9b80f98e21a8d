//! Parameters of a job on the command line: text to the letter, or JSON as it is written.

use horizons::exit::Exit;
use serde_json::json;

use super::{ScriptedServer, assert_exit, run, text};

#[test]
fn jobs_submit_sends_parameters_to_the_letter() {
    let server = ScriptedServer::ok(json!({"job_id": "j-1", "status": "QUEUED"}));

    let output = server.run(&[
        "jobs",
        "submit",
        "image",
        "d",
        "--parameter",
        "text=20200219123456789012",
        "--parameter",
        "equals=a=b",
        "--parameter-json",
        "number=1.10",
        "--parameter-json",
        "list=[1e5, 20200219123456789012]",
    ]);

    assert_exit(&output, Exit::Done);
    let wanted = r#""parameters":{"equals":"a=b","list":[1e5, 20200219123456789012],"number":1.10,"text":"20200219123456789012"}"#;
    let sent = server.request().text;
    assert!(sent.contains(wanted), "{sent}");
}

#[test]
fn jobs_submit_parameter_given_twice_or_no_json_is_refused() {
    let twice = run(&["jobs", "submit", "a", "d", "--parameter", "x=1", "--parameter-json", "x=1"]);
    let no_json = run(&["jobs", "submit", "a", "d", "--parameter-json", "x=1."]);

    assert_exit(&twice, Exit::Usage);
    assert!(text(&twice.stderr).contains("parameter `x`: wanted once, got twice"), "{twice:?}");
    assert_exit(&no_json, Exit::Usage);
    assert!(text(&no_json.stderr).contains("wanted JSON"), "{no_json:?}");
}
