//! Credits: the memory that records on their way may take (design D4, requirement C7).
//!
//! Promises that what is held never exceeds the limits, except that a partition that holds nothing may always
//! take one batch within the global limit's reserve, so that one large record cannot stall it; and that what a
//! batch holds comes back when the batch is dropped, wherever that happens.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::ids::TopicPartition;

/// How much may be on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreditLimits {
    /// Records per lane.
    pub lane_records: usize,
    /// Bytes per lane.
    pub lane_bytes: usize,
    /// Bytes of all lanes of all groups.
    pub total_bytes: usize,
}

/// Bytes that all groups hold together.
#[derive(Debug, Default)]
pub struct GlobalCredit {
    held_bytes: Mutex<usize>,
}

impl GlobalCredit {
    /// Gives the bytes held now.
    pub fn held_bytes(&self) -> usize {
        *self.held_bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one lane holds.
#[derive(Debug, Default, Clone, Copy)]
struct Held {
    records: usize,
    bytes: usize,
}

/// Called when credit comes back, so that a reader that held back goes on.
type Returned = Box<dyn Fn() + Send + Sync>;

/// The credits of one group's reader.
pub struct CreditPool {
    limits: CreditLimits,
    global: Arc<GlobalCredit>,
    held: Mutex<HashMap<TopicPartition, Held>>,
    returned: Mutex<Option<Returned>>,
}

impl std::fmt::Debug for CreditPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreditPool").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl CreditPool {
    /// Makes a pool that shares the global limit with others.
    pub fn new(limits: CreditLimits, global: Arc<GlobalCredit>) -> Arc<Self> {
        Arc::new(Self { limits, global, held: Mutex::default(), returned: Mutex::default() })
    }

    /// Sets what is called when credit comes back. It must not block or take credit itself.
    pub fn on_return(&self, returned: impl Fn() + Send + Sync + 'static) {
        *self.returned.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(returned));
    }

    /// Gives how much a lane may still take: records and bytes; zero of either means hold back.
    pub fn available(&self, partition: TopicPartition) -> (usize, usize) {
        let held = self.lane_held(partition);
        let global = self.limits.total_bytes.saturating_sub(self.global.held_bytes());
        let records = self.limits.lane_records.saturating_sub(held.records);
        let bytes = self.limits.lane_bytes.saturating_sub(held.bytes).min(global);
        (records, bytes)
    }

    /// Takes credit for a batch, or nothing when it does not fit. A lane that holds nothing gets one record
    /// of any size while the global pool has anything left.
    pub fn try_take(
        self: &Arc<Self>,
        partition: TopicPartition,
        records: usize,
        bytes: usize,
    ) -> Option<Credit> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mut global = self.global.held_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = held.entry(partition).or_default();
        let fits = lane.records + records <= self.limits.lane_records
            && lane.bytes + bytes <= self.limits.lane_bytes
            && *global + bytes <= self.limits.total_bytes;
        let is_lone_record = records == 1 && lane.records == 0 && *global < self.limits.total_bytes;
        if !fits && !is_lone_record {
            return None;
        }
        lane.records += records;
        lane.bytes += bytes;
        *global += bytes;
        Some(Credit { pool: Some(Arc::clone(self)), partition, records, bytes })
    }

    /// Gives the bytes that a lane's records on their way hold.
    pub fn lane_bytes(&self, partition: TopicPartition) -> usize {
        self.lane_held(partition).bytes
    }

    fn lane_held(&self, partition: TopicPartition) -> Held {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).get(&partition).copied().unwrap_or_default()
    }

    fn give_back(&self, partition: TopicPartition, records: usize, bytes: usize) {
        {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            let mut global = self.global.held_bytes.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(lane) = held.get_mut(&partition) {
                lane.records = lane.records.saturating_sub(records);
                lane.bytes = lane.bytes.saturating_sub(bytes);
            }
            *global = global.saturating_sub(bytes);
        }
        if let Some(returned) = &*self.returned.lock().unwrap_or_else(PoisonError::into_inner) {
            returned();
        }
    }
}

/// Credit that is held; dropping it gives it back.
#[derive(Debug)]
pub struct Credit {
    pool: Option<Arc<CreditPool>>,
    partition: TopicPartition,
    records: usize,
    bytes: usize,
}

impl Credit {
    /// Gives credit that belongs to no pool, for batches that never were on their way.
    pub fn unlimited(partition: TopicPartition) -> Self {
        Self { pool: None, partition, records: 0, bytes: 0 }
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.give_back(self.partition, self.records, self.bytes);
        }
    }
}
