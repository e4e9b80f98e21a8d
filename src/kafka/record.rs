//! From the client library's messages to records.
//!
//! Promises that key, payload and readable headers come byte for byte, null apart from empty, and that the
//! same message always gives the same record. Two things the library does not hand out, and they are lost in
//! the same way each time:
//!
//! - A header whose name is not UTF-8: the library panics when it is asked for one, value included, and offers
//!   no other way to read it without `unsafe`. Such a header keeps its place and is stored as
//!   [`UNREADABLE_HEADER`] without a value. The other headers of the record are read as they are.
//! - What follows a NUL in a header's name: the library hands names out as C strings.
//!
//! *Source*: rdkafka 0.39.0, `BorrowedHeaders::try_get`: `CStr::from_ptr(name_ptr).to_str().unwrap()`.

use bytes::Bytes;
use horizons_actors::clock::Timestamp;
use horizons_actors::ids::Offset;
use horizons_actors::lane::guard::guard;
use horizons_actors::record::{Headers, LogRecord, TimestampType};
use rdkafka::message::{BorrowedHeaders, Headers as _, Message, Timestamp as KafkaTimestamp};

/// Stands for a header whose name the client library cannot hand out. It is not UTF-8 itself, so no header
/// that was read can have it.
pub const UNREADABLE_HEADER: &[u8] = b"\xffunreadable";

/// Copies a message into a record of its own; none for an offset below zero, which no log holds.
pub fn record_of<M: Message<Headers = BorrowedHeaders>>(message: &M) -> Option<LogRecord> {
    let (timestamp, timestamp_type) = match message.timestamp() {
        KafkaTimestamp::CreateTime(millis) => (millis, TimestampType::CreateTime),
        KafkaTimestamp::LogAppendTime(millis) => (millis, TimestampType::AppendTime),
        KafkaTimestamp::NotAvailable => (NO_TIMESTAMP_MILLIS, TimestampType::CreateTime),
    };
    Some(LogRecord {
        offset: Offset(u64::try_from(message.offset()).ok()?),
        timestamp: Timestamp::from_millis(timestamp),
        timestamp_type,
        key: message.key().map(Bytes::copy_from_slice),
        headers: message.headers().map_or_else(Headers::none, headers_of),
        payload: message.payload().map(Bytes::copy_from_slice),
    })
}

/// What Kafka itself writes for a record without a timestamp.
const NO_TIMESTAMP_MILLIS: i64 = -1;

fn headers_of(headers: &BorrowedHeaders) -> Headers {
    // One guard around all of them: names that are not UTF-8 are rare, and then each is read on its own.
    let all: Option<Vec<_>> =
        guard(|| (0..headers.count()).map_while(|index| headers.try_get(index)).collect()).ok();
    if let Some(all) = all {
        return Headers::new(all.into_iter().map(|header| (header.key.as_bytes(), header.value)));
    }
    let each = (0..headers.count()).map(|index| match guard(|| headers.try_get(index)) {
        Ok(Some(header)) => (header.key.as_bytes(), header.value),
        Ok(None) | Err(_) => (UNREADABLE_HEADER, None),
    });
    Headers::new(each)
}
