//! Records that other producers made, appended to a topic as they are.
//!
//! Promises that key, value and header values reach the log byte for byte, null apart from empty. Headers are
//! written in the order of their names, because a JSON object has no other. Nothing is decoded here: a record
//! that is no event is appended all the same, and becomes a dead letter. Where the event log is on Kafka the
//! records are on their way when the answer comes: it tells their places in the outbox, which are not those
//! that Kafka will give them.

use std::sync::Arc;

use futures_util::FutureExt;
use horizons_actors::command::CommandKind;
use horizons_actors::ids::{EventId, Topic};
use horizons_actors::ports::commands::ExternalRecord;
use horizons_actors::record::Headers;
use serde_json::{Map, Value, json};
use warp::http::StatusCode;
use warp::reply::Response;

use super::Shared;
use super::access::Access;
use super::answer::json_answer;
use super::document::{Fields, invalid, shortened};
use super::error::ApiError;
use super::request::ApiRequest;
use super::route::{Route, RouteMethod};

pub(super) const ROUTES: &[Route] = &[
    Route {
        method: RouteMethod::Post,
        template: "/topics/{topic}/records",
        access: Access::Bring,
        handler: |s, r| append(s, r).boxed(),
    },
    Route {
        method: RouteMethod::Post,
        template: "/topics/{topic}/layout",
        access: Access::Operate,
        handler: |s, r| adopt(s, r).boxed(),
    },
];

/// Lets partitions count that were added to a topic, from where they end now.
async fn adopt(shared: Arc<Shared>, request: ApiRequest) -> Result<Response, ApiError> {
    let topic = read_topic(&request)?;
    let mut fields = request.document()?;
    let reason = fields.text("reason")?;
    fields.finish("`reason`")?;
    let state = &shared.state;
    let kind = CommandKind::AdoptLayout(state.commands.look_at_topic(topic).await?);
    let command = request.command(state.clock.as_ref(), state.randomness.as_ref(), Some(reason), kind);
    let command_id = command.command_id;

    let layout = state.commands.adopt_layout(command).await?;
    let epoch = layout.newest();
    let answer = json!({ "command_id": command_id, "partitions": epoch.partitions, "from": epoch.from });
    Ok(json_answer(StatusCode::ACCEPTED, &answer))
}

fn read_topic(request: &ApiRequest) -> Result<Topic, ApiError> {
    let name = request.path_parameter(0);
    Topic::parse(name).map_err(|_| ApiError::NotFound { what: format!("topic `{}`", shortened(name)) })
}

async fn append(shared: Arc<Shared>, request: ApiRequest) -> Result<Response, ApiError> {
    let topic = read_topic(&request)?;
    let records = read_records(request.document()?)?;
    let state = &shared.state;
    let kind = CommandKind::AppendRecord { topic, record_id: EventId(state.randomness.next_uuid()) };
    let command = request.command(state.clock.as_ref(), state.randomness.as_ref(), None, kind);

    let appended = state.commands.append_records(command, records).await?;
    let (status, place) = match state.relay {
        None => (StatusCode::CREATED, "offset"),
        Some(_) => (StatusCode::ACCEPTED, "outbox_offset"),
    };
    let appended: Vec<Value> =
        appended.iter().map(|at| json!({ "partition": at.partition, place: at.offset })).collect();
    Ok(json_answer(status, &json!({ "appended": appended })))
}

fn read_records(mut fields: Fields) -> Result<Vec<ExternalRecord>, ApiError> {
    let items = fields.list("records")?;
    fields.finish("`records`")?;
    let read = |(index, item)| read_record(Fields::of_item("records", index, item)?);
    items.into_iter().enumerate().map(read).collect()
}

fn read_record(mut fields: Fields) -> Result<ExternalRecord, ApiError> {
    let key = fields.optional_base64("key_base64")?;
    let payload = fields.optional_base64("value_base64")?;
    let given = fields.object("headers")?;
    let headers = headers_of(&given, &fields)?;
    fields.finish("`key_base64`, `value_base64`, `headers`")?;
    Ok(ExternalRecord { key, headers, payload })
}

fn headers_of(given: &Map<String, Value>, fields: &Fields) -> Result<Headers, ApiError> {
    let mut headers = Vec::with_capacity(given.len());
    for (name, value) in given {
        let value = match value {
            Value::Null => None,
            Value::String(text) => Some(text.as_bytes()),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                let field = fields.path(&format!("headers.{name}"));
                return Err(invalid(field, "wanted a text or null"));
            }
        };
        headers.push((name.as_bytes(), value));
    }
    Ok(Headers::new(headers))
}
