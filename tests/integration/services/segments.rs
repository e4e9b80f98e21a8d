//! The files in which a broker keeps a partition's records, and damage to them.
//!
//! A running broker hands out what is in the page cache, and so what is written here, without a look at it: checksums
//! are the consumer's to verify. What it reads itself of a batch is the first 17 bytes.
//!
//! *Source*: Apache Kafka, record batches of magic 2; `FileLogInputStream`.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::kafka::Kafka;

/// What is done to a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    /// A byte of its first record is another one: the checksum is wrong.
    Flipped,
    /// It says to be of a version that nobody knows.
    Magic,
    /// It says to be compressed in a way that nobody knows; the checksum is right.
    Compression,
}

/// A batch in the file of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Batch {
    /// The offset of its first record.
    pub(crate) base: u64,
    /// The offset after its last one.
    pub(crate) next: u64,
    /// Where it begins in the file, and how long it is.
    place: (u64, usize),
}

/// Bytes before the length-prefixed part, and of a batch without its records.
const PREFIX: usize = 12;
const HEADER: usize = 61;

/// Places in a batch: its magic, its checksum, and what that covers.
const MAGIC: usize = 16;
const CHECKSUM: usize = 17;
const CHECKED: usize = 21;
const LAST_DELTA: usize = 23;

/// The Castagnoli checksum, bit by bit.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// The first file of a partition on broker 1.
fn file_of(kafka: &Kafka, topic: &str, partition: u16) -> PathBuf {
    let folder = kafka.folder().join("broker-1/data").join(format!("{topic}-{partition}"));
    folder.join("00000000000000000000.log")
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a batch has its whole header")
}

/// Lists the batches of a partition.
pub(crate) fn batches(kafka: &Kafka, topic: &str, partition: u16) -> Vec<Batch> {
    let bytes = std::fs::read(file_of(kafka, topic, partition)).expect("the broker keeps the partition");
    let mut batches = Vec::new();
    let mut at = 0;
    while at + HEADER <= bytes.len() {
        let base = u64::from_be_bytes(number(&bytes, at));
        let length = PREFIX + u32::from_be_bytes(number::<4>(&bytes, at + 8)) as usize;
        let next = base + u64::from(u32::from_be_bytes(number(&bytes, at + LAST_DELTA))) + 1;
        if length == PREFIX {
            break; // What follows is not written yet.
        }
        batches.push(Batch { base, next, place: (at as u64, length) });
        at += length;
    }
    batches
}

/// Damages the batch in which an offset lies; gives the batch.
pub(crate) fn damage(kafka: &Kafka, topic: &str, partition: u16, offset: u64, damage: Damage) -> Batch {
    let all = batches(kafka, topic, partition);
    let batch = *all.iter().find(|batch| (batch.base..batch.next).contains(&offset)).expect("a batch there");
    let file =
        OpenOptions::new().read(true).write(true).open(file_of(kafka, topic, partition)).expect("the file");
    let mut bytes = vec![0; batch.place.1];
    file.read_exact_at(&mut bytes, batch.place.0).expect("the batch is whole");
    match damage {
        Damage::Flipped => bytes[HEADER + 1] ^= 0x40,
        Damage::Magic => bytes[MAGIC] = 9,
        Damage::Compression => {
            bytes[CHECKED + 1] |= 0x07;
            let checksum = crc32c(&bytes[CHECKED..]);
            bytes[CHECKSUM..CHECKED].copy_from_slice(&checksum.to_be_bytes());
        }
    }
    file.write_all_at(&bytes, batch.place.0).expect("the file can be written");
    batch
}

/// Gives a copy of what a partition's file holds, to be put back.
pub(crate) fn copy(kafka: &Kafka, topic: &str, partition: u16) -> Vec<u8> {
    std::fs::read(file_of(kafka, topic, partition)).expect("the broker keeps the partition")
}

/// Puts back what a partition's file held; what was appended since stays.
pub(crate) fn put_back(kafka: &Kafka, topic: &str, partition: u16, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(file_of(kafka, topic, partition)).expect("the file");
    file.write_all_at(bytes, 0).expect("the file can be written");
}
