//! Records that Kafka refuses for good: one partition stands, visibly, and all others flow.

use bytes::Bytes;
use horizons_actors::clock::{Clock, SystemClock};
use horizons_actors::command::{Command, CommandKind, Principal};
use horizons_actors::ids::{CommandId, CorrelationId, LogTopic, Offset, Topic};
use horizons_actors::ports::outbox::{OutboxPartition, OutboxStore, SetAsideAnswer};
use horizons_actors::ports::store::JobStore;
use horizons_actors::record::OutgoingRecord;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use uuid::Uuid;

use super::world::{
    Expected, check, client, create_some, event_id, metric, new_prefix, new_store, place, relay_config, row,
    run, start_with, wait_sent, wait_status,
};
use crate::services::kafka::Kafka;
use crate::services::wait::wait_for;

/// The partition that is given a record too large for its topic.
const HERE: OutboxPartition = place(Topic::JobLifecycle, 0);

/// One of the same topic that is not.
const THERE: OutboxPartition = place(Topic::JobLifecycle, 1);

/// Where the audit records of operators' commands go.
const AUDIT: OutboxPartition = place(Topic::AuditTrail, 0);

/// What the topic takes.
const LIMIT_BYTES: usize = 8_000;

/// Rows before and after the large one.
const ROWS: u64 = 40;

fn sized(number: u64, bytes: usize) -> OutgoingRecord {
    OutgoingRecord { payload: Some(Bytes::from(vec![b'x'; bytes])), ..row(HERE, number) }
}

fn set_aside(offset: Offset) -> Command {
    Command {
        command_id: CommandId(Uuid::new_v4()),
        correlation_id: CorrelationId(Uuid::new_v4()),
        principal: Principal { user_id: "operator".parse().unwrap() },
        reason: Some("the topic does not take it".to_owned()),
        idempotency_key: None,
        requested_at: SystemClock.now(),
        kind: CommandKind::SetAsideRecord { topic: HERE.topic, partition: HERE.partition, offset },
    }
}

/// Rows of the partition with a large one in the middle, rows of another, and what must arrive of each.
fn rows(large_bytes: usize) -> (Vec<OutgoingRecord>, Expected) {
    let mut rows = Vec::new();
    let mut expected = Expected::new();
    for number in 0..=2 * ROWS {
        if number == ROWS {
            rows.push(sized(number, large_bytes));
        } else {
            rows.push(row(HERE, number));
            expected.entry(HERE).or_default().push(event_id(number));
        }
        rows.push(row(THERE, 1_000 + number));
        expected.entry(THERE).or_default().push(event_id(1_000 + number));
    }
    (rows, expected)
}

/// A record that is too large stops its partition only, and setting it aside lets that go on.
fn too_large_is_set_aside(large_bytes: usize) {
    let kafka = Kafka::shared();
    let prefix = new_prefix();
    let limit = LIMIT_BYTES.to_string();
    let topics = [LogTopic::Record(Topic::JobLifecycle), LogTopic::Record(Topic::AuditTrail)];
    create_some(kafka.direct(), &prefix, 1, &topics, &[("max.message.bytes", &limit)]);
    let (store, _folder) = new_store();
    let (records, mut expected) = rows(large_bytes);
    run(store.append_records(records, Vec::new())).unwrap();
    let (relay, registry) = start_with(store.clone(), relay_config(kafka.bootstrap(), &prefix));

    wait_status(&relay, "the partition to stop at the large record", |status| {
        status.stopped().any(|one| one.partition == HERE && one.next == Offset(ROWS))
    });
    wait_for("the other partition to be sent", || {
        let cursors = store.cursors().unwrap();
        let next =
            |place| cursors.iter().find(|cursor| cursor.partition == place).map(|cursor| cursor.next.0);
        next(THERE) == Some(2 * ROWS + 1) && next(HERE) == Some(ROWS)
    });
    assert_eq!(relay.status().stopped().count(), 1);
    let before = super::world::read_partition(kafka.direct(), &prefix, HERE);
    assert_eq!(before.len() as u64, ROWS, "a later record overtook the refused one");
    assert_eq!(metric(&registry, "horizons_outbox_stopped_partitions"), 1.0);
    let audit = row(AUDIT, 5_000);
    expected.entry(AUDIT).or_default().push(event_id(5_000));
    let answer = run(store.set_aside(set_aside(Offset(ROWS)), HERE, Offset(ROWS), audit)).unwrap();
    assert_eq!(answer, SetAsideAnswer::Done);
    wait_status(&relay, "everything else to be sent", |status| {
        status.waiting_records == 0 && status.stopped().next().is_none()
    });

    check(kafka.direct(), &prefix, &expected);
    let kept = run(store.set_aside_records(10)).unwrap();
    let [kept] = &*kept else { panic!("wanted one record, got {}", kept.len()) };
    assert_eq!((kept.partition, kept.record.offset), (HERE, Offset(ROWS)));
    assert_eq!(kept.record.payload.as_ref().map(Bytes::len), Some(large_bytes));
}

#[test]
fn relay_record_too_large_for_topic_stops_only_its_partition() {
    too_large_is_set_aside(LIMIT_BYTES * 4);
}

#[test]
fn relay_record_too_large_for_client_stops_only_its_partition() {
    too_large_is_set_aside(2_000_000);
}

#[test]
fn relay_batches_larger_than_topic_takes_are_sent_one_by_one() {
    let kafka = Kafka::shared();
    let prefix = new_prefix();
    let topics = [LogTopic::Record(Topic::JobLifecycle)];
    create_some(kafka.direct(), &prefix, 1, &topics, &[("max.message.bytes", "3000")]);
    let (store, _folder) = new_store();
    // Each fits; two together do not.
    let records: Vec<OutgoingRecord> = (0..60).map(|number| sized(number, 2_000)).collect();
    let expected = Expected::from([(HERE, (0..60).map(event_id).collect())]);
    run(store.append_records(records, Vec::new())).unwrap();

    let (relay, _registry) = start_with(store.clone(), relay_config(kafka.bootstrap(), &prefix));
    wait_sent(store.as_ref(), &expected);

    check(kafka.direct(), &prefix, &expected);
    assert!(relay.status().stopped().next().is_none());
}

#[test]
fn relay_stopped_partition_tries_again_once_topic_was_changed() {
    let kafka = Kafka::shared();
    let prefix = new_prefix();
    let topics = [LogTopic::Record(Topic::JobLifecycle)];
    let limit = LIMIT_BYTES.to_string();
    create_some(kafka.direct(), &prefix, 1, &topics, &[("max.message.bytes", &limit)]);
    let (store, _folder) = new_store();
    let records = vec![row(HERE, 0), sized(1, LIMIT_BYTES * 2), row(HERE, 2)];
    let expected = Expected::from([(HERE, (0..3).map(event_id).collect())]);
    run(store.append_records(records, Vec::new())).unwrap();
    let (relay, _registry) = start_with(store.clone(), relay_config(kafka.bootstrap(), &prefix));
    wait_status(&relay, "the partition to stop", |status| status.stopped().count() == 1);
    let before = super::world::read_partition(kafka.direct(), &prefix, HERE);
    assert_eq!(before.len(), 1, "a later record overtook the refused one");

    let admin: AdminClient<DefaultClientContext> = client(kafka.direct()).create().unwrap();
    let topic = format!("{prefix}{}", Topic::JobLifecycle);
    let change = AlterConfig::new(ResourceSpecifier::Topic(&topic)).set("max.message.bytes", "1000000");
    for changed in run(admin.alter_configs([&change], &AdminOptions::new())).unwrap() {
        changed.unwrap();
    }
    wait_for("the changed topic to take the record", || {
        relay.look_again(HERE);
        super::world::is_sent(store.as_ref(), &expected)
    });

    check(kafka.direct(), &prefix, &expected);
}
