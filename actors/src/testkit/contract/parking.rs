//! Poison, parked keys and operators' wishes.

use std::sync::Arc;

use bytes::Bytes;

use super::Store;
use super::sample::{
    Owner, PROCESS, at, jobs_lane, log_record, outgoing, parked, parked_key, parking, partition, rejection,
    release,
};
use crate::effect::{
    DeadLetter, DeadLetterOutcome, DeadLetterSettlement, Effects, ParkedRecord, ParkedRecordId,
};
use crate::ids::{Group, LaneKey, Offset, Topic};
use crate::ports::query::DeadLetterId;
use crate::ports::store::{CommitError, LaneCommitted, LaneStore, ParkedWish, StoreError, WishAnswer};

/// Tries of a poison event that are never reached.
const NO_LIMIT: u32 = u32::MAX;

/// Commits a step and takes its answer.
async fn step(
    store: &impl LaneStore,
    owner: &mut Owner,
    effects: Effects,
) -> Result<LaneCommitted, CommitError> {
    let answer = store.commit(owner.step(effects)).await;
    if let Ok(committed) = &answer {
        owner.stepped(committed);
    }
    answer
}

/// Opens a lane with one parked key, `job-1`, whose head is at offset 3.
async fn parked_lane(store: &impl LaneStore) -> Owner {
    let opened = store.open_lane(jobs_lane(0), PROCESS).await.expect("a lane can be opened");
    let mut owner = Owner::new(jobs_lane(0), &opened);
    step(store, &mut owner, parking("job-1", 3)).await.expect("the owner may write");
    owner
}

fn behind(key: &str, offsets: &[u64], payload: &str) -> Effects {
    let records_parked =
        offsets.iter().map(|offset| parked(key, log_record(*offset, Some(key), payload))).collect();
    Effects { records_parked, ..Effects::default() }
}

fn is_broken(answer: &Result<LaneCommitted, CommitError>) -> bool {
    matches!(answer, Err(CommitError::Store(StoreError::Broken(_))))
}

async fn waiting(store: &impl LaneStore, limit: usize) -> Vec<ParkedRecord> {
    store.load_parked(parked_key(&jobs_lane(0), "job-1"), limit).await.expect("parked records can be read")
}

/// The same record at the same offset is parked once.
pub async fn park_record_twice_same_bytes_is_ignored(store: Arc<impl Store>) {
    let mut owner = parked_lane(&*store).await;
    step(&*store, &mut owner, behind("job-1", &[4], "x")).await.expect("the owner may write");

    let again = step(&*store, &mut owner, behind("job-1", &[4], "x")).await;
    let orders = store.read_orders(jobs_lane(0)).await.expect("orders can be read");

    assert!(again.is_ok(), "{again:?}");
    assert_eq!(waiting(&*store, 10).await.len(), 2);
    assert_eq!(orders.parked.first().map(|key| (key.records, key.head)), Some((2, Offset(3))));
}

/// Another record at an offset that is parked is an error, and changes nothing.
pub async fn park_record_twice_other_bytes_is_refused(store: Arc<impl Store>) {
    let mut owner = parked_lane(&*store).await;
    step(&*store, &mut owner, behind("job-1", &[4], "x")).await.expect("the owner may write");
    let before = waiting(&*store, 10).await;

    let other = step(&*store, &mut owner, behind("job-1", &[5, 4], "y")).await;

    assert!(is_broken(&other), "{other:?}");
    assert_eq!(waiting(&*store, 10).await, before);
}

/// Nothing waits behind a key that is not parked.
pub async fn park_record_without_parked_key_is_refused(store: Arc<impl Store>) {
    let mut owner = parked_lane(&*store).await;

    let answer = step(&*store, &mut owner, behind("job-2", &[4], "x")).await;

    assert!(is_broken(&answer), "{answer:?}");
}

/// A key that fails again gets the new head, and waits until it is wished for anew.
pub async fn park_key_again_waits_for_new_wish(store: Arc<impl Store>) {
    let mut owner = parked_lane(&*store).await;
    let key = parked_key(&jobs_lane(0), "job-1");
    let audit = outgoing(partition(Topic::AuditTrail, 0), "act");
    store
        .set_parked_wish(release(&key), key, ParkedWish::Release, NO_LIMIT, audit)
        .await
        .expect("a wish can be stored");
    step(&*store, &mut owner, behind("job-1", &[4], "x")).await.expect("the owner may write");
    let mut again = parking("job-1", 4);
    again.records_parked.clear();
    again.records_unparked = vec![ParkedRecordId { key: Bytes::from_static(b"job-1"), offset: Offset(3) }];

    step(&*store, &mut owner, again).await.expect("the owner may write");
    let opened = store.open_lane(jobs_lane(0), PROCESS).await.expect("a lane can be opened");

    let states: Vec<_> = opened.parked.iter().map(|key| (key.head, key.wish, key.records)).collect();
    assert_eq!(states, [(Offset(4), ParkedWish::Wait, 1)]);
}

/// A key is unparked only when nothing waits behind it.
pub async fn unpark_key_with_records_left_is_refused(store: Arc<impl Store>) {
    let mut owner = parked_lane(&*store).await;
    step(&*store, &mut owner, behind("job-1", &[4], "x")).await.expect("the owner may write");
    let key = Bytes::from_static(b"job-1");
    let id = |offset| ParkedRecordId { key: key.clone(), offset: Offset(offset) };
    let drain = |offsets: &[u64]| Effects {
        records_unparked: offsets.iter().map(|offset| id(*offset)).collect(),
        keys_unparked: vec![key.clone()],
        ..Effects::default()
    };

    let early = step(&*store, &mut owner, drain(&[3])).await;
    let left = waiting(&*store, 10).await.len();
    let whole = step(&*store, &mut owner, drain(&[3, 4])).await;
    let orders = store.read_orders(jobs_lane(0)).await.expect("orders can be read");

    assert!(is_broken(&early), "{early:?}");
    assert_eq!(left, 2);
    assert!(whole.is_ok(), "{whole:?}");
    assert_eq!((orders.parked.len(), waiting(&*store, 10).await.len()), (0, 0));
}

/// What leaves goes first: a key that is drained and poisoned again in one transaction stays parked.
pub async fn unpark_key_and_park_again_in_one_transaction_stays_parked(store: Arc<impl Store>) {
    let mut owner = parked_lane(&*store).await;
    let key = Bytes::from_static(b"job-1");
    let mut effects = parking("job-1", 9);
    effects.records_unparked = vec![ParkedRecordId { key: key.clone(), offset: Offset(3) }];
    effects.keys_unparked = vec![key];

    step(&*store, &mut owner, effects).await.expect("the owner may write");
    let orders = store.read_orders(jobs_lane(0)).await.expect("orders can be read");

    assert_eq!(orders.parked.iter().map(|key| (key.head, key.records)).collect::<Vec<_>>(), [(Offset(9), 1)]);
    let offsets: Vec<u64> = waiting(&*store, 10).await.iter().map(|parked| parked.record.offset.0).collect();
    assert_eq!(offsets, [9]);
}

/// Records come in order of offset, whole, and no more than wanted; other keys do not mix in.
pub async fn load_parked_gives_offset_order_and_limit(store: Arc<impl Store>) {
    let mut owner = parked_lane(&*store).await;
    step(&*store, &mut owner, parking("job-10", 5)).await.expect("the owner may write");
    step(&*store, &mut owner, behind("job-1", &[300, 20], "x\0y")).await.expect("the owner may write");

    let all = waiting(&*store, 10).await;
    let some = waiting(&*store, 2).await;

    let offsets: Vec<u64> = all.iter().map(|parked| parked.record.offset.0).collect();
    assert_eq!(offsets, [3, 20, 300]);
    assert_eq!(all.get(1), Some(&parked("job-1", log_record(20, Some("job-1"), "x\0y"))));
    assert_eq!(some.as_slice(), all.get(..2).unwrap_or_default());
}

/// A wish about a key that is not parked is answered so, without an audit record.
pub async fn set_parked_wish_key_not_parked_writes_nothing(store: Arc<impl Store>) {
    parked_lane(&*store).await;
    let audit = || outgoing(partition(Topic::AuditTrail, 0), "act");
    let mut answers = Vec::new();

    for key in [parked_key(&jobs_lane(0), "job-2"), parked_key(&jobs_lane(7), "job-1")] {
        answers.push(store.set_parked_wish(release(&key), key, ParkedWish::Release, NO_LIMIT, audit()).await);
    }

    assert!(answers.iter().all(|answer| matches!(answer, Ok(WishAnswer::NotParked))), "{answers:?}");
    assert_eq!(store.heads().end(partition(Topic::AuditTrail, 0)), Offset(0));
}

/// A wish is stored with its audit record, and the lane finds it, running or opened anew.
pub async fn set_parked_wish_is_seen_by_lane_with_audit_record(store: Arc<impl Store>) {
    parked_lane(&*store).await;
    let key = parked_key(&jobs_lane(0), "job-1");
    let audit = outgoing(partition(Topic::AuditTrail, 0), "act");

    let answer = store.set_parked_wish(release(&key), key, ParkedWish::DiscardHead, 0, audit).await;
    let orders = store.read_orders(jobs_lane(0)).await.expect("orders can be read");
    let opened = store.open_lane(jobs_lane(0), PROCESS).await.expect("a lane can be opened");

    assert!(matches!(answer, Ok(WishAnswer::Stored)), "{answer:?}");
    assert_eq!(orders.parked.first().map(|key| key.wish), Some(ParkedWish::DiscardHead));
    assert_eq!(opened.parked, orders.parked);
    assert_eq!(store.heads().end(partition(Topic::AuditTrail, 0)), Offset(1));
}

/// A head that was tried as often as the limit says is released no more, without an audit record; it may be
/// discarded still.
pub async fn set_parked_wish_release_beyond_limit_writes_nothing(store: Arc<impl Store>) {
    let mut owner = parked_lane(&*store).await;
    let key = parked_key(&jobs_lane(0), "job-1");
    let wish = async |wish, limit| {
        let audit = outgoing(partition(Topic::AuditTrail, 0), "act");
        store
            .set_parked_wish(release(&key), key.clone(), wish, limit, audit)
            .await
            .expect("a wish is answered")
    };
    let again = Effects {
        dead_letters_settled: vec![DeadLetterSettlement {
            offset: Offset(3),
            outcome: DeadLetterOutcome::RejectedAgain(rejection("still broken")),
            settled_at: at(3),
        }],
        ..Effects::default()
    };

    let first = [wish(ParkedWish::Release, 1).await, wish(ParkedWish::Release, 2).await];
    step(&*store, &mut owner, again).await.expect("the owner may write");
    let second = [wish(ParkedWish::Release, 2).await, wish(ParkedWish::DiscardHead, 2).await];

    assert_eq!(first, [WishAnswer::TriedTooOften { attempts: 1 }, WishAnswer::Stored]);
    assert_eq!(second, [WishAnswer::TriedTooOften { attempts: 2 }, WishAnswer::Stored]);
    assert_eq!(store.heads().end(partition(Topic::AuditTrail, 0)), Offset(2));
}

/// Trying again counts and keeps the newest reason; what became of a letter is told.
pub async fn dead_letter_settled_changes_state(store: Arc<impl Store>) {
    let mut owner = parked_lane(&*store).await;
    let settled = |outcome, seconds| Effects {
        dead_letters_settled: vec![DeadLetterSettlement {
            offset: Offset(3),
            outcome,
            settled_at: at(seconds),
        }],
        ..Effects::default()
    };
    let again = DeadLetterOutcome::RejectedAgain(rejection("still\0broken"));
    let mut seen = Vec::new();

    for (outcome, seconds) in [(None, 0), (Some(again), 10), (Some(DeadLetterOutcome::Released), 11)] {
        if let Some(outcome) = outcome {
            step(&*store, &mut owner, settled(outcome, seconds)).await.expect("the owner may write");
        }
        let letters = store.dead_letters(None, None, 10).await.expect("dead letters can be read");
        seen.extend(letters.into_iter().map(|letter| {
            (letter.state, letter.attempts, letter.detail.contains("still\0broken"), letter.updated_at)
        }));
    }
    let mut unknown = settled(DeadLetterOutcome::Discarded, 12);
    unknown.dead_letters_settled.iter_mut().for_each(|settlement| settlement.offset = Offset(99));
    let missing = step(&*store, &mut owner, unknown).await;

    let wanted = [
        ("parked".to_owned(), 1, false, at(2)),
        ("parked".to_owned(), 2, true, at(10)),
        ("released".to_owned(), 2, true, at(11)),
    ];
    assert_eq!(seen, wanted);
    assert!(is_broken(&missing), "{missing:?}");
}

/// Dead letters are listed by group, in pages that join, whole.
pub async fn dead_letters_page_in_order_of_lane_and_offset(store: Arc<impl Store>) {
    let other = LaneKey { group: Group::known("alpha"), ..jobs_lane(1) };
    for lane in [jobs_lane(2), jobs_lane(0), other.clone()] {
        let opened = store.open_lane(lane.clone(), PROCESS).await.expect("a lane can be opened");
        let dead_letters = [70, 8]
            .map(|offset| DeadLetter {
                record: log_record(offset, None, "x"),
                rejection: rejection("broken"),
                is_parked: false,
                rejected_at: at(2),
            })
            .to_vec();
        let effects = Effects { dead_letters, ..Effects::default() };
        store.commit(Owner::new(lane, &opened).step(effects)).await.expect("the owner may write");
    }

    let whole = store.dead_letters(None, None, 100).await.expect("dead letters can be read");
    let of_group =
        store.dead_letters(Some(Group::jobs()), None, 100).await.expect("dead letters can be read");
    let mut paged = Vec::new();
    let mut after = None;
    loop {
        let page = store.dead_letters(None, after, 4).await.expect("dead letters can be read");
        let Some(last) = page.last() else { break };
        after = Some(DeadLetterId {
            lane: last.lane.clone(),
            generation: last.generation,
            offset: last.record.offset,
        });
        paged.extend(page);
    }

    let places: Vec<_> = whole.iter().map(|letter| (letter.lane.clone(), letter.record.offset.0)).collect();
    let wanted: Vec<_> = [other, jobs_lane(0), jobs_lane(2)]
        .into_iter()
        .flat_map(|lane| [(lane.clone(), 8), (lane, 70)])
        .collect();
    assert_eq!(places, wanted);
    assert_eq!(whole, paged);
    assert_eq!(&*of_group, whole.get(2..).unwrap_or_default());
    let first = whole.first().map(|letter| (letter.state.as_str(), letter.reason.as_str(), &letter.record));
    assert_eq!(first, Some(("dead", "malformed_bytes", &log_record(8, None, "x"))));
}
