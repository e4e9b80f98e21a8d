//! Talks to a running server over HTTP.
//!
//! Promises one request and its whole answer within a time limit, and an error that says what to change: no
//! server, a refusal with its field, or an answer that is none of ours. Speaks plain HTTP only: the server
//! listens on loopback.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, RETRY_AFTER};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::config::listen_address;
use crate::exit::{Exit, Failure};
use crate::shown::shown;

use super::{ConfigOption, Context};

/// How a client command reaches the server.
#[derive(Debug, Clone, Default, Args)]
pub struct ClientOptions {
    /// Address of the server [default: $HORIZONS_URL, else where `horizons serve` listens by the configuration]
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    #[command(flatten)]
    pub(super) config: ConfigOption,
    /// Act as this user [default: $HORIZONS_USER, else the server's `local`]
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
}

impl ClientOptions {
    /// Gives the address that option or environment names.
    pub(super) fn named_url(&self, context: &Context<'_>) -> Option<String> {
        let variable = context.environment.get("HORIZONS_URL").filter(|url| !url.is_empty());
        self.url.clone().or_else(|| variable.cloned())
    }
}

/// No answer takes longer: submits wait a minute at most, everything else is a read of one page.
const ANSWER_TIME_LIMIT: Duration = Duration::from_secs(90);

/// Largest answer that is read; a page of the largest records stays far below.
const ANSWER_LIMIT_BYTES: usize = 256 << 20;

/// Names the user a request acts as.
const USER_HEADER: &str = "x-horizons-user";

/// Why a request brought no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address cannot be used.
    #[error("failed to read the server's address `{url}`: wanted `http://HOST:PORT`")]
    Url {
        /// The address.
        url: String,
    },
    /// A header cannot be sent.
    #[error("failed to build the request: {0}")]
    Request(#[from] hyper::http::Error),
    /// Nobody listens there.
    #[error("failed to reach the server at `{url}`: {source}; is `horizons serve` running?")]
    Connect {
        /// The address.
        url: String,
        /// Why.
        source: std::io::Error,
    },
    /// The connection broke, and with it the answer.
    #[error("failed to get an answer from `{url}`: {reason}{}", unknown_text(*.is_act))]
    Broken {
        /// The address.
        url: String,
        /// Why.
        reason: String,
        /// Whether it was asked for something to be done, which may be done all the same.
        is_act: bool,
    },
    /// The server refused the request.
    #[error("{}", refusal_text(.status, .problem, .retry_after.as_deref()))]
    Refused {
        /// The status.
        status: StatusCode,
        /// What the server says.
        problem: ProblemDocument,
        /// Seconds to wait, where the server names them.
        retry_after: Option<String>,
    },
    /// A shortened job id is the beginning of several.
    #[error("job `{}`: wanted more of its id, as several jobs' ids begin so:{jobs}", shown(.asked))]
    SeveralJobs {
        /// The shortened id.
        asked: String,
        /// The jobs, one a line.
        jobs: String,
    },
    /// The answer is not what a Horizons server sends.
    #[error("failed to read the answer of `{url}` to `{path}`: {reason}")]
    Foreign {
        /// The address.
        url: String,
        /// The path.
        path: String,
        /// Why.
        reason: String,
    },
}

impl ClientError {
    /// Tells whether the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            ClientError::Connect { .. } | ClientError::Broken { .. } => true,
            ClientError::Refused { status, .. } => status.is_server_error(),
            ClientError::Url { .. }
            | ClientError::Request(_)
            | ClientError::SeveralJobs { .. }
            | ClientError::Foreign { .. } => false,
        }
    }
}

impl ClientError {
    /// Tells whether what was asked for does not exist.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, ClientError::Refused { status: StatusCode::NOT_FOUND, .. })
    }

    /// Tells whether the server found the request's body too large.
    pub(super) fn is_too_large(&self) -> bool {
        matches!(self, ClientError::Refused { status: StatusCode::PAYLOAD_TOO_LARGE, .. })
    }

    /// Gives the index of the item that a refusal is about, where it is about one of a list.
    pub(super) fn refused_item(&self, list: &str) -> Option<usize> {
        let ClientError::Refused { problem, .. } = self else { return None };
        let rest = problem.field.as_deref()?.strip_prefix(list)?.strip_prefix('[')?;
        rest.split_once(']')?.0.parse().ok()
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::Url { .. } | ClientError::Request(_) | ClientError::SeveralJobs { .. } => {
                Exit::Usage
            }
            ClientError::Connect { .. } | ClientError::Broken { .. } => Exit::Unreachable,
            ClientError::Refused { .. } => Exit::Refused,
            ClientError::Foreign { .. } => Exit::Failed,
        };
        Failure::text(exit, error.to_string())
    }
}

/// The server's words about a refusal.
///
/// *Source*: RFC 9457, with `field` beside it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct ProblemDocument {
    /// The kind in a few words.
    #[serde(default)]
    pub title: String,
    /// What was wanted and what was got.
    #[serde(default)]
    pub detail: Option<String>,
    /// The field at fault.
    #[serde(default)]
    pub field: Option<String>,
}

/// Says what may have become of a request without an answer.
fn unknown_text(is_act: bool) -> &'static str {
    if is_act { "; it may have been carried out all the same: look before you repeat it" } else { "" }
}

/// Words a refusal: the field, what is wrong with it, and when to try again.
fn refusal_text(status: &StatusCode, problem: &ProblemDocument, retry_after: Option<&str>) -> String {
    let field = problem.field.as_ref().map_or_else(String::new, |field| format!("`{field}`: "));
    let reason = problem.detail.as_deref().filter(|detail| !detail.is_empty());
    let reason = reason.or(Some(problem.title.as_str())).filter(|text| !text.is_empty());
    let reason = reason.map_or_else(|| status.to_string(), |text| format!("{text} ({})", status.as_u16()));
    let later = retry_after.map_or_else(String::new, |seconds| format!("; try again in {seconds} s"));
    shown(&format!("{field}{reason}{later}"))
}

/// A request.
#[derive(Debug, Clone, Default)]
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: Vec<(&'a str, Option<String>)>,
    /// JSON, as it is sent.
    pub(super) body: Option<String>,
    pub(super) headers: Vec<(&'static str, String)>,
    /// Whether a 503 that is no problem document is an answer like any other.
    is_503_an_answer: bool,
}

impl<'a> Call<'a> {
    pub(super) fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), ..Self::default() }
    }

    pub(super) fn post(path: impl Into<String>, body: Value) -> Self {
        Self { method: Method::POST, path: path.into(), body: Some(body.to_string()), ..Self::default() }
    }

    /// Posts a body whose JSON is to be sent to the letter.
    pub(super) fn post_text(path: impl Into<String>, body: String) -> Self {
        Self { method: Method::POST, path: path.into(), body: Some(body), ..Self::default() }
    }

    /// Takes a 503 as an answer, where it has a document of its own.
    pub(super) const fn also_answers_503(mut self) -> Self {
        self.is_503_an_answer = true;
        self
    }

    pub(super) fn query(mut self, name: &'a str, value: Option<impl ToString>) -> Self {
        self.query.push((name, value.map(|value| value.to_string())));
        self
    }

    /// Writes path and query.
    fn target(&self) -> String {
        let mut target = self.path.clone();
        let given = self.query.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        for (index, (name, value)) in given.enumerate() {
            target.push(if index == 0 { '?' } else { '&' });
            target.push_str(&format!("{name}={}", percent_encoded(value)));
        }
        target
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Value,
}

impl Answer {
    /// Gives the rows of a page: the one list in the answer, or the answer itself where it is a list.
    pub(super) fn rows(&self) -> Vec<Value> {
        let list = match &self.body {
            Value::Object(fields) => fields.values().find_map(Value::as_array),
            other => other.as_array(),
        };
        list.cloned().unwrap_or_default()
    }

    /// Gives the cursor of the next page.
    pub(super) fn next(&self) -> Option<String> {
        self.body.get("next").and_then(Value::as_str).map(str::to_owned)
    }
}

/// A server.
#[derive(Debug, Clone)]
pub(super) struct Client {
    url: String,
    authority: String,
    prefix: String,
    user: Option<String>,
}

impl Client {
    /// Chooses server and user: option, else environment, else the configuration's server.
    ///
    /// *Errors*: an address that cannot be used; a configuration that names none.
    pub(super) fn new(options: &ClientOptions, context: &Context<'_>) -> Result<Self, Failure> {
        let variable = |name: &str| context.environment.get(name).filter(|text| !text.is_empty()).cloned();
        let url = match options.named_url(context) {
            Some(url) => url,
            None => configured_url(options, context)?,
        };
        let user = options.user.clone().or_else(|| variable("HORIZONS_USER"));
        let uri: Uri = url.parse().map_err(|_| ClientError::Url { url: url.clone() })?;
        let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http"));
        let Some(authority) = authority.map(|authority| authority.as_str().to_owned()) else {
            return Err(ClientError::Url { url }.into());
        };
        let prefix = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { url, authority, prefix, user })
    }

    /// Sends a request and reads its whole answer.
    ///
    /// *Errors*: every variant of [`ClientError`] but `Url`.
    pub(super) async fn call(&self, call: Call<'_>) -> Result<Answer, ClientError> {
        tokio::time::timeout(ANSWER_TIME_LIMIT, self.exchange(&call)).await.unwrap_or_else(|_| {
            Err(self.broken(&call, format!("none within {} s", ANSWER_TIME_LIMIT.as_secs())))
        })
    }

    async fn exchange(&self, call: &Call<'_>) -> Result<Answer, ClientError> {
        let stream = TcpStream::connect(self.address())
            .await
            .map_err(|source| ClientError::Connect { url: self.url.clone(), source })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(call, error.to_string()))?;
        let connection = tokio::spawn(connection);
        let request = self.request(call)?;
        let response = sender.send_request(request).await;
        let response = response.map_err(|error| self.broken(call, error.to_string()))?;
        let (head, body) = response.into_parts();
        let bytes = Limited::new(body, ANSWER_LIMIT_BYTES).collect().await;
        let bytes = bytes.map_err(|error| self.broken(call, error.to_string()))?.to_bytes();
        connection.abort();
        let is_json = head.headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
        let is_answer = call.is_503_an_answer && head.status == StatusCode::SERVICE_UNAVAILABLE && is_json;
        if !is_answer && (head.status.is_client_error() || head.status.is_server_error()) {
            // A refusal without our document still has its status to show.
            let problem = serde_json::from_slice(&bytes).unwrap_or_default();
            let retry_after = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            let retry_after = retry_after.map(str::to_owned);
            return Err(ClientError::Refused { status: head.status, problem, retry_after });
        }
        let body = if bytes.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(&bytes) };
        let body = body.map_err(|error| self.foreign(&call.path, error.to_string()))?;
        Ok(Answer { status: head.status, body })
    }

    fn request(&self, call: &Call<'_>) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(format!("{}{}", self.prefix, call.target()))
            .header(HOST, &self.authority)
            .header(ACCEPT, "application/json, application/problem+json");
        if let Some(user) = &self.user {
            request = request.header(USER_HEADER, user);
        }
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        let body = match &call.body {
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Bytes::from(body.clone())
            }
            None => Bytes::new(),
        };
        Ok(request.body(Full::new(body))?)
    }

    /// Gives host and port; HTTP's own port where none is named.
    fn address(&self) -> String {
        let has_port = self.authority.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok());
        if has_port { self.authority.clone() } else { format!("{}:80", self.authority) }
    }

    fn broken(&self, call: &Call<'_>, reason: String) -> ClientError {
        ClientError::Broken { url: self.url.clone(), reason, is_act: call.method != Method::GET }
    }

    /// Tells that an answer is not what a Horizons server sends.
    pub(super) fn foreign(&self, path: &str, reason: String) -> ClientError {
        ClientError::Foreign { url: self.url.clone(), path: path.to_owned(), reason }
    }
}

/// Gives the address that `horizons serve` would listen on.
fn configured_url(options: &ClientOptions, context: &Context<'_>) -> Result<String, Failure> {
    let source = options.config.source(context, None);
    match listen_address(&source, context.environment) {
        Ok(address) => Ok(format!("http://{address}")),
        Err(error) => {
            let message = format!("{error}; `--url` or HORIZONS_URL names a server without it");
            Err(Failure::text(Exit::Config, message))
        }
    }
}

/// Encodes bytes as the API takes them.
pub(super) fn base64_text(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Decodes what the API gives; absent and null stay absent.
///
/// *Errors*: the decoder's, in words.
pub(super) fn base64_bytes(value: Option<&Value>) -> Result<Option<Bytes>, String> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => {
            STANDARD.decode(text).map(|bytes| Some(Bytes::from(bytes))).map_err(|error| error.to_string())
        }
        Some(other) => Err(format!("wanted base64 text, got `{other}`")),
    }
}

/// Writes a text as part of a path or query: everything but unreserved characters in percent form.
pub(super) fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn target_odd_values_are_encoded() {
        let call = Call::get(format!("/jobs/{}", percent_encoded("a/b ü")))
            .query("user", Some("x&y=z"))
            .query("status", None::<String>)
            .query("limit", Some(5));

        assert_eq!(call.target(), "/jobs/a%2Fb%20%C3%BC?user=x%26y%3Dz&limit=5");
    }

    #[test]
    fn refusal_every_part_is_named() {
        let problem = ProblemDocument {
            title: "bad request".to_owned(),
            detail: Some("wanted a declared agent, got `x`".to_owned()),
            field: Some("agent".to_owned()),
        };

        let text = refusal_text(&StatusCode::UNPROCESSABLE_ENTITY, &problem, Some("2"));

        assert_eq!(text, "`agent`: wanted a declared agent, got `x` (422); try again in 2 s");
    }

    #[test]
    fn refusal_without_document_shows_status() {
        let text = refusal_text(&StatusCode::BAD_GATEWAY, &ProblemDocument::default(), None);

        assert_eq!(text, "502 Bad Gateway");
    }

    #[test]
    fn rows_list_or_object_are_found() {
        let page = Answer { status: StatusCode::OK, body: json!({"jobs": [1, 2], "next": "c"}) };
        let list = Answer { status: StatusCode::OK, body: json!([3]) };

        assert_eq!((page.rows(), page.next()), (vec![json!(1), json!(2)], Some("c".to_owned())));
        assert_eq!((list.rows(), list.next()), (vec![json!(3)], None));
    }
}
