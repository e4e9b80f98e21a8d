//! What a job's agent wrote to standard output and standard error.
//!
//! Promises the bytes as they were written, in base64 because they may be anything, at most [`PART_MAX`] of them an
//! answer, and the name of the process that has them where this one does not.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::FutureExt;
use horizons_actors::ids::{Attempt, AttemptId};
use horizons_actors::ports::output::{OutputCursor, OutputError, OutputPage, OutputQuery, OutputStream};
use serde_json::json;
use warp::http::StatusCode;
use warp::reply::Response;

use super::Shared;
use super::access::Access;
use super::answer::json_answer;
use super::document::shortened;
use super::error::{ApiError, RETRY_AFTER_DEFAULT};
use super::jobs::{find, job_id_of};
use super::request::{ApiRequest, cursor_text};
use super::route::{Route, RouteMethod};

pub(super) const ROUTES: &[Route] = &[Route {
    method: RouteMethod::Get,
    template: "/jobs/{job_id}/output",
    access: Access::LookAtJob,
    handler: |s, r| read(s, r).boxed(),
}];

/// Names the cursors of this list.
const CURSOR_KIND: &str = "output";

/// Bytes of a part unless asked otherwise.
const PART_DEFAULT: usize = 64 << 10;

/// Most bytes of a part.
const PART_MAX: usize = 1 << 20;

async fn read(shared: Arc<Shared>, request: ApiRequest) -> Result<Response, ApiError> {
    let job_id = job_id_of(&request)?;
    let query = request.query(&["stream", "attempt", "limit_bytes", "cursor"])?;
    let stream = query.parsed("stream", parse_stream)?.unwrap_or(OutputStream::Stdout);
    let attempt = query.parsed("attempt", parse_attempt)?;
    let limit_bytes = query.parsed("limit_bytes", parse_limit)?.unwrap_or(PART_DEFAULT);
    let cursor: Option<String> = query.cursor(CURSOR_KIND)?;
    let cursor = cursor.map(|text| OutputCursor::parse(&text).ok_or_else(bad_cursor)).transpose()?;
    let (row, view) = find(&shared, &job_id).await?;
    let latest = row.map(|row| row.attempt).or(view.map(|view| view.attempt)).unwrap_or(Attempt(0));
    let attempt = AttemptId { job_id, attempt: attempt.unwrap_or(latest) };

    let answer =
        shared.state.output.read(OutputQuery { attempt: attempt.clone(), stream, cursor, limit_bytes }).await;
    let OutputPage { content, next, has_more, was_cut } = answer.map_err(|error| match error {
        OutputError::Missing(_) => ApiError::NotFound { what: format!("output of attempt `{attempt}`") },
        OutputError::Elsewhere { .. } => ApiError::NotPossible {
            what: format!("output of attempt `{attempt}`"),
            reason: error.to_string(),
        },
        OutputError::Unavailable(_) => {
            ApiError::Busy { retry_after: RETRY_AFTER_DEFAULT, reason: error.to_string() }
        }
    })?;
    let page = json!({
        "attempt": attempt.attempt,
        "stream": stream.name(),
        "content_base64": STANDARD.encode(&content),
        "next": cursor_text(CURSOR_KIND, &next.to_string()),
        "has_more": has_more,
        "was_cut": was_cut,
    });
    Ok(json_answer(StatusCode::OK, &page))
}

fn bad_cursor() -> ApiError {
    super::request::bad_parameter("cursor", format!("wanted `next` of an earlier part of {CURSOR_KIND}"))
}

fn parse_stream(name: &str) -> Result<OutputStream, String> {
    OutputStream::from_name(name).ok_or_else(|| {
        let names = OutputStream::ALL.map(OutputStream::name).join("`, `");
        format!("wanted one of `{names}`, got `{}`", shortened(name))
    })
}

fn parse_attempt(text: &str) -> Result<Attempt, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(Attempt(number)),
        _ => Err(format!("wanted a whole number of at least 1, got `{}`", shortened(text))),
    }
}

fn parse_limit(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(limit) if (1..=PART_MAX).contains(&limit) => Ok(limit),
        _ => Err(format!("wanted 1..={PART_MAX}, got `{}`", shortened(text))),
    }
}
