//! Gaps in the log: list and accept.
//!
//! Promises that the list says what accepting each gap does and costs, and that an acceptance is about the gap as
//! it was shown: when it has changed since, it is refused.

use std::sync::Arc;

use futures_util::FutureExt;
use horizons_actors::command::CommandKind;
use horizons_actors::gap::{GapAcceptance, GapKind};
use horizons_actors::ids::Offset;
use horizons_actors::lane::status::StatusBoard;
use horizons_actors::ports::query::{GapPosition, StoredGap};
use serde_json::{Value, json};
use warp::http::StatusCode;
use warp::reply::Response;

use super::Shared;
use super::access::Access;
use super::answer::json_answer;
use super::error::ApiError;
use super::request::{ApiRequest, cursor_text};
use super::route::{Route, RouteMethod};

pub(super) const ROUTES: &[Route] = &[
    Route {
        method: RouteMethod::Get,
        template: "/gaps",
        access: Access::Look,
        handler: |s, r| list(s, r).boxed(),
    },
    Route {
        method: RouteMethod::Post,
        template: "/gaps/accept",
        access: Access::Operate,
        handler: |s, r| accept(s, r).boxed(),
    },
];

/// Names the cursors of this list.
const CURSOR_KIND: &str = "gaps";

async fn list(shared: Arc<Shared>, request: ApiRequest) -> Result<Response, ApiError> {
    let query = request.query(&["limit", "cursor"])?;
    let limit = query.limit()?;
    let after: Option<GapPosition> = query.cursor(CURSOR_KIND)?;
    let turn = shared.lists.turn().await?;
    let gaps = shared.state.queries.gaps_after(after, limit).await?;
    let position = |gap: &StoredGap| cursor_text(CURSOR_KIND, &gap.position());
    let next = gaps.last().filter(|_| gaps.has_more).map(position);
    let gaps: Vec<Value> = gaps.iter().map(StoredGap::shown).collect();
    Ok(turn.answer(&json!({ "gaps": gaps, "next": next })))
}

async fn accept(shared: Arc<Shared>, request: ApiRequest) -> Result<Response, ApiError> {
    let (acceptance, reason) = read_acceptance(&request, &shared.state.board)?;
    let state = &shared.state;
    let kind = CommandKind::AcceptGap(acceptance);
    let command = request.command(state.clock.as_ref(), state.randomness.as_ref(), Some(reason), kind);
    let command_id = command.command_id;

    let accepted = state.commands.accept_gap(command).await?;
    let answer = json!({
        "command_id": command_id,
        "generation": accepted.generation,
        "resumes_at": accepted.resumes_at,
    });
    Ok(json_answer(StatusCode::ACCEPTED, &answer))
}

fn read_acceptance(request: &ApiRequest, board: &StatusBoard) -> Result<(GapAcceptance, String), ApiError> {
    let mut fields = request.document()?;
    let lane = fields.lane(board)?;
    let kind = fields.parsed("kind", |text| {
        GapKind::from_name(text).ok_or("wanted `trimmed`, `beyond_end`, `replaced` or `corrupt`")
    })?;
    let next = fields.number("next")?;
    let low = fields.number("low")?;
    let reason = fields.text("reason")?;
    fields.finish("`group`, `topic`, `partition`, `kind`, `next`, `low`, `reason`")?;
    Ok((GapAcceptance { lane, kind, next: Offset(next), low: Offset(low) }, reason))
}
