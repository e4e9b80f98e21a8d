//! The relay to Kafka: how publishing stands, and what becomes of a record that Kafka refuses for good.
//!
//! Promises that an answered order is stored. With an embedded event log there is no relay: 404.

use std::sync::Arc;

use futures_util::FutureExt;
use horizons_actors::command::CommandKind;
use horizons_actors::ids::{LogTopic, Offset, Partition};
use horizons_actors::lane::status::StatusBoard;
use horizons_actors::ports::outbox::{OutboxPartition, SetAsideRecord};
use horizons_actors::ports::relay::RelayView;
use serde_json::{Value, json};
use warp::http::StatusCode;
use warp::reply::Response;

use super::Shared;
use super::access::Access;
use super::answer::{json_answer, record_json};
use super::document::{Fields, invalid};
use super::error::ApiError;
use super::request::{ApiRequest, bad_parameter, cursor_text};
use super::route::{Route, RouteMethod};

pub(super) const ROUTES: &[Route] = &[
    Route {
        method: RouteMethod::Get,
        template: "/relay",
        access: Access::Look,
        handler: |s, r| status(s, r).boxed(),
    },
    Route {
        method: RouteMethod::Get,
        template: "/relay/set-aside",
        access: Access::Look,
        handler: |s, r| list_set_aside(s, r).boxed(),
    },
    Route {
        method: RouteMethod::Post,
        template: "/relay/set-aside",
        access: Access::Operate,
        handler: |s, r| set_aside(s, r).boxed(),
    },
    Route {
        method: RouteMethod::Post,
        template: "/relay/send-again",
        access: Access::Operate,
        handler: |s, r| send_again(s, r).boxed(),
    },
];

/// Names the cursors of this list.
const CURSOR_KIND: &str = "records set aside";

/// Gives the relay.
///
/// *Errors*: [`ApiError::NotFound`] where the event log is embedded.
fn relay(shared: &Shared) -> Result<&Arc<dyn RelayView>, ApiError> {
    let absent = || ApiError::NotFound { what: "relay (the event log is embedded)".to_owned() };
    shared.state.relay.as_ref().ok_or_else(absent)
}

async fn status(shared: Arc<Shared>, request: ApiRequest) -> Result<Response, ApiError> {
    request.query(&[])?;
    Ok(json_answer(StatusCode::OK, &json!(relay(&shared)?.snapshot())))
}

async fn list_set_aside(shared: Arc<Shared>, request: ApiRequest) -> Result<Response, ApiError> {
    let query = request.query(&["limit", "cursor"])?;
    let limit = query.limit()?;
    let after: Option<(String, Partition, Offset)> = query.cursor(CURSOR_KIND)?;
    let after = after.map(|(topic, partition, offset)| {
        let wanted = || bad_parameter("cursor", format!("wanted `next` of an earlier page of {CURSOR_KIND}"));
        let topic = LogTopic::parse(&topic).map_err(|_| wanted())?;
        Ok::<_, ApiError>((OutboxPartition { topic, partition }, offset))
    });
    let after = after.transpose()?;
    let relay = relay(&shared)?;
    let turn = shared.lists.turn().await?;
    let records = relay.set_aside_records(after, limit).await?;
    let next = records.last().filter(|_| records.has_more).map(|kept| {
        let OutboxPartition { topic, partition } = kept.partition;
        cursor_text(CURSOR_KIND, &(topic.to_string(), partition, kept.record.offset))
    });
    let rows: Vec<Value> = records.iter().map(set_aside_json).collect();
    Ok(turn.answer(&json!({ "set_aside": rows, "next": next })))
}

fn set_aside_json(kept: &SetAsideRecord) -> Value {
    json!({
        "topic": kept.partition.topic.to_string(),
        "partition": kept.partition.partition,
        "command_id": kept.command_id,
        "set_aside_at": kept.set_aside_at,
        "record": record_json(&kept.record),
    })
}

async fn set_aside(shared: Arc<Shared>, request: ApiRequest) -> Result<Response, ApiError> {
    relay(&shared)?;
    let mut fields = request.document()?;
    let (topic, partition) = read_partition(&mut fields, &shared.state.board)?;
    let offset = Offset(fields.number("offset")?);
    let reason = fields.text("reason")?;
    fields.finish("`topic`, `partition`, `offset`, `reason`")?;
    let state = &shared.state;
    let kind = CommandKind::SetAsideRecord { topic, partition, offset };
    let command = request.command(state.clock.as_ref(), state.randomness.as_ref(), Some(reason), kind);
    let command_id = command.command_id;

    state.commands.set_aside_record(command).await?;
    Ok(json_answer(StatusCode::OK, &json!({ "command_id": command_id })))
}

async fn send_again(shared: Arc<Shared>, request: ApiRequest) -> Result<Response, ApiError> {
    relay(&shared)?;
    let mut fields = request.document()?;
    let (topic, partition) = read_partition(&mut fields, &shared.state.board)?;
    let reason = fields.text("reason")?;
    fields.finish("`topic`, `partition`, `reason`")?;
    let state = &shared.state;
    let kind = CommandKind::SendRecordAgain { topic, partition };
    let command = request.command(state.clock.as_ref(), state.randomness.as_ref(), Some(reason), kind);
    let command_id = command.command_id;

    state.commands.send_record_again(command).await?;
    Ok(json_answer(StatusCode::ACCEPTED, &json!({ "command_id": command_id })))
}

fn read_partition(fields: &mut Fields, board: &StatusBoard) -> Result<(LogTopic, Partition), ApiError> {
    let topic = fields.parsed("topic", LogTopic::parse)?;
    let partition = fields.partition("partition")?;
    let partitions = match topic {
        LogTopic::Record(of) => board.layout(of).partitions(),
        LogTopic::DeadLetter(source) => source.partitions(),
    };
    if partition >= partitions {
        let last = partitions.saturating_sub(1);
        return Err(invalid("partition", format!("wanted 0..={last} of `{topic}`, got {partition}")));
    }
    Ok((topic, Partition(partition)))
}
