//! The topics that the program needs: what they should be, what they are, and making those that are missing.
//!
//! Promises that nothing that exists is ever changed, and removed only when it is named: a difference is told,
//! and an operator decides. The calls block.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use horizons_actors::ids::{LogTopic, Offset, Partition, Topic, TopicPartition};
use horizons_actors::layout::Layout;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::{Client, ClientContext, DefaultClientContext};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::types::RDKafkaErrorCode;

use super::block::wait_for;
use super::config::KafkaConfig;
use super::error::KafkaLogError;
use super::names::{TopicNames, topic_name};

/// With so many copies or more, two must have a record before it counts as written.
const COPIES_FOR_TWO_IN_SYNC: u16 = 3;

/// A topic as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedTopic {
    /// What it is for.
    pub topic: LogTopic,
    /// Its name in the cluster.
    pub name: String,
    /// Its partitions.
    pub partitions: u16,
    /// On how many brokers each record is kept.
    pub replication: u16,
    /// Settings by Kafka's names.
    pub settings: BTreeMap<&'static str, String>,
}

/// A topic as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundTopic {
    /// Its name in the cluster.
    pub name: String,
    /// Its partitions.
    pub partitions: usize,
    /// On how many brokers the partition with the fewest copies is kept.
    pub replication: usize,
    /// Settings by Kafka's names; those that the broker does not show are missing.
    pub settings: BTreeMap<String, String>,
}

/// A topic that is not as planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// It does not exist.
    Missing {
        /// The topic.
        topic: String,
    },
    /// It has another number of partitions. With fewer, keys would be looked for where nothing is; those that were added
    /// are not read before they are adopted.
    Partitions {
        /// The topic.
        topic: String,
        /// What is needed.
        wanted: u16,
        /// What there is.
        got: usize,
    },
    /// Its records are kept on fewer brokers.
    Replication {
        /// The topic.
        topic: String,
        /// What is wanted.
        wanted: u16,
        /// What there is.
        got: usize,
    },
    /// A setting has another value.
    Setting {
        /// The topic.
        topic: String,
        /// The setting.
        name: &'static str,
        /// What is wanted.
        wanted: String,
        /// What there is; none when the broker does not show it.
        got: Option<String>,
    },
}

impl Difference {
    /// Tells whether serving must not start: records would be lost, refused or not found.
    pub fn is_fatal(&self) -> bool {
        match self {
            Difference::Missing { .. } => true,
            // Those that were added are not read before they are adopted.
            Difference::Partitions { wanted, got, .. } => *got < usize::from(*wanted),
            Difference::Setting { name, .. } => *name == CLEANUP_POLICY,
            Difference::Replication { .. } => false,
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Missing { topic } => write!(f, "`{topic}` does not exist"),
            Difference::Partitions { topic, wanted, got } if *got > usize::from(*wanted) => {
                write!(
                    f,
                    "`{topic}` has {got} partitions, and {wanted} count: `horizons topics adopt-layout`"
                )
            }
            Difference::Partitions { topic, wanted, got } => {
                write!(f, "`{topic}` has {got} partitions, wanted {wanted}")
            }
            Difference::Replication { topic, wanted, got } => {
                write!(f, "`{topic}` is kept on {got} brokers, wanted {wanted}")
            }
            Difference::Setting { topic, name, wanted, got } => {
                write!(f, "`{topic}` has {name} `{}`, wanted `{wanted}`", got.as_deref().unwrap_or("unknown"))
            }
        }
    }
}

/// What becomes of old records: they go by age, and never because a newer one has the same key.
const CLEANUP_POLICY: &str = "cleanup.policy";

/// Plans the five topics and their dead letters.
pub fn plan(prefix: &str, replication: u16) -> Vec<PlannedTopic> {
    plan_under(prefix, replication, &[])
}

/// The same for topics of record that may have grown: each has as many partitions as its layout counts.
pub fn plan_under(prefix: &str, replication: u16, layouts: &[Layout]) -> Vec<PlannedTopic> {
    let counted = |topic: LogTopic| match topic {
        LogTopic::Record(of) => {
            layouts.iter().find(|layout| layout.topic() == of).map_or(of.partitions(), Layout::partitions)
        }
        LogTopic::DeadLetter(source) => source.partitions(),
    };
    let of = |topic: LogTopic| {
        let source = topic.source();
        let mut settings = BTreeMap::from([
            ("retention.ms", source.retention().as_millis().to_string()),
            ("max.message.bytes", topic.kafka_max_message_bytes().to_string()),
            (CLEANUP_POLICY, "delete".to_owned()),
            ("message.timestamp.type", "CreateTime".to_owned()),
        ]);
        if replication >= COPIES_FOR_TWO_IN_SYNC {
            settings.insert("min.insync.replicas", "2".to_owned());
        }
        PlannedTopic {
            topic,
            name: topic_name(prefix, topic),
            partitions: counted(topic),
            replication,
            settings,
        }
    };
    let each = |topic| [LogTopic::Record(topic), LogTopic::DeadLetter(topic)];
    Topic::ALL.into_iter().flat_map(each).map(of).collect()
}

/// Compares what is planned with what there is. More copies than planned, or more of them in sync, are fine.
pub fn differences(planned: &[PlannedTopic], found: &[FoundTopic]) -> Vec<Difference> {
    let mut all = Vec::new();
    for planned in planned {
        let topic = planned.name.clone();
        let Some(found) = found.iter().find(|found| found.name == topic) else {
            all.push(Difference::Missing { topic });
            continue;
        };
        if found.partitions != usize::from(planned.partitions) {
            let (wanted, got) = (planned.partitions, found.partitions);
            all.push(Difference::Partitions { topic: topic.clone(), wanted, got });
        }
        if found.replication < usize::from(planned.replication) {
            let (wanted, got) = (planned.replication, found.replication);
            all.push(Difference::Replication { topic: topic.clone(), wanted, got });
        }
        for (name, wanted) in &planned.settings {
            let got = found.settings.get(*name);
            if got != Some(wanted) {
                let (topic, wanted) = (topic.clone(), wanted.clone());
                all.push(Difference::Setting { topic, name, wanted, got: got.cloned() });
            }
        }
    }
    all
}

/// What became of a topic that was to be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// It was made.
    Made,
    /// It was there.
    Existed,
}

/// Between two looks for topics that were just made.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// Looks at a cluster's topics and makes missing ones.
pub struct TopicAdmin {
    client: AdminClient<DefaultClientContext>,
    config: KafkaConfig,
}

impl TopicAdmin {
    /// Makes a client; nothing is asked of the cluster yet.
    ///
    /// *Errors*: [`KafkaLogError`] when the settings cannot work.
    pub fn new(config: KafkaConfig) -> Result<Self, KafkaLogError> {
        config.check()?;
        let client = AdminClient::from_config_and_context(&config.client("topics"), DefaultClientContext)
            .map_err(KafkaLogError::Client)?;
        Ok(Self { client, config })
    }

    /// Describes the topics with these names that exist.
    ///
    /// *Errors*: [`KafkaLogError::Request`], [`KafkaLogError::Topic`], [`KafkaLogError::Unreachable`].
    pub fn describe(&self, names: &[&str]) -> Result<Vec<FoundTopic>, KafkaLogError> {
        let request = |source| KafkaLogError::Request { operation: "list topics", source };
        let limit = self.config.request_limit;
        let metadata = self.client.inner().fetch_metadata(None, limit).map_err(request)?;
        let mut found = Vec::new();
        for topic in metadata.topics().iter().filter(|topic| names.contains(&topic.name())) {
            let copies = topic.partitions().iter().map(|partition| partition.replicas().len());
            found.push(FoundTopic {
                name: topic.name().to_owned(),
                partitions: topic.partitions().len(),
                replication: copies.min().unwrap_or(0),
                settings: BTreeMap::new(),
            });
        }
        let asked: Vec<ResourceSpecifier<'_>> =
            found.iter().map(|topic| ResourceSpecifier::Topic(&topic.name)).collect();
        if asked.is_empty() {
            return Ok(found);
        }
        let answers =
            self.finish("describe topics", self.client.describe_configs(&asked, &self.options()))?;
        // Answers come in the order of the questions; settings that may not be seen are shown as unknown.
        let settings: Vec<BTreeMap<String, String>> = answers
            .into_iter()
            .map(|answer| {
                let entries = answer.map(|resource| resource.entries).unwrap_or_default();
                let shown = entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?)));
                shown.collect()
            })
            .collect();
        for (topic, settings) in found.iter_mut().zip(settings) {
            topic.settings = settings;
        }
        Ok(found)
    }

    /// Compares the cluster with a plan.
    ///
    /// *Errors*: as [`TopicAdmin::describe`].
    pub fn check(&self, planned: &[PlannedTopic]) -> Result<Vec<Difference>, KafkaLogError> {
        let names: Vec<&str> = planned.iter().map(|topic| topic.name.as_str()).collect();
        Ok(differences(planned, &self.describe(&names)?))
    }

    /// Creates the topics that are missing, waits until brokers tell of them all, and tells what became of each.
    ///
    /// *Errors*: [`KafkaLogError::Topic`] for the first topic that the cluster refuses; others may have been
    /// made. [`KafkaLogError::Request`], [`KafkaLogError::Unreachable`].
    pub fn create(&self, planned: &[PlannedTopic]) -> Result<Vec<(String, Created)>, KafkaLogError> {
        let new = |topic| {
            let PlannedTopic { name, partitions, replication, settings, .. }: &PlannedTopic = topic;
            let replication = TopicReplication::Fixed(i32::from(*replication));
            settings
                .iter()
                .fold(NewTopic::new(name, i32::from(*partitions), replication), |topic, (setting, value)| {
                    topic.set(setting, value)
                })
        };
        let new: Vec<NewTopic<'_>> = planned.iter().map(new).collect();
        let answers = self.finish("create topics", self.client.create_topics(&new, &self.options()))?;
        let outcome = |answer| match answer {
            Ok(name) => Ok((name, Created::Made)),
            Err((name, RDKafkaErrorCode::TopicAlreadyExists)) => Ok((name, Created::Existed)),
            Err((topic, code)) => Err(KafkaLogError::Topic { operation: "create topic", topic, code }),
        };
        let created: Vec<(String, Created)> = answers.into_iter().map(outcome).collect::<Result<_, _>>()?;
        self.wait_until_told(planned)?;
        Ok(created)
    }

    /// Waits until brokers tell of topics: they hear of a new one from the controller, a little later than who
    /// asked for it, and a start right after it must find them.
    fn wait_until_told(&self, planned: &[PlannedTopic]) -> Result<(), KafkaLogError> {
        let names: Vec<&str> = planned.iter().map(|topic| topic.name.as_str()).collect();
        let within = self.config.request_limit;
        let until = Instant::now() + within;
        while self.describe(&names)?.len() < names.len() {
            if Instant::now() >= until {
                return Err(KafkaLogError::Unreachable { bootstrap: self.config.bootstrap.clone(), within });
            }
            std::thread::park_timeout(LOOK_PAUSE);
        }
        Ok(())
    }

    /// Counts the partitions of a topic of record; none where it does not exist.
    ///
    /// *Errors*: [`KafkaLogError::Request`].
    pub fn partitions(&self, topic: Topic) -> Result<Option<u16>, KafkaLogError> {
        let request = |source| KafkaLogError::Request { operation: "list topics", source };
        let name = topic_name(&self.config.topic_prefix, LogTopic::Record(topic));
        // All are asked for: asking for one by name may create it.
        let metadata =
            self.client.inner().fetch_metadata(None, self.config.request_limit).map_err(request)?;
        let found = metadata.topics().iter().find(|found| found.name() == name);
        Ok(found.map(|found| u16::try_from(found.partitions().len()).unwrap_or(u16::MAX)))
    }

    /// Counts the brokers.
    ///
    /// *Errors*: [`KafkaLogError::Request`].
    pub fn brokers(&self) -> Result<usize, KafkaLogError> {
        let request = |source| KafkaLogError::Request { operation: "list brokers", source };
        let metadata =
            self.client.inner().fetch_metadata(None, self.config.request_limit).map_err(request)?;
        Ok(metadata.brokers().len())
    }

    /// Gives the ends of partitions of record: the offset that the next record of each would get.
    ///
    /// *Errors*: [`KafkaLogError::Request`].
    pub fn ends(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<Vec<(TopicPartition, Offset)>, KafkaLogError> {
        let names = TopicNames::new(&self.config.topic_prefix)?;
        let end = |at: &TopicPartition| {
            let end = end_of(self.client.inner(), names.name(at.topic), at.partition, &self.config)?;
            Ok((*at, end))
        };
        partitions.iter().map(end).collect()
    }

    /// Removes topics and groups with all that is in them; those that do not exist are fine.
    ///
    /// *Errors*: [`KafkaLogError::Topic`] for the first topic that the cluster will not remove,
    /// [`KafkaLogError::Request`], [`KafkaLogError::Unreachable`].
    pub fn remove(&self, planned: &[PlannedTopic], groups: &[&str]) -> Result<(), KafkaLogError> {
        if !groups.is_empty() {
            // A group that has members yet, or never had any, is left: it goes when its offsets expire.
            let _left = self.finish("remove groups", self.client.delete_groups(groups, &self.options()))?;
        }
        let names: Vec<&str> = planned.iter().map(|topic| topic.name.as_str()).collect();
        let answers = self.finish("remove topics", self.client.delete_topics(&names, &self.options()))?;
        answers.into_iter().try_for_each(|answer| match answer {
            Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => Ok(()),
            Err((topic, code)) => Err(KafkaLogError::Topic { operation: "remove topic", topic, code }),
        })
    }

    fn options(&self) -> AdminOptions {
        let limit = self.config.request_limit;
        AdminOptions::new().request_timeout(Some(limit)).operation_timeout(Some(limit))
    }

    /// Waits for an answer; the client's own limit comes first where it works.
    fn finish<T>(
        &self,
        operation: &'static str,
        answer: impl Future<Output = Result<T, rdkafka::error::KafkaError>>,
    ) -> Result<T, KafkaLogError> {
        let within = self.config.request_limit * 2;
        match wait_for(answer, Instant::now() + within) {
            Some(answer) => answer.map_err(|source| KafkaLogError::Request { operation, source }),
            None => Err(KafkaLogError::Unreachable { bootstrap: self.config.bootstrap.clone(), within }),
        }
    }
}

/// Asks for the end of a partition, again while a new topic has no leader yet.
pub(super) fn end_of<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    partition: Partition,
    config: &KafkaConfig,
) -> Result<Offset, KafkaLogError> {
    let until = Instant::now() + config.request_limit;
    loop {
        match client.fetch_watermarks(topic, i32::from(partition.0), config.request_limit) {
            Ok((_, end)) => return Ok(Offset(end.max(0).cast_unsigned())),
            Err(_) if Instant::now() < until => std::thread::park_timeout(LOOK_PAUSE),
            Err(source) => return Err(KafkaLogError::Request { operation: "read ends", source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn as_planned(planned: &[PlannedTopic]) -> Vec<FoundTopic> {
        let found = |topic: &PlannedTopic| FoundTopic {
            name: topic.name.clone(),
            partitions: usize::from(topic.partitions),
            replication: usize::from(topic.replication),
            settings: topic
                .settings
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
        };
        planned.iter().map(found).collect()
    }

    #[test]
    fn plan_dead_letters_take_more_than_their_source() {
        let planned = plan("x.", 3);

        assert_eq!(planned.len(), 10);
        for pair in planned.chunks(2) {
            let bytes = |topic: &PlannedTopic| topic.settings["max.message.bytes"].parse::<u32>().unwrap();
            assert_eq!(pair[1].name, format!("{}.dlq", pair[0].name));
            assert_eq!(pair[0].partitions, pair[1].partitions);
            assert!(bytes(&pair[1]) > bytes(&pair[0]));
        }
        assert!(planned.iter().all(|topic| topic.settings["min.insync.replicas"] == "2"));
        assert!(plan("", 2).iter().all(|topic| !topic.settings.contains_key("min.insync.replicas")));
    }

    #[test]
    fn differences_each_is_named() {
        let planned = plan("", 3);
        let mut found = as_planned(&planned);
        assert_eq!(differences(&planned, &found), vec![]);

        found[0].partitions = 9;
        found[1].replication = 1;
        found[2].settings.insert("cleanup.policy".to_owned(), "compact".to_owned());
        found[3].settings.remove("retention.ms");
        found.remove(4);
        let named: Vec<(String, bool)> = differences(&planned, &found)
            .iter()
            .map(|difference| (difference.to_string(), difference.is_fatal()))
            .collect();

        let expected = [
            ("`job-lifecycle` has 9 partitions, wanted 10", true),
            ("`job-lifecycle.dlq` is kept on 1 brokers, wanted 3", false),
            ("`job-metrics` has cleanup.policy `compact`, wanted `delete`", true),
            ("`job-metrics.dlq` has retention.ms `unknown`, wanted `2592000000`", false),
            ("`notifications` does not exist", true),
        ];
        assert_eq!(named, expected.map(|(text, is_fatal)| (text.to_owned(), is_fatal)));
    }
}
