//! Named points at which a test or a simulation makes a lane fail.
//!
//! Promises nothing at run time: the program passes [`NoFaults`], whose call does nothing.

use crate::ids::LaneKey;

/// A point in a lane's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultPoint {
    /// In the actor's `started`.
    Started,
    /// In lane code, before a batch is looked at.
    BeforeBatch,
    /// In lane code, after state is loaded, before the behaviour is given a batch.
    BeforeApply,
    /// After the effects are known, before they go to the store.
    BeforeCommit,
    /// After the store answered, before anything else knows.
    AfterCommit,
    /// Before timers that fell due are asked about.
    BeforeTick,
    /// Before parked records are drained.
    BeforeDrain,
}

/// Decides what happens at a point: nothing, or a panic.
pub trait Faults: Send + Sync {
    /// Is called when a lane passes the point.
    fn hit(&self, point: FaultPoint, lane: &LaneKey);
}

/// No faults at all.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFaults;

impl Faults for NoFaults {
    fn hit(&self, _point: FaultPoint, _lane: &LaneKey) {}
}
