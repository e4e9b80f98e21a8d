//! What a lane takes over from a transaction that is durable, and what it logs of poison.

use crate::ids::Offset;
use crate::lane::answer::Summary;
use crate::lane::core::LaneCore;
use crate::rejection::Rejection;

impl LaneCore {
    /// Takes over what a transaction changed, and logs poison once.
    pub(super) fn take_over(&mut self, summary: Summary) {
        self.moved(&summary.states);
        self.parked.take_over(&summary);
        let Summary { states, views_retired, trials_settled, rejected, .. } = summary;
        self.rows.keep(states);
        self.rows.retire(views_retired);
        self.trials.settle(trials_settled);
        self.window.trim();
        for (rejection, offset, key) in rejected {
            self.env.metrics.count_rejection(&self.lane, &rejection);
            if !rejection.is_poison() {
                self.report_wrong_partition(&rejection, offset);
                continue;
            }
            tracing::warn!(lane = %self.lane, offset = %offset, reason = rejection.name(), error = %rejection, is_parked = key.is_some(), "record rejected");
        }
    }

    /// Logs once that a producer chooses partitions otherwise: it may do so with every record.
    fn report_wrong_partition(&mut self, rejection: &Rejection, offset: Offset) {
        if std::mem::replace(&mut self.has_told_wrong_partition, true) {
            tracing::debug!(lane = %self.lane, offset = %offset, error = %rejection, "record set aside");
        } else {
            tracing::warn!(lane = %self.lane, offset = %offset, error = %rejection, "records stand in a wrong partition and are set aside: their producer must choose partitions by murmur2");
        }
    }
}
