//! What the writing thread does with its time.
//!
//! Promises two readings of the clock a round beside one for the wait, and never a lock; the sums only grow.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Sums that the writer raises.
#[derive(Debug, Default)]
pub(super) struct WriterProfile {
    commits: AtomicU64,
    waiting_nanos: AtomicU64,
    writing_nanos: AtomicU64,
    committing_nanos: AtomicU64,
}

/// What the writing thread did since the store was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriterTimes {
    /// Commits that succeeded.
    pub commits: u64,
    /// Waiting for work.
    pub waiting: Duration,
    /// Writing rows, before the commit.
    pub writing: Duration,
    /// Making them durable.
    pub committing: Duration,
}

impl WriterProfile {
    /// Adds a wait for work.
    pub(super) fn waited_since(&self, start: Instant) {
        add(&self.waiting_nanos, start.elapsed());
    }

    /// Adds a committed round.
    pub(super) fn committed(&self, begun: Instant, written: Instant, committed: Instant) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        add(&self.writing_nanos, written.duration_since(begun));
        add(&self.committing_nanos, committed.duration_since(written));
    }

    /// Reads the sums; each is true, together they may be a round apart.
    pub(super) fn times(&self) -> WriterTimes {
        let duration = |nanos: &AtomicU64| Duration::from_nanos(nanos.load(Ordering::Relaxed));
        WriterTimes {
            commits: self.commits.load(Ordering::Relaxed),
            waiting: duration(&self.waiting_nanos),
            writing: duration(&self.writing_nanos),
            committing: duration(&self.committing_nanos),
        }
    }
}

fn add(sum: &AtomicU64, duration: Duration) {
    sum.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
}
