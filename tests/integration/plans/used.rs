//! Everything that is asked of a store.

use std::time::Duration;

use bytes::Bytes;
use horizons_actors::command::{Order, OrderKind};
use horizons_actors::effect::{
    DeadLetterOutcome, DeadLetterSettlement, Effects, ParkedRecordId, TimelineEntry, Timer, TimerId,
};
use horizons_actors::event::{EventType, JobStatus};
use horizons_actors::gap::FoundGap;
use horizons_actors::ids::{
    Attempt, EventId, Group, JobIdBeginning, LogTopic, Offset, Partition, Sequence, Topic,
};
use horizons_actors::ports::log::{GapKind, RecordSource};
use horizons_actors::ports::outbox::{CursorMove, OutboxPartition, OutboxStore, RelayId, WantedRows};
use horizons_actors::ports::query::{AuditFilter, JobFilter, QueryStore, StoredGap};
use horizons_actors::ports::store::{Idempotency, JobStore, JobWrite, LaneStore, OrderAnswer, ParkedWish};
use horizons_actors::state::{JobOrigin, StateKey};
use horizons_actors::testkit::contract::sample::{
    Owner, PROCESS, at, audit, auditor_lane, change, id, job, jobs_lane, log_record, outgoing, parked,
    parked_key, parking, partition, refusal, release, submit,
};
use horizons_actors::trial::{TrialPhase, TrialSubject};
use uuid::Uuid;

use super::fill::QUEUE;

/// Records that one drain takes.
const DRAINED: u64 = 500;

/// A store with all its sides.
pub(super) trait Whole: LaneStore + JobStore + QueryStore + RecordSource + OutboxStore {}

impl<T: LaneStore + JobStore + QueryStore + RecordSource + OutboxStore> Whole for T {}

/// Opens the lanes whose rows there are to be many of.
pub(super) async fn begin(store: &impl Whole) -> (Owner, Owner) {
    let jobs = store.open_lane(jobs_lane(0), PROCESS).await.unwrap();
    store.open_lane(jobs_lane(1), PROCESS).await.unwrap();
    let auditor = store.open_lane(auditor_lane(Topic::JobLifecycle, 0), PROCESS).await.unwrap();
    (Owner::new(jobs_lane(0), &jobs), Owner::new(auditor_lane(Topic::JobLifecycle, 0), &auditor))
}

/// Asks everything, so often that a statement that is planned once for all is among it.
pub(super) async fn everything(store: &impl Whole, owners: (Owner, Owner), rows: u64) {
    let (mut jobs, mut auditor) = owners;
    for round in 0..7 {
        lane(store, &mut jobs, round, rows).await;
        auditing(store, &mut auditor, rows + round).await;
        orchestrator(store, round).await;
        operator(store, round).await;
        people(store, rows).await;
        reader(store, rows);
    }
    relay(store).await;
}

async fn commit(store: &impl Whole, owner: &mut Owner, effects: Effects) {
    let committed = store.commit(owner.step(effects)).await.unwrap();
    owner.stepped(&committed);
}

async fn lane(store: &impl Whole, owner: &mut Owner, round: u64, rows: u64) {
    let (lane, queue) = (owner.lane.clone(), parked_key(&owner.lane, QUEUE));
    let epoch = owner.fence.epoch;
    store.read_progress(lane.clone()).await.unwrap();
    store.read_orders(lane.clone()).await.unwrap();
    let keys =
        (1..20).map(|number| id(&format!("job-{number}"))).flat_map(|job: horizons_actors::ids::JobId| {
            [
                StateKey::JobView(job.clone()),
                StateKey::LifecycleOwner(job.clone(), Sequence(1)),
                StateKey::JobAggregate(job, Attempt(1)),
            ]
        });
    store.load(lane.clone(), keys.collect()).await.unwrap();
    store.load(lane.clone(), vec![StateKey::JobView(id("job-5"))]).await.unwrap();
    store.load(lane.clone(), vec![StateKey::StatusCount(JobStatus::Running)]).await.unwrap();
    let timers = store.load_due_timers(lane.clone(), at(0), 100).await.unwrap();
    let waiting = store.load_parked(queue, DRAINED as usize).await.unwrap();

    let subject = TrialSubject::Parked(waiting[0].record.offset);
    assert!(store.write_trial(lane.clone(), epoch, subject.clone(), TrialPhase::Trying).await.unwrap());
    assert!(store.write_trial(lane.clone(), epoch, subject, TrialPhase::Survived).await.unwrap());
    let gap = FoundGap {
        kind: GapKind::Trimmed,
        next: owner.next.unwrap_or_default(),
        low: Offset(9),
        high: Offset(9),
        found_at: at(1),
    };
    assert!(store.note_gap(lane.clone(), epoch, Some(gap)).await.unwrap());
    assert!(store.note_gap(lane.clone(), epoch, None).await.unwrap());

    let drained = Effects {
        records_unparked: waiting
            .iter()
            .map(|parked| ParkedRecordId { key: parked.key.clone(), offset: parked.record.offset })
            .collect(),
        dead_letters_settled: vec![DeadLetterSettlement {
            offset: waiting[0].record.offset,
            outcome: DeadLetterOutcome::Released,
            settled_at: at(9),
        }],
        ..Effects::default()
    };
    commit(store, owner, drained).await;
    let behind: Vec<_> = (0..DRAINED)
        .map(|number| parked(QUEUE, log_record(rows * 2 + round * DRAINED + number, Some(QUEUE), "waits")))
        .collect();
    commit(store, owner, Effects { records_parked: behind, ..Effects::default() }).await;
    let poison = format!("poison-{round}");
    commit(store, owner, parking(&poison, rows * 3 + round)).await;
    let offset = Offset(rows * 3 + round);
    let unparked = Effects {
        records_unparked: vec![ParkedRecordId { key: Bytes::from(poison.clone()), offset }],
        keys_unparked: vec![Bytes::from(poison)],
        ..Effects::default()
    };
    commit(store, owner, unparked).await;
    let job_id = format!("job-{}", round + 200);
    let applied = Effects {
        refusals: vec![refusal(&job_id, rows * 4 + round)],
        orders: vec![Order {
            job_id: id(&job_id),
            attempt: Attempt(2),
            kind: OrderKind::Clean,
            ordered_at: at(9),
        }],
        timers_cleared: timers.iter().map(|timer| timer.id.clone()).collect(),
        timers_set: vec![Timer {
            id: TimerId { kind: "kind".to_owned(), key: job_id.clone() },
            due_at: at(9),
        }],
        timeline: vec![TimelineEntry {
            job_id: id(&job_id),
            offset: Offset(rows * 4 + round),
            event_id: EventId(Uuid::from_u128(1)),
            event_type: EventType::JobRunning,
            sequence: Sequence(2),
            status: JobStatus::Running,
            attempt: Attempt(1),
            happened_at: at(1),
            applied_at: at(1),
            payload: String::new(),
        }],
        states: store
            .load(lane, vec![StateKey::JobView(id(&job_id)), StateKey::JobAggregate(id(&job_id), Attempt(1))])
            .await
            .unwrap(),
        outbox: vec![outgoing(partition(Topic::JobLifecycle, 0), "x")],
        ..Effects::default()
    };
    commit(store, owner, applied).await;
    store.end_lane(jobs_lane(0), epoch).await.unwrap();
}

async fn auditing(store: &impl Whole, owner: &mut Owner, size: u64) {
    store.load(owner.lane.clone(), vec![StateKey::AuditLog]).await.unwrap();
    commit(store, owner, audit(size, &["key"])).await;
}

async fn orchestrator(store: &impl Whole, round: u64) {
    let row = job(&format!("new-{round}"), at(1));
    let order =
        Order { job_id: row.job_id.clone(), attempt: Attempt(1), kind: OrderKind::Submit, ordered_at: at(2) };
    let idempotency =
        Idempotency { user_id: id("ada"), key: format!("new-{round}"), request_digest: [1; 32] };
    let new = JobWrite { orders: vec![order.clone()], idempotency: Some(idempotency), ..submit(row.clone()) };
    store.write_job(new.clone()).await.unwrap();
    store.write_job(new).await.unwrap();
    store.write_job(change(&row, JobStatus::Queued)).await.unwrap();
    store.read_job(row.job_id.clone()).await.unwrap();
    store.live_jobs(Some(id("job-50")), 100).await.unwrap();
    let open = store.open_orders(None, 50).await.unwrap();
    store.open_orders(open.last().map(|(place, _)| *place), 50).await.unwrap();
    store.answer_order(order, OrderAnswer::Done).await.unwrap();
    store.append_records(vec![outgoing(partition(Topic::Notifications, 0), "x")], Vec::new()).await.unwrap();
}

async fn operator(store: &impl Whole, round: u64) {
    let lane = jobs_lane(1);
    let audit = || outgoing(partition(Topic::AuditTrail, 0), "act");
    let key = parked_key(&lane, &format!("key-{}", round + 5));
    let wished = store.set_parked_wish(release(&key), key, ParkedWish::Release, 9, audit()).await.unwrap();
    assert_eq!(wished, horizons_actors::ports::store::WishAnswer::Stored);
    store.resume_lane(lane, audit()).await.unwrap();
    store.acquit(PROCESS, None).await.unwrap();
}

async fn people(store: &impl Whole, rows: u64) {
    let all = JobFilter { limit: 50, ..JobFilter::default() };
    let behind = Some((at(0), id("job-9")));
    for user_id in [None, Some(id("ada"))] {
        for status in [None, Some(JobStatus::Running), Some(JobStatus::Completed)] {
            for behind in [None, behind.clone()] {
                let filter = JobFilter { user_id: user_id.clone(), status, behind, ..all.clone() };
                store.jobs(filter).await.unwrap();
            }
        }
    }
    let of_few = JobIdBeginning::parse(&format!("job-{}", rows / 10)).unwrap();
    let of_many = JobIdBeginning::parse("job-").unwrap();
    for behind in [None, behind] {
        let few = JobFilter { id_beginning: Some(of_few.clone()), behind: behind.clone(), ..all.clone() };
        let origin = Some(JobOrigin::Owned);
        let many = JobFilter { id_beginning: Some(of_many.clone()), behind, origin, ..all.clone() };
        let of_ada =
            JobFilter { user_id: Some(id("ada")), status: Some(JobStatus::Completed), ..few.clone() };
        assert!(store.jobs(few).await.unwrap().len() < 50);
        assert!(store.jobs(of_ada).await.unwrap().len() < 50);
        assert_eq!(store.jobs(many).await.unwrap().len(), 50);
    }
    let job_id = || id("job-77");
    store.job(job_id()).await.unwrap();
    store.job_view(job_id()).await.unwrap();
    store.live_job_views(Some(id("job-50")), 50).await.unwrap();
    store.timeline(job_id(), 50).await.unwrap();
    store.refusals(job_id(), 50).await.unwrap();
    store.aggregates(job_id(), 50).await.unwrap();
    store.aggregates_after(job_id(), Some(Attempt(1)), 50).await.unwrap();
    store.status_counts().await.unwrap();
    store.audit_entries(AuditFilter { limit: 50, ..AuditFilter::default() }).await.unwrap();
    let page = store.audit_entries(AuditFilter { limit: 1, ..AuditFilter::default() }).await.unwrap();
    let after =
        page.next.map(|next| horizons_actors::ports::query::AuditPosition { index: rows / 2, ..next });
    store.audit_entries(AuditFilter { limit: 50, after, ..AuditFilter::default() }).await.unwrap();
    store.audit_logs().await.unwrap();
    let letters = store.dead_letters(Some(Group::jobs()), None, 50).await.unwrap();
    assert_eq!(letters.len(), 50);
    let gaps = store.gaps(50).await.unwrap();
    store.gaps_after(gaps.last().map(StoredGap::position), 50).await.unwrap();
    store.progress().await.unwrap();
    store.held_lanes().await.unwrap();
    store.log_ends().await.unwrap();
    store.usage().await.unwrap();
}

fn reader(store: &impl Whole, rows: u64) {
    let partition = partition(Topic::JobLifecycle, 0);
    store.low(partition).unwrap();
    store.read(partition, Offset(rows / 2), 100, 1 << 20).unwrap();
    store.read_previous(partition, Offset(rows / 2)).unwrap();
    RecordSource::refresh_heads(store).unwrap();
}

async fn relay(store: &impl Whole) {
    let holder = RelayId(Uuid::from_u128(1));
    let hour = Duration::from_secs(3_600);
    let lease = store.take_lease(holder, hour).await.unwrap().unwrap();
    let partition = OutboxPartition { topic: LogTopic::Record(Topic::JobLifecycle), partition: Partition(0) };
    for round in 0..7 {
        store.renew_lease(holder, lease.epoch, hour).await.unwrap();
        let wanted = [WantedRows { partition, from: Offset(round), limit: 100 }];
        store.read_outbox(&wanted, 1 << 20).unwrap();
        let step = CursorMove {
            partition,
            from: Offset(round * 2_000),
            next: Offset((round + 1) * 2_000),
            tail: Offset(round),
        };
        assert_eq!(store.advance_cursors(lease.epoch, vec![step]).await.unwrap(), []);
        store.cursors().unwrap();
        store.remove_sent(lease.epoch, 100).await.unwrap();
        store.set_aside_records(50).await.unwrap();
    }
    store.release_lease(holder, lease.epoch).await.unwrap();
}
