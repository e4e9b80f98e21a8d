//! Lanes: letting one go on that is held.
//!
//! Promises that an answered wish is stored; the lane carries it out within a moment.

use std::sync::Arc;

use futures_util::FutureExt;
use horizons_actors::command::CommandKind;
use serde_json::json;
use warp::http::StatusCode;
use warp::reply::Response;

use super::Shared;
use super::answer::json_answer;
use super::error::ApiError;
use super::request::ApiRequest;
use super::route::{Route, RouteMethod};

pub(super) const ROUTES: &[Route] =
    &[Route { method: RouteMethod::Post, template: "/lanes/resume", handler: |s, r| resume(s, r).boxed() }];

async fn resume(shared: Arc<Shared>, request: ApiRequest) -> Result<Response, ApiError> {
    let mut fields = request.document()?;
    let lane = fields.lane(&shared.state.board)?;
    let reason = fields.text("reason")?;
    fields.finish("`group`, `topic`, `partition`, `reason`")?;
    let state = &shared.state;
    let kind = CommandKind::ResumeLane(lane);
    let command = request.command(state.clock.as_ref(), state.randomness.as_ref(), Some(reason), kind);
    let command_id = command.command_id;

    state.commands.resume_lane(command).await?;
    Ok(json_answer(StatusCode::ACCEPTED, &json!({ "command_id": command_id })))
}
