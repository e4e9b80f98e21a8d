//! Storing cursors, removing what was sent, and telling how things are.

use std::time::{Duration, Instant};

use horizons_actors::clock::Timestamp;
use horizons_actors::ids::Offset;
use horizons_actors::ports::outbox::{CursorMove, WantedRows};
use horizons_actors::ports::store::StoreError;

use super::partition::{PartitionState, Phase};
use super::run::Relay;
use super::sending::{add_topic, is_stopped, lane_of};
use super::status::{PartitionCondition, PartitionStatus, RelayStatus};

/// How long acknowledgements are gathered before cursors are stored: each storing is a commit that lanes wait
/// for, and what is not stored is only looked up again after a crash.
const CURSOR_INTERVAL: Duration = Duration::from_millis(100);

/// Acknowledged rows for which cursors are stored at once.
const CURSOR_ROWS: u64 = 20_000;

/// How often stopped partitions ask whether their record was set aside.
const SET_ASIDE_INTERVAL: Duration = Duration::from_millis(50);

/// Rows that one removal takes: a few milliseconds of the writer's time.
const REMOVED_ROWS: usize = 1_000;

/// How long removal rests after it found little to remove.
const REMOVAL_REST: Duration = Duration::from_secs(1);

/// How long removal rests after a full piece, in times of what the piece took: lanes have the rest.
const REMOVAL_SHARE: u32 = 2;

/// How often the status is told.
const STATUS_INTERVAL: Duration = Duration::from_millis(250);

impl Relay {
    /// Stores cursors when it is time, and takes answers.
    pub(super) fn keep_cursors(&mut self, now: Instant) {
        let Some(leading) = &mut self.leading else { return };
        match leading.advance.poll(&self.waker) {
            None => {}
            Some(Ok(refused)) => {
                let moves = std::mem::take(&mut leading.moves);
                leading.is_removable = true;
                for step in moves.iter().filter(|step| !refused.contains(&step.partition)) {
                    let place = leading.index.get(&step.partition);
                    if let Some(lane) = place.and_then(|place| leading.lanes.get_mut(*place)) {
                        lane.state.was_stored(step);
                    }
                }
                if !refused.is_empty() {
                    self.read_cursors_again(now);
                }
            }
            Some(Err(error)) => {
                leading.moves.clear();
                leading.advance_at = now + CURSOR_INTERVAL * 2;
                self.cursors_failed(&error, now);
            }
        }
        self.ask_for_set_aside(now);
        let Some(leading) = &mut self.leading else { return };
        if leading.advance.is_some() {
            return;
        }
        let is_first = leading.lanes.iter().any(|lane| waits_for_its_place(&lane.state));
        let unstored: u64 = leading.lanes.iter().map(|lane| lane.state.unstored_rows()).sum();
        if now < leading.advance_at && !is_first && unstored < CURSOR_ROWS {
            return;
        }
        let moves: Vec<CursorMove> = leading.lanes.iter().filter_map(|lane| lane.state.unstored()).collect();
        if moves.is_empty() {
            return;
        }
        leading.advance_at = now + CURSOR_INTERVAL;
        leading.moves.clone_from(&moves);
        leading.advance.set(self.store.advance_cursors(leading.epoch, moves));
        // A store that answers at once does not wake anybody.
        self.inbox.nudge();
    }

    fn cursors_failed(&mut self, error: &StoreError, now: Instant) {
        if error.is_transient() {
            tracing::debug!(%error, "failed to store cursors: tries again");
            self.trouble = Some(error.to_string());
            return;
        }
        tracing::error!(%error, "failed to store cursors: the lease is taken again");
        self.lease.lose(now);
        self.step_down(now);
        self.trouble = Some(error.to_string());
    }

    /// Finds out why cursors were not moved: another owner, or an operator.
    fn read_cursors_again(&mut self, now: Instant) {
        let cursors = match self.store.cursors() {
            Ok(cursors) => cursors,
            Err(error) => {
                self.cursors_failed(&error, now);
                return;
            }
        };
        let Some(leading) = &mut self.leading else { return };
        let asked = std::mem::take(&mut leading.asked);
        if cursors.iter().any(|cursor| cursor.epoch != leading.epoch) {
            tracing::warn!("another relay owns the cursors: this one stops sending");
            self.lease.lose(now);
            self.step_down(now);
            return;
        }
        for cursor in &cursors {
            let place = leading.index.get(&cursor.partition);
            if let Some(lane) = place.and_then(|place| leading.lanes.get_mut(*place)) {
                let freed = lane.state.was_moved(cursor);
                leading.in_flight_bytes = leading.in_flight_bytes.saturating_sub(freed);
            }
        }
        for partition in asked {
            if let Some(lane) = lane_of(leading, partition)
                && lane.state.try_again()
            {
                tracing::info!(%partition, "an operator has a stopped partition try again");
            }
        }
    }

    /// Looks whether what stopped partitions stand at was set aside meanwhile.
    fn ask_for_set_aside(&mut self, now: Instant) {
        let Some(leading) = &mut self.leading else { return };
        let is_stopped = leading.lanes.iter().any(|lane| is_stopped(lane.state.phase()));
        if (!is_stopped && leading.asked.is_empty()) || now < leading.cursors_at {
            return;
        }
        leading.cursors_at = now + SET_ASIDE_INTERVAL;
        self.read_cursors_again(now);
    }

    /// Removes sent rows in pieces, with rests between them.
    pub(super) fn keep_outbox_small(&mut self, now: Instant) {
        let Some(leading) = &mut self.leading else { return };
        match leading.removal.poll(&self.waker) {
            None => {}
            Some(Ok(removed)) => {
                self.metrics.count_removed(removed);
                let took = now.saturating_duration_since(leading.removal_begun);
                let is_full = removed >= REMOVED_ROWS as u64;
                leading.is_removable |= is_full;
                leading.removal_at = now + if is_full { took * REMOVAL_SHARE } else { REMOVAL_REST };
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "failed to remove sent rows: tries again");
                leading.removal_at = now + REMOVAL_REST;
            }
        }
        if leading.is_removable && !leading.removal.is_some() && now >= leading.removal_at {
            leading.is_removable = false;
            leading.removal_begun = now;
            leading.removal.set(self.store.remove_sent(leading.epoch, REMOVED_ROWS));
            self.inbox.nudge();
        }
    }

    /// Tells status and gauges.
    pub(super) fn keep_status(&mut self, now: Instant) {
        if now < self.status_at {
            return;
        }
        self.status_at = now + STATUS_INTERVAL;
        let mut status =
            RelayStatus { trouble: self.trouble.clone(), rebuilds: self.rebuilds, ..RelayStatus::default() };
        let mut topics = Vec::new();
        if let Some(leading) = &self.leading {
            status.epoch = Some(leading.epoch);
            status.in_flight_records = leading.unanswered;
            status.in_flight_bytes = leading.in_flight_bytes;
            for lane in &leading.lanes {
                let (partition, next) = (lane.state.partition(), lane.state.next());
                let end = self.heads.end(partition);
                let waiting = end.0.saturating_sub(next.0);
                let stopped = u64::from(is_stopped(lane.state.phase()));
                add_topic(&mut topics, partition.topic, waiting, stopped);
                status.waiting_records += waiting;
                if waiting > 0 || stopped > 0 {
                    let condition = condition(&lane.state);
                    status.partitions.push(PartitionStatus { partition, next, end, condition });
                }
            }
            status.oldest = self.oldest(&status);
        }
        self.metrics.observe(status.is_leader(), status.in_flight_bytes, status.oldest, &topics);
        self.board.set(status);
    }

    /// Gives the age of the oldest record that waits.
    fn oldest(&self, status: &RelayStatus) -> Duration {
        let Some(leading) = &self.leading else { return Duration::ZERO };
        let in_flight =
            leading.lanes.iter().filter_map(|lane| lane.state.oldest().map(|sent| sent.recorded_at));
        // What is not even handed over is read: one row of each such partition.
        let is_unread = |place: &OffsetOf| {
            let place = leading.index.get(&place.0).and_then(|place| leading.lanes.get(*place));
            place.is_some_and(|lane| lane.state.oldest().is_none())
        };
        let wanted: Vec<WantedRows> = status
            .partitions
            .iter()
            .map(|one| (one.partition, one.next))
            .filter(is_unread)
            .map(|(partition, from)| WantedRows { partition, from, limit: 1 })
            .collect();
        let read = if wanted.is_empty() {
            Vec::new()
        } else {
            // An age that cannot be read now is told the next time.
            self.store.read_outbox(&wanted, usize::MAX).unwrap_or_default()
        };
        let heads = read.iter().flat_map(|rows| rows.rows.first()).map(|row| row.timestamp);
        let oldest: Option<Timestamp> = in_flight.chain(heads).min();
        oldest.map_or(Duration::ZERO, |oldest| self.clock.now().since(oldest))
    }
}

/// A partition with an offset of its.
type OffsetOf = (horizons_actors::ports::outbox::OutboxPartition, Offset);

/// Tells whether a partition could be sent to, were its place in Kafka stored.
fn waits_for_its_place(state: &PartitionState) -> bool {
    state.must_store_first() && state.unstored().is_some()
}

fn condition(state: &PartitionState) -> PartitionCondition {
    match state.phase() {
        Phase::Flowing => PartitionCondition::Flowing,
        Phase::Unknown | Phase::Looking => PartitionCondition::Looking,
        Phase::Waiting { why, .. } => PartitionCondition::Waiting(why.clone()),
        Phase::Stopped { why, .. } => PartitionCondition::Stopped(why.clone()),
    }
}
