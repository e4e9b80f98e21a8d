//! Parked keys: list, release and discard.
//!
//! Promises that an answered wish is stored; the lane carries it out later and in order.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures_util::FutureExt;
use horizons_actors::command::{Command, CommandKind, ParkedKeyId};
use horizons_actors::ids::UuidText;
use horizons_actors::ids::{Generation, Group, LaneKey, Partition, Topic, TopicPartition};
use horizons_actors::lane::status::StatusBoard;
use horizons_actors::ports::commands::CommandError;
use horizons_actors::ports::query::{ParkedId, StoredParkedKey};
use serde_json::{Value, json};
use warp::http::StatusCode;
use warp::reply::Response;

use super::Shared;
use super::access::Access;
use super::answer::{base64_text, json_answer, with_lane};
use super::document::invalid;
use super::error::ApiError;
use super::request::{ApiRequest, bad_parameter, cursor_text};
use super::route::{Route, RouteMethod};

pub(super) const ROUTES: &[Route] = &[
    Route {
        method: RouteMethod::Get,
        template: "/parked",
        access: Access::Look,
        handler: |s, r| list(s, r).boxed(),
    },
    Route {
        method: RouteMethod::Post,
        template: "/parked/release",
        access: Access::Operate,
        handler: |s, r| wish(s, r, CommandKind::ReleaseKey).boxed(),
    },
    Route {
        method: RouteMethod::Post,
        template: "/parked/discard",
        access: Access::Operate,
        handler: |s, r| wish(s, r, CommandKind::DiscardHead).boxed(),
    },
];

/// Names the cursors of this list.
const CURSOR_KIND: &str = "parked keys";

async fn list(shared: Arc<Shared>, request: ApiRequest) -> Result<Response, ApiError> {
    let query = request.query(&["limit", "cursor"])?;
    let limit = query.limit()?;
    let after: Option<(Group, Topic, Partition, Generation, String)> = query.cursor(CURSOR_KIND)?;
    let after = after.map(|(group, topic, partition, generation, key)| {
        let lane = LaneKey { group, topic_partition: TopicPartition { topic, partition } };
        let key = BASE64.decode(key).map_err(|_| not_of_ours())?;
        Ok::<_, ApiError>(ParkedId { lane, generation, key: key.into() })
    });
    let after = after.transpose()?;
    let turn = shared.lists.turn().await?;
    let keys = shared.state.queries.parked_keys_after(after, limit).await?;
    let next = keys.last().filter(|_| keys.has_more).map(position_text);
    let parked: Vec<Value> = keys.iter().map(key_json).collect();
    Ok(turn.answer(&json!({ "parked": parked, "next": next })))
}

/// Says that a cursor is none that a page of parked keys has given.
fn not_of_ours() -> ApiError {
    bad_parameter("cursor", format!("wanted `next` of an earlier page of {CURSOR_KIND}"))
}

fn position_text(key: &StoredParkedKey) -> String {
    let TopicPartition { topic, partition } = key.lane.topic_partition;
    cursor_text(CURSOR_KIND, &(&key.lane.group, topic, partition, key.generation, base64_text(&key.key)))
}

fn key_json(key: &StoredParkedKey) -> Value {
    let row = json!({
        "generation": key.generation,
        "key_base64": base64_text(&key.key),
        "head": key.head,
        "reason": key.reason,
        "detail": key.detail,
        "records": key.records,
        "wish": key.wish.name(),
        "parked_at": key.parked_at,
    });
    with_lane(&key.lane, row)
}

async fn wish(
    shared: Arc<Shared>,
    request: ApiRequest,
    kind: fn(ParkedKeyId) -> CommandKind,
) -> Result<Response, ApiError> {
    let (key, reason) = read_key(&request, &shared.state.board)?;
    let in_lower_case = lower_case_uuid(&key);
    let state = &shared.state;
    let command = request.command(state.clock.as_ref(), state.randomness.as_ref(), Some(reason), kind(key));
    let command_id = command.command_id;

    let asked = state.commands.set_parked_wish(command.clone()).await;
    match (asked, in_lower_case) {
        (Err(CommandError::NotFound { .. }), Some(key)) => {
            state.commands.set_parked_wish(Command { kind: kind(key), ..command }).await?;
        }
        (asked, _) => asked?,
    }
    Ok(json_answer(StatusCode::ACCEPTED, &json!({ "command_id": command_id })))
}

/// Gives the key of the one job that a UUID in another letter case means. A record's key is bytes, and one in
/// upper case can itself be parked: so the bytes as they were given come first.
fn lower_case_uuid(key: &ParkedKeyId) -> Option<ParkedKeyId> {
    let text = std::str::from_utf8(&key.key).ok()?;
    match UuidText::of(text) {
        UuidText::OtherCase(uuid) => {
            Some(ParkedKeyId { lane: key.lane.clone(), key: Bytes::from(uuid.hyphenated().to_string()) })
        }
        UuidText::LowerCase(_) | UuidText::Wrapped | UuidText::None => None,
    }
}

fn read_key(request: &ApiRequest, board: &StatusBoard) -> Result<(ParkedKeyId, String), ApiError> {
    let mut fields = request.document()?;
    let lane = fields.lane(board)?;
    let key = fields.optional_base64("key_base64")?;
    let key = key.ok_or_else(|| invalid("key_base64", "wanted the key in base64, got nothing"))?;
    let reason = fields.text("reason")?;
    fields.finish("`group`, `topic`, `partition`, `key_base64`, `reason`")?;
    Ok((ParkedKeyId { lane, key }, reason))
}
