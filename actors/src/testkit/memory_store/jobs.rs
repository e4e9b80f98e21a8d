//! What the store keeps for the orchestrator and the operators' commands.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use futures_util::FutureExt;

use super::super::locked;
use super::faults::StoreCall;
use super::lanes::{accept_gap, adopt_layout};
use super::outbox::{Ends, ends_after};
use super::{MemoryStore, State};
use crate::command::{Command, LayoutAdoption, Order, OrderKind, ParkedKeyId};
use crate::event::JobStatus;
use crate::gap::GapAcceptance;
use crate::ids::{Attempt, EventId, JobId, LaneKey, Sequence, Topic, UserId};
use crate::layout::Layout;
use crate::ports::Reply;
use crate::ports::outbox::OutboxPartition;
use crate::ports::store::{
    AppendedAt, DesiredState, GapAccepted, Idempotency, JobExpectation, JobRow, JobStore, JobWrite,
    JobWritten, LayoutAdopted, LayoutBegun, OrderAnswer, OrderPlace, ParkedWish, ResumeAnswer, StoreError,
    Unsent, UnsentRows, WishAnswer,
};
use crate::ports::wishes::{WishRevision, Wished, Wishes};
use crate::record::{Digest32, OutgoingRecord};

/// An order with its place in line and its answer.
#[derive(Debug)]
struct KeptOrder {
    number: u64,
    order: Order,
    answer: Option<OrderAnswer>,
}

/// Most rows that one call gives, as in every store.
const ROWS_MAX: usize = 10_000;

fn place_of(kept: &KeptOrder) -> OrderPlace {
    OrderPlace { ordered_at: kept.order.ordered_at, number: kept.number }
}

/// The tables of the orchestrator.
#[derive(Debug, Default)]
pub(super) struct JobTables {
    pub(super) rows: BTreeMap<JobId, JobRow>,
    events: HashMap<(JobId, Sequence), EventId>,
    orders: BTreeMap<(JobId, Attempt, OrderKind), KeptOrder>,
    /// The orders without an answer.
    open: BTreeMap<OrderPlace, Order>,
    orders_inserted: u64,
    keys: HashMap<(UserId, String), (Digest32, JobId)>,
    pub(super) commands: Vec<Command>,
}

impl JobTables {
    /// Gives the event of a lifecycle sequence; none at all when the job is unknown.
    pub(super) fn lifecycle_owner(&self, job_id: &JobId, sequence: Sequence) -> Option<Option<EventId>> {
        self.rows.get(job_id)?;
        Some(self.events.get(&(job_id.clone(), sequence)).copied())
    }

    /// Inserts orders; one that exists stays as it is.
    pub(super) fn insert_orders(&mut self, orders: Vec<Order>) {
        for order in orders {
            let number = self.orders_inserted;
            self.orders.entry(key_of(&order)).or_insert_with(|| {
                self.orders_inserted += 1;
                let kept = KeptOrder { number, order, answer: None };
                self.open.insert(place_of(&kept), kept.order.clone());
                kept
            });
        }
    }

    /// Lists every order, oldest first.
    pub(super) fn all_orders(&self) -> Vec<(Order, Option<OrderAnswer>)> {
        let mut kept: Vec<&KeptOrder> = self.orders.values().collect();
        kept.sort_by_key(|kept| (kept.order.ordered_at, kept.number));
        kept.into_iter().map(|kept| (kept.order.clone(), kept.answer.clone())).collect()
    }

    /// Lists the orders without an answer with their places, oldest first, behind a place.
    fn open_orders(&self, after: Option<OrderPlace>, limit: usize) -> Vec<(OrderPlace, Order)> {
        let behind = after.map_or(Bound::Unbounded, Bound::Excluded);
        let open = self.open.range((behind, Bound::Unbounded));
        open.take(limit.min(ROWS_MAX)).map(|(place, order)| (*place, order.clone())).collect()
    }

    /// Answers an order; the first answer stays.
    fn answer(&mut self, order: &Order, answer: OrderAnswer) -> Result<(), StoreError> {
        let kept = self.orders.get_mut(&key_of(order)).ok_or_else(|| unknown_order(order))?;
        kept.answer.get_or_insert(answer);
        self.open.remove(&place_of(kept));
        Ok(())
    }

    /// Tells why a write is not carried out, if so.
    fn objection(&self, write: &JobWrite) -> Option<JobWritten> {
        if let Some(Idempotency { user_id, key, request_digest }) = &write.idempotency
            && let Some((digest, job_id)) = self.keys.get(&(user_id.clone(), key.clone()))
        {
            let is_same = digest == request_digest;
            let job_id = job_id.clone();
            return Some(if is_same { JobWritten::Repeated(job_id) } else { JobWritten::KeyReused(job_id) });
        }
        let found = self.rows.get(&write.row.job_id);
        let holds = match write.expectation {
            JobExpectation::New => found.is_none(),
            JobExpectation::Sequences { lifecycle, metrics } => found.is_some_and(|row| {
                row.lifecycle_sequence == lifecycle
                    && row.metrics_sequence == metrics
                    && (row.cancel.is_none() || write.row.cancel.is_some())
            }),
        };
        (!holds).then_some(JobWritten::Conflict)
    }

    /// Checks what a database would refuse.
    fn check(&self, write: &JobWrite) -> Result<(), StoreError> {
        for (job_id, sequence, _) in remembered(write) {
            if self.events.contains_key(&(job_id.clone(), sequence)) {
                return Err(StoreError::Broken(format!("event {sequence} of job `{job_id}` exists already")));
            }
        }
        for (order, _) in &write.answered {
            if !self.orders.contains_key(&key_of(order)) && !write.orders.contains(order) {
                return Err(unknown_order(order));
            }
        }
        Ok(())
    }
}

fn key_of(order: &Order) -> (JobId, Attempt, OrderKind) {
    (order.job_id.clone(), order.attempt, order.kind)
}

fn unknown_order(order: &Order) -> StoreError {
    let Order { job_id, attempt, kind, .. } = order;
    StoreError::Conflict(format!("no order `{}` for `{job_id}#{attempt}`", kind.name()))
}

/// Lists the lifecycle events of a write with their sequences.
fn remembered(write: &JobWrite) -> impl Iterator<Item = (JobId, Sequence, EventId)> {
    write.events.iter().map(|outgoing| &outgoing.event).filter_map(|event| {
        let job_id = event.job_id.clone().filter(|_| event.topic() == Topic::JobLifecycle)?;
        Some((job_id, event.sequence?, event.event_id))
    })
}

impl State {
    fn check_disk(&self) -> Result<(), StoreError> {
        let used_bytes = self.outbox.weight_bytes();
        match self.limit_bytes {
            Some(limit_bytes) if used_bytes >= limit_bytes => {
                Err(StoreError::DiskLimit { used_bytes, limit_bytes })
            }
            _ => Ok(()),
        }
    }

    /// Gives what the relay has to send of a topic.
    fn unsent(&self, topic: Topic) -> Unsent {
        let rows = self.outbox.ends_of(topic).into_iter().map(|(place, end)| UnsentRows {
            partition: place.partition,
            next: self.relay.next(place),
            end,
        });
        let places = rows.filter(|rows| rows.next < rows.end).collect();
        Unsent { begun: self.outbox.begun(topic), places }
    }

    fn append_all(&mut self, records: &[OutgoingRecord]) -> Vec<AppendedAt> {
        let append = |record: &OutgoingRecord| AppendedAt {
            topic: record.topic,
            partition: record.partition,
            offset: self.outbox.append(record),
        };
        records.iter().map(append).collect()
    }

    fn write_job(&mut self, write: JobWrite) -> Result<(JobWritten, Ends), StoreError> {
        if let Some(objection) = self.jobs.objection(&write) {
            return Ok((objection, Vec::new()));
        }
        if write.expectation == JobExpectation::New {
            self.check_disk()?;
        }
        self.jobs.check(&write)?;
        let records: Vec<OutgoingRecord> =
            write.events.iter().map(|outgoing| outgoing.record.clone()).collect();
        self.outbox.check(&records)?;

        let remembered: Vec<_> = remembered(&write).collect();
        for (job_id, sequence, event_id) in remembered {
            self.jobs.events.insert((job_id, sequence), event_id);
        }
        if let Some(Idempotency { user_id, key, request_digest }) = write.idempotency {
            self.jobs.keys.insert((user_id, key), (request_digest, write.row.job_id.clone()));
        }
        self.jobs.rows.insert(write.row.job_id.clone(), write.row);
        if write.orders.iter().any(|order| order.kind == OrderKind::Cancel) {
            self.wished(Wished::Orders);
        }
        self.jobs.insert_orders(write.orders);
        for (order, answer) in write.answered {
            self.jobs.answer(&order, answer)?;
        }
        self.append_all(&records);
        Ok((JobWritten::Written, ends_after(&records, &self.outbox)))
    }
}

impl JobStore for MemoryStore {
    fn write_job(&self, write: JobWrite) -> Reply<JobWritten, StoreError> {
        if let Some(full) = self.queue_full() {
            return full;
        }
        self.run_write(StoreCall::WriteJob, None, move |state| state.write_job(write))
    }

    fn read_job(&self, job_id: JobId) -> Reply<Option<JobRow>, StoreError> {
        self.run_read(StoreCall::ReadJob, move |state| Ok(state.jobs.rows.get(&job_id).cloned()))
    }

    fn live_jobs(&self, after: Option<JobId>, limit: usize) -> Reply<Vec<JobRow>, StoreError> {
        self.run_read(StoreCall::ReadJob, move |state| {
            let is_live = |row: &&JobRow| !row.status.is_attempt_end() || is_between_attempts(row);
            let rows =
                state.jobs.rows.values().filter(|row| after.as_ref().is_none_or(|id| row.job_id > *id));
            Ok(rows.filter(is_live).take(limit).cloned().collect())
        })
    }

    fn open_orders(
        &self,
        after: Option<OrderPlace>,
        limit: usize,
    ) -> Reply<Vec<(OrderPlace, Order)>, StoreError> {
        self.run_read(StoreCall::OpenOrders, move |state| Ok(state.jobs.open_orders(after, limit)))
    }

    fn answer_order(&self, order: Order, answer: OrderAnswer) -> Reply<(), StoreError> {
        self.run_write(StoreCall::AnswerOrder, None, move |state| {
            state.jobs.answer(&order, answer).map(|()| ((), Vec::new()))
        })
    }

    fn append_records(
        &self,
        records: Vec<OutgoingRecord>,
        audit: Vec<OutgoingRecord>,
    ) -> Reply<Vec<AppendedAt>, StoreError> {
        if let Some(full) = self.queue_full() {
            return full;
        }
        self.run_write(StoreCall::AppendRecords, None, move |state| {
            state.check_disk()?;
            let all = records.iter().chain(&audit).map(|record| state.outbox.placed(record.clone()));
            let all: Vec<OutgoingRecord> = all.collect();
            state.outbox.check(&all)?;
            let mut appended = state.append_all(&all);
            appended.truncate(records.len());
            Ok((appended, ends_after(&all, &state.outbox)))
        })
    }

    fn set_parked_wish(
        &self,
        command: Command,
        key: ParkedKeyId,
        wish: ParkedWish,
        attempts_limit: u32,
        audit: OutgoingRecord,
    ) -> Reply<WishAnswer, StoreError> {
        self.run_write(StoreCall::SetParkedWish, None, move |state| {
            state.outbox.check(std::slice::from_ref(&audit))?;
            let Some(tables) = state.lanes.get_mut(&key.lane) else {
                return Ok((WishAnswer::NotParked, Ends::default()));
            };
            let Some(kept) = tables.parked_keys.get_mut(&key.key) else {
                return Ok((WishAnswer::NotParked, Ends::default()));
            };
            let attempts = tables.dead_letters.get(&kept.parked.head).map_or(0, |letter| letter.attempts);
            if wish == ParkedWish::Release && attempts >= attempts_limit {
                return Ok((WishAnswer::TriedTooOften { attempts }, Ends::default()));
            }
            kept.wish = wish;
            state.jobs.commands.push(command);
            state.wished(Wished::Lane(key.lane));
            state.outbox.append(&audit);
            Ok((WishAnswer::Stored, ends_after(std::slice::from_ref(&audit), &state.outbox)))
        })
    }

    fn resume_lane(&self, lane: LaneKey, audit: OutgoingRecord) -> Reply<ResumeAnswer, StoreError> {
        self.run_write(StoreCall::ResumeLane, None, move |state| {
            state.outbox.check(std::slice::from_ref(&audit))?;
            let Some(tables) = state.lanes.get_mut(&lane) else {
                return Ok((ResumeAnswer::NoLane, Ends::default()));
            };
            if tables.desired == DesiredState::Running {
                return Ok((ResumeAnswer::NotHeld, Ends::default()));
            }
            tables.desired = DesiredState::Running;
            tables.held_because = None;
            state.wished(Wished::Lane(lane));
            state.outbox.append(&audit);
            Ok((ResumeAnswer::Resumed, ends_after(std::slice::from_ref(&audit), &state.outbox)))
        })
    }

    fn accept_gap(
        &self,
        command: Command,
        acceptance: GapAcceptance,
        audit: OutgoingRecord,
    ) -> Reply<GapAccepted, StoreError> {
        self.run_write(StoreCall::AcceptGap, None, move |state| {
            state.outbox.check(std::slice::from_ref(&audit))?;
            let answer = accept_gap(state, &command, &acceptance);
            let mut ends = Ends::default();
            if matches!(answer, GapAccepted::Accepted { .. }) {
                state.wished(Wished::Lane(acceptance.lane));
                state.jobs.commands.push(command);
                state.outbox.append(&audit);
                ends = ends_after(std::slice::from_ref(&audit), &state.outbox);
            }
            Ok((answer, ends))
        })
    }

    fn wish_send_again(&self, partition: OutboxPartition, audit: OutgoingRecord) -> Reply<(), StoreError> {
        self.run_write(StoreCall::SendAgain, None, move |state| {
            state.outbox.check(std::slice::from_ref(&audit))?;
            state.wished(Wished::Outbox(partition));
            state.outbox.append(&audit);
            Ok(((), ends_after(std::slice::from_ref(&audit), &state.outbox)))
        })
    }

    fn wishes_since(&self, seen: WishRevision) -> Reply<Wishes, StoreError> {
        // No call that a script counts: it is made by time, not by what a test does.
        if self.is_dead() {
            return std::future::pending().boxed();
        }
        let state = locked(&self.shared.state);
        let since = state.wishes.iter().filter(|(_, revision)| **revision > seen);
        let about = since.map(|(about, _)| about.clone()).collect();
        std::future::ready(Ok(Wishes { revision: state.wish_revision, about })).boxed()
    }

    fn begin_layout(
        &self,
        adoption: LayoutAdoption,
        audit: OutgoingRecord,
    ) -> Reply<LayoutBegun, StoreError> {
        self.run_write(StoreCall::AdoptLayout, None, move |state| {
            state.outbox.check(std::slice::from_ref(&audit))?;
            let (topic, partitions) = (adoption.topic, adoption.partitions);
            let layout = state.layouts.get(&topic).cloned().unwrap_or_else(|| Layout::first_of(topic));
            if layout.count() != adoption.epochs || layout.partitions() >= partitions {
                return Ok((LayoutBegun::Changed(layout), Ends::default()));
            }
            if let Some(partitions) = state.outbox.begun(topic) {
                return Ok((LayoutBegun::Begun { partitions }, Ends::default()));
            }
            state.outbox.append(&audit);
            state.outbox.begin(topic, partitions, layout.epochs().map(|epoch| epoch.partitions).collect());
            let ends = ends_after(std::slice::from_ref(&audit), &state.outbox);
            Ok((LayoutBegun::Begun { partitions }, ends))
        })
    }

    fn read_unsent(&self, topic: Topic) -> Reply<Unsent, StoreError> {
        self.run_read(StoreCall::Query, move |state| Ok(state.unsent(topic)))
    }

    fn adopt_layout(&self, adoption: LayoutAdoption) -> Reply<LayoutAdopted, StoreError> {
        self.run_write(StoreCall::AdoptLayout, None, move |state| {
            let unsent = state.unsent(adoption.topic);
            let is_other = unsent.begun.is_some_and(|begun| begun != adoption.partitions);
            if unsent.begun.is_some() && (is_other || !unsent.places.is_empty()) {
                return Ok((LayoutAdopted::Unsent(unsent), Ends::default()));
            }
            let answer = adopt_layout(state, &adoption);
            let mut ends = Ends::default();
            if let LayoutAdopted::Adopted(layout) = &answer {
                let former = layout.epochs().map(|epoch| epoch.partitions).collect();
                state.outbox.count(adoption.topic, adoption.partitions, former);
                ends = state.outbox.ends_of(adoption.topic);
            }
            Ok((answer, ends))
        })
    }
}

/// Tells whether another attempt of a failed job follows.
fn is_between_attempts(row: &JobRow) -> bool {
    row.status == JobStatus::Failed && row.will_retry
}

impl MemoryStore {
    /// Answers a submit while too many writes wait.
    fn queue_full<T: Send + 'static>(&self) -> Option<Reply<T, StoreError>> {
        let is_full = self.faults().is_queue_full(self.waiting_writes());
        is_full.then(|| Box::pin(std::future::ready(Err(StoreError::QueueFull))) as Reply<T, StoreError>)
    }
}
