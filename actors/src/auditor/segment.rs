//! When a segment of an audit log ends: the unit in which retention will remove bodies.
//!
//! Promises that a segment holds entries of one day (UTC) of append time and of bounded number. Never looks at
//! a producer's timestamp, so that no producer can keep a segment open or have it removed early.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::state::AuditSegment;

/// Most entries of a segment: bounds what retention removes at once and what a rebuild of one reads.
pub const SEGMENT_MAX_ENTRIES: u64 = 1 << 20;

/// How long a day is, in the unit of [`Timestamp`].
const DAY_MICROS: i64 = 86_400_000_000;

/// Gives the first segment of a log.
pub fn first_segment(now: Timestamp) -> AuditSegment {
    AuditSegment { number: 0, first_index: 0, opened_at: now, closed: None }
}

/// Tells whether the open segment ends before an entry with index `size` that is appended now.
///
/// A day counts as another whichever way the clock went, so that a clock that was set back keeps no segment
/// open. A segment without entries never ends: it is opened anew.
pub fn is_due(segment: &AuditSegment, size: u64, now: Timestamp) -> bool {
    let entries = size.saturating_sub(segment.first_index);
    entries > 0 && (day(now) != day(segment.opened_at) || entries >= SEGMENT_MAX_ENTRIES)
}

/// Makes room for an entry with index `size` that is appended now; gives the segment that was closed for it.
pub fn make_room(segment: &mut AuditSegment, size: u64, now: Timestamp) -> Option<AuditSegment> {
    if is_due(segment, size, now) {
        return Some(close(segment, size, now));
    }
    if size == segment.first_index {
        segment.opened_at = now;
    }
    None
}

/// Closes the open segment before the entry with index `size` and opens the next; gives the closed one.
pub fn close(segment: &mut AuditSegment, size: u64, now: Timestamp) -> AuditSegment {
    let next = AuditSegment { number: segment.number + 1, first_index: size, opened_at: now, closed: None };
    let mut closed = std::mem::replace(segment, next);
    closed.closed = Some((size, now));
    closed
}

/// Gives the moment at which the next day begins.
pub fn next_day(now: Timestamp) -> Timestamp {
    let today = Timestamp::from_micros(day(now).saturating_mul(DAY_MICROS));
    today.plus(Duration::from_micros(DAY_MICROS.unsigned_abs()))
}

/// Numbers the days since the epoch, UTC.
pub fn day(time: Timestamp) -> i64 {
    time.as_micros().div_euclid(DAY_MICROS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn segment_same_day_stays_open() {
        let mut segment = first_segment(at("2026-03-01T00:00:00Z"));

        let closed = make_room(&mut segment, 5, at("2026-03-01T23:59:59.999999Z"));

        assert_eq!(closed, None);
        assert_eq!(segment, first_segment(at("2026-03-01T00:00:00Z")));
    }

    #[test]
    fn segment_next_day_closes_before_the_entry() {
        let mut segment = first_segment(at("2026-03-01T23:59:59.999999Z"));
        let now = at("2026-03-02T00:00:00Z");

        let closed = make_room(&mut segment, 5, now).unwrap();

        assert_eq!((closed.number, closed.first_index, closed.closed), (0, 0, Some((5, now))));
        assert_eq!(segment, AuditSegment { number: 1, first_index: 5, opened_at: now, closed: None });
    }

    #[test]
    fn segment_clock_set_back_a_day_closes() {
        let segment = first_segment(at("2026-03-02T00:00:00Z"));

        assert!(is_due(&segment, 1, at("2026-03-01T23:00:00Z")));
    }

    #[test]
    fn segment_full_closes_at_the_limit() {
        let now = at("2026-03-01T12:00:00Z");
        let segment = first_segment(now);

        assert!(!is_due(&segment, SEGMENT_MAX_ENTRIES - 1, now));
        assert!(is_due(&segment, SEGMENT_MAX_ENTRIES, now));
    }

    #[test]
    fn segment_empty_on_another_day_is_opened_anew() {
        let mut segment = first_segment(at("2026-03-01T12:00:00Z"));
        let now = at("2026-03-09T12:00:00Z");

        let closed = make_room(&mut segment, 0, now);

        assert_eq!(closed, None);
        assert_eq!(segment, first_segment(now));
    }

    proptest! {
        #[test]
        fn segment_run_of_entries_covers_every_index_once_and_mixes_no_days(
            steps in prop::collection::vec(-100_000_000_000i64..100_000_000_000, 1..60),
        ) {
            let mut now = at("2026-03-01T12:00:00Z");
            let mut segment = first_segment(now);
            let mut days = Vec::new();
            let mut closed_segments = Vec::new();

            for (index, step) in steps.iter().enumerate() {
                now = Timestamp::from_micros(now.as_micros() + step);
                closed_segments.extend(make_room(&mut segment, index as u64, now));
                days.push(day(now));
            }
            closed_segments.push(close(&mut segment, days.len() as u64, now));

            let mut next_index = 0;
            for (number, closed) in closed_segments.iter().enumerate() {
                let (end, _) = closed.closed.unwrap();
                prop_assert_eq!((closed.number, closed.first_index), (number as u64, next_index));
                prop_assert!(end > closed.first_index);
                let days = &days[closed.first_index as usize..end as usize];
                prop_assert!(days.iter().all(|other| *other == day(closed.opened_at)));
                next_index = end;
            }
            prop_assert_eq!(next_index, days.len() as u64);
        }

        #[test]
        fn segment_next_day_is_within_a_day_and_on_the_day_after(micros in -1i64 << 55..1i64 << 55) {
            let now = Timestamp::from_micros(micros);

            let next = next_day(now);

            prop_assert_eq!(day(next), day(now) + 1);
            prop_assert!(next.as_micros() - now.as_micros() <= DAY_MICROS);
        }
    }
}
