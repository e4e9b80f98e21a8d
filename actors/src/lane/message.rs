//! What a lane takes and sends.

use std::time::Instant;

use actix::Message;

use crate::ids::{Incarnation, LaneKey};
use crate::ports::log::GapKind;
use crate::record::RecordBatch;

/// Brings the next records of the lane's partition.
///
/// Sent by the group's dispatcher. The lane applies batches in the order they come and drops those of another
/// incarnation. When the mailbox is full the dispatcher keeps what follows, in order, and tries again.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct RecordsRouted {
    /// The records.
    pub batch: RecordBatch,
}

/// Asks the lane to stop.
///
/// Sent by the dispatcher when the partition is revoked, lost, or the program ends. The lane finishes what it
/// has at the store, at the latest at the deadline it abandons it; [`LaneExited`] follows. When the mailbox is
/// full the dispatcher tries again.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct StopLane {
    /// Until when the transaction at the store may be waited for; none stops at once.
    pub deadline: Option<Instant>,
}

/// Tells that a lane has ended.
///
/// Sent by the lane to its dispatcher from `stopped`, a panic included. The note can be lost; the dispatcher
/// therefore also looks whether the lane's address is connected.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct LaneExited {
    /// The lane.
    pub lane: LaneKey,
    /// Its life.
    pub incarnation: Incarnation,
    /// Why it ended.
    pub exit: LaneExit,
}

/// Why a lane ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaneExit {
    /// It was asked to.
    #[error("stopped")]
    Stopped,
    /// Another incarnation owns the lane.
    #[error("fenced by another owner")]
    Fenced,
    /// The log has a gap that an operator must decide on.
    #[error("gap in the log: {}", .0.name())]
    Gap(GapKind),
    /// The log gave the partition to somebody else before the lane could begin to read.
    #[error("partition is not assigned")]
    NotAssigned,
    /// Something permanent that is not an event's fault.
    #[error("failed: {0}")]
    Failed(String),
    /// Lane code panicked.
    #[error("panicked: {0}")]
    Panicked(String),
}
