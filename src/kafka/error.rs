//! What can go wrong between us and a cluster, beside what the log port names.

use std::time::Duration;

use horizons_actors::ids::IdError;
use horizons_actors::ports::log::LogError;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

/// Tells why a call to a cluster failed.
#[derive(Debug, thiserror::Error)]
pub enum KafkaLogError {
    /// A topic, prefix or id that no broker would take.
    #[error("failed to check `{setting}`: wanted 1..=249 of letters, digits, `.`, `_` and `-`, got `{got}`")]
    Name {
        /// The setting.
        setting: &'static str,
        /// What it holds, or would lead to.
        got: String,
    },
    /// A setting out of range.
    #[error("failed to check `{name}`: wanted {wanted}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// What it may be.
        wanted: &'static str,
    },
    /// A client cannot be made of the settings.
    #[error("failed to make a Kafka client: {0}")]
    Client(#[source] KafkaError),
    /// No broker answered in time.
    #[error("failed to reach Kafka at `{bootstrap}` within {within:?}")]
    Unreachable {
        /// Where brokers were looked for.
        bootstrap: String,
        /// How long.
        within: Duration,
    },
    /// The cluster's id is not one that can be stored.
    #[error("failed to read the cluster's id: {0}")]
    ClusterId(#[source] IdError),
    /// A request to the cluster failed.
    #[error("failed to {operation}: {source}")]
    Request {
        /// What was asked for.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: KafkaError,
    },
    /// The cluster refused something for one topic.
    #[error("failed to {operation} `{topic}`: {code}")]
    Topic {
        /// What was asked for.
        operation: &'static str,
        /// The topic.
        topic: String,
        /// The broker's answer.
        code: RDKafkaErrorCode,
    },
}

impl KafkaLogError {
    /// Tells whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            KafkaLogError::Unreachable { .. } | KafkaLogError::Request { .. } => true,
            KafkaLogError::Topic { code, .. } => is_broker_away(*code),
            KafkaLogError::Name { .. }
            | KafkaLogError::Setting { .. }
            | KafkaLogError::Client(_)
            | KafkaLogError::ClusterId(_) => false,
        }
    }
}

/// Tells whether a code means that a broker did not answer, or not yet.
fn is_broker_away(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::NotController
            | RDKafkaErrorCode::LeaderNotAvailable
    )
}

/// Tells whether a consumer's error means that bytes of the log could not be read as records. What the client left
/// out then, and whether it will go on behind it, differs by code ([`super::survey`]).
pub(super) const fn is_unreadable(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::BadMessage
            | RDKafkaErrorCode::BadCompression
            | RDKafkaErrorCode::NotImplemented
            | RDKafkaErrorCode::Underflow
            | RDKafkaErrorCode::Unknown
            | RDKafkaErrorCode::InvalidMessage
            | RDKafkaErrorCode::InvalidMessageSize
            | RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::KafkaStorageError
            | RDKafkaErrorCode::UnsupportedCompressionType
    )
}

/// Names the log port's error for a cluster that did not answer.
pub(super) fn unavailable(error: impl std::fmt::Display) -> LogError {
    LogError::Unavailable(error.to_string())
}
