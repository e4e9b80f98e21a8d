//! Apache Kafka: what speaks its protocol.

pub mod producer;
pub mod relay;
