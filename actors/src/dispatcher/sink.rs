//! What a reader reports to: the bridge from its thread to the dispatcher's mailbox.
//!
//! Promises that a call never blocks, that records are handed back when they cannot be taken, and that a
//! change of the assignment is never lost while the dispatcher lives.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use actix::Recipient;
use actix::dev::SendError;

use crate::dispatcher::message::{AssignmentChanged, RecordsRead};
use crate::ids::TopicPartition;
use crate::ports::log::{LogSink, Revocation};
use crate::record::RecordBatch;

/// A change of what is assigned.
#[derive(Debug)]
pub(super) enum Assignment {
    Assigned(Vec<TopicPartition>),
    Revoked(Revocation),
    Lost(Vec<TopicPartition>),
}

/// Changes that the dispatcher has not taken yet.
pub(super) type Assignments = Arc<Mutex<VecDeque<Assignment>>>;

/// Hands what a reader reports to its dispatcher.
pub(super) struct DispatcherSink {
    pub(super) records: Recipient<RecordsRead>,
    pub(super) changed: Recipient<AssignmentChanged>,
    pub(super) assignments: Assignments,
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
}
