//! A row of the outbox as Kafka is given it, and how it is recognised there again. Pure.
//!
//! Promises that key, payload and header values go out byte for byte, null apart from empty. Header names that
//! the client library cannot express (bytes that are no UTF-8, or hold a zero) go out under a name of their
//! own from which the bytes can be got back; Horizons' own names never need it.

use std::borrow::Cow;

use horizons_actors::record::{Digest32, LogRecord, TimestampType};
use sha2::{Digest, Sha256};

/// What stands before the hexadecimal form of a header name that is no text.
pub const ODD_NAME_PREFIX: &str = "horizons-hex-name-";

/// Gives the name under which a header goes out.
pub(super) fn header_name(name: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(name) {
        Ok(text) if !text.contains('\0') => Cow::Borrowed(text),
        _ => {
            let digits = name.iter().map(|byte| format!("{byte:02x}"));
            Cow::Owned(std::iter::once(ODD_NAME_PREFIX.to_owned()).chain(digits).collect())
        }
    }
}

/// Recognises a record in Kafka as a row of the outbox.
///
/// The whole record counts, not the event id alone: dead letters of one event by two groups share its id, and
/// records of other producers may have none or repeat one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    /// Milliseconds, as Kafka keeps them; none where the broker has put its own time in.
    timestamp_ms: Option<i64>,
    content: Digest32,
}

impl Identity {
    /// Gives what a row will look like in Kafka, or what a record there looks like.
    pub(super) fn of(record: &LogRecord) -> Self {
        let headers = record.headers.iter().map(|(name, value)| (header_name(name), value));
        let timestamp_ms = match record.timestamp_type {
            TimestampType::CreateTime => Some(record.timestamp.as_millis()),
            TimestampType::AppendTime => None,
        };
        Self { timestamp_ms, content: digest(record.key.as_deref(), record.payload.as_deref(), headers) }
    }

    /// Tells whether both are the same record; a time that only one of them has does not count.
    pub(super) fn is_same(&self, other: &Identity) -> bool {
        let is_time_equal = match (self.timestamp_ms, other.timestamp_ms) {
            (Some(left), Some(right)) => left == right,
            _ => true,
        };
        is_time_equal && self.content == other.content
    }
}

fn digest<'a>(
    key: Option<&[u8]>,
    payload: Option<&[u8]>,
    headers: impl Iterator<Item = (Cow<'a, str>, Option<&'a [u8]>)>,
) -> Digest32 {
    let mut hash = Sha256::new();
    let mut part = |bytes: Option<&[u8]>| match bytes {
        None => hash.update([0]),
        Some(bytes) => {
            hash.update([1]);
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        }
    };
    part(key);
    part(payload);
    for (name, value) in headers {
        part(Some(name.as_bytes()));
        part(value);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use horizons_actors::clock::Timestamp;
    use horizons_actors::ids::Offset;
    use horizons_actors::record::Headers;
    use proptest::prelude::*;

    use super::*;

    fn row(key: Option<&[u8]>, payload: Option<&[u8]>, headers: Headers) -> LogRecord {
        LogRecord {
            offset: Offset(0),
            timestamp: Timestamp::from_micros(1_234_567),
            timestamp_type: TimestampType::CreateTime,
            key: key.map(Bytes::copy_from_slice),
            headers,
            payload: payload.map(Bytes::copy_from_slice),
        }
    }

    #[test]
    fn header_name_of_any_bytes_is_text_without_zero() {
        assert_eq!(header_name(b"event-id"), "event-id");
        assert_eq!(header_name("größe".as_bytes()), "größe");
        assert_eq!(header_name(b""), "");
        assert_eq!(header_name(b"\xff\x01"), "horizons-hex-name-ff01");
        assert_eq!(header_name(b"a\0"), "horizons-hex-name-6100");
    }

    #[test]
    fn identity_null_and_empty_are_different() {
        let nothing = Identity::of(&row(None, None, Headers::none()));
        let empty_key = Identity::of(&row(Some(b""), None, Headers::none()));
        let empty_payload = Identity::of(&row(None, Some(b""), Headers::none()));

        assert!(!nothing.is_same(&empty_key) && !nothing.is_same(&empty_payload));
        assert!(!empty_key.is_same(&empty_payload));
    }

    #[test]
    fn identity_append_time_of_broker_does_not_count() {
        let sent = row(Some(b"k"), Some(b"p"), Headers::none());
        let at = |ms, timestamp_type| LogRecord {
            timestamp: Timestamp::from_millis(ms),
            timestamp_type,
            ..sent.clone()
        };
        let is_found = |record: LogRecord| Identity::of(&sent).is_same(&Identity::of(&record));

        assert!(is_found(at(1_234, TimestampType::CreateTime)));
        assert!(!is_found(at(1_235, TimestampType::CreateTime)));
        assert!(is_found(at(9_999, TimestampType::AppendTime)));
    }

    proptest! {
        #[test]
        fn identity_any_record_is_found_under_its_names_in_kafka(
            key: Option<Vec<u8>>,
            payload: Option<Vec<u8>>,
            headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
        ) {
            let block = Headers::new(headers.iter().map(|(name, value)| (name.as_slice(), value.as_deref())));
            let sent = row(key.as_deref(), payload.as_deref(), block);
            let names: Vec<_> = headers.iter().map(|(name, _)| header_name(name)).collect();
            let given = names.iter().zip(&headers).map(|(name, (_, value))| (name.as_bytes(), value.as_deref()));
            let found = LogRecord {
                headers: Headers::new(given),
                timestamp: Timestamp::from_millis(1_234),
                ..sent.clone()
            };

            prop_assert!(Identity::of(&sent).is_same(&Identity::of(&found)));
        }
    }
}
