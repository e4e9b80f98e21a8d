//! What goes wrong in a [`MemoryStore`](super::MemoryStore), scripted by a test.
//!
//! Promises that a scripted fault meets exactly one call, in the order of the script, and that a fault that
//! writes nothing leaves no trace.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use super::super::locked;
use crate::effect::{DeadLetterOutcome, Effects};
use crate::ids::{LaneKey, Offset, TopicPartition};
use crate::ports::store::{CommitError, LaneTransaction, StoreError};

/// Names a call of the store's ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreCall {
    /// `LaneStore::open_lane`
    OpenLane,
    /// `LaneStore::read_progress`
    ReadProgress,
    /// `LaneStore::read_orders`
    ReadOrders,
    /// `LaneStore::load`
    Load,
    /// `LaneStore::load_due_timers`
    LoadDueTimers,
    /// `LaneStore::load_parked`
    LoadParked,
    /// `LaneStore::commit`
    Commit,
    /// `LaneStore::write_trial`
    WriteTrial,
    /// `LaneStore::acquit`
    Acquit,
    /// `LaneStore::end_lane`
    EndLane,
    /// `LaneStore::note_gap`
    NoteGap,
    /// `JobStore::write_job`
    WriteJob,
    /// `JobStore::read_job` and `JobStore::live_jobs`
    ReadJob,
    /// `JobStore::open_orders`
    OpenOrders,
    /// `JobStore::answer_order`
    AnswerOrder,
    /// `JobStore::append_records`
    AppendRecords,
    /// `JobStore::set_parked_wish`
    SetParkedWish,
    /// `JobStore::resume_lane`
    ResumeLane,
    /// `JobStore::wish_send_again`
    SendAgain,
    /// `JobStore::accept_gap`
    AcceptGap,
    /// `JobStore::adopt_layout`
    AdoptLayout,
    /// Every call of `QueryStore`
    Query,
    /// Every call of `RecordSource`, and the reads of `OutboxStore`
    ReadRecords,
    /// `OutboxStore::take_lease`, `renew_lease` and `release_lease`
    Lease,
    /// `OutboxStore::advance_cursors`
    AdvanceCursors,
    /// `OutboxStore::set_aside`
    SetAside,
    /// `OutboxStore::remove_sent`
    RemoveSent,
}

/// What happens to one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: the call passes. Lets a script spare a call.
    Pass,
    /// The store is away for this call; nothing is written.
    Unavailable,
    /// It is written, but the answer is lost.
    UnknownWritten,
    /// It is not written, and the answer is lost.
    UnknownUnwritten,
    /// The data is refused; nothing is written.
    Data(String),
    /// A promise is broken; nothing is written.
    Broken(String),
    /// The call takes so long (tokio's time); a write makes every later write wait.
    Delay(Duration),
    /// The call hangs until [`StoreFaults::release_hung`], and is carried out then, even when nobody waits
    /// for it any more: the late write of a zombie.
    Hang,
}

/// What a fault does before a call is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// Nothing.
    None,
    /// It takes so long.
    For(Duration),
    /// It hangs.
    Released,
}

#[derive(Debug, Default)]
struct Script {
    is_away: bool,
    slow: Duration,
    queue_limit: Option<usize>,
    calls: HashMap<StoreCall, u64>,
    scripted: HashMap<StoreCall, VecDeque<Fault>>,
    scripted_for_lane: HashMap<LaneKey, VecDeque<Fault>>,
    refused_records: HashSet<(Option<LaneKey>, TopicPartition, Offset)>,
    hanging: usize,
}

/// The faults of one store; clones share them.
#[derive(Debug, Clone)]
pub struct StoreFaults {
    script: Arc<Mutex<Script>>,
    /// Counts releases; a hung call waits for the next one.
    releases: Arc<watch::Sender<u64>>,
}

impl Default for StoreFaults {
    fn default() -> Self {
        Self { script: Arc::default(), releases: Arc::new(watch::Sender::new(0)) }
    }
}

impl StoreFaults {
    /// Appends a fault to the script of a call: the next call that has no fault yet meets it.
    pub fn script(&self, call: StoreCall, fault: Fault) {
        locked(&self.script).scripted.entry(call).or_default().push_back(fault);
    }

    /// Appends the same fault for the next `calls` calls.
    pub fn script_next(&self, call: StoreCall, calls: usize, fault: &Fault) {
        let mut script = locked(&self.script);
        script.scripted.entry(call).or_default().extend(std::iter::repeat_n(fault.clone(), calls));
    }

    /// Appends a fault for the next commit of one lane; it goes before the script for all lanes.
    pub fn script_commit(&self, lane: &LaneKey, fault: Fault) {
        locked(&self.script).scripted_for_lane.entry(lane.clone()).or_default().push_back(fault);
    }

    /// Takes the store away: every call fails as transient until [`StoreFaults::back`], except those of
    /// `RecordSource`: the log goes on, as a broker apart from the database does.
    /// [`SimulatedLog::away`](crate::testkit::SimulatedLog::away) takes the log away.
    pub fn away(&self) {
        locked(&self.script).is_away = true;
    }

    /// Brings the store back.
    pub fn back(&self) {
        locked(&self.script).is_away = false;
    }

    /// Makes every write take so long, one after the other, under tokio's clock; zero ends it.
    pub fn slow(&self, each_write: Duration) {
        locked(&self.script).slow = each_write;
    }

    /// Makes the store answer `QueueFull` to job writes while so many writes wait.
    pub fn limit_queue(&self, waiting_writes: usize) {
        locked(&self.script).queue_limit = Some(waiting_writes);
    }

    /// Refuses, as data, every transaction that applies this record, in every group. A transaction that
    /// dead-letters, parks or discards the record passes.
    pub fn refuse_record(&self, partition: TopicPartition, offset: Offset) {
        locked(&self.script).refused_records.insert((None, partition, offset));
    }

    /// Refuses, as data, every transaction of one lane that applies this record.
    pub fn refuse_record_of(&self, lane: &LaneKey, offset: Offset) {
        let partition = lane.topic_partition;
        locked(&self.script).refused_records.insert((Some(lane.clone()), partition, offset));
    }

    /// Takes back every refusal of records.
    pub fn accept_records(&self) {
        locked(&self.script).refused_records.clear();
    }

    /// Lets every call that hangs now go on.
    pub fn release_hung(&self) {
        self.releases.send_modify(|releases| *releases += 1);
    }

    /// Counts the calls that hang now.
    pub fn hanging(&self) -> usize {
        locked(&self.script).hanging
    }

    /// Counts the calls made so far, failed ones included.
    pub fn calls(&self, call: StoreCall) -> u64 {
        locked(&self.script).calls.get(&call).copied().unwrap_or_default()
    }

    /// Takes the fault that meets a call now, and how long it waits.
    pub(super) fn meet(&self, call: StoreCall, lane: Option<&LaneKey>) -> (Wait, Fault) {
        let mut script = locked(&self.script);
        *script.calls.entry(call).or_default() += 1;
        if script.is_away && call != StoreCall::ReadRecords {
            return (Wait::None, Fault::Unavailable);
        }
        let for_lane = lane
            .filter(|_| call == StoreCall::Commit)
            .and_then(|lane| script.scripted_for_lane.get_mut(lane))
            .and_then(VecDeque::pop_front);
        let fault = for_lane
            .or_else(|| script.scripted.get_mut(&call).and_then(VecDeque::pop_front))
            .unwrap_or(Fault::Pass);
        let slow = if script.slow.is_zero() || !is_write(call) { Wait::None } else { Wait::For(script.slow) };
        match fault {
            Fault::Delay(delay) => (Wait::For(delay.max(script.slow)), Fault::Pass),
            Fault::Hang => (Wait::Released, Fault::Pass),
            Fault::Unavailable => (Wait::None, fault),
            _ => (slow, fault),
        }
    }

    /// Tells whether the store is away.
    pub(super) fn is_away(&self) -> bool {
        locked(&self.script).is_away
    }

    /// Tells whether so many waiting writes are too many.
    pub(super) fn is_queue_full(&self, waiting: usize) -> bool {
        locked(&self.script).queue_limit.is_some_and(|limit| waiting >= limit)
    }

    /// Waits as a fault says.
    pub(super) async fn wait(&self, wait: Wait) {
        match wait {
            Wait::None => {}
            Wait::For(delay) => tokio::time::sleep(delay).await,
            Wait::Released => {
                let mut releases = self.releases.subscribe();
                let _hanging = Hanging::new(self);
                // The sender lives in `self`, so waiting cannot fail before it is released.
                let _ = releases.changed().await;
            }
        }
    }

    /// Refuses a transaction that applies a refused record.
    pub(super) fn check_records(&self, transaction: &LaneTransaction) -> Result<(), StoreError> {
        let script = locked(&self.script);
        let lane = &transaction.lane;
        for (only_lane, partition, offset) in &script.refused_records {
            let is_for_lane = only_lane.as_ref().is_none_or(|only| only == lane);
            if is_for_lane && *partition == lane.topic_partition && applies(transaction, *offset) {
                return Err(StoreError::Data(format!("scripted for `{partition}` at {offset}")));
            }
        }
        Ok(())
    }
}

/// Counts a hung call while it exists.
struct Hanging(Arc<Mutex<Script>>);

impl Hanging {
    fn new(faults: &StoreFaults) -> Self {
        locked(&faults.script).hanging += 1;
        Self(Arc::clone(&faults.script))
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        locked(&self.0).hanging -= 1;
    }
}

const fn is_write(call: StoreCall) -> bool {
    matches!(
        call,
        StoreCall::Commit
            | StoreCall::WriteJob
            | StoreCall::AnswerOrder
            | StoreCall::AppendRecords
            | StoreCall::SetParkedWish
    )
}

/// Tells whether a transaction holds a record's effects, rather than putting the record aside.
fn applies(transaction: &LaneTransaction, offset: Offset) -> bool {
    let effects = &transaction.effects;
    let is_read = transaction.from.is_none_or(|from| from <= offset) && offset < transaction.next;
    let is_drained = effects.records_unparked.iter().any(|id| id.offset == offset);
    (is_read || is_drained) && !is_put_aside(effects, offset)
}

fn is_put_aside(effects: &Effects, offset: Offset) -> bool {
    effects.dead_letters.iter().any(|letter| letter.record.offset == offset)
        || effects.records_parked.iter().any(|parked| parked.record.offset == offset)
        || effects.dead_letters_settled.iter().any(|settled| {
            settled.offset == offset && !matches!(settled.outcome, DeadLetterOutcome::Released)
        })
}

/// An error type of the store's ports that can say that an answer was lost.
pub(super) trait LostAnswer: From<StoreError> {
    /// Says that the outcome is unknown.
    fn lost_answer() -> Self;
}

impl LostAnswer for StoreError {
    fn lost_answer() -> Self {
        StoreError::Unknown("scripted: the answer was lost".to_owned())
    }
}

impl LostAnswer for CommitError {
    fn lost_answer() -> Self {
        CommitError::Unknown("scripted: the answer was lost".to_owned())
    }
}

/// Carries out a call as its fault says.
pub(super) fn carry_out<T, E: LostAnswer>(fault: Fault, act: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    match fault {
        Fault::Pass | Fault::Delay(_) | Fault::Hang => act(),
        Fault::Unavailable => Err(StoreError::Unavailable("scripted".to_owned()).into()),
        Fault::UnknownWritten => act().and_then(|_| Err(E::lost_answer())),
        Fault::UnknownUnwritten => Err(E::lost_answer()),
        Fault::Data(detail) => Err(StoreError::Data(detail).into()),
        Fault::Broken(detail) => Err(StoreError::Broken(detail).into()),
    }
}
