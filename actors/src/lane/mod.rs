//! The lane: what one group does with one partition.

pub mod behaviour;
pub mod credit;
