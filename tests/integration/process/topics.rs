//! A look into Kafka's topics with nothing but a plain consumer: what the program says itself is not believed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::checker::{Record, TOPICS};
use super::place::Events;

/// One call to a broker. Brokers are restarted under some tests.
const CALL_LIMIT: Duration = Duration::from_secs(20);

/// Reading everything there is takes no longer.
const READ_LIMIT: Duration = Duration::from_secs(60);

/// Between two looks for a record.
const POLL: Duration = Duration::from_millis(100);

/// Added to a topic's number for the topic of its dead letters, as in stored keys.
pub(crate) const DEAD_LETTER_CODE: u64 = 16;

/// First and last offset (the next to be given) of partitions, by number of topic and partition.
pub(crate) type Ends = BTreeMap<(u64, u64), (u64, u64)>;

/// A reading client that belongs to no group.
pub(crate) struct Topics {
    consumer: BaseConsumer,
    prefix: String,
}

impl Topics {
    /// Makes a client for the topics of a place on Kafka.
    pub(crate) fn of(events: &Events) -> Option<Self> {
        let Events::Kafka { direct, prefix, .. } = events else { return None };
        let consumer = ClientConfig::new()
            .set("bootstrap.servers", direct)
            // Named because the client library asks for it; it joins no group and commits nothing.
            .set("group.id", format!("{prefix}look"))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("socket.timeout.ms", "5000")
            .set("reconnect.backoff.max.ms", "500")
            .create()
            .unwrap();
        Some(Self { consumer, prefix: prefix.clone() })
    }

    /// Gives the name of a topic.
    pub(crate) fn name(&self, code: u64) -> String {
        let (plain, ending) =
            if code >= DEAD_LETTER_CODE { (code - DEAD_LETTER_CODE, ".dlq") } else { (code, "") };
        format!("{}{}{ending}", self.prefix, TOPICS[plain as usize].0)
    }

    /// Gives the ends of every partition of the five topics of record, and of their dead letters if asked.
    /// None while brokers do not answer.
    pub(crate) fn ends(&self, with_dead_letters: bool) -> Option<Ends> {
        let mut ends = Ends::new();
        for (number, (_, partitions)) in TOPICS.iter().enumerate() {
            let number = number as u64;
            let codes = [Some(number), with_dead_letters.then_some(number + DEAD_LETTER_CODE)];
            for code in codes.into_iter().flatten() {
                let name = self.name(code);
                for partition in 0..*partitions {
                    ends.insert((code, partition), self.ends_of(&name, partition as i32)?);
                }
            }
        }
        Some(ends)
    }

    /// Gives the ends of one partition of a topic by its whole name. None while brokers do not answer.
    pub(crate) fn ends_of(&self, name: &str, partition: i32) -> Option<(u64, u64)> {
        let (low, high) = self.consumer.fetch_watermarks(name, partition, CALL_LIMIT).ok()?;
        Some((low as u64, high as u64))
    }

    /// Reads every record of every topic, in order of topic, partition and offset.
    pub(crate) fn read_all(&self) -> Vec<Record> {
        let give_up_at = Instant::now() + READ_LIMIT;
        let ends = loop {
            match self.ends(true) {
                Some(ends) => break ends,
                None => assert!(Instant::now() < give_up_at, "no answer from Kafka"),
            }
        };
        let mut wanted = TopicPartitionList::new();
        let mut left: BTreeMap<(String, u64), (u64, u64)> = BTreeMap::new();
        for ((code, partition), (low, high)) in ends.into_iter().filter(|(_, (low, high))| low < high) {
            let name = self.name(code);
            wanted.add_partition_offset(&name, partition as i32, Offset::Offset(low as i64)).unwrap();
            left.insert((name, partition), (code, high));
        }
        let mut records = Vec::new();
        if left.is_empty() {
            return records;
        }
        self.consumer.assign(&wanted).unwrap();
        while !left.is_empty() {
            assert!(Instant::now() < give_up_at, "not read to the end: {left:?}");
            let Some(Ok(message)) = self.consumer.poll(POLL) else { continue };
            let at = (message.topic().to_owned(), message.partition() as u64);
            let Some(&(topic, high)) = left.get(&at) else { continue };
            let offset = message.offset() as u64;
            if offset + 1 >= high {
                left.remove(&at);
            }
            if offset >= high {
                continue;
            }
            let headers = message.headers().map(|headers| {
                let pairs = headers.iter();
                pairs.map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect()
            });
            records.push(Record::new(
                (topic, at.1, offset),
                message.key(),
                headers.unwrap_or_default(),
                message.payload().unwrap_or_default().to_vec(),
            ));
        }
        self.consumer.unassign().unwrap();
        records.sort_by_key(|record| (record.topic, record.partition, record.offset));
        records
    }
}
