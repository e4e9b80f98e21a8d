//! Routes as data: the router, the metrics' labels and the check against OpenAPI all read the same table.
//!
//! Promises one warp filter per path template. A filter rejects nothing but a path that is not its own; all
//! else, an unknown method included, is answered by the template itself.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Buf;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream, StreamExt};
use warp::filters::BoxedFilter;
use warp::http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderName, TRANSFER_ENCODING,
};
use warp::http::{HeaderMap, Method};
use warp::reply::Response;
use warp::{Filter, Rejection};

use super::Shared;
use super::access::Access;
use super::error::ApiError;
use super::request::{ApiRequest, Caller, path_segment};

/// How much of a body that is too large is still read, so that a client that writes before it reads gets the
/// answer instead of a reset connection.
const DISCARD_BYTES_MAX: usize = 16 << 20;

/// The answer of a handler, later.
pub(super) type Handling = BoxFuture<'static, Result<Response, ApiError>>;

/// What a request is to be read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RouteMethod {
    /// Reads; takes no body. `HEAD` is answered as well, without the body.
    Get,
    /// Changes state; takes JSON.
    Post,
}

impl RouteMethod {
    fn matches(self, method: &Method) -> bool {
        match self {
            RouteMethod::Get => method == Method::GET || method == Method::HEAD,
            RouteMethod::Post => method == Method::POST,
        }
    }
}

/// One route.
#[derive(Clone, Copy)]
pub(super) struct Route {
    pub(super) method: RouteMethod,
    /// The path; `{name}` stands for one segment.
    pub(super) template: &'static str,
    /// Who may use it.
    #[cfg_attr(not(test), expect(dead_code, reason = "nobody is refused until there are tokens"))]
    pub(super) access: Access,
    pub(super) handler: fn(Arc<Shared>, ApiRequest) -> Handling,
}

/// The template that answered, for metrics; carried in the answer's extensions.
#[derive(Debug, Clone, Copy)]
pub(super) struct MatchedTemplate(pub(super) &'static str);

/// A segment of a path as it came.
struct Segment(String);

impl FromStr for Segment {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

/// Builds one filter of all routes.
pub(super) fn filter_of(shared: &Arc<Shared>, routes: &[Route]) -> BoxedFilter<(Response,)> {
    let mut templates: Vec<&'static str> = routes.iter().map(|route| route.template).collect();
    templates.dedup();
    let nowhere = warp::any().and_then(|| async { Err::<Response, _>(warp::reject()) }).boxed();
    templates.into_iter().fold(nowhere, |filter, template| {
        let routes: Vec<Route> = routes.iter().filter(|route| route.template == template).copied().collect();
        filter.or(template_filter(Arc::clone(shared), template, routes.into())).unify().boxed()
    })
}

fn template_filter(
    shared: Arc<Shared>,
    template: &'static str,
    routes: Arc<[Route]>,
) -> BoxedFilter<(Response,)> {
    let mut path: BoxedFilter<(Vec<String>,)> = warp::any().map(Vec::new).boxed();
    for segment in template.split('/').filter(|segment| !segment.is_empty()) {
        path = if segment.starts_with('{') {
            let push = |mut segments: Vec<String>, Segment(segment): Segment| {
                segments.push(segment);
                segments
            };
            path.and(warp::path::param::<Segment>()).map(push).boxed()
        } else {
            path.and(warp::path(segment)).boxed()
        };
    }
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    path.and(warp::path::end())
        .and(warp::method())
        .and(warp::header::headers_cloned())
        .and(query)
        .and(warp::ext::get::<Caller>())
        .and(warp::body::stream())
        .then(move |segments, method, headers, query, caller: Caller, body| {
            let (shared, routes) = (Arc::clone(&shared), Arc::clone(&routes));
            let request_id = caller.request_id;
            let incoming = Incoming { template, segments, method, headers, query, caller };
            async move {
                // A panic of one request must not take its connection along without an answer.
                let answer = AssertUnwindSafe(handle(shared, &routes, incoming, body)).catch_unwind().await;
                let answer = answer.unwrap_or_else(|_| Err(ApiError::Broken { reason: "panic".to_owned() }));
                let mut answer = answer.unwrap_or_else(|error| error.into_answer(request_id));
                answer.extensions_mut().insert(MatchedTemplate(template));
                answer
            }
        })
        .boxed()
}

/// A request whose path matched.
struct Incoming {
    template: &'static str,
    segments: Vec<String>,
    method: Method,
    headers: HeaderMap,
    query: String,
    caller: Caller,
}

async fn handle(
    shared: Arc<Shared>,
    routes: &[Route],
    incoming: Incoming,
    body: impl Stream<Item = Result<impl Buf, warp::Error>> + Send,
) -> Result<Response, ApiError> {
    let Incoming { template, segments, method, headers, query, caller } = incoming;
    let Some(route) = routes.iter().find(|route| route.method.matches(&method)) else {
        let got = method.as_str().to_owned();
        return Err(ApiError::MethodNotAllowed { allowed: allowed(routes), got });
    };
    let names = template.split('/').filter_map(|segment| segment.strip_prefix('{'));
    let names = names.map(|name| name.trim_end_matches('}'));
    let path_parameters = segments.iter().zip(names).map(|(segment, name)| path_segment(segment, name));
    let path_parameters = path_parameters.collect::<Result<Vec<_>, _>>()?;

    let limit_bytes = match route.method {
        RouteMethod::Get => 0,
        RouteMethod::Post => {
            check_content_type(&headers)?;
            check_codings(&headers)?;
            shared.limits.body_bytes
        }
    };
    let limit = shared.limits.body_read_timeout;
    let body = tokio::time::timeout(limit, read_body(body, &headers, limit_bytes)).await;
    let body = body.unwrap_or(Err(ApiError::BodyTooSlow { limit }))?;

    let request = ApiRequest { caller, path_parameters, query, headers, body: body.into() };
    let limit = shared.limits.answer_timeout;
    let answer = tokio::time::timeout(limit, (route.handler)(shared, request)).await;
    let is_act = matches!(route.method, RouteMethod::Post);
    answer.unwrap_or(Err(ApiError::NoAnswer { limit, is_act }))
}

/// Lists the methods of a template as the `Allow` header has them.
fn allowed(routes: &[Route]) -> String {
    let names = routes.iter().map(|route| match route.method {
        RouteMethod::Get => "GET, HEAD",
        RouteMethod::Post => "POST",
    });
    names.collect::<Vec<_>>().join(", ")
}

/// Takes `application/json`, as it is or in UTF-8: a web page can send other types without asking first.
fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let wrong = |got: String| Err(ApiError::WrongContentType { got });
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return wrong("none, or several".to_owned());
    };
    let text = value.to_str().unwrap_or_default().to_ascii_lowercase();
    let (essence, parameters) = text.split_once(';').unwrap_or((&text, ""));
    match (essence.trim(), parameters.trim()) {
        ("application/json", "" | "charset=utf-8" | "charset=\"utf-8\"") => Ok(()),
        _ => wrong(format!("`{}`", super::document::shortened(&text))),
    }
}

/// Takes bodies as they are: what a client has compressed, or sends in a way of its own, would be read as broken JSON.
///
/// *Source*: RFC 9110, 15.5.16: 415 also where `Content-Encoding` is the reason; RFC 9112, 6.1: 501 for a transfer
/// coding that is not known.
fn check_codings(headers: &HeaderMap) -> Result<(), ApiError> {
    if let Some(got) = first_coding_but(headers, &CONTENT_ENCODING, "identity") {
        return Err(ApiError::WrongContentEncoding { got });
    }
    match first_coding_but(headers, &TRANSFER_ENCODING, "chunked") {
        Some(got) => Err(ApiError::UnknownTransferCoding { got }),
        None => Ok(()),
    }
}

/// Gives the first coding of a header that is not the known one.
fn first_coding_but(headers: &HeaderMap, name: &HeaderName, known: &str) -> Option<String> {
    headers.get_all(name).iter().find_map(|value| {
        let text = value.to_str().unwrap_or_default().to_ascii_lowercase();
        let mut codings = text.split(',').map(str::trim).filter(|coding| !coding.is_empty());
        codings.find(|coding| *coding != known).map(super::document::shortened)
    })
}

/// Reads a body up to a limit, whether its length is declared or not.
async fn read_body(
    body: impl Stream<Item = Result<impl Buf, warp::Error>> + Send,
    headers: &HeaderMap,
    limit_bytes: usize,
) -> Result<Vec<u8>, ApiError> {
    let declared = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let is_declared_too_large = declared.is_some_and(|length| length > limit_bytes as u64);
    if is_declared_too_large && headers.contains_key(EXPECT) {
        // The client waits for leave to send the body, and does not get it.
        return Err(ApiError::BodyTooLarge { limit_bytes });
    }
    let mut body = std::pin::pin!(body);
    let (mut taken, mut seen_bytes) = (Vec::new(), 0_usize);
    while let Some(chunk) = body.next().await {
        let mut chunk = chunk.map_err(|_| ApiError::BodyBroken)?;
        seen_bytes = seen_bytes.saturating_add(chunk.remaining());
        if seen_bytes > DISCARD_BYTES_MAX.max(limit_bytes) {
            break;
        }
        while !is_declared_too_large && seen_bytes <= limit_bytes && chunk.has_remaining() {
            let part = chunk.chunk();
            taken.extend_from_slice(part);
            let length = part.len();
            chunk.advance(length);
        }
    }
    if is_declared_too_large || seen_bytes > limit_bytes {
        return Err(ApiError::BodyTooLarge { limit_bytes });
    }
    Ok(taken)
}

/// Makes an answer of whatever a filter rejected.
pub(super) async fn recover(rejection: Rejection) -> Result<RejectedAnswer, Infallible> {
    Ok(RejectedAnswer(super::error::from_rejection(&rejection)))
}

/// What stands for a rejection until the request's id is known.
#[derive(Debug, Clone)]
pub(super) struct RejectedAnswer(pub(super) ApiError);

impl warp::Reply for RejectedAnswer {
    fn into_response(self) -> Response {
        let mut answer = Response::default();
        answer.extensions_mut().insert(self);
        answer
    }
}
