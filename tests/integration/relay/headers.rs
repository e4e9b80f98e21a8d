//! What a record looks like on the other side.

use bytes::Bytes;
use horizons::kafka::relay::ODD_NAME_PREFIX;
use horizons_actors::clock::Timestamp;
use horizons_actors::event::{Encoding, encode};
use horizons_actors::ids::{Group, LaneKey, LogTopic, Offset, Topic, TopicPartition};
use horizons_actors::lane::dead_letter::{dead_letter_record, header as origin};
use horizons_actors::ports::outbox::OutboxPartition;
use horizons_actors::ports::store::JobStore;
use horizons_actors::record::{Headers, LogRecord, OutgoingRecord, TimestampType};
use horizons_actors::rejection::Rejection;
use horizons_actors::testkit::EventBuilder;
use rdkafka::Message;
use rdkafka::message::Headers as _;

use super::world::{
    Expected, create_topics, header, new_prefix, new_store, place, read_partition, run, start, wait_sent,
};
use crate::services::kafka::Kafka;

#[test]
fn relay_event_arrives_with_key_timestamp_and_exactly_its_headers() {
    let kafka = Kafka::shared();
    let prefix = new_prefix();
    create_topics(kafka.direct(), &prefix, 1);
    let (store, _folder) = new_store();
    let event = EventBuilder::job_failed().build();
    let record = encode(&event, Encoding::Json).unwrap();
    let there = OutboxPartition { topic: record.topic, partition: record.partition };
    run(store.append_records(vec![record.clone()], Vec::new())).unwrap();

    let _relay = start(store.clone(), kafka.bootstrap(), &prefix);
    wait_sent(store.as_ref(), &Expected::from([(there, vec![String::new()])]));

    let found = read_partition(kafka.direct(), &prefix, there);
    let [message] = found.as_slice() else { panic!("wanted one record, got {}", found.len()) };
    assert_eq!(message.key(), record.key.as_deref());
    assert_eq!(message.payload(), record.payload.as_deref());
    assert_eq!(message.timestamp().to_millis(), Some(record.timestamp.as_millis()));
    let names: Vec<&str> = message.headers().unwrap().iter().map(|header| header.key).collect();
    let wanted = [
        "content-type",
        "correlation-id",
        "timestamp",
        "event-type",
        "schema-version",
        "event-id",
        "traceparent",
    ];
    assert_eq!(names, wanted);
    assert_eq!(header(message, "content-type").as_deref(), Some("application/json"));
    assert_eq!(header(message, "correlation-id"), Some(event.correlation_id.to_string()));
    assert_eq!(header(message, "timestamp"), Some(event.timestamp.to_string()));
    assert_eq!(header(message, "event-type").as_deref(), Some("job.failed"));
    assert_eq!(header(message, "event-id"), Some(event.event_id.to_string()));
}

#[test]
fn relay_odd_records_arrive_byte_for_byte() {
    let kafka = Kafka::shared();
    let prefix = new_prefix();
    create_topics(kafka.direct(), &prefix, 1);
    let (store, _folder) = new_store();
    let here = place(Topic::Notifications, 2);
    let base = OutgoingRecord {
        topic: here.topic,
        partition: here.partition,
        timestamp: Timestamp::from_millis(1_700_000_000_123),
        key: None,
        headers: Headers::none(),
        payload: None,
    };
    let headers = Headers::new([
        (b"null".as_slice(), None),
        (b"empty".as_slice(), Some(b"".as_slice())),
        (b"twice".as_slice(), Some(b"1".as_slice())),
        (b"twice".as_slice(), Some(b"\xff\0".as_slice())),
        (b"\xff\x00".as_slice(), Some(b"odd name".as_slice())),
    ]);
    let records = vec![
        base.clone(),
        OutgoingRecord { key: Some(Bytes::new()), payload: Some(Bytes::new()), ..base.clone() },
        OutgoingRecord { headers, ..base },
    ];
    run(store.append_records(records, Vec::new())).unwrap();

    let _relay = start(store.clone(), kafka.bootstrap(), &prefix);
    wait_sent(store.as_ref(), &Expected::from([(here, vec![String::new(); 3])]));

    let found = read_partition(kafka.direct(), &prefix, here);
    let parts: Vec<_> = found.iter().map(|message| (message.key(), message.payload())).collect();
    assert_eq!(parts, [(None, None), (Some(&b""[..]), Some(&b""[..])), (None, None)]);
    let shown: Vec<(String, Option<&[u8]>)> =
        found[2].headers().unwrap().iter().map(|header| (header.key.to_owned(), header.value)).collect();
    let wanted = [
        ("null".to_owned(), None),
        ("empty".to_owned(), Some(&b""[..])),
        ("twice".to_owned(), Some(&b"1"[..])),
        ("twice".to_owned(), Some(&b"\xff\0"[..])),
        (format!("{ODD_NAME_PREFIX}ff00"), Some(&b"odd name"[..])),
    ];
    assert_eq!(shown, wanted);
}

#[test]
fn relay_dead_letter_arrives_with_its_origin() {
    let kafka = Kafka::shared();
    let prefix = new_prefix();
    create_topics(kafka.direct(), &prefix, 1);
    let (store, _folder) = new_store();
    let lane = LaneKey {
        group: Group::jobs(),
        topic_partition: TopicPartition {
            topic: Topic::JobLifecycle,
            partition: place(Topic::JobLifecycle, 4).partition,
        },
    };
    let poison = LogRecord {
        offset: Offset(41),
        timestamp: Timestamp::from_millis(5),
        timestamp_type: TimestampType::CreateTime,
        key: Some(Bytes::from_static(b"job")),
        headers: Headers::new([(b"content-type".as_slice(), Some(b"text/odd".as_slice()))]),
        payload: Some(Bytes::from_static(b"\x00junk")),
    };
    let rejection = Rejection::MissingField { field: "payload.agent".to_owned() };
    let letter = dead_letter_record(&lane, &poison, &rejection, Timestamp::from_millis(1_700_000_000_000));
    let there = OutboxPartition {
        topic: LogTopic::DeadLetter(Topic::JobLifecycle),
        partition: lane.topic_partition.partition,
    };
    run(store.append_records(vec![letter], Vec::new())).unwrap();

    let _relay = start(store.clone(), kafka.bootstrap(), &prefix);
    wait_sent(store.as_ref(), &Expected::from([(there, vec![String::new()])]));

    let found = read_partition(kafka.direct(), &prefix, there);
    let [message] = found.as_slice() else { panic!("wanted one record, got {}", found.len()) };
    assert_eq!((message.key(), message.payload()), (Some(&b"job"[..]), Some(&b"\x00junk"[..])));
    for (name, wanted) in [
        ("content-type", "text/odd"),
        (origin::ORIGIN_TOPIC, "job-lifecycle"),
        (origin::ORIGIN_PARTITION, "4"),
        (origin::ORIGIN_OFFSET, "41"),
        (origin::ORIGIN_GROUP, "jobs"),
        (origin::REASON, "missing_field"),
    ] {
        assert_eq!(header(message, name).as_deref(), Some(wanted), "{name}");
    }
}
