//! What the supervisor takes.

use std::time::Duration;

use actix::Message;

use crate::ids::LaneKey;

/// Asks for an orderly end of every group.
///
/// Sent by whoever shuts the program down. The reply comes when all have ended, at the latest some moments
/// after the time given.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct StopAll {
    /// How long lanes may take for what they have at the store.
    pub within: Duration,
}

/// Starts a lane again that waits for an operator or was stopped; passed on to its dispatcher.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct RestartLaneOf {
    /// The lane.
    pub lane: LaneKey,
}
