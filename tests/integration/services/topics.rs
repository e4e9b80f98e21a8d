//! Topics of a cluster of the harness: made, removed, cut and looked at, past any proxy.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication, TopicResult};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::{Offset, TopicPartitionList};

use super::kafka::Kafka;
use super::wait::{WAIT_LIMIT, wait_for, wait_on, wait_some};

/// One request's limit; looks are repeated.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

impl Kafka {
    /// Makes a topic with as many replicas as there are brokers, and waits until each partition has a leader.
    pub(crate) fn create_topic(&self, topic: &str, partitions: i32) {
        self.create_topic_with(topic, partitions, &[]);
    }

    /// Gives a topic more partitions, and waits for their leaders.
    pub(crate) fn add_partitions(&self, topic: &str, partitions: usize) {
        let grown = rdkafka::admin::NewPartitions::new(topic, partitions);
        check_all(wait_on(self.admin().create_partitions(&[grown], &patience())));
        wait_for("added partitions' leaders", || self.leaders(topic).len() == partitions);
    }

    /// The same, with settings of the topic (`retention.ms`, `min.insync.replicas` …).
    pub(crate) fn create_topic_with(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        let replicas = i32::try_from(self.broker_count()).expect("brokers are few");
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(replicas));
        let new = settings.iter().fold(new, |new, (name, value)| new.set(name, value));
        check_all(wait_on(self.admin().create_topics(&[new], &patience())));
        wait_for("a new topic's leaders", || {
            let leaders = self.leaders(topic);
            leaders.len() == usize::try_from(partitions).expect("a count")
                && leaders.values().all(|id| *id > 0)
        });
    }

    /// Removes a topic, and waits until no broker tells of it.
    pub(crate) fn delete_topic(&self, topic: &str) {
        check_all(wait_on(self.admin().delete_topics(&[topic], &patience())));
        wait_for("a topic to be gone", || self.leaders(topic).is_empty());
    }

    /// Removes the records of a partition before an offset, as retention does.
    pub(crate) fn delete_records(&self, topic: &str, partition: i32, before: i64) {
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(topic, partition, Offset::Offset(before)).expect("an offset is valid");
        let done = wait_on(self.admin().delete_records(&offsets, &patience())).expect("the brokers answer");
        for element in done.elements() {
            element.error().unwrap_or_else(|error| panic!("records of `{topic}` were not deleted: {error}"));
        }
    }

    /// The broker that leads a partition.
    pub(crate) fn leader(&self, topic: &str, partition: i32) -> usize {
        wait_some("a leader", || {
            let id = *self.leaders(topic).get(&partition)?;
            usize::try_from(id).ok().filter(|id| *id > 0)
        })
    }

    /// The leader of each partition of a topic, −1 where there is none; empty if there is no such topic.
    pub(crate) fn leaders(&self, topic: &str) -> BTreeMap<i32, i32> {
        // Metadata of all topics: asking for one that is not there makes the client expect it.
        let Ok(metadata) = self.looker().fetch_metadata(None, REQUEST_LIMIT) else { return BTreeMap::new() };
        metadata
            .topics()
            .iter()
            .filter(|one| one.name() == topic)
            .flat_map(|one| one.partitions())
            .map(|one| (one.id(), one.leader()))
            .collect()
    }

    /// The first offset and the end of a partition.
    pub(crate) fn offsets(&self, topic: &str, partition: i32) -> (i64, i64) {
        let looker = self.looker();
        wait_some("a partition's offsets", || looker.fetch_watermarks(topic, partition, REQUEST_LIMIT).ok())
    }

    /// The settings of a client that speaks to the brokers past any proxy.
    pub(crate) fn direct_client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.direct());
        // Quick again after a broker's death.
        config.set("reconnect.backoff.max.ms", "500");
        config
    }

    fn looker(&self) -> BaseConsumer {
        self.direct_client().create().expect("the settings are valid")
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.direct_client().create().expect("the settings are valid")
    }
}

/// As long as a test waits for anything.
fn patience() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(WAIT_LIMIT)).operation_timeout(Some(WAIT_LIMIT))
}

fn check_all(results: KafkaResult<Vec<TopicResult>>) {
    for result in results.expect("the brokers answer") {
        result.unwrap_or_else(|(topic, error)| panic!("topic `{topic}`: {error}"));
    }
}
