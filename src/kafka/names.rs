//! What our topics are called in the cluster.
//!
//! Promises that every name that leaves this module is one that a broker takes and that the client library
//! does not panic on.

use std::collections::HashMap;

use horizons_actors::ids::{LogTopic, Partition, Topic, TopicPartition};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};

use super::error::KafkaLogError;

/// Longest name of a topic, in bytes.
///
/// *Source*: Apache Kafka, `org.apache.kafka.common.internals.Topic`.
const NAME_MAX_BYTES: usize = 249;

/// Checks a topic's name or an id with the same rules.
///
/// *Errors*: [`KafkaLogError::Name`].
pub(super) fn check_name(setting: &'static str, name: &str) -> Result<(), KafkaLogError> {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > NAME_MAX_BYTES || !name.bytes().all(is_legal) {
        return Err(KafkaLogError::Name { setting, got: name.to_owned() });
    }
    Ok(())
}

/// Names a topic in the cluster.
pub fn topic_name(prefix: &str, topic: LogTopic) -> String {
    format!("{prefix}{topic}")
}

/// The names of the topics of record, both ways.
#[derive(Debug, Clone)]
pub struct TopicNames {
    names: Vec<(Topic, String)>,
    by_name: HashMap<String, Topic>,
}

impl TopicNames {
    /// Puts a prefix before every name.
    ///
    /// *Errors*: [`KafkaLogError::Name`] when a topic or its dead letters would get a name that is not legal.
    pub fn new(prefix: &str) -> Result<Self, KafkaLogError> {
        for topic in Topic::ALL {
            check_name("kafka.topic_prefix", &topic_name(prefix, LogTopic::DeadLetter(topic)))?;
        }
        let names: Vec<(Topic, String)> = Topic::ALL
            .into_iter()
            .map(|topic| (topic, topic_name(prefix, LogTopic::Record(topic))))
            .collect();
        let by_name = names.iter().map(|(topic, name)| (name.clone(), *topic)).collect();
        Ok(Self { names, by_name })
    }

    /// Gives a topic's name.
    pub fn name(&self, topic: Topic) -> &str {
        self.names.iter().find(|(one, _)| *one == topic).map_or("", |(_, name)| name)
    }

    /// Finds a partition; none for one that is not ours.
    pub fn find(&self, name: &str, partition: i32) -> Option<TopicPartition> {
        let topic = *self.by_name.get(name)?;
        let number = u16::try_from(partition).ok()?;
        Some(TopicPartition { topic, partition: Partition(number) })
    }

    /// Makes a list for the client library.
    pub(super) fn list(
        &self,
        partitions: impl IntoIterator<Item = (TopicPartition, KafkaOffset)>,
    ) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in partitions {
            let mut element =
                list.add_partition(self.name(partition.topic), i32::from(partition.partition.0));
            // Only an offset below zero is refused, and the list then keeps none, which no call takes for one.
            let _kept = element.set_offset(offset);
        }
        list
    }

    /// Reads a list of the client library; partitions that are not ours are left out.
    pub(super) fn read(&self, list: &TopicPartitionList) -> Vec<TopicPartition> {
        list.elements().iter().filter_map(|one| self.find(one.topic(), one.partition())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_every_partition_is_found_again() {
        let names = TopicNames::new("test-7.").unwrap();

        for partition in Topic::ALL.into_iter().flat_map(Topic::all_partitions) {
            let name = names.name(partition.topic);
            assert!(name.starts_with("test-7."));
            assert_eq!(names.find(name, i32::from(partition.partition.0)), Some(partition));
        }
        assert_eq!(names.find("job-lifecycle", 0), None, "without the prefix");
        assert_eq!(names.find("test-7.job-lifecycle", -1), None);
    }

    #[test]
    fn names_prefix_that_is_too_long_for_dead_letters_is_refused() {
        let longest = NAME_MAX_BYTES - LogTopic::DeadLetter(Topic::JobLifecycle).to_string().len();

        assert!(TopicNames::new(&"x".repeat(longest)).is_ok());
        assert!(TopicNames::new(&"x".repeat(longest + 1)).is_err());
    }

    #[test]
    fn list_goes_both_ways() {
        let names = TopicNames::new("").unwrap();
        let partitions: Vec<TopicPartition> = Topic::SystemHealth.all_partitions().collect();

        let list = names.list(partitions.iter().map(|one| (*one, KafkaOffset::Offset(7))));

        assert_eq!(names.read(&list), partitions);
        assert!(list.elements().iter().all(|one| one.offset() == KafkaOffset::Offset(7)));
    }
}
