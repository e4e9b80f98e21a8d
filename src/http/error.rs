//! Every refusal and failure as `application/problem+json`; the only place with their status codes.
//!
//! Promises that the caller is told what to change and nothing of our insides: the inward text of a failure
//! goes to the log, under the request id that stands in the answer.
//!
//! *Source*: [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457), with `field`, `state` and `job_id` beside it.

use std::time::Duration;

use horizons_actors::event::JobStatus;
use horizons_actors::ids::JobId;
use horizons_actors::ports::commands::CommandError;
use horizons_actors::ports::store::StoreError;
use serde_json::{Value, json};
use uuid::Uuid;
use warp::http::header::{ACCEPT_ENCODING, ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use warp::http::{Response as HttpResponse, StatusCode};
use warp::reject::Rejection;
use warp::reply::{Reply as _, Response};

/// The content type of every refusal and failure.
pub(super) const PROBLEM_CONTENT_TYPE: &str = "application/problem+json";

/// What the `type` of a problem begins with; the rest is its stable name.
const TYPE_PREFIX: &str = "urn:horizons:problem:";

/// When a caller may come back if nothing better is known.
pub(super) const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

/// Tells why a request is not answered as it was meant.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum ApiError {
    /// The body is no JSON.
    #[error("failed to read the body as JSON: {reason}")]
    MalformedBody {
        /// What is wrong, with line and column.
        reason: String,
    },
    /// A parameter of path or query, or a header, is not as wanted.
    #[error("{reason}")]
    BadParameter {
        /// Its name.
        name: String,
        /// What was wanted and what was got.
        reason: String,
    },
    /// The request comes from, or goes to, somewhere it must not.
    #[error("wanted {wanted}, got `{got}`")]
    Forbidden {
        /// The header at fault.
        header: &'static str,
        /// What it may hold.
        wanted: &'static str,
        /// What it holds.
        got: String,
    },
    /// No route has this path.
    #[error("no such path")]
    NoSuchPath,
    /// What the request is about does not exist.
    #[error("{what} does not exist")]
    NotFound {
        /// What was looked for.
        what: String,
    },
    /// The path has no such method.
    #[error("wanted {allowed}, got `{got}`")]
    MethodNotAllowed {
        /// The methods it has, as in the `Allow` header.
        allowed: String,
        /// The method of the request.
        got: String,
    },
    /// The body did not arrive in time.
    #[error("the body did not arrive within {} s", limit.as_secs_f64())]
    BodyTooSlow {
        /// The limit.
        limit: Duration,
    },
    /// The body broke off.
    #[error("the body broke off")]
    BodyBroken,
    /// The state of the job does not allow it.
    #[error("job is {state}: {reason}")]
    Conflict {
        /// The state.
        state: JobStatus,
        /// What was wanted.
        reason: String,
    },
    /// What the request is about has changed since it was looked at.
    #[error("{what} has changed: {reason}")]
    Moved {
        /// What has changed.
        what: String,
        /// What it is now.
        reason: String,
    },
    /// What the request is about does not allow it.
    #[error("{what}: {reason}")]
    NotPossible {
        /// What does not allow it.
        what: String,
        /// Why.
        reason: String,
    },
    /// The idempotency key belongs to another request.
    #[error("the key was used for another request, which became job `{job_id}`")]
    KeyReused {
        /// The other request's job.
        job_id: JobId,
    },
    /// The body is larger than a route takes.
    #[error("wanted at most {limit_bytes} bytes")]
    BodyTooLarge {
        /// The limit.
        limit_bytes: usize,
    },
    /// The body is not declared to be JSON.
    #[error("wanted `application/json`, got {got}")]
    WrongContentType {
        /// What it is declared to be.
        got: String,
    },
    /// The body is compressed, or encoded in another way.
    #[error("wanted no encoding (`identity`), got `{got}`")]
    WrongContentEncoding {
        /// How it is encoded.
        got: String,
    },
    /// The body travels in a way that is not known.
    #[error("wanted no transfer coding but `chunked`, got `{got}`")]
    UnknownTransferCoding {
        /// How it travels.
        got: String,
    },
    /// A field of the body is not as wanted.
    #[error("{reason}")]
    Invalid {
        /// The field.
        field: String,
        /// What was wanted and what was got.
        reason: String,
    },
    /// The scheduler refused a job that was stored.
    #[error("{reason}")]
    Refused {
        /// The field at fault, where it is known.
        field: Option<String>,
        /// Why.
        reason: String,
        /// The job.
        job_id: JobId,
    },
    /// Store or scheduler are away or have too much to do.
    #[error("store or scheduler are away or have too much to do")]
    Busy {
        /// When to come back.
        retry_after: Duration,
        /// What stands in the way; for the log only.
        reason: String,
    },
    /// Whether it was stored cannot be told.
    #[error("whether it was stored is not known: {find_out}")]
    OutcomeUnknown {
        /// How the caller finds out, and whether asking again is safe.
        find_out: String,
        /// The job that a submit would have made.
        job_id: Option<JobId>,
        /// What happened; for the log only.
        reason: String,
    },
    /// No answer was ready in time.
    #[error("no answer within {} s{}", limit.as_secs_f64(), unanswered(*.is_act))]
    NoAnswer {
        /// The limit.
        limit: Duration,
        /// Whether something was asked for that may be done all the same.
        is_act: bool,
    },
    /// The data folder is not where it was when it was opened.
    #[error(
        "the server's data folder was removed, moved or replaced: nothing was stored, and the server ends"
    )]
    FolderGone,
    /// The disk limit for new work is reached.
    #[error("disk limit reached: {used_bytes} of {limit_bytes} bytes are used")]
    DiskLimit {
        /// What the database takes now.
        used_bytes: u64,
        /// What it may take.
        limit_bytes: u64,
    },
    /// There is no room on the disk for new work.
    #[error("disk full: {available_bytes} bytes are left for new work; come back when there is room")]
    DiskFull {
        /// What is free beside what is kept for ends and clean-up.
        available_bytes: u64,
    },
    /// A promise of our own is broken.
    #[error("failed inside; the log names the cause under the request id")]
    Broken {
        /// What happened; for the log only.
        reason: String,
    },
}

/// Says what may become of a request without an answer.
const fn unanswered(is_act: bool) -> &'static str {
    if is_act { "; it may still be carried out: look before you repeat it" } else { "" }
}

/// Status, stable name and title of a problem.
type Kind = (StatusCode, &'static str, &'static str);

impl ApiError {
    fn kind(&self) -> Kind {
        use ApiError as E;
        match self {
            E::MalformedBody { .. } => (StatusCode::BAD_REQUEST, "malformed-body", "malformed body"),
            E::BodyBroken => (StatusCode::BAD_REQUEST, "malformed-body", "malformed body"),
            E::BadParameter { .. } => (StatusCode::BAD_REQUEST, "bad-parameter", "bad parameter"),
            E::Forbidden { .. } => (StatusCode::FORBIDDEN, "forbidden", "forbidden"),
            E::NoSuchPath => (StatusCode::NOT_FOUND, "no-such-path", "no such path"),
            E::NotFound { .. } => (StatusCode::NOT_FOUND, "not-found", "not found"),
            E::MethodNotAllowed { .. } => {
                (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "method not allowed")
            }
            E::BodyTooSlow { .. } => (StatusCode::REQUEST_TIMEOUT, "body-too-slow", "body too slow"),
            E::Conflict { .. } => (StatusCode::CONFLICT, "conflict", "state does not allow it"),
            E::Moved { .. } => (StatusCode::CONFLICT, "moved", "it has changed since"),
            E::NotPossible { .. } => (StatusCode::CONFLICT, "not-possible", "not possible as it stands"),
            E::KeyReused { .. } => {
                (StatusCode::CONFLICT, "idempotency-key-reused", "idempotency key was used before")
            }
            E::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "body too large"),
            E::WrongContentType { .. } => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "wrong-content-type", "wrong content type")
            }
            E::WrongContentEncoding { .. } => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "wrong-content-encoding", "wrong content encoding")
            }
            E::UnknownTransferCoding { .. } => {
                (StatusCode::NOT_IMPLEMENTED, "unknown-transfer-coding", "unknown transfer coding")
            }
            E::Invalid { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "invalid-field", "invalid field"),
            E::Refused { .. } => {
                (StatusCode::UNPROCESSABLE_ENTITY, "refused-by-scheduler", "refused by the scheduler")
            }
            E::Busy { .. } => (StatusCode::SERVICE_UNAVAILABLE, "busy", "try again later"),
            E::OutcomeUnknown { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "outcome-unknown", "whether it was done is not known")
            }
            E::NoAnswer { .. } => (StatusCode::SERVICE_UNAVAILABLE, "no-answer", "no answer in time"),
            E::DiskLimit { .. } => (StatusCode::SERVICE_UNAVAILABLE, "disk-limit", "disk limit reached"),
            E::DiskFull { .. } => (StatusCode::SERVICE_UNAVAILABLE, "disk-full", "disk full"),
            E::FolderGone => (StatusCode::SERVICE_UNAVAILABLE, "data-folder-gone", "the data folder is gone"),
            E::Broken { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "broken", "failed inside"),
        }
    }

    fn field(&self) -> Option<&str> {
        match self {
            ApiError::BadParameter { name, .. } => Some(name),
            ApiError::Forbidden { header, .. } => Some(header),
            ApiError::Invalid { field, .. } => Some(field),
            ApiError::Refused { field, .. } => field.as_deref(),
            ApiError::KeyReused { .. } => Some(IDEMPOTENCY_KEY_HEADER),
            ApiError::WrongContentType { .. } => Some("Content-Type"),
            ApiError::WrongContentEncoding { .. } => Some("Content-Encoding"),
            ApiError::UnknownTransferCoding { .. } => Some("Transfer-Encoding"),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            ApiError::Busy { retry_after, .. } => Some(*retry_after),
            ApiError::DiskLimit { .. }
            | ApiError::DiskFull { .. }
            | ApiError::NoAnswer { is_act: false, .. } => Some(RETRY_AFTER_DEFAULT),
            _ => None,
        }
    }

    /// Makes the answer, and logs what the caller is not told.
    pub(super) fn into_answer(self, request_id: Uuid) -> Response {
        match &self {
            ApiError::Broken { reason } => {
                tracing::error!(request.id = %request_id, error = %reason, "request failed inside");
            }
            ApiError::Busy { reason, .. } => {
                tracing::warn!(request.id = %request_id, error = %reason, "request was sent away");
            }
            ApiError::OutcomeUnknown { reason, .. } => {
                tracing::warn!(request.id = %request_id, error = %reason, "outcome of a request is unknown");
            }
            _ => {}
        }
        let (status, name, title) = self.kind();
        let mut body = json!({
            "type": format!("{TYPE_PREFIX}{name}"),
            "title": title,
            "status": status.as_u16(),
            "detail": self.to_string(),
            "request_id": request_id,
        });
        let mut add = |member: &str, value: Option<Value>| {
            if let (Some(members), Some(value)) = (body.as_object_mut(), value) {
                members.insert(member.to_owned(), value);
            }
        };
        add("field", self.field().map(Value::from));
        match &self {
            ApiError::Conflict { state, .. } => add("state", Some(json!(state))),
            ApiError::KeyReused { job_id } | ApiError::Refused { job_id, .. } => {
                add("job_id", Some(json!(job_id)));
            }
            ApiError::OutcomeUnknown { job_id, .. } => add("job_id", job_id.as_ref().map(|id| json!(id))),
            _ => {}
        }
        let mut answer = HttpResponse::new(body.to_string()).into_response();
        *answer.status_mut() = status;
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_CONTENT_TYPE));
        if let Some(delay) = self.retry_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(delay)));
        }
        // RFC 9110, 12.5.3: tells what would have been taken.
        if let ApiError::WrongContentEncoding { .. } = &self {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        if let ApiError::MethodNotAllowed { allowed, .. } = &self
            && let Ok(allowed) = HeaderValue::from_str(allowed)
        {
            headers.insert(ALLOW, allowed);
        }
        answer
    }
}

/// The header that makes a repeated submit the same job.
pub(super) const IDEMPOTENCY_KEY_HEADER: &str = "Idempotency-Key";

/// Rounds up, because a caller who comes too early is sent away again.
fn whole_seconds(delay: Duration) -> u64 {
    delay.as_secs() + u64::from(delay.subsec_nanos() > 0)
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::DiskLimit { used_bytes, limit_bytes } => {
                ApiError::DiskLimit { used_bytes, limit_bytes }
            }
            StoreError::Unavailable(_) | StoreError::QueueFull | StoreError::Conflict(_) => {
                ApiError::Busy { retry_after: RETRY_AFTER_DEFAULT, reason: error.to_string() }
            }
            StoreError::Unknown(reason) => ApiError::OutcomeUnknown {
                find_out: "look before you repeat it".to_owned(),
                job_id: None,
                reason,
            },
            StoreError::Data(_) | StoreError::Broken(_) => ApiError::Broken { reason: error.to_string() },
        }
    }
}

impl From<CommandError> for ApiError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Busy { retry_after, reason } => ApiError::Busy { retry_after, reason },
            CommandError::FolderGone => ApiError::FolderGone,
            CommandError::Unknown { find_out, job_id, reason } => {
                ApiError::OutcomeUnknown { find_out, job_id, reason }
            }
            CommandError::DiskLimit { used_bytes, limit_bytes } => {
                ApiError::DiskLimit { used_bytes, limit_bytes }
            }
            CommandError::DiskFull { available_bytes } => ApiError::DiskFull { available_bytes },
            CommandError::Invalid { field, reason } => ApiError::Invalid { field, reason },
            CommandError::NotFound { what } => ApiError::NotFound { what },
            CommandError::Conflict { state, reason } => ApiError::Conflict { state, reason },
            CommandError::Moved { what, reason } => ApiError::Moved { what, reason },
            CommandError::NotPossible { what, reason } => ApiError::NotPossible { what, reason },
            CommandError::KeyReused { job_id } => ApiError::KeyReused { job_id },
            CommandError::Broken(reason) => ApiError::Broken { reason },
        }
    }
}

/// Names what warp rejected. Routes reject nothing but a path that is not theirs; anything else is our mistake.
pub(super) fn from_rejection(rejection: &Rejection) -> ApiError {
    if rejection.is_not_found() {
        ApiError::NoSuchPath
    } else {
        ApiError::Broken { reason: format!("unexpected rejection: {rejection:?}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_parts_of_a_second_are_rounded_up() {
        let seconds = [0, 1, 999, 1000, 1001].map(|millis| whole_seconds(Duration::from_millis(millis)));

        assert_eq!(seconds, [0, 1, 1, 1, 2]);
    }

    #[test]
    fn store_errors_transient_ones_send_the_caller_away() {
        let transient = [
            StoreError::Unavailable("x".to_owned()),
            StoreError::QueueFull,
            StoreError::Conflict("x".to_owned()),
        ];

        for error in transient {
            assert!(matches!(ApiError::from(error), ApiError::Busy { .. }));
        }
        assert!(matches!(ApiError::from(StoreError::Broken("x".to_owned())), ApiError::Broken { .. }));
    }

    #[test]
    fn rejection_any_has_its_problem() {
        #[derive(Debug)]
        struct Odd;
        impl warp::reject::Reject for Odd {}

        assert_eq!(from_rejection(&warp::reject()), ApiError::NoSuchPath);
        assert!(matches!(from_rejection(&warp::reject::custom(Odd)), ApiError::Broken { .. }));
    }
}
