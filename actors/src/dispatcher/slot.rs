//! One assigned partition: its lane, and what waits for the lane's mailbox.
//!
//! Promises that batches reach the lane in order and that a wish to stop goes before them, however full the
//! mailbox is. Does not try again by itself: the dispatcher does with the next batch and on its tick.

use std::collections::VecDeque;
use std::time::Instant;

use actix::dev::SendError;
use tokio::sync::oneshot;

use crate::child::Child;
use crate::ids::Incarnation;
use crate::lane::Lane;
use crate::lane::message::{RecordsRouted, StopLane};
use crate::record::RecordBatch;

/// One assigned partition.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) lane: Child<Lane, Incarnation>,
    /// Answered when the lane has stopped for good.
    pub(super) waiting: Vec<oneshot::Sender<()>>,
    /// Whether the partition is being given back.
    pub(super) is_leaving: bool,
    /// Whether the lane was asked to stop; stays set when the partition comes back meanwhile.
    pub(super) is_asked_to_stop: bool,
    /// Batches in front of the lane's full mailbox, in order; credits bound them.
    pub(super) backlog: VecDeque<RecordBatch>,
    /// A wish to stop that the lane's full mailbox did not take yet.
    pub(super) unsent_stop: Option<StopLane>,
}

impl Slot {
    /// Asks the lane to stop. What waits in front of its mailbox is dropped: the log keeps it.
    pub(super) fn ask_to_stop(&mut self, deadline: Option<Instant>) {
        self.is_asked_to_stop = true;
        self.backlog.clear();
        self.unsent_stop = Some(StopLane { deadline });
        self.send_waiting();
    }

    /// Sends the lane what waits for it, as far as its mailbox takes it.
    pub(super) fn send_waiting(&mut self) {
        let Some(lane) = self.lane.address() else { return };
        if let Some(stop) = self.unsent_stop.take()
            && let Err(SendError::Full(stop)) = lane.try_send(stop)
        {
            self.unsent_stop = Some(stop);
            return;
        }
        while let Some(batch) = self.backlog.pop_front() {
            match lane.try_send(RecordsRouted { batch }) {
                Ok(()) => {}
                Err(SendError::Full(RecordsRouted { batch })) => return self.backlog.push_front(batch),
                // The lane has ended: its end is told, or found on the tick.
                Err(SendError::Closed(_)) => self.backlog.clear(),
            }
        }
    }
}
