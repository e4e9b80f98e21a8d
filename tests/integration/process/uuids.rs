//! A UUID in other letters: requests mean the one job, records are refused by name.

use horizons::exit::Exit;
use serde_json::Value;

use super::load::external_event;
use super::server::{World, wait_for, wait_some};

#[test]
fn job_id_in_upper_case_is_one_job_to_requests_and_none_to_records() {
    let world = World::new();
    let server = world.serve();
    let client = server.client();
    let job_id = client.submit("key", "quick", "d").unwrap().job_id();
    let upper = job_id.to_uppercase();
    let (_, payload, headers) = external_event(&job_id);
    let payload = String::from_utf8(payload).unwrap().replace(&job_id, &upper);

    let appended = client.append("job-lifecycle", Some(upper.as_bytes()), payload.as_bytes(), headers);

    assert_eq!(appended.unwrap().status, 201);
    for group in ["jobs", "job-metrics"] {
        let letter = wait_some("the dead letter", || {
            let letters = client.get(&format!("/dead-letters?group={group}")).json();
            letters["dead_letters"].get(0).cloned()
        });
        assert_eq!(letter["reason"], "uuid_form", "{letter}");
    }
    // The auditor keeps the record under the same name.
    wait_for("the audit entry", || {
        let page = client.get("/audit/entries?topic=job-lifecycle&limit=1000").json();
        page["entries"].as_array().unwrap().iter().any(|entry| entry["mark"] == "malformed:uuid_form")
    });
    let shown = client.get(&format!("/jobs/{upper}")).json();
    assert_eq!(
        (&shown["job"]["job_id"], &shown["job"]["origin"]),
        (&job_id.as_str().into(), &"owned".into())
    );
    let output = world.cli(&server, &["jobs", "show", &upper, "--json"]);
    assert_eq!(output.status.code(), Some(i32::from(Exit::Done.code())));
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed["job"]["job_id"], job_id.as_str());
    server.stop();
}
