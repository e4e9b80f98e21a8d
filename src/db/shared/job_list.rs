//! The list of jobs: the orchestrator's own and, in the same order, those of other producers.
//!
//! Promises pages that join whatever happens between them, as every job stands at one place for ever: by when it was
//! submitted, then by its id; or by its id alone, where jobs are asked for whose ids begin alike. That list is read
//! from the indexes over ids, no further than the page.

use diesel::dsl::{exists, not};
use diesel::prelude::*;
use horizons_actors::event::JobStatus;
use horizons_actors::ids::IdRange;
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

/// Put behind a column so that no index over it is used: SQLite would sort all jobs of a user or status rather than walk
/// the few whose ids begin alike.
const NOTHING: &str = "";

/// What one statement lists: jobs of one table, all or those of a range of ids.
type Part = (JobOrigin, Option<IdRange>);

/// Lists jobs, newest first or in order of id.
pub(super) fn list(connection: &mut Connection, filter: &JobFilter) -> Result<Page<ListedJob>, StoreError> {
    in_snapshot(connection, |connection| list_one_state(connection, filter))
}

fn list_one_state(connection: &mut Connection, filter: &JobFilter) -> Result<Page<ListedJob>, StoreError> {
    let mut room = PageRoom::new(filter.limit);
    let rows = weighed_rows(&room);
    let parts = parts(filter);
    let mut places: Vec<(Place, usize)> = Vec::new();
    for (part, (origin, range)) in parts.iter().enumerate() {
        let found: Vec<Place> = match origin {
            JobOrigin::Owned => owned(filter, range.as_ref())
                .select((
                    jobs::submitted_at,
                    jobs::job_id,
                    weigh(weight!("parameters", "cancel_reason", "error_message")),
                ))
                .limit(rows)
                .load(connection)
                .map_err(engine)?,
            JobOrigin::External => {
                let found: Vec<(i64, String)> = external(filter, range.as_ref())
                    .select((job_views::submitted_at, job_views::job_id))
                    .limit(rows)
                    .load(connection)
                    .map_err(engine)?;
                found.into_iter().map(|(at, job_id)| (at, job_id, 0)).collect()
            }
        };
        places.extend(found.into_iter().map(|place| (place, part)));
    }
    match filter.id_beginning {
        Some(_) => places.sort_by(|(left, _), (right, _)| left.1.cmp(&right.1)),
        None => places.sort_by(|(left, _), (right, _)| (right.0, &right.1).cmp(&(left.0, &left.1))),
    }
    let (fitting, has_more) = fit(&mut room, places.iter().map(|((_, _, weight), _)| *weight));
    places.truncate(usize::try_from(fitting).unwrap_or_default());

    let mut listed = Vec::with_capacity(places.len());
    for (part, (origin, range)) in parts.iter().enumerate() {
        let count = places.iter().filter(|(_, of)| *of == part).count();
        if count == 0 {
            continue;
        }
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        match origin {
            JobOrigin::Owned => {
                let rows: Vec<JobColumns> = owned(filter, range.as_ref())
                    .select(jobs::all_columns)
                    .limit(count)
                    .load(connection)
                    .map_err(engine)?;
                listed.extend(into_rows(rows)?.into_iter().map(|row| ListedJob::Owned(Box::new(row))));
            }
            JobOrigin::External => {
                let rows: Vec<JobViewRow> = external(filter, range.as_ref())
                    .select(job_views::all_columns)
                    .limit(count)
                    .load(connection)
                    .map_err(engine)?;
                for row in rows {
                    listed.push(ListedJob::External(Box::new(row.into_view()?)));
                }
            }
        }
    }
    match filter.id_beginning {
        Some(_) => listed.sort_by(|left, right| left.position().1.cmp(right.position().1)),
        None => listed.sort_by(|left, right| right.position().cmp(&left.position())),
    }
    Ok(Page { rows: listed, has_more })
}

/// Gives the parts of a list.
fn parts(filter: &JobFilter) -> Vec<Part> {
    let ranges: Vec<Option<IdRange>> = match &filter.id_beginning {
        Some(beginning) => beginning.ranges().into_iter().map(Some).collect(),
        None => vec![None],
    };
    let origins = [JobOrigin::Owned, JobOrigin::External];
    let wanted = origins.into_iter().filter(|origin| filter.origin.is_none_or(|wanted| wanted == *origin));
    wanted.flat_map(|origin| ranges.iter().map(move |range| (origin, range.clone()))).collect()
}

/// Limits a statement over this table to a range of ids or, newest first, to what stands behind a job.
macro_rules! placed {
    ($query:expr, $table:ident, $filter:expr, $range:expr) => {{
        let mut query = $query;
        match ($range, &$filter.behind) {
            (Some(range), behind) => {
                query = query.order($table::job_id.asc()).filter($table::job_id.ge(range.from.as_str()));
                if let Some(below) = &range.below {
                    query = query.filter($table::job_id.lt(below.as_str()));
                }
                if let Some((_, job_id)) = behind {
                    query = query.filter($table::job_id.gt(job_id.as_str()));
                }
            }
            (None, behind) => {
                query = query.order(($table::submitted_at.desc(), $table::job_id.desc()));
                if let Some((at, job_id)) = behind {
                    // The first condition is implied by the second; it lets the index be entered at the cursor.
                    query = query.filter($table::submitted_at.le(at.as_micros())).filter(
                        $table::submitted_at
                            .lt(at.as_micros())
                            .or($table::submitted_at.eq(at.as_micros()).and($table::job_id.lt(job_id.as_str()))),
                    );
                }
            }
        }
        query
    }};
}

/// Selects the orchestrator's jobs.
fn owned<'a>(filter: &'a JobFilter, range: Option<&'a IdRange>) -> jobs::BoxedQuery<'a, Backend> {
    let mut query = placed!(jobs::table.into_boxed(), jobs, filter, range);
    let is_by_id = range.is_some();
    if let Some(user_id) = filter.user_id.as_ref().map(|user_id| user_id.as_str()) {
        query = match is_by_id {
            false => query.filter(jobs::user_id.eq(user_id)),
            true => query.filter(jobs::user_id.concat(NOTHING).eq(user_id)),
        };
    }
    if let Some(status) = filter.status.map(JobStatus::name) {
        query = match is_by_id {
            false => query.filter(jobs::status.eq(status)),
            true => query.filter(jobs::status.concat(NOTHING).eq(status)),
        };
    }
    query
}

/// Selects the newest views of other producers' jobs.
fn external<'a>(filter: &'a JobFilter, range: Option<&'a IdRange>) -> job_views::BoxedQuery<'a, Backend> {
    let newer = diesel::alias!(job_views as newer_views);
    let query = job_views::table
        .into_boxed()
        // As the index says it, so that it is used.
        .filter(not(job_views::is_owned))
        .filter(not(exists(jobs::table.filter(jobs::job_id.eq(job_views::job_id)))))
        .filter(not(exists(
            newer
                .filter(newer.field(job_views::job_id).eq(job_views::job_id))
                .filter(newer.field(job_views::lane).gt(job_views::lane)),
        )));
    let mut query = placed!(query, job_views, filter, range);
    if let Some(user_id) = &filter.user_id {
        query = query.filter(job_views::user_id.eq(user_id.as_str()));
    }
    if let Some(status) = filter.status {
        query = query.filter(job_views::status.eq(status.name()));
    }
    query
}
