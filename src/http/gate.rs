//! What every request passes before it is routed, and every answer after.
//!
//! Promises that a request reaches a route only if it names this machine as its host and does not come from
//! a page of another origin (design D17): a web page must not be able to start programs. Gives every request
//! its id and correlation id and its principal, and counts it.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use horizons_actors::command::Principal;
use horizons_actors::ids::{CorrelationId, UserId};
use hyper::body::Incoming;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tracing::Instrument;
use warp::Filter as _;
use warp::filters::BoxedFilter;
use warp::http::header::{
    CACHE_CONTROL, CONNECTION, HOST, HeaderName, HeaderValue, ORIGIN, X_CONTENT_TYPE_OPTIONS,
};
use warp::http::{HeaderMap, Request, Uri};
use warp::reply::Response;

use crate::metrics::CountedConnection;

use super::Shared;
use super::document::shortened;
use super::error::{ApiError, RETRY_AFTER_DEFAULT};
use super::request::{Caller, bad_parameter};
use super::route::{MatchedTemplate, RejectedAnswer, filter_of, recover};
use crate::telemetry::request_span;

/// Names the user a request acts as, until there are tokens.
pub(super) const USER_HEADER: &str = "X-Horizons-User";

/// Who asks when the request does not say.
const USER_DEFAULT: &str = "local";

/// Follows a request across services.
pub(super) const CORRELATION_HEADER: &str = "X-Correlation-Id";

/// The route label of requests that no route answered.
const UNMATCHED: &str = "unmatched";

/// What is answered on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Serves {
    /// Everything.
    Everything,
    /// Only whether the process works: there are too many connections.
    Probes,
}

/// Paths that are answered however many connections there are: none of them reads more than a row.
const PROBE_PATHS: [&str; 3] = ["/live", "/ready", "/metrics"];

/// The service behind every connection; clones share it.
#[derive(Clone)]
pub(super) struct Gate {
    shared: Arc<Shared>,
    routes: BoxedFilter<(Response,)>,
}

impl Gate {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let routes = filter_of(&shared, &super::routes());
        Self { shared, routes }
    }

    /// Counts a connection until the mark is dropped.
    pub(super) fn count_connection(&self) -> CountedConnection {
        self.shared.state.process_metrics.count_connection()
    }

    /// Answers a request.
    pub(super) async fn answer(
        self,
        request: Request<Incoming>,
        serves: Serves,
    ) -> Result<Response, Infallible> {
        let started_at = Instant::now();
        let method = request.method().clone();
        let request_id = self.shared.state.randomness.next_uuid();
        let correlation_id = correlation_id_of(request.headers());
        let fresh = CorrelationId(self.shared.state.randomness.next_uuid());
        let shown_id = correlation_id.as_ref().ok().copied().flatten().unwrap_or(fresh);

        let caller = correlation_id.and_then(|_| {
            check_host(request.uri(), request.headers())?;
            check_origin(request.headers())?;
            let principal = principal_of(request.headers())?;
            check_place(serves, request.uri())?;
            Ok(Caller { request_id, correlation_id: shown_id, principal })
        });
        let mut answer = match caller {
            Ok(caller) => self.route(request, caller).instrument(request_span(shown_id)).await,
            Err(error) => error.into_answer(request_id),
        };

        let template = answer.extensions().get::<MatchedTemplate>().map_or(UNMATCHED, |matched| matched.0);
        let metrics = &self.shared.state.process_metrics;
        metrics.count_request(template, &method, answer.status().as_u16(), started_at.elapsed());
        tracing::debug!(
            request.id = %request_id,
            correlation.id = %shown_id,
            http.method = %method,
            http.route = template,
            http.status = answer.status().as_u16(),
            "request answered"
        );
        let headers = answer.headers_mut();
        if serves == Serves::Probes {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let shown_id = HeaderValue::from_str(&shown_id.to_string()).expect("a UUID is ASCII");
        headers.insert(HeaderName::from_static("x-correlation-id"), shown_id);
        Ok(answer)
    }

    /// Hands a request to warp.
    async fn route(&self, mut request: Request<Incoming>, caller: Caller) -> Response {
        let request_id = caller.request_id;
        request.extensions_mut().insert(caller);
        let service = TowerToHyperService::new(warp::service(self.routes.clone().recover(recover)));
        let Ok(answer) = service.call(request).await;
        let mut answer = answer;
        match answer.extensions_mut().remove::<RejectedAnswer>() {
            Some(RejectedAnswer(error)) => error.into_answer(request_id),
            None => answer,
        }
    }
}

/// Sends away what there is no place for.
fn check_place(serves: Serves, uri: &Uri) -> Result<(), ApiError> {
    match serves {
        Serves::Probes if !PROBE_PATHS.contains(&uri.path()) => Err(ApiError::Busy {
            retry_after: RETRY_AFTER_DEFAULT,
            reason: "too many connections".to_owned(),
        }),
        Serves::Probes | Serves::Everything => Ok(()),
    }
}

/// Reads the correlation id; none when the request has none.
fn correlation_id_of(headers: &HeaderMap) -> Result<Option<CorrelationId>, ApiError> {
    let text = single(headers, CORRELATION_HEADER)?;
    let read = |text| {
        CorrelationId::parse(text).map_err(|error| bad_parameter(CORRELATION_HEADER, error.to_string()))
    };
    text.map(read).transpose()
}

fn principal_of(headers: &HeaderMap) -> Result<Principal, ApiError> {
    let text = single(headers, USER_HEADER)?.unwrap_or(USER_DEFAULT);
    let user_id = UserId::parse(text).map_err(|error| bad_parameter(USER_HEADER, error.to_string()))?;
    Ok(Principal { user_id })
}

/// Reads a header that may stand once.
///
/// *Errors*: `BadParameter` when it stands twice or is no text.
pub(super) fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ApiError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => std::str::from_utf8(value.as_bytes())
            .map(Some)
            .map_err(|_| bad_parameter(name, "wanted UTF-8 text")),
        (Some(_), Some(_)) => Err(bad_parameter(name, "wanted once, got twice")),
    }
}

/// Takes requests to this machine only: a page that rebinds its own name to 127.0.0.1 names itself here.
fn check_host(uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(host) = single(headers, HOST.as_str())? else {
        return Err(bad_parameter("Host", "wanted once, got none"));
    };
    let authority = uri.authority().map(|authority| authority.as_str());
    match [Some(host), authority].into_iter().flatten().find(|host| !is_this_machine(host)) {
        None => Ok(()),
        Some(got) => Err(ApiError::Forbidden {
            header: "Host",
            wanted: "`localhost` or a loopback address",
            got: shortened(got),
        }),
    }
}

/// Takes requests without an origin (no page made them) and those of a page that this server gave.
fn check_origin(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(origin) = single(headers, ORIGIN.as_str())? else { return Ok(()) };
    let host = single(headers, HOST.as_str())?.unwrap_or_default();
    if origin.strip_prefix("http://").is_some_and(|authority| authority.eq_ignore_ascii_case(host)) {
        return Ok(());
    }
    let wanted = "the origin of this server, or none";
    Err(ApiError::Forbidden { header: "Origin", wanted, got: shortened(origin) })
}

/// Tells whether a `host` or `host:port` names this machine, whatever the port: it may be forwarded.
fn is_this_machine(authority: &str) -> bool {
    let Ok(authority) = authority.parse::<warp::http::uri::Authority>() else { return false };
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_this_machine_names_and_addresses_are_told_apart() {
        let ours = ["localhost", "LOCALHOST:80", "127.0.0.1:8650", "127.8.9.1", "[::1]:1", "[::1]"];
        let others = [
            "example.org",
            "localhost.example.org",
            "127.0.0.1.example.org",
            "10.0.0.1",
            "[::2]",
            "0.0.0.0",
            "a@localhost",
            "",
            "local host",
        ];

        for host in ours {
            assert!(is_this_machine(host), "{host}");
        }
        for host in others {
            assert!(!is_this_machine(host), "{host}");
        }
    }

    #[test]
    fn check_origin_other_origins_are_refused() {
        let with = |origin: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static("localhost:8650"));
            headers.insert(ORIGIN, HeaderValue::from_static(origin));
            check_origin(&headers)
        };

        assert!(with("http://localhost:8650").is_ok());
        for other in ["http://localhost:3000", "https://localhost:8650", "null", "http://evil.example", ""] {
            assert!(matches!(with(other), Err(ApiError::Forbidden { header: "Origin", .. })), "{other}");
        }
    }
}
