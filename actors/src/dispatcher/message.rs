//! What a dispatcher takes and sends.

use std::time::Instant;

use actix::Message;

use crate::ids::{Group, LaneKey};
use crate::record::RecordBatch;

/// Brings records that the group's reader has read.
///
/// Sent by the reader through its sink, which hands the batch back when the mailbox is full: the reader then
/// holds it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct RecordsRead {
    /// The records.
    pub batch: RecordBatch,
}

/// Tells that the log has changed what is assigned.
///
/// Sent by the reader through its sink. The change itself waits in the sink; a lost note delays it to the
/// dispatcher's next tick and loses nothing.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct AssignmentChanged;

/// Starts a lane again that waits for an operator or was stopped.
///
/// Sent by whoever carries out an operator's command. Does nothing for a lane that runs.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct RestartLane {
    /// The lane.
    pub lane: LaneKey,
}

/// Asks the dispatcher to end with all its lanes.
///
/// Sent by the supervisor. The reply comes when every lane has stopped and the reader is closed, at the
/// latest some moments after the deadline.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct StopDispatcher {
    /// Until when lanes may finish what they have at the store.
    pub deadline: Instant,
}

/// Tells that a dispatcher has ended.
///
/// Sent by the dispatcher to the supervisor from `stopped`, a panic included. The note can be lost; the
/// supervisor therefore also looks whether the dispatcher's address is connected.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct DispatcherExited {
    /// The group.
    pub group: Group,
    /// Its life.
    pub generation: u64,
    /// Why it ended; none when it was asked to.
    pub failure: Option<String>,
}
