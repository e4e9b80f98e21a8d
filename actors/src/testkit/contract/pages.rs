//! Pages of lists: bounded in bytes as well as in rows, and joined without a gap.

use std::sync::Arc;

use bytes::Bytes;

use super::Store;
use super::queries::{commit, timeline_entry, view};
use super::sample::{at, audit, auditor_lane, id, job, jobs_lane, log_record, parking, refusal, submit};
use crate::effect::{DeadLetter, Effects};
use crate::event::JobStatus;
use crate::ids::{JobId, Topic};
use crate::ports::page::{PAGE_BYTES, Page};
use crate::ports::query::{AuditFilter, DeadLetterId, JobFilter, ListedJob, ParkedId};
use crate::ports::store::JobRow;
use crate::state::{JobOrigin, JobView, StateKey, StateValue};

/// So large that three fit on a page and four do not.
const LARGE: usize = PAGE_BYTES / 4 + 1;

/// Rows of each list.
const ROWS: u64 = 7;

/// How many rows the pages of such a list have.
const PAGES: [usize; 3] = [3, 3, 1];

fn large() -> String {
    "x".repeat(LARGE)
}

/// Walks pages to their end; gives the lengths.
async fn lengths<T, F: Future<Output = Page<T>>>(mut next: impl FnMut(Option<Page<T>>) -> F) -> Vec<usize> {
    let mut lengths = Vec::new();
    let mut before = None;
    loop {
        let page = next(before).await;
        lengths.push(page.len());
        if !page.has_more {
            return lengths;
        }
        before = Some(page);
    }
}

/// Every list ends a page before a row that would make it too large, whatever limit is asked for, and the next page
/// begins with that row.
pub async fn lists_of_large_rows_end_their_pages_early(store: Arc<impl Store>) {
    let names: Vec<String> = (0..ROWS).map(|number| format!("job-{number}")).collect();
    for (second, name) in (0..).zip(&names) {
        let row = JobRow { parameters: format!("\"{}\"", large()), ..job(name, at(second)) };
        store.write_job(submit(row)).await.expect("a job can be written");
    }
    for number in 0..ROWS {
        let mut step = timeline_entry("job-1", number);
        step.payload = large();
        let mut refused = refusal("job-1", number);
        refused.detail = large();
        let record =
            crate::record::LogRecord { payload: Some(Bytes::from(large())), ..log_record(number, None, "") };
        let letter = DeadLetter {
            record,
            rejection: super::sample::rejection("bad"),
            rejected_at: at(1),
            is_parked: false,
        };
        let parked = parking(&format!("{number}{}", large()), number);
        let effects = Effects {
            timeline: vec![step],
            refusals: vec![refused],
            dead_letters: vec![letter],
            keys_parked: parked.keys_parked,
            ..Effects::default()
        };
        commit(&*store, jobs_lane(u16::try_from(number % 3).expect("small")), effects).await;
    }

    let jobs = lengths(|page: Option<Page<ListedJob>>| {
        let before = page.as_ref().and_then(|page| page.last()).map(|last| {
            let (at, job_id) = last.position();
            (at, job_id.clone())
        });
        let filter = JobFilter { behind: before, limit: 1000, ..JobFilter::default() };
        let store = Arc::clone(&store);
        async move { store.jobs(filter).await.expect("jobs can be read") }
    });
    assert_eq!(jobs.await, PAGES, "jobs");

    for (what, is_steps) in [("timeline", true), ("refusals", false)] {
        let mut seen = Vec::new();
        loop {
            let skipped: usize = seen.iter().sum();
            let (length, has_more) = if is_steps {
                let page = store.timeline_after(id("job-1"), skipped, 1000).await.expect("read");
                (page.len(), page.has_more)
            } else {
                let page = store.refusals_after(id("job-1"), skipped, 1000).await.expect("read");
                (page.len(), page.has_more)
            };
            seen.push(length);
            if !has_more {
                break;
            }
        }
        assert_eq!(seen, PAGES, "{what}");
    }

    let letters = lengths(|page: Option<Page<_>>| {
        let after = page.as_ref().and_then(|page: &Page<crate::ports::query::StoredDeadLetter>| page.last());
        let after = after.map(|letter| DeadLetterId {
            lane: letter.lane.clone(),
            generation: letter.generation,
            offset: letter.record.offset,
        });
        let store = Arc::clone(&store);
        async move { store.dead_letters(None, after, 1000).await.expect("dead letters can be read") }
    });
    assert_eq!(letters.await, PAGES, "dead letters");

    let keys = lengths(|page: Option<Page<_>>| {
        let after = page.as_ref().and_then(|page: &Page<crate::ports::query::StoredParkedKey>| page.last());
        let after = after.map(|key| ParkedId {
            lane: key.lane.clone(),
            generation: key.generation,
            key: key.key.clone(),
        });
        let store = Arc::clone(&store);
        async move { store.parked_keys_after(after, 1000).await.expect("parked keys can be read") }
    });
    assert_eq!(keys.await, PAGES, "parked keys");
}

/// Audit entries come in pages that are bounded by their bodies' bytes, over lanes and for one job alike.
pub async fn audit_entries_of_large_records_end_their_pages_early(store: Arc<impl Store>) {
    let home = crate::event::partition::partition_for(
        Topic::JobLifecycle,
        Some(b"job-1"),
        crate::ids::EventId(uuid::Uuid::nil()),
    );
    let mut effects = audit(0, &["job-1"; ROWS as usize]);
    for entry in &mut effects.audit_entries {
        entry.record.payload = Some(Bytes::from(large()));
    }
    commit(&*store, auditor_lane(Topic::JobLifecycle, home.0), effects).await;

    for job_id in [None, Some(id::<JobId>("job-1"))] {
        let (mut seen, mut after, mut index) = (Vec::new(), None, 0);
        loop {
            let filter = AuditFilter { job_id: job_id.clone(), after, limit: 1000, ..AuditFilter::default() };
            let page = store.audit_entries(filter).await.expect("the audit log can be read");
            for entry in &page.entries {
                assert_eq!(entry.position.index, index);
                index += 1;
            }
            seen.push(page.entries.len());
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!((index, seen.get(..3)), (ROWS, Some(PAGES.as_slice())), "{seen:?}");
    }
}

/// A row that is larger than a page comes alone.
pub async fn list_row_larger_than_a_page_comes_alone(store: Arc<impl Store>) {
    for (second, name, bytes) in [(1, "job-a", 1), (2, "job-b", PAGE_BYTES + 1), (3, "job-c", 1)] {
        let row = JobRow { parameters: format!("\"{}\"", "x".repeat(bytes)), ..job(name, at(second)) };
        store.write_job(submit(row)).await.expect("a job can be written");
    }
    let mut seen = Vec::new();
    let mut before = None;

    loop {
        let filter = JobFilter { behind: before, limit: 1000, ..JobFilter::default() };
        let page = store.jobs(filter).await.expect("jobs can be read");
        seen.push(page.iter().map(|job| job.position().1.to_string()).collect::<Vec<_>>());
        before = page.last().map(|job| (job.position().0, job.position().1.clone()));
        if !page.has_more {
            break;
        }
    }

    assert_eq!(seen, [["job-c"], ["job-b"], ["job-a"]]);
}

/// Jobs of other producers stand among the orchestrator's own by when they were submitted; a job that both know is
/// listed once; filters are about both.
pub async fn jobs_of_other_producers_are_listed_among_our_own(store: Arc<impl Store>) {
    for (name, second) in [("own-1", 1), ("own-3", 3)] {
        store.write_job(submit(job(name, at(second)))).await.expect("a job can be written");
    }
    let views = [("other-2", 2, "grace"), ("other-3", 3, "ada"), ("own-1", 1, "ada")];
    let states = views.map(|(name, second, user)| {
        let view = JobView {
            origin: JobOrigin::External,
            submitted_at: at(second),
            user_id: id(user),
            ..view(name, JobStatus::Running)
        };
        (StateKey::JobView(id(name)), StateValue::JobView(view))
    });
    let mut states = states.to_vec();
    // One of our own whose row is not there any more is no other producer's.
    states.push((StateKey::JobView(id("own-9")), StateValue::JobView(view("own-9", JobStatus::Running))));
    commit(&*store, jobs_lane(0), Effects { states, ..Effects::default() }).await;
    let names = async |filter: JobFilter| {
        let page = store.jobs(filter).await.expect("jobs can be read");
        page.iter().map(|job| job.position().1.to_string()).collect::<Vec<_>>()
    };
    let all = JobFilter { limit: 10, ..JobFilter::default() };

    let whole = names(all.clone()).await;
    let mut paged = Vec::new();
    let mut behind = None;
    loop {
        let page = store.jobs(JobFilter { behind, limit: 1, ..all.clone() }).await.expect("read");
        paged.extend(page.iter().map(|job| job.position().1.to_string()));
        behind = page.last().map(|job| (job.position().0, job.position().1.clone()));
        if !page.has_more {
            break;
        }
    }
    let external = names(JobFilter { origin: Some(JobOrigin::External), ..all.clone() }).await;
    let owned = names(JobFilter { origin: Some(JobOrigin::Owned), ..all.clone() }).await;
    let of_grace = names(JobFilter { user_id: Some(id("grace")), ..all.clone() }).await;
    let running = names(JobFilter { status: Some(JobStatus::Running), ..all }).await;

    assert_eq!(whole, ["own-3", "other-3", "other-2", "own-1"]);
    assert_eq!(paged, whole);
    assert_eq!(external, ["other-3", "other-2"]);
    assert_eq!(owned, ["own-3", "own-1"]);
    assert_eq!(of_grace, ["other-2"]);
    assert_eq!(running, ["other-3", "other-2"]);
}
