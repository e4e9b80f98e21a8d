//! Records of other producers, and operators' wishes about parked keys.

use bytes::Bytes;
use horizons_actors::clock::Clock;
use horizons_actors::command::{Command, CommandKind, ParkedKeyId};
use horizons_actors::effect::{DeadLetter, DeadLetterOutcome, DeadLetterSettlement, Effects, ParkedKey};
use horizons_actors::event::{RECORD_MAX_BYTES, partition_for};
use horizons_actors::ids::{EventId, Group, LaneKey, LogTopic, Offset, Partition, Topic, TopicPartition};
use horizons_actors::ports::store::{DesiredState, LaneStore, LaneTransaction, ParkedWish};
use horizons_actors::record::Headers;
use horizons_actors::rejection::Rejection;
use horizons_actors::testkit::contract::sample::{PROCESS, log_record};
use uuid::Uuid;

use super::super::{APPEND_RECORDS_MAX, ExternalRecord, OrchestratorConfig, OrchestratorError};
use super::{House, command};

fn append_command(topic: Topic) -> Command {
    command(CommandKind::AppendRecord { topic, record_id: EventId(Uuid::from_u128(9)) })
}

fn external(key: Option<&'static [u8]>, payload: &'static [u8]) -> ExternalRecord {
    ExternalRecord {
        key: key.map(Bytes::from_static),
        headers: Headers::new([(b"x".as_slice(), None), (b"y".as_slice(), Some(b"\xff".as_slice()))]),
        payload: Some(Bytes::from_static(payload)),
    }
}

#[tokio::test(start_paused = true)]
async fn append_record_is_stored_byte_for_byte_with_its_act() {
    let house = House::idle();
    let record = external(Some(b"job-\xfe"), b"\x00not json");

    let appended =
        house.orchestrator.append_records(append_command(Topic::JobLifecycle), vec![record.clone()]).await;

    let at = appended.unwrap()[0].clone();
    let expected = partition_for(Topic::JobLifecycle, record.key.as_deref(), EventId(Uuid::nil()));
    assert_eq!((at.topic, at.partition), (LogTopic::Record(Topic::JobLifecycle), expected));
    let stored = house.store.records(at.topic, at.partition);
    assert_eq!(stored.len(), 1);
    assert_eq!((&stored[0].key, &stored[0].headers), (&record.key, &record.headers));
    assert_eq!(stored[0].payload, record.payload);
    assert_eq!(house.actions(), ["record.append"]);
}

#[tokio::test(start_paused = true)]
async fn append_record_without_key_goes_by_its_event_id() {
    let house = House::idle();
    let event_id = EventId(Uuid::from_u128(77));
    let text = event_id.to_string();
    let record = ExternalRecord {
        key: None,
        headers: Headers::new([(b"event-id".as_slice(), Some(text.as_bytes()))]),
        payload: None,
    };

    let appended =
        house.orchestrator.append_records(append_command(Topic::Notifications), vec![record]).await.unwrap();

    assert_eq!(appended[0].partition, partition_for(Topic::Notifications, None, event_id));
}

#[tokio::test(start_paused = true)]
async fn append_records_out_of_bounds_store_nothing() {
    let house = House::idle();
    let small = external(Some(b"k"), b"v");
    let large = ExternalRecord { payload: Some(vec![0; RECORD_MAX_BYTES].into()), ..small.clone() };
    let cases = [
        (vec![], "records"),
        (vec![small.clone(); APPEND_RECORDS_MAX + 1], "records"),
        (vec![small, large], "records[1]"),
    ];

    for (records, wanted) in cases {
        let error = house
            .orchestrator
            .append_records(append_command(Topic::JobLifecycle), records)
            .await
            .unwrap_err();

        let OrchestratorError::Invalid { field, .. } = error else { panic!("{error}") };
        assert_eq!(field, wanted);
    }
    assert!(house.actions().is_empty());
}

#[tokio::test(start_paused = true)]
async fn append_record_at_disk_limit_is_refused() {
    let house = House::idle();
    house.store.set_disk_limit(0);

    let records = vec![external(Some(b"k"), b"v")];
    let error =
        house.orchestrator.append_records(append_command(Topic::JobLifecycle), records).await.unwrap_err();

    assert!(matches!(error, OrchestratorError::DiskLimit { .. }), "{error}");
}

/// Parks a key in a lane, as the lane does.
async fn park(house: &House, key: &'static [u8]) -> ParkedKeyId {
    park_tried(house, key, 1).await
}

/// Parks a key whose head was tried so often.
async fn park_tried(house: &House, key: &'static [u8], attempts: u32) -> ParkedKeyId {
    let topic_partition = TopicPartition { topic: Topic::JobLifecycle, partition: Partition(3) };
    let lane = LaneKey { group: Group::jobs(), topic_partition };
    let opened = house.store.open_lane(lane.clone(), PROCESS).await.unwrap();
    let parked = ParkedKey {
        key: Bytes::from_static(key),
        head: Offset(0),
        rejection: Rejection::PayloadMissing,
        parked_at: house.clock.now(),
    };
    let letter = DeadLetter {
        record: log_record(0, Some("job-1"), "poison"),
        rejection: Rejection::PayloadMissing,
        is_parked: true,
        rejected_at: house.clock.now(),
    };
    let again = DeadLetterSettlement {
        offset: Offset(0),
        outcome: DeadLetterOutcome::RejectedAgain(Rejection::PayloadMissing),
        settled_at: house.clock.now(),
    };
    let transaction = LaneTransaction {
        lane: lane.clone(),
        fence: opened.fence,
        from: opened.next,
        next: Offset(1),
        last_fingerprint: None,
        now: house.clock.now(),
        effects: Effects {
            dead_letters: vec![letter],
            dead_letters_settled: (1..attempts).map(|_again| again.clone()).collect(),
            keys_parked: vec![parked],
            ..Effects::default()
        },
    };
    house.store.commit(transaction).await.unwrap();
    ParkedKeyId { lane, key: Bytes::from_static(key) }
}

#[tokio::test(start_paused = true)]
async fn parked_wish_is_stored_with_its_act() {
    let house = House::idle();
    let key = park(&house, b"job-1").await;
    let cases = [
        (CommandKind::ReleaseKey(key.clone()), ParkedWish::Release),
        (CommandKind::DiscardHead(key.clone()), ParkedWish::DiscardHead),
    ];

    for (kind, wish) in cases {
        house.orchestrator.set_parked_wish(command(kind)).await.unwrap();

        let orders = house.store.read_orders(key.lane.clone()).await.unwrap();
        assert_eq!(orders.parked[0].wish, wish);
    }
    assert_eq!(house.actions(), ["parked.release", "parked.discard"]);
}

#[tokio::test(start_paused = true)]
async fn parked_wish_about_a_key_that_flows_is_not_found() {
    let house = House::idle();
    let mut key = park(&house, b"job-1").await;
    key.key = Bytes::from_static(b"job-2");

    let error = house.orchestrator.set_parked_wish(command(CommandKind::ReleaseKey(key))).await.unwrap_err();

    assert!(matches!(error, OrchestratorError::NotFound { .. }), "{error}");
    assert!(house.actions().is_empty());
}

#[tokio::test(start_paused = true)]
async fn parked_release_of_what_was_tried_too_often_is_refused_and_discard_is_not() {
    let house = House::idle();
    let key = park_tried(&house, b"job-1", OrchestratorConfig::default().release_attempts).await;

    let release = house.orchestrator.set_parked_wish(command(CommandKind::ReleaseKey(key.clone()))).await;
    let discard = house.orchestrator.set_parked_wish(command(CommandKind::DiscardHead(key))).await;

    let refused = release.unwrap_err().to_string();
    assert!(
        refused.contains("`job-1`") && refused.contains("tried 10 times, and 10 are allowed"),
        "{refused}"
    );
    assert_eq!(discard, Ok(()));
    assert_eq!(house.actions(), ["parked.discard"]);
}

#[tokio::test(start_paused = true)]
async fn lane_resume_is_stored_with_its_act_and_only_where_something_holds_it() {
    let house = House::idle();
    let unknown = LaneKey {
        group: Group::jobs(),
        topic_partition: TopicPartition { topic: Topic::JobLifecycle, partition: Partition(4) },
    };
    let held = park(&house, b"job-1").await.lane;
    house.store.set_desired(&held, DesiredState::Paused);
    let resume =
        |lane: &LaneKey| house.orchestrator.resume_lane(command(CommandKind::ResumeLane(lane.clone())));

    let answers = [resume(&held).await, resume(&held).await, resume(&unknown).await];

    assert_eq!(answers[0], Ok(()));
    assert!(matches!(answers[1], Err(OrchestratorError::NotPossible { .. })), "{:?}", answers[1]);
    assert!(matches!(answers[2], Err(OrchestratorError::NotFound { .. })), "{:?}", answers[2]);
    assert_eq!(house.actions(), ["lane.resume"]);
    let orders = house.store.read_orders(held).await.unwrap();
    assert_eq!(orders.desired, DesiredState::Running);
}

#[tokio::test(start_paused = true)]
async fn commands_of_another_kind_are_refused() {
    let house = House::idle();
    let submit = super::submit_command();

    let errors = [
        house.orchestrator.cancel(submit.clone()).await.unwrap_err(),
        house.orchestrator.set_parked_wish(submit.clone()).await.unwrap_err(),
        house.orchestrator.resume_lane(submit.clone()).await.unwrap_err(),
        house.orchestrator.append_records(submit, vec![]).await.unwrap_err(),
        house.orchestrator.submit(append_command(Topic::JobMetrics)).await.unwrap_err(),
    ];

    for error in errors {
        assert!(matches!(error, OrchestratorError::Invalid { .. }), "{error}");
    }
}
