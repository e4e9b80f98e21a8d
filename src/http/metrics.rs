//! Metrics for Prometheus.
//!
//! Promises an answer without asking the store: metrics are wanted most when it is away.

use std::sync::Arc;

use futures_util::FutureExt;
use prometheus::TextEncoder;
use warp::http::StatusCode;
use warp::reply::Response;

use super::Shared;
use super::access::Access;
use super::answer::text_answer;
use super::error::ApiError;
use super::request::ApiRequest;
use super::route::{Route, RouteMethod};

pub(super) const ROUTES: &[Route] = &[Route {
    method: RouteMethod::Get,
    template: "/metrics",
    access: Access::Look,
    handler: |s, r| gather(s, r).boxed(),
}];

/// The text format's own content type.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

async fn gather(shared: Arc<Shared>, request: ApiRequest) -> Result<Response, ApiError> {
    request.query(&[])?;
    let state = &shared.state;
    state.lane_metrics.observe_board(&state.board, state.clock.reading());
    state.process_metrics.observe_process();
    state.process_metrics.observe_probes(&state.probes.board().probes());
    let text = TextEncoder::new()
        .encode_to_string(&state.registry.gather())
        .map_err(|error| ApiError::Broken { reason: error.to_string() })?;
    Ok(text_answer(StatusCode::OK, CONTENT_TYPE, text))
}
