//! What the relay tells about itself.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use horizons_actors::ids::{Epoch, Offset};
use horizons_actors::ports::outbox::OutboxPartition;

/// Whether a partition is being sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartitionCondition {
    /// Nothing is in the way.
    Flowing,
    /// What is in Kafka already is being looked up.
    Looking,
    /// Something passing is in the way: it is tried again by itself.
    Waiting(String),
    /// Kafka refuses the record at `next` for good: an operator must set it aside or change the topic.
    Stopped(String),
}

impl PartitionCondition {
    /// Lists one of each.
    pub const EACH: [Self; 4] =
        [Self::Flowing, Self::Looking, Self::Waiting(String::new()), Self::Stopped(String::new())];

    /// Gives the name that answers carry.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Flowing => "flowing",
            Self::Looking => "looking",
            Self::Waiting(_) => "waiting",
            Self::Stopped(_) => "stopped",
        }
    }

    /// Says what it means, as the documents do.
    pub const fn meaning(&self) -> &'static str {
        match self {
            Self::Flowing => "nothing is in the way",
            Self::Looking => "what stands in Kafka already is looked up before more is sent",
            Self::Waiting(_) => {
                "something that passes is in the way, which is named: it is tried again by itself"
            }
            Self::Stopped(_) => "Kafka refuses its next record for good: an operator must act",
        }
    }
}

/// One partition with records that wait, or that does not flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionStatus {
    /// The partition.
    pub partition: OutboxPartition,
    /// The first record that Kafka has not acknowledged.
    pub next: Offset,
    /// The offset that the next record will get.
    pub end: Offset,
    /// How it is.
    pub condition: PartitionCondition,
}

/// What the relay told last; at most a second old.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelayStatus {
    /// Under which epoch this process sends; none while another does, or nobody.
    pub epoch: Option<Epoch>,
    /// Why nothing can be sent at all, where that is so: no store, no producer, no broker.
    pub trouble: Option<String>,
    /// Records that Kafka has not acknowledged.
    pub waiting_records: u64,
    /// Age of the oldest of them, where known.
    pub oldest: Duration,
    /// Records handed over and not acknowledged.
    pub in_flight_records: usize,
    /// What they take of memory.
    pub in_flight_bytes: usize,
    /// Producers made anew since the start.
    pub rebuilds: u64,
    /// Partitions with records that wait, or that do not flow.
    pub partitions: Vec<PartitionStatus>,
}

impl RelayStatus {
    /// Tells whether this process is the one that sends.
    pub const fn is_leader(&self) -> bool {
        self.epoch.is_some()
    }

    /// Lists partitions that wait for an operator.
    pub fn stopped(&self) -> impl Iterator<Item = &PartitionStatus> {
        self.partitions.iter().filter(|one| matches!(one.condition, PartitionCondition::Stopped(_)))
    }
}

/// Where the relay writes its status for others to read.
#[derive(Debug, Default)]
pub(super) struct StatusBoard {
    status: Mutex<RelayStatus>,
}

impl StatusBoard {
    pub(super) fn set(&self, status: RelayStatus) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    pub(super) fn get(&self) -> RelayStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
