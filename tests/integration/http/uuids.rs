//! UUIDs in requests: any letter case names the one job, other forms are refused clearly.

use horizons_actors::command::CommandKind;
use horizons_actors::ids::JobId;
use horizons_actors::ports::commands::CommandError;
use serde_json::json;

use super::world::{World, job_row};

const LOWER: &str = "0193a1c0-0000-7000-8000-0000000000ab";
const UPPER: &str = "0193A1C0-0000-7000-8000-0000000000AB";

#[tokio::test]
async fn job_asked_for_in_upper_case_is_the_one_job() {
    let world = World::start().await;
    world.add_job(job_row(LOWER, 0)).await;

    for path in ["", "/timeline", "/metrics"] {
        assert_eq!(world.get(&format!("/jobs/{UPPER}{path}")).await.status, 200, "{path}");
    }
    let shown = world.get(&format!("/jobs/{UPPER}")).await.json();
    let cancelled = world.post(&format!("/jobs/{UPPER}/cancel"), &json!({})).await;
    let audit = world.get(&format!("/audit/entries?job={UPPER}")).await;

    assert_eq!(shown["job"]["job_id"], LOWER);
    assert_eq!(cancelled.status, 202);
    let job_id = JobId::parse(LOWER).unwrap();
    assert_eq!(world.last_command().kind, CommandKind::CancelJob { job_id });
    assert_eq!(audit.status, 200);
}

#[tokio::test]
async fn job_id_that_is_no_uuid_stays_as_it_is() {
    let world = World::start().await;
    let digits = UPPER.replace('-', "");
    for id in ["NGC-1300", &digits] {
        world.add_job(job_row(id, 0)).await;

        assert_eq!(world.get(&format!("/jobs/{id}")).await.json()["job"]["job_id"], id);
        let other_case = world.get(&format!("/jobs/{}", id.to_ascii_lowercase())).await;
        assert_eq!(other_case.status, 404, "{id}");
    }
}

#[tokio::test]
async fn uuid_in_braces_or_as_a_urn_is_refused_by_name() {
    let world = World::start().await;
    world.add_job(job_row(LOWER, 0)).await;
    let wanted = "wanted the UUID alone, without braces or `urn:uuid:`";

    for wrapped in [format!("%7B{LOWER}%7D"), format!("urn:uuid:{LOWER}"), format!("URN:UUID:{UPPER}")] {
        let job = world.get(&format!("/jobs/{wrapped}")).await.refusal();
        let audit = world.get(&format!("/audit/entries?job={wrapped}")).await.refusal();

        assert!(job.starts_with(&format!("400 job_id: {wanted}")), "{job}");
        assert!(audit.starts_with(&format!("400 job: {wanted}")), "{audit}");
    }
    let correlation = format!("X-Correlation-Id: {{{LOWER}}}\r\n");
    let refused = world.send("GET", "/jobs", &correlation, "").await.refusal();
    assert!(refused.starts_with(&format!("400 X-Correlation-Id: {wanted}")), "{refused}");
}

#[tokio::test]
async fn correlation_id_in_upper_case_is_answered_in_lower_case() {
    let world = World::start().await;

    let answer = world.send("GET", "/jobs", &format!("X-Correlation-Id: {UPPER}\r\n"), "").await;

    assert_eq!((answer.status, answer.header("x-correlation-id")), (200, Some(LOWER)));
}

#[tokio::test]
async fn parked_key_in_upper_case_is_first_the_key_as_given_then_the_one_job() {
    let world = World::start().await;
    let body = |key: &str| {
        use base64::Engine as _;
        let key = base64::engine::general_purpose::STANDARD.encode(key);
        json!({"group": "jobs", "topic": "job-lifecycle", "partition": 3, "key_base64": key, "reason": "r"})
    };
    let key_of = |kind: CommandKind| match kind {
        CommandKind::ReleaseKey(key) => String::from_utf8(key.key.to_vec()).unwrap(),
        other => unreachable!("{other:?}"),
    };

    assert_eq!(world.post("/parked/release", &body(UPPER)).await.status, 202);
    let as_given = (world.command_count(), key_of(world.last_command().kind));
    let what = "parked key".to_owned();
    world.script(|script| script.error = Some(CommandError::NotFound { what }));
    assert_eq!(world.post("/parked/release", &body(UPPER)).await.status, 404);
    let both = (world.command_count(), key_of(world.last_command().kind));
    assert_eq!(world.post("/parked/release", &body("J-1")).await.status, 404);
    let opaque = (world.command_count(), key_of(world.last_command().kind));

    assert_eq!(as_given, (1, UPPER.to_owned()));
    assert_eq!(both, (3, LOWER.to_owned()));
    assert_eq!(opaque, (4, "J-1".to_owned()));
}
