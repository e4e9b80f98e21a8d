//! What others do to the topics of a place: produce records of their own, make a topic anew, cut it short.

use std::time::Duration;

use horizons_actors::event::partition_among;
use horizons_actors::ids::Topic;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::process::load::external_event;
use crate::process::place::Events;
use crate::process::server::wait_for;
use crate::process::topics::Topics;
use crate::services::kafka::Kafka;

/// One call to the cluster.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// Gives keys of `job-lifecycle` that are at home in a partition, all with this beginning.
pub(super) fn keys_at(partition: i32, beginning: &str, count: usize) -> Vec<String> {
    let partitions = Topic::JobLifecycle.partitions();
    let is_home = |key: &String| i32::from(partition_among(partitions, key.as_bytes()).0) == partition;
    (0..).map(|number| format!("{beginning}-{number}")).filter(is_home).take(count).collect()
}

/// Somebody else with a client of the same cluster.
pub(super) struct Outside<'a> {
    kafka: &'a Kafka,
    prefix: String,
    topics: Topics,
}

impl<'a> Outside<'a> {
    /// Speaks to the cluster of a place.
    pub(super) fn of(kafka: &'a Kafka, events: &Events) -> Self {
        let Events::Kafka { prefix, .. } = events else { panic!("the events are not in Kafka") };
        let topics = Topics::of(events).expect("the events are in Kafka");
        Self { kafka, prefix: prefix.clone(), topics }
    }

    pub(super) fn topics(&self) -> &Topics {
        &self.topics
    }

    /// Gives the whole name of a topic.
    pub(super) fn name(&self, topic: &str) -> String {
        format!("{}{topic}", self.prefix)
    }

    /// Writes records to one partition, in order, and waits until they are there.
    pub(super) fn produce(&self, topic: &str, partition: i32, records: &[(&[u8], &[u8])]) {
        self.produce_with(topic, partition, records, &[]);
    }

    /// The same, each with these headers.
    pub(super) fn produce_with(
        &self,
        topic: &str,
        partition: i32,
        records: &[(&[u8], &[u8])],
        headers: &[(&str, &[u8])],
    ) {
        let producer: BaseProducer =
            self.kafka.direct_client().set("enable.idempotence", "true").create().unwrap();
        let name = self.name(topic);
        for (key, payload) in records {
            let mut with = OwnedHeaders::new();
            for (header, value) in headers {
                with = with.insert(Header { key: header, value: Some(*value) });
            }
            let record = BaseRecord::to(&name).partition(partition).key(*key).payload(*payload).headers(with);
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(CALL_LIMIT).unwrap();
        assert_eq!(producer.in_flight_count(), 0);
    }

    /// Writes records to one partition in a transaction, and leaves it open.
    pub(super) fn begin(&self, topic: &str, partition: i32, payloads: &[&[u8]]) -> BaseProducer {
        let id = format!("{}{}", self.prefix, super::stage::unique());
        let producer: BaseProducer = self.kafka.direct_client().set("transactional.id", id).create().unwrap();
        producer.init_transactions(CALL_LIMIT).unwrap();
        producer.begin_transaction().unwrap();
        let name = self.name(topic);
        for payload in payloads {
            let record = BaseRecord::to(&name).partition(partition).key(&b"key"[..]).payload(*payload);
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(CALL_LIMIT).unwrap();
        producer
    }

    /// Writes records to one partition in a transaction, and aborts it.
    pub(super) fn abort(&self, topic: &str, partition: i32, payloads: &[&[u8]]) {
        self.begin(topic, partition, payloads).abort_transaction(CALL_LIMIT).unwrap();
    }

    /// Writes the event that begins a job of another producer's.
    pub(super) fn produce_event(&self, job: &str, partition: i32) {
        let (key, payload, headers) = external_event(job);
        let headers = headers.as_object().unwrap().iter();
        let headers: Vec<(&str, &[u8])> = headers
            .map(|(name, value)| (name.as_str(), value.as_str().unwrap_or_default().as_bytes()))
            .collect();
        self.produce_with("job-lifecycle", partition, &[(key.as_bytes(), &payload)], &headers);
    }

    /// Removes a topic and makes it anew, empty, with as many partitions.
    pub(super) fn make_anew(&self, topic: &str, partitions: i32) {
        let name = self.name(topic);
        self.kafka.delete_topic(&name);
        self.kafka.create_topic(&name, partitions);
    }

    /// Removes the records of a partition below an offset.
    pub(super) fn truncate(&self, topic: &str, partition: i32, below: usize) {
        self.kafka.delete_records(&self.name(topic), partition, below as i64);
    }

    /// Sets one of a topic's settings.
    pub(super) fn configure(&self, topic: &str, setting: &str, value: &str) {
        let name = self.name(topic);
        let admin: AdminClient<DefaultClientContext> = self.kafka.direct_client().create().unwrap();
        let options = AdminOptions::new().request_timeout(Some(CALL_LIMIT));
        let change = AlterConfig::new(ResourceSpecifier::Topic(&name)).set(setting, value);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answers = runtime.block_on(admin.alter_configs([&change], &options)).unwrap();
        answers.into_iter().for_each(|answer| drop(answer.unwrap()));
        // The broker that answers has the setting from now on; before, a record would meet the old one.
        let wanted = ResourceSpecifier::Topic(&name);
        wait_for("the broker to have the setting", || {
            let described = runtime.block_on(admin.describe_configs([&wanted], &options));
            let described = described.unwrap().into_iter().next().unwrap().unwrap();
            described.entry_map().get(setting).is_some_and(|entry| entry.value.as_deref() == Some(value))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::stage::events_on;
    use super::*;
    use crate::process::checker::TOPICS;
    use crate::process::topics::DEAD_LETTER_CODE;

    #[test]
    fn records_of_others_are_read_back_whole_until_they_are_removed() {
        let outside = Outside::of(Kafka::shared(), &events_on(Kafka::shared()));
        for (code, (_, partitions)) in TOPICS.iter().enumerate() {
            for code in [code as u64, code as u64 + DEAD_LETTER_CODE] {
                outside.kafka.create_topic(&outside.topics().name(code), *partitions as i32);
            }
        }
        let records: Vec<(&[u8], &[u8])> = vec![(b"a", b"1"), (b"b", b"2"), (b"c", b"3")];

        outside.produce_with("job-metrics", 7, &records, &[("name", b"value")]);
        outside.produce("audit-trail.dlq", 1, &records[..1]);
        let read = outside.topics().read_all();
        outside.truncate("job-metrics", 7, 2);
        let rest = outside.topics().read_all();
        outside.make_anew("job-metrics", 10);
        let last = outside.topics().read_all();

        let at: Vec<(u64, u64, u64)> =
            read.iter().map(|record| (record.topic, record.partition, record.offset)).collect();
        assert_eq!(at, [(1, 7, 0), (1, 7, 1), (1, 7, 2), (DEAD_LETTER_CODE + 3, 1, 0)]);
        assert_eq!((read[1].key.as_str(), read[1].payload.as_slice()), ("62", &b"2"[..]));
        assert_eq!(read[1].headers, [("name".to_owned(), Some(b"value".to_vec()))]);
        assert_eq!(rest.iter().map(|record| record.offset).collect::<Vec<_>>(), [2, 0]);
        assert_eq!(last.len(), 1);
    }
}
