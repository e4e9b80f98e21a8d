//! The record that goes to a dead-letter topic. Pure.
//!
//! Promises the original key, headers and payload byte for byte; what is added are headers of their own
//! names, written after the original ones. Only what is too large for the dead-letter topic (a record that
//! another producer put on a topic with a higher limit) is left out, part by part, and named in a header: the
//! dead-letter store keeps the original whole.

use crate::clock::Timestamp;
use crate::ids::{LaneKey, LogTopic, Partition};
use crate::record::{Headers, LogRecord, OutgoingRecord};
use crate::rejection::{Rejection, short_detail};

/// Names of the headers that tell where a dead letter comes from.
pub mod header {
    /// The topic it stood on.
    pub const ORIGIN_TOPIC: &str = "horizons-origin-topic";
    /// The partition it stood in.
    pub const ORIGIN_PARTITION: &str = "horizons-origin-partition";
    /// Its offset there.
    pub const ORIGIN_OFFSET: &str = "horizons-origin-offset";
    /// The consumer group that rejected it.
    pub const ORIGIN_GROUP: &str = "horizons-origin-group";
    /// The stable name of the rejection.
    pub const REASON: &str = "horizons-rejection-reason";
    /// The rejection in words.
    pub const DETAIL: &str = "horizons-rejection-detail";
    /// When it was rejected, RFC 3339.
    pub const REJECTED_AT: &str = "horizons-rejected-at";
    /// The parts of the original that are too large for the topic, separated by commas; absent when none is.
    pub const OMITTED: &str = "horizons-omitted";
}

/// The parts of a record, as [`header::OMITTED`] names them.
const PAYLOAD: &str = "payload";
const HEADERS: &str = "headers";
const KEY: &str = "key";
const ALL_PARTS: [&str; 3] = [PAYLOAD, HEADERS, KEY];

/// Makes the record for the dead-letter topic, in the partition of the same number: of one that was added to the source
/// later, modulo those that dead-letter topics have.
pub fn dead_letter_record(
    lane: &LaneKey,
    record: &LogRecord,
    rejection: &Rejection,
    now: Timestamp,
) -> OutgoingRecord {
    let origin = lane.topic_partition;
    let added = [
        (header::ORIGIN_TOPIC, origin.topic.name().to_owned()),
        (header::ORIGIN_PARTITION, origin.partition.to_string()),
        (header::ORIGIN_OFFSET, record.offset.to_string()),
        (header::ORIGIN_GROUP, lane.group.to_string()),
        (header::REASON, rejection.name().to_owned()),
        (header::DETAIL, short_detail(&rejection.to_string())),
        (header::REJECTED_AT, now.to_string()),
    ];
    let letter = |omitted: &[&str]| {
        let is_kept = |part: &str| !omitted.contains(&part);
        let names = omitted.join(",");
        let original = record.headers.iter().filter(|_| is_kept(HEADERS));
        let added = added.iter().map(|(name, value)| (name.as_bytes(), Some(value.as_bytes())));
        let omission = (!omitted.is_empty()).then_some((header::OMITTED.as_bytes(), Some(names.as_bytes())));
        OutgoingRecord {
            topic: LogTopic::DeadLetter(origin.topic),
            partition: Partition(origin.partition.0 % origin.topic.partitions()),
            timestamp: now,
            key: record.key.clone().filter(|_| is_kept(KEY)),
            headers: Headers::new(original.chain(added).chain(omission)),
            payload: record.payload.clone().filter(|_| is_kept(PAYLOAD)),
        }
    };
    let fitting = [&[] as &[&str], &[PAYLOAD], &[PAYLOAD, HEADERS]].into_iter().map(letter);
    fitting.into_iter().find(|letter| letter.check_size().is_ok()).unwrap_or_else(|| letter(&ALL_PARTS))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ids::{Group, Offset, Topic, TopicPartition};
    use crate::record::TimestampType;

    #[test]
    fn dead_letter_any_record_reads_back_every_header() {
        let lane = LaneKey {
            group: Group::jobs(),
            topic_partition: TopicPartition { topic: Topic::JobLifecycle, partition: Partition(3) },
        };
        let record = LogRecord {
            offset: Offset(41),
            timestamp: Timestamp::from_millis(5),
            timestamp_type: TimestampType::CreateTime,
            key: Some(Bytes::from_static(b"j")),
            headers: Headers::new([(&b"\xff"[..], None), (&b"content-type"[..], Some(&b"x"[..]))]),
            payload: Some(Bytes::from_static(b"\x00junk")),
        };
        let rejection = Rejection::MissingField { field: "payload.agent".to_owned() };

        let letter = dead_letter_record(&lane, &record, &rejection, Timestamp::from_millis(7));

        assert_eq!(letter.topic.to_string(), "job-lifecycle.dlq");
        assert_eq!(
            (letter.partition, letter.key, letter.payload),
            (Partition(3), record.key, record.payload)
        );
        let originals: Vec<_> = letter.headers.iter().take(2).collect();
        assert_eq!(originals, record.headers.iter().collect::<Vec<_>>());
        for (name, wanted) in [
            (header::ORIGIN_TOPIC, "job-lifecycle"),
            (header::ORIGIN_PARTITION, "3"),
            (header::ORIGIN_OFFSET, "41"),
            (header::ORIGIN_GROUP, "jobs"),
            (header::REASON, "missing_field"),
            (header::DETAIL, "missing field `payload.agent`"),
            (header::REJECTED_AT, "1970-01-01T00:00:00.007000Z"),
        ] {
            assert_eq!(letter.headers.get(name), Some(wanted.as_bytes()), "{name}");
        }
    }

    #[test]
    fn dead_letter_record_too_large_for_topic_names_what_is_left_out() {
        let lane = LaneKey {
            group: Group::jobs(),
            topic_partition: TopicPartition { topic: Topic::JobLifecycle, partition: Partition(3) },
        };
        let huge = || Bytes::from(vec![b'x'; 2 * crate::record::RECORD_MAX_BYTES]);
        let small = LogRecord {
            offset: Offset(41),
            timestamp: Timestamp::from_millis(5),
            timestamp_type: TimestampType::CreateTime,
            key: Some(Bytes::from_static(b"j")),
            headers: Headers::new([(&b"a"[..], Some(&b"b"[..]))]),
            payload: Some(Bytes::from_static(b"p")),
        };
        let table = [
            (LogRecord { payload: Some(huge()), ..small.clone() }, "payload"),
            (
                LogRecord { headers: Headers::new([(&b"a"[..], Some(&huge()[..]))]), ..small.clone() },
                "payload,headers",
            ),
            (LogRecord { key: Some(huge()), ..small.clone() }, "payload,headers,key"),
        ];
        let rejection = Rejection::MissingField { field: "payload.agent".to_owned() };

        for (record, wanted) in table {
            let letter = dead_letter_record(&lane, &record, &rejection, Timestamp::from_millis(7));

            assert_eq!(letter.check_size(), Ok(()));
            assert_eq!(letter.headers.get(header::OMITTED), Some(wanted.as_bytes()));
            assert_eq!(letter.headers.get(header::ORIGIN_OFFSET), Some(b"41".as_slice()));
        }
        let letter = dead_letter_record(&lane, &small, &rejection, Timestamp::from_millis(7));
        assert_eq!((letter.headers.get(header::OMITTED), letter.payload), (None, small.payload));
    }
}
