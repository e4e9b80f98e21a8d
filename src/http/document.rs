//! Request bodies: JSON objects, read strictly.
//!
//! Promises that a field given twice, at any depth, and a field that no route knows are refused by name, and
//! that malformed JSON is refused with line and column. A field that is null counts as absent.

use std::cell::RefCell;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use horizons_actors::ids::{Group, LaneKey, Partition, Topic, TopicPartition};
use horizons_actors::lane::status::StatusBoard;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::error::ApiError;

/// What a whole body is called where a field is to be named.
const BODY: &str = "body";

/// Reads a body that must be one JSON object.
///
/// *Errors*: `MalformedBody` when it is no JSON; `Invalid` when a field stands twice or it is no object.
pub(super) fn parse_object(bytes: &[u8]) -> Result<Fields, ApiError> {
    let twice = RefCell::new(None);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let seed = StrictSeed { path: "", twice: &twice };
    let parsed = seed.deserialize(&mut deserializer).and_then(|value| {
        deserializer.end()?;
        Ok(value)
    });
    match (parsed, twice.into_inner()) {
        (_, Some(field)) => Err(invalid(field, "wanted once, got twice")),
        (Err(error), None) => Err(ApiError::MalformedBody { reason: error.to_string() }),
        (Ok(Value::Object(values)), None) => Ok(Fields { prefix: String::new(), values }),
        (Ok(other), None) => Err(invalid(BODY, format!("wanted an object, got {}", shown(&other)))),
    }
}

/// The fields of an object; each is taken once, and what is left at the end is unknown.
#[derive(Debug)]
pub(super) struct Fields {
    prefix: String,
    values: Map<String, Value>,
}

impl Fields {
    /// Takes the object in a list.
    ///
    /// *Errors*: `Invalid` when it is none.
    pub(super) fn of_item(list: &str, index: usize, value: Value) -> Result<Self, ApiError> {
        match value {
            Value::Object(values) => Ok(Self { prefix: format!("{list}[{index}]."), values }),
            other => {
                Err(invalid(format!("{list}[{index}]"), format!("wanted an object, got {}", shown(&other))))
            }
        }
    }

    /// Names a field as the caller knows it.
    pub(super) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.values.remove(name).filter(|value| !value.is_null())
    }

    fn wrong<T>(&self, name: &str, wanted: &str, got: Option<&Value>) -> Result<T, ApiError> {
        let got = got.map_or_else(|| "nothing".to_owned(), shown);
        Err(invalid(self.path(name), format!("wanted {wanted}, got {got}")))
    }

    /// Takes a text that may be absent.
    ///
    /// *Errors*: `Invalid` when it is no text.
    pub(super) fn optional_text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => self.wrong(name, "a text", Some(&other)),
        }
    }

    /// Takes a text.
    ///
    /// *Errors*: `Invalid` when it is absent or no text.
    pub(super) fn text(&mut self, name: &str) -> Result<String, ApiError> {
        match self.optional_text(name)? {
            Some(text) => Ok(text),
            None => self.wrong(name, "a text", None),
        }
    }

    /// Takes a text and reads it.
    ///
    /// *Errors*: `Invalid` when it is absent, no text or not as its reader wants it.
    pub(super) fn parsed<T, E: fmt::Display>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, ApiError> {
        let text = self.text(name)?;
        parse(&text).map_err(|error| invalid(self.path(name), error.to_string()))
    }

    /// Takes a partition number.
    ///
    /// *Errors*: `Invalid` when it is absent or no number below 65536.
    pub(super) fn partition(&mut self, name: &str) -> Result<u16, ApiError> {
        let value = self.take(name);
        match value.as_ref().and_then(whole).and_then(|number| u16::try_from(number).ok()) {
            Some(number) => Ok(number),
            None => self.wrong(name, "a partition's number", value.as_ref()),
        }
    }

    /// Takes a lane's `group`, `topic` and `partition`.
    ///
    /// *Errors*: `Invalid` when one is absent, or no name of a group, a topic or one of its partitions.
    pub(super) fn lane(&mut self, board: &StatusBoard) -> Result<LaneKey, ApiError> {
        let group = self.parsed("group", Group::parse)?;
        let topic = self.parsed("topic", Topic::parse)?;
        let partition = self.partition("partition")?;
        let partitions = board.layout(topic).partitions();
        if partition >= partitions {
            let last = partitions.saturating_sub(1);
            let reason = format!("wanted 0..={last} of `{topic}`, got {partition}");
            return Err(invalid(self.path("partition"), reason));
        }
        Ok(LaneKey { group, topic_partition: TopicPartition { topic, partition: Partition(partition) } })
    }

    /// Takes a whole number.
    ///
    /// *Errors*: `Invalid` when it is absent or no whole number from 0 on.
    pub(super) fn number(&mut self, name: &str) -> Result<u64, ApiError> {
        let value = self.take(name);
        match value.as_ref().and_then(whole) {
            Some(number) => Ok(number),
            None => self.wrong(name, "a whole number from 0 on", value.as_ref()),
        }
    }

    /// Takes an object; absent it is empty.
    ///
    /// *Errors*: `Invalid` when it is no object.
    pub(super) fn object(&mut self, name: &str) -> Result<Map<String, Value>, ApiError> {
        match self.take(name) {
            None => Ok(Map::new()),
            Some(Value::Object(values)) => Ok(values),
            Some(other) => self.wrong(name, "an object", Some(&other)),
        }
    }

    /// Takes a list.
    ///
    /// *Errors*: `Invalid` when it is absent or no list.
    pub(super) fn list(&mut self, name: &str) -> Result<Vec<Value>, ApiError> {
        match self.take(name) {
            Some(Value::Array(items)) => Ok(items),
            other => self.wrong(name, "a list", other.as_ref()),
        }
    }

    /// Takes bytes in base64 that may be absent; the empty text stands for no bytes, null for absent.
    ///
    /// *Errors*: `Invalid` when it is no base64 text.
    pub(super) fn optional_base64(&mut self, name: &str) -> Result<Option<Bytes>, ApiError> {
        let Some(text) = self.optional_text(name)? else { return Ok(None) };
        match BASE64.decode(text) {
            Ok(bytes) => Ok(Some(Bytes::from(bytes))),
            Err(error) => Err(invalid(self.path(name), format!("wanted base64 with padding: {error}"))),
        }
    }

    /// Ends the reading.
    ///
    /// *Errors*: `Invalid` naming the first field that nobody took.
    pub(super) fn finish(self, known: &str) -> Result<(), ApiError> {
        match self.values.keys().next() {
            None => Ok(()),
            Some(name) => Err(invalid(self.path(name), format!("wanted only {known}, got an unknown field"))),
        }
    }
}

/// Reads a whole number: `3.0` is one as well (JSON Schema 2020-12), as far as a float is exact.
fn whole(value: &Value) -> Option<u64> {
    const EXACT_BELOW: f64 = 9_007_199_254_740_992.0;
    let float = || value.as_f64().filter(|float| float.fract() == 0.0 && (0.0..EXACT_BELOW).contains(float));
    // The range is checked, so nothing is cut.
    value.as_u64().or_else(|| float().map(|float| float as u64))
}

/// Names a field that is not as wanted.
pub(super) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> ApiError {
    ApiError::Invalid { field: field.into(), reason: reason.into() }
}

/// Longest piece of a caller's value that is shown back.
const SHOWN_CHARS_MAX: usize = 80;

/// Shows a value in an error, cut short.
fn shown(value: &Value) -> String {
    format!("`{}`", shortened(&value.to_string()))
}

/// Cuts a caller's text short.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
    }
}

/// Reads one value and stops at the first name that stands twice in its object.
struct StrictSeed<'a> {
    path: &'a str,
    twice: &'a RefCell<Option<String>>,
}

impl StrictSeed<'_> {
    fn child_path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}

impl<'de> DeserializeSeed<'de> for StrictSeed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for StrictSeed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let path = format!("{}[{}]", self.path, list.len());
            match items.next_element_seed(StrictSeed { path: &path, twice: self.twice })? {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let path = self.child_path(&name);
            if values.contains_key(&name) {
                self.twice.replace(Some(path));
                return Err(A::Error::custom("a field stands twice"));
            }
            let value = fields.next_value_seed(StrictSeed { path: &path, twice: self.twice })?;
            values.insert(name, value);
        }
        Ok(Value::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error_of(text: &str) -> String {
        match parse_object(text.as_bytes()) {
            Ok(fields) => format!("{fields:?}"),
            Err(ApiError::Invalid { field, reason }) => format!("{field}: {reason}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn parse_object_wrong_bodies_are_named() {
        let errors = [
            ("{\"a\":1,\"a\":2}", "a: wanted once, got twice"),
            ("{\"a\":[{\"b\":{\"c\":1,\"c\":1}}]}", "a[0].b.c: wanted once, got twice"),
            ("[1]", "body: wanted an object, got `[1]`"),
            ("", "failed to read the body as JSON: EOF while parsing a value at line 1 column 0"),
            ("{\n  \"a\": nul }", "failed to read the body as JSON: expected ident at line 2 column 11"),
            ("{} x", "failed to read the body as JSON: trailing characters at line 1 column 4"),
        ];

        for (text, wanted) in errors {
            assert_eq!(error_of(text), wanted, "{text}");
        }
    }

    #[test]
    fn fields_left_over_are_named() {
        let mut fields = parse_object(b"{\"a\":\"x\",\"b\":null,\"c\":1}").unwrap();

        assert_eq!(fields.text("a").unwrap(), "x");
        assert_eq!(fields.optional_text("b").unwrap(), None);
        let error = fields.finish("`a`, `b`").unwrap_err();

        assert_eq!(error, invalid("c", "wanted only `a`, `b`, got an unknown field"));
    }

    #[test]
    fn base64_not_as_wanted_is_named() {
        let mut fields = parse_object(b"{\"k\":\"?\",\"empty\":\"\"}").unwrap();

        assert!(matches!(fields.optional_base64("k"), Err(ApiError::Invalid { field, .. }) if field == "k"));
        assert_eq!(fields.optional_base64("empty").unwrap(), Some(Bytes::new()));
        assert_eq!(fields.optional_base64("absent").unwrap(), None);
    }

    #[test]
    fn parse_object_deep_nesting_is_refused() {
        let text = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));

        assert!(error_of(&text).contains("recursion limit exceeded"));
    }

    proptest! {
        #[test]
        fn parse_object_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _answer = parse_object(&bytes);
        }
    }
}
