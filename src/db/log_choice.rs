//! Which event log a store is about.

use horizons_actors::ids::LogId;

/// Begins the id of every log on Kafka; an embedded log's id is a random UUID.
const KAFKA: &str = "kafka:";

/// The event log that a store is opened for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogChoice {
    /// The one in the store itself; its id is made with the store.
    Embedded,
    /// One on Kafka, with this id.
    Kafka(LogId),
    /// One on Kafka whose brokers do not answer: the one that the store remembers.
    RememberedKafka,
}

/// Gives the id of the log in a cluster, under a prefix of topics.
///
/// *Errors*: those of [`LogId::parse`].
pub fn kafka_log_id(cluster_id: &str, topic_prefix: &str) -> Result<LogId, horizons_actors::ids::IdError> {
    match topic_prefix {
        "" => LogId::parse(&format!("{KAFKA}{cluster_id}")),
        prefix => LogId::parse(&format!("{KAFKA}{cluster_id}/{prefix}")),
    }
}

/// Tells whether an id is that of a log on Kafka.
pub(super) fn is_on_kafka(log_id: &LogId) -> bool {
    log_id.as_str().starts_with(KAFKA)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kafka_log_id_prefix_is_another_log() {
        let plain = kafka_log_id("4L6g3nShT-eMCtK--X86sw", "").unwrap();
        let other = kafka_log_id("4L6g3nShT-eMCtK--X86sw", "demo-").unwrap();

        assert!(is_on_kafka(&plain) && is_on_kafka(&other));
        assert_ne!(plain, other);
    }
}
