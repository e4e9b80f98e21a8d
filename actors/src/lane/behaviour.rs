//! What a consumer is: a small pure behaviour on the one lane mechanism (design D3).
//!
//! Promises behaviours that everything hard is done around them: guarding panics, retry, isolating poison,
//! parking, credits, back-off, restart and commit. Demands of them that they read no clock, do no I/O, and
//! say what they want as [`Effects`] and changed state; both take hold only when the transaction commits.

use std::collections::HashMap;

use crate::clock::Timestamp;
use crate::effect::{Effects, Timer};
use crate::event::Event;
use crate::ids::{Group, JobId, LaneKey, LogId, Topic};
use crate::record::LogRecord;
use crate::rejection::Rejection;
use crate::state::{JobView, StateKey, StateValue};

/// What a record was found to be when it was decoded, the same in every group.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// An event, seen for the first time within the duplicate window.
    Event(Event),
    /// An event that was applied before at another offset. Only behaviours that record raw bytes get these.
    Duplicate(Event),
    /// Not an event. Only behaviours that record raw bytes get these.
    Rejected(Rejection),
}

/// A record with its verdict, on its way through a behaviour.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The record as the log holds it.
    pub record: LogRecord,
    /// What it was found to be.
    pub verdict: Verdict,
}

/// What the lane does with poison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoisonPolicy {
    /// Dead-letter it and park its key. The behaviour is only given [`Verdict::Event`].
    Park,
    /// Give it to the behaviour like everything else: it stores raw bytes and decodes nothing (auditor).
    RecordRaw,
}

/// What a behaviour answers about an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// The effects are in the workspace.
    Applied,
    /// The event is illegal or late; nothing was written to the workspace for it. The lane records it.
    Refused {
        /// Why, as a stable snake_case name.
        reason: &'static str,
        /// Why, for a person.
        detail: String,
    },
}

/// Something that listeners hear after the commit.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// The jobs group's view of a job changed to this.
    JobChanged(JobView),
    /// The jobs group follows a job no longer: it has been silent for long.
    JobLeft(JobId),
}

/// What a behaviour works on: loaded state with changes laid over it, and the effects so far.
#[derive(Debug)]
pub struct Workspace<'a> {
    /// The log that the lane reads.
    pub log_id: &'a LogId,
    /// The lane.
    pub lane: &'a LaneKey,
    /// The stamp of the batch, saved with the result.
    pub now: Timestamp,
    /// What will be written beside the state.
    pub effects: Effects,
    /// What listeners hear after the commit.
    pub notices: Vec<Notice>,
    base: &'a HashMap<StateKey, StateValue>,
    changed: HashMap<StateKey, StateValue>,
}

impl<'a> Workspace<'a> {
    /// Lays an empty set of changes over loaded state.
    pub fn new(
        log_id: &'a LogId,
        lane: &'a LaneKey,
        now: Timestamp,
        base: &'a HashMap<StateKey, StateValue>,
    ) -> Self {
        Self {
            log_id,
            lane,
            now,
            effects: Effects::default(),
            notices: Vec::new(),
            base,
            changed: HashMap::new(),
        }
    }

    /// Reads a row: as changed in this batch, else as loaded. Only keys that were announced are loaded.
    pub fn get(&self, key: &StateKey) -> Option<&StateValue> {
        self.changed.get(key).or_else(|| self.base.get(key))
    }

    /// Opens a row for change, copying the loaded one once per batch.
    pub fn get_mut(&mut self, key: &StateKey) -> Option<&mut StateValue> {
        if !self.changed.contains_key(key) {
            let loaded = self.base.get(key)?.clone();
            self.changed.insert(key.clone(), loaded);
        }
        self.changed.get_mut(key)
    }

    /// Writes a row.
    pub fn put(&mut self, key: StateKey, value: StateValue) {
        self.changed.insert(key, value);
    }

    /// Ends the work: the effects with every changed row among them, in order of key, and the notices.
    pub fn finish(mut self) -> (Effects, Vec<Notice>) {
        let mut states: Vec<_> = self.changed.into_iter().collect();
        states.sort_by(|(left, _), (right, _)| left.cmp(right));
        self.effects.states = states;
        (self.effects, self.notices)
    }
}

/// A consumer's thinking. One value serves one lane.
pub trait Behaviour: Send {
    /// Names the group.
    fn group(&self) -> Group;

    /// Lists the topics that it follows.
    fn topics(&self) -> Vec<Topic>;

    /// Tells what to do with poison.
    fn poison_policy(&self) -> PoisonPolicy {
        PoisonPolicy::Park
    }

    /// Announces the rows that [`Behaviour::apply`] will need for an entry.
    fn keys(&self, entry: &Entry, keys: &mut Vec<StateKey>);

    /// Applies one entry.
    fn apply(&self, entry: &Entry, work: &mut Workspace<'_>) -> Applied;

    /// Ends a batch, after its last entry.
    fn finish(&self, _work: &mut Workspace<'_>) {}

    /// Announces the rows that [`Behaviour::tick`] will need for a timer.
    fn timer_keys(&self, _timer: &Timer, _keys: &mut Vec<StateKey>) {}

    /// Answers a timer that fell due; the lane clears it unless it is set anew here.
    fn tick(&self, _timer: &Timer, _work: &mut Workspace<'_>) {}
}

/// Makes a behaviour for a new incarnation of a lane.
pub type BehaviourFactory = std::sync::Arc<dyn Fn() -> Box<dyn Behaviour> + Send + Sync>;
