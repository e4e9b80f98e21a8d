//! A member of a group: the reader that a dispatcher holds, and the task that delivers to its sink.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Notify, watch};
use tokio::task::yield_now;

use super::super::locked;
use super::{Announcement, Delivery, LogState, MemberId, Shared};
use crate::ids::{Group, Incarnation, LaneKey, Offset, TopicPartition};
use crate::lane::credit::CreditPool;
use crate::ports::Reply;
use crate::ports::log::{Inspection, LogEnds, LogError, LogReader, LogSink};
use crate::record::RecordBatch;

/// How long the task waits after a failed read or a batch that was handed back.
const RETRY_AFTER: Duration = Duration::from_millis(1);

/// What a member's task does next.
enum Step {
    Announce(Announcement),
    Deliver(RecordBatch),
    TellEnds(Vec<(TopicPartition, LogEnds)>),
    Retry,
    Idle,
    End,
}

/// Delivers to a member's sink until the member is closed.
pub(super) struct MemberTask {
    pub(super) shared: Arc<Shared>,
    pub(super) member: MemberId,
    pub(super) group: Group,
    pub(super) sink: Arc<dyn LogSink>,
    pub(super) credits: Arc<CreditPool>,
    pub(super) wake: Arc<Notify>,
    pub(super) ended: watch::Sender<bool>,
    /// The partition that was served last, so that all get their turn.
    pub(super) served: Option<TopicPartition>,
    /// A batch that the sink handed back.
    pub(super) handed_back: Option<RecordBatch>,
    /// The ends that the sink was told of.
    pub(super) ends: BTreeMap<TopicPartition, LogEnds>,
}

impl MemberTask {
    /// Runs until the member is closed.
    pub(super) async fn run(mut self) {
        loop {
            match self.next_step() {
                Step::Announce(Announcement::Assigned(partitions)) => self.sink.assigned(partitions),
                Step::Announce(Announcement::Revoked(revocation)) => self.sink.revoked(revocation),
                Step::Announce(Announcement::Lost(partitions)) => self.sink.lost(partitions),
                Step::Announce(Announcement::Broken(partition, incarnation)) => {
                    self.sink.broken(partition, incarnation);
                }
                Step::Deliver(batch) => self.handed_back = self.sink.read(batch).err(),
                Step::TellEnds(ends) => self.sink.ends(ends),
                Step::Retry => tokio::time::sleep(RETRY_AFTER).await,
                Step::Idle => self.wake.notified().await,
                Step::End => break,
            }
            if self.handed_back.is_some() {
                tokio::time::sleep(RETRY_AFTER).await;
            } else {
                yield_now().await;
            }
        }
        self.ended.send_replace(true);
    }

    fn next_step(&mut self) -> Step {
        let shared = Arc::clone(&self.shared);
        let mut state = locked(&shared.state);
        let is_away = state.is_away;
        let Some(member) = state.members.get_mut(self.member.0) else { return Step::End };
        if let Some(announcement) = member.announcements.pop_front() {
            return Step::Announce(announcement);
        }
        if member.is_closed {
            return Step::End;
        }
        if let Some(batch) = self.handed_back.take() {
            let delivery = member.deliveries.get(&batch.topic_partition);
            if delivery.is_some_and(|delivery| delivery.incarnation == batch.incarnation) {
                return Step::Deliver(batch);
            }
        }
        if is_away {
            return Step::Idle;
        }
        let mut partitions: Vec<TopicPartition> = member.deliveries.keys().copied().collect();
        if let Some(served) = self.served {
            let turn = partitions.partition_point(|partition| *partition <= served);
            partitions.rotate_left(turn);
        }
        let mut is_retry = false;
        for partition in partitions {
            match self.read(&shared, &mut state, partition) {
                Step::Idle => {}
                Step::Retry => is_retry = true,
                step => return step,
            }
        }
        if is_retry {
            return Step::Retry;
        }
        let changed = self.changed_ends(&shared, &mut state);
        if changed.is_empty() { Step::Idle } else { Step::TellEnds(changed) }
    }

    /// Finds the assigned partitions whose end is not what the sink was told last.
    fn changed_ends(&mut self, shared: &Shared, state: &mut LogState) -> Vec<(TopicPartition, LogEnds)> {
        let Some(member) = state.members.get(self.member.0) else { return Vec::new() };
        let mut changed = Vec::new();
        for partition in &member.assigned {
            let view = state.views.entry(*partition).or_default();
            let ends = view.ends(shared.source.heads().end(*partition));
            if self.ends.insert(*partition, ends) != Some(ends) {
                changed.push((*partition, ends));
            }
        }
        changed
    }

    /// Reads a batch of one partition, if there is anything to read, and credit for it.
    fn read(&mut self, shared: &Shared, state: &mut LogState, partition: TopicPartition) -> Step {
        let lane = LaneKey { group: self.group.clone(), topic_partition: partition };
        let (max_records, max_bytes) = self.credits.available(partition);
        if state.held.contains(&lane) || max_records == 0 || max_bytes == 0 {
            return Step::Idle;
        }
        let view = state.views.entry(partition).or_default();
        let Some(member) = state.members.get_mut(self.member.0) else { return Step::End };
        let Some(delivery) = member.deliveries.get_mut(&partition) else { return Step::Idle };
        let source_end = shared.source.heads().end(partition);
        let log_end = view.high(source_end);
        let Ok(source_low) = shared.source.low(partition) else { return Step::Retry };
        let from = delivery.position;
        if from < view.low(source_low, source_end) || from > log_end {
            // The position is gone: the lane has to look again, and finds the gap.
            let incarnation = delivery.incarnation;
            member.deliveries.remove(&partition);
            return Step::Announce(Announcement::Broken(partition, incarnation));
        }
        if from == log_end {
            return Step::Idle;
        }
        if let Some(until) = view.unreadable_until(from) {
            if delivery.applied < from {
                // What comes before is applied first.
                return Step::Idle;
            }
            let incarnation = delivery.incarnation;
            if delivery.applied < until {
                member.deliveries.remove(&partition);
                return Step::Announce(Announcement::Broken(partition, incarnation));
            }
            // Only the duplicate window would have them.
            let Some(credit) = self.credits.try_take(partition, 0, 0) else { return Step::Idle };
            delivery.position = until;
            let (topic_partition, records) = (partition, Vec::new());
            let batch =
                RecordBatch { topic_partition, incarnation, from, next: until, records, log_end, credit };
            return Step::Deliver(batch);
        }
        if state.failing_reads.get_mut(&partition).is_some_and(super::count_down) {
            return Step::Retry;
        }
        let max_records = max_records.min(shared.config.max_records);
        let max_bytes = max_bytes.min(shared.config.max_bytes);
        let Ok((records, next)) = view.read(&*shared.source, partition, from, max_records, max_bytes) else {
            return Step::Retry;
        };
        if next == from {
            return Step::Idle;
        }
        let weight = records.iter().map(|record| record.weight_bytes()).sum();
        // Without credit the records are read again when credit comes back.
        let Some(credit) = self.credits.try_take(partition, records.len(), weight) else {
            return Step::Idle;
        };
        delivery.position = next;
        self.served = Some(partition);
        let incarnation = delivery.incarnation;
        Step::Deliver(RecordBatch {
            topic_partition: partition,
            incarnation,
            from,
            next,
            records,
            log_end,
            credit,
        })
    }
}

/// A group member's reader on a [`SimulatedLog`](super::SimulatedLog).
pub(super) struct MemberReader {
    pub(super) shared: Arc<Shared>,
    pub(super) member: MemberId,
    pub(super) group: Group,
    pub(super) wake: Arc<Notify>,
    pub(super) ended: watch::Receiver<bool>,
}

impl MemberReader {
    /// Carries out a call that the log answers, unless it is closed, away or scripted to fail.
    fn call<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut LogState) -> Result<T, LogError>,
    ) -> Reply<T, LogError> {
        let mut state = locked(&self.shared.state);
        let answer = if state.members.get(self.member.0).is_none_or(|member| member.is_closed) {
            Err(LogError::Closed)
        } else {
            state.check_reachable().and_then(|()| act(&mut state))
        };
        std::future::ready(answer).boxed()
    }
}

impl LogReader for MemberReader {
    fn inspect(&self, partition: TopicPartition, next: Option<Offset>) -> Reply<Inspection, LogError> {
        self.call(|state| {
            if let Some(member) = state.members.get_mut(self.member.0) {
                match next {
                    Some(next) => drop(member.inspected.insert(partition, next)),
                    None => drop(member.inspected.remove(&partition)),
                }
            }
            let view = state.views.entry(partition).or_default();
            view.inspect(&*self.shared.source, partition, next)
                .map_err(|error| LogError::Unavailable(error.to_string()))
        })
    }

    fn confirm_ownership(&self, partition: TopicPartition, _next: Offset) -> Reply<bool, LogError> {
        self.call(|state| Ok(state.owner(&self.group, partition) == Some(self.member)))
    }

    fn start(
        &self,
        partition: TopicPartition,
        incarnation: Incarnation,
        from: Offset,
    ) -> Result<(), LogError> {
        let mut state = locked(&self.shared.state);
        let member = state.members.get_mut(self.member.0).filter(|member| !member.is_closed);
        let member = member.ok_or(LogError::Closed)?;
        if !member.assigned.contains(&partition) {
            return Err(LogError::NotAssigned(partition));
        }
        let started = member.deliveries.get(&partition).map(|delivery| delivery.incarnation);
        if started.is_none_or(|started| started <= incarnation) {
            let applied = member.inspected.get(&partition).copied().unwrap_or(from);
            member.deliveries.insert(partition, Delivery { incarnation, position: from, applied });
        }
        self.wake.notify_one();
        Ok(())
    }

    fn stop(&self, partition: TopicPartition, incarnation: Incarnation) {
        let mut state = locked(&self.shared.state);
        let Some(member) = state.members.get_mut(self.member.0) else { return };
        if member.deliveries.get(&partition).is_some_and(|delivery| delivery.incarnation <= incarnation) {
            member.deliveries.remove(&partition);
        }
    }

    fn log_end(&self, partition: TopicPartition) -> Reply<Offset, LogError> {
        self.call(|state| {
            let view = state.views.entry(partition).or_default();
            Ok(view.high(self.shared.source.heads().end(partition)))
        })
    }

    fn commit_advisory(&self, partition: TopicPartition, next: Offset) {
        let mut state = locked(&self.shared.state);
        let member = state.members.get_mut(self.member.0);
        if let Some(delivery) = member.and_then(|member| member.deliveries.get_mut(&partition)) {
            delivery.applied = delivery.applied.max(next);
        }
        self.wake.notify_one();
        // A zombie's commit is refused by the log, and nobody waits for the answer.
        if !state.is_away && state.owner(&self.group, partition) == Some(self.member) {
            state.groups.entry(self.group.clone()).or_default().offsets.insert(partition, next);
        }
    }

    fn close(&self) -> Reply<(), LogError> {
        locked(&self.shared.state).close(self.member);
        self.wake.notify_one();
        let mut ended = self.ended.clone();
        async move {
            // An error means that the task is gone, which is what is waited for.
            let _ = ended.wait_for(|ended| *ended).await;
            Ok(())
        }
        .boxed()
    }
}
