//! Gaps in a log, decisions about them, and generations of a lane (design D2).

use std::sync::Arc;

use uuid::Uuid;

use super::Store;
use super::sample::{Owner, PROCESS, at, audit, auditor_lane, id, outgoing, parking, partition, text};
use crate::command::{Command, CommandKind, Principal};
use crate::gap::{FoundGap, GapAcceptance, GapKind};
use crate::ids::{CommandId, CorrelationId, Epoch, Generation, LaneKey, Offset, Topic};
use crate::ports::page::PAGE_BYTES;
use crate::ports::query::{AuditFilter, GapPosition, StoredGap};
use crate::ports::store::{CommitError, GapAccepted, LaneOpened, LaneStore};
use crate::record::OutgoingRecord;

fn lane() -> LaneKey {
    auditor_lane(Topic::JobLifecycle, 0)
}

async fn open(store: &impl LaneStore) -> LaneOpened {
    store.open_lane(lane(), PROCESS).await.expect("a lane can be opened")
}

/// Opens the lane and moves it by one record, so that it has a position.
async fn at_one(store: &impl LaneStore) -> Owner {
    let mut owner = Owner::new(lane(), &open(store).await);
    let mut step = owner.step(audit(0, &["a"]));
    step.last_fingerprint = Some([9; 32]);
    let committed = store.commit(step).await.expect("the owner may write");
    owner.stepped(&committed);
    owner
}

fn gap(kind: GapKind, low: u64) -> FoundGap {
    FoundGap { kind, next: Offset(1), low: Offset(low), high: Offset(20), found_at: at(7) }
}

fn acceptance(gap: &FoundGap) -> GapAcceptance {
    GapAcceptance { lane: lane(), kind: gap.kind, next: gap.next, low: gap.low }
}

fn command(acceptance: &GapAcceptance) -> Command {
    Command {
        command_id: CommandId(Uuid::from_u128(70)),
        correlation_id: CorrelationId(Uuid::from_u128(71)),
        principal: Principal { user_id: id("operator") },
        reason: Some("topic was made anew".to_owned()),
        idempotency_key: None,
        requested_at: at(8),
        kind: CommandKind::AcceptGap(acceptance.clone()),
    }
}

fn act() -> OutgoingRecord {
    outgoing(partition(Topic::AuditTrail, 0), "act")
}

async fn accept(store: &impl Store, acceptance: GapAcceptance) -> GapAccepted {
    store.accept_gap(command(&acceptance), acceptance, act()).await.expect("a decision can be stored")
}

async fn note(store: &impl LaneStore, owner: &Owner, gap: Option<FoundGap>) {
    let is_owner = store.note_gap(lane(), owner.fence.epoch, gap).await;
    assert!(matches!(is_owner, Ok(true)), "{is_owner:?}");
}

async fn listed(store: &impl Store) -> Vec<StoredGap> {
    store.gaps(10).await.expect("gaps can be read").rows
}

fn acts(store: &impl Store) -> Vec<String> {
    let records = store
        .read(partition(Topic::AuditTrail, 0), Offset(0), usize::MAX, usize::MAX)
        .expect("the log can be read");
    records.iter().map(text).collect()
}

/// Gaps are listed in pages that join, bounded in bytes as well: the open ones in order of lane, then those that are
/// decided, the newest first.
pub async fn gaps_page_open_ones_first_then_the_newest_decided(store: Arc<impl Store>) {
    const DECIDED: u64 = 7;
    for next in 0..DECIDED {
        let owner = Owner::new(lane(), &open(&*store).await);
        let found = FoundGap { next: Offset(next), ..gap(GapKind::Corrupt, next + 1) };
        note(&*store, &owner, Some(found)).await;
        let seen = acceptance(&found);
        let command = Command { reason: Some("x".repeat(PAGE_BYTES / 4 + 1)), ..command(&seen) };
        let accepted = store.accept_gap(command, seen, act()).await.expect("a decision can be stored");
        assert!(matches!(accepted, GapAccepted::Accepted { .. }), "{accepted:?}");
    }
    for number in [2, 1] {
        let other = auditor_lane(Topic::JobLifecycle, number);
        let opened = store.open_lane(other.clone(), PROCESS).await.expect("a lane can be opened");
        let found = Some(FoundGap { next: Offset(0), ..gap(GapKind::Trimmed, 3) });
        assert!(store.note_gap(other, opened.fence.epoch, found).await.expect("a gap can be noted"));
    }
    let mut walks = Vec::new();
    for limit in [1, 2, 100] {
        let (mut listed, mut lengths) = (Vec::<StoredGap>::new(), Vec::new());
        loop {
            let after = listed.last().map(StoredGap::position);
            let read = after.as_ref().map(|after| GapPosition::parse(&after.to_string()));
            assert_eq!(read, after.clone().map(Some), "a position survives as text");
            let page = store.gaps_after(after, limit).await.expect("gaps can be read");
            lengths.push(page.len());
            listed.extend(page.rows);
            if !page.has_more {
                break;
            }
        }
        walks.push((listed, lengths));
    }

    let place = |gap: &StoredGap| (gap.lane.topic_partition.partition.0, gap.gap.next.0);
    let wanted: Vec<_> =
        [(1, 0), (2, 0)].into_iter().chain((0..DECIDED).rev().map(|next| (0, next))).collect();
    for (listed, _) in &walks {
        assert_eq!(listed.iter().map(place).collect::<Vec<_>>(), wanted);
    }
    assert_eq!(walks.last().map(|(_, lengths)| lengths.as_slice()), Some([5, 3, 1].as_slice()));
}

/// A lane has one open gap at most, and it is shown as it was found last.
pub async fn gap_found_again_is_one_row_with_what_was_found_last(store: Arc<impl Store>) {
    let owner = at_one(&*store).await;

    note(&*store, &owner, Some(gap(GapKind::Trimmed, 3))).await;
    note(&*store, &owner, Some(gap(GapKind::Replaced, 5))).await;
    let opened = open(&*store).await;

    assert_eq!(opened.open_gap, Some(GapKind::Replaced));
    let expected =
        StoredGap { lane: lane(), generation: Generation(0), gap: gap(GapKind::Replaced, 5), decision: None };
    assert_eq!(listed(&*store).await, [expected]);
}

/// A gap that is there no more is not listed.
pub async fn gap_gone_by_itself_is_forgotten(store: Arc<impl Store>) {
    let owner = at_one(&*store).await;
    note(&*store, &owner, Some(gap(GapKind::BeyondEnd, 0))).await;

    note(&*store, &owner, None).await;
    let opened = open(&*store).await;

    assert_eq!(opened.open_gap, None);
    assert_eq!(listed(&*store).await, []);
}

/// Who owns the lane no more has nothing to say about its gap.
pub async fn gap_of_other_epoch_is_not_noted(store: Arc<impl Store>) {
    let zombie = at_one(&*store).await;
    open(&*store).await;

    let noted = store.note_gap(lane(), zombie.fence.epoch, Some(gap(GapKind::Trimmed, 3))).await;
    let unknown = store.note_gap(auditor_lane(Topic::JobLifecycle, 9), Epoch(1), None).await;

    assert!(matches!((noted, unknown), (Ok(false), Ok(false))));
    assert_eq!(listed(&*store).await, []);
}

/// A decision about another gap than the one that is there writes nothing, and a second one neither.
pub async fn gap_accepted_as_seen_or_not_at_all(store: Arc<impl Store>) {
    let owner = at_one(&*store).await;
    let found = gap(GapKind::Trimmed, 3);
    let none = accept(&*store, acceptance(&found)).await;
    note(&*store, &owner, Some(found)).await;

    let mut others = Vec::new();
    let seen = acceptance(&found);
    for other in [
        GapAcceptance { kind: GapKind::Replaced, ..seen.clone() },
        GapAcceptance { low: Offset(4), ..seen.clone() },
        GapAcceptance { next: Offset(0), ..seen.clone() },
    ] {
        others.push(accept(&*store, other).await);
    }
    let before = (acts(&*store), listed(&*store).await);
    let first = accept(&*store, seen.clone()).await;
    let second = accept(&*store, seen).await;

    assert_eq!(none, GapAccepted::NoGap);
    assert!(others.iter().all(|answer| *answer == GapAccepted::Changed(found)), "{others:?}");
    assert_eq!(before.0, Vec::<String>::new());
    assert!(before.1.iter().all(|gap| gap.decision.is_none()));
    assert!(matches!(first, GapAccepted::Accepted { .. }), "{first:?}");
    assert_eq!(second, GapAccepted::NoGap);
    assert_eq!(acts(&*store), ["act"]);
}

/// Records that cannot be read are given up: the lane goes on at the first one behind them, also where it has read
/// nothing yet.
pub async fn gap_corrupt_accepted_goes_on_behind_it(store: Arc<impl Store>) {
    let first = Owner::new(lane(), &open(&*store).await);
    let at_the_beginning = FoundGap { next: Offset(0), ..gap(GapKind::Corrupt, 4) };
    note(&*store, &first, Some(at_the_beginning)).await;

    let accepted = accept(&*store, acceptance(&at_the_beginning)).await;
    let owner = Owner::new(lane(), &open(&*store).await);
    let later = FoundGap { next: Offset(4), ..gap(GapKind::Corrupt, 9) };
    note(&*store, &owner, Some(later)).await;
    let opened = open(&*store).await;
    let accepted_later = accept(&*store, acceptance(&later)).await;
    let gone_on = open(&*store).await;

    let resumes_at = |at| GapAccepted::Accepted { generation: Generation(0), resumes_at: Offset(at) };
    assert_eq!((accepted, accepted_later), (resumes_at(4), resumes_at(9)));
    assert_eq!((opened.next, opened.open_gap), (Some(Offset(4)), Some(GapKind::Corrupt)));
    assert_eq!((gone_on.next, gone_on.open_gap), (Some(Offset(9)), None));
    assert!(listed(&*store).await.iter().all(|gap| gap.decision.is_some()));
}

/// What was trimmed is given up: the lane goes on at the low watermark, and no older incarnation writes to it.
pub async fn gap_trimmed_accepted_goes_on_at_low_and_fences(store: Arc<impl Store>) {
    let owner = at_one(&*store).await;
    let found = gap(GapKind::Trimmed, 3);
    note(&*store, &owner, Some(found)).await;

    let answer = accept(&*store, acceptance(&found)).await;
    let late = store.commit(owner.step(audit(1, &["b"]))).await;
    let opened = open(&*store).await;
    let gaps = listed(&*store).await;

    assert_eq!(answer, GapAccepted::Accepted { generation: Generation(0), resumes_at: Offset(3) });
    assert!(matches!(late, Err(CommitError::Fenced)), "{late:?}");
    assert_eq!((opened.next, opened.last_fingerprint), (Some(Offset(3)), None));
    assert_eq!((opened.generation, opened.open_gap), (Generation(0), None));
    let decision = gaps.first().and_then(|gap| gap.decision.clone()).expect("the decision is listed");
    assert_eq!((decision.decided_by, decision.decided_at), (id("operator"), at(8)));
    assert_eq!(decision.reason.as_deref(), Some("topic was made anew"));
    assert_eq!((gaps.len(), decision.command_id), (1, CommandId(Uuid::from_u128(70))));
}

/// A log that was made anew begins another generation: a first start, under another id, fenced from the old one.
pub async fn gap_replaced_accepted_begins_new_generation(store: Arc<impl Store>) {
    let first_id = open(&*store).await.log_id;
    for kind in [GapKind::Replaced, GapKind::BeyondEnd] {
        let before = open(&*store).await;
        let mut owner = Owner::new(lane(), &before);
        let committed = store.commit(owner.step(audit(0, &["a"]))).await.expect("the owner may write");
        owner.stepped(&committed);
        let found = gap(kind, 4);
        note(&*store, &owner, Some(found)).await;

        let answer = accept(&*store, acceptance(&found)).await;
        let late = store.commit(owner.step(audit(1, &["b"]))).await;
        let after = open(&*store).await;

        let generation = before.generation.following();
        assert_eq!(answer, GapAccepted::Accepted { generation, resumes_at: Offset(4) });
        assert!(matches!(late, Err(CommitError::Fenced)), "{late:?}");
        assert_eq!((after.generation, after.next, after.last_fingerprint), (generation, None, None));
        assert!(
            after.fence.epoch > before.fence.epoch.following(),
            "an old owner could pass for the new one"
        );
        assert_eq!(after.log_id.as_str(), format!("{first_id}+{generation}"));
    }
}

/// Rows of a generation that is over stay as they are, beside those of the new one.
pub async fn generations_are_listed_side_by_side(store: Arc<impl Store>) {
    let mut owner = at_one(&*store).await;
    let committed = store.commit(owner.step(parking("job-1", 1))).await.expect("the owner may write");
    owner.stepped(&committed);
    let found = FoundGap { next: Offset(2), ..gap(GapKind::Replaced, 0) };
    note(&*store, &owner, Some(found)).await;
    let mut log_ids = vec![open(&*store).await.log_id];
    accept(&*store, acceptance(&found)).await;
    let opened = open(&*store).await;
    log_ids.push(opened.log_id.clone());
    let mut owner = Owner::new(lane(), &opened);
    let mut again = audit(0, &["x", "y"]);
    again.dead_letters = parking("job-1", 1).dead_letters;
    let committed = store.commit(owner.step(again)).await.expect("the owner may write");
    owner.stepped(&committed);

    let logs = store.audit_logs().await.expect("logs can be read");
    let mut entries = Vec::new();
    for generation in [None, Some(Generation(0)), Some(Generation(1))] {
        let filter = AuditFilter { generation, limit: 10, ..AuditFilter::default() };
        let page = store.audit_entries(filter).await.expect("entries can be read");
        let found = page.entries.iter().map(|entry| (entry.position.generation.0, entry.position.index));
        entries.push(found.collect::<Vec<_>>());
    }
    let after = store
        .audit_entries(AuditFilter {
            after: Some(logs_position(&*store).await),
            limit: 10,
            ..AuditFilter::default()
        })
        .await
        .expect("entries can be read");
    let letters = store.dead_letters(None, None, 10).await.expect("dead letters can be read");
    let parked = store.parked_keys(10).await.expect("parked keys can be read");
    let progress = store.progress().await.expect("progress can be read");

    let shown: Vec<_> = logs.iter().map(|log| (log.generation.0, log.state.size)).collect();
    assert_eq!(shown, [(0, 1), (1, 2)]);
    assert_eq!(logs.iter().map(|log| log.log_id.clone()).collect::<Vec<_>>(), log_ids);
    assert_eq!(entries, [vec![(0, 0), (1, 0), (1, 1)], vec![(0, 0)], vec![(1, 0), (1, 1)]]);
    assert_eq!(after.entries.len(), 2, "a page goes on with the next generation");
    let shown: Vec<_> = letters.iter().map(|letter| (letter.generation.0, letter.record.offset)).collect();
    assert_eq!(shown, [(0, Offset(1)), (1, Offset(1))]);
    let shown: Vec<_> = parked.iter().map(|key| (key.generation.0, key.head)).collect();
    assert_eq!(shown, [(0, Offset(1))]);
    let shown: Vec<_> = progress.iter().map(|lane| (lane.generation.0, lane.next)).collect();
    assert_eq!(shown, [(0, Some(Offset(2))), (1, Some(Offset(1)))]);
    assert_eq!(opened.parked, [], "the new generation does not wait behind keys of the old one");
}

/// Gives the position of the last entry of the first generation.
async fn logs_position(store: &impl Store) -> crate::ports::query::AuditPosition {
    let filter = AuditFilter { generation: Some(Generation(0)), limit: 1, ..AuditFilter::default() };
    let page = store.audit_entries(filter).await.expect("entries can be read");
    page.entries.first().expect("the first generation has an entry").position
}
