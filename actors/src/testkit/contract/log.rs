//! The outbox as a log: offsets, heads and reading.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::future::{join, join_all};

use super::Store;
use super::sample::{Owner, PROCESS, jobs_lane, outgoing, partition, text};
use crate::clock::Timestamp;
use crate::effect::Effects;
use crate::ids::{LogTopic, Offset, Topic, TopicPartition};
use crate::record::{Headers, LogRecord, OutgoingRecord, TimestampType};

const HERE: TopicPartition = partition(Topic::JobMetrics, 3);
const THERE: TopicPartition = partition(Topic::JobMetrics, 4);
const AUDIT: TopicPartition = partition(Topic::AuditTrail, 1);

/// Reads a whole partition.
fn all(store: &impl Store, of: TopicPartition) -> Vec<LogRecord> {
    store.read(of, Offset(0), usize::MAX, usize::MAX).expect("the log can be read")
}

/// Offsets start at 0, have no holes, and are answered in the order of the records.
pub async fn append_records_answers_offsets_without_holes(store: Arc<impl Store>) {
    let records = vec![outgoing(HERE, "a"), outgoing(THERE, "b"), outgoing(HERE, "c")];

    let first = store.append_records(records, vec![outgoing(AUDIT, "act")]).await.expect("appended");
    let second = store.append_records(vec![outgoing(HERE, "d")], Vec::new()).await.expect("appended");

    let places: Vec<_> =
        first.iter().chain(&second).map(|place| (place.partition.0, place.offset.0)).collect();
    assert_eq!(places, [(3, 0), (4, 0), (3, 1), (3, 2)]);
    assert!(first.iter().all(|place| place.topic == LogTopic::Record(Topic::JobMetrics)));
    let stored: Vec<_> = all(&*store, HERE).iter().map(|record| (record.offset.0, text(record))).collect();
    assert_eq!(stored, [(0, "a".to_owned()), (1, "c".to_owned()), (2, "d".to_owned())]);
    assert_eq!(all(&*store, AUDIT).len(), 1);
}

/// Writers that append at the same time.
const WRITERS: u16 = 10;

/// Transactions of each.
const ROUNDS: usize = 8;

/// Many writers at once: offsets without holes, each writer's records in its order, none lost or doubled.
pub async fn append_concurrent_writers_leave_no_holes(store: Arc<impl Store>) {
    let writers = (0..WRITERS).map(|number| {
        let store = Arc::clone(&store);
        async move {
            let opened = store.open_lane(jobs_lane(number), PROCESS).await.expect("a lane can be opened");
            let mut owner = Owner::new(jobs_lane(number), &opened);
            for round in 0..ROUNDS {
                let payload = |part: usize| format!("{number}/{:04}", round * 2 + part);
                let outbox = vec![outgoing(HERE, &payload(0)), outgoing(HERE, &payload(1))];
                let mut fenced = owner.step(Effects { outbox: outbox.clone(), ..Effects::default() });
                fenced.fence.revision = fenced.fence.revision.following();
                let step = owner.step(Effects { outbox, ..Effects::default() });
                let (refused, committed) = join(store.commit(fenced), store.commit(step)).await;
                assert!(refused.is_err(), "a wrong fence was accepted");
                owner.stepped(&committed.expect("the owner may write"));
            }
        }
    });
    let appends = (0..usize::from(WRITERS) * ROUNDS)
        .map(|number| store.append_records(vec![outgoing(HERE, &format!("x/{number:04}"))], Vec::new()));

    let (_, appended) = join(join_all(writers), join_all(appends)).await;

    assert!(appended.iter().all(Result::is_ok));
    let records = all(&*store, HERE);
    let offsets: Vec<u64> = records.iter().map(|record| record.offset.0).collect();
    let count = u64::from(WRITERS) * ROUNDS as u64 * 3;
    assert_eq!(offsets, (0..count).collect::<Vec<u64>>());
    for number in 0..WRITERS {
        let own: Vec<String> = records
            .iter()
            .map(text)
            .filter(|payload| payload.split('/').next() == Some(&number.to_string()))
            .collect();
        let wanted: Vec<String> = (0..ROUNDS * 2).map(|part| format!("{number}/{part:04}")).collect();
        assert_eq!(own, wanted);
    }
}

/// Whoever has an answer finds the new end told, and the listeners called.
pub async fn append_tells_heads_before_it_answers(store: Arc<impl Store>) {
    let heads = store.heads();
    let told = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&told);
    heads.on_advance(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    let before = heads.end(HERE);

    store.append_records(vec![outgoing(HERE, "a"), outgoing(HERE, "b")], Vec::new()).await.expect("appended");

    assert_eq!((before, heads.end(HERE), heads.end(THERE)), (Offset(0), Offset(2), Offset(0)));
    assert!(told.load(Ordering::SeqCst) >= 1);
}

/// Reading gives what is asked for: from an offset, so many records, so many bytes after the first.
pub async fn read_stops_at_each_limit(store: Arc<impl Store>) {
    let records = (0..5).map(|number| outgoing(HERE, &format!("record {number}"))).collect();
    store.append_records(records, Vec::new()).await.expect("appended");
    let weight = all(&*store, HERE).first().map_or(0, LogRecord::weight_bytes);
    let read = |from, records, bytes| {
        let read = store.read(HERE, Offset(from), records, bytes).expect("the log can be read");
        read.iter().map(|record| record.offset.0).collect::<Vec<u64>>()
    };

    assert_eq!(read(1, 2, usize::MAX), [1, 2]);
    assert_eq!(read(0, 5, weight * 2), [0, 1]);
    assert_eq!(read(3, 5, 1), [3]);
    assert_eq!(read(5, 5, usize::MAX), Vec::<u64>::new());
    assert_eq!(read(u64::MAX, 5, usize::MAX), Vec::<u64>::new());
    assert_eq!(store.low(HERE).expect("the log can be read"), Offset(0));
    assert_eq!(store.low(THERE).expect("the log can be read"), Offset(0));
    let previous = |next| store.read_previous(HERE, Offset(next)).expect("the log can be read");
    assert_eq!(previous(0), None);
    assert_eq!(previous(3).map(|record| record.offset), Some(Offset(2)));
    assert_eq!(previous(u64::MAX).map(|record| record.offset), Some(Offset(4)));
}

/// The largest payload that the contract stores, far above what any topic accepts.
const LARGEST_PAYLOAD_BYTES: usize = 8 * 1024 * 1024;

/// Null and empty, odd headers and a very large payload come back byte for byte.
pub async fn read_largest_and_oddest_records_round_trip(store: Arc<impl Store>) {
    let base = outgoing(HERE, "");
    let odd_headers = Headers::new([
        (b"".as_slice(), None),
        (b"\xff\xfe".as_slice(), Some(b"".as_slice())),
        (b"nul\0".as_slice(), Some(b"\0\0".as_slice())),
    ]);
    let records = vec![
        OutgoingRecord { key: None, payload: None, ..base.clone() },
        OutgoingRecord { key: Some(Bytes::new()), payload: Some(Bytes::new()), ..base.clone() },
        OutgoingRecord { headers: odd_headers, timestamp: Timestamp::from_micros(i64::MIN), ..base.clone() },
        OutgoingRecord { timestamp: Timestamp::from_micros(i64::MAX), ..base.clone() },
        OutgoingRecord { payload: Some(Bytes::from(vec![0xa5; LARGEST_PAYLOAD_BYTES])), ..base },
    ];

    store.append_records(records.clone(), Vec::new()).await.expect("appended");

    let stored = all(&*store, HERE);
    assert_eq!(stored.len(), records.len());
    for (record, stored) in records.iter().zip(&stored) {
        assert!(
            record.key == stored.key
                && record.payload == stored.payload
                && record.headers == stored.headers
                && record.timestamp == stored.timestamp,
            "record at offset {} changed",
            stored.offset
        );
    }
    let types: Vec<_> = stored.iter().map(|record| record.timestamp_type).collect();
    assert_eq!(types, [TimestampType::CreateTime; 5]);
}
