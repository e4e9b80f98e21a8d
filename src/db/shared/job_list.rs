//! The list of jobs: the orchestrator's own and, in the same order, those of other producers.
//!
//! Promises pages that join whatever happens between them, as every job stands at one place for ever: by when it was
//! submitted, then by its id.

use diesel::dsl::{exists, not};
use diesel::prelude::*;
use horizons_actors::ports::page::{Page, PageRoom};
use horizons_actors::ports::query::{JobFilter, ListedJob};
use horizons_actors::ports::store::StoreError;
use horizons_actors::state::JobOrigin;

use super::engine::{Backend, Connection, engine};
use super::jobs::{JobColumns, into_rows};
use super::pages::{fit, weigh, weighed_rows, weight};
use super::schema::{job_views, jobs};
use super::state::{JobViewRow, in_snapshot};

/// Where a job stands, and what it weighs.
type Place = (i64, String, i64);

/// Lists jobs, newest first.
pub(super) fn list(connection: &mut Connection, filter: &JobFilter) -> Result<Page<ListedJob>, StoreError> {
    in_snapshot(connection, |connection| list_one_state(connection, filter))
}

fn list_one_state(connection: &mut Connection, filter: &JobFilter) -> Result<Page<ListedJob>, StoreError> {
    let mut room = PageRoom::new(filter.limit);
    let rows = weighed_rows(&room);
    let mut places: Vec<(Place, JobOrigin)> = Vec::new();
    if filter.origin != Some(JobOrigin::External) {
        let owned: Vec<Place> = owned(filter)
            .select((
                jobs::submitted_at,
                jobs::job_id,
                weigh(weight!("parameters", "cancel_reason", "error_message")),
            ))
            .limit(rows)
            .load(connection)
            .map_err(engine)?;
        places.extend(owned.into_iter().map(|place| (place, JobOrigin::Owned)));
    }
    if filter.origin != Some(JobOrigin::Owned) {
        let external: Vec<(i64, String)> = external(filter)
            .select((job_views::submitted_at, job_views::job_id))
            .limit(rows)
            .load(connection)
            .map_err(engine)?;
        let external = external.into_iter().map(|(at, job_id)| ((at, job_id, 0), JobOrigin::External));
        places.extend(external);
    }
    places.sort_by(|(left, _), (right, _)| (right.0, &right.1).cmp(&(left.0, &left.1)));
    let (fitting, has_more) = fit(&mut room, places.iter().map(|((_, _, weight), _)| *weight));
    places.truncate(usize::try_from(fitting).unwrap_or_default());

    let count = |wanted: JobOrigin| places.iter().filter(|(_, origin)| *origin == wanted).count();
    let as_limit = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let owned: Vec<JobColumns> = match count(JobOrigin::Owned) {
        0 => Vec::new(),
        count => {
            owned(filter).select(jobs::all_columns).limit(as_limit(count)).load(connection).map_err(engine)?
        }
    };
    let external: Vec<JobViewRow> = match count(JobOrigin::External) {
        0 => Vec::new(),
        count => external(filter)
            .select(job_views::all_columns)
            .limit(as_limit(count))
            .load(connection)
            .map_err(engine)?,
    };
    let owned = into_rows(owned)?.into_iter().map(|row| Ok(ListedJob::Owned(Box::new(row))));
    let external = external.into_iter().map(|row| Ok(ListedJob::External(Box::new(row.into_view()?))));
    let mut rows = owned.chain(external).collect::<Result<Vec<ListedJob>, StoreError>>()?;
    rows.sort_by(|left, right| right.position().cmp(&left.position()));
    Ok(Page { rows, has_more })
}

/// Selects the orchestrator's jobs.
fn owned(filter: &JobFilter) -> jobs::BoxedQuery<'_, Backend> {
    let mut query = jobs::table.order((jobs::submitted_at.desc(), jobs::job_id.desc())).into_boxed();
    if let Some(user_id) = &filter.user_id {
        query = query.filter(jobs::user_id.eq(user_id.as_str()));
    }
    if let Some(status) = filter.status {
        query = query.filter(jobs::status.eq(status.name()));
    }
    if let Some((at, job_id)) = &filter.before {
        // The first condition is implied by the second; it lets the index be entered at the cursor.
        query = query.filter(jobs::submitted_at.le(at.as_micros())).filter(
            jobs::submitted_at
                .lt(at.as_micros())
                .or(jobs::submitted_at.eq(at.as_micros()).and(jobs::job_id.lt(job_id.as_str()))),
        );
    }
    query
}

/// Selects the newest views of other producers' jobs.
fn external(filter: &JobFilter) -> job_views::BoxedQuery<'_, Backend> {
    let newer = diesel::alias!(job_views as newer_views);
    let mut query = job_views::table
        .into_boxed()
        // As the index says it, so that it is used.
        .filter(not(job_views::is_owned))
        .filter(not(exists(jobs::table.filter(jobs::job_id.eq(job_views::job_id)))))
        .filter(not(exists(
            newer
                .filter(newer.field(job_views::job_id).eq(job_views::job_id))
                .filter(newer.field(job_views::lane).gt(job_views::lane)),
        )))
        .order((job_views::submitted_at.desc(), job_views::job_id.desc()));
    if let Some(user_id) = &filter.user_id {
        query = query.filter(job_views::user_id.eq(user_id.as_str()));
    }
    if let Some(status) = filter.status {
        query = query.filter(job_views::status.eq(status.name()));
    }
    if let Some((at, job_id)) = &filter.before {
        query = query.filter(job_views::submitted_at.le(at.as_micros())).filter(
            job_views::submitted_at
                .lt(at.as_micros())
                .or(job_views::submitted_at.eq(at.as_micros()).and(job_views::job_id.lt(job_id.as_str()))),
        );
    }
    query
}
