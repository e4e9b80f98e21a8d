//! The behaviour: what it writes for records, batches and timers.

use proptest::prelude::*;

use super::testing::{
    Kept, NOON, any_record, any_verdict, duplicate_verdict, event_verdict, hours_later, record,
};
use super::*;
use crate::ids::Offset;
use crate::lane::behaviour::Verdict;
use crate::rejection::Rejection;

fn entry(offset: u64, verdict: Verdict) -> Entry {
    Entry { record: record(offset, Some(b"job"), Some(b"payload")), verdict }
}

#[test]
fn auditor_by_default_follows_every_topic_and_records_raw() {
    let auditor = Auditor::new();

    assert_eq!(auditor.group(), Group::audit_trail());
    assert_eq!(auditor.topics(), Topic::ALL);
    assert_eq!(auditor.poison_policy(), PoisonPolicy::RecordRaw);
}

#[test]
fn auditor_topic_left_out_is_not_followed() {
    let auditor = Auditor::of(vec![Topic::AuditTrail]);

    assert_eq!(auditor.topics(), [Topic::AuditTrail]);
}

#[test]
fn auditor_many_entries_announce_one_row() {
    let mut keys = Vec::new();

    for offset in 0..3 {
        Auditor::new().keys(&entry(offset, event_verdict()), &mut keys);
    }

    assert_eq!(keys, [StateKey::AuditLog]);
}

#[test]
fn auditor_every_verdict_gets_one_marked_entry_with_its_bytes() {
    let rejection = Rejection::UnknownType { got: "x".to_owned() };
    let batch =
        [entry(4, event_verdict()), entry(5, duplicate_verdict()), entry(9, Verdict::Rejected(rejection))];

    let effects = Kept::new().apply(&batch, NOON);

    let marks: Vec<_> = effects.audit_entries.iter().map(|entry| (entry.index, entry.mark.clone())).collect();
    let wanted =
        [(0, AuditMark::Event), (1, AuditMark::Duplicate), (2, AuditMark::Malformed("unknown_type"))];
    assert_eq!(marks, wanted);
    for (audited, given) in effects.audit_entries.iter().zip(&batch) {
        assert_eq!(audited.record, given.record);
        assert_eq!(audited.appended_at, NOON);
    }
}

#[test]
fn auditor_publishes_parks_and_refuses_nothing() {
    let batch = [entry(0, event_verdict()), entry(1, Verdict::Rejected(Rejection::PayloadMissing))];

    let effects = Kept::new().apply(&batch, NOON);

    assert!(effects.outbox.is_empty());
    assert!(effects.dead_letters.is_empty());
    assert!(effects.keys_parked.is_empty());
    assert!(effects.records_parked.is_empty());
    assert!(effects.refusals.is_empty());
}

#[test]
fn auditor_batch_without_entries_writes_nothing() {
    let mut kept = Kept::new();

    let effects = kept.apply(&[], NOON);

    assert_eq!(effects.row_count(), 0);
    assert!(kept.state.is_empty());
}

#[test]
fn auditor_state_describes_the_log_after_the_batch() {
    let mut kept = Kept::new();

    kept.apply(&[entry(3, event_verdict()), entry(8, event_verdict())], NOON);

    let log = kept.log();
    let leaves: Vec<_> = kept.entries.iter().map(|entry| entry.leaf_hash).collect();
    assert_eq!((log.size, log.last_offset), (2, Some(Offset(8))));
    assert_eq!(log.chain_head, kept.entries[1].chain_hash);
    assert_eq!(log.frontier, [tree::node_hash(&leaves[0], &leaves[1])]);
    assert_eq!(log.segment.opened_at, NOON);
}

#[test]
fn auditor_first_entry_of_a_day_closes_the_segment_before() {
    let mut kept = Kept::new();
    kept.apply(&[entry(0, event_verdict()), entry(1, event_verdict())], NOON);

    let effects = kept.apply(&[entry(2, event_verdict())], hours_later(12));

    assert_eq!(effects.audit_segments.len(), 1);
    let closed = &effects.audit_segments[0];
    assert_eq!((closed.number, closed.first_index), (0, 0));
    assert_eq!(closed.closed, Some((2, hours_later(12))));
    let open = kept.log().segment;
    assert_eq!((open.number, open.first_index, open.opened_at), (1, 2, hours_later(12)));
}

#[test]
fn auditor_producer_timestamps_of_other_days_close_no_segment() {
    let mut kept = Kept::new();
    let batch: Vec<_> = (0..10)
        .map(|day| {
            let mut entry = entry(day, event_verdict());
            entry.record.timestamp = hours_later(24 * i64::try_from(day).unwrap());
            entry
        })
        .collect();

    let effects = kept.apply(&batch, NOON);

    assert_eq!(effects.audit_segments, []);
    assert_eq!(kept.log().segment.number, 0);
}

#[test]
fn auditor_full_segment_closes_within_the_batch() {
    let mut kept = Kept::new();
    kept.apply(&[entry(0, event_verdict())], NOON);
    let Some(StateValue::AuditLog(log)) = kept.state.get_mut(&StateKey::AuditLog) else {
        panic!("the first batch writes the log's state");
    };
    log.size = segment::SEGMENT_MAX_ENTRIES - 1;
    log.frontier = vec![[0; 32]; log.size.count_ones() as usize];

    let effects = kept.apply(&[entry(1, event_verdict()), entry(2, event_verdict())], NOON);

    assert_eq!(effects.audit_segments.len(), 1);
    assert_eq!(effects.audit_segments[0].closed, Some((segment::SEGMENT_MAX_ENTRIES, NOON)));
    assert_eq!(kept.log().segment.first_index, segment::SEGMENT_MAX_ENTRIES);
}

#[test]
fn auditor_new_segment_sets_a_timer_for_the_end_of_the_day_once() {
    let mut kept = Kept::new();

    let first = kept.apply(&[entry(0, event_verdict())], NOON);
    let second = kept.apply(&[entry(1, event_verdict())], hours_later(1));
    let third = kept.apply(&[entry(2, event_verdict())], hours_later(13));

    assert_eq!(first.timers_set, [segment_timer(NOON)]);
    assert_eq!(first.timers_set[0].due_at, hours_later(12));
    assert_eq!(second.timers_set, []);
    assert_eq!(third.timers_set[0].due_at, hours_later(36));
}

#[test]
fn auditor_timer_on_a_quiet_day_closes_the_segment() {
    let mut kept = Kept::new();
    kept.apply(&[entry(0, event_verdict())], NOON);

    let effects = kept.tick(SEGMENT_TIMER, hours_later(12));
    let repeated = kept.tick(SEGMENT_TIMER, hours_later(13));
    let resumed = kept.apply(&[entry(1, event_verdict())], hours_later(60));

    assert_eq!(effects.audit_segments[0].closed, Some((1, hours_later(12))));
    assert_eq!((repeated.audit_segments, repeated.timers_set), (vec![], vec![]));
    assert_eq!(resumed.audit_segments, []);
    assert_eq!(resumed.timers_set, [segment_timer(hours_later(60))]);
    let open = kept.log().segment;
    assert_eq!((open.number, open.first_index, open.opened_at), (1, 1, hours_later(60)));
}

#[test]
fn auditor_timer_before_the_day_has_ended_is_set_anew() {
    let mut kept = Kept::new();
    kept.apply(&[entry(0, event_verdict())], NOON);

    let effects = kept.tick(SEGMENT_TIMER, hours_later(11));

    assert_eq!(effects.audit_segments, []);
    assert_eq!(effects.timers_set, [segment_timer(hours_later(11))]);
}

#[test]
fn auditor_timer_of_another_kind_changes_nothing() {
    let mut kept = Kept::new();
    kept.apply(&[entry(0, event_verdict())], NOON);

    let effects = kept.tick("other", hours_later(50));

    assert_eq!(effects.row_count(), 0);
    assert_eq!(kept.log().segment.number, 0);
}

proptest! {
    #[test]
    fn auditor_batches_cut_anywhere_write_the_same_log(
        given in prop::collection::vec((any_record(), any_verdict()), 1..40),
        cuts in prop::collection::vec(1..8usize, 40),
    ) {
        let batch: Vec<_> = given.into_iter().map(|(record, verdict)| Entry { record, verdict }).collect();
        let mut whole = Kept::new();
        let mut cut = Kept::new();

        whole.apply(&batch, NOON);
        let mut rest = batch.as_slice();
        for size in cuts {
            let (head, tail) = rest.split_at(size.min(rest.len()));
            cut.apply(head, NOON);
            rest = tail;
        }

        prop_assert_eq!(rest, []);
        prop_assert_eq!(&cut.entries, &whole.entries);
        prop_assert_eq!(cut.log(), whole.log());
    }

    #[test]
    fn auditor_root_equals_a_tree_of_the_leaf_hashes(
        given in prop::collection::vec((any_record(), any_verdict()), 0..70),
    ) {
        let batch: Vec<_> = given.into_iter().map(|(record, verdict)| Entry { record, verdict }).collect();
        let mut kept = Kept::new();

        kept.apply(&batch, NOON);

        let mut reference = tree::MerkleTree::new();
        kept.entries.iter().for_each(|entry| reference.append(entry.leaf_hash));
        prop_assert_eq!(root(&kept.log()), reference.root());
        prop_assert_eq!(kept.log().size, reference.size());
    }
}
