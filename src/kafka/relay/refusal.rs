//! What a failed delivery means. Pure.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// Whether sending the same record again may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Never: the record itself, or the right to write it, is at fault.
    Permanent(RDKafkaErrorCode),
    /// The topic or partition does not exist (yet).
    Missing(RDKafkaErrorCode),
    /// Later.
    Transient(RDKafkaErrorCode),
}

impl Refusal {
    /// Tells what a code means.
    ///
    /// *Source*: Kafka's protocol guide, error codes, and what librdkafka raises itself (names with an underscore
    /// there).
    pub(super) const fn of(code: RDKafkaErrorCode) -> Self {
        match code {
            RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::MessageBatchTooLarge
            | RDKafkaErrorCode::InvalidRecord
            | RDKafkaErrorCode::InvalidMessageSize
            | RDKafkaErrorCode::InvalidTimestamp
            | RDKafkaErrorCode::InvalidTopic
            | RDKafkaErrorCode::UnsupportedForMessageFormat
            | RDKafkaErrorCode::PolicyViolation
            | RDKafkaErrorCode::TopicAuthorizationFailed => Refusal::Permanent(code),
            RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::UnknownTopicOrPartition => Refusal::Missing(code),
            _ => Refusal::Transient(code),
        }
    }

    /// Tells what an error of a call means.
    pub(super) fn of_error(error: &KafkaError) -> Self {
        Refusal::of(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail))
    }

    /// Gives the client's code.
    pub(super) const fn code(self) -> RDKafkaErrorCode {
        match self {
            Refusal::Permanent(code) | Refusal::Missing(code) | Refusal::Transient(code) => code,
        }
    }

    /// Gives the label under which it is counted.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Refusal::Permanent(_) => "permanent",
            Refusal::Missing(_) => "missing",
            Refusal::Transient(_) => "transient",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_only_what_the_record_causes_is_permanent() {
        let table = [
            (RDKafkaErrorCode::MessageSizeTooLarge, "permanent"),
            (RDKafkaErrorCode::InvalidRecord, "permanent"),
            (RDKafkaErrorCode::TopicAuthorizationFailed, "permanent"),
            (RDKafkaErrorCode::UnknownTopic, "missing"),
            (RDKafkaErrorCode::UnknownTopicOrPartition, "missing"),
            (RDKafkaErrorCode::NotEnoughReplicas, "transient"),
            (RDKafkaErrorCode::MessageTimedOut, "transient"),
            (RDKafkaErrorCode::OutOfOrderSequenceNumber, "transient"),
            (RDKafkaErrorCode::Fatal, "transient"),
            (RDKafkaErrorCode::PurgeInflight, "transient"),
            (RDKafkaErrorCode::ClusterAuthorizationFailed, "transient"),
        ];

        for (code, wanted) in table {
            assert_eq!(Refusal::of(code).label(), wanted, "{code}");
        }
    }
}
