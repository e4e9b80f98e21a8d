//! One test per kind of tampering, at every place; random tampering in [`random`].

mod random;

use bytes::Bytes;

use super::*;
use crate::auditor::SEGMENT_TIMER;
use crate::auditor::testing::{
    Kept, NOON, duplicate_verdict, event_verdict, generated_log, hours_later, log_id, record, topic_partition,
};
use crate::ids::{Partition, Topic};
use crate::lane::behaviour::{Entry, Verdict};
use crate::ports::query::AuditPosition;

/// Entries of the logs that are tampered with: several batches and days.
const ENTRIES: u64 = 23;

type Log = (Vec<StoredAuditEntry>, AuditLogState);

fn log() -> Log {
    let verdicts = (0..ENTRIES).map(|number| match number % 7 {
        3 => duplicate_verdict(),
        5 => Verdict::Rejected(Rejection::PayloadMissing),
        _ => event_verdict(),
    });
    generated_log(verdicts.collect())
}

fn verify((entries, state): &Log) -> VerificationReport {
    let mut verifier = LogVerifier::new(log_id(), topic_partition());
    for entry in entries {
        verifier.push(entry);
    }
    verifier.finish(state)
}

/// Numbers the entries as they stand, as who hides a deletion or insertion would.
fn renumber(entries: &mut [StoredAuditEntry]) {
    for (entry, index) in entries.iter_mut().zip(0..) {
        entry.position.index = index;
    }
}

fn edit_body(entry: &mut StoredAuditEntry) {
    entry.record.as_mut().unwrap().payload = Some(Bytes::from_static(b"other"));
}

/// An entry that links to the one before it, as a forger would make it.
fn forged(before: Option<&StoredAuditEntry>, offset: u64) -> StoredAuditEntry {
    let record = record(offset, Some(b"job"), Some(b"forged"));
    let leaf_hash = LeafHasher::new(&log_id(), topic_partition()).hash(&record);
    let head = before.map_or(EMPTY_CHAIN_HEAD, |entry| entry.chain_hash);
    let appended_at = before.map_or(NOON, |entry| entry.appended_at);
    StoredAuditEntry {
        position: AuditPosition {
            generation: Default::default(),
            topic_partition: topic_partition(),
            index: before.map_or(0, |entry| entry.position.index + 1),
        },
        leaf_hash,
        chain_hash: chain::link_stored(&head, &leaf_hash, appended_at, "event"),
        mark: "event".to_owned(),
        appended_at,
        record: Some(record),
    }
}

/// Tampers at every index in turn and wants exactly one finding of one kind, at the place that is given.
fn assert_only(kind: Tampering, mut tamper: impl FnMut(&mut Log, usize) -> Option<u64>) {
    for at in 0..ENTRIES as usize {
        let mut log = log();
        let Some(wanted_index) = tamper(&mut log, at) else { continue };

        let report = verify(&log);

        let found: Vec<_> =
            report.findings.iter().map(|finding| (finding.tampering, finding.index)).collect();
        assert_eq!(found, [(kind, wanted_index)], "tampered at {at}: {:?}", report.findings);
        assert!(!report.is_intact);
        assert_eq!(report.findings_total, 1);
    }
}

#[test]
fn verifier_untouched_log_finds_nothing() {
    let log = log();

    let report = verify(&log);

    assert_eq!(report.findings, []);
    assert!(report.is_intact);
    assert_eq!((report.entries_total, report.duplicates_total, report.malformed_total), (ENTRIES, 3, 3));
    assert_eq!(report.root, to_hex(&crate::auditor::root(&log.1)));
    assert_eq!(report.chain_head, to_hex(&log.1.chain_head));
}

#[test]
fn verifier_empty_log_finds_nothing() {
    let log = generated_log(Vec::new());

    let report = verify(&log);

    assert!(report.is_intact, "{:?}", report.findings);
    assert_eq!(report.root, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

#[test]
fn verifier_segment_closed_by_timer_finds_nothing() {
    let entry = |offset| Entry { record: record(offset, None, Some(b"payload")), verdict: event_verdict() };
    let mut kept = Kept::new();
    kept.apply(&[entry(0)], NOON);
    kept.tick(SEGMENT_TIMER, hours_later(12));

    // Nothing after it; a clock that was set back before midnight; another day.
    for (offset, further) in [(1, None), (2, Some(hours_later(11))), (3, Some(hours_later(40)))] {
        if let Some(now) = further {
            kept.apply(&[entry(offset)], now);
        }
        let log = (kept.entries.clone(), kept.log());

        assert_eq!(verify(&log).findings, [], "{further:?}");
    }
}

#[test]
fn verifier_body_edited_is_named() {
    assert_only(Tampering::BodyEdited, |log, at| {
        edit_body(&mut log.0[at]);
        Some(at as u64)
    });
}

#[test]
fn verifier_any_part_of_a_body_edited_is_named() {
    let edits: [fn(&mut crate::record::LogRecord); 6] = [
        |record| record.offset = Offset(record.offset.0 + 1_000_000),
        |record| record.timestamp = Timestamp::from_micros(record.timestamp.as_micros() + 1),
        |record| record.timestamp_type = crate::record::TimestampType::AppendTime,
        |record| record.key = None,
        |record| record.headers = crate::record::Headers::new([(b"name".as_slice(), None)]),
        |record| record.payload = None,
    ];
    for edit in edits {
        assert_only(Tampering::BodyEdited, |log, at| {
            edit(log.0[at].record.as_mut().unwrap());
            Some(at as u64)
        });
    }
}

#[test]
fn verifier_body_missing_is_named() {
    assert_only(Tampering::BodyMissing, |log, at| {
        log.0[at].record = None;
        Some(at as u64)
    });
}

#[test]
fn verifier_leaf_hash_edited_is_named() {
    assert_only(Tampering::EntryEdited, |log, at| {
        log.0[at].leaf_hash[0] ^= 1;
        Some(at as u64)
    });
}

#[test]
fn verifier_chain_hash_edited_is_named() {
    assert_only(Tampering::EntryEdited, |log, at| {
        log.0[at].chain_hash[31] ^= 1;
        Some(at as u64)
    });
}

#[test]
fn verifier_mark_edited_is_named_with_the_mark_before() {
    assert_only(Tampering::EntryEdited, |log, at| {
        let entry = &mut log.0[at];
        entry.mark = if entry.mark == "event" { "duplicate" } else { "event" }.to_owned();
        Some(at as u64)
    });
    let mut log = log();
    log.0[5].mark = "event".to_owned();

    let report = verify(&log);

    assert_eq!(report.findings[0].detail, "the mark was `malformed:payload_missing`");
}

#[test]
fn verifier_append_time_edited_is_named() {
    assert_only(Tampering::EntryEdited, |log, at| {
        log.0[at].appended_at = Timestamp::from_micros(log.0[at].appended_at.as_micros() + 1);
        Some(at as u64)
    });
}

#[test]
fn verifier_entry_deleted_is_named() {
    assert_only(Tampering::EntryMissing, |(entries, _), at| {
        entries.remove(at);
        (at < entries.len()).then_some(at as u64)
    });
}

#[test]
fn verifier_entry_deleted_and_renumbered_is_named() {
    assert_only(Tampering::EntryMissing, |(entries, _), at| {
        entries.remove(at);
        renumber(entries);
        (at < entries.len()).then_some(at as u64)
    });
}

#[test]
fn verifier_log_truncated_is_named() {
    assert_only(Tampering::LogTruncated, |(entries, _), at| {
        entries.truncate(at);
        Some(at as u64)
    });
}

#[test]
fn verifier_entry_inserted_is_named() {
    assert_only(Tampering::EntryInserted, |(entries, _), at| {
        let offset = (at as u64 * 3).checked_sub(1)?;
        let entry = forged(entries.get(at - 1), offset);
        entries.insert(at, entry);
        renumber(entries);
        Some(at as u64)
    });
}

#[test]
fn verifier_entry_inserted_without_a_fitting_link_is_named() {
    assert_only(Tampering::EntryInserted, |(entries, _), at| {
        let offset = (at as u64 * 3).checked_sub(1)?;
        let mut entry = forged(entries.get(at - 1), offset);
        entry.chain_hash = [9; 32];
        entries.insert(at, entry);
        renumber(entries);
        Some(at as u64)
    });
}

#[test]
fn verifier_entry_appended_behind_the_end_is_named() {
    let mut log = log();
    let entry = forged(log.0.last(), 10_000);
    log.0.push(entry);

    let report = verify(&log);

    let found: Vec<_> = report.findings.iter().map(|finding| (finding.tampering, finding.index)).collect();
    assert_eq!(found, [(Tampering::EntryInserted, ENTRIES)]);
}

#[test]
fn verifier_entry_of_another_partition_is_named() {
    let mut log = log();
    let mut entry = log.0[4].clone();
    entry.position.topic_partition.partition = Partition(3);
    log.0.insert(4, entry);

    let report = verify(&log);

    let found: Vec<_> = report.findings.iter().map(|finding| (finding.tampering, finding.index)).collect();
    assert_eq!(found, [(Tampering::EntryInserted, 4)]);
}

#[test]
fn verifier_log_of_another_place_has_no_true_body() {
    let log = log();
    let place = TopicPartition { topic: Topic::JobMetrics, ..topic_partition() };
    let mut verifier = LogVerifier::new(log_id(), place);

    for entry in &log.0 {
        let mut moved = entry.clone();
        moved.position.topic_partition = place;
        verifier.push(&moved);
    }
    let report = verifier.finish(&log.1);

    assert_eq!(report.findings_by_kind.get(&Tampering::BodyEdited), Some(&ENTRIES));
}

#[test]
fn verifier_neighbours_swapped_is_named_at_the_second() {
    assert_only(Tampering::EntryReordered, |(entries, _), at| {
        if at + 1 >= entries.len() {
            return None;
        }
        entries.swap(at, at + 1);
        renumber(entries);
        // The last two leave the stored chain head unreached, which is another finding.
        (at + 2 < entries.len()).then_some(at as u64 + 1)
    });
}

#[test]
fn verifier_entries_moved_far_is_named() {
    for (from, to) in [(20, 2), (2, 20), (0, 22), (22, 0)] {
        let mut log = log();
        let entry = log.0.remove(from);
        log.0.insert(to, entry);
        renumber(&mut log.0);

        let report = verify(&log);

        assert!(report.findings_by_kind.contains_key(&Tampering::EntryReordered), "{:?}", report.findings);
        let first = report.findings[0].index as usize;
        assert!(first.abs_diff(from.min(to)) <= 1, "moved {from} to {to}: {:?}", report.findings);
    }
}

#[test]
fn verifier_entries_read_out_of_order_is_named() {
    let mut log = log();
    log.0.swap(4, 5);

    let report = verify(&log);

    assert!(report.findings_by_kind.contains_key(&Tampering::EntryReordered), "{:?}", report.findings);
}

#[test]
fn verifier_stored_state_edited_is_named() {
    let edits: [fn(&mut AuditLogState); 13] = [
        |state| state.size += 1,
        |state| state.size -= 1,
        |state| state.size = 0,
        |state| state.chain_head[7] ^= 1,
        |state| state.frontier[1][7] ^= 1,
        |state| state.frontier.clear(),
        |state| state.frontier.push([0; 32]),
        |state| state.last_offset = Some(Offset(1)),
        |state| state.last_offset = None,
        |state| state.segment.number = 0,
        |state| state.segment.first_index -= 1,
        |state| state.segment.opened_at = Timestamp::from_micros(1),
        |state| state.segment.closed = Some((1, Timestamp::from_micros(1))),
    ];
    for (number, edit) in edits.iter().enumerate() {
        let mut log = log();
        edit(&mut log.1);

        let report = verify(&log);

        let kinds: Vec<_> = report.findings.iter().map(|finding| finding.tampering).collect();
        assert_eq!(kinds, [Tampering::HeadEdited], "edit {number}: {:?}", report.findings);
    }
}

#[test]
fn verifier_tail_rewritten_consistently_is_found_at_the_head() {
    let mut log = log();
    log.0.truncate(20);
    for offset in 1000..1003 {
        let entry = forged(log.0.last(), offset);
        log.0.push(entry);
    }

    let report = verify(&log);

    assert!(report.findings_by_kind.contains_key(&Tampering::HeadEdited), "{:?}", report.findings);
}

#[test]
fn verifier_more_findings_than_the_limit_are_counted() {
    let mut log = generated_log((0..FINDINGS_MAX + 50).map(|_| event_verdict()).collect());
    log.0.iter_mut().for_each(edit_body);

    let report = verify(&log);

    assert_eq!(report.findings.len(), FINDINGS_MAX);
    assert_eq!(report.findings_total, FINDINGS_MAX as u64 + 50);
    assert_eq!(report.findings[0].index, 0);
}

#[test]
fn report_as_json_has_stable_names() {
    let mut log = log();
    edit_body(&mut log.0[2]);

    let json = serde_json::to_value(verify(&log)).unwrap();

    assert_eq!(json["log_id"], "log");
    assert_eq!(json["topic"], "job-lifecycle");
    assert_eq!(json["partition"], 2);
    assert_eq!(json["is_intact"], false);
    assert_eq!(json["findings_total"], 1);
    assert_eq!(json["findings_by_kind"]["body_edited"], 1);
    assert_eq!(
        json["findings"][0],
        serde_json::json!({
            "index": 2,
            "tampering": "body_edited",
            "offset": 6,
            "detail": "the body does not have the leaf hash",
        })
    );
}
