//! The bytes of a record that the audit log commits to: leaf v1, and its hash.
//!
//! Promises an injective encoding: two records that differ in anything (log, place, time, key, headers,
//! payload, null or empty) have different bytes, and [`Leaf::decode`] takes exactly what [`Leaf::encode`]
//! writes. Does not look into the payload and never writes it anew.
//!
//! *Shape*: numbers are big-endian; bytes of varying length have their length (u64) before them; what may be
//! null has a presence byte (0 null, 1 there) before that. In order: version (u8, 1), log id, topic
//! ([`Topic::code`], u8), partition (u16), offset (u64), timestamp (i64, microseconds), timestamp type
//! ([`TimestampType::code`], u8), nullable key, header block (see [`Headers`]), nullable payload.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::clock::Timestamp;
use crate::ids::{LogId, Offset, Partition, Topic, TopicPartition};
use crate::record::{Digest32, Headers, LogRecord, TimestampType};

/// The version of the encoding, its first byte; another layout needs another version.
pub const LEAF_VERSION: u8 = 1;

/// What is hashed before a leaf, so that no inner node can be taken for one.
///
/// *Source*: [RFC 9162, 2.1.1](https://www.rfc-editor.org/rfc/rfc9162#section-2.1.1).
pub const LEAF_HASH_PREFIX: u8 = 0x00;

/// Stands before a value that is null.
const ABSENT: u8 = 0;

/// Stands before a value that is there, even if it is empty.
const PRESENT: u8 = 1;

/// Tells why bytes are no leaf.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// The bytes end before a field does.
    #[error("failed to read `{field}`: wanted {wanted} bytes, got {got}")]
    TooShort {
        /// The field.
        field: &'static str,
        /// Bytes that it needs.
        wanted: u64,
        /// Bytes that are left.
        got: usize,
    },
    /// The version is none that is known.
    #[error("failed to read `version`: wanted {LEAF_VERSION}, got `{0}`")]
    UnknownVersion(u8),
    /// A field has a value that is never written.
    #[error("failed to read `{field}`: wanted {wanted}")]
    InvalidValue {
        /// The field.
        field: &'static str,
        /// What is written there.
        wanted: &'static str,
    },
    /// Something stands after the last field.
    #[error("failed to read a leaf: wanted nothing after `payload`, got {0} bytes")]
    TrailingBytes(usize),
}

/// A record with the place that makes it unique.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The log.
    pub log_id: LogId,
    /// The partition.
    pub topic_partition: TopicPartition,
    /// The record.
    pub record: LogRecord,
}

impl Leaf {
    /// Writes the leaf, for exports and for verifiers written by others; see the module for its shape.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_place(&self.log_id, self.topic_partition, |part| bytes.extend_from_slice(part));
        write_record(&self.record, |part| bytes.extend_from_slice(part));
        bytes
    }

    /// Reads a leaf that takes up all the bytes.
    ///
    /// *Errors*: [`LeafError`] for whatever [`Leaf::encode`] would not have written.
    pub fn decode(bytes: &[u8]) -> Result<Self, LeafError> {
        let mut fields = Fields { rest: bytes };
        let version = fields.number("version", u8::from_be_bytes)?;
        if version != LEAF_VERSION {
            return Err(LeafError::UnknownVersion(version));
        }
        let log_id = std::str::from_utf8(fields.sized("log_id")?)
            .ok()
            .and_then(|text| LogId::parse(text).ok())
            .ok_or(LeafError::InvalidValue { field: "log_id", wanted: "the id of an event log" })?;
        let topic = Topic::from_code(fields.number("topic", u8::from_be_bytes)?)
            .ok_or(LeafError::InvalidValue { field: "topic", wanted: "the number of a topic of record" })?;
        let partition = Partition(fields.number("partition", u16::from_be_bytes)?);
        let offset = Offset(fields.number("offset", u64::from_be_bytes)?);
        let timestamp = Timestamp::from_micros(fields.number("timestamp", i64::from_be_bytes)?);
        let timestamp_type =
            TimestampType::from_code(fields.number("timestamp_type", u8::from_be_bytes)?).ok_or(
                LeafError::InvalidValue { field: "timestamp_type", wanted: "the number of a timestamp type" },
            )?;
        let key = fields.nullable("key")?;
        let headers = Headers::from_block(Bytes::copy_from_slice(fields.sized("headers")?))
            .map_err(|_| LeafError::InvalidValue { field: "headers", wanted: "a header block" })?;
        let payload = fields.nullable("payload")?;
        if !fields.rest.is_empty() {
            return Err(LeafError::TrailingBytes(fields.rest.len()));
        }
        let record = LogRecord { offset, timestamp, timestamp_type, key, headers, payload };
        Ok(Self { log_id, topic_partition: TopicPartition { topic, partition }, record })
    }
}

/// Hashes the leaves of one log without ever building one.
///
/// What all leaves of a log begin with is taken in once; each leaf goes on from there.
#[derive(Clone)]
pub struct LeafHasher {
    begun: Sha256,
}

impl std::fmt::Debug for LeafHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeafHasher").finish_non_exhaustive()
    }
}

impl LeafHasher {
    /// Makes the hasher of a log.
    pub fn new(log_id: &LogId, topic_partition: TopicPartition) -> Self {
        let mut begun = Sha256::new();
        begun.update([LEAF_HASH_PREFIX]);
        write_place(log_id, topic_partition, |part| begun.update(part));
        Self { begun }
    }

    /// Gives a record's leaf hash: SHA-256 of 0x00 and the leaf.
    ///
    /// *Source*: [RFC 9162, 2.1.1](https://www.rfc-editor.org/rfc/rfc9162#section-2.1.1).
    pub fn hash(&self, record: &LogRecord) -> Digest32 {
        let mut hash = self.begun.clone();
        write_record(record, |part| hash.update(part));
        hash.finalize().into()
    }
}

/// Writes what all leaves of a log begin with.
fn write_place(log_id: &LogId, topic_partition: TopicPartition, mut write: impl FnMut(&[u8])) {
    write(&[LEAF_VERSION]);
    write(&length(log_id.as_str().as_bytes()));
    write(log_id.as_str().as_bytes());
    write(&[topic_partition.topic.code()]);
    write(&topic_partition.partition.0.to_be_bytes());
}

/// Writes what follows the place.
fn write_record(record: &LogRecord, mut write: impl FnMut(&[u8])) {
    write(&record.offset.0.to_be_bytes());
    write(&record.timestamp.as_micros().to_be_bytes());
    write(&[record.timestamp_type.code()]);
    write_nullable(record.key.as_deref(), &mut write);
    write(&length(record.headers.as_block()));
    write(record.headers.as_block());
    write_nullable(record.payload.as_deref(), &mut write);
}

fn write_nullable(value: Option<&[u8]>, write: &mut impl FnMut(&[u8])) {
    match value {
        None => write(&[ABSENT]),
        Some(bytes) => {
            write(&[PRESENT]);
            write(&length(bytes));
            write(bytes);
        }
    }
}

/// Gives a length as it is written: 64 bits, so that no length needs a check.
fn length(bytes: &[u8]) -> [u8; 8] {
    (bytes.len() as u64).to_be_bytes()
}

/// Reads fields from the front.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn take(&mut self, field: &'static str, wanted: u64) -> Result<&'a [u8], LeafError> {
        let too_short = LeafError::TooShort { field, wanted, got: self.rest.len() };
        let Ok(count) = usize::try_from(wanted) else { return Err(too_short) };
        let Some((head, rest)) = self.rest.split_at_checked(count) else { return Err(too_short) };
        self.rest = rest;
        Ok(head)
    }

    fn number<T, const N: usize>(
        &mut self,
        field: &'static str,
        read: impl FnOnce([u8; N]) -> T,
    ) -> Result<T, LeafError> {
        let bytes = self.take(field, N as u64)?;
        let bytes = bytes.try_into().expect("as many bytes were taken as the number has");
        Ok(read(bytes))
    }

    fn sized(&mut self, field: &'static str) -> Result<&'a [u8], LeafError> {
        let count = self.number(field, u64::from_be_bytes)?;
        self.take(field, count)
    }

    fn nullable(&mut self, field: &'static str) -> Result<Option<Bytes>, LeafError> {
        match self.number(field, u8::from_be_bytes)? {
            ABSENT => Ok(None),
            PRESENT => Ok(Some(Bytes::copy_from_slice(self.sized(field)?))),
            _ => Err(LeafError::InvalidValue { field, wanted: "0 (null) or 1 before it" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::auditor::testing::{any_leaf, leaf};

    proptest! {
        #[test]
        fn leaf_encoded_decodes_to_itself(original in any_leaf()) {
            let bytes = original.encode();

            prop_assert_eq!(Leaf::decode(&bytes), Ok(original));
        }

        #[test]
        fn leaf_pair_that_differs_has_different_bytes(left in any_leaf(), right in any_leaf()) {
            prop_assert_eq!(left == right, left.encode() == right.encode());
        }

        #[test]
        fn leaf_mutated_bytes_never_decode_to_the_same_leaf(
            original in any_leaf(),
            at in any::<prop::sample::Index>(),
            flip in 1..=255u8,
        ) {
            let mut bytes = original.encode();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;

            if let Ok(decoded) = Leaf::decode(&bytes) {
                prop_assert_ne!(&decoded, &original);
                prop_assert_eq!(decoded.encode(), bytes);
            }
        }

        #[test]
        fn leaf_arbitrary_bytes_decode_only_if_they_encode_back(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(decoded) = Leaf::decode(&bytes) {
                prop_assert_eq!(decoded.encode(), bytes);
            }
        }

        #[test]
        fn leaf_hasher_streamed_equals_hash_of_whole_leaf(original in any_leaf()) {
            let hasher = LeafHasher::new(&original.log_id, original.topic_partition);
            let whole = Sha256::new().chain_update([0]).chain_update(original.encode());

            prop_assert_eq!(hasher.hash(&original.record), Digest32::from(whole.finalize()));
        }
    }

    #[test]
    fn leaf_fixed_record_has_the_documented_bytes() {
        let bytes = leaf(7, Some(b"k"), Some(b"")).encode();

        let mut wanted = vec![1];
        wanted.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 3, b'l', b'o', b'g']);
        wanted.extend_from_slice(&[0, 0, 2]);
        wanted.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 7]);
        wanted.extend_from_slice(&[0, 0, 0, 0, 0, 0, 3, 232]);
        wanted.push(0);
        wanted.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 1, b'k']);
        wanted.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0]);
        wanted.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes, wanted);
    }

    #[test]
    fn leaf_null_and_empty_differ() {
        let null_key = leaf(0, None, Some(b"p")).encode();
        let empty_key = leaf(0, Some(b""), Some(b"p")).encode();
        let null_payload = leaf(0, Some(b"p"), None).encode();
        let empty_payload = leaf(0, Some(b"p"), Some(b"")).encode();

        assert_ne!(null_key, empty_key);
        assert_ne!(null_payload, empty_payload);
    }

    #[test]
    fn leaf_truncated_or_lengthened_is_refused() {
        let bytes = leaf(3, Some(b"key"), Some(b"payload")).encode();

        for end in 0..bytes.len() {
            assert!(Leaf::decode(&bytes[..end]).is_err(), "{end} bytes were taken as a leaf");
        }
        let mut longer = bytes;
        longer.push(0);
        assert_eq!(Leaf::decode(&longer), Err(LeafError::TrailingBytes(1)));
    }
}
