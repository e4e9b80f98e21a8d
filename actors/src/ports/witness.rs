//! What a process leaves behind about its trials when it dies (design D6).
//!
//! Promises nothing but evidence: the store alone knows that a trial was begun, and it takes two commits around a
//! thought to say so. A process that is killed from outside mostly dies within one of them; its witness tells that it
//! was not thinking then.

use crate::trial::Thought;

/// Sees what this process thinks about.
pub trait Witness: Send + Sync {
    /// Notes that something is thought about from now on. What is noted outlives a process that is killed the next
    /// instant, whatever becomes of it when the machine loses power.
    fn begins(&self, thought: &Thought);

    /// Notes that the thought is over.
    fn ends(&self);
}

/// Sees nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoWitness;

impl Witness for NoWitness {
    fn begins(&self, _thought: &Thought) {}

    fn ends(&self) {}
}
