//! The life of the process that holds a store: when it dies nothing that it asks for happens any more.
//!
//! Promises that a dead process's calls are never answered and write nothing, so that a test may drop its actors
//! at leisure and open the store as another process.

use std::sync::Mutex;

use super::super::locked;

/// On which side of a call a process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeathSide {
    /// Before the call does anything.
    Before,
    /// After it is written, before anybody has the answer.
    After,
}

/// What is left of a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Endless,
    /// It ends at the call that finds no other left.
    Ends {
        calls_left: u64,
        side: DeathSide,
    },
    Over,
}

/// A process that holds the store.
#[derive(Debug)]
pub(super) struct Process {
    life: Mutex<Life>,
}

/// What a call meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Met {
    /// It is carried out and answered.
    Alive,
    /// It is carried out, but nobody lives to hear the answer.
    LastAct,
    /// The process is dead.
    Dead,
}

impl Process {
    pub(super) const fn new() -> Self {
        Self { life: Mutex::new(Life::Endless) }
    }

    pub(super) fn die(&self) {
        *locked(&self.life) = Life::Over;
    }

    pub(super) fn die_at(&self, calls_left: u64, side: DeathSide) {
        *locked(&self.life) = Life::Ends { calls_left, side };
    }

    pub(super) fn is_dead(&self) -> bool {
        *locked(&self.life) == Life::Over
    }

    /// Counts a call.
    pub(super) fn meet(&self) -> Met {
        let mut life = locked(&self.life);
        match *life {
            Life::Endless => Met::Alive,
            Life::Over => Met::Dead,
            Life::Ends { calls_left: 0, side } => {
                *life = Life::Over;
                match side {
                    DeathSide::Before => Met::Dead,
                    DeathSide::After => Met::LastAct,
                }
            }
            Life::Ends { calls_left, side } => {
                *life = Life::Ends { calls_left: calls_left - 1, side };
                Met::Alive
            }
        }
    }
}
