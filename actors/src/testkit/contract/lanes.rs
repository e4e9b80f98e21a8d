//! Lanes: opening, fencing, group commit, state and timers.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::join_all;
use uuid::Uuid;

use super::Store;
use super::sample::{
    Owner, PROCESS, at, audit, auditor_lane, id, jobs_lane, outgoing, partition, refusal, text,
};
use crate::clock::{Randomness, Timestamp};
use crate::effect::{Effects, Timer, TimerId};
use crate::event::{JobStatus, TaccSystem};
use crate::ids::{Attempt, EventId, Generation, JobId, LaneKey, Offset, ProcessId, Sequence, Topic};
use crate::ports::query::HeldLane;
use crate::ports::store::{CommitError, DesiredState, Fence, LaneStore, ResumeAnswer, StoreError};
use crate::state::{Aggregate, AttemptSummary, JobAggregate, JobOrigin, JobView, StateKey, StateValue};
use crate::testkit::SeededRandomness;

/// Opens a lane.
async fn open(store: &impl LaneStore, lane: LaneKey) -> Owner {
    let opened = store.open_lane(lane.clone(), PROCESS).await.expect("a lane can be opened");
    Owner::new(lane, &opened)
}

/// Effects that append one record.
fn publishing(payload: &str) -> Effects {
    Effects { outbox: vec![outgoing(partition(Topic::AuditTrail, 0), payload)], ..Effects::default() }
}

/// Reads the texts of what was published.
fn published(store: &impl Store) -> Vec<String> {
    let records = store
        .read(partition(Topic::AuditTrail, 0), Offset(0), usize::MAX, usize::MAX)
        .expect("the log can be read");
    records.iter().map(text).collect()
}

/// A lane that nobody knew starts at nothing, with the first epoch.
pub async fn open_lane_first_time_finds_nothing(store: Arc<impl Store>) {
    let progress = store.read_progress(jobs_lane(0)).await.expect("progress can be read");
    let orders = store.read_orders(jobs_lane(0)).await.expect("orders can be read");
    let opened = store.open_lane(jobs_lane(0), PROCESS).await.expect("a lane can be opened");

    assert_eq!(progress, None);
    assert_eq!((orders.parked, orders.desired), (Vec::new(), DesiredState::Running));
    assert_eq!((opened.fence.epoch.0, opened.fence.revision.0), (1, 0));
    assert_eq!((opened.next, opened.last_fingerprint, opened.next_timer), (None, None, None));
    assert_eq!((opened.starts_at_next, opened.starts_aside), (0, 0));
    assert_eq!((opened.generation, opened.desired), (Generation(0), DesiredState::Running));
    assert!(opened.parked.is_empty() && opened.trials.is_empty() && opened.open_gap.is_none());
}

/// Every opening takes a new epoch, whoever opens.
pub async fn open_lane_again_raises_epoch(store: Arc<impl Store>) {
    let mut epochs = Vec::new();

    for process in [1, 1, 2] {
        let process = ProcessId(Uuid::from_u128(process));
        let opened = store.open_lane(jobs_lane(0), process).await.expect("a lane can be opened");
        epochs.push(opened.fence.epoch.0);
    }

    assert_eq!(epochs, [1, 2, 3]);
}

/// The owner moves progress; a fingerprint that is not given stays.
pub async fn commit_right_fence_moves_progress(store: Arc<impl Store>) {
    let mut owner = open(&*store, jobs_lane(0)).await;
    let mut first = owner.step(Effects::default());
    first.last_fingerprint = Some([3; 32]);

    let committed = store.commit(first).await.expect("the owner may write");
    owner.stepped(&committed);
    let committed = store.commit(owner.step(Effects::default())).await.expect("the owner may write");
    owner.stepped(&committed);
    let progress = store.read_progress(jobs_lane(0)).await.expect("progress can be read");
    let opened = store.open_lane(jobs_lane(0), PROCESS).await.expect("a lane can be opened");

    let progress = progress.expect("progress is stored");
    assert_eq!((progress.fence, progress.next), (owner.fence, Some(Offset(2))));
    assert_eq!((owner.fence.epoch.0, owner.fence.revision.0), (1, 2));
    assert_eq!(opened.last_fingerprint, Some([3; 32]));
    assert_eq!((opened.fence.revision, opened.next), (owner.fence.revision, Some(Offset(2))));
}

/// Each part of the compare-and-set fences alone, and a fenced transaction leaves no trace.
pub async fn commit_wrong_fence_or_position_writes_nothing(store: Arc<impl Store>) {
    let owner = open(&*store, jobs_lane(0)).await;
    let mut wrong = Vec::new();
    let mut other_epoch = owner.step(publishing("other epoch"));
    other_epoch.fence.epoch = other_epoch.fence.epoch.following();
    wrong.push(other_epoch);
    let mut other_revision = owner.step(publishing("other revision"));
    other_revision.fence.revision = other_revision.fence.revision.following();
    wrong.push(other_revision);
    let mut other_position = owner.step(publishing("other position"));
    other_position.from = Some(Offset(0));
    wrong.push(other_position);

    let mut answers = Vec::new();
    for transaction in wrong {
        answers.push(store.commit(transaction).await);
    }
    let progress = store.read_progress(jobs_lane(0)).await.expect("progress can be read");

    assert!(answers.iter().all(|answer| matches!(answer, Err(CommitError::Fenced))), "{answers:?}");
    assert_eq!(progress.map(|progress| (progress.fence, progress.next)), Some((owner.fence, None)));
    assert_eq!(published(&*store), Vec::<String>::new());
}

/// A lane that was never opened has no owner.
pub async fn commit_before_open_is_fenced(store: Arc<impl Store>) {
    let fence = Fence { epoch: crate::ids::Epoch(1), revision: crate::ids::Revision(0) };
    let owner = Owner { lane: jobs_lane(0), fence, next: None };

    let answer = store.commit(owner.step(publishing("early"))).await;

    assert!(matches!(answer, Err(CommitError::Fenced)), "{answer:?}");
    assert_eq!(published(&*store), Vec::<String>::new());
}

/// An opening waits behind a write of its predecessor that was queued before.
pub async fn commit_queued_before_open_is_seen_by_it(store: Arc<impl Store>) {
    let owner = open(&*store, jobs_lane(0)).await;
    let timer = Timer { id: TimerId { kind: "k".to_owned(), key: "t".to_owned() }, due_at: at(9) };
    let effects = Effects { timers_set: vec![timer], ..Effects::default() };

    let commit = store.commit(owner.step(effects));
    let progress = store.read_progress(jobs_lane(0));
    let reopen = store.open_lane(jobs_lane(0), PROCESS);
    let (committed, progress, opened) = futures_util::future::join3(commit, progress, reopen).await;

    let committed = committed.expect("the owner may write");
    let progress = progress.expect("progress can be read").expect("progress is stored");
    let opened = opened.expect("a lane can be opened");
    assert_eq!((progress.fence, progress.next), (committed.fence, Some(Offset(1))));
    assert_eq!((opened.fence.epoch.0, opened.next), (2, Some(Offset(1))));
    assert_eq!(opened.next_timer, Some(at(9)));
}

/// A write of a predecessor that arrives after the opening is fenced, even when nobody waited in between.
pub async fn commit_queued_after_open_is_fenced(store: Arc<impl Store>) {
    let owner = open(&*store, jobs_lane(0)).await;

    let reopen = store.open_lane(jobs_lane(0), PROCESS);
    let late = store.commit(owner.step(publishing("late")));
    let (opened, late) = futures_util::future::join(reopen, late).await;

    assert_eq!(opened.expect("a lane can be opened").next, None);
    assert!(matches!(late, Err(CommitError::Fenced)), "{late:?}");
    assert_eq!(published(&*store), Vec::<String>::new());
}

/// Seeds of the interleavings.
const ZOMBIE_SEEDS: u64 = 12;

/// Acts in one interleaving.
const ZOMBIE_ACTS: usize = 40;

/// Whatever old incarnations do at whatever time: what is written is what the owners wrote, in order.
pub async fn commit_of_zombies_any_interleaving_is_fenced(store: Arc<impl Store>) {
    let mut expected = Vec::new();
    for seed in 0..ZOMBIE_SEEDS {
        let lane = jobs_lane(u16::try_from(seed % 10).unwrap_or_default());
        let random = SeededRandomness::new(seed);
        let mut incarnations = vec![open(&*store, lane.clone()).await];
        for act in 0..ZOMBIE_ACTS {
            if random.next_u64().is_multiple_of(5) {
                incarnations.push(open(&*store, lane.clone()).await);
                continue;
            }
            let newest = incarnations.len() - 1;
            let chosen = if random.next_u64().is_multiple_of(2) {
                newest
            } else {
                usize::try_from(random.next_u64() % incarnations.len() as u64).unwrap_or(newest)
            };
            let Some(actor) = incarnations.get_mut(chosen) else { continue };
            let payload = format!("{seed}/{act}");
            let answer = store.commit(actor.step(publishing(&payload))).await;
            match answer {
                Ok(committed) => {
                    assert_eq!(chosen, newest, "seed {seed}: an old incarnation wrote in act {act}");
                    actor.stepped(&committed);
                    expected.push(payload);
                }
                Err(CommitError::Fenced) => {
                    assert_ne!(chosen, newest, "seed {seed}: the owner was fenced in act {act}");
                }
                Err(error) => assert!(error.to_string().is_empty(), "seed {seed}: {error}"),
            }
        }
    }

    assert_eq!(published(&*store), expected);
}

/// A transaction with an effect that the store refuses writes none of the others, nor progress.
pub async fn commit_refused_effect_writes_nothing(store: Arc<impl Store>) {
    let lane = auditor_lane(Topic::JobLifecycle, 0);
    let mut owner = open(&*store, lane.clone()).await;
    let committed = store.commit(owner.step(audit(0, &["a", "b"]))).await.expect("the owner may write");
    owner.stepped(&committed);
    let count = (StateKey::StatusCount(JobStatus::Running), StateValue::StatusCount(5));
    let mut bad = audit(1, &["again"]);
    bad.states = vec![count.clone()];
    bad.refusals = vec![refusal("job-1", 7)];
    bad.outbox = publishing("bad").outbox;

    let answer = store.commit(owner.step(bad)).await;
    let progress = store.read_progress(lane.clone()).await.expect("progress can be read");
    let state = store.load(lane, vec![count.0.clone()]).await.expect("state can be read");
    let refusals = store.refusals(id("job-1"), 10).await.expect("refusals can be read");
    let again = store.commit(owner.step(Effects { states: vec![count], ..Effects::default() })).await;

    assert!(matches!(answer, Err(CommitError::Store(StoreError::Broken(_)))), "{answer:?}");
    assert_eq!(progress.map(|progress| progress.fence), Some(owner.fence));
    assert_eq!((state.len(), refusals.len(), published(&*store).len()), (0, 0, 0));
    assert!(again.is_ok(), "{again:?}");
}

/// Lanes that commit together.
const GROUP_LANES: u16 = 10;

/// One member that fails for its own data, and one that is fenced, leave the others untouched.
pub async fn commit_bad_member_of_group_spares_others(store: Arc<impl Store>) {
    let mut owners = Vec::new();
    for number in 0..GROUP_LANES {
        owners.push(open(&*store, auditor_lane(Topic::JobLifecycle, number)).await);
    }
    let mut transactions: Vec<_> = owners.iter().map(|owner| owner.step(audit(0, &["a"]))).collect();
    for (number, transaction) in transactions.iter_mut().enumerate() {
        transaction.effects.outbox = publishing(&number.to_string()).outbox;
    }
    if let Some(bad) = transactions.get_mut(4) {
        bad.effects.audit_entries.extend(audit(0, &["a"]).audit_entries);
    }
    if let Some(fenced) = transactions.get_mut(6) {
        fenced.fence.revision = fenced.fence.revision.following();
    }

    let commits: Vec<_> = transactions.into_iter().map(|transaction| store.commit(transaction)).collect();
    let answers = join_all(commits).await;

    for (number, answer) in answers.iter().enumerate() {
        match number {
            4 => assert!(matches!(answer, Err(CommitError::Store(StoreError::Broken(_)))), "{answer:?}"),
            6 => assert!(matches!(answer, Err(CommitError::Fenced)), "{answer:?}"),
            _ => assert!(answer.is_ok(), "{number}: {answer:?}"),
        }
    }
    let written: HashSet<String> = published(&*store).into_iter().collect();
    let wanted: HashSet<String> =
        (0..GROUP_LANES).filter(|number| ![4, 6].contains(number)).map(|number| number.to_string()).collect();
    assert_eq!(written, wanted);
}

/// A position never goes back by a transaction.
pub async fn commit_backwards_is_refused(store: Arc<impl Store>) {
    let mut owner = open(&*store, jobs_lane(0)).await;
    for _ in 0..2 {
        let committed = store.commit(owner.step(Effects::default())).await.expect("the owner may write");
        owner.stepped(&committed);
    }
    let mut back = owner.step(Effects::default());
    back.next = Offset(1);

    let answer = store.commit(back).await;
    let progress = store.read_progress(jobs_lane(0)).await.expect("progress can be read");

    assert!(matches!(answer, Err(CommitError::Store(StoreError::Broken(_)))), "{answer:?}");
    assert_eq!(progress.and_then(|progress| progress.next), Some(Offset(2)));
}

/// A load that is asked for after a commit was answered sees it, every time.
pub async fn load_after_commit_sees_it(store: Arc<impl Store>) {
    let key = StateKey::StatusCount(JobStatus::Running);
    let mut owner = open(&*store, jobs_lane(0)).await;
    for count in 1..=50 {
        let states = vec![(key.clone(), StateValue::StatusCount(count))];
        let committed = store
            .commit(owner.step(Effects { states, ..Effects::default() }))
            .await
            .expect("the owner may write");
        owner.stepped(&committed);

        let loaded = store.load(jobs_lane(0), vec![key.clone()]).await.expect("state can be read");

        assert_eq!(loaded, [(key.clone(), StateValue::StatusCount(count))]);
    }
}

fn extreme_view(job_id: JobId, number: u64, time: Timestamp) -> JobView {
    JobView {
        job_id,
        origin: JobOrigin::External,
        user_id: id("ünï-cødé 'quoted\" %_"),
        agent: None,
        tacc_system: Some(TaccSystem::Vista),
        status: JobStatus::Failed,
        attempt: Attempt(u32::MAX),
        will_retry: true,
        is_confirmed: false,
        last_sequence: Sequence(number),
        last_event_id: EventId(Uuid::max()),
        submitted_at: time,
        status_since: time,
        updated_at: time,
    }
}

fn extreme_aggregate(job_id: JobId, attempt: Attempt, number: u64) -> JobAggregate {
    let part = |sum| Aggregate { count: number, sum, min: f64::MIN, max: f64::MAX };
    JobAggregate {
        job_id,
        attempt,
        cpu_usage_percent: part(f64::INFINITY),
        memory_usage_mb: part(f64::MIN_POSITIVE),
        io_operations: part(0.1 + 0.2),
        execution_time_seconds: part(-1e-300),
        last_sequence: Some(Sequence(number)),
        summary: Some(AttemptSummary {
            cpu_usage_percent: f64::EPSILON,
            memory_usage_mb: 1e308,
            io_operations: number,
            execution_time_seconds: 5e-324,
        }),
        updated_at: Timestamp::from_micros(i64::MAX),
    }
}

/// Numbers at their ends and odd text come back as they went.
pub async fn load_state_extreme_values_round_trip(store: Arc<impl Store>) {
    let longest: JobId = id(&"\u{10FFFF}".repeat(crate::ids::OPAQUE_ID_MAX_CHARS));
    let odd: JobId = id("DROP TABLE '; -- \u{1F680}");
    let mut states = vec![(StateKey::StatusCount(JobStatus::Queued), StateValue::StatusCount(u64::MAX))];
    for (job_id, time) in [(longest, i64::MAX), (odd, i64::MIN)] {
        let view = extreme_view(job_id.clone(), u64::MAX, Timestamp::from_micros(time));
        states.push((StateKey::JobView(job_id.clone()), StateValue::JobView(view)));
        let last = StateValue::LastSequence(Sequence(u64::MAX));
        states.push((StateKey::LastSequence(job_id.clone()), last));
        let aggregate = extreme_aggregate(job_id.clone(), Attempt(u32::MAX), u64::MAX);
        states.push((StateKey::JobAggregate(job_id, Attempt(u32::MAX)), StateValue::JobAggregate(aggregate)));
    }
    let owner = open(&*store, jobs_lane(0)).await;

    store
        .commit(owner.step(Effects { states: states.clone(), ..Effects::default() }))
        .await
        .expect("the owner may write");
    let keys: Vec<StateKey> = states.iter().map(|(key, _)| key.clone()).collect();
    let loaded = store.load(jobs_lane(0), keys).await.expect("state can be read");

    assert_eq!(loaded, states);
}

/// Rows of the same name in two lanes are two rows; absent rows are left out.
pub async fn load_state_of_two_lanes_is_apart(store: Arc<impl Store>) {
    let key = StateKey::StatusCount(JobStatus::Running);
    for number in 0..2 {
        let owner = open(&*store, jobs_lane(number)).await;
        let states = vec![(key.clone(), StateValue::StatusCount(u64::from(number) + 10))];
        store
            .commit(owner.step(Effects { states, ..Effects::default() }))
            .await
            .expect("the owner may write");
    }
    let absent = StateKey::JobView(id("nobody"));

    let first = store.load(jobs_lane(0), vec![absent.clone(), key.clone()]).await.expect("state can be read");
    let second =
        store.load(jobs_lane(1), vec![key.clone(), absent.clone()]).await.expect("state can be read");
    let unknown = store.load(jobs_lane(2), vec![key.clone()]).await.expect("state can be read");

    assert_eq!(first, [(key.clone(), StateValue::StatusCount(10))]);
    assert_eq!(second, [(key, StateValue::StatusCount(11))]);
    assert_eq!(unknown, []);
}

fn timer(key: &str, seconds: i64) -> Timer {
    Timer { id: TimerId { kind: "stall".to_owned(), key: key.to_owned() }, due_at: at(seconds) }
}

/// Timers are replaced by name, cleared before they are set, and fall due in order.
pub async fn timers_set_replaced_cleared_fall_due_in_order(store: Arc<impl Store>) {
    let mut owner = open(&*store, jobs_lane(0)).await;
    let set = Effects {
        timers_set: vec![timer("a", 30), timer("b", 20), timer("c", 10), timer("d", 40)],
        ..Effects::default()
    };
    let first = store.commit(owner.step(set)).await.expect("the owner may write");
    owner.stepped(&first);
    let mut change = owner.step(Effects {
        timers_set: vec![timer("a", 15), timer("c", 50)],
        timers_cleared: vec![timer("b", 0).id, timer("c", 0).id],
        ..Effects::default()
    });
    change.next = change.from.unwrap_or_default();

    let second = store.commit(change).await.expect("the owner may write");
    let due = store.load_due_timers(jobs_lane(0), at(40), 10).await.expect("timers can be read");
    let limited = store.load_due_timers(jobs_lane(0), at(40), 1).await.expect("timers can be read");
    let of_other = store.load_due_timers(jobs_lane(1), at(99), 10).await.expect("timers can be read");
    let opened = store.open_lane(jobs_lane(0), PROCESS).await.expect("a lane can be opened");

    assert_eq!((first.next_timer, second.next_timer), (Some(at(10)), Some(at(15))));
    assert_eq!(due, [timer("a", 15), timer("d", 40)]);
    assert_eq!(limited, [timer("a", 15)]);
    assert_eq!(of_other, []);
    assert_eq!(opened.next_timer, Some(at(15)));
}

/// A transaction that holds its lane does so for every owner that follows, until the lane is resumed.
pub async fn hold_outlives_owner_until_resumed(store: Arc<impl Store>) {
    let act = || outgoing(partition(Topic::AuditTrail, 0), "act");
    let resume = async |lane| store.resume_lane(lane, act()).await.expect("a wish is answered");
    let unknown = resume(jobs_lane(0)).await;
    let owner = open(&*store, jobs_lane(0)).await;
    let early = resume(jobs_lane(0)).await;
    let held = Effects { held_because: Some("100 of 100".to_owned()), ..Effects::default() };
    store.commit(owner.step(held)).await.expect("the owner may write");

    open(&*store, jobs_lane(1)).await;
    let orders = store.read_orders(jobs_lane(0)).await.expect("orders can be read");
    let listed = store.held_lanes().await.expect("held lanes can be read");
    let opened = store.open_lane(jobs_lane(0), PROCESS).await.expect("a lane can be opened");
    let answers = [resume(jobs_lane(0)).await, resume(jobs_lane(0)).await];
    let after = store.read_orders(jobs_lane(0)).await.expect("orders can be read");
    let again = store.open_lane(jobs_lane(0), PROCESS).await.expect("a lane can be opened");

    assert_eq!((unknown, early), (ResumeAnswer::NoLane, ResumeAnswer::NotHeld));
    let reason = Some("100 of 100".to_owned());
    let held = HeldLane { lane: jobs_lane(0), generation: Generation(0), reason: reason.clone() };
    assert_eq!(listed, [held]);
    assert_eq!(store.held_lanes().await.expect("held lanes can be read"), []);
    assert_eq!((orders.desired, &orders.held_because), (DesiredState::Paused, &reason));
    assert_eq!((opened.desired, opened.held_because), (DesiredState::Paused, reason));
    assert_eq!(answers, [ResumeAnswer::Resumed, ResumeAnswer::NotHeld]);
    assert_eq!((after.desired, after.held_because), (DesiredState::Running, None));
    assert_eq!((again.desired, again.held_because), (DesiredState::Running, None));
    assert_eq!(store.heads().end(partition(Topic::AuditTrail, 0)), Offset(1));
}
