//! What a reader reports to: the bridge from its thread to the dispatcher's mailbox.
//!
//! Promises that a call never blocks, that records are handed back when they cannot be taken, and that a
//! change of the assignment or of the log's health is never lost while the dispatcher lives.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use actix::Recipient;
use actix::dev::SendError;

use crate::dispatcher::message::{AssignmentChanged, RecordsRead};
use crate::ids::{Group, Incarnation, LaneKey, TopicPartition};
use crate::lane::environment::LaneEnvironment;
use crate::ports::log::{LogEnds, LogError, LogSink, Revocation};
use crate::record::RecordBatch;

/// A change of what is assigned, or of how the log is.
#[derive(Debug)]
pub(super) enum Assignment {
    Assigned(Vec<TopicPartition>),
    Revoked(Revocation),
    Lost(Vec<TopicPartition>),
    Broken(TopicPartition, Incarnation),
    Health(Result<(), LogError>),
}

/// Changes that the dispatcher has not taken yet.
pub(super) type Assignments = Arc<Mutex<VecDeque<Assignment>>>;

/// Hands what a reader reports to its dispatcher.
pub(super) struct DispatcherSink {
    pub(super) records: Recipient<RecordsRead>,
    pub(super) changed: Recipient<AssignmentChanged>,
    pub(super) assignments: Assignments,
    /// Where the group's lanes are seen by others, and the clock.
    pub(super) environment: Arc<LaneEnvironment>,
    pub(super) group: Group,
}

impl DispatcherSink {
    fn push(&self, assignment: Assignment) {
        self.assignments.lock().unwrap_or_else(PoisonError::into_inner).push_back(assignment);
        // When the mailbox is full the dispatcher finds the change on its next tick.
        let _found_on_tick = self.changed.try_send(AssignmentChanged);
    }
}

impl LogSink for DispatcherSink {
    fn assigned(&self, partitions: Vec<TopicPartition>) {
        self.push(Assignment::Assigned(partitions));
    }

    fn revoked(&self, revocation: Revocation) {
        self.push(Assignment::Revoked(revocation));
    }

    fn lost(&self, partitions: Vec<TopicPartition>) {
        self.push(Assignment::Lost(partitions));
    }

    fn read(&self, batch: RecordBatch) -> Result<(), RecordBatch> {
        match self.records.try_send(RecordsRead { batch }) {
            Ok(()) => Ok(()),
            Err(SendError::Full(RecordsRead { batch }) | SendError::Closed(RecordsRead { batch })) => {
                Err(batch)
            }
        }
    }

    fn broken(&self, partition: TopicPartition, incarnation: Incarnation) {
        self.push(Assignment::Broken(partition, incarnation));
    }

    fn ends(&self, ends: Vec<(TopicPartition, LogEnds)>) {
        let now = self.environment.clock.moment();
        for (topic_partition, ends) in ends {
            let lane = LaneKey { group: self.group.clone(), topic_partition };
            // A lane that is not on the board is someone else's by now.
            if let Some(status) = self.environment.board.find_lane(&lane) {
                status.log_ends_at(ends, now);
            }
        }
    }

    fn health(&self, health: Result<(), LogError>) {
        self.push(Assignment::Health(health));
    }
}
