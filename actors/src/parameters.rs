//! The parameters of a job, exactly as its user wrote them.
//!
//! Promises that no value is read as a number and written again: `1.10`, `1e5` and a number of thirty digits
//! stay the characters they are, from the request to the agent's arguments and its file of parameters. A value
//! is text, or JSON that was asked for as JSON.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::event::FREE_OBJECT_NESTING_MAX;

/// Tells why a text is not taken as parameters.
#[derive(Debug, thiserror::Error)]
pub enum ParametersError {
    /// The text is no JSON of the kind wanted.
    #[error("wanted JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    /// A value nests so deep that documents which embed it cannot be read everywhere.
    #[error("wanted at most {FREE_OBJECT_NESTING_MAX} levels of nesting, got {levels}")]
    TooDeep {
        /// How deep it nests.
        levels: usize,
    },
}

/// The value of a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParameterValue {
    /// Text.
    Text(String),
    /// Anything else that JSON has, as it was written.
    Json(JsonText),
}

/// A JSON value other than text, as it was written.
#[derive(Debug, Clone)]
pub struct JsonText(Box<RawValue>);

impl JsonText {
    /// Gives the JSON.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for JsonText {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for JsonText {}

impl ParameterValue {
    /// Takes a value that is written as JSON; a JSON text is the text it stands for.
    ///
    /// *Errors*: [`ParametersError`].
    pub fn from_json(text: &str) -> Result<Self, ParametersError> {
        Self::from_raw(serde_json::from_str(text)?)
    }

    /// Takes a value that was cut out of a JSON document.
    ///
    /// *Errors*: [`ParametersError`].
    pub fn from_raw(value: Box<RawValue>) -> Result<Self, ParametersError> {
        if value.get().starts_with('"') {
            return Ok(ParameterValue::Text(serde_json::from_str(value.get())?));
        }
        let levels = nesting(value.get());
        if levels > FREE_OBJECT_NESTING_MAX {
            return Err(ParametersError::TooDeep { levels });
        }
        Ok(ParameterValue::Json(JsonText(value)))
    }

    /// Gives the value as text: as it is, or as its JSON is written.
    pub fn as_text(&self) -> &str {
        match self {
            ParameterValue::Text(text) => text,
            ParameterValue::Json(json) => json.as_str(),
        }
    }

    /// Gives the value as one argument of a program.
    ///
    /// *Errors*: what it is instead, in words, when it is null, an array or an object.
    pub fn as_argument(&self) -> Result<&str, &'static str> {
        match self.as_text() {
            text if matches!(self, ParameterValue::Text(_)) => Ok(text),
            "null" => Err("null"),
            json if json.starts_with('[') => Err("an array"),
            json if json.starts_with('{') => Err("an object"),
            json => Ok(json),
        }
    }
}

impl From<&str> for ParameterValue {
    fn from(text: &str) -> Self {
        ParameterValue::Text(text.to_owned())
    }
}

impl Serialize for ParameterValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            ParameterValue::Text(text) => text.serialize(serializer),
            ParameterValue::Json(json) => json.0.serialize(serializer),
        }
    }
}

/// Counts the levels of arrays and objects in valid JSON.
fn nesting(json: &str) -> usize {
    let (mut level, mut deepest): (usize, usize) = (0, 0);
    let (mut in_text, mut is_escaped) = (false, false);
    for byte in json.bytes() {
        match (in_text, byte) {
            (true, _) if is_escaped => is_escaped = false,
            (true, b'\\') => is_escaped = true,
            (_, b'"') => in_text = !in_text,
            (false, b'[' | b'{') => {
                level += 1;
                deepest = deepest.max(level);
            }
            (false, b']' | b'}') => level = level.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// The parameters of a job, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters(BTreeMap<String, ParameterValue>);

impl Parameters {
    /// Reads an object of parameters, as [`to_json`](Self::to_json) writes it.
    ///
    /// *Errors*: [`ParametersError`].
    pub fn from_json(text: &str) -> Result<Self, ParametersError> {
        let values: BTreeMap<String, Box<RawValue>> = serde_json::from_str(text)?;
        let read = |(name, value)| Ok((name, ParameterValue::from_raw(value)?));
        values.into_iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// Writes them as one JSON object, in the order of their names, each value as it was written.
    ///
    /// *Shape*: of a job's row and of the agent's file of parameters.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.0).expect("texts and JSON are JSON")
    }

    /// Sets a parameter; gives the value it had.
    pub fn insert(&mut self, name: &str, value: ParameterValue) -> Option<ParameterValue> {
        self.0.insert(name.to_owned(), value)
    }

    /// Takes a parameter away.
    pub fn remove(&mut self, name: &str) -> Option<ParameterValue> {
        self.0.remove(name)
    }

    /// Finds a parameter.
    pub fn get(&self, name: &str) -> Option<&ParameterValue> {
        self.0.get(name)
    }

    /// Gives every value as text, by name.
    pub fn texts(&self) -> BTreeMap<String, String> {
        self.0.iter().map(|(name, value)| (name.clone(), value.as_text().to_owned())).collect()
    }

    /// Names the parameters whose text is JSON.
    pub fn json_names(&self) -> BTreeSet<String> {
        let is_json = |value: &ParameterValue| matches!(value, ParameterValue::Json(_));
        self.0.iter().filter(|(_, value)| is_json(value)).map(|(name, _)| name.clone()).collect()
    }
}

impl FromIterator<(String, ParameterValue)> for Parameters {
    fn from_iter<I: IntoIterator<Item = (String, ParameterValue)>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_stay_as_they_are_written() {
        let written =
            r#"{"a":20200219123456789012,"b":1.10,"c":1e5,"d":-0.0,"e":[1.0, 2e0],"f":true,"g":null}"#;

        let parameters = Parameters::from_json(written).unwrap();

        assert_eq!(parameters.to_json(), written);
        let arguments = ["a", "b", "c", "d", "f"].map(|name| parameters.get(name).unwrap().as_argument());
        assert_eq!(arguments, ["20200219123456789012", "1.10", "1e5", "-0.0", "true"].map(Ok));
        assert_eq!(parameters.get("e").unwrap().as_argument(), Err("an array"));
        assert_eq!(parameters.get("g").unwrap().as_argument(), Err("null"));
        assert_eq!(parameters.json_names().len(), 7);
    }

    #[test]
    fn text_that_looks_like_json_is_text() {
        let parameters = Parameters::from_json(r#"{"a":"1.10","b":"null","c":"[1]"}"#).unwrap();

        assert_eq!(parameters.json_names(), BTreeSet::new());
        assert_eq!(parameters.get("b").unwrap().as_argument(), Ok("null"));
        assert_eq!(parameters.get("c").unwrap().as_argument(), Ok("[1]"));
    }

    #[test]
    fn value_nested_too_deep_is_refused() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));

        assert!(ParameterValue::from_json(&nested(FREE_OBJECT_NESTING_MAX)).is_ok());
        assert!(matches!(
            ParameterValue::from_json(&nested(FREE_OBJECT_NESTING_MAX + 1)),
            Err(ParametersError::TooDeep { levels }) if levels == FREE_OBJECT_NESTING_MAX + 1
        ));
        let brackets_in_text = format!("[\"\\\"{}\"]", "[".repeat(200));
        assert!(ParameterValue::from_json(&brackets_in_text).is_ok());
    }

    proptest! {
        #[test]
        fn parameters_of_any_text_come_back(texts in prop::collection::btree_map(any::<String>(), any::<String>(), 0..5)) {
            let values = texts.iter().map(|(name, text)| (name.clone(), text.as_str().into()));
            let parameters: Parameters = values.collect();

            let read = Parameters::from_json(&parameters.to_json()).unwrap();

            prop_assert_eq!(read.texts(), texts);
            prop_assert_eq!(read, parameters);
        }

        #[test]
        fn number_of_any_digits_comes_back(number in "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?") {
            let value = ParameterValue::from_json(&number).unwrap();
            let parameters: Parameters = [("x".to_owned(), value)].into_iter().collect();

            let read = Parameters::from_json(&parameters.to_json()).unwrap();

            prop_assert_eq!(read.get("x").unwrap().as_argument(), Ok(number.as_str()));
        }
    }
}
