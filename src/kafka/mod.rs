//! Apache Kafka as the event log.

mod batch;
mod commits;
pub mod config;
pub mod error;
mod holdings;
pub mod names;
pub mod record;
