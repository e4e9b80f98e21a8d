//! The actor tree, as [`TreeSnapshot`](horizons_actors::snapshot::TreeSnapshot) has it.

use std::sync::Arc;

use futures_util::FutureExt;
use serde_json::json;
use warp::http::StatusCode;
use warp::reply::Response;

use super::Shared;
use super::access::Access;
use super::answer::json_answer;
use super::error::ApiError;
use super::request::ApiRequest;
use super::route::{Route, RouteMethod};

pub(super) const ROUTES: &[Route] = &[Route {
    method: RouteMethod::Get,
    template: "/actors",
    access: Access::Look,
    handler: |s, r| tree(s, r).boxed(),
}];

async fn tree(shared: Arc<Shared>, request: ApiRequest) -> Result<Response, ApiError> {
    request.query(&[])?;
    let snapshot = shared.state.board.snapshot(shared.state.clock.reading());
    Ok(json_answer(StatusCode::OK, &json!(snapshot)))
}
