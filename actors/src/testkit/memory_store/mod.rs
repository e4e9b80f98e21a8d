//! A store in memory that keeps the promises of the real ones.
//!
//! Promises what the store port promises: epochs and revisions fence, a transaction is written whole or not
//! at all, one writer carries writes out in the order they were asked for, offsets are commit order without
//! holes, and whoever waits for records is told after the commit. Does not survive the process: a crash is
//! played by dropping the actors and opening their lanes again on the same store.
//!
//! A write is carried out when it is asked for, even if nobody awaits the answer. Only when a fault delays
//! it, or an earlier write is delayed, does it wait for its turn in a task of the current tokio runtime; if
//! that runtime is dropped, the writes that waited are lost, as in a crash.
//!
//! A clone is the same process's. [`MemoryStore::as_new_process`] opens the same data as another process, and
//! [`MemoryStore::die`] ends one in the middle of whatever it does.
//!
//! ```
//! use horizons_actors::ids::{Group, LaneKey, Offset, Partition, ProcessId, Topic, TopicPartition};
//! use horizons_actors::ports::store::LaneStore;
//! use horizons_actors::testkit::MemoryStore;
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
//! # runtime.block_on(async {
//! let store = MemoryStore::new();
//! let partition = TopicPartition { topic: Topic::JobLifecycle, partition: Partition(0) };
//! let lane = LaneKey { group: Group::jobs(), topic_partition: partition };
//!
//! let process = ProcessId(uuid::Uuid::nil());
//! let first = store.open_lane(lane.clone(), process).await.unwrap();
//! let second = store.open_lane(lane, process).await.unwrap();
//!
//! assert!(second.fence.epoch > first.fence.epoch);
//! assert_eq!(second.next, None);
//! # });
//! ```

mod faults;
mod jobs;
mod lanes;
mod outbox;
mod process;
mod queries;
mod relay;
#[cfg(test)]
mod tests;
mod trials;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::locked;
use crate::clock::Timestamp;
use crate::command::{Command, Order};
use crate::effect::{ParkedRecord, Timer};
use crate::ids::{LaneKey, LogTopic, Offset, Partition, Topic};
use crate::layout::Layout;
use crate::ports::Reply;
use crate::ports::log::LogHeads;
use crate::ports::outbox::OutboxHeads;
use crate::ports::query::StoredGap;
use crate::ports::store::{DesiredState, Fence, OrderAnswer, Progress, StoreError};
use crate::ports::wishes::{WishRevision, Wished};
use crate::record::{LogRecord, OutgoingRecord};
use crate::state::{StateKey, StateValue};
use crate::trial::Trial;

pub use process::DeathSide;
use process::{Met, Process};

pub use faults::{Fault, StoreCall, StoreFaults};
use faults::{LostAnswer, Wait, carry_out};
use jobs::JobTables;
use lanes::LaneTables;
use outbox::{Ends, Outbox};
use relay::RelayTables;

/// Everything that is stored.
#[derive(Debug, Default)]
struct State {
    lanes: BTreeMap<LaneKey, LaneTables>,
    layouts: BTreeMap<Topic, Layout>,
    /// Lanes of generations that are over, oldest first.
    former_lanes: Vec<(LaneKey, LaneTables)>,
    /// Gaps that operators decided on, oldest first.
    decided_gaps: Vec<StoredGap>,
    jobs: JobTables,
    outbox: Outbox,
    relay: RelayTables,
    /// The revision of the last wish about each thing, and of the last one of all.
    wishes: BTreeMap<Wished, WishRevision>,
    wish_revision: WishRevision,
    journal: Vec<CommittedTransaction>,
    /// What the store may weigh before new work is refused, in bytes.
    limit_bytes: Option<u64>,
}

impl State {
    /// Notes that an operator has asked for something.
    fn wished(&mut self, about: Wished) {
        self.wish_revision.0 += 1;
        self.wishes.insert(about, self.wish_revision);
    }
}

/// What the journal says about a committed transaction of a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedTransaction {
    /// The lane.
    pub lane: LaneKey,
    /// The fence that it passed.
    pub fence: Fence,
    /// The position before.
    pub from: Option<Offset>,
    /// The position after.
    pub next: Offset,
    /// Its stamp.
    pub now: Timestamp,
    /// Rows it wrote beside progress, as [`crate::effect::Effects::row_count`] counts.
    pub rows: usize,
}

/// A write that waits for its turn.
struct QueuedWrite {
    wait: Wait,
    act: Box<dyn FnOnce() + Send>,
}

/// The one writer.
#[derive(Default)]
struct Writer {
    waiting: VecDeque<QueuedWrite>,
    is_running: bool,
}

struct Shared {
    state: Mutex<State>,
    writer: Mutex<Writer>,
    heads: Arc<LogHeads>,
    outbox_heads: Arc<OutboxHeads>,
    faults: StoreFaults,
}

impl Shared {
    /// Tells whoever waits for records.
    fn advance(&self, ends: Ends) {
        self.heads.advance(outbox::of_record(ends.iter().copied()));
        self.outbox_heads.advance(ends, Instant::now());
    }
}

/// A store in memory; clones share it.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    process: Arc<Process>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

impl MemoryStore {
    /// Makes an empty store.
    pub fn new() -> Self {
        let shared = Shared {
            state: Mutex::default(),
            writer: Mutex::default(),
            heads: Arc::default(),
            outbox_heads: Arc::default(),
            faults: StoreFaults::default(),
        };
        Self { shared: Arc::new(shared), process: Arc::new(Process::new()) }
    }

    /// Gives the same data in the hands of another process.
    pub fn as_new_process(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), process: Arc::new(Process::new()) }
    }

    /// Ends this process: what it asks for from now on never happens and is never answered.
    pub fn die(&self) {
        self.process.die();
    }

    /// Ends this process at the call that comes after so many others.
    pub fn die_after_calls(&self, calls: u64, side: DeathSide) {
        self.process.die_at(calls, side);
    }

    /// Tells whether this process has died.
    pub fn is_dead(&self) -> bool {
        self.process.is_dead()
    }

    /// Gives the script of what goes wrong.
    pub fn faults(&self) -> &StoreFaults {
        &self.shared.faults
    }

    /// Appends a record to the log at once, as another producer would.
    ///
    /// *Errors*: [`StoreError::Broken`] when the topic has no such partition.
    pub fn append(&self, record: OutgoingRecord) -> Result<Offset, StoreError> {
        let (offset, ends) = {
            let mut state = locked(&self.shared.state);
            state.outbox.check(std::slice::from_ref(&record))?;
            let offset = state.outbox.append(&record);
            (offset, outbox::ends_after(std::slice::from_ref(&record), &state.outbox))
        };
        self.shared.advance(ends);
        Ok(offset)
    }

    /// Gives a topic so many partitions in the log, as an administrator does; its layout stays as it is.
    pub fn set_partitions(&self, topic: Topic, partitions: u16) {
        locked(&self.shared.state).outbox.set_partitions(topic, partitions);
    }

    /// Gives every record of a partition, of dead-letter topics too.
    pub fn records(&self, topic: LogTopic, partition: Partition) -> Vec<LogRecord> {
        locked(&self.shared.state).outbox.all(topic, partition)
    }

    /// Gives a lane's progress, if the lane was ever opened.
    pub fn progress_of(&self, lane: &LaneKey) -> Option<Progress> {
        locked(&self.shared.state).lanes.get(lane).map(LaneTables::progress)
    }

    /// Gives a row of a lane's state.
    pub fn state_of(&self, lane: &LaneKey, key: &StateKey) -> Option<StateValue> {
        locked(&self.shared.state).lanes.get(lane).and_then(|tables| tables.states.get(key).cloned())
    }

    /// Gives a lane's timers, in order of their names.
    pub fn timers_of(&self, lane: &LaneKey) -> Vec<Timer> {
        locked(&self.shared.state).lanes.get(lane).map(LaneTables::all_timers).unwrap_or_default()
    }

    /// Gives the records that are parked behind a key of a lane, in order of offset.
    pub fn parked_of(&self, lane: &LaneKey, key: &Bytes) -> Vec<ParkedRecord> {
        let state = locked(&self.shared.state);
        state.lanes.get(lane).map(|tables| tables.parked_behind(key, usize::MAX)).unwrap_or_default()
    }

    /// Gives a lane's trials, with what the next process will be told: a thought that is not over is a death.
    pub fn trials_of(&self, lane: &LaneKey) -> Vec<Trial> {
        locked(&self.shared.state).lanes.get(lane).map(|tables| tables.trials.foreseen()).unwrap_or_default()
    }

    /// Gives every order, oldest first, with its answer.
    pub fn orders(&self) -> Vec<(Order, Option<OrderAnswer>)> {
        locked(&self.shared.state).jobs.all_orders()
    }

    /// Gives the operators' commands that were stored, oldest first.
    pub fn commands(&self) -> Vec<Command> {
        locked(&self.shared.state).jobs.commands.clone()
    }

    /// Gives every committed transaction of every lane, in commit order.
    pub fn journal(&self) -> Vec<CommittedTransaction> {
        locked(&self.shared.state).journal.clone()
    }

    /// Sets what operators want of a lane.
    pub fn set_desired(&self, lane: &LaneKey, desired: DesiredState) {
        let mut state = locked(&self.shared.state);
        state.lanes.entry(lane.clone()).or_default().desired = desired;
        state.wished(Wished::Lane(lane.clone()));
    }

    /// Sets how many bytes of records may be stored before submits and external records are refused.
    pub fn set_disk_limit(&self, limit_bytes: u64) {
        locked(&self.shared.state).limit_bytes = Some(limit_bytes);
    }

    /// Counts the writes that wait for their turn.
    pub fn waiting_writes(&self) -> usize {
        locked(&self.shared.writer).waiting.len()
    }

    /// Carries out a write: at once, or in its turn when something is slow.
    fn run_write<T, E>(
        &self,
        call: StoreCall,
        lane: Option<&LaneKey>,
        act: impl FnOnce(&mut State) -> Result<(T, Ends), E> + Send + 'static,
    ) -> Reply<T, E>
    where
        T: Send + 'static,
        E: LostAnswer + Send + 'static,
    {
        let met = self.process.meet();
        if met == Met::Dead {
            return std::future::pending().boxed();
        }
        let (wait, fault) = self.shared.faults.meet(call, lane);
        let shared = Arc::clone(&self.shared);
        let run = move || {
            // The store may have gone while the write waited.
            let fault = if shared.faults.is_away() { Fault::Unavailable } else { fault };
            carry_out(fault, || {
                let (answer, ends) = act(&mut locked(&shared.state))?;
                shared.advance(ends);
                Ok(answer)
            })
        };

        let mut writer = locked(&self.shared.writer);
        if wait == Wait::None && !writer.is_running {
            drop(writer);
            let answer = run();
            return match met {
                Met::LastAct => std::future::pending().boxed(),
                Met::Alive | Met::Dead => std::future::ready(answer).boxed(),
            };
        }
        let (answer, answered) = oneshot::channel();
        // Nobody may be waiting any more; the write is carried out all the same.
        let act = Box::new(move || drop(answer.send(run())));
        writer.waiting.push_back(QueuedWrite { wait, act });
        let is_first = !std::mem::replace(&mut writer.is_running, true);
        drop(writer);
        if is_first {
            // Made before the task first runs, so that its loss is noticed even then.
            tokio::spawn(run_writer(WriterRun { shared: Arc::clone(&self.shared), is_finished: false }));
        }
        async move { answered.await.unwrap_or_else(|_| Err(E::lost_answer())) }.boxed()
    }

    /// Answers a read: at once, or later when a fault says so.
    fn run_read<T>(
        &self,
        call: StoreCall,
        act: impl FnOnce(&State) -> Result<T, StoreError> + Send + 'static,
    ) -> Reply<T, StoreError>
    where
        T: Send + 'static,
    {
        if self.process.meet() != Met::Alive {
            return std::future::pending().boxed();
        }
        let (wait, fault) = self.shared.faults.meet(call, None);
        let shared = Arc::clone(&self.shared);
        if wait == Wait::None {
            return std::future::ready(carry_out(fault, || act(&locked(&shared.state)))).boxed();
        }
        async move {
            shared.faults.wait(wait).await;
            carry_out(fault, || act(&locked(&shared.state)))
        }
        .boxed()
    }
}

/// Carries waiting writes out, one after the other, until none waits.
async fn run_writer(mut run: WriterRun) {
    loop {
        let write = {
            let mut writer = locked(&run.shared.writer);
            let write = writer.waiting.pop_front();
            writer.is_running = write.is_some();
            run.is_finished = write.is_none();
            write
        };
        let Some(QueuedWrite { wait, act }) = write else { return };
        run.shared.faults.wait(wait).await;
        act();
    }
}

/// One run of the writer. When its runtime goes before it is finished, what waited is lost, as in a crash.
struct WriterRun {
    shared: Arc<Shared>,
    is_finished: bool,
}

impl Drop for WriterRun {
    fn drop(&mut self) {
        if !self.is_finished {
            *locked(&self.shared.writer) = Writer::default();
        }
    }
}
