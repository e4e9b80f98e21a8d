//! Lanes that are held: which there are, and letting one go on.
//!
//! Promises that an answered wish is stored; the lane carries it out within a moment.

use std::sync::Arc;

use futures_util::FutureExt;
use horizons_actors::command::CommandKind;
use horizons_actors::ids::{Group, Topic};
use serde_json::{Value, json};
use warp::http::StatusCode;
use warp::reply::Response;

use super::Shared;
use super::access::Access;
use super::answer::{json_answer, with_lane};
use super::error::ApiError;
use super::request::ApiRequest;
use super::route::{Route, RouteMethod};

pub(super) const ROUTES: &[Route] = &[
    Route {
        method: RouteMethod::Get,
        template: "/lanes/paused",
        access: Access::Look,
        handler: |s, r| paused(s, r).boxed(),
    },
    Route {
        method: RouteMethod::Post,
        template: "/lanes/resume",
        access: Access::Operate,
        handler: |s, r| resume(s, r).boxed(),
    },
];

/// Lists lanes as they are stored: whichever process has them, and where none has. There are no more than partitions
/// of each group, so this list has no pages.
async fn paused(shared: Arc<Shared>, request: ApiRequest) -> Result<Response, ApiError> {
    let query = request.query(&["group", "topic"])?;
    let group = query.parsed("group", Group::parse)?;
    let topic = query.parsed("topic", Topic::parse)?;
    let turn = shared.lists.turn().await?;
    let held = shared.state.queries.held_lanes().await?;
    let wanted = held.iter().filter(|held| {
        group.as_ref().is_none_or(|group| held.lane.group == *group)
            && topic.is_none_or(|topic| held.lane.topic_partition.topic == topic)
    });
    let lanes: Vec<Value> = wanted
        .map(|held| with_lane(&held.lane, json!({ "generation": held.generation, "reason": held.reason })))
        .collect();
    Ok(turn.answer(&json!({ "lanes": lanes })))
}

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
