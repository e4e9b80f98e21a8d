//! A request that has passed the gate: who asks, parameters, headers and body.
//!
//! Promises that parameters are read strictly: one that is unknown, stands twice or is out of range is
//! refused by name, and escapes that are no UTF-8 are never guessed at.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use horizons_actors::clock::{Clock, Randomness};
use horizons_actors::command::{Command, CommandKind, Principal};
use horizons_actors::ids::{CommandId, CorrelationId};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;
use warp::http::HeaderMap;

use super::document::{Fields, parse_object, shortened};
use super::error::ApiError;

/// Rows of a page unless asked otherwise.
const PAGE_DEFAULT: usize = 100;

/// Most rows of a page: what a caller can still work with, and the store reads without holding others up.
pub(super) const PAGE_MAX: usize = 1000;

/// Who asks, as the gate found it.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// Names this one request, in answers and logs.
    pub(super) request_id: Uuid,
    /// Follows the request across services.
    pub(super) correlation_id: CorrelationId,
    /// Who asks.
    pub(super) principal: Principal,
}

/// A request on its way to a handler.
#[derive(Debug)]
pub(super) struct ApiRequest {
    pub(super) caller: Caller,
    /// The parameters of the path, decoded, in order.
    pub(super) path_parameters: Vec<String>,
    /// The query as it came.
    pub(super) query: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl ApiRequest {
    /// Gives a parameter of the path.
    pub(super) fn path_parameter(&self, index: usize) -> &str {
        self.path_parameters.get(index).map(String::as_str).unwrap_or_default()
    }

    /// Reads the query, which may hold these parameters only.
    ///
    /// *Errors*: `BadParameter`.
    pub(super) fn query(&self, known: &'static [&'static str]) -> Result<Query, ApiError> {
        Query::parse(&self.query, known)
    }

    /// Reads the body of a state-changing request, which takes no query.
    ///
    /// *Errors*: `BadParameter`, and those of [`parse_object`].
    pub(super) fn document(&self) -> Result<Fields, ApiError> {
        self.query(&[])?;
        parse_object(&self.body)
    }

    /// Makes the command that the request asks for.
    pub(super) fn command(
        &self,
        clock: &dyn Clock,
        randomness: &dyn Randomness,
        reason: Option<String>,
        kind: CommandKind,
    ) -> Command {
        Command {
            command_id: CommandId(randomness.next_uuid()),
            correlation_id: self.caller.correlation_id,
            principal: self.caller.principal.clone(),
            reason,
            idempotency_key: None,
            requested_at: clock.now(),
            kind,
        }
    }
}

/// The parameters of a query.
#[derive(Debug)]
pub(super) struct Query {
    values: BTreeMap<String, String>,
}

impl Query {
    fn parse(raw: &str, known: &'static [&'static str]) -> Result<Self, ApiError> {
        let mut values = BTreeMap::new();
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decoded(name, "query")?;
            if !known.contains(&name.as_str()) {
                let name = shortened(&name);
                let wanted = if known.is_empty() {
                    "no parameter".to_owned()
                } else {
                    format!("`{}`", known.join("`, `"))
                };
                let reason = format!("wanted {wanted}, got `{name}`");
                return Err(bad_parameter(name, reason));
            }
            let value = decoded(value, &name)?;
            if values.insert(name.clone(), value).is_some() {
                return Err(bad_parameter(name, "wanted once, got twice"));
            }
        }
        Ok(Self { values })
    }

    /// Reads a parameter that may be absent.
    ///
    /// *Errors*: `BadParameter` with what its reader wants.
    pub(super) fn parsed<T, E: fmt::Display>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, ApiError> {
        let value = self.values.get(name).map(|text| parse(text)).transpose();
        value.map_err(|error| bad_parameter(name, error.to_string()))
    }

    /// Reads `limit`.
    ///
    /// *Errors*: `BadParameter` when it is no number of `1..=`[`PAGE_MAX`].
    pub(super) fn limit(&self) -> Result<usize, ApiError> {
        self.limit_or(PAGE_DEFAULT)
    }

    /// Reads `limit`, where a list has a default of its own.
    ///
    /// *Errors*: as [`Query::limit`].
    pub(super) fn limit_or(&self, default: usize) -> Result<usize, ApiError> {
        let read = |text: &str| match text.parse::<usize>() {
            Ok(limit) if (1..=PAGE_MAX).contains(&limit) => Ok(limit),
            _ => Err(format!("wanted 1..={PAGE_MAX}, got `{}`", shortened(text))),
        };
        Ok(self.parsed("limit", read)?.unwrap_or(default))
    }

    /// Reads `cursor`: the position after which a page of this kind starts.
    ///
    /// *Errors*: `BadParameter` when it is none that a page of this kind has given.
    pub(super) fn cursor<T: DeserializeOwned>(&self, kind: &'static str) -> Result<Option<T>, ApiError> {
        let read = |text: &str| {
            let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
            let (got, position) = serde_json::from_slice::<(String, T)>(&bytes).ok()?;
            (got == kind).then_some(position)
        };
        let wanted = || format!("wanted `next` of an earlier page of {kind}");
        self.parsed("cursor", |text| read(text).ok_or_else(wanted))
    }
}

/// Writes the position after which the next page starts; opaque to callers.
pub(super) fn cursor_text<T: Serialize>(kind: &'static str, position: &T) -> String {
    let bytes = serde_json::to_vec(&(kind, position)).expect("positions are text and numbers");
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Names a parameter that is not as wanted.
pub(super) fn bad_parameter(name: impl Into<String>, reason: impl Into<String>) -> ApiError {
    ApiError::BadParameter { name: name.into(), reason: reason.into() }
}

/// Decodes a part of a query: percent escapes and `+` for a space.
fn decoded(text: &str, name: &str) -> Result<String, ApiError> {
    path_segment(&text.replace('+', " "), name)
}

/// Decodes a segment of a path.
///
/// *Errors*: `BadParameter` when an escape is broken or the bytes are no UTF-8.
pub(super) fn path_segment(text: &str, name: &str) -> Result<String, ApiError> {
    let mut rest = text.as_bytes().split(|byte| *byte == b'%');
    let _before_first_escape = rest.next();
    let is_escape = |part: &[u8]| part.len() >= 2 && part.iter().take(2).all(u8::is_ascii_hexdigit);
    let decoded = percent_decode_str(text).decode_utf8();
    match decoded {
        Ok(decoded) if rest.all(is_escape) => Ok(decoded.into_owned()),
        _ => Err(bad_parameter(name, format!("wanted UTF-8 in percent escapes, got `{}`", shortened(text)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KNOWN: &[&str] = &["limit", "cursor", "user"];

    fn refused(raw: &str) -> (String, String) {
        let error = Query::parse(raw, KNOWN).and_then(|query| {
            query.limit()?;
            query.cursor::<(i64, String)>("jobs").map(drop)
        });
        match error.unwrap_err() {
            ApiError::BadParameter { name, reason } => (name, reason),
            other => panic!("wanted a bad parameter, got {other:?}"),
        }
    }

    #[test]
    fn query_wrong_parameters_are_named() {
        let other_kind = cursor_text("audit", &(1, "x"));
        let cases = [
            ("limit=0".to_owned(), "limit"),
            ("limit=-1".to_owned(), "limit"),
            ("limit=1001".to_owned(), "limit"),
            ("limit=".to_owned(), "limit"),
            ("limit=1&limit=2".to_owned(), "limit"),
            ("cursor=zzz".to_owned(), "cursor"),
            (format!("cursor={other_kind}"), "cursor"),
            ("page=2".to_owned(), "page"),
            ("user=%zz".to_owned(), "user"),
            ("user=%ff".to_owned(), "user"),
        ];

        for (raw, name) in cases {
            assert_eq!(refused(&raw).0, name, "{raw}");
        }
    }

    #[test]
    fn query_escapes_are_decoded() {
        let query = Query::parse("user=a%26b+c%C3%BC&limit=5", KNOWN).unwrap();

        let user = query.parsed("user", |text| Ok::<_, String>(text.to_owned())).unwrap();

        assert_eq!(user.as_deref(), Some("a&b cü"));
        assert_eq!(query.limit().unwrap(), 5);
    }

    proptest! {
        #[test]
        fn cursor_any_position_survives(micros: i64, id in ".*") {
            let raw = format!("cursor={}", cursor_text("jobs", &(micros, &id)));

            let read = Query::parse(&raw, KNOWN).unwrap().cursor::<(i64, String)>("jobs").unwrap();

            prop_assert_eq!(read, Some((micros, id)));
        }

        #[test]
        fn query_any_text_never_panics(raw in ".*") {
            let _answer = Query::parse(&raw, KNOWN);
        }
    }
}
