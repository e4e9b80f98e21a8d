//! What operators have asked for, told to the process that carries it out (design D14).
//!
//! Promises that a wish which was answered as stored is listed to every process, whichever was asked, from its commit
//! on, and that listing costs one statement however many lanes a process has. What is wanted stands where it is
//! stored (the parked key, the lane, the gap, the cursor); this tells only about what to look there.

use crate::ids::LaneKey;
use crate::ports::outbox::OutboxPartition;

/// Counts operators' wishes in the order of their commits; 0 before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WishRevision(pub u64);

/// What a wish is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wished {
    /// A lane: its parked keys, whether it is held, its gap.
    Lane(LaneKey),
    /// A partition of the outbox: the record at which the relay stands.
    Outbox(OutboxPartition),
    /// Jobs: an order that is not to wait for the next look.
    Orders,
}

/// What was wished for since some revision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wishes {
    /// Where to go on from.
    pub revision: WishRevision,
    /// What about, each once, in order.
    pub about: Vec<Wished>,
}
