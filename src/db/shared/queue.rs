//! The bounded queues before the writer.
//!
//! Promises that a full queue answers at once, that each commit takes at most so many commands before it takes
//! what lanes wait for, and that a lane is opened behind every write that was queued before.

use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use horizons_actors::ids::LaneKey;
use horizons_actors::ports::store::{CommitError, LaneCommitted, LaneTransaction, StoreError};

use super::operation::{Answer, Member};

/// Rows of lanes in one commit: above this a commit takes longer than a waiting submit should.
const ROWS_PER_COMMIT: usize = 16_384;

/// Work of lanes.
pub(super) enum LaneWork {
    /// Something beside its transactions: to be done before or behind them, as it was asked.
    Ask { lane: LaneKey, member: Box<dyn Member> },
    /// A transaction.
    Commit(LaneCommit),
}

/// A transaction of a lane with whoever waits for it.
pub(super) struct LaneCommit {
    pub(super) transaction: Box<LaneTransaction>,
    /// What it came to; none while it is not known to be the owner's.
    pub(super) written: RefCell<Option<LaneCommitted>>,
    pub(super) answer: Answer<LaneCommitted, CommitError>,
}

/// What goes into one commit, in this order.
#[derive(Default)]
pub(super) struct Round {
    pub(super) commands: Vec<Box<dyn Member>>,
    pub(super) lanes: Vec<LaneWork>,
}

/// Work with its place in the order of arrival over both queues.
struct Queued<T> {
    ticket: u64,
    work: T,
}

struct State {
    commands: VecDeque<Queued<Box<dyn Member>>>,
    lanes: VecDeque<Queued<LaneWork>>,
    next_ticket: u64,
    is_closed: bool,
}

/// How much may wait, and how much one commit takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueueLimits {
    pub(super) commands: usize,
    pub(super) lanes: usize,
    pub(super) commands_per_commit: usize,
}

/// The queues.
pub(super) struct Queue {
    limits: QueueLimits,
    state: Mutex<State>,
    wake: Condvar,
}

impl Queue {
    pub(super) fn new(limits: QueueLimits) -> Self {
        Self {
            limits,
            state: Mutex::new(State {
                commands: VecDeque::new(),
                lanes: VecDeque::new(),
                next_ticket: 0,
                is_closed: false,
            }),
            wake: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a command.
    pub(super) fn push_command(&self, work: Box<dyn Member>) -> Result<(), StoreError> {
        let mut state = self.lock();
        if state.is_closed {
            return Err(closed());
        }
        if state.commands.len() >= self.limits.commands {
            return Err(StoreError::QueueFull);
        }
        let ticket = state.ticket();
        state.commands.push_back(Queued { ticket, work });
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Queues work of a lane.
    pub(super) fn push_lane(&self, work: LaneWork) -> Result<(), StoreError> {
        let mut state = self.lock();
        if state.is_closed {
            return Err(closed());
        }
        if state.lanes.len() >= self.limits.lanes {
            return Err(StoreError::QueueFull);
        }
        let ticket = state.ticket();
        state.lanes.push_back(Queued { ticket, work });
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Takes no more work; what is queued is still done.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.wake.notify_all();
    }

    /// Takes no more work and gives what is queued: none of it was begun.
    pub(super) fn abandon(&self) -> Round {
        let mut state = self.lock();
        state.is_closed = true;
        Round {
            commands: state.commands.drain(..).map(|queued| queued.work).collect(),
            lanes: state.lanes.drain(..).map(|queued| queued.work).collect(),
        }
    }

    /// Waits for work and takes what goes into one commit; none when the queue is closed and empty.
    pub(super) fn take(&self) -> Option<Round> {
        let mut state = self.lock();
        while state.commands.is_empty() && state.lanes.is_empty() {
            if state.is_closed {
                return None;
            }
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Some(state.take_round(self.limits.commands_per_commit))
    }
}

/// What is told when the writer has ended.
pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".to_owned())
}

impl State {
    fn ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    fn take_round(&mut self, commands_limit: usize) -> Round {
        let count = self.commands.len().min(commands_limit);
        let mut round = Round {
            commands: self.commands.drain(..count).map(|queued| queued.work).collect(),
            lanes: Vec::with_capacity(self.lanes.len()),
        };
        let first_left = self.commands.front().map_or(u64::MAX, |queued| queued.ticket);
        let mut writing: HashSet<LaneKey> = HashSet::new();
        let mut rows = 0;
        while let Some(queued) = self.lanes.front() {
            match &queued.work {
                LaneWork::Ask { lane, .. } => {
                    // What was queued before must be written before, also what this lane writes itself.
                    if first_left < queued.ticket || writing.contains(lane) {
                        break;
                    }
                }
                LaneWork::Commit(LaneCommit { transaction, .. }) => {
                    if rows >= ROWS_PER_COMMIT {
                        break;
                    }
                    rows += transaction.effects.row_count();
                    writing.insert(transaction.lane.clone());
                }
            }
            if let Some(queued) = self.lanes.pop_front() {
                round.lanes.push(queued.work);
            }
        }
        round
    }
}
