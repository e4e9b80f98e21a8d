//! Random tampering: whatever is changed is found.

use bytes::Bytes;
use proptest::prelude::*;

use super::{Log, forged, renumber, verify};
use crate::auditor::testing::{any_mark, any_verdict, generated_log};
use crate::clock::Timestamp;
use crate::effect::AuditMark;
use crate::record::Digest32;

/// One change of a stored log.
#[derive(Debug, Clone)]
enum Tamper {
    Body(usize, u8),
    DropBody(usize),
    LeafHash(usize, u8),
    ChainHash(usize, u8),
    Mark(usize, AuditMark),
    AppendTime(usize, i64),
    Delete(usize, bool),
    Insert(usize, u64),
    Double(usize),
    Swap(usize, usize, bool),
    Truncate(usize),
    Size(u64),
    ChainHead(u8),
    Frontier(usize, u8),
}

fn any_tamper() -> impl Strategy<Value = Tamper> {
    prop_oneof![4 => any_entry_tamper(), 1 => any_state_tamper()]
}

fn any_state_tamper() -> impl Strategy<Value = Tamper> {
    prop_oneof![
        (0..100u64).prop_map(Tamper::Size),
        any::<u8>().prop_map(Tamper::ChainHead),
        (any::<usize>(), any::<u8>()).prop_map(|(at, bit)| Tamper::Frontier(at, bit)),
    ]
}

fn any_entry_tamper() -> impl Strategy<Value = Tamper> {
    let place = any::<usize>();
    prop_oneof![
        (place, any::<u8>()).prop_map(|(at, byte)| Tamper::Body(at, byte)),
        place.prop_map(Tamper::DropBody),
        (place, any::<u8>()).prop_map(|(at, bit)| Tamper::LeafHash(at, bit)),
        (place, any::<u8>()).prop_map(|(at, bit)| Tamper::ChainHash(at, bit)),
        (place, any_mark()).prop_map(|(at, mark)| Tamper::Mark(at, mark)),
        (place, any::<i64>()).prop_map(|(at, micros)| Tamper::AppendTime(at, micros)),
        (place, any::<bool>()).prop_map(|(at, is_hidden)| Tamper::Delete(at, is_hidden)),
        (place, 0..200u64).prop_map(|(at, offset)| Tamper::Insert(at, offset)),
        place.prop_map(Tamper::Double),
        (place, place, any::<bool>()).prop_map(|(left, right, hidden)| Tamper::Swap(left, right, hidden)),
        place.prop_map(Tamper::Truncate),
    ]
}

fn flip(digest: &mut Digest32, bit: u8) {
    digest[usize::from(bit / 8)] ^= 1 << (bit % 8);
}

fn tamper((entries, state): &mut Log, change: &Tamper) {
    let count = entries.len();
    match change {
        Tamper::Size(size) => state.size = *size,
        Tamper::ChainHead(bit) => flip(&mut state.chain_head, *bit),
        Tamper::Frontier(at, bit) => {
            if let Some(root) = at.checked_rem(state.frontier.len()).and_then(|at| state.frontier.get_mut(at))
            {
                flip(root, *bit);
            }
        }
        _ if count == 0 => {}
        Tamper::Body(at, byte) => {
            if let Some(record) = &mut entries[at % count].record {
                record.payload = Some(Bytes::copy_from_slice(&[*byte]));
            }
        }
        Tamper::DropBody(at) => entries[at % count].record = None,
        Tamper::LeafHash(at, bit) => flip(&mut entries[at % count].leaf_hash, *bit),
        Tamper::ChainHash(at, bit) => flip(&mut entries[at % count].chain_hash, *bit),
        Tamper::Mark(at, mark) => entries[at % count].mark = mark.to_stored(),
        Tamper::AppendTime(at, micros) => entries[at % count].appended_at = Timestamp::from_micros(*micros),
        Tamper::Delete(at, is_hidden) => {
            entries.remove(at % count);
            if *is_hidden {
                renumber(entries);
            }
        }
        Tamper::Insert(at, offset) => {
            let at = at % (count + 1);
            let entry = forged(at.checked_sub(1).map(|before| &entries[before]), *offset);
            entries.insert(at, entry);
            renumber(entries);
        }
        Tamper::Double(at) => {
            let entry = entries[at % count].clone();
            entries.insert(at % count, entry);
            renumber(entries);
        }
        Tamper::Swap(left, right, is_hidden) => {
            entries.swap(left % count, right % count);
            if *is_hidden {
                renumber(entries);
            }
        }
        Tamper::Truncate(at) => entries.truncate(at % count),
    }
}

proptest! {
    #[test]
    fn verifier_any_untouched_log_finds_nothing(verdicts in prop::collection::vec(any_verdict(), 0..80)) {
        let report = verify(&generated_log(verdicts));

        prop_assert_eq!(report.findings, []);
        prop_assert!(report.is_intact);
    }

    #[test]
    fn verifier_randomly_tampered_log_has_a_finding(
        verdicts in prop::collection::vec(any_verdict(), 0..40),
        changes in prop::collection::vec(any_tamper(), 1..4),
    ) {
        let original = generated_log(verdicts);
        let mut log = original.clone();
        for change in &changes {
            tamper(&mut log, change);
        }

        let report = verify(&log);

        prop_assert_eq!(report.is_intact, log == original);
        prop_assert_eq!(report.findings_total == 0, log == original);
    }

    #[test]
    fn verifier_one_random_change_is_found_where_it_is(
        verdicts in prop::collection::vec(any_verdict(), 1..40),
        change in any_entry_tamper(),
    ) {
        let original = generated_log(verdicts);
        let mut log = original.clone();
        tamper(&mut log, &change);
        prop_assume!(log != original);
        let is_as_written = |(entry, written)| entry == written;
        let first_bad = log.0.iter().zip(&original.0).take_while(|pair| is_as_written(*pair)).count() as u64;

        let report = verify(&log);

        // Of two entries that were swapped, the second is the one that is out of order.
        let first_found = report.findings.first().map(|finding| finding.index);
        prop_assert!(first_found == Some(first_bad) || first_found == Some(first_bad + 1), "{:?}", report);
    }
}
