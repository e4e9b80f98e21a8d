//! The brake on floods of poison (design D6).
//!
//! Promises that a lane holds still once too many of its last records were poison, so that a broken producer or a
//! broken consumer does not empty a partition into its dead letters. What it remembers is in memory: a restart
//! begins to count anew, the decision itself is stored.

use std::collections::VecDeque;
use std::fmt;

/// When poison is a flood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FloodLimit {
    /// The last records of a lane that count.
    pub records: usize,
    /// So many of them that are poison make a flood; 0 means that nothing does.
    pub poison: usize,
}

/// Records that were answered together, and how many of them were poison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Answered {
    records: usize,
    poison: usize,
}

/// A flood, in words for the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flood(Answered);

impl fmt::Display for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Answered { records, poison } = self.0;
        write!(f, "{poison} of the last {records} records were poison: find out why, then resume the lane")
    }
}

/// Counts what a lane answered last.
#[derive(Debug)]
pub(super) struct FloodBrake {
    limit: FloodLimit,
    recent: VecDeque<Answered>,
    sum: Answered,
}

impl FloodBrake {
    pub(super) const fn new(limit: FloodLimit) -> Self {
        Self { limit, recent: VecDeque::new(), sum: Answered { records: 0, poison: 0 } }
    }

    /// Tells whether so many more records, some of them poison, make a flood.
    pub(super) fn weigh(&self, records: usize, poison: usize) -> Option<Flood> {
        let sum = Answered { records: self.sum.records + records, poison: self.sum.poison + poison };
        (poison > 0 && self.limit.poison > 0 && sum.poison >= self.limit.poison).then_some(Flood(sum))
    }

    /// Counts records that were answered, and forgets those that are beyond the last ones.
    pub(super) fn note(&mut self, records: usize, poison: usize) {
        self.recent.push_back(Answered { records, poison });
        self.sum.records += records;
        self.sum.poison += poison;
        while let Some(oldest) = self.recent.front()
            && self.sum.records - oldest.records >= self.limit.records
        {
            self.sum.records -= oldest.records;
            self.sum.poison -= oldest.poison;
            self.recent.pop_front();
        }
    }

    /// Begins to count anew.
    pub(super) fn release(&mut self) {
        self.recent.clear();
        self.sum = Answered::default();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn brake(records: usize, poison: usize) -> FloodBrake {
        FloodBrake::new(FloodLimit { records, poison })
    }

    #[test]
    fn weigh_run_of_poison_is_a_flood_at_the_limit() {
        let mut brake = brake(10, 3);
        let mut floods = Vec::new();
        for _ in 0..3 {
            floods.push(brake.weigh(1, 1).is_some());
            brake.note(1, 1);
        }

        assert_eq!(floods, [false, false, true]);
        assert_eq!(brake.weigh(5, 0), None, "records that are well make no flood");
        brake.release();
        assert_eq!(brake.weigh(2, 2), None);
    }

    #[test]
    fn weigh_batch_counts_what_it_brings_itself() {
        let flood = brake(10, 3).weigh(20, 3).unwrap();

        assert_eq!(
            flood.to_string(),
            "3 of the last 20 records were poison: find out why, then resume the lane"
        );
        assert_eq!(brake(10, 0).weigh(20, 20), None, "no brake");
    }

    proptest! {
        /// Against a list of every record: a flood is one exactly when the last records say so. Batches are
        /// forgotten whole, so what counts are at least the last `records`, and at most a batch more.
        #[test]
        fn weigh_any_batches_as_the_list_of_records_says(
            limit in 1_usize..40,
            poison_limit in 1_usize..10,
            batches in proptest::collection::vec((1_usize..12, 0_usize..12), 1..60),
        ) {
            let mut brake = brake(limit, poison_limit);
            let mut all: Vec<(usize, usize)> = Vec::new();
            for (records, poison) in batches {
                let poison = poison.min(records);
                // The fewest last batches that hold so many records as count.
                let mut counted = (0, 0);
                for (before, bad) in all.iter().rev() {
                    if counted.0 >= limit {
                        break;
                    }
                    counted = (counted.0 + before, counted.1 + bad);
                }
                let is_flood = poison > 0 && counted.1 + poison >= poison_limit;

                prop_assert_eq!(brake.weigh(records, poison).is_some(), is_flood);

                brake.note(records, poison);
                all.push((records, poison));
            }
        }
    }
}
