//! The audit trail: entries and the state of every log.
//!
//! Promises the stored hashes and the record whole to the byte, so that a verifier needs nothing else; beside
//! them, where the record is an event, what it says.

use std::sync::Arc;

use futures_util::FutureExt;
use horizons_actors::auditor::{root, to_hex};
use horizons_actors::event::{Event, Payload, decode, event_json};
use horizons_actors::ids::{Generation, JobId, Partition, Topic, TopicPartition};
use horizons_actors::lane::status::StatusBoard;
use horizons_actors::ports::query::{AuditFilter, AuditPosition, StoredAuditEntry, StoredAuditLog};
use serde_json::{Value, json};
use warp::http::StatusCode;
use warp::reply::Response;

use super::Shared;
use super::access::Access;
use super::answer::{json_answer, record_json};
use super::document::shortened;
use super::error::ApiError;
use super::request::{ApiRequest, cursor_text};
use super::route::{Route, RouteMethod};

pub(super) const ROUTES: &[Route] = &[
    Route {
        method: RouteMethod::Get,
        template: "/audit/entries",
        access: Access::Look,
        handler: |s, r| entries(s, r).boxed(),
    },
    Route {
        method: RouteMethod::Get,
        template: "/audit/logs",
        access: Access::Look,
        handler: |s, r| logs(s, r).boxed(),
    },
];

/// Names the cursors of this list.
const CURSOR_KIND: &str = "audit entries";

async fn entries(shared: Arc<Shared>, request: ApiRequest) -> Result<Response, ApiError> {
    let query = request.query(&["topic", "partition", "generation", "job", "limit", "cursor"])?;
    let topic = query.parsed("topic", Topic::parse)?;
    let after: Option<(Topic, Partition, Generation, u64)> = query.cursor(CURSOR_KIND)?;
    let filter = AuditFilter {
        topic,
        partition: query.parsed("partition", |text| parse_partition(text, topic, &shared.state.board))?,
        generation: query.parsed("generation", parse_generation)?,
        job_id: query.parsed("job", JobId::asked_for)?,
        after: after.map(|(topic, partition, generation, index)| AuditPosition {
            topic_partition: TopicPartition { topic, partition },
            generation,
            index,
        }),
        limit: query.limit()?,
    };
    let turn = shared.lists.turn().await?;
    let page = shared.state.queries.audit_entries(filter).await?;
    let next = page.next.map(|AuditPosition { topic_partition, generation, index }| {
        let TopicPartition { topic, partition } = topic_partition;
        cursor_text(CURSOR_KIND, &(topic, partition, generation, index))
    });
    let entries: Vec<Value> = page.entries.iter().map(entry_json).collect();
    Ok(turn.answer(&json!({ "entries": entries, "next": next })))
}

/// Reads a partition, which means something together with its topic only.
fn parse_partition(text: &str, topic: Option<Topic>, board: &StatusBoard) -> Result<u16, String> {
    let Some(topic) = topic else { return Err("wanted `topic` beside it".to_owned()) };
    let partition = text.parse::<u16>().ok().filter(|number| *number < board.layout(topic).partitions());
    let last = board.layout(topic).partitions().saturating_sub(1);
    partition.ok_or_else(|| format!("wanted 0..={last} of `{topic}`, got `{}`", shortened(text)))
}

/// Reads a generation of a partition.
fn parse_generation(text: &str) -> Result<Generation, String> {
    let number = text.parse::<u32>();
    number.map(Generation).map_err(|_| format!("wanted a number from 0, got `{}`", shortened(text)))
}

fn entry_json(entry: &StoredAuditEntry) -> Value {
    let TopicPartition { topic, partition } = entry.position.topic_partition;
    let event = entry.record.as_ref().and_then(|record| decode(topic, record).ok());
    json!({
        "topic": topic,
        "partition": partition,
        "generation": entry.position.generation,
        "index": entry.position.index,
        "leaf_hash": to_hex(&entry.leaf_hash),
        "chain_hash": to_hex(&entry.chain_hash),
        "mark": entry.mark,
        "appended_at": entry.appended_at,
        "event": event.as_ref().map(said_by),
        "record": entry.record.as_ref().map(record_json),
    })
}

/// Tells what an event says in the words of an audit trail. An event that is no act of its own is its type,
/// done to its job, with all it says as changes.
fn said_by(event: &Event) -> Value {
    let whole = event_json(event);
    let (action, resource_id, changes) = match &event.payload {
        Payload::AuditActionRecorded(act) => {
            (act.action.as_str(), Some(act.resource_id.as_str()), json!(act.changes))
        }
        payload => {
            let changes = whole.get("payload").cloned().unwrap_or_default();
            (payload.event_type().name(), event.job_id.as_ref().map(JobId::as_str), changes)
        }
    };
    json!({
        "event_id": event.event_id,
        "event_type": event.payload.event_type().name(),
        "action": action,
        "resource_id": resource_id,
        "user_id": event.user_id,
        "timestamp": event.timestamp,
        "correlation_id": event.correlation_id,
        "job_id": event.job_id,
        "changes": changes,
    })
}

async fn logs(shared: Arc<Shared>, request: ApiRequest) -> Result<Response, ApiError> {
    request.query(&[])?;
    let logs = shared.state.queries.audit_logs().await?;
    let logs: Vec<Value> = logs.iter().map(log_json).collect();
    Ok(json_answer(StatusCode::OK, &json!({ "log_id": shared.state.log_id, "logs": logs })))
}

fn log_json(stored: &StoredAuditLog) -> Value {
    let log = &stored.state;
    let segment = &log.segment;
    json!({
        "topic": stored.topic_partition.topic,
        "partition": stored.topic_partition.partition,
        "generation": stored.generation,
        "log_id": stored.log_id,
        "size": log.size,
        "root": to_hex(&root(log)),
        "chain_head": to_hex(&log.chain_head),
        "frontier": log.frontier.iter().map(to_hex).collect::<Vec<_>>(),
        "last_offset": log.last_offset,
        "segment": {
            "number": segment.number,
            "first_index": segment.first_index,
            "opened_at": segment.opened_at,
        },
    })
}
