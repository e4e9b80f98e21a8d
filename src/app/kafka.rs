//! From the configuration to the adapters that speak with Kafka.

use std::time::Duration;

use horizons_actors::ids::LogId;
use horizons_actors::layout::Layout;

use crate::config::{Config, KafkaSecurity, KafkaUser};
use crate::db::log_choice::kafka_log_id;
use crate::kafka::cluster_id;
use crate::kafka::config::{BatchLimits, KafkaConfig, SaslConfig, ScramHash, SecurityConfig, TlsConfig};
use crate::kafka::error::KafkaLogError;
use crate::kafka::producer::{Compression, MESSAGE_MAX_BYTES, ProducerConfig};
use crate::kafka::relay::{RelayConfig, Writers};
use crate::kafka::topics::{PlannedTopic, plan, plan_under};

/// What the relay's producer waits for more records: nothing, as batches form while others are in flight.
const LINGER: Duration = Duration::ZERO;

/// What the relay keeps in flight at most.
const IN_FLIGHT_RECORDS: usize = 20_000;

/// What the relay keeps in flight at most, in bytes.
const IN_FLIGHT_BYTES: usize = 32 << 20;

/// A member that does not poll for so long gives itself up; the reader's thread polls far more often.
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(60);

/// Gives what the adapter is told.
pub(super) fn kafka_config(config: &Config) -> KafkaConfig {
    let kafka = &config.kafka;
    KafkaConfig {
        topic_prefix: kafka.topic_prefix.clone(),
        group_prefix: kafka.group_prefix.clone(),
        group_instance_id: kafka.instance_id.clone(),
        session_timeout: kafka.session_timeout,
        max_poll_interval: MAX_POLL_INTERVAL.max(kafka.session_timeout),
        rebalance_limit: kafka.rebalance_timeout,
        security: security(config),
        batch: BatchLimits { records: config.lanes.batch_records, bytes: config.lanes.batch_bytes },
        ..KafkaConfig::new(kafka.bootstrap.clone())
    }
}

/// Gives the topics that the configuration wants.
pub(super) fn planned_topics(config: &Config) -> Vec<PlannedTopic> {
    plan(&config.kafka.topic_prefix, config.kafka.replication_factor)
}

/// The same, with as many partitions as these layouts count.
pub(super) fn planned_topics_under(config: &Config, layouts: &[Layout]) -> Vec<PlannedTopic> {
    plan_under(&config.kafka.topic_prefix, config.kafka.replication_factor, layouts)
}

/// Asks the brokers who they are, and gives the id of the log that their topics under the prefix are. Blocks.
pub(super) fn identify_log(config: &Config, within: Duration) -> Result<LogId, KafkaLogError> {
    let kafka = kafka_config(config);
    let cluster = cluster_id(&kafka, within)?;
    kafka_log_id(cluster.as_str(), &kafka.topic_prefix).map_err(KafkaLogError::ClusterId)
}

fn security(config: &Config) -> SecurityConfig {
    let tls = || {
        let (certificate_file, key_file) = config.kafka.certificate.clone().unzip();
        TlsConfig { ca_file: config.kafka.ca_file.clone(), certificate_file, key_file }
    };
    match &config.kafka.security {
        KafkaSecurity::Plaintext => SecurityConfig::default(),
        KafkaSecurity::Tls => SecurityConfig { tls: Some(tls()), sasl: None },
        KafkaSecurity::SaslPlaintext(user) => SecurityConfig { tls: None, sasl: Some(sasl(user)) },
        KafkaSecurity::SaslTls(user) => SecurityConfig { tls: Some(tls()), sasl: Some(sasl(user)) },
    }
}

fn sasl(user: &KafkaUser) -> SaslConfig {
    SaslConfig {
        hash: match user.mechanism.as_str() {
            "SCRAM-SHA-256" => ScramHash::Sha256,
            _ => ScramHash::Sha512,
        },
        user: user.user.clone(),
        password: user.password.clone(),
    }
}

/// Gives what the relay is told.
pub(super) fn relay_config(config: &Config, writers: Writers) -> RelayConfig {
    let kafka = kafka_config(config);
    RelayConfig {
        client: kafka.client("relay"),
        topic_prefix: kafka.topic_prefix,
        producer: ProducerConfig {
            linger: LINGER,
            compression: match config.kafka.compression.as_str() {
                "lz4" => Compression::Lz4,
                "zstd" => Compression::Zstd,
                _ => Compression::None,
            },
            max_message_bytes: MESSAGE_MAX_BYTES,
            max_records: IN_FLIGHT_RECORDS,
            max_bytes: IN_FLIGHT_BYTES,
        },
        lease: config.kafka.relay_lease,
        writers,
    }
}
