//! From the configuration to the adapters that speak with Kafka.

use std::time::Duration;

use crate::config::{Config, KafkaSecurity, KafkaUser};
use crate::kafka::config::{
    BatchLimits, KafkaConfig, SaslConfig, ScramHash, Secret, SecurityConfig, TlsConfig,
};
use crate::kafka::producer::{Compression, ProducerConfig};
use crate::kafka::relay::{RelayConfig, Writers};

/// What the relay's producer waits for more records: nothing, as batches form while others are in flight.
const LINGER: Duration = Duration::ZERO;

/// The largest record that any topic takes, dead letters and what the protocol adds included.
const MESSAGE_MAX_BYTES: usize = 4 << 20;

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
        password: Secret::new(user.password.reveal()),
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
