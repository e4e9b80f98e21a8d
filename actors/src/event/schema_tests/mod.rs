//! Holds the decoder against the published schemas, both ways: what a schema allows decodes, and what decodes
//! is what the schema allows, in every encoding.
//!
//! Does not look at what no schema of a document can say; `schemas/README.md` lists it: the record's own key,
//! that `partition_key` repeats it, fields given twice, and the limits of a document as such.

use std::fs;
use std::sync::LazyLock;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::string::string_regex;
use serde_json::{Map, Value, json};

use self::validator::{is_valid, resolve};
use super::tests::{arbitrary_event, schemas};
use super::*;
use crate::record::{Headers, LogRecord, TimestampType};
use crate::rejection::Rejection;
use crate::testkit::EventBuilder;

mod validator;

/// Every schema, with its type; read once.
static SCHEMAS: LazyLock<Vec<(EventType, Value)>> = LazyLock::new(read_schemas);

fn read_schemas() -> Vec<(EventType, Value)> {
    let files = fs::read_dir(schemas("events")).unwrap().map(|entry| entry.unwrap().path());
    let schemas = files.map(|path| {
        let schema: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let name = schema["properties"]["event_type"]["const"].as_str().unwrap();
        (EventType::from_name(name).unwrap(), schema)
    });
    let mut schemas: Vec<_> = schemas.collect();
    schemas.sort_by_key(|(_, schema)| schema["title"].as_str().unwrap().to_owned());
    assert!(schemas.len() > EventType::ALL.len());
    schemas
}

/// Finds the schema that a document of a type is under: its version's, or the newest one known.
fn schema_for(event_type: EventType, document: &Value) -> &'static Value {
    let is_of_version = |schema: &&Value| {
        let version = &schema["properties"]["schema_version"];
        is_valid(schema, version, &document["schema_version"])
    };
    let of_type = || SCHEMAS.iter().filter(|(one, _)| *one == event_type).map(|(_, schema)| schema);
    of_type().find(is_of_version).or(of_type().next_back()).unwrap()
}

/// Gives the key that the document's record must have, where the document says it.
fn key_of(event_type: EventType, document: &Value) -> Option<String> {
    let field = match event_type.topic() {
        Topic::JobLifecycle | Topic::JobMetrics => &document["job_id"],
        Topic::AuditTrail => &document["payload"]["resource_id"],
        Topic::SystemHealth => return Some(SYSTEM_HEALTH_KEY.to_owned()),
        Topic::Notifications => return None,
    };
    field.as_str().map(str::to_owned)
}

fn decode_payload(
    event_type: EventType,
    key: Option<&str>,
    encoding: Encoding,
    payload: Vec<u8>,
) -> Result<Event, Rejection> {
    let header = ("content-type".as_bytes(), Some(encoding.content_type().as_bytes()));
    let record = LogRecord {
        offset: crate::ids::Offset(0),
        timestamp: Timestamp::from_micros(0),
        timestamp_type: TimestampType::CreateTime,
        key: key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
        headers: Headers::new([header]),
        payload: Some(Bytes::from(payload)),
    };
    decode(event_type.topic(), &record)
}

/// Decodes the document in every encoding; the answers must be the same.
fn decode_document(event_type: EventType, document: &Value) -> Result<Event, Rejection> {
    let key = key_of(event_type, document);
    let [json, packed] = Encoding::ALL.map(|encoding| {
        let payload = match encoding {
            Encoding::Json => serde_json::to_vec(document).unwrap(),
            Encoding::MessagePack => rmp_serde::to_vec_named(document).unwrap(),
        };
        decode_payload(event_type, key.as_deref(), encoding, payload)
    });
    assert_eq!(format!("{json:?}"), format!("{packed:?}"), "{document}");
    json
}

/// Holds the decoder against the schema of a document.
fn check_agreement(event_type: EventType, document: &Value) -> Result<(), String> {
    let schema = schema_for(event_type, document);
    let key = key_of(event_type, document).map_or(Value::Null, Value::from);
    let repeats_key = [&Value::Null, &key].contains(&&document["partition_key"]);
    let is_allowed = is_valid(schema, schema, document) && repeats_key;
    let decoded = decode_document(event_type, document);
    if decoded.is_ok() == is_allowed {
        return Ok(());
    }
    Err(format!("{}: allowed {is_allowed}, decoded {decoded:?}: {document}", schema["title"]))
}

/// Values near and beyond the edges of every kind of field.
fn edges() -> Vec<Value> {
    let lower = "0193a1c0-0000-7000-8000-0000000000aa";
    let texts = [
        "",
        "a",
        "\u{0}",
        "a\u{1f}b",
        "\u{7f}",
        "\u{80}",
        "\u{9f}",
        "\u{a0}",
        "a\n",
        "\u{2028}",
        "RUNNING",
        "running",
        "local",
        "system-health",
        lower,
        &lower.to_uppercase(),
        &format!("{lower}\n"),
        &format!("{{{lower}}}"),
        &format!("urn:uuid:{lower}"),
        &format!("URN:UUID:{lower}"),
        &lower.replace('-', ""),
        "2026-02-29T00:00:00Z",
        "2024-02-29T00:00:00Z",
        "1900-02-29T00:00:00Z",
        "2000-02-29T00:00:00Z",
        "2026-01-02t03:04:05z",
        "2026-01-02 03:04:05Z",
        "2026-01-02T03:04:60Z",
        "2026-01-02T23:59:60.5-23:59",
        "2026-01-02T24:00:00Z",
        "2026-01-02T03:04:05.Z",
        "2026-01-02T03:04:05.1234567891234Z",
        "2026-01-02T03:04:05-00:00",
        "2026-01-02T03:04:05+23:59",
        "2026-01-02T03:04:05+24:00",
        "2026-01-02T03:04:05+00:60",
        "2026-01-02T03:04:05+0000",
        "2026-01-02T03:04:05",
        "2026-01-02T03:04:05Z ",
        "2026-01-02T03:04:05Z\n",
        "2026-01-02T03:04:05\u{2212}01:00",
        "2026-01-02T03:04:05\u{2212}00:00",
        "0000-01-01T00:00:00Z",
        "0000-01-01T00:00:00+00:01",
        "0000-01-01T12:00:00+00:01",
        "0000-01-02T00:00:00+23:59",
        "9999-12-31T23:59:59.999999Z",
        "9999-12-31T23:59:59.9999999Z",
        "9999-12-31T23:59:60Z",
        "9999-12-31T23:59:59-00:01",
        "9999-12-31T00:00:00\u{2212}00:00",
        "9999-12-30T23:59:60-23:59",
        "10000-01-01T00:00:00Z",
        "+2026-01-02T03:04:05Z",
    ];
    let long = [255, 256].into_iter().flat_map(|length| ["x", "é", "\u{1F680}"].map(|c| c.repeat(length)));
    let mut edges: Vec<Value> = texts.into_iter().map(Value::from).chain(long.map(Value::from)).collect();
    let numbers = [
        "0",
        "-0",
        "-0.0",
        "1",
        "1.0",
        "1e0",
        "1e3",
        "1000.0",
        "-1",
        "-1.0",
        "0.5",
        "1.5",
        "1e-400",
        "1e17",
        "1e19",
        "1e20",
        "1e300",
        "1.7976931348623157e308",
        "65535",
        "65536",
        "65535.0",
        "65536.0",
        "4294967295",
        "4294967295.0",
        "4294967296",
        "4294967296.0",
        "9007199254740993",
        "9007199254740993.0",
        "18446744073709549568.0",
        "18446744073709551615",
        "18446744073709551615.0",
        "18446744073709551616",
        "-9223372036854775808",
        "-9223372036854775809",
        "1.0000000000000002",
        "2.2250738585072011e-308",
    ];
    edges.extend(numbers.map(|text| serde_json::from_str::<Value>(text).unwrap()));
    edges.extend([
        json!(null),
        json!(true),
        json!(false),
        json!([]),
        json!({}),
        json!([1]),
        json!(["a"]),
        json!(["a", "a"]),
        json!({"a": "b"}),
        json!({"a": {"b": [null]}}),
    ]);
    edges
}

/// Generates values for a schema: most of them valid, some of them just not.
fn arbitrary_for(root: &Value, schema: &Value) -> BoxedStrategy<Value> {
    if let Some(reference) = schema.get("$ref") {
        return arbitrary_for(root, resolve(root, reference));
    }
    if let Some(one) = schema.get("const") {
        return Just(one.clone()).boxed();
    }
    if let Some(members) = schema["enum"].as_array() {
        return prop::sample::select(members.clone()).boxed();
    }
    let Some(types) = schema.get("type") else {
        let choices = schema["anyOf"].as_array().unwrap().iter();
        return prop::strategy::Union::new(choices.map(|choice| arbitrary_for(root, choice))).boxed();
    };
    let types: Vec<&str> = match types {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        name => name.as_str().into_iter().collect(),
    };
    let by_type = types.into_iter().map(|name| match name {
        "null" => Just(Value::Null).boxed(),
        "boolean" => any::<bool>().prop_map(Value::from).boxed(),
        "integer" => arbitrary_integer(schema),
        "number" => prop_oneof![
            4 => (0.0..=1.0_f64).prop_map(Value::from),
            2 => (0.0..=f64::MAX).prop_map(Value::from),
            1 => any::<u64>().prop_map(Value::from),
            1 => any::<f64>().prop_map(Value::from),
        ]
        .boxed(),
        "string" => arbitrary_text(schema),
        "array" => {
            prop::collection::vec(arbitrary_for(root, &schema["items"]), 0..4).prop_map(Value::from).boxed()
        }
        "object" => arbitrary_object(root, schema),
        other => unreachable!("no schema of ours has `{other}`"),
    });
    prop::strategy::Union::new(by_type).boxed()
}

fn arbitrary_integer(schema: &Value) -> BoxedStrategy<Value> {
    let min = schema["minimum"].as_u64().unwrap();
    let max = schema["maximum"].as_u64().unwrap();
    let whole = prop_oneof![min..=max, min..=max.min(min + 3), max.saturating_sub(2)..=max];
    prop_oneof![
        6 => whole.clone().prop_map(Value::from),
        // Whole numbers written with a fraction: the same numbers, if they are not rounded beyond the edge.
        4 => whole.prop_map(|number| Value::from(number as f64)),
        1 => any::<f64>().prop_map(Value::from),
        1 => (i64::MIN..0).prop_map(Value::from),
        1 => Just(Value::from(max.saturating_add(1))),
    ]
    .boxed()
}

fn arbitrary_text(schema: &Value) -> BoxedStrategy<Value> {
    if let Some(pattern) = schema["pattern"].as_str() {
        let inner = pattern.trim_start_matches('^').trim_end_matches('$');
        return string_regex(inner).unwrap().prop_map(Value::from).boxed();
    }
    let text = prop_oneof![
        12 => "\\PC{1,40}",
        2 => "[a-z\u{e9}\u{20ac}\u{10FFFF}]{250,260}",
        1 => "\\PC{0,4}[\u{0}-\u{20}\u{7e}-\u{a0}]\\PC{0,4}",
        1 => Just(String::new()),
        1 => "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",
        1 => "(\\{|urn:uuid:|)[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\\}?",
    ];
    text.prop_map(Value::from).boxed()
}

fn arbitrary_object(root: &Value, schema: &Value) -> BoxedStrategy<Value> {
    let Some(properties) = schema["properties"].as_object() else {
        let field = match schema.get("additionalProperties") {
            Some(schema) => arbitrary_for(root, schema),
            None => super::tests::arbitrary_value().boxed(),
        };
        let fields = prop::collection::btree_map(any::<String>(), field, 0..4);
        return fields.prop_map(|fields| Value::Object(fields.into_iter().collect())).boxed();
    };
    let required: Vec<&str> =
        schema["required"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let edges = edges();
    let fields: Vec<BoxedStrategy<Option<(String, Value)>>> = properties
        .iter()
        .map(|(name, schema)| {
            let value = prop_oneof![
                60 => arbitrary_for(root, schema),
                1 => prop::sample::select(edges.clone()),
            ];
            let presence = if required.contains(&name.as_str()) { 0.99 } else { 0.6 };
            let name = name.clone();
            prop::option::weighted(presence, value.prop_map(move |value| (name.clone(), value))).boxed()
        })
        .collect();
    let unknown = prop::option::weighted(0.1, ("x_[a-z]{1,5}", prop::sample::select(edges)));
    (fields, unknown)
        .prop_map(|(fields, unknown)| {
            let fields: Map<String, Value> = fields.into_iter().flatten().chain(unknown).collect();
            Value::Object(fields)
        })
        .boxed()
}

/// Generates a document of any type and version, whose `partition_key` mostly repeats the key.
fn arbitrary_document() -> impl Strategy<Value = (EventType, Value)> {
    let of_each = SCHEMAS.iter().map(|(event_type, schema)| {
        let event_type = *event_type;
        (arbitrary_for(schema, schema), prop::bool::weighted(0.9))
            .prop_map(move |(mut document, repeats_key)| {
                if repeats_key
                    && document.get("partition_key").is_some_and(Value::is_string)
                    && let Some(key) = key_of(event_type, &document)
                {
                    document["partition_key"] = Value::from(key);
                }
                (event_type, document)
            })
            .boxed()
    });
    prop::strategy::Union::new(of_each)
}

#[test]
fn schemas_and_decoder_agree_on_every_edge_in_every_field() {
    let mut counts = (0, 0);

    for (event_type, schema) in SCHEMAS.iter() {
        let builder =
            EventBuilder::one_of_each().into_iter().find(|b| b.build().payload.event_type() == *event_type);
        let mut valid = event_json(&builder.unwrap().build());
        if schema["properties"]["schema_version"]["const"] == 1
            && *event_type == EventType::JobMetricsRecorded
        {
            valid["schema_version"] = json!(1);
            valid["payload"] = json!({"metrics": {"cpu_usage": 1, "memory_usage": 2, "io_operations": 3, "execution_time": 4}});
        }
        let paths = |object: &Value, prefix: &str| -> Vec<String> {
            let fields = object["properties"].as_object().into_iter().flatten();
            fields.map(|(name, _)| format!("{prefix}/{name}")).collect()
        };
        let payload = &schema["properties"]["payload"];
        let mut pointers = paths(schema, "");
        pointers.extend(paths(payload, "/payload"));
        pointers.extend(paths(&payload["properties"]["metrics"], "/payload/metrics"));
        assert_eq!(check_agreement(*event_type, &valid), Ok(()));

        for pointer in pointers {
            for edge in edges() {
                let mut document = valid.clone();
                let (parent, name) = pointer.rsplit_once('/').unwrap();
                document.pointer_mut(parent).unwrap()[name] = edge;
                // The key follows the field that it is, so that the field itself is looked at.
                if let Some(key) = key_of(*event_type, &document).filter(|_| name != "partition_key") {
                    document["partition_key"] = Value::from(key);
                }

                assert_eq!(check_agreement(*event_type, &document), Ok(()), "{pointer}");
                match decode_document(*event_type, &document) {
                    Ok(_) => counts.0 += 1,
                    Err(_) => counts.1 += 1,
                }
            }
        }
    }

    assert!(counts.0 > 500 && counts.1 > 500, "{counts:?}");
}

#[test]
fn numbers_as_they_may_be_written_are_read_as_json_schema_means_them() {
    let document = event_json(&EventBuilder::job_metrics_recorded().build()).to_string();
    let read = |number: &str| {
        let text = document.replace("\"io_operations\":", &format!("\"io_operations\":{number},\"x\":"));
        decode_payload(EventType::JobMetricsRecorded, Some("job-1"), Encoding::Json, text.into_bytes())
    };
    let table = [
        ("1000", Some(1000)),
        ("1000.0", Some(1000)),
        ("1e3", Some(1000)),
        ("1.5e1", Some(15)),
        ("-0", Some(0)),
        ("-0.0", Some(0)),
        ("18446744073709551615", Some(u64::MAX)),
        ("18446744073709549568.0", Some(18_446_744_073_709_549_568)),
        ("18446744073709551616", None),
        ("1e20", None),
        ("1.5", None),
        ("-1.0", None),
        ("1e-1", None),
        ("\"1000\"", None),
    ];

    for (number, wanted) in table {
        match (read(number), wanted) {
            (Ok(Event { payload: Payload::JobMetricsRecorded(metrics), .. }), Some(wanted)) => {
                assert_eq!(metrics.io_operations, wanted, "{number}");
            }
            (Err(rejection), None) => {
                assert_eq!(rejection.field(), Some("payload.io_operations"), "{number}")
            }
            (answer, wanted) => unreachable!("{number}: {answer:?}, wanted {wanted:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn what_a_schema_allows_decodes_and_nothing_else((event_type, document) in arbitrary_document()) {
        prop_assert_eq!(check_agreement(event_type, &document), Ok(()));
    }

    #[test]
    fn whatever_is_written_is_what_the_schema_allows(event in arbitrary_event()) {
        let document = event_json(&event);

        let schema = schema_for(event.payload.event_type(), &document);

        prop_assert!(is_valid(schema, schema, &document), "{}", document);
    }
}

#[test]
fn generated_documents_are_both_allowed_and_refused_of_every_type() {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = arbitrary_document();
    let mut seen = std::collections::BTreeMap::new();

    for _ in 0..2_000 {
        let (event_type, document) = strategy.new_tree(&mut runner).unwrap().current();
        let decoded = decode_document(event_type, &document);
        let (ok, refused) = seen.entry(event_type).or_insert((0, 0));
        if decoded.is_ok() { *ok += 1 } else { *refused += 1 }
    }

    assert!(
        seen.len() == EventType::ALL.len() && seen.values().all(|(ok, no)| *ok > 10 && *no > 10),
        "{seen:?}"
    );
}
