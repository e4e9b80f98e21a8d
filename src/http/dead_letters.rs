//! Dead letters: records that no lane could apply, with their original bytes.

use std::sync::Arc;

use futures_util::FutureExt;
use horizons_actors::ids::{Generation, Group, LaneKey, Offset, Partition, Topic, TopicPartition};
use horizons_actors::ports::query::{DeadLetterId, StoredDeadLetter};
use serde_json::{Value, json};
use warp::reply::Response;

use super::Shared;
use super::access::Access;
use super::answer::{record_json, with_lane};
use super::error::ApiError;
use super::request::{ApiRequest, cursor_text};
use super::route::{Route, RouteMethod};

pub(super) const ROUTES: &[Route] = &[Route {
    method: RouteMethod::Get,
    template: "/dead-letters",
    access: Access::Look,
    handler: |s, r| list(s, r).boxed(),
}];

/// Names the cursors of this list.
const CURSOR_KIND: &str = "dead letters";

async fn list(shared: Arc<Shared>, request: ApiRequest) -> Result<Response, ApiError> {
    let query = request.query(&["group", "limit", "cursor"])?;
    let limit = query.limit()?;
    let group = query.parsed("group", Group::parse)?;
    let after: Option<(Group, Topic, Partition, Generation, Offset)> = query.cursor(CURSOR_KIND)?;
    let after = after.map(|(group, topic, partition, generation, offset)| {
        let topic_partition = TopicPartition { topic, partition };
        let lane = LaneKey { group, topic_partition };
        DeadLetterId { lane, generation, offset }
    });
    let turn = shared.lists.turn().await?;
    let letters = shared.state.queries.dead_letters(group, after, limit).await?;
    let next = letters.last().filter(|_| letters.has_more).map(position_text);
    let rows: Vec<Value> = letters.iter().map(letter_json).collect();
    Ok(turn.answer(&json!({ "dead_letters": rows, "next": next })))
}

fn position_text(letter: &StoredDeadLetter) -> String {
    let TopicPartition { topic, partition } = letter.lane.topic_partition;
    cursor_text(CURSOR_KIND, &(&letter.lane.group, topic, partition, letter.generation, letter.record.offset))
}

fn letter_json(letter: &StoredDeadLetter) -> Value {
    let row = json!({
        "generation": letter.generation,
        "offset": letter.record.offset,
        "state": letter.state,
        "reason": letter.reason,
        "detail": letter.detail,
        "attempts": letter.attempts,
        "rejected_at": letter.rejected_at,
        "updated_at": letter.updated_at,
        "record": record_json(&letter.record),
    });
    with_lane(&letter.lane, row)
}
