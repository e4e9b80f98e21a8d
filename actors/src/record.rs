//! A record as the log holds it, before anybody has understood it.
//!
//! Promises that no byte is changed between the log and whoever reads it: key, headers and payload are kept
//! as they came, null apart from empty, header names not necessarily UTF-8.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::clock::Timestamp;
use crate::ids::{Incarnation, LogTopic, Offset, Partition, TopicPartition};
use crate::lane::credit::Credit;

/// A SHA-256 digest.
pub type Digest32 = [u8; 32];

/// Tells who set a record's timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimestampType {
    /// The producer.
    CreateTime,
    /// The log, when it appended the record.
    AppendTime,
}

impl TimestampType {
    /// Gives the number that is hashed and stored.
    pub const fn code(self) -> u8 {
        match self {
            TimestampType::CreateTime => 0,
            TimestampType::AppendTime => 1,
        }
    }

    /// Finds the type with this number.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(TimestampType::CreateTime),
            1 => Some(TimestampType::AppendTime),
            _ => None,
        }
    }
}

/// The headers of a record, kept in one block of bytes.
///
/// *Shape*: a count (u32, big-endian), then per header: name length (u32), name, value presence (u8, 0 null
/// or 1), and where present value length (u32) and value. The same bytes are stored and hashed, so headers
/// are never parsed and written again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Headers(Bytes);

/// Tells that a block of bytes is no header block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("failed to read a header block: {0}")]
pub struct HeaderBlockError(&'static str);

impl Headers {
    /// Encodes names and values, in the order given.
    pub fn new<'a>(headers: impl IntoIterator<Item = (&'a [u8], Option<&'a [u8]>)>) -> Self {
        let mut block = vec![0; 4];
        let mut count: u32 = 0;
        for (name, value) in headers {
            count += 1;
            push_length_prefixed(&mut block, name);
            match value {
                None => block.push(0),
                Some(value) => {
                    block.push(1);
                    push_length_prefixed(&mut block, value);
                }
            }
        }
        if let Some(head) = block.get_mut(..4) {
            head.copy_from_slice(&count.to_be_bytes());
        }
        Self(Bytes::from(block))
    }

    /// Gives a block without headers.
    pub fn none() -> Self {
        Self::new([])
    }

    /// Takes a stored block after walking it whole.
    ///
    /// *Errors*: [`HeaderBlockError`] when lengths do not add up or a count is wrong.
    pub fn from_block(block: Bytes) -> Result<Self, HeaderBlockError> {
        let mut walk = Walk { rest: &block };
        let count = walk.length()?;
        for _ in 0..count {
            walk.header()?;
        }
        if walk.rest.is_empty() {
            Ok(Self(block))
        } else {
            Err(HeaderBlockError("bytes after the last header"))
        }
    }

    /// Gives the block as it is stored and hashed.
    pub fn as_block(&self) -> &Bytes {
        &self.0
    }

    /// Walks names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let mut walk = Walk { rest: &self.0 };
        let count = walk.length().unwrap_or(0);
        (0..count).map_while(move |_| walk.header().ok())
    }

    /// Finds the last value under a name, as Kafka clients do.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().filter(|(header, _)| *header == name.as_bytes()).last().and_then(|(_, value)| value)
    }
}

/// Writes a length (u32, big-endian) and the bytes.
fn push_length_prefixed(block: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("a record is limited far below 4 GiB when it is accepted");
    block.extend_from_slice(&length.to_be_bytes());
    block.extend_from_slice(bytes);
}

/// Reads a header block from its front.
struct Walk<'a> {
    rest: &'a [u8],
}

impl<'a> Walk<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], HeaderBlockError> {
        let (head, rest) =
            self.rest.split_at_checked(length).ok_or(HeaderBlockError("block ends too early"))?;
        self.rest = rest;
        Ok(head)
    }

    fn length(&mut self) -> Result<usize, HeaderBlockError> {
        let bytes = self.take(4)?;
        let bytes: [u8; 4] = bytes.try_into().map_err(|_| HeaderBlockError("block ends too early"))?;
        usize::try_from(u32::from_be_bytes(bytes)).map_err(|_| HeaderBlockError("length too large"))
    }

    fn header(&mut self) -> Result<(&'a [u8], Option<&'a [u8]>), HeaderBlockError> {
        let length = self.length()?;
        let name = self.take(length)?;
        match self.take(1)? {
            [0] => Ok((name, None)),
            [1] => {
                let length = self.length()?;
                Ok((name, Some(self.take(length)?)))
            }
            _ => Err(HeaderBlockError("presence is neither 0 nor 1")),
        }
    }
}

/// A record of a partition.
///
/// *Shape*: identified by log id, topic, partition and `offset`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Where it stands in its partition.
    pub offset: Offset,
    /// When it was made or appended, with the precision of the log (Kafka: milliseconds).
    pub timestamp: Timestamp,
    /// Who set the timestamp.
    pub timestamp_type: TimestampType,
    /// The key, null apart from empty.
    pub key: Option<Bytes>,
    /// The headers.
    pub headers: Headers,
    /// The payload, null (a tombstone) apart from empty.
    pub payload: Option<Bytes>,
}

/// What a record weighs beside its bytes: the struct and its share of the vector that holds it.
const RECORD_OVERHEAD_BYTES: usize = 160;

impl LogRecord {
    /// Gives what the record weighs in memory, for credits.
    pub fn weight_bytes(&self) -> usize {
        RECORD_OVERHEAD_BYTES
            + self.key.as_ref().map_or(0, Bytes::len)
            + self.headers.as_block().len()
            + self.payload.as_ref().map_or(0, Bytes::len)
    }

    /// Gives a digest of everything in the record, to recognise it when it is read again.
    pub fn fingerprint(&self) -> Digest32 {
        let mut hash = Sha256::new();
        hash.update(self.offset.0.to_be_bytes());
        hash.update(self.timestamp.as_micros().to_be_bytes());
        for part in [self.key.as_ref(), Some(self.headers.as_block()), self.payload.as_ref()] {
            match part {
                None => hash.update([0]),
                Some(bytes) => {
                    hash.update([1]);
                    hash.update((bytes.len() as u64).to_be_bytes());
                    hash.update(bytes);
                }
            }
        }
        hash.finalize().into()
    }
}

/// Consecutive records of one partition, on their way from a reader to a lane.
///
/// *Shape*: offsets within `from..next` that no record has hold nothing for a reader: markers of transactions,
/// records of aborted ones, what compaction emptied. A batch may have no record at all; then it says just that of
/// its whole range.
#[derive(Debug)]
pub struct RecordBatch {
    /// The partition.
    pub topic_partition: TopicPartition,
    /// The life of the lane that asked for them.
    pub incarnation: Incarnation,
    /// The reader's position before the batch.
    pub from: Offset,
    /// The reader's position after it.
    pub next: Offset,
    /// The records, offsets strictly increasing, within `from..next`.
    pub records: Vec<LogRecord>,
    /// The end of the partition when the batch was read: the offset that the next record would get.
    pub log_end: Offset,
    /// What the batch holds of the memory budget; given back when it is dropped.
    pub credit: Credit,
}

impl RecordBatch {
    /// Gives what its records weigh in memory.
    pub fn weight_bytes(&self) -> usize {
        self.records.iter().map(LogRecord::weight_bytes).sum()
    }

    /// Takes over the batch that follows at once in the same life of the lane; another one is handed back.
    ///
    /// *Errors*: the batch that was not taken.
    pub fn join(&mut self, next: Self) -> Result<(), Self> {
        let is_following = next.topic_partition == self.topic_partition
            && next.incarnation == self.incarnation
            && next.from == self.next;
        if !is_following {
            return Err(next);
        }
        let Self { topic_partition, incarnation, from, next, records, log_end, credit } = next;
        if let Err(credit) = self.credit.join(credit) {
            return Err(Self { topic_partition, incarnation, from, next, records, log_end, credit });
        }
        self.next = next;
        self.records.extend(records);
        self.log_end = self.log_end.max(log_end);
        Ok(())
    }
}

/// Largest record of a topic of record: key, header block and payload.
///
/// *Units*: bytes. Kafka takes 1 048 588 (`message.max.bytes`) for a batch; what a batch of one record adds to
/// these parts (61 for the batch, at most 110 for lengths and deltas) is well below the 512 left to it.
pub const RECORD_MAX_BYTES: usize = 1_048_576 - 512;

/// What a dead-letter topic takes above its source: room for the headers that tell the origin.
///
/// *Units*: bytes. Those headers measure at most 2 KiB (the detail of a rejection is 300 characters); the rest
/// is for later ones, as the topics of a running cluster are not changed.
pub const DEAD_LETTER_ROOM_BYTES: usize = 65_536;

/// What Kafka's own default for `max.message.bytes` allows; named in every topic, so that a cluster with another
/// default is noticed.
const KAFKA_MESSAGE_MAX_BYTES: usize = 1_048_588;

impl LogTopic {
    /// Gives the largest record that may be written to the topic, as [`OutgoingRecord::size_bytes`] counts.
    pub const fn record_max_bytes(self) -> usize {
        match self {
            LogTopic::Record(_) => RECORD_MAX_BYTES,
            LogTopic::DeadLetter(_) => RECORD_MAX_BYTES + DEAD_LETTER_ROOM_BYTES,
        }
    }

    /// Gives what the topic's `max.message.bytes` must be in Kafka, so that each such record fits.
    pub const fn kafka_max_message_bytes(self) -> usize {
        match self {
            LogTopic::Record(_) => KAFKA_MESSAGE_MAX_BYTES,
            LogTopic::DeadLetter(_) => KAFKA_MESSAGE_MAX_BYTES + DEAD_LETTER_ROOM_BYTES,
        }
    }
}

/// Tells that a record is larger than its topic takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "record of `{topic}` is too large: wanted at most {limit} bytes of key, headers and payload, got {got} ({part} is the largest)"
)]
pub struct RecordTooLarge {
    /// The topic.
    pub topic: LogTopic,
    /// The largest part: `key`, `headers` or `payload`.
    pub part: &'static str,
    /// What the topic takes.
    pub limit: usize,
    /// What the record measures.
    pub got: usize,
}

/// A record on its way into the log, final to the byte.
///
/// *Shape*: the offset is given by the store when the surrounding transaction ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutgoingRecord {
    /// The topic.
    pub topic: LogTopic,
    /// The partition, chosen when the record is made.
    pub partition: Partition,
    /// The producer's timestamp.
    pub timestamp: Timestamp,
    /// The key, null apart from empty.
    pub key: Option<Bytes>,
    /// All headers.
    pub headers: Headers,
    /// The payload.
    pub payload: Option<Bytes>,
}

impl OutgoingRecord {
    /// Gives what the record measures: key, header block and payload.
    pub fn size_bytes(&self) -> usize {
        self.parts().iter().map(|(_, bytes)| bytes).sum()
    }

    /// Holds the record against its topic's limit; to be asked before it is handed to the store, because
    /// Kafka would refuse it for good and its partition would stand.
    ///
    /// *Errors*: [`RecordTooLarge`] with the largest part.
    pub fn check_size(&self) -> Result<(), RecordTooLarge> {
        let (limit, got) = (self.topic.record_max_bytes(), self.size_bytes());
        if got <= limit {
            return Ok(());
        }
        let largest = self.parts().into_iter().max_by_key(|(_, bytes)| *bytes);
        let part = largest.map_or("payload", |(part, _)| part);
        Err(RecordTooLarge { topic: self.topic, part, limit, got })
    }

    fn parts(&self) -> [(&'static str, usize); 3] {
        [
            ("key", self.key.as_ref().map_or(0, Bytes::len)),
            ("headers", self.headers.as_block().len()),
            ("payload", self.payload.as_ref().map_or(0, Bytes::len)),
        ]
    }
}
