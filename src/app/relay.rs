//! The relay of this process, as HTTP and commands see it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use horizons_actors::clock::Clock;
use horizons_actors::ids::Offset;
use horizons_actors::ports::Reply;
use horizons_actors::ports::outbox::{OutboxPartition, OutboxStore, RelayId, SetAsideRecord};
use horizons_actors::ports::page::Page;
use horizons_actors::ports::relay::{RelayPartition, RelaySnapshot, RelayView};
use horizons_actors::ports::store::StoreError;
use prometheus::Registry;
use uuid::Uuid;

use super::kafka::relay_config;
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::kafka::relay::{
    PartitionCondition, PartitionStatus, RelayHandle, RelayMetrics, RelayParts, Writers,
};

/// A running relay and the outbox that it sends.
pub(super) struct RelayPort {
    handle: RelayHandle,
    pub(super) outbox: Arc<dyn OutboxStore>,
}

impl fmt::Debug for RelayPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayPort").field("handle", &self.handle).finish_non_exhaustive()
    }
}

impl RelayPort {
    /// Starts the relay.
    pub(super) fn start(
        config: &Config,
        writers: Writers,
        outbox: Arc<dyn OutboxStore>,
        clock: Arc<dyn Clock>,
        registry: &Registry,
    ) -> Result<Self, Failure> {
        let metrics = RelayMetrics::register(registry).map_err(|error| Failure::new(Exit::Failed, &error))?;
        let parts = RelayParts { store: Arc::clone(&outbox), clock, metrics, id: RelayId(Uuid::new_v4()) };
        let handle = RelayHandle::start(relay_config(config, writers), parts)
            .map_err(|error| Failure::new(Exit::Failed, &error))?;
        Ok(Self { handle, outbox })
    }

    /// Sends what is left, as far as the limit allows, and ends. Blocks.
    pub(super) fn stop(&self, limit: Duration) {
        self.handle.stop(limit);
    }
}

impl RelayView for RelayPort {
    fn snapshot(&self) -> RelaySnapshot {
        let status = self.handle.status();
        RelaySnapshot {
            is_leader: status.is_leader(),
            trouble: status.trouble,
            waiting_records: status.waiting_records,
            oldest_seconds: status.oldest.as_secs_f64(),
            in_flight_records: status.in_flight_records as u64,
            in_flight_bytes: status.in_flight_bytes as u64,
            rebuilds: status.rebuilds,
            partitions: status.partitions.into_iter().map(partition).collect(),
        }
    }

    fn set_aside_records(
        &self,
        after: Option<(OutboxPartition, Offset)>,
        limit: usize,
    ) -> Reply<Page<SetAsideRecord>, StoreError> {
        self.outbox.set_aside_records_after(after, limit)
    }

    fn look_again(&self, partition: OutboxPartition) {
        self.handle.look_again(partition);
    }
}

fn partition(status: PartitionStatus) -> RelayPartition {
    let PartitionStatus { partition, next, end, condition } = status;
    let name = condition.name();
    let detail = match condition {
        PartitionCondition::Flowing | PartitionCondition::Looking => None,
        PartitionCondition::Waiting(why) | PartitionCondition::Stopped(why) => Some(why),
    };
    RelayPartition {
        topic: partition.topic.to_string(),
        partition: partition.partition,
        next,
        end,
        condition: name,
        detail,
    }
}
