//! Where a lane starts to read (design D2). Pure.

use crate::ids::Offset;
use crate::ports::log::{GapKind, Inspection, StartAnswer};
use crate::record::Digest32;

/// Compares the stored position with what the log holds.
///
/// The last applied record is compared where both the store and the log still know it; a log that has
/// dropped it by retention is no gap as long as nothing unread is gone.
pub fn start_answer(
    stored: Option<Offset>,
    last_fingerprint: Option<Digest32>,
    log: &Inspection,
) -> StartAnswer {
    let Some(next) = stored else {
        return match log.unreadable_until {
            Some(_) => StartAnswer::Gap(GapKind::Corrupt),
            None => StartAnswer::FirstStart(log.low),
        };
    };
    if next > log.high {
        return StartAnswer::Gap(GapKind::BeyondEnd);
    }
    if next < log.low {
        return StartAnswer::Gap(GapKind::Trimmed);
    }
    match (last_fingerprint, log.previous) {
        (Some(applied), Some((_, held))) if applied != held => StartAnswer::Gap(GapKind::Replaced),
        _ if log.unreadable_until.is_some() => StartAnswer::Gap(GapKind::Corrupt),
        _ => StartAnswer::AtNext(next),
    }
}

/// Gives where reading starts so that the duplicate window is rebuilt first: so many offsets before `next`,
/// as far as the log still holds them.
pub fn rewind(next: Offset, low: Offset, window_records: usize) -> Offset {
    Offset(next.0.saturating_sub(window_records as u64).max(low.0).min(next.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const APPLIED: Digest32 = [1; 32];
    const OTHER: Digest32 = [2; 32];

    fn log(low: u64, high: u64, previous: Option<(u64, Digest32)>) -> Inspection {
        Inspection {
            low: Offset(low),
            high: Offset(high),
            previous: previous.map(|(offset, digest)| (Offset(offset), digest)),
            unreadable_until: None,
        }
    }

    fn unreadable(until: u64, log: Inspection) -> Inspection {
        Inspection { unreadable_until: Some(Offset(until)), ..log }
    }

    #[test]
    fn start_answer_every_situation_is_named() {
        let rows = [
            (None, None, log(0, 0, None), StartAnswer::FirstStart(Offset(0))),
            (None, None, log(7, 9, None), StartAnswer::FirstStart(Offset(7))),
            (Some(5), Some(APPLIED), log(0, 9, Some((4, APPLIED))), StartAnswer::AtNext(Offset(5))),
            (Some(5), Some(APPLIED), log(5, 9, None), StartAnswer::AtNext(Offset(5))),
            (Some(9), Some(APPLIED), log(0, 9, Some((8, APPLIED))), StartAnswer::AtNext(Offset(9))),
            (Some(5), None, log(0, 9, Some((4, OTHER))), StartAnswer::AtNext(Offset(5))),
            (Some(5), Some(APPLIED), log(0, 9, Some((4, OTHER))), StartAnswer::Gap(GapKind::Replaced)),
            (Some(5), Some(APPLIED), log(6, 9, None), StartAnswer::Gap(GapKind::Trimmed)),
            (Some(5), Some(APPLIED), log(0, 4, Some((3, APPLIED))), StartAnswer::Gap(GapKind::BeyondEnd)),
            (None, None, unreadable(8, log(7, 9, None)), StartAnswer::Gap(GapKind::Corrupt)),
            (
                Some(5),
                Some(APPLIED),
                unreadable(8, log(0, 9, Some((4, APPLIED)))),
                StartAnswer::Gap(GapKind::Corrupt),
            ),
            (
                Some(5),
                Some(APPLIED),
                unreadable(8, log(0, 9, Some((4, OTHER)))),
                StartAnswer::Gap(GapKind::Replaced),
            ),
        ];

        for (stored, fingerprint, inspection, expected) in rows {
            let answer = start_answer(stored.map(Offset), fingerprint, &inspection);
            assert_eq!(answer, expected, "{stored:?} {inspection:?}");
        }
    }

    #[test]
    fn rewind_low_watermark_bounds_it() {
        assert_eq!(rewind(Offset(100), Offset(0), 30), Offset(70));
        assert_eq!(rewind(Offset(100), Offset(90), 30), Offset(90));
        assert_eq!(rewind(Offset(10), Offset(0), 30), Offset(0));
        assert_eq!(rewind(Offset(10), Offset(10), 30), Offset(10));
    }
}
