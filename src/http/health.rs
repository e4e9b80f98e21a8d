//! Whether the process lives, and whether it does its work.
//!
//! Promises that `/live` asks nobody, and that `/ready` names every probe with its state. What makes it answer 503
//! is decided by `horizons_actors::probes`.

use std::sync::Arc;

use futures_util::FutureExt;
use horizons_actors::probes::ProbeState;
use serde_json::json;
use warp::http::StatusCode;
use warp::reply::Response;

use super::Shared;
use super::access::Access;
use super::answer::json_answer;
use super::error::ApiError;
use super::request::ApiRequest;
use super::route::{Route, RouteMethod};

pub(super) const ROUTES: &[Route] = &[
    Route {
        method: RouteMethod::Get,
        template: "/live",
        access: Access::Open,
        handler: |s, r| live(s, r).boxed(),
    },
    Route {
        method: RouteMethod::Get,
        template: "/ready",
        access: Access::Open,
        handler: |s, r| ready(s, r).boxed(),
    },
];

async fn live(_shared: Arc<Shared>, request: ApiRequest) -> Result<Response, ApiError> {
    request.query(&[])?;
    Ok(json_answer(StatusCode::OK, &json!({ "is_live": true })))
}

async fn ready(shared: Arc<Shared>, request: ApiRequest) -> Result<Response, ApiError> {
    request.query(&[])?;
    let probes = &shared.state.probes;
    probes.look().await;
    let probes = probes.board().probes();
    let state = probes.iter().map(|probe| probe.state).max().unwrap_or(ProbeState::Ok);
    let (is_ready, status) = match state {
        ProbeState::Ok | ProbeState::Degraded => (true, StatusCode::OK),
        ProbeState::Failed => (false, StatusCode::SERVICE_UNAVAILABLE),
    };
    Ok(json_answer(status, &json!({ "is_ready": is_ready, "state": state, "probes": probes })))
}
