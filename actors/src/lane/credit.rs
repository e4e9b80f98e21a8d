//! Credits: the memory that records on their way may take (design D4, requirement C7).
//!
//! Promises that what is held never exceeds the limits, except that a partition that holds nothing may always
//! take one record, so that neither its size nor other lanes that hold still can stall it; and that what a
//! batch holds comes back when the batch is dropped, wherever that happens.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

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
    /// Set under the lock above when a reader goes without because of other groups.
    is_short: AtomicBool,
    pools: Mutex<Vec<Weak<CreditPool>>>,
}

impl GlobalCredit {
    /// Gives the bytes held now.
    pub fn held_bytes(&self) -> usize {
        *self.held_bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists the pools that live.
    fn pools(&self) -> Vec<Arc<CreditPool>> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|pool| pool.strong_count() > 0);
        pools.iter().filter_map(Weak::upgrade).collect()
    }
}

/// What one lane holds.
#[derive(Debug, Default, Clone, Copy)]
struct Held {
    records: usize,
    bytes: usize,
    /// How many hold [`NarrowCredit`] of the lane.
    narrowed: usize,
}

/// The part of a lane's limits that holds while it reads again what it has answered before.
const NARROW_PART: usize = 8;

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
        let pool = Arc::new(Self { limits, global, held: Mutex::default(), returned: Mutex::default() });
        pool.global.pools.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&pool));
        pool
    }

    /// Sets what is called when credit comes back. It must not block or take credit itself.
    pub fn on_return(&self, returned: impl Fn() + Send + Sync + 'static) {
        *self.returned.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(returned));
    }

    /// Gives how much a lane may still take: records and bytes; zero of either means hold back.
    pub fn available(&self, partition: TopicPartition) -> (usize, usize) {
        let held = self.lane_held(partition);
        let limits = self.limits_of(held);
        let records = limits.lane_records.saturating_sub(held.records);
        let bytes = limits.lane_bytes.saturating_sub(held.bytes);
        let global = self.global.held_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let left = self.limits.total_bytes.saturating_sub(*global);
        if left < bytes {
            self.global.is_short.store(true, Ordering::Relaxed);
        }
        if left == 0 && held.records == 0 {
            // The one record that it may always take.
            return (1, 1);
        }
        (records, bytes.min(left))
    }

    /// Tells whether a lane holds no more than half of what it may: a reader that stopped goes on then, not at
    /// the first record that comes back.
    pub fn is_half_free(&self, partition: TopicPartition) -> bool {
        let held = self.lane_held(partition);
        let limits = self.limits_of(held);
        held.records <= limits.lane_records / 2 && held.bytes <= limits.lane_bytes / 2
    }

    /// Takes credit for a batch, or nothing when it does not fit. A lane that holds nothing gets one record
    /// of any size, whatever others hold.
    pub fn try_take(
        self: &Arc<Self>,
        partition: TopicPartition,
        records: usize,
        bytes: usize,
    ) -> Option<Credit> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mut global = self.global.held_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = held.entry(partition).or_default();
        let limits = self.limits_of(*lane);
        let fits = lane.records + records <= limits.lane_records
            && lane.bytes + bytes <= limits.lane_bytes
            && *global + bytes <= limits.total_bytes;
        let is_lone_record = records == 1 && lane.records == 0;
        if !fits && !is_lone_record {
            self.global.is_short.store(true, Ordering::Relaxed);
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

    /// Lets a lane have a part of its credit only, until what is given back is dropped: all lanes of a process read
    /// again at once when it starts, and what they take together then stays with the process.
    pub fn narrow(self: &Arc<Self>, partition: TopicPartition) -> NarrowCredit {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.entry(partition).or_default().narrowed += 1;
        NarrowCredit { pool: Arc::clone(self), partition }
    }

    fn widen(&self, partition: TopicPartition) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = held.get_mut(&partition) {
            lane.narrowed = lane.narrowed.saturating_sub(1);
        }
        drop(held);
        self.tell();
    }

    /// Gives the limits of a lane that holds this.
    fn limits_of(&self, held: Held) -> CreditLimits {
        let part = if held.narrowed == 0 { 1 } else { NARROW_PART };
        CreditLimits {
            lane_records: self.limits.lane_records.div_ceil(part),
            lane_bytes: self.limits.lane_bytes.div_ceil(part),
            total_bytes: self.limits.total_bytes,
        }
    }

    fn lane_held(&self, partition: TopicPartition) -> Held {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).get(&partition).copied().unwrap_or_default()
    }

    fn give_back(&self, partition: TopicPartition, records: usize, bytes: usize) {
        let was_short = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            let mut global = self.global.held_bytes.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(lane) = held.get_mut(&partition) {
                lane.records = lane.records.saturating_sub(records);
                lane.bytes = lane.bytes.saturating_sub(bytes);
            }
            *global = global.saturating_sub(bytes);
            self.global.is_short.swap(false, Ordering::Relaxed)
        };
        self.tell();
        if was_short {
            let others = self.global.pools();
            others.iter().filter(|pool| !std::ptr::eq(pool.as_ref(), self)).for_each(|pool| pool.tell());
        }
    }

    fn tell(&self) {
        if let Some(returned) = &*self.returned.lock().unwrap_or_else(PoisonError::into_inner) {
            returned();
        }
    }
}

/// Keeps a lane's credit narrow; dropping it gives the lane all of it.
#[derive(Debug)]
pub struct NarrowCredit {
    pool: Arc<CreditPool>,
    partition: TopicPartition,
}

impl Drop for NarrowCredit {
    fn drop(&mut self) {
        self.pool.widen(self.partition);
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

impl Credit {
    /// Takes over what another one holds of the same lane; it comes back with this one. One of another lane or pool
    /// is handed back.
    pub fn join(&mut self, mut other: Self) -> Result<(), Self> {
        let is_same = match (&self.pool, &other.pool) {
            (Some(mine), Some(others)) => Arc::ptr_eq(mine, others),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !is_same || self.partition != other.partition {
            return Err(other);
        }
        other.pool = None;
        self.records += other.records;
        self.bytes += other.bytes;
        Ok(())
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.give_back(self.partition, self.records, self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use proptest::prelude::*;

    use super::*;
    use crate::ids::{Partition, Topic};

    const LIMITS: CreditLimits = CreditLimits { lane_records: 8, lane_bytes: 60, total_bytes: 100 };

    fn partition(number: u16) -> TopicPartition {
        TopicPartition { topic: Topic::JobLifecycle, partition: Partition(number) }
    }

    #[test]
    fn credit_held_by_another_group_wakes_the_one_that_went_without() {
        let global = Arc::new(GlobalCredit::default());
        let pools = [(); 2].map(|()| CreditPool::new(LIMITS, Arc::clone(&global)));
        let woken = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&woken);
        pools[1].on_return(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let first = pools[0].try_take(partition(0), 2, 60).unwrap();
        let _second = pools[0].try_take(partition(1), 2, 30).unwrap();
        assert!(pools[1].try_take(partition(0), 2, 30).is_none(), "the global pool is short");

        drop(first);

        assert_eq!(woken.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn credit_exhausted_by_others_leaves_an_empty_lane_one_record() {
        let global = Arc::new(GlobalCredit::default());
        let pools = [(); 2].map(|()| CreditPool::new(LIMITS, Arc::clone(&global)));
        let _kept = [(0, 60), (1, 40)].map(|(lane, bytes)| pools[0].try_take(partition(lane), 2, bytes));
        assert_eq!(global.held_bytes(), LIMITS.total_bytes);

        let (records, bytes) = pools[1].available(partition(0));

        assert!(records > 0 && bytes > 0, "a reader that asks must not be told to hold back");
        let lone = pools[1].try_take(partition(0), 1, 500);
        assert!(lone.is_some());
        assert_eq!(pools[1].available(partition(0)).1, 0, "one and no more");
    }

    #[test]
    fn credit_joined_comes_back_at_once_with_the_one_that_took_it() {
        let pool = CreditPool::new(LIMITS, Arc::default());
        let mut first = pool.try_take(partition(0), 2, 20).unwrap();

        first.join(pool.try_take(partition(0), 3, 30).unwrap()).unwrap();
        let of_another_lane = first.join(pool.try_take(partition(1), 1, 10).unwrap()).unwrap_err();

        assert_eq!(pool.available(partition(0)), (3, 10));
        drop(of_another_lane);
        drop(first);
        assert_eq!(pool.available(partition(0)), (8, 60));
        assert_eq!(pool.global.held_bytes(), 0);
    }

    #[test]
    fn credit_is_narrow_while_anybody_says_so_and_its_reader_hears_of_the_end() {
        let pool = CreditPool::new(LIMITS, Arc::default());
        let woken = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&woken);
        pool.on_return(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });

        let (first, second) = (pool.narrow(partition(0)), pool.narrow(partition(0)));
        assert_eq!(pool.available(partition(0)), (1, 8), "an eighth of 8 records and 60 bytes");
        assert_eq!(pool.available(partition(1)), (8, 60), "other lanes have all of theirs");
        assert!(pool.try_take(partition(0), 2, 2).is_none());
        let taken = pool.try_take(partition(0), 1, 50);
        assert!(taken.is_some(), "one record of any size always passes");
        assert!(!pool.is_half_free(partition(0)));
        drop(first);
        assert_eq!(pool.available(partition(0)), (0, 0));
        let before = woken.load(Ordering::Relaxed);
        drop(second);

        assert_eq!(woken.load(Ordering::Relaxed), before + 1);
        assert_eq!(pool.available(partition(0)), (7, 10));
    }

    proptest! {
        #[test]
        fn credit_any_history_stays_within_limits_and_comes_back(
            steps in proptest::collection::vec((0..2_usize, 0..3_u16, 1..5_usize, 1..90_usize, any::<bool>()), 1..100),
        ) {
            let global = Arc::new(GlobalCredit::default());
            let pools = [(); 2].map(|()| CreditPool::new(LIMITS, Arc::clone(&global)));
            let mut held: Vec<(usize, u16, usize, usize, Credit)> = Vec::new();

            for (pool, lane, records, bytes, is_return) in steps {
                if is_return && !held.is_empty() {
                    drop(held.swap_remove((records * bytes) % held.len()));
                    continue;
                }
                let of_lane = |held: &[(usize, u16, usize, usize, Credit)]| {
                    let own = held.iter().filter(|entry| (entry.0, entry.1) == (pool, lane));
                    own.fold((0, 0), |sum, entry| (sum.0 + entry.2, sum.1 + entry.3))
                };
                let before = of_lane(&held);
                let held_bytes: usize = held.iter().map(|entry| entry.3).sum();
                let taken = pools[pool].try_take(partition(lane), records, bytes);

                let fits = before.0 + records <= LIMITS.lane_records
                    && before.1 + bytes <= LIMITS.lane_bytes
                    && held_bytes + bytes <= LIMITS.total_bytes;
                prop_assert_eq!(taken.is_some(), fits || (records == 1 && before.0 == 0));
                held.extend(taken.map(|credit| (pool, lane, records, bytes, credit)));
                prop_assert_eq!(global.held_bytes(), held.iter().map(|entry| entry.3).sum::<usize>());
            }

            drop(held);
            prop_assert_eq!(global.held_bytes(), 0);
            for pool in &pools {
                for lane in 0..3 {
                    prop_assert_eq!(pool.available(partition(lane)), (LIMITS.lane_records, LIMITS.lane_bytes));
                }
            }
        }
    }
}
