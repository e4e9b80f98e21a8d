//! The port for people, on the reading side and on the whole store.

use std::sync::Arc;

use horizons_actors::effect::TimelineEntry;
use horizons_actors::event::JobStatus;
use horizons_actors::ids::{Attempt, Group, JobId, Offset, TopicPartition};
use horizons_actors::ports::Reply;
use horizons_actors::ports::page::Page;
use horizons_actors::ports::query::{
    AuditFilter, AuditPage, DeadLetterId, GapPosition, HeldLane, JobFilter, LaneProgress, ListedJob,
    ParkedId, QueryStore, StoreUsage, StoredAuditLog, StoredDeadLetter, StoredGap, StoredParkedKey,
    StoredRefusal,
};
use horizons_actors::ports::store::{JobRow, StoreError};
use horizons_actors::state::{JobAggregate, JobView};

use super::state::in_snapshot;
use super::store::{Reader, Store};
use super::{audit_query, engine, gaps, job_list, jobs, lanes, query, source};

impl QueryStore for Reader {
    fn jobs(&self, filter: JobFilter) -> Reply<Page<ListedJob>, StoreError> {
        self.for_people.ask(move |connection| job_list::list(connection, &filter))
    }

    fn job(&self, job_id: JobId) -> Reply<Option<JobRow>, StoreError> {
        self.for_people.ask(move |connection| jobs::read(connection, &job_id))
    }

    fn job_view(&self, job_id: JobId) -> Reply<Option<JobView>, StoreError> {
        self.for_people.ask(move |connection| query::job_view(connection, &job_id))
    }

    fn live_job_views(&self, after: Option<JobId>, limit: usize) -> Reply<Vec<JobView>, StoreError> {
        self.for_people.ask(move |connection| query::live_job_views(connection, after.as_ref(), limit))
    }

    fn timeline_after(
        &self,
        job_id: JobId,
        skipped: usize,
        limit: usize,
    ) -> Reply<Page<TimelineEntry>, StoreError> {
        self.for_people.ask(move |connection| {
            in_snapshot(connection, |connection| query::timeline(connection, &job_id, skipped, limit))
        })
    }

    fn refusals_after(
        &self,
        job_id: JobId,
        skipped: usize,
        limit: usize,
    ) -> Reply<Page<StoredRefusal>, StoreError> {
        let lanes = Arc::clone(&self.lanes);
        self.for_people.ask(move |connection| {
            in_snapshot(connection, |connection| {
                query::list_refusals(connection, &lanes, &job_id, skipped, limit)
            })
        })
    }

    fn aggregates_after(
        &self,
        job_id: JobId,
        after: Option<Attempt>,
        limit: usize,
    ) -> Reply<Page<JobAggregate>, StoreError> {
        let lanes = Arc::clone(&self.lanes);
        self.for_people.ask(move |connection| {
            in_snapshot(connection, |connection| query::aggregates(connection, &lanes, &job_id, after, limit))
        })
    }

    fn status_counts(&self) -> Reply<Vec<(JobStatus, u64)>, StoreError> {
        self.for_people.ask(query::count_statuses)
    }

    fn audit_entries(&self, filter: AuditFilter) -> Reply<AuditPage, StoreError> {
        let lanes = Arc::clone(&self.lanes);
        self.for_people.ask(move |connection| {
            in_snapshot(connection, |connection| audit_query::entries(connection, &lanes, &filter))
        })
    }

    fn audit_logs(&self) -> Reply<Vec<StoredAuditLog>, StoreError> {
        let lanes = Arc::clone(&self.lanes);
        self.for_people.ask(move |connection| audit_query::logs(connection, &lanes))
    }

    fn dead_letters(
        &self,
        group: Option<Group>,
        after: Option<DeadLetterId>,
        limit: usize,
    ) -> Reply<Page<StoredDeadLetter>, StoreError> {
        let lanes = Arc::clone(&self.lanes);
        self.for_people.ask(move |connection| {
            in_snapshot(connection, |connection| {
                query::list_dead_letters(connection, &lanes, group.as_ref(), after.as_ref(), limit)
            })
        })
    }

    fn parked_keys_after(
        &self,
        after: Option<ParkedId>,
        limit: usize,
    ) -> Reply<Page<StoredParkedKey>, StoreError> {
        let lanes = Arc::clone(&self.lanes);
        self.for_people.ask(move |connection| {
            in_snapshot(connection, |connection| {
                query::list_parked_keys(connection, &lanes, after.as_ref(), limit)
            })
        })
    }

    fn gaps_after(&self, after: Option<GapPosition>, limit: usize) -> Reply<Page<StoredGap>, StoreError> {
        let lanes = Arc::clone(&self.lanes);
        self.for_people.ask(move |connection| {
            in_snapshot(connection, |connection| gaps::list(connection, &lanes, after.as_ref(), limit))
        })
    }

    fn progress(&self) -> Reply<Vec<LaneProgress>, StoreError> {
        let lanes = Arc::clone(&self.lanes);
        self.for_people.ask(move |connection| query::list_progress(connection, &lanes))
    }

    fn held_lanes(&self) -> Reply<Vec<HeldLane>, StoreError> {
        let lanes = Arc::clone(&self.lanes);
        self.for_people
            .ask(move |connection| in_snapshot(connection, |connection| lanes::list_held(connection, &lanes)))
    }

    fn log_ends(&self) -> Reply<Vec<(TopicPartition, Offset)>, StoreError> {
        self.for_people
            .ask(|connection| source::ends(connection).map(|ends| source::of_record(&ends).collect()))
    }

    fn usage(&self) -> Reply<StoreUsage, StoreError> {
        let limit_bytes = self.disk_limit_bytes;
        self.for_people.ask(move |connection| {
            let used_bytes = engine::used_bytes(connection).map_err(engine::engine)?;
            Ok(StoreUsage { used_bytes, limit_bytes })
        })
    }

    fn answers(&self) -> Reply<(), StoreError> {
        self.for_probes.ask(query::answer)
    }
}

impl QueryStore for Store {
    fn jobs(&self, filter: JobFilter) -> Reply<Page<ListedJob>, StoreError> {
        self.reader.jobs(filter)
    }

    fn job(&self, job_id: JobId) -> Reply<Option<JobRow>, StoreError> {
        self.reader.job(job_id)
    }

    fn job_view(&self, job_id: JobId) -> Reply<Option<JobView>, StoreError> {
        self.reader.job_view(job_id)
    }

    fn live_job_views(&self, after: Option<JobId>, limit: usize) -> Reply<Vec<JobView>, StoreError> {
        self.reader.live_job_views(after, limit)
    }

    fn timeline_after(
        &self,
        job_id: JobId,
        skipped: usize,
        limit: usize,
    ) -> Reply<Page<TimelineEntry>, StoreError> {
        self.reader.timeline_after(job_id, skipped, limit)
    }

    fn refusals_after(
        &self,
        job_id: JobId,
        skipped: usize,
        limit: usize,
    ) -> Reply<Page<StoredRefusal>, StoreError> {
        self.reader.refusals_after(job_id, skipped, limit)
    }

    fn aggregates_after(
        &self,
        job_id: JobId,
        after: Option<Attempt>,
        limit: usize,
    ) -> Reply<Page<JobAggregate>, StoreError> {
        self.reader.aggregates_after(job_id, after, limit)
    }

    fn status_counts(&self) -> Reply<Vec<(JobStatus, u64)>, StoreError> {
        self.reader.status_counts()
    }

    fn audit_entries(&self, filter: AuditFilter) -> Reply<AuditPage, StoreError> {
        self.reader.audit_entries(filter)
    }

    fn audit_logs(&self) -> Reply<Vec<StoredAuditLog>, StoreError> {
        self.reader.audit_logs()
    }

    fn dead_letters(
        &self,
        group: Option<Group>,
        after: Option<DeadLetterId>,
        limit: usize,
    ) -> Reply<Page<StoredDeadLetter>, StoreError> {
        self.reader.dead_letters(group, after, limit)
    }

    fn parked_keys_after(
        &self,
        after: Option<ParkedId>,
        limit: usize,
    ) -> Reply<Page<StoredParkedKey>, StoreError> {
        self.reader.parked_keys_after(after, limit)
    }

    fn gaps_after(&self, after: Option<GapPosition>, limit: usize) -> Reply<Page<StoredGap>, StoreError> {
        self.reader.gaps_after(after, limit)
    }

    fn progress(&self) -> Reply<Vec<LaneProgress>, StoreError> {
        self.reader.progress()
    }

    fn held_lanes(&self) -> Reply<Vec<HeldLane>, StoreError> {
        self.reader.held_lanes()
    }

    fn log_ends(&self) -> Reply<Vec<(TopicPartition, Offset)>, StoreError> {
        self.reader.log_ends()
    }

    fn usage(&self) -> Reply<StoreUsage, StoreError> {
        self.reader.usage()
    }

    fn answers(&self) -> Reply<(), StoreError> {
        self.reader.answers()
    }
}
