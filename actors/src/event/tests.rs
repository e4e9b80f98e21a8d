//! Holds decoder and encoder against the files in `schemas/`, and against each other.

use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::*;
use crate::ids::Offset;
use crate::record::{Headers, LogRecord, TimestampType};
use crate::rejection::Rejection;
use crate::testkit::EventBuilder;

pub(super) fn schemas(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../schemas").join(path)
}

fn read_json_file(path: &PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

pub(super) fn examples(kind: &str) -> Vec<(String, Value)> {
    let files = fs::read_dir(schemas("examples").join(kind)).unwrap().map(|entry| entry.unwrap().path());
    files
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), read_json_file(&path)))
        .collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn record(key: Option<&str>, headers: &[(&str, &str)], payload: Option<Vec<u8>>) -> LogRecord {
    LogRecord {
        offset: Offset(0),
        timestamp: Timestamp::from_micros(0),
        timestamp_type: TimestampType::CreateTime,
        key: key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
        headers: Headers::new(headers.iter().map(|(name, value)| (name.as_bytes(), Some(value.as_bytes())))),
        payload: payload.map(Bytes::from),
    }
}

/// Reads an example; says which topic it is on.
pub(super) fn example_record(example: &Value) -> (Topic, LogRecord) {
    let headers: Vec<(&str, &str)> = example["headers"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
        .collect();
    let payload = if example["tombstone"] == true {
        None
    } else if let Some(text) = example["payload_text"].as_str() {
        Some(text.as_bytes().to_vec())
    } else if let Some(hex) = example["payload_hex"].as_str() {
        Some(unhex(hex))
    } else {
        Some(serde_json::to_vec(&example["payload"]).unwrap())
    };
    (
        Topic::parse(example["topic"].as_str().unwrap()).unwrap(),
        record(example["key"].as_str(), &headers, payload),
    )
}

/// Writes the event and reads it again.
fn round_trip(event: &Event, encoding: Encoding) -> Result<Event, Rejection> {
    let builder = EventBuilder::new(event.payload.clone()).encoding(encoding).event_id(event.event_id);
    decode(event.topic(), &builder.change(|built| *built = event.clone()).log_record(0))
}

/// The event as a JSON document of the wire, to be changed.
fn document(event: &Event) -> Map<String, Value> {
    event_json(event).as_object().unwrap().clone()
}

fn decode_document(event: &Event, document: &Map<String, Value>) -> Result<Event, Rejection> {
    let bytes = serde_json::to_vec(document).unwrap();
    decode(event.topic(), &record(event.partition_key(), &[], Some(bytes)))
}

#[test]
fn valid_examples_decode_and_come_back() {
    let examples = examples("valid");
    assert!(examples.len() >= 9);

    for (name, example) in examples {
        let (topic, record) = example_record(&example);

        let event = decode(topic, &record).unwrap_or_else(|rejection| panic!("{name}: {rejection}"));

        for encoding in Encoding::ALL {
            assert_eq!(round_trip(&event, encoding).as_ref(), Ok(&event), "{name}");
        }
    }
}

#[test]
fn invalid_examples_are_rejected_by_name() {
    let examples = examples("invalid");
    assert!(examples.len() >= 45);

    for (name, example) in examples {
        let (topic, record) = example_record(&example);

        let rejection = decode(topic, &record).expect_err(&name);

        let said = serde_json::to_value(&rejection).unwrap();
        for (field, wanted) in example["rejection"].as_object().unwrap() {
            assert_eq!(&said[field], wanted, "{name}: {said}");
        }
        assert_eq!(name.split('.').next(), Some(rejection.name()));
    }
}

#[test]
fn golden_files_are_what_encode_writes() {
    for builder in EventBuilder::one_of_each() {
        let event = builder.build();
        let event_type = event.payload.event_type();
        let stem = format!("examples/golden/{event_type}.v{}", event_type.schema_version());
        let json = builder.record().payload.unwrap().to_vec();
        let packed = builder.clone().encoding(Encoding::MessagePack).record().payload.unwrap();
        let packed: String = packed.iter().map(|byte| format!("{byte:02x}")).collect();
        let files = [("json", json), ("msgpack.hex", format!("{packed}\n").into_bytes())];

        for (ending, bytes) in files {
            let path = schemas(&format!("{stem}.{ending}"));
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                fs::write(&path, &bytes).unwrap();
            }

            let golden = fs::read(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));

            assert_eq!(golden, bytes, "{path:?}");
            let (content_type, payload) = match ending {
                "json" => ("application/json", golden),
                _ => ("application/x-msgpack", unhex(std::str::from_utf8(&golden).unwrap())),
            };
            let record = record(event.partition_key(), &[("content-type", content_type)], Some(payload));
            assert_eq!(decode(event.topic(), &record).as_ref(), Ok(&event));
        }
    }
}

#[test]
fn golden_files_of_the_first_submitted_are_read_with_its_numbers_as_text() {
    let wanted = EventBuilder::job_submitted().build();

    let json = fs::read(schemas("examples/golden/job.submitted.v1.json")).unwrap();
    let packed = fs::read_to_string(schemas("examples/golden/job.submitted.v1.msgpack.hex")).unwrap();

    for (content_type, payload) in [("application/json", json), ("application/msgpack", unhex(&packed))] {
        let record = record(Some("job-1"), &[("content-type", content_type)], Some(payload));
        // The id of a built event depends on the bytes of its version.
        let decoded = decode(Topic::JobLifecycle, &record).map(|event| event.payload);
        assert_eq!(decoded, Ok(wanted.payload.clone()));
    }
}

#[test]
fn json_schemas_name_exactly_what_is_written_and_required() {
    for builder in EventBuilder::one_of_each() {
        let event = builder.build();
        let event_type = event.payload.event_type();
        let path = schemas(&format!("events/{event_type}.v{}.json", event_type.schema_version()));
        let schema = read_json_file(&path);
        let written = document(&event);

        for (object, schema, prefix) in [
            (&written, &schema, ""),
            (written["payload"].as_object().unwrap(), &schema["properties"]["payload"], "payload."),
        ] {
            let properties = schema["properties"].as_object().unwrap();
            assert!(object.keys().eq(properties.keys()), "{event_type} {prefix}");

            for field in object.keys() {
                let mut document = written.clone();
                match prefix {
                    "" => document.remove(field),
                    _ => document["payload"].as_object_mut().unwrap().remove(field),
                };
                let decoded = decode_document(&event, &document);
                if schema["required"].as_array().unwrap().contains(&Value::from(field.as_str())) {
                    let field = format!("{prefix}{field}");
                    assert_eq!(decoded, Err(Rejection::MissingField { field }), "{event_type}");
                } else {
                    assert!(decoded.is_ok(), "{event_type} without {field}: {decoded:?}");
                }
            }
        }
    }
}

#[test]
fn json_schemas_list_the_closed_sets() {
    let names = |file: &str, field: &str| -> Vec<String> {
        let schema = read_json_file(&schemas(&format!("events/{file}")));
        let set = &schema["properties"]["payload"]["properties"][field]["enum"];
        serde_json::from_value(set.clone()).unwrap()
    };

    assert_eq!(names("job.status_changed.v1.json", "current_status"), JobStatus::ALL.map(JobStatus::name));
    assert_eq!(names("job.submitted.v2.json", "tacc_system"), TaccSystem::ALL.map(TaccSystem::name));
    let channels = NotificationChannel::ALL.map(NotificationChannel::name);
    assert_eq!(names("notification.sent.v1.json", "channel"), channels);
    let outcomes = NotificationOutcome::ALL.map(NotificationOutcome::name);
    assert_eq!(names("notification.sent.v1.json", "outcome"), outcomes);
}

#[test]
fn encode_writes_key_partition_and_exactly_the_headers() {
    let builder = EventBuilder::job_running().event_id(EventId(Uuid::from_u128(0xfeed << 112)));

    let record = builder.record();

    let headers: Vec<(&str, &str)> = record
        .headers
        .iter()
        .map(|(name, value)| {
            (std::str::from_utf8(name).unwrap(), std::str::from_utf8(value.unwrap()).unwrap())
        })
        .collect();
    let wanted = [
        ("content-type", "application/json"),
        ("correlation-id", "0193a1c0-0000-7000-8000-0000000000c1"),
        ("timestamp", "2026-01-02T03:04:05.000006Z"),
        ("event-type", "job.running"),
        ("schema-version", "1"),
        ("event-id", "feed0000-0000-0000-0000-000000000000"),
        ("traceparent", "00-0193a1c00000700080000000000000c1-feed000000000000-01"),
    ];
    assert_eq!(headers, wanted);
    assert_eq!(record.key.as_deref(), Some(&b"job-1"[..]));
    assert_eq!(
        record.partition,
        partition_for(Topic::JobLifecycle, Some(b"job-1"), builder.build().event_id)
    );
}

#[test]
fn encode_event_that_breaks_its_schema_names_the_field() {
    let broken = [
        ("job_id", EventBuilder::job_running().change(|event| event.job_id = None)),
        ("sequence", EventBuilder::job_running().change(|event| event.sequence = None)),
        ("sequence", EventBuilder::notification_sent().sequence(1)),
        (
            "timestamp",
            EventBuilder::job_running().change(|event| event.timestamp = Timestamp::from_micros(i64::MAX)),
        ),
        ("payload.attempt", EventBuilder::job_running().attempt(0)),
        (
            "payload.execution_time_seconds",
            EventBuilder::job_completed().change(|event| {
                if let Payload::JobCompleted(completed) = &mut event.payload {
                    completed.execution_time_seconds = f64::NAN;
                }
            }),
        ),
    ];

    for (field, builder) in broken {
        for encoding in Encoding::ALL {
            let error = encode(&builder.build(), encoding).expect_err(field);

            assert_eq!(error.field(), Some(field));
        }
    }
}

#[test]
fn encode_event_above_the_limit_is_refused() {
    let sized = |bytes: usize| {
        EventBuilder::job_failed().change(|event| {
            if let Payload::JobFailed(failed) = &mut event.payload {
                failed.error_message = "x".repeat(bytes);
            }
        })
    };
    let empty = sized(0).record();
    let rest = empty.key.unwrap().len() + empty.headers.as_block().len() + empty.payload.unwrap().len();
    let room = RECORD_MAX_BYTES - rest;

    let fits = encode(&sized(room).build(), Encoding::Json);
    let error = encode(&sized(room + 1).build(), Encoding::Json);

    assert!(fits.is_ok());
    let event_type = EventType::JobFailed;
    let Err(EncodeError::TooLarge { event_type: named, too_large }) = &error else {
        panic!("wanted a refusal, got {error:?}");
    };
    assert_eq!((*named, too_large.part, too_large.got), (event_type, "payload", RECORD_MAX_BYTES + 1));
    assert_eq!(error.as_ref().unwrap_err().field(), Some("payload"));
}

#[test]
fn decode_hostile_message_pack_never_ends_the_process() {
    let mut deep = vec![0x81, 0xa1, b'a'];
    deep.extend(std::iter::repeat_n(0x91, 1_000_000));
    let hostile = [
        deep,
        // Claims 4 294 967 295 items, bytes or fields that are not there.
        vec![0xdd, 0xff, 0xff, 0xff, 0xff],
        vec![0xdb, 0xff, 0xff, 0xff, 0xff],
        vec![0xdf, 0xff, 0xff, 0xff, 0xff],
        vec![0x81, 0xa1, b'a', 0xc9, 0xff, 0xff, 0xff, 0xff],
        vec![0xc1],
    ];

    for bytes in hostile {
        let record = record(None, &[("content-type", "application/msgpack")], Some(bytes));
        let rejection = decode(Topic::JobLifecycle, &record).unwrap_err();

        assert_eq!(rejection.name(), "malformed_bytes");
    }
}

#[test]
fn decode_message_pack_not_a_number_or_extension_names_the_field() {
    let mut packed = EventBuilder::system_health_check().encoding(Encoding::MessagePack).log_record(0);
    let bytes = packed.payload.unwrap().to_vec();
    let (head, _) = bytes.split_at(bytes.len() - 8);
    packed.payload = Some(Bytes::from([head, &f64::NAN.to_be_bytes()].concat()));

    let not_a_number = decode(Topic::SystemHealth, &packed).unwrap_err();
    let (head, _) = head.split_at(head.len() - 1);
    packed.payload = Some(Bytes::from([head, &[0xd6, 0xff, 0, 0, 0, 0]].concat()));
    let extension = decode(Topic::SystemHealth, &packed).unwrap_err();

    assert_eq!(not_a_number.field(), Some("payload.error_rate"));
    assert_eq!(extension.field(), Some("payload.error_rate"));
}

pub(super) fn arbitrary_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::num::f64::NORMAL.prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

prop_compose! {
    pub(super) fn arbitrary_event()(
        chosen in 0..EventType::ALL.len(),
        ids in any::<(u128, u128)>(),
        job in "[^\\p{Cc}]{1,40}",
        text in any::<String>(),
        sequence in 1..=u64::MAX,
        attempt in 1..=u32::MAX,
        count in any::<u64>(),
        amounts in prop::array::uniform3(0.0..f64::MAX),
        error_rate in 0.0..=1.0_f64,
        flag in any::<bool>(),
        micros in -62_167_219_200_000_000..=253_402_300_799_999_999_i64,
        free in prop::collection::btree_map(any::<String>(), arbitrary_value(), 0..4),
        texts in prop::collection::btree_map(any::<String>(), any::<String>(), 0..4),
    ) -> Event {
        let builder = EventBuilder::one_of_each().swap_remove(chosen);
        let is_job = builder.build().sequence.is_some();
        let builder = if is_job { builder.job(&job).sequence(sequence) } else { builder };
        let builder = if flag { builder.retried().summary() } else { builder };
        builder
            .event_id(EventId(Uuid::from_u128(ids.0)))
            .correlation(CorrelationId(Uuid::from_u128(ids.1)))
            .user(&job)
            .at(Timestamp::from_micros(micros))
            .attempt(attempt)
            .change(|event| match &mut event.payload {
                Payload::JobSubmitted(submitted) => {
                    submitted.json_parameters = texts.keys().take(1).cloned().collect();
                    submitted.parameters = texts;
                }
                Payload::AuditActionRecorded(action) => {
                    action.changes = free.into_iter().collect();
                    action.action = text;
                }
                Payload::JobFailed(failed) => failed.error_message = text,
                Payload::JobCompleted(completed) => completed.execution_time_seconds = amounts[0],
                Payload::JobMetricsRecorded(metrics) => {
                    metrics.cpu_usage_percent = amounts[0];
                    metrics.memory_usage_mb = amounts[1];
                    metrics.execution_time_seconds = amounts[2];
                    metrics.io_operations = count;
                }
                Payload::SystemHealthCheck(health) => {
                    health.error_rate = error_rate;
                    health.consumer_lag = count;
                }
                _ => {}
            })
            .build()
    }
}

proptest! {
    #[test]
    fn decode_of_an_encoded_event_is_the_event(event in arbitrary_event()) {
        for encoding in Encoding::ALL {
            prop_assert_eq!(round_trip(&event, encoding), Ok(event.clone()));
        }
    }

    #[test]
    fn decode_of_arbitrary_bytes_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        for encoding in Encoding::ALL {
            let header = [("content-type", encoding.content_type())];
            let record = record(None, &header, Some(bytes.clone()));
            for topic in Topic::ALL {
                prop_assert!(decode(topic, &record).is_err());
            }
        }
    }

    #[test]
    fn decode_of_a_damaged_record_never_yields_an_event_that_cannot_be_written(
        event in arbitrary_event(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        for encoding in Encoding::ALL {
            let mut payload = encode(&event, encoding).unwrap().payload.unwrap().to_vec();
            let at = at.index(payload.len());
            payload[at] = byte;
            let header = [("content-type", encoding.content_type())];
            let record = record(event.partition_key(), &header, Some(payload));

            if let Ok(damaged) = decode(event.topic(), &record) {
                prop_assert_eq!(round_trip(&damaged, encoding), Ok(damaged.clone()));
            }
        }
    }

    #[test]
    fn decode_in_any_order_of_fields_is_the_same(
        event in arbitrary_event(),
        fields in Just((0..10).collect::<Vec<usize>>()).prop_shuffle(),
        dropped in prop::option::of(0..10_usize),
    ) {
        let document = document(&event);
        let members: Vec<String> =
            document.iter().map(|(name, value)| format!("{}:{value}", Value::from(name.as_str()))).collect();
        let kept = |order: &[usize]| {
            let members: Vec<&str> = order
                .iter()
                .filter(|index| Some(**index) != dropped)
                .map(|index| members[*index].as_str())
                .collect();
            let text = format!("{{{}}}", members.join(","));
            decode(event.topic(), &record(event.partition_key(), &[], Some(text.into_bytes())))
        };

        prop_assert_eq!(kept(&fields), kept(&(0..10).collect::<Vec<usize>>()));
    }
}
