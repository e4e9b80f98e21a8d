//! What listeners hear after a lane's commit.
//!
//! Promises one notice per committed transaction, after the commit, in order per lane. A notice may be lost
//! in a crash between commit and call: whoever needs all of them reads the store.

use crate::clock::Timestamp;
use crate::effect::Outcome;
use crate::ids::{LaneKey, Offset};
use crate::lane::behaviour::Notice;

/// A committed transaction of a lane.
#[derive(Debug, Clone, PartialEq)]
pub struct CommitNotice {
    /// The lane.
    pub lane: LaneKey,
    /// Its position before.
    pub from: Offset,
    /// Its position after; the same for a tick or a drain.
    pub next: Offset,
    /// When the commit was answered.
    pub committed_at: Timestamp,
    /// How each record of the batch ended, in order.
    pub outcomes: Vec<Outcome>,
    /// What the behaviour had to say.
    pub notices: Vec<Notice>,
}

/// Hears of commits. Called on the lane's thread: it must neither block nor panic.
pub trait CommitListener: Send + Sync {
    /// Takes a notice.
    fn committed(&self, notice: &CommitNotice);
}

/// Passes every notice to several listeners.
#[derive(Default)]
pub struct Listeners(pub Vec<std::sync::Arc<dyn CommitListener>>);

impl CommitListener for Listeners {
    fn committed(&self, notice: &CommitNotice) {
        for listener in &self.0 {
            listener.committed(notice);
        }
    }
}
