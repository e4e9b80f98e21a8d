//! What a lane tries alone after processes died over it, as data (design D6).
//!
//! Promises names for what is tried and for how far it got. The store counts a death when another process
//! opens the lane and finds a trial in the phase [`TrialPhase::Trying`]; nothing else is ever charged, so that
//! a process that is killed while it waits, writes or reads convicts nothing. Where the one that died left a
//! witness ([`crate::ports::witness`]), what it was not thinking about is taken back first.

use serde::{Deserialize, Serialize};

use crate::effect::TimerId;
use crate::ids::{LaneKey, Offset};

/// Deaths in a row under the same trial that make it poison (design D6).
pub const DEATHS_BEFORE_POISON: u32 = 3;

/// Unclean ends at one place from which on a lane tries one thing at a time (design D6).
pub const UNCLEAN_ENDS_BEFORE_TRIALS: u32 = 3;

/// What is tried.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrialSubject {
    /// A record of the log.
    Log(Offset),
    /// A parked record that an operator released.
    Parked(Offset),
    /// A timer that fell due.
    Timer(TimerId),
}

impl TrialSubject {
    /// Gives the stable name of its kind.
    pub const fn kind(&self) -> &'static str {
        match self {
            TrialSubject::Log(_) => "log",
            TrialSubject::Parked(_) => "parked",
            TrialSubject::Timer(_) => "timer",
        }
    }

    /// Gives the offset of the record that is tried, where it is one.
    pub const fn offset(&self) -> Option<Offset> {
        match self {
            TrialSubject::Log(offset) | TrialSubject::Parked(offset) => Some(*offset),
            TrialSubject::Timer(_) => None,
        }
    }
}

/// What a process thinks about in a trial: it is one at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thought {
    /// The lane.
    pub lane: LaneKey,
    /// What is tried.
    pub subject: TrialSubject,
}

/// How far a trial got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TrialPhase {
    /// The subject is being thought about: a process that dies now dies of it.
    Trying,
    /// The thought waits for rows that it asked for: it is not over, and nothing is charged.
    Waiting,
    /// The thought is over and the process lives. Whatever was charged before is forgotten.
    Survived,
}

/// A trial as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// What was tried.
    pub subject: TrialSubject,
    /// Processes in a row that died of it.
    pub deaths: u32,
    /// Whether it was found to be poison. Such a record is kept in mind: it must not even be decoded.
    pub is_convicted: bool,
}

/// How a trial ended, written with what follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettledTrial {
    /// What was tried.
    pub subject: TrialSubject,
    /// How it ended.
    pub end: TrialEnd,
}

/// The end of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TrialEnd {
    /// It did no harm: everything about it is forgotten, an earlier conviction of the same record too.
    Survived,
    /// It is poison. A record stays convicted; a timer is forgotten with its row.
    Convicted,
}
