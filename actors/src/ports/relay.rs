//! The relay to Kafka as operators see it.
//!
//! Promises plain data of one moment, at most a second old; reading it never waits for the relay.

use serde::Serialize;

use crate::ids::{Offset, Partition};
use crate::ports::Reply;
use crate::ports::outbox::{OutboxPartition, SetAsideRecord};
use crate::ports::page::Page;
use crate::ports::store::StoreError;

/// How publishing stands.
///
/// *Units*: `oldest_seconds` in seconds, `in_flight_bytes` in bytes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RelaySnapshot {
    /// Whether this process is the one that sends.
    pub is_leader: bool,
    /// Why nothing can be sent at all, where that is so.
    pub trouble: Option<String>,
    /// Records that Kafka has not acknowledged.
    pub waiting_records: u64,
    /// Age of the oldest of them, where known.
    pub oldest_seconds: f64,
    /// Records handed over and not acknowledged.
    pub in_flight_records: u64,
    /// What they take of memory.
    pub in_flight_bytes: u64,
    /// Producers made anew since the start.
    pub rebuilds: u64,
    /// Partitions with records that wait, or that do not flow.
    pub partitions: Vec<RelayPartition>,
}

/// One partition with records that wait, or that does not flow.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RelayPartition {
    /// The topic's name, without a prefix.
    pub topic: String,
    /// The partition.
    pub partition: Partition,
    /// The first record that Kafka has not acknowledged, by its offset in the outbox.
    pub next: Offset,
    /// The offset in the outbox that the next record will get.
    pub end: Offset,
    /// `flowing`, `looking`, `waiting` or `stopped`.
    pub condition: &'static str,
    /// What is in the way.
    pub detail: Option<String>,
}

/// The relay of this process.
pub trait RelayView: Send + Sync {
    /// Tells how publishing stands.
    fn snapshot(&self) -> RelaySnapshot;

    /// Lists records that were set aside, in order of partition and offset, behind one.
    fn set_aside_records(
        &self,
        after: Option<(OutboxPartition, Offset)>,
        limit: usize,
    ) -> Reply<Page<SetAsideRecord>, StoreError>;

    /// Has a partition look at what an operator did about the record it stands at: a record that was set aside is
    /// passed, else a stopped partition tries it again.
    fn look_again(&self, partition: OutboxPartition);
}
