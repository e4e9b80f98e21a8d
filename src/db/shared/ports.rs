//! The ports of the store: what lanes, the orchestrator and operators' commands ask.
//!
//! Promises that no call blocks: writes wait in the writer's queues, reads on threads of their own.

use std::cell::RefCell;
use std::sync::Arc;

use diesel::prelude::*;
use horizons_actors::clock::Timestamp;
use horizons_actors::command::{Command, LayoutAdoption, Order, ParkedKeyId};
use horizons_actors::effect::{ParkedRecord, Timer, TimerId};
use horizons_actors::gap::{FoundGap, GapAcceptance};
use horizons_actors::ids::{Epoch, Group, JobId, LaneKey, ProcessId, Topic};
use horizons_actors::layout::Layout;
use horizons_actors::ports::Reply;
use horizons_actors::ports::outbox::OutboxPartition;
use horizons_actors::ports::store::{
    AppendedAt, CommitError, GapAccepted, JobRow, JobStore, JobWrite, JobWritten, LaneCommitted, LaneOpened,
    LaneOrders, LanePosition, LaneStore, LaneTransaction, LayoutAdopted, LayoutBegun, OrderAnswer,
    OrderPlace, ParkedWish, Progress, ResumeAnswer, StoreError, Unsent, WishAnswer,
};
use horizons_actors::ports::wishes::{WishRevision, Wishes};
use horizons_actors::record::OutgoingRecord;
use horizons_actors::state::{StateKey, StateValue};
use horizons_actors::trial::{Thought, TrialPhase, TrialSubject};
use tokio::sync::oneshot;

use super::engine::engine;
use super::gaps::{AcceptGap, NoteGap};
use super::jobs::{AnswerOrder, WriteJob};
use super::lane_operations::{EndLane, OpenLane, ReadProgress, ResumeLane};
use super::layouts::{AdoptLayout, BeginLayout};
use super::operation::{Heard, Operation, member};
use super::outbox::SendAgain;
use super::parking::SetParkedWish;
use super::queue::{LaneCommit, LaneWork};
use super::records::AppendRecords;
use super::schema::timers;
use super::store::Store;
use super::trials::{Acquit, WriteTrial};
use super::{jobs, lanes, layouts, parking, placing, state, wishes};
use crate::db::words::Words;

/// Stands for a lane that was never opened: numbers start at 1.
const NO_LANE: i64 = 0;

/// Most rows that one call reads, whatever is asked for.
pub(super) const ROWS_MAX: usize = 10_000;

/// Gives a limit as SQL takes it.
pub(super) fn limit(wanted: usize) -> i64 {
    i64::try_from(wanted.min(ROWS_MAX)).unwrap_or(i64::MAX)
}

impl Store {
    /// Queues an operation and returns its answer.
    pub(super) fn submit<O: Operation>(&self, operation: O) -> Reply<O::Answer, StoreError> {
        let (member, answer) = member(operation);
        heard(self.queue.push_command(member), answer)
    }

    /// Queues what is asked about a lane, in its turn with the lane's transactions, and returns its answer.
    fn ask<O: Operation>(&self, lane: LaneKey, operation: O) -> Reply<O::Answer, StoreError> {
        let (member, answer) = member(operation);
        heard(self.queue.push_lane(LaneWork::Ask { lane, member }), answer)
    }
}

/// Waits for an answer, unless its operation was not taken.
fn heard<T: Send + 'static>(queued: Result<(), StoreError>, answer: Heard<T>) -> Reply<T, StoreError> {
    match queued {
        Ok(()) => Box::pin(async move { answer.await.unwrap_or_else(|_| Err(ended())) }),
        Err(error) => Box::pin(std::future::ready(Err(error))),
    }
}

/// What is answered when the writer ended in the middle of a round: what only waited is told apart
/// (`Queue::abandon`).
fn ended() -> StoreError {
    StoreError::Unknown(ENDED.to_owned())
}

/// Why there is no answer then.
const ENDED: &str = "the store ended before it answered";

impl LaneStore for Store {
    fn open_lane(&self, lane: LaneKey, process: ProcessId) -> Reply<LaneOpened, StoreError> {
        self.ask(lane.clone(), OpenLane { lane, process })
    }

    fn write_trial(
        &self,
        lane: LaneKey,
        epoch: Epoch,
        subject: TrialSubject,
        phase: TrialPhase,
    ) -> Reply<bool, StoreError> {
        self.ask(lane.clone(), WriteTrial { lane, epoch, subject, phase })
    }

    fn acquit(&self, process: ProcessId, seen: Option<Thought>) -> Reply<(), StoreError> {
        self.submit(Acquit { process, seen })
    }

    fn end_lane(&self, lane: LaneKey, epoch: Epoch) -> Reply<(), StoreError> {
        self.ask(lane.clone(), EndLane { lane, epoch })
    }

    fn note_gap(&self, lane: LaneKey, epoch: Epoch, gap: Option<FoundGap>) -> Reply<bool, StoreError> {
        self.ask(lane.clone(), NoteGap { lane, epoch, gap })
    }

    fn read_progress(&self, lane: LaneKey) -> Reply<Option<Progress>, StoreError> {
        self.ask(lane.clone(), ReadProgress { lane })
    }

    fn read_orders(&self, lane: LaneKey) -> Reply<LaneOrders, StoreError> {
        let lanes = Arc::clone(&self.reader.lanes);
        self.reader.for_lanes.ask(move |connection| match lanes.find(connection, &lane)? {
            Some(number) => lanes::read_orders(connection, number),
            None => Ok(LaneOrders::default()),
        })
    }

    fn read_layouts(&self) -> Reply<Vec<Layout>, StoreError> {
        let log_id = self.log_id();
        self.reader.for_lanes.ask(move |connection| layouts::read_all(connection, &log_id))
    }

    fn read_positions(&self, group: Group, topic: Topic) -> Reply<Vec<LanePosition>, StoreError> {
        let lanes = Arc::clone(&self.reader.lanes);
        self.reader.for_lanes.ask(move |connection| lanes::positions(connection, &lanes, &group, topic))
    }

    fn load(&self, lane: LaneKey, keys: Vec<StateKey>) -> Reply<Vec<(StateKey, StateValue)>, StoreError> {
        let lanes = Arc::clone(&self.reader.lanes);
        self.reader.for_lanes.ask(move |connection| {
            let number = lanes.find(connection, &lane)?.unwrap_or(NO_LANE);
            state::load_all(connection, number, keys)
        })
    }

    fn load_due_timers(
        &self,
        lane: LaneKey,
        until: Timestamp,
        wanted: usize,
    ) -> Reply<Vec<Timer>, StoreError> {
        let lanes = Arc::clone(&self.reader.lanes);
        self.reader.for_lanes.ask(move |connection| {
            let Some(number) = lanes.find(connection, &lane)? else { return Ok(Vec::new()) };
            let rows: Vec<(Words, Words, i64)> = timers::table
                .filter(timers::lane.eq(number))
                .filter(timers::due_at.le(until.as_micros()))
                .order((timers::due_at, timers::kind, timers::key))
                .limit(limit(wanted))
                .select((timers::kind, timers::key, timers::due_at))
                .load(connection)
                .map_err(engine)?;
            Ok(rows
                .into_iter()
                .map(|(kind, key, due_at)| Timer {
                    id: TimerId { kind: kind.into(), key: key.into() },
                    due_at: Timestamp::from_micros(due_at),
                })
                .collect())
        })
    }

    fn load_parked(&self, key: ParkedKeyId, wanted: usize) -> Reply<Vec<ParkedRecord>, StoreError> {
        let lanes = Arc::clone(&self.reader.lanes);
        self.reader.for_lanes.ask(move |connection| match lanes.find(connection, &key.lane)? {
            Some(number) => parking::load(connection, number, &key, wanted.min(ROWS_MAX)),
            None => Ok(Vec::new()),
        })
    }

    fn commit(&self, transaction: LaneTransaction) -> Reply<LaneCommitted, CommitError> {
        let (answer, receiver) = oneshot::channel();
        let (transaction, written) = (Box::new(transaction), RefCell::new(None));
        match self.queue.push_lane(LaneWork::Commit(LaneCommit { transaction, written, answer })) {
            Ok(()) => Box::pin(async move {
                receiver.await.unwrap_or_else(|_| Err(CommitError::Unknown(ENDED.to_owned())))
            }),
            Err(error) => Box::pin(std::future::ready(Err(CommitError::Store(error)))),
        }
    }
}

impl JobStore for Store {
    fn write_job(&self, write: JobWrite) -> Reply<JobWritten, StoreError> {
        self.submit(WriteJob(write))
    }

    fn read_job(&self, job_id: JobId) -> Reply<Option<JobRow>, StoreError> {
        self.reader.for_lanes.ask(move |connection| jobs::read(connection, &job_id))
    }

    fn live_jobs(&self, after: Option<JobId>, wanted: usize) -> Reply<Vec<JobRow>, StoreError> {
        self.reader.for_lanes.ask(move |connection| jobs::live(connection, after.as_ref(), limit(wanted)))
    }

    fn open_orders(
        &self,
        after: Option<OrderPlace>,
        wanted: usize,
    ) -> Reply<Vec<(OrderPlace, Order)>, StoreError> {
        self.reader.for_lanes.ask(move |connection| jobs::open_orders(connection, after, limit(wanted)))
    }

    fn answer_order(&self, order: Order, answer: OrderAnswer) -> Reply<(), StoreError> {
        self.submit(AnswerOrder { order, answer })
    }

    fn append_records(
        &self,
        records: Vec<OutgoingRecord>,
        audit: Vec<OutgoingRecord>,
    ) -> Reply<Vec<AppendedAt>, StoreError> {
        self.submit(AppendRecords { records, audit })
    }

    fn set_parked_wish(
        &self,
        command: Command,
        key: ParkedKeyId,
        wish: ParkedWish,
        attempts_limit: u32,
        audit: OutgoingRecord,
    ) -> Reply<WishAnswer, StoreError> {
        self.submit(SetParkedWish { command, key, wish, attempts_limit, audit })
    }

    fn resume_lane(&self, lane: LaneKey, audit: OutgoingRecord) -> Reply<ResumeAnswer, StoreError> {
        self.submit(ResumeLane { lane, audit })
    }

    fn accept_gap(
        &self,
        command: Command,
        acceptance: GapAcceptance,
        audit: OutgoingRecord,
    ) -> Reply<GapAccepted, StoreError> {
        self.submit(AcceptGap { command, acceptance, audit })
    }

    fn wish_send_again(&self, partition: OutboxPartition, audit: OutgoingRecord) -> Reply<(), StoreError> {
        self.submit(SendAgain { partition, audit })
    }

    fn wishes_since(&self, seen: WishRevision) -> Reply<Wishes, StoreError> {
        let lanes = Arc::clone(&self.reader.lanes);
        self.reader.for_lanes.ask(move |connection| wishes::since(connection, &lanes, seen))
    }

    fn begin_layout(
        &self,
        adoption: LayoutAdoption,
        audit: OutgoingRecord,
    ) -> Reply<LayoutBegun, StoreError> {
        self.submit(BeginLayout { adoption, audit })
    }

    fn read_unsent(&self, topic: Topic) -> Reply<Unsent, StoreError> {
        self.reader.for_lanes.ask(move |connection| placing::read_unsent(connection, topic))
    }

    fn adopt_layout(&self, adoption: LayoutAdoption) -> Reply<LayoutAdopted, StoreError> {
        self.submit(AdoptLayout(adoption))
    }
}
