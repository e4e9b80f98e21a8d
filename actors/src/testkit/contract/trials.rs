//! Unclean ends, and trials of what may kill a process (design D6).

use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::Store;
use super::sample::{Owner, at, jobs_lane, parking};
use crate::effect::{Effects, ParkedRecordId, Timer, TimerId};
use crate::ids::{Epoch, Offset, ProcessId};
use crate::ports::store::{LaneOpened, LaneStore};
use crate::trial::{SettledTrial, Thought, Trial, TrialEnd, TrialPhase, TrialSubject};

/// Opens the contract's lane as a process.
async fn open(store: &impl LaneStore, process: u128) -> LaneOpened {
    let process = ProcessId(Uuid::from_u128(process));
    store.open_lane(jobs_lane(0), process).await.expect("a lane can be opened")
}

/// Opens the lane and commits one step.
async fn step(store: &impl LaneStore, process: u128, effects: Effects) -> Owner {
    let mut owner = Owner::new(jobs_lane(0), &open(store, process).await);
    let committed = store.commit(owner.step(effects)).await.expect("the owner may write");
    owner.stepped(&committed);
    owner
}

async fn note(store: &impl LaneStore, opened: &LaneOpened, subject: &TrialSubject, phase: TrialPhase) {
    let is_owner = store.write_trial(jobs_lane(0), opened.fence.epoch, subject.clone(), phase).await;
    assert!(matches!(is_owner, Ok(true)), "{is_owner:?}");
}

fn deaths(opened: &LaneOpened) -> Vec<(TrialSubject, u32, bool)> {
    let listed = |trial: &Trial| (trial.subject.clone(), trial.deaths, trial.is_convicted);
    let mut listed: Vec<_> = opened.trials.iter().map(listed).collect();
    listed.sort();
    listed
}

fn log(offset: u64) -> TrialSubject {
    TrialSubject::Log(Offset(offset))
}

fn timer() -> Timer {
    Timer { id: TimerId { kind: "stall".to_owned(), key: "job-1".to_owned() }, due_at: at(9) }
}

/// A process counts its predecessor only if that was another one and did not say that it ended in order.
pub async fn open_lane_counts_processes_that_did_not_end_in_order(store: Arc<impl Store>) {
    let mut counted = Vec::new();

    for (process, ends_in_order) in
        [(1, false), (1, false), (2, true), (3, false), (4, true), (4, true), (5, false)]
    {
        let opened = open(&*store, process).await;
        counted.push((opened.starts_at_next, opened.starts_aside));
        if ends_in_order {
            store.end_lane(jobs_lane(0), opened.fence.epoch).await.expect("an end can be noted");
        }
    }

    assert_eq!(counted, [(0, 0), (0, 0), (1, 1), (1, 1), (2, 2), (2, 2), (2, 2)]);
}

/// A batch ends the count of starts at its position, a transaction that stays ends the other.
pub async fn open_lane_counts_anew_where_the_lane_moved(store: Arc<impl Store>) {
    let owner = step(&*store, 1, Effects::default()).await;
    let before = [open(&*store, 2).await, open(&*store, 3).await];
    let mut owner = Owner { fence: before[1].fence, ..owner };

    let mut stays = owner.step(Effects::default());
    stays.next = stays.from.unwrap_or_default();
    let committed = store.commit(stays).await.expect("the owner may write");
    owner.fence = committed.fence;
    let after_staying = open(&*store, 4).await;
    owner.fence = after_staying.fence;
    store.commit(owner.step(Effects::default())).await.expect("the owner may write");
    let after_moving = open(&*store, 5).await;

    let counts = |opened: &LaneOpened| (opened.starts_at_next, opened.starts_aside);
    assert_eq!((counts(&before[0]), counts(&before[1])), ((1, 1), (2, 2)));
    assert_eq!(counts(&after_staying), (3, 1));
    assert_eq!(counts(&after_moving), (1, 2));
}

/// Only a process that died while it thought is charged to what it thought about.
pub async fn trial_is_charged_in_phase_trying_alone(store: Arc<impl Store>) {
    let first = open(&*store, 1).await;
    note(&*store, &first, &log(7), TrialPhase::Trying).await;
    let second = open(&*store, 2).await;
    note(&*store, &second, &log(7), TrialPhase::Trying).await;
    note(&*store, &second, &log(7), TrialPhase::Waiting).await;
    let third = open(&*store, 3).await;
    // It dies before it tries anything.
    let fourth = open(&*store, 4).await;
    note(&*store, &fourth, &log(7), TrialPhase::Trying).await;
    let fifth = open(&*store, 5).await;

    assert_eq!(deaths(&first), []);
    for (opened, charged) in [(&second, 1), (&third, 1), (&fourth, 1), (&fifth, 2)] {
        assert_eq!(deaths(opened), [(log(7), charged, false)]);
    }
}

/// A lane that is started again in the same process died of nothing, and one that ended in order neither.
pub async fn trial_of_same_process_is_not_charged(store: Arc<impl Store>) {
    let first = open(&*store, 1).await;
    note(&*store, &first, &log(7), TrialPhase::Trying).await;
    let again = open(&*store, 1).await;
    let other = open(&*store, 2).await;
    note(&*store, &other, &log(7), TrialPhase::Trying).await;
    store.end_lane(jobs_lane(0), other.fence.epoch).await.expect("an end can be noted");
    let last = open(&*store, 3).await;

    assert_eq!((deaths(&again), deaths(&other), deaths(&last)), (vec![], vec![], vec![]));
}

/// A process that was seen not to think died of nothing; one that was seen to think died of that alone. What others
/// try is not touched.
pub async fn trial_of_process_with_witness_is_charged_for_what_was_seen_alone(store: Arc<impl Store>) {
    let process = |number| ProcessId(Uuid::from_u128(number));
    let thought = |subject| Thought { lane: jobs_lane(0), subject };
    let set = Effects { timers_set: vec![timer()], ..Effects::default() };
    let timer = TrialSubject::Timer(timer().id);
    let mut charged = Vec::new();
    // Who is acquitted but for what, after the process before has died over the record and the timer.
    let rounds = [
        (1, None),
        (2, Some(thought(log(7)))),
        (3, Some(thought(log(8)))),
        (99, None),
        (5, Some(Thought { lane: jobs_lane(1), subject: log(7) })),
    ];
    let mut owner = Owner::new(jobs_lane(0), &open(&*store, 1).await);
    store
        .commit(owner.step(set))
        .await
        .map(|committed| owner.stepped(&committed))
        .expect("the owner may write");

    for (number, (dead, seen)) in (1..).zip(rounds) {
        let opened = open(&*store, number).await;
        for subject in [&log(7), &timer] {
            note(&*store, &opened, subject, TrialPhase::Trying).await;
        }
        store.acquit(process(dead), seen).await.expect("an acquittal can be stored");
        charged.push(deaths(&open(&*store, number + 1).await));
    }

    let (record, both) = (|deaths| (log(7), deaths, false), |deaths| (timer.clone(), deaths, false));
    let wanted =
        [vec![], vec![record(1)], vec![record(1)], vec![record(2), both(1)], vec![record(2), both(1)]];
    assert_eq!(charged, wanted);
}

/// Deaths count in a row: one survived thought forgets those before it.
pub async fn trial_survived_forgets_deaths(store: Arc<impl Store>) {
    for process in 1..=2 {
        let opened = open(&*store, process).await;
        note(&*store, &opened, &log(7), TrialPhase::Trying).await;
    }
    let third = open(&*store, 3).await;
    note(&*store, &third, &log(7), TrialPhase::Trying).await;
    note(&*store, &third, &log(7), TrialPhase::Survived).await;
    let fourth = open(&*store, 4).await;

    assert_eq!(deaths(&third), [(log(7), 2, false)]);
    assert_eq!(deaths(&fourth), []);
}

/// The transaction that answers a subject settles its trial: a convicted record stays known until it is
/// survived, released as it may be.
pub async fn trial_settled_with_its_effects(store: Arc<impl Store>) {
    let opened = open(&*store, 1).await;
    note(&*store, &opened, &log(0), TrialPhase::Trying).await;
    let settle = |subject, end| vec![SettledTrial { subject, end }];
    let mut parking = parking("job-1", 0);
    parking.trials_settled = settle(log(0), TrialEnd::Convicted);

    let mut owner = step(&*store, 2, parking).await;
    let convicted = open(&*store, 3).await;
    owner.fence = convicted.fence;
    let drained = Effects {
        records_unparked: vec![ParkedRecordId { key: Bytes::from_static(b"job-1"), offset: Offset(0) }],
        keys_unparked: vec![Bytes::from_static(b"job-1")],
        trials_settled: settle(TrialSubject::Parked(Offset(0)), TrialEnd::Survived),
        ..Effects::default()
    };
    store.commit(owner.step(drained)).await.expect("the owner may write");
    let survived = open(&*store, 4).await;

    assert_eq!(deaths(&convicted), [(log(0), 1, true)]);
    assert_eq!(deaths(&survived), []);
}

/// Nobody is careful about something that cannot be tried again.
pub async fn trial_of_what_is_gone_is_forgotten(store: Arc<impl Store>) {
    let opened = open(&*store, 1).await;
    for subject in [log(0), TrialSubject::Parked(Offset(9)), TrialSubject::Timer(timer().id)] {
        note(&*store, &opened, &subject, TrialPhase::Trying).await;
    }

    step(&*store, 2, Effects { timers_set: vec![timer()], ..Effects::default() }).await;
    let after = open(&*store, 3).await;
    let settled = SettledTrial { subject: TrialSubject::Timer(timer().id), end: TrialEnd::Convicted };
    let owner = Owner::new(jobs_lane(0), &after);
    let effects =
        Effects { timers_cleared: vec![timer().id], trials_settled: vec![settled], ..Effects::default() };
    store.commit(owner.step(effects)).await.expect("the owner may write");
    let last = open(&*store, 4).await;

    // What was gone when process 2 opened the lane, the parked record and the timer, was forgotten there; the
    // record of the log when the lane had moved past it.
    assert_eq!(deaths(&after), []);
    assert_eq!(deaths(&last), []);
}

/// Who owns the lane no more changes nothing about it.
pub async fn trial_and_end_of_other_epoch_write_nothing(store: Arc<impl Store>) {
    let zombie = open(&*store, 1).await;
    let owner = open(&*store, 2).await;

    let written = store.write_trial(jobs_lane(0), zombie.fence.epoch, log(1), TrialPhase::Trying).await;
    let unknown = store.write_trial(jobs_lane(1), Epoch(1), log(1), TrialPhase::Trying).await;
    store.end_lane(jobs_lane(0), zombie.fence.epoch).await.expect("an end of a zombie is no error");
    let next = open(&*store, 3).await;

    assert!(matches!((written, unknown), (Ok(false), Ok(false))));
    assert_eq!((owner.starts_at_next, next.starts_at_next), (1, 2));
    assert_eq!(deaths(&next), []);
}

/// A record, the same one parked, and a timer are three subjects.
pub async fn trials_of_every_subject_are_apart(store: Arc<impl Store>) {
    let mut effects = parking("job-1", 5);
    effects.timers_set = vec![timer()];
    step(&*store, 1, effects).await;
    let parked = TrialSubject::Parked(Offset(5));
    let by_timer = TrialSubject::Timer(timer().id);
    for (process, subject) in [(2, log(5)), (3, parked.clone()), (4, by_timer.clone()), (5, by_timer.clone())]
    {
        let opened = open(&*store, process).await;
        note(&*store, &opened, &subject, TrialPhase::Trying).await;
    }

    let opened = open(&*store, 6).await;

    assert_eq!(deaths(&opened), [(log(5), 1, false), (parked, 1, false), (by_timer, 2, false)]);
}
