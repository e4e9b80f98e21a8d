//! A store of views for the registry's tests, which can fail, panic and keep an answer back.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::sync::watch;

use crate::clock::Timestamp;
use crate::effect::TimelineEntry;
use crate::event::JobStatus;
use crate::ids::{Attempt, Group, JobId, Offset, TopicPartition};
use crate::ports::Reply;
use crate::ports::page::Page;
use crate::ports::query::{
    AuditFilter, AuditPage, DeadLetterId, GapPosition, HeldLane, JobFilter, LaneProgress, ListedJob,
    ParkedId, QueryStore, StoreUsage, StoredAuditLog, StoredDeadLetter, StoredGap, StoredParkedKey,
    StoredRefusal,
};
use crate::ports::store::{JobRow, StoreError};
use crate::state::{JobAggregate, JobView};

pub(super) struct FakeQuery {
    views: Mutex<BTreeMap<JobId, JobView>>,
    pub(super) failures_left: AtomicU32,
    pub(super) is_panicking: AtomicBool,
    pub(super) pages_read: AtomicU32,
    held: watch::Sender<bool>,
}

impl Default for FakeQuery {
    fn default() -> Self {
        Self {
            views: Mutex::default(),
            failures_left: AtomicU32::new(0),
            is_panicking: AtomicBool::new(false),
            pages_read: AtomicU32::new(0),
            held: watch::Sender::new(false),
        }
    }
}

impl FakeQuery {
    pub(super) fn put(&self, view: &JobView) {
        self.views
            .lock()
            .expect("no test panics while it holds the lock")
            .insert(view.job_id.clone(), view.clone());
    }

    /// Keeps answers back, each as it was when it was asked for.
    pub(super) fn hold(&self, is_held: bool) {
        self.held.send_replace(is_held);
    }

    fn answer<T: Send + 'static>(&self, value: T) -> Reply<T, StoreError> {
        let left = self.failures_left.load(Ordering::Relaxed);
        if left > 0 {
            self.failures_left.store(left - 1, Ordering::Relaxed);
            return Box::pin(async { Err(StoreError::Unavailable("away".to_owned())) });
        }
        let is_panicking = self.is_panicking.swap(false, Ordering::Relaxed);
        let mut held = self.held.subscribe();
        Box::pin(async move {
            assert!(!is_panicking, "the reading panics");
            held.wait_for(|is_held| !is_held).await.expect("the store outlives its answers");
            Ok(value)
        })
    }
}

fn unused<T: Send + 'static>() -> Reply<T, StoreError> {
    Box::pin(async { Err(StoreError::Broken("the registry does not ask this".to_owned())) })
}

impl QueryStore for FakeQuery {
    fn job_view(&self, job_id: JobId) -> Reply<Option<JobView>, StoreError> {
        let view = self.views.lock().expect("no test panics while it holds the lock").get(&job_id).cloned();
        self.answer(view)
    }

    fn live_job_views(&self, after: Option<JobId>, limit: usize) -> Reply<Vec<JobView>, StoreError> {
        self.pages_read.fetch_add(1, Ordering::Relaxed);
        let views = self.views.lock().expect("no test panics while it holds the lock");
        let page = views
            .values()
            .filter(|view| !view.is_terminal() && after.as_ref().is_none_or(|after| view.job_id > *after))
            .take(limit)
            .cloned()
            .collect();
        drop(views);
        self.answer(page)
    }

    fn jobs(&self, _filter: JobFilter) -> Reply<Page<ListedJob>, StoreError> {
        unused()
    }

    fn job(&self, _job_id: JobId) -> Reply<Option<JobRow>, StoreError> {
        unused()
    }

    fn timeline_after(
        &self,
        _job_id: JobId,
        _skipped: usize,
        _limit: usize,
    ) -> Reply<Page<TimelineEntry>, StoreError> {
        unused()
    }

    fn refusals_after(
        &self,
        _job_id: JobId,
        _skipped: usize,
        _limit: usize,
    ) -> Reply<Page<StoredRefusal>, StoreError> {
        unused()
    }

    fn aggregates_after(
        &self,
        _job_id: JobId,
        _after: Option<Attempt>,
        _limit: usize,
    ) -> Reply<Page<JobAggregate>, StoreError> {
        unused()
    }

    fn status_counts(&self) -> Reply<Vec<(JobStatus, u64)>, StoreError> {
        unused()
    }

    fn audit_entries(&self, _filter: AuditFilter) -> Reply<AuditPage, StoreError> {
        unused()
    }

    fn audit_logs(&self) -> Reply<Vec<StoredAuditLog>, StoreError> {
        unused()
    }

    fn dead_letters(
        &self,
        _group: Option<Group>,
        _after: Option<DeadLetterId>,
        _limit: usize,
    ) -> Reply<Page<StoredDeadLetter>, StoreError> {
        unused()
    }

    fn parked_keys_after(
        &self,
        _after: Option<ParkedId>,
        _limit: usize,
    ) -> Reply<Page<StoredParkedKey>, StoreError> {
        unused()
    }

    fn gaps_after(&self, _: Option<GapPosition>, _limit: usize) -> Reply<Page<StoredGap>, StoreError> {
        unused()
    }

    fn progress(&self) -> Reply<Vec<LaneProgress>, StoreError> {
        unused()
    }

    fn held_lanes(&self) -> Reply<Vec<HeldLane>, StoreError> {
        unused()
    }

    fn log_ends(&self) -> Reply<Vec<(TopicPartition, Offset)>, StoreError> {
        unused()
    }

    fn usage(&self) -> Reply<StoreUsage, StoreError> {
        unused()
    }
}

/// A wall clock that follows tokio's, which the tests pause.
pub(super) struct TokioClock(pub(super) tokio::time::Instant);

impl crate::clock::Clock for TokioClock {
    fn now(&self) -> Timestamp {
        Timestamp::default().plus(self.0.elapsed())
    }

    fn moment(&self) -> crate::clock::Moment {
        crate::clock::Moment::default().plus(self.0.elapsed())
    }
}

/// Randomness that always gives the same.
pub(super) struct NoRandomness;

impl crate::clock::Randomness for NoRandomness {
    fn next_u64(&self) -> u64 {
        0
    }
}
