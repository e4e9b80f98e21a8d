//! An audit entry as JSON, whole to the byte, and back.
//!
//! Promises that what is read back is what was written, so that a verifier far from the store hashes the same
//! bytes. Key, headers and payload are base64, because they need not be text; absent is null.

use horizons_actors::auditor::to_hex;
use horizons_actors::clock::Timestamp;
use horizons_actors::ids::{Generation, LogId, Offset, Partition, Topic, TopicPartition};
use horizons_actors::ports::query::{AuditPosition, StoredAuditEntry, StoredAuditLog};
use horizons_actors::record::{Digest32, Headers, LogRecord, TimestampType};
use horizons_actors::state::{AuditLogState, AuditSegment};
use serde_json::{Value, json};

use super::client::{base64_bytes, base64_text};

/// Tells which field of an answer is not as wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}`: wanted {wanted}, got `{got}`")]
pub struct JsonFieldError {
    /// The field.
    pub field: &'static str,
    /// What it may hold.
    pub wanted: &'static str,
    /// What it holds.
    pub got: String,
}

/// Writes an entry.
///
/// *Shape*: `topic`, `partition`, `generation`, `index`, `leaf_hash` and `chain_hash` (hexadecimal), `mark`, `appended_at`,
/// and `record` (null when the body was removed) with `offset`, `timestamp`, `timestamp_type` (0 producer, 1
/// log), `key_base64`, `headers_base64` (the header block) and `value_base64`.
pub fn entry_to_json(entry: &StoredAuditEntry) -> Value {
    let record = entry.record.as_ref().map(|record| {
        json!({
            "offset": record.offset,
            "timestamp": record.timestamp,
            "timestamp_type": record.timestamp_type.code(),
            "key_base64": record.key.as_ref().map(|bytes| base64_text(bytes)),
            "headers_base64": base64_text(record.headers.as_block()),
            "value_base64": record.payload.as_ref().map(|bytes| base64_text(bytes)),
        })
    });
    json!({
        "topic": entry.position.topic_partition.topic,
        "partition": entry.position.topic_partition.partition,
        "generation": entry.position.generation,
        "index": entry.position.index,
        "leaf_hash": to_hex(&entry.leaf_hash),
        "chain_hash": to_hex(&entry.chain_hash),
        "mark": entry.mark,
        "appended_at": entry.appended_at,
        "record": record,
    })
}

/// Reads an entry.
///
/// *Errors*: [`JsonFieldError`] with the first field that is not as wanted.
pub fn entry_from_json(entry: &Value) -> Result<StoredAuditEntry, JsonFieldError> {
    let record = match entry.get("record") {
        None | Some(Value::Null) => None,
        Some(record) => Some(record_from_json(record)?),
    };
    Ok(StoredAuditEntry {
        position: AuditPosition {
            topic_partition: topic_partition_from_json(entry)?,
            generation: generation_from_json(entry)?,
            index: number(entry, "index")?,
        },
        leaf_hash: digest(entry, "leaf_hash")?,
        chain_hash: digest(entry, "chain_hash")?,
        mark: text(entry, "mark")?.to_owned(),
        appended_at: time(entry, "appended_at")?,
        record,
    })
}

fn record_from_json(record: &Value) -> Result<LogRecord, JsonFieldError> {
    let code = number(record, "timestamp_type")?;
    let timestamp_type = u8::try_from(code).ok().and_then(TimestampType::from_code);
    let bytes = |field: &'static str| {
        base64_bytes(record.get(field)).map_err(|_| wrong(record, field, "base64 or null"))
    };
    let block = bytes("headers_base64")?.unwrap_or_default();
    Ok(LogRecord {
        offset: Offset(number(record, "offset")?),
        timestamp: time(record, "timestamp")?,
        timestamp_type: timestamp_type.ok_or_else(|| wrong(record, "timestamp_type", "0 or 1"))?,
        key: bytes("key_base64")?,
        headers: Headers::from_block(block).map_err(|_| wrong(record, "headers_base64", "a header block"))?,
        payload: bytes("value_base64")?,
    })
}

/// Writes a log's state.
///
/// *Shape*: `topic`, `partition`, `generation`, `log_id`, `size`, `chain_head` and `frontier` (hexadecimal), `last_offset`, and
/// `segment` with `number`, `first_index`, `opened_at` and `closed` (null or `end_index` and `closed_at`).
pub fn log_to_json(log: &StoredAuditLog) -> Value {
    let StoredAuditLog { topic_partition, generation, log_id, state } = log;
    let closed = state
        .segment
        .closed
        .map(|(end_index, closed_at)| json!({"end_index": end_index, "closed_at": closed_at}));
    json!({
        "topic": topic_partition.topic,
        "partition": topic_partition.partition,
        "generation": generation,
        "log_id": log_id,
        "size": state.size,
        "chain_head": to_hex(&state.chain_head),
        "frontier": state.frontier.iter().map(to_hex).collect::<Vec<_>>(),
        "last_offset": state.last_offset,
        "segment": {
            "number": state.segment.number,
            "first_index": state.segment.first_index,
            "opened_at": state.segment.opened_at,
            "closed": closed,
        },
    })
}

/// Reads a log's state.
///
/// *Errors*: [`JsonFieldError`] with the first field that is not as wanted.
pub fn log_from_json(row: &Value) -> Result<StoredAuditLog, JsonFieldError> {
    let frontier = row.get("frontier").and_then(Value::as_array).and_then(|digests| {
        digests.iter().map(|digest| digest.as_str().and_then(digest_from_hex)).collect::<Option<Vec<_>>>()
    });
    let last_offset = match row.get("last_offset") {
        None | Some(Value::Null) => None,
        Some(_) => Some(Offset(number(row, "last_offset")?)),
    };
    let segment = row.get("segment").ok_or_else(|| wrong(row, "segment", "an object"))?;
    let closed = match segment.get("closed") {
        None | Some(Value::Null) => None,
        Some(closed) => Some((number(closed, "end_index")?, time(closed, "closed_at")?)),
    };
    let state = AuditLogState {
        size: number(row, "size")?,
        chain_head: digest(row, "chain_head")?,
        frontier: frontier.ok_or_else(|| wrong(row, "frontier", "a list of digests"))?,
        last_offset,
        segment: AuditSegment {
            number: number(segment, "number")?,
            first_index: number(segment, "first_index")?,
            opened_at: time(segment, "opened_at")?,
            closed,
        },
    };
    let log_id = LogId::parse(text(row, "log_id")?).map_err(|_| wrong(row, "log_id", "the id of a log"))?;
    Ok(StoredAuditLog {
        topic_partition: topic_partition_from_json(row)?,
        generation: generation_from_json(row)?,
        log_id,
        state,
    })
}

/// Reads the generation of a partition.
fn generation_from_json(value: &Value) -> Result<Generation, JsonFieldError> {
    let generation = u32::try_from(number(value, "generation")?);
    generation.map(Generation).map_err(|_| wrong(value, "generation", "a generation"))
}

/// Reads the partition that an object names.
fn topic_partition_from_json(value: &Value) -> Result<TopicPartition, JsonFieldError> {
    let topic =
        Topic::parse(text(value, "topic")?).map_err(|_| wrong(value, "topic", "a topic of record"))?;
    let partition = u16::try_from(number(value, "partition")?);
    let partition = Partition(partition.map_err(|_| wrong(value, "partition", "a partition"))?);
    Ok(TopicPartition { topic, partition })
}

/// Reads a digest in hexadecimal.
fn digest(value: &Value, field: &'static str) -> Result<Digest32, JsonFieldError> {
    digest_from_hex(text(value, field)?).ok_or_else(|| wrong(value, field, "64 hexadecimal digits"))
}

/// Reads 64 hexadecimal digits.
fn digest_from_hex(text: &str) -> Option<Digest32> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let bytes: Option<Vec<u8>> = digits?
        .chunks(2)
        .map(|pair| if let [high, low] = pair { Some(high << 4 | low) } else { None })
        .collect();
    bytes?.try_into().ok()
}

/// Reads a whole number.
fn number(value: &Value, field: &'static str) -> Result<u64, JsonFieldError> {
    value.get(field).and_then(Value::as_u64).ok_or_else(|| wrong(value, field, "a whole number"))
}

/// Reads a text.
pub(super) fn text<'a>(value: &'a Value, field: &'static str) -> Result<&'a str, JsonFieldError> {
    value.get(field).and_then(Value::as_str).ok_or_else(|| wrong(value, field, "a text"))
}

fn time(value: &Value, field: &'static str) -> Result<Timestamp, JsonFieldError> {
    Timestamp::parse(text(value, field)?).ok_or_else(|| wrong(value, field, "an RFC 3339 time"))
}

fn wrong(value: &Value, field: &'static str, wanted: &'static str) -> JsonFieldError {
    let got = value.get(field).map_or_else(|| "nothing".to_owned(), Value::to_string);
    JsonFieldError { field, wanted, got }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn bytes() -> impl Strategy<Value = Option<Bytes>> {
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from))
    }

    prop_compose! {
        fn entries()(
            topic in proptest::sample::select(Topic::ALL.to_vec()),
            partition in 0_u16..10,
            index: u64,
            leaf_hash: Digest32,
            chain_hash: Digest32,
            micros in 0_i64..4_000_000_000_000_000,
            key in bytes(),
            payload in bytes(),
            name in proptest::collection::vec(any::<u8>(), 0..9),
            value in bytes(),
            has_record: bool,
        ) -> StoredAuditEntry {
            let record = LogRecord {
                offset: Offset(index / 2),
                timestamp: Timestamp::from_micros(micros),
                timestamp_type: TimestampType::AppendTime,
                key,
                headers: Headers::new([(name.as_slice(), value.as_deref())]),
                payload,
            };
            StoredAuditEntry {
                position: AuditPosition {
                    generation: Generation(3),
                    topic_partition: TopicPartition { topic, partition: Partition(partition) },
                    index,
                },
                leaf_hash,
                chain_hash,
                mark: "event".to_owned(),
                appended_at: Timestamp::from_micros(micros + 1),
                record: has_record.then_some(record),
            }
        }
    }

    proptest! {
        #[test]
        fn entry_any_bytes_survive_json(entry in entries()) {
            let text = entry_to_json(&entry).to_string();

            let read = entry_from_json(&serde_json::from_str(&text).unwrap()).unwrap();

            prop_assert_eq!(read, entry);
        }
    }

    #[test]
    fn entry_missing_field_is_named() {
        let error = entry_from_json(&json!({"topic": "job-metrics", "partition": 70_000})).unwrap_err();

        assert_eq!(error.to_string(), "`partition`: wanted a partition, got `70000`");
    }

    #[test]
    fn digest_wrong_lengths_are_refused() {
        for text in ["", "0", "zz", &"0".repeat(63), &"0".repeat(66)] {
            assert_eq!(digest_from_hex(text), None, "{text}");
        }
    }
}
