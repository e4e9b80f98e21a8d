//! The bounded queues before the writer.
//!
//! Promises that a full queue answers at once, that each commit takes at most so many commands before it takes
//! what lanes wait for, and that a lane is opened behind every write that was queued before.

use std::collections::{HashSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use horizons_actors::command::{Command, LayoutAdoption, Order, ParkedKeyId};
use horizons_actors::gap::{FoundGap, GapAcceptance};
use horizons_actors::ids::{Epoch, LaneKey, Offset, ProcessId};
use horizons_actors::ports::outbox::{CursorMove, OutboxPartition, RelayId, RelayLease, SetAsideAnswer};
use horizons_actors::ports::store::{
    AppendedAt, CommitError, GapAccepted, JobWrite, JobWritten, LaneCommitted, LaneOpened, LaneTransaction,
    LayoutAdopted, LayoutBegun, OrderAnswer, ParkedWish, Progress, ResumeAnswer, StoreError, WishAnswer,
};
use horizons_actors::record::OutgoingRecord;
use horizons_actors::trial::{Thought, TrialPhase, TrialSubject};
use tokio::sync::oneshot;

/// Rows of lanes in one commit: above this a commit takes longer than a waiting submit should.
const ROWS_PER_COMMIT: usize = 16_384;

/// Where an answer goes.
pub(super) type Answer<T, E> = oneshot::Sender<Result<T, E>>;

/// Work of the orchestrator and the operators.
pub(super) enum CommandWork {
    WriteJob {
        write: Box<JobWrite>,
        answer: Answer<JobWritten, StoreError>,
    },
    AnswerOrder {
        order: Order,
        reply: OrderAnswer,
        answer: Answer<(), StoreError>,
    },
    AppendRecords {
        records: Vec<OutgoingRecord>,
        audit: Vec<OutgoingRecord>,
        answer: Answer<Vec<AppendedAt>, StoreError>,
    },
    SetParkedWish {
        command: Box<Command>,
        key: ParkedKeyId,
        wish: ParkedWish,
        attempts_limit: u32,
        audit: OutgoingRecord,
        answer: Answer<WishAnswer, StoreError>,
    },
    ResumeLane {
        lane: LaneKey,
        audit: OutgoingRecord,
        answer: Answer<ResumeAnswer, StoreError>,
    },
    Acquit {
        process: ProcessId,
        seen: Option<Thought>,
        answer: Answer<(), StoreError>,
    },
    Outbox(Box<OutboxWork>),
    SendAgain {
        partition: OutboxPartition,
        audit: OutgoingRecord,
        answer: Answer<(), StoreError>,
    },
    AcceptGap {
        command: Box<Command>,
        acceptance: GapAcceptance,
        audit: OutgoingRecord,
        answer: Answer<GapAccepted, StoreError>,
    },
    BeginLayout {
        adoption: LayoutAdoption,
        audit: OutgoingRecord,
        answer: Answer<LayoutBegun, StoreError>,
    },
    AdoptLayout {
        adoption: LayoutAdoption,
        answer: Answer<LayoutAdopted, StoreError>,
    },
}

/// Work of the relay.
pub(super) enum OutboxWork {
    Take {
        holder: RelayId,
        duration: Duration,
        answer: Answer<Option<RelayLease>, StoreError>,
    },
    Renew {
        holder: RelayId,
        epoch: Epoch,
        duration: Duration,
        answer: Answer<bool, StoreError>,
    },
    Release {
        holder: RelayId,
        epoch: Epoch,
        answer: Answer<(), StoreError>,
    },
    Advance {
        epoch: Epoch,
        moves: Vec<CursorMove>,
        answer: Answer<Vec<OutboxPartition>, StoreError>,
    },
    SetAside {
        command: Box<Command>,
        partition: OutboxPartition,
        offset: Offset,
        audit: OutgoingRecord,
        answer: Answer<SetAsideAnswer, StoreError>,
    },
    Remove {
        epoch: Epoch,
        limit: usize,
        answer: Answer<u64, StoreError>,
    },
}

/// What an incarnation of a lane notes beside its transactions.
pub(super) enum LaneNote {
    Trial(TrialSubject, TrialPhase),
    EndedInOrder,
    Gap(Option<FoundGap>),
}

/// Work of lanes.
pub(super) enum LaneWork {
    Open { lane: LaneKey, process: ProcessId, answer: Answer<LaneOpened, StoreError> },
    Note { lane: LaneKey, epoch: Epoch, note: LaneNote, answer: Answer<bool, StoreError> },
    ReadProgress { lane: LaneKey, answer: Answer<Option<Progress>, StoreError> },
    Commit { transaction: Box<LaneTransaction>, answer: Answer<LaneCommitted, CommitError> },
}

/// What goes into one commit, in this order.
#[derive(Default)]
pub(super) struct Round {
    pub(super) commands: Vec<CommandWork>,
    pub(super) lanes: Vec<LaneWork>,
}

/// Work with its place in the order of arrival over both queues.
struct Queued<T> {
    ticket: u64,
    work: T,
}

struct State {
    commands: VecDeque<Queued<CommandWork>>,
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
    pub(super) fn push_command(&self, work: CommandWork) -> Result<(), StoreError> {
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
                LaneWork::Open { lane, .. }
                | LaneWork::Note { lane, .. }
                | LaneWork::ReadProgress { lane, .. } => {
                    // What was queued before must be written before, also what this lane writes itself.
                    if first_left < queued.ticket || writing.contains(lane) {
                        break;
                    }
                }
                LaneWork::Commit { transaction, .. } => {
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
