//! When the rows of a partition were committed, for as long as they wait to be acknowledged. Pure.
//!
//! Promises that a bounded number of marks is kept, however long Kafka is away and however many commits there are
//! meanwhile; that a time is never told too late, so that no latency is understated; and that it is told too early
//! by a small part of the time that the marks span ([`MARKS_MAX`]).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use horizons_actors::ids::Offset;

/// Marks that are kept. Once they are used up, neighbours are joined and marks are made half as often.
///
/// *Units*: 24 bytes each; there are 66 partitions, dead letters included.
const MARKS_MAX: usize = 1_024;

/// Rows below an end that is above the mark before, and when their commit was known.
#[derive(Debug, Clone, Copy)]
struct Mark {
    end: Offset,
    committed_at: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct CommitTimes {
    /// In order of end and of time.
    marks: VecDeque<Mark>,
    /// The least time between two marks.
    resolution: Duration,
}

impl CommitTimes {
    /// Notes that a commit raised the partition's end.
    pub(super) fn note(&mut self, end: Offset, committed_at: Instant) {
        let is_near = |last: &Mark| {
            committed_at.saturating_duration_since(last.committed_at) < self.resolution || last.end >= end
        };
        match self.marks.back_mut() {
            Some(last) if is_near(last) => last.end = last.end.max(end),
            _ => self.marks.push_back(Mark { end, committed_at }),
        }
        if self.marks.len() > MARKS_MAX {
            self.join_neighbours();
        }
    }

    /// Halves the marks; each takes the earlier time of its two.
    fn join_neighbours(&mut self) {
        let mut joined = VecDeque::with_capacity(MARKS_MAX + 1);
        while let Some(Mark { end, committed_at }) = self.marks.pop_front() {
            let end = self.marks.pop_front().map_or(end, |second| second.end);
            joined.push_back(Mark { end, committed_at });
        }
        let (first, last) = (joined.front(), joined.back());
        let span = first.zip(last).map_or(Duration::ZERO, |(first, last)| {
            last.committed_at.saturating_duration_since(first.committed_at)
        });
        let halved = u32::try_from(joined.len()).map_or(Duration::ZERO, |marks| span / marks.max(1));
        self.resolution = halved.max(self.resolution);
        self.marks = joined;
    }

    /// Finds when a row was committed; none for one of before, or of another process.
    pub(super) fn of(&self, offset: Offset) -> Option<Instant> {
        let at = self.marks.partition_point(|mark| mark.end <= offset);
        self.marks.get(at).map(|mark| mark.committed_at)
    }

    /// Forgets rows that are acknowledged: those below an offset.
    pub(super) fn acknowledged(&mut self, next: Offset) {
        while self.marks.front().is_some_and(|mark| mark.end <= next) {
            self.marks.pop_front();
        }
        if self.marks.is_empty() {
            self.resolution = Duration::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_few_commits_are_exact_until_their_rows_are_acknowledged() {
        let (mut times, start) = (CommitTimes::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        times.note(Offset(3), at(0));
        times.note(Offset(4), at(1));
        times.note(Offset(9), at(7));

        let told = [0, 2, 3, 8, 9].map(|offset| times.of(Offset(offset)));
        assert_eq!(told, [Some(at(0)), Some(at(0)), Some(at(1)), Some(at(7)), None]);
        // A row that was sent in vain is sent again with its own time.
        assert_eq!(times.of(Offset(0)), Some(at(0)));
        times.acknowledged(Offset(4));
        assert_eq!(times.marks.len(), 1);
    }

    #[test]
    fn times_of_an_hour_of_commits_while_kafka_is_away_stay_bounded() {
        let (mut times, start) = (CommitTimes::default(), Instant::now());
        // 2,000 commits a second.
        let at = |commit: u64| start + Duration::from_micros(commit * 500);
        let commits = 3_600 * 2_000;
        for commit in 0..commits {
            times.note(Offset(commit + 1), at(commit));
            assert!(times.marks.len() <= MARKS_MAX);
        }

        assert!(times.marks.capacity() * size_of::<Mark>() <= 64 << 10, "{}", times.marks.capacity());
        for commit in (0..commits).step_by(9_973) {
            let told = times.of(Offset(commit)).unwrap();
            assert!(told <= at(commit), "row {commit} is told too late");
            let early = at(commit) - told;
            assert!(early <= Duration::from_secs(3_600 / 100), "row {commit} is told {early:?} too early");
        }
    }

    proptest! {
        #[test]
        fn times_any_commits_are_never_told_too_late(
            steps in proptest::collection::vec((1_u64..5, 0_u64..3_000, 0_u64..4), 1..4_000),
        ) {
            let (mut times, start) = (CommitTimes::default(), Instant::now());
            let (mut end, mut next, mut now) = (0, 0, start);
            let mut committed = Vec::new();
            for (rows, pause, acknowledged) in steps {
                now += Duration::from_micros(pause);
                committed.extend(std::iter::repeat_n(now, usize::try_from(rows).unwrap()));
                end += rows;
                times.note(Offset(end), now);
                next = (next + acknowledged).min(end);
                times.acknowledged(Offset(next));
            }
            prop_assert!(times.marks.len() <= MARKS_MAX);
            for (offset, at) in (0_u64..).zip(&committed).skip(usize::try_from(next).unwrap()) {
                let told = times.of(Offset(offset)).unwrap();
                prop_assert!(told <= *at, "row {offset}");
                prop_assert!(*at - told <= (now - start) / 64, "row {offset}: {:?}", *at - told);
            }
            prop_assert_eq!(times.of(Offset(end)), None);
        }
    }
}
