//! Gaps in the log over HTTP: what operators see of them and decide about them.

use horizons_actors::command::CommandKind;
use horizons_actors::effect::Effects;
use horizons_actors::gap::{FoundGap, GapAcceptance, GapKind};
use horizons_actors::ids::{Group, LaneKey, Offset, Partition, Topic, TopicPartition};
use horizons_actors::ports::commands::CommandError;
use horizons_actors::ports::store::{GapAccepted, JobStore, LaneStore};
use horizons_actors::testkit::EventBuilder;
use horizons_actors::testkit::contract::sample;
use serde_json::{Value, json};

use super::schemas::check_answer;
use super::world::{World, at};

fn lane(partition: u16) -> LaneKey {
    let topic_partition = TopicPartition { topic: Topic::JobLifecycle, partition: Partition(partition) };
    LaneKey { group: Group::jobs(), topic_partition }
}

/// Lets a lane that applied one record find a gap behind it.
async fn find_gap(world: &World, lane: &LaneKey, kind: GapKind) {
    world.commit(lane, Effects::default()).await;
    let opened = world.store.open_lane(lane.clone(), sample::PROCESS).await.unwrap();
    let gap = FoundGap { kind, next: Offset(1), low: Offset(4), high: Offset(9), found_at: at(3) };
    assert!(world.store.note_gap(lane.clone(), opened.fence.epoch, Some(gap)).await.unwrap());
}

/// Gives the body that accepts such a gap of partition 3.
fn acceptance(kind: &str) -> Value {
    json!({
        "group": "jobs", "topic": "job-lifecycle", "partition": 3,
        "kind": kind, "next": 1, "low": 4, "reason": "retention was too short",
    })
}

#[tokio::test]
async fn gaps_none_is_an_empty_list() {
    let world = World::start().await;

    let answer = world.get("/gaps").await;

    assert_eq!((answer.status, answer.json()), (200, json!({"gaps": [], "next": null})));
}

#[tokio::test]
async fn gaps_open_ones_tell_what_accepting_does() {
    let world = World::start().await;
    find_gap(&world, &lane(3), GapKind::Trimmed).await;
    find_gap(&world, &lane(5), GapKind::Replaced).await;

    let listed = world.get("/gaps").await.json();
    let first = world.get("/gaps?limit=1").await.json();
    let cursor = first["next"].as_str().unwrap();
    let last = world.get(&format!("/gaps?limit=1&cursor={cursor}")).await.json();

    check_answer("GET", "/gaps", 200, &listed);
    let wanted = json!({
        "group": "jobs", "topic": "job-lifecycle", "partition": 3, "generation": 0, "state": "open",
        "kind": "trimmed", "next": 1, "low": 4, "high": 9, "found_at": at(3), "remedy": "skip",
        "records_skipped": 3, "records_to_read": 5, "decision": null,
    });
    assert_eq!(listed["gaps"][0], wanted);
    let second = &listed["gaps"][1];
    assert_eq!((&second["remedy"], &second["records_skipped"]), (&json!("read_anew"), &json!(0)));
    assert_eq!((&first["gaps"], &last["gaps"]), (&json!([wanted]), &json!([second])));
    assert_eq!(last["next"], Value::Null);
    let refused = world.get("/gaps?cursor=x").await.refusal();
    assert_eq!(refused, "400 cursor: wanted `next` of an earlier page of gaps");
}

#[tokio::test]
async fn gaps_acceptance_reaches_the_receiver_and_is_listed_as_decided() {
    let world = World::start().await;
    find_gap(&world, &lane(3), GapKind::Trimmed).await;

    let accepted = world.post("/gaps/accept", &acceptance("trimmed")).await;

    assert_eq!(accepted.status, 202);
    check_answer("POST", "/gaps/accept", 202, &accepted.json());
    let command = world.last_command();
    let seen = GapAcceptance { lane: lane(3), kind: GapKind::Trimmed, next: Offset(1), low: Offset(4) };
    assert_eq!(command.kind, CommandKind::AcceptGap(seen.clone()));
    assert_eq!(command.reason.as_deref(), Some("retention was too short"));
    assert_eq!(accepted.json()["command_id"], json!(command.command_id));
    assert_eq!(accepted.json()["resumes_at"], json!(4));

    let audit = EventBuilder::audit_action_recorded().record();
    let stored = world.store.accept_gap(command.clone(), seen, audit).await.unwrap();
    assert!(matches!(stored, GapAccepted::Accepted { .. }), "{stored:?}");
    let listed = world.get("/gaps").await.json();

    check_answer("GET", "/gaps", 200, &listed);
    let gap = &listed["gaps"][0];
    assert_eq!(
        (&gap["state"], &gap["decision"]["reason"]),
        (&json!("accepted"), &json!("retention was too short"))
    );
    assert_eq!(gap["decision"]["command_id"], json!(command.command_id));
}

#[tokio::test]
async fn gaps_acceptance_of_another_gap_is_refused() {
    let world = World::start().await;
    let cases = [
        (
            CommandError::NotFound { what: "open gap of `jobs/job-lifecycle-3`".to_owned() },
            "404 -: open gap of `jobs/job-lifecycle-3` does not exist",
        ),
        (
            CommandError::Moved { what: "gap".to_owned(), reason: "it begins at 7 now".to_owned() },
            "409 -: gap has changed: it begins at 7 now",
        ),
    ];

    for (error, wanted) in cases {
        world.script(|script| script.error = Some(error));

        assert_eq!(world.post("/gaps/accept", &acceptance("trimmed")).await.refusal(), wanted);
    }
}

#[tokio::test]
async fn gaps_wrong_acceptances_are_named() {
    let world = World::start().await;
    let kinds = "wanted `trimmed`, `beyond_end`, `replaced` or `corrupt`";
    let cases: [(&str, Value, String); 6] = [
        ("kind", json!("lost"), format!("422 kind: {kinds}")),
        ("partition", json!(10), "422 partition: wanted 0..=9 of `job-lifecycle`, got 10".to_owned()),
        ("next", json!("1"), "422 next: wanted a whole number from 0 on, got `\"1\"`".to_owned()),
        ("low", json!(null), "422 low: wanted a whole number from 0 on, got nothing".to_owned()),
        ("reason", json!(null), "422 reason: wanted a text, got nothing".to_owned()),
        ("reason", json!(7), "422 reason: wanted a text, got `7`".to_owned()),
    ];

    for (field, value, wanted) in cases {
        let mut body = acceptance("trimmed");
        body[field] = value;

        assert_eq!(world.post("/gaps/accept", &body).await.refusal(), wanted);
    }
    let mut unknown = acceptance("trimmed");
    unknown["high"] = json!(9);
    assert!(world.post("/gaps/accept", &unknown).await.refusal().starts_with("422 high: "));
    assert_eq!(world.command_count(), 0);
}
