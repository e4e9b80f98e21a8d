//! What people are shown.

use std::sync::Arc;

use uuid::Uuid;

use super::Store;
use super::sample::{
    Owner, PROCESS, at, audit, auditor_lane, id, job, jobs_lane, outgoing, parking, partition, refusal,
    submit,
};
use crate::clock::Timestamp;
use crate::effect::{Effects, RETIRED_ENTRIES, RetiredView, Retirement, TimelineEntry};
use crate::event::partition::partition_for;
use crate::event::{EventType, JobStatus};
use crate::ids::{Attempt, EventId, Generation, JobId, JobIdBeginning, LaneKey, Offset, Sequence, Topic};
use crate::ports::query::{AuditFilter, AuditPosition, JobFilter, ListedJob, StoredAuditEntry};
use crate::ports::store::{JobRow, LaneStore};
use crate::state::{Aggregate, JobAggregate, JobOrigin, JobView, StateKey, StateValue};

/// Opens a lane and commits one transaction.
pub(super) async fn commit(store: &impl LaneStore, lane: LaneKey, effects: Effects) {
    let opened = store.open_lane(lane.clone(), PROCESS).await.expect("a lane can be opened");
    store.commit(Owner::new(lane, &opened).step(effects)).await.expect("the owner may write");
}

/// Jobs come newest first, equal times by id, with each filter, in pages that join.
pub async fn jobs_page_newest_first_by_each_filter(store: Arc<impl Store>) {
    for (job_id, seconds, user, status) in [
        ("job-a", 5, "ada", JobStatus::Submitted),
        ("job-b", 7, "grace", JobStatus::Running),
        ("job-c", 7, "ada", JobStatus::Running),
        ("job-d", 7, "ada", JobStatus::Submitted),
        ("job-e", 9, "ada", JobStatus::Running),
    ] {
        let row = JobRow { user_id: id(user), status, ..job(job_id, at(seconds)) };
        store.write_job(submit(row)).await.expect("a job can be written");
    }
    let ids = async |filter: JobFilter| {
        let rows = store.jobs(filter).await.expect("jobs can be read");
        let place = |job: &ListedJob| (job.position().0, job.position().1.clone());
        rows.iter().map(place).collect::<Vec<_>>()
    };
    let all = JobFilter { limit: 10, ..JobFilter::default() };

    let whole = ids(all.clone()).await;
    let mut paged = Vec::new();
    while let page = ids(JobFilter { behind: paged.last().cloned(), limit: 2, ..all.clone() }).await
        && !page.is_empty()
    {
        paged.extend(page);
    }
    let of_ada = ids(JobFilter { user_id: Some(id("ada")), ..all.clone() }).await;
    let running = ids(JobFilter {
        status: Some(JobStatus::Running),
        user_id: Some(id("ada")),
        behind: Some((at(9), id("job-e"))),
        ..all
    })
    .await;

    let names = |found: &[(_, JobId)]| found.iter().map(|(_, job_id)| job_id.to_string()).collect::<Vec<_>>();
    assert_eq!(names(&whole), ["job-e", "job-d", "job-c", "job-b", "job-a"]);
    assert_eq!(paged, whole);
    assert_eq!(names(&of_ada), ["job-e", "job-d", "job-c", "job-a"]);
    assert_eq!(names(&running), ["job-c"]);
}

/// Jobs whose ids begin alike come in order of id, in pages that join, whoever submitted them; a UUID's beginning may
/// be in any letter case.
pub async fn jobs_whose_ids_begin_alike_come_in_order_of_id(store: Arc<impl Store>) {
    const UUIDS: [&str; 2] = ["0193a1c0-0000-7000-8000-0000000000aa", "0193a1c0-0000-7000-8000-0000000000ab"];
    let last = format!("job-1{}", char::MAX);
    let owned = ["job-1", "job-10", "job-2", last.as_str(), UUIDS[1]];
    for (second, job_id) in (0..).zip(owned) {
        store.write_job(submit(job(job_id, at(9 - second)))).await.expect("a job can be written");
    }
    let external = ["0193A1C0-night", UUIDS[0], "job-1\u{e000}", "job-11", "job-100%", "job_1"];
    let states = external.map(|job_id| {
        let view = JobView { origin: JobOrigin::External, ..view(job_id, JobStatus::Running) };
        (StateKey::JobView(id(job_id)), StateValue::JobView(view))
    });
    // Our own are in the jobs group's view as well.
    let own = StateValue::JobView(view("job-10", JobStatus::Running));
    let states = states.into_iter().chain([(StateKey::JobView(id("job-10")), own)]).collect();
    commit(&*store, jobs_lane(0), Effects { states, ..Effects::default() }).await;
    let beginning = |text: &str| Some(JobIdBeginning::parse(text).expect("it is long enough"));
    let pages = async |filter: JobFilter| {
        let mut found: Vec<(Timestamp, JobId)> = Vec::new();
        loop {
            let behind = found.last().cloned();
            let page = store.jobs(JobFilter { behind, ..filter.clone() }).await.expect("jobs can be read");
            assert!(page.len() <= filter.limit);
            found.extend(page.iter().map(|job| (job.position().0, job.position().1.clone())));
            if !page.has_more {
                return found.into_iter().map(|(_, job_id)| job_id.to_string()).collect::<Vec<_>>();
            }
        }
    };
    let ids = async |text: &str, limit: usize| {
        pages(JobFilter { id_beginning: beginning(text), limit, ..JobFilter::default() }).await
    };

    let all = ["job-1", "job-10", "job-100%", "job-11", "job-1\u{e000}", last.as_str()];
    for limit in [1, 2, 100] {
        assert_eq!(ids("job-1", limit).await, all);
        assert_eq!(ids("0193A1c0", limit).await, UUIDS);
        assert_eq!(ids("0193A1C0", limit).await, ["0193A1C0-night", UUIDS[0], UUIDS[1]]);
    }
    assert_eq!(ids("job-10", 9).await, ["job-10", "job-100%"]);
    assert_eq!(ids(UUIDS[0], 9).await, UUIDS[..1]);
    assert_eq!(ids("JOB-", 9).await, [""; 0]);
    assert_eq!(ids("job%", 9).await, [""; 0]);
    let of = |origin| JobFilter {
        origin: Some(origin),
        id_beginning: beginning("job-1"),
        limit: 9,
        ..JobFilter::default()
    };
    assert_eq!(pages(of(JobOrigin::Owned)).await, ["job-1", "job-10", last.as_str()]);
    assert_eq!(pages(of(JobOrigin::External)).await, ["job-100%", "job-11", "job-1\u{e000}"]);
    let submitted = JobFilter { status: Some(JobStatus::Submitted), ..of(JobOrigin::Owned) };
    assert_eq!(pages(submitted).await, ["job-1", "job-10", last.as_str()]);
    let nobodys = JobFilter { user_id: Some(id("nobody")), origin: None, ..of(JobOrigin::Owned) };
    assert_eq!(pages(nobodys).await, [""; 0]);
}

pub(super) fn view(job_id: &str, status: JobStatus) -> JobView {
    JobView {
        job_id: id(job_id),
        origin: JobOrigin::Owned,
        user_id: id("ada"),
        agent: Some(id("imaging")),
        tacc_system: None,
        status,
        attempt: Attempt(1),
        will_retry: false,
        is_confirmed: true,
        last_sequence: Sequence(4),
        last_event_id: EventId(Uuid::from_u128(4)),
        submitted_at: at(1),
        status_since: at(2),
        updated_at: at(3),
    }
}

pub(super) fn timeline_entry(job_id: &str, offset: u64) -> TimelineEntry {
    TimelineEntry {
        job_id: id(job_id),
        offset: Offset(offset),
        event_id: EventId(Uuid::from_u128(u128::from(offset))),
        event_type: EventType::JobStatusChanged,
        sequence: Sequence(offset),
        status: JobStatus::Running,
        attempt: Attempt(2),
        happened_at: at(1),
        applied_at: at(2),
        payload: "{\"nul\":\"\0\"}".to_owned(),
    }
}

/// View, timeline and refusals are of the job that is asked about; a view that ended is not live any more.
pub async fn job_views_timeline_and_refusals_are_of_the_job(store: Arc<impl Store>) {
    let states = |status: JobStatus| {
        ["job-1", "job-2"]
            .map(|name| (StateKey::JobView(id(name)), StateValue::JobView(view(name, status))))
            .to_vec()
    };
    let effects = Effects {
        states: states(JobStatus::Running),
        timeline: vec![timeline_entry("job-1", 10), timeline_entry("job-2", 9), timeline_entry("job-1", 2)],
        refusals: vec![refusal("job-1", 12), refusal("job-1", 3), refusal("job-2", 4)],
        ..Effects::default()
    };
    // A job that moved: what came before may stand in a lane that is older or newer.
    let elsewhere = |offset: u64, sequence: u64| TimelineEntry {
        sequence: Sequence(sequence),
        ..timeline_entry("job-1", offset)
    };
    let moved = |entry: &TimelineEntry| Effects { timeline: vec![entry.clone()], ..Effects::default() };
    let (first, last) = (elsewhere(20, 1), elsewhere(0, 11));
    commit(&*store, jobs_lane(1), moved(&last)).await;
    commit(&*store, jobs_lane(0), effects).await;
    commit(&*store, jobs_lane(2), moved(&first)).await;
    let live = store.live_job_views(None, 10).await.expect("views can be read");
    let after = store.live_job_views(Some(id("job-1")), 10).await.expect("views can be read");
    let mut ended = states(JobStatus::Completed);
    ended.truncate(1);
    commit(&*store, jobs_lane(0), Effects { states: ended, ..Effects::default() }).await;

    let found = store.job_view(id("job-1")).await.expect("views can be read");
    let nobody = store.job_view(id("job-3")).await.expect("views can be read");
    let still_live = store.live_job_views(None, 10).await.expect("views can be read");
    let timeline = store.timeline(id("job-1"), 10).await.expect("timelines can be read");
    let refusals = store.refusals(id("job-1"), 10).await.expect("refusals can be read");

    assert_eq!(live, [view("job-1", JobStatus::Running), view("job-2", JobStatus::Running)]);
    assert_eq!(after, [view("job-2", JobStatus::Running)]);
    assert_eq!((found, nobody), (Some(view("job-1", JobStatus::Completed)), None));
    assert_eq!(still_live, [view("job-2", JobStatus::Running)]);
    assert_eq!(timeline, [first, timeline_entry("job-1", 2), timeline_entry("job-1", 10), last]);
    let refused: Vec<_> =
        refusals.iter().map(|row| (row.lane.clone(), row.offset.0, row.detail.as_str())).collect();
    assert_eq!(refused, [(jobs_lane(0), 3, "with\0nul"), (jobs_lane(0), 12, "with\0nul")]);
    assert_eq!(store.timeline(id("job-1"), 1).await.expect("timelines can be read").len(), 1);
}

fn retiring(job_id: &str, retirement: Retirement) -> Effects {
    let views_retired = vec![RetiredView { job_id: id(job_id), retirement }];
    Effects { views_retired, ..Effects::default() }
}

/// A view that is retired is first not live, until it is written again, and then gone with its timeline, however long
/// that is, piece by piece.
pub async fn job_views_retired_are_not_live_and_then_gone(store: Arc<impl Store>) {
    let written = || {
        let view = view("job-1", JobStatus::Running);
        vec![(StateKey::JobView(view.job_id.clone()), StateValue::JobView(view))]
    };
    let entries = RETIRED_ENTRIES as u64 + 5;
    let timeline = (0..entries).map(|offset| timeline_entry("job-1", offset));
    let timeline = timeline.chain([timeline_entry("job-2", entries)]).collect();
    let live = async || store.live_job_views(None, 10).await.expect("views can be read").len();
    let view = async || store.job_view(id("job-1")).await.expect("views can be read");
    commit(&*store, jobs_lane(0), Effects { states: written(), timeline, ..Effects::default() }).await;
    let first = live().await;

    commit(&*store, jobs_lane(0), retiring("job-1", Retirement::Silent)).await;
    let (silent, kept) = (live().await, view().await);
    commit(&*store, jobs_lane(0), Effects { states: written(), ..Effects::default() }).await;
    let again = live().await;
    commit(&*store, jobs_lane(0), retiring("job-1", Retirement::Forgotten)).await;
    let (half, left) = (view().await, store.timeline(id("job-1"), 10).await.expect("timelines can be read"));
    commit(&*store, jobs_lane(0), retiring("job-1", Retirement::Forgotten)).await;
    commit(&*store, jobs_lane(0), retiring("job-1", Retirement::Forgotten)).await;

    assert_eq!((first, silent, again, live().await), (1, 0, 1, 0));
    assert!(kept.is_some() && half.is_some(), "the view goes last");
    assert_eq!(left.len(), 5);
    assert_eq!(view().await, None);
    assert_eq!(store.timeline(id("job-1"), 10).await.expect("timelines can be read"), []);
    assert_eq!(store.timeline(id("job-2"), 10).await.expect("timelines can be read").len(), 1);
    let opened = store.open_lane(jobs_lane(0), PROCESS).await.expect("a lane can be opened");
    let keys = vec![StateKey::JobView(id("job-1"))];
    assert!(opened.next.is_some() && store.load(jobs_lane(0), keys).await.expect("loaded").is_empty());
}

fn aggregate(attempt: u32) -> JobAggregate {
    let one = Aggregate { count: 1, sum: 2.5, min: 2.5, max: 2.5 };
    JobAggregate {
        job_id: id("job-1"),
        attempt: Attempt(attempt),
        cpu_usage_percent: one,
        memory_usage_mb: one,
        io_operations: one,
        execution_time_seconds: one,
        last_sequence: None,
        summary: None,
        updated_at: at(1),
    }
}

/// Aggregates come by attempt, in pages that join; counts of statuses are summed over lanes, in order of status.
pub async fn aggregates_and_counts_are_summed_over_lanes(store: Arc<impl Store>) {
    let count = |status, count| (StateKey::StatusCount(status), StateValue::StatusCount(count));
    let row = |attempt| {
        let key = StateKey::JobAggregate(id("job-1"), Attempt(attempt));
        (key, StateValue::JobAggregate(aggregate(attempt)))
    };
    let states = vec![count(JobStatus::Running, 3), row(2), row(1)];
    commit(&*store, jobs_lane(0), Effects { states, ..Effects::default() }).await;
    let states = vec![count(JobStatus::Running, 4), count(JobStatus::Queued, 1)];
    commit(&*store, jobs_lane(1), Effects { states, ..Effects::default() }).await;

    let aggregates = store.aggregates(id("job-1"), 10).await.expect("aggregates can be read");
    let first = store.aggregates(id("job-1"), 1).await.expect("aggregates can be read");
    let after = Some(Attempt(1));
    let last = store.aggregates_after(id("job-1"), after, 1).await.expect("aggregates can be read");
    let counts = store.status_counts().await.expect("counts can be read");

    assert_eq!(aggregates, [aggregate(1), aggregate(2)]);
    assert_eq!((&*first, first.has_more), ([aggregate(1)].as_slice(), true));
    assert_eq!((&*last, last.has_more), ([aggregate(2)].as_slice(), false));
    assert_eq!(counts, [(JobStatus::Queued, 1), (JobStatus::Running, 7)]);
}

/// Reads all pages of a filter.
async fn all_pages(store: &impl Store, filter: AuditFilter) -> Vec<StoredAuditEntry> {
    let mut entries = Vec::new();
    let mut after = None;
    loop {
        let page = store
            .audit_entries(AuditFilter { after, ..filter.clone() })
            .await
            .expect("the audit log can be read");
        assert!(page.entries.len() <= filter.limit);
        entries.extend(page.entries);
        match page.next {
            None => return entries,
            next => after = next,
        }
    }
}

/// Pages join without gap over partitions and topics; filters leave the rest out; logs tell their state.
pub async fn audit_entries_pages_join_without_gap(store: Arc<impl Store>) {
    let lanes = [(Topic::AuditTrail, 1, 2), (Topic::JobLifecycle, 3, 70), (Topic::JobLifecycle, 1, 1)];
    let keys = ["k"; 70];
    for (topic, number, count) in lanes {
        let effects = audit(0, keys.get(..count).unwrap_or_default());
        commit(&*store, auditor_lane(topic, number), effects).await;
    }
    let all = AuditFilter { limit: 3, ..AuditFilter::default() };

    let paged = all_pages(&*store, all.clone()).await;
    let whole = all_pages(&*store, AuditFilter { limit: 1000, ..all.clone() }).await;
    let of_topic = all_pages(&*store, AuditFilter { topic: Some(Topic::AuditTrail), ..all.clone() }).await;
    let of_partition =
        all_pages(&*store, AuditFilter { topic: Some(Topic::JobLifecycle), partition: Some(1), ..all }).await;
    let logs = store.audit_logs().await.expect("the audit log can be read");

    let position = |topic, number, index| AuditPosition {
        topic_partition: partition(topic, number),
        generation: Generation(0),
        index,
    };
    let mut wanted = vec![position(Topic::JobLifecycle, 1, 0)];
    wanted.extend((0..70).map(|index| position(Topic::JobLifecycle, 3, index)));
    wanted.extend((0..2).map(|index| position(Topic::AuditTrail, 1, index)));
    let positions = |entries: &[StoredAuditEntry]| {
        entries.iter().map(|entry| entry.position).collect::<Vec<AuditPosition>>()
    };
    assert_eq!(positions(&paged), wanted);
    assert_eq!(whole, paged);
    assert_eq!(positions(&of_topic), wanted.get(71..).unwrap_or_default());
    assert_eq!(positions(&of_partition), wanted.get(..1).unwrap_or_default());
    let sizes: Vec<_> =
        logs.iter().map(|log| (log.topic_partition, log.state.size, log.state.frontier.len())).collect();
    let log = |topic, number, size, peaks| (partition(topic, number), size, peaks);
    let wanted_sizes = [
        log(Topic::JobLifecycle, 1, 1, 1),
        log(Topic::JobLifecycle, 3, 70, 3),
        log(Topic::AuditTrail, 1, 2, 1),
    ];
    assert_eq!(sizes, wanted_sizes);
    let stored = paged.get(1).map(|entry| (entry.mark.as_str(), entry.leaf_hash, entry.appended_at));
    assert_eq!(stored, Some(("event", [0; 32], at(4))));
    let original = audit(0, &["k"]).audit_entries.into_iter().next().map(|entry| entry.record);
    assert_eq!(paged.get(1).and_then(|entry| entry.record.clone()), original);
}

/// A job's entries are found among those of others, on lifecycle and metrics alone.
pub async fn audit_entries_of_job_are_found_among_others(store: Arc<impl Store>) {
    let mut wanted = Vec::new();
    for topic in [Topic::JobLifecycle, Topic::JobMetrics] {
        let at_home = partition_for(topic, Some(b"job-1"), EventId(Uuid::nil()));
        let keys = ["job-1", "job-10", "job-1", "", "job-1"];
        commit(&*store, auditor_lane(topic, at_home.0), audit(0, &keys)).await;
        wanted.extend([0, 2, 4].map(|index| AuditPosition {
            topic_partition: partition(topic, at_home.0),
            generation: Generation(0),
            index,
        }));
    }
    commit(&*store, auditor_lane(Topic::AuditTrail, 0), audit(0, &["job-1"])).await;
    let filter = |limit| AuditFilter { job_id: Some(id("job-1")), limit, ..AuditFilter::default() };

    let whole = all_pages(&*store, filter(100)).await;
    let paged = all_pages(&*store, filter(1)).await;

    assert_eq!(whole.iter().map(|entry| entry.position).collect::<Vec<_>>(), wanted);
    assert_eq!(paged, whole);
}

/// Progress, log ends and parked keys are listed in order of lane.
pub async fn progress_ends_and_parked_keys_are_listed_in_order(store: Arc<impl Store>) {
    commit(&*store, jobs_lane(2), parking("job-b", 3)).await;
    commit(&*store, jobs_lane(1), parking("job-a", 4)).await;
    store.open_lane(auditor_lane(Topic::AuditTrail, 0), PROCESS).await.expect("a lane can be opened");
    let here = partition(Topic::Notifications, 1);
    store.append_records(vec![outgoing(here, "x"), outgoing(here, "y")], Vec::new()).await.expect("appended");

    let progress = store.progress().await.expect("progress can be read");
    let ends = store.log_ends().await.expect("ends can be read");
    let keys = store.parked_keys(10).await.expect("parked keys can be read");
    let one = store.parked_keys(1).await.expect("parked keys can be read");
    let usage = store.usage().await.expect("usage can be read");

    let lanes: Vec<_> = progress.iter().map(|lane| (lane.lane.clone(), lane.next, lane.revision)).collect();
    let wanted = [
        (auditor_lane(Topic::AuditTrail, 0), None, 0),
        (jobs_lane(1), Some(Offset(1)), 1),
        (jobs_lane(2), Some(Offset(1)), 1),
    ];
    assert_eq!(lanes, wanted);
    assert_eq!(ends, [(here, Offset(2))]);
    let parked: Vec<_> =
        keys.iter().map(|key| (key.lane.clone(), key.key.clone(), key.head.0, key.records)).collect();
    assert_eq!(parked, [(jobs_lane(1), "job-a".into(), 4, 1), (jobs_lane(2), "job-b".into(), 3, 1)]);
    assert_eq!(&*one, keys.get(..1).unwrap_or_default());
    assert!(usage.used_bytes > 0 && usage.used_bytes < usage.limit_bytes);
}
