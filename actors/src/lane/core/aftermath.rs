//! What a lane takes over from a transaction that is committed, and what it tells of poison.

use crate::ids::Offset;
use crate::lane::answer::Summary;
use crate::lane::core::LaneCore;
use crate::ports::store::{DesiredState, ParkedKeyState, ParkedWish};
use crate::rejection::Rejection;
use crate::snapshot::ActorState;

impl LaneCore {
    /// Gives the state of a lane that has nothing to wait for.
    pub(super) fn rest_state(&self) -> ActorState {
        match self.desired {
            DesiredState::Running => ActorState::Running,
            DesiredState::Paused => ActorState::Paused,
        }
    }

    /// Counts the records that are parked.
    pub(super) fn parked_records(&self) -> u64 {
        self.parked.values().map(|key| key.records).sum()
    }

    /// Takes over what a committed transaction changed about parked keys, and logs poison once.
    pub(super) fn take_over(&mut self, summary: Summary) {
        for (rejection, offset, key) in summary.rejected {
            self.env.metrics.count_rejection(&self.lane, &rejection);
            if !rejection.is_poison() {
                self.tell_wrong_partition(&rejection, offset);
                continue;
            }
            tracing::warn!(lane = %self.lane, offset = %offset, reason = rejection.name(), error = %rejection, is_parked = key.is_some(), "record rejected");
        }
        for parked in summary.keys_parked {
            let records = self.parked.get(&parked.key).map_or(0, |key| key.records);
            self.parked.insert(
                parked.key.clone(),
                ParkedKeyState { key: parked.key, head: parked.head, wish: ParkedWish::Wait, records },
            );
        }
        for (key, count) in summary.records_parked {
            if let Some(parked) = self.parked.get_mut(&key) {
                parked.records += count;
            }
        }
        for (key, count) in summary.records_unparked {
            if let Some(parked) = self.parked.get_mut(&key) {
                parked.records = parked.records.saturating_sub(count);
            }
        }
        for key in summary.keys_unparked {
            self.parked.remove(&key);
        }
    }

    /// Says once that a producer chooses partitions otherwise: it may do so with every record.
    fn tell_wrong_partition(&mut self, rejection: &Rejection, offset: Offset) {
        if std::mem::replace(&mut self.has_told_wrong_partition, true) {
            tracing::debug!(lane = %self.lane, offset = %offset, error = %rejection, "record set aside");
        } else {
            tracing::warn!(lane = %self.lane, offset = %offset, error = %rejection, "records stand in a wrong partition and are set aside: their producer must choose partitions by murmur2");
        }
    }
}
