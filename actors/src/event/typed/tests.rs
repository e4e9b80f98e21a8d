//! Holds the reader in one pass against the reader field by field, which is the specification.

use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::event::decode::read_by_field;
use crate::event::tests::{arbitrary_event, example_record, examples};
use crate::event::{Encoding, decode, encode};
use crate::record::LogRecord;
use crate::testkit::EventBuilder;

/// What the record is, in words that tell -0.0 from 0.0.
fn both_answers(topic: Topic, record: &LogRecord) -> (String, String) {
    let payload = record.payload.as_ref().unwrap();
    let by_field = read_by_field(topic, record, Encoding::Json, payload);
    (format!("{:?}", decode(topic, record)), format!("{by_field:?}"))
}

fn json_record(event: &Event, text: &str) -> LogRecord {
    let mut record =
        EventBuilder::new(event.payload.clone()).change(|built| *built = event.clone()).log_record(0);
    record.payload = Some(Bytes::copy_from_slice(text.as_bytes()));
    record
}

/// The members of an object, each as it is written, in the order they are written.
type Members = Vec<(String, String)>;

fn members(event: &Event) -> (Members, Members) {
    let split = |value: &Value| -> Members {
        let members = value.as_object().unwrap().iter();
        members.map(|(name, value)| (Value::from(name.as_str()).to_string(), value.to_string())).collect()
    };
    let document = serde_json::to_value(event).unwrap();
    let mut envelope = split(&document);
    envelope.retain(|(name, _)| name != "\"payload\"");
    // The type stands first, so that most documents are read in one pass.
    envelope.sort_by_key(|(name, _)| name != "\"event_type\"");
    (envelope, split(&document["payload"]))
}

fn write(members: &Members) -> String {
    let members: Vec<String> = members.iter().map(|(name, value)| format!("{name}:{value}")).collect();
    format!("{{{}}}", members.join(","))
}

/// Values at the edges of what any field takes.
const EDGES: [&str; 38] = [
    "null",
    "true",
    "false",
    "0",
    "-0",
    "1",
    "-1",
    "1.0",
    "1e0",
    "0.1",
    "1e-400",
    "1e308",
    "1e400",
    "65535",
    "65536",
    "4294967295",
    "4294967296",
    "9007199254740993",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "-9223372036854775809",
    "2.2250738585072011e-308",
    "\"\"",
    "\"RUNNING\"",
    "{\"RUNNING\":null}",
    "[]",
    "{}",
    "\"a\\u0000b\"",
    "\"\\ud800\"",
    "\"2026-01-02T03:04:60Z\"",
    "\"{0193a1c0-0000-7000-8000-0000000000aa}\"",
    "\"0193A1C0-0000-7000-8000-0000000000AA\"",
    "{\"a\":1,\"a\":1}",
    "{\"a\":\"1\",\"a\":\"1\"}",
    "{\"a\":\"1\"}",
    "[\"a\",\"a\"]",
    "{\"$serde_json::private::RawValue\":\"{}\"}",
];

/// What is done to one object of a document.
#[derive(Debug, Clone)]
enum Damage {
    Drop,
    Repeat,
    RepeatAs(String),
    Replace(String),
    Rename(String),
    Escape,
    Move(Index),
    Add(String, String),
}

fn arbitrary_damage() -> impl Strategy<Value = Damage> {
    let nested = (0..140_usize, any::<bool>()).prop_map(|(depth, is_list)| {
        let (open, close) = if is_list { ("[", "]") } else { ("{\"a\":", "}") };
        format!("{}1{}", open.repeat(depth), close.repeat(depth))
    });
    let value = prop_oneof![
        4 => prop::sample::select(&EDGES[..]).prop_map(str::to_owned),
        1 => any::<f64>().prop_map(|number| format!("{number:e}")),
        1 => any::<String>().prop_map(|text| Value::from(text).to_string()),
        1 => nested,
    ];
    let name = prop::sample::select(
        &["event_id", "attempt", "sequence", "job_id", "partition_key", "metrics", "summary", "x", "user_id"]
            [..],
    );
    prop_oneof![
        Just(Damage::Drop),
        Just(Damage::Repeat),
        value.clone().prop_map(Damage::RepeatAs),
        value.clone().prop_map(Damage::Replace),
        name.clone().prop_map(|name| Damage::Rename(name.to_owned())),
        Just(Damage::Escape),
        any::<Index>().prop_map(Damage::Move),
        (name, value).prop_map(|(name, value)| Damage::Add(name.to_owned(), value)),
    ]
}

fn apply(damage: Damage, at: Index, members: &mut Members) {
    if members.is_empty() {
        return;
    }
    let at = at.index(members.len());
    match damage {
        Damage::Drop => drop(members.remove(at)),
        Damage::Repeat => members.push(members[at].clone()),
        Damage::RepeatAs(value) => members.insert(at, (members[at].0.clone(), value)),
        Damage::Replace(value) => members[at].1 = value,
        Damage::Rename(name) => members[at].0 = format!("\"{name}\""),
        Damage::Escape => members[at].0 = members[at].0.replace('e', "\\u0065"),
        Damage::Move(to) => {
            let member = members.remove(at);
            members.insert(to.index(members.len() + 1), member);
        }
        Damage::Add(name, value) => members.insert(at, (format!("\"{name}\""), value)),
    }
}

#[test]
fn read_of_what_is_written_needs_no_second_reader() {
    for builder in EventBuilder::one_of_each() {
        let record = builder.log_record(0);

        let event = read(builder.build().topic(), record.key.as_deref(), &record.payload.unwrap());

        assert_eq!(event, Some(builder.build()));
    }
}

#[test]
fn decode_of_every_example_is_that_of_the_reader_by_field() {
    for (name, example) in examples("valid").into_iter().chain(examples("invalid")) {
        let (_, record) = example_record(&example);
        for topic in Topic::ALL {
            if record.payload.is_some() && record.headers.get("content-type").is_none() {
                let (answer, by_field) = both_answers(topic, &record);

                assert_eq!(answer, by_field, "{name}");
            }
        }
    }
}

#[test]
fn decode_of_every_edge_in_every_field_is_that_of_the_reader_by_field() {
    for event in EventBuilder::one_of_each().into_iter().map(|builder| builder.build()) {
        let (envelope, payload) = members(&event);
        for edge in EDGES {
            for version in ["1", "2", "3", "0"] {
                for at in 0..envelope.len() + payload.len() {
                    let (mut envelope, mut payload) = (envelope.clone(), payload.clone());
                    let version_at =
                        envelope.iter().position(|(name, _)| name == "\"schema_version\"").unwrap();
                    envelope[version_at].1 = version.to_owned();
                    match at.checked_sub(envelope.len()) {
                        None => envelope[at].1 = edge.to_owned(),
                        Some(at) => payload[at].1 = edge.to_owned(),
                    }
                    envelope.push(("\"payload\"".to_owned(), write(&payload)));
                    let text = write(&envelope);

                    let (answer, by_field) = both_answers(event.topic(), &json_record(&event, &text));

                    assert_eq!(answer, by_field, "{text}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn read_of_any_written_event_is_the_event(event in arbitrary_event()) {
        let record = encode(&event, Encoding::Json).unwrap();

        let read = read(event.topic(), record.key.as_deref(), &record.payload.unwrap());

        prop_assert_eq!(format!("{read:?}"), format!("{:?}", Some(event)));
    }

    #[test]
    fn decode_of_a_changed_event_is_that_of_the_reader_by_field(
        event in arbitrary_event(),
        damages in prop::collection::vec((arbitrary_damage(), any::<Index>(), any::<bool>()), 0..4),
        payload_at in prop::option::of(any::<Index>()),
        topic in prop::option::weighted(0.1, prop::sample::select(&Topic::ALL[..])),
    ) {
        let (mut envelope, mut payload) = members(&event);
        for (damage, at, is_envelope) in damages {
            apply(damage, at, if is_envelope { &mut envelope } else { &mut payload });
        }
        let at = payload_at.map_or(envelope.len(), |at| at.index(envelope.len() + 1));
        envelope.insert(at, ("\"payload\"".to_owned(), write(&payload)));
        let text = write(&envelope);
        let topic = topic.unwrap_or_else(|| event.topic());

        let (answer, by_field) = both_answers(topic, &json_record(&event, &text));

        prop_assert_eq!(answer, by_field, "{}", text);
    }

    #[test]
    fn decode_of_changed_bytes_is_that_of_the_reader_by_field(
        event in arbitrary_event(),
        changes in prop::collection::vec((any::<Index>(), any::<u8>(), any::<bool>()), 0..4),
        end in prop::option::weighted(0.2, any::<Index>()),
    ) {
        let mut record = json_record(&event, "");
        let mut bytes = encode(&event, Encoding::Json).unwrap().payload.unwrap().to_vec();
        for (at, byte, is_inserted) in changes {
            let at = at.index(bytes.len());
            if is_inserted { bytes.insert(at, byte) } else { bytes[at] = byte }
        }
        if let Some(end) = end {
            bytes.truncate(end.index(bytes.len()));
        }
        record.payload = Some(Bytes::from(bytes));

        let (answer, by_field) = both_answers(event.topic(), &record);

        prop_assert_eq!(answer, by_field);
    }

    #[test]
    fn decode_of_arbitrary_bytes_is_that_of_the_reader_by_field(
        event in arbitrary_event(),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut record = json_record(&event, "");
        record.payload = Some(Bytes::from(bytes));

        let (answer, by_field) = both_answers(event.topic(), &record);

        prop_assert_eq!(answer, by_field);
    }
}
