//! A produce request made by hand, for records that no client library writes: header names that are not UTF-8.
//!
//! *Source*: Apache Kafka protocol, Produce version 3 and record batches of magic 2.

use std::io::{Read, Write};
use std::net::TcpStream;

use horizons_actors::ids::TopicPartition;

use super::world::World;
use crate::services::segments::crc32c;
use crate::services::wait::wait_for;

/// A record as it goes over the wire.
#[derive(Debug, Clone, Default)]
pub(crate) struct RawRecord {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

fn varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn bytes(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        None => varint(out, -1),
        Some(value) => {
            varint(out, value.len() as i64);
            out.extend_from_slice(value);
        }
    }
}

fn batch(records: &[RawRecord]) -> Vec<u8> {
    let mut body = Vec::new();
    for (number, record) in records.iter().enumerate() {
        let mut one = vec![0];
        varint(&mut one, 0);
        varint(&mut one, number as i64);
        bytes(&mut one, record.key.as_deref());
        bytes(&mut one, record.payload.as_deref());
        varint(&mut one, record.headers.len() as i64);
        for (name, value) in &record.headers {
            bytes(&mut one, Some(name));
            bytes(&mut one, value.as_deref());
        }
        varint(&mut body, one.len() as i64);
        body.extend(one);
    }
    let count = records.len() as i32;
    let mut checked = Vec::new();
    checked.extend(0_i16.to_be_bytes()); // attributes
    checked.extend((count - 1).to_be_bytes()); // last offset delta
    checked.extend(1_000_i64.to_be_bytes()); // first timestamp
    checked.extend(1_000_i64.to_be_bytes()); // greatest timestamp
    checked.extend((-1_i64).to_be_bytes()); // producer id
    checked.extend((-1_i16).to_be_bytes()); // producer epoch
    checked.extend((-1_i32).to_be_bytes()); // first sequence
    checked.extend(count.to_be_bytes());
    checked.extend(body);
    let mut batch = Vec::new();
    batch.extend(0_i64.to_be_bytes()); // first offset
    batch.extend((checked.len() as i32 + 9).to_be_bytes());
    batch.extend((-1_i32).to_be_bytes()); // leader epoch
    batch.push(2); // magic
    batch.extend(crc32c(&checked).to_be_bytes());
    batch.extend(checked);
    batch
}

/// Writes records to a partition and waits for the broker's answer.
pub(crate) fn produce_raw(world: &World, partition: TopicPartition, records: &[RawRecord]) {
    let batch = batch(records);
    let topic = world.topic(partition.topic);
    let mut request = Vec::new();
    request.extend(0_i16.to_be_bytes()); // Produce
    request.extend(3_i16.to_be_bytes()); // version
    request.extend(7_i32.to_be_bytes()); // correlation
    request.extend((-1_i16).to_be_bytes()); // client id: none
    request.extend((-1_i16).to_be_bytes()); // transactional id: none
    request.extend((-1_i16).to_be_bytes()); // acknowledged by all
    request.extend(10_000_i32.to_be_bytes()); // time limit in ms
    request.extend(1_i32.to_be_bytes());
    request.extend((topic.len() as i16).to_be_bytes());
    request.extend(topic.as_bytes());
    request.extend(1_i32.to_be_bytes());
    request.extend(i32::from(partition.partition.0).to_be_bytes());
    request.extend((batch.len() as i32).to_be_bytes());
    request.extend(batch);

    // A topic that was just made may have no leader yet.
    wait_for("the broker to take the records", || answer_to(world, &request, topic.len()) == 0);
}

/// Sends a request and gives the error of its one partition.
fn answer_to(world: &World, request: &[u8], name_bytes: usize) -> i16 {
    let mut stream = TcpStream::connect(world.direct()).unwrap();
    stream.write_all(&(request.len() as i32).to_be_bytes()).unwrap();
    stream.write_all(request).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).unwrap();
    // Correlation, topics, name, partitions, partition, then the error.
    let at = 4 + 4 + 2 + name_bytes + 4 + 4;
    i16::from_be_bytes([answer[at], answer[at + 1]])
}
