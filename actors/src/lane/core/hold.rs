//! How a lane holds still, and goes on.

use std::collections::HashSet;

use crate::lane::behaviour::{Entry, Verdict};
use crate::lane::core::LaneCore;
use crate::ports::store::DesiredState;
use crate::record::{LogRecord, RecordBatch};

impl LaneCore {
    /// Shows the state of a lane that has nothing to wait for, and why it is held.
    pub(super) fn show_rest(&self, held_because: Option<&str>) {
        match held_because.filter(|_| self.is_held()) {
            Some(reason) => self.status.held(reason),
            None => self.status.set_state(self.rest_state()),
        }
    }

    /// Tells whether something holds the lane.
    pub(in crate::lane) fn is_held(&self) -> bool {
        self.desired == DesiredState::Paused
    }

    /// Gives the index of the record that makes a flood, as far as decoding tells.
    pub(super) fn flood_within(&self, chunk: &[Entry]) -> Option<usize> {
        let mut parked_here = HashSet::new();
        let mut poison = 0;
        chunk.iter().enumerate().find_map(|(index, entry)| {
            let key = entry.record.key.as_ref();
            let waits = key.is_some_and(|key| self.parked.contains_key(key) || parked_here.contains(key));
            let is_poison = matches!(&entry.verdict, Verdict::Rejected(rejection) if rejection.is_poison());
            if waits || !is_poison {
                return None;
            }
            parked_here.extend(key);
            poison += 1;
            self.flood.weigh(index + 1, poison).map(|_flood| index)
        })
    }

    /// Gives back what is left of a batch, as the lane will take it in again.
    pub(super) fn rest_of(&mut self, batch: RecordBatch, records: Vec<LogRecord>) -> Option<RecordBatch> {
        if records.is_empty() {
            return None;
        }
        self.read_position = self.position;
        Some(RecordBatch { from: self.position, records, ..batch })
    }

    /// Holds still behind a transaction that says so.
    pub(super) fn hold(&mut self, reason: &str) {
        self.desired = DesiredState::Paused;
        // Whoever lets the lane go on has looked at these.
        self.flood.release();
        self.env.metrics.count_flood(&self.lane.group);
        self.status.held(reason);
        tracing::error!(lane = %self.lane, offset = %self.position, reason, "flood of poison: the lane holds still until an operator resumes it");
    }
}
