//! A validator for as much of JSON Schema 2020-12 as the files in `schemas/events` use.
//!
//! Promises that a keyword it does not know fails the test, so that no rule of a schema goes unchecked.

use std::cmp::Ordering;

use regex_automata::meta::Regex;
use serde_json::{Number, Value};

/// Keywords that say nothing about whether a value is valid.
const ANNOTATIONS: [&str; 6] = ["$schema", "$defs", "title", "description", "format", "default"];

/// Tells whether the value is valid against a schema of the document `root`.
pub(super) fn is_valid(root: &Value, schema: &Value, value: &Value) -> bool {
    schema.as_object().unwrap().iter().all(|(keyword, rule)| holds(root, schema, keyword, rule, value))
}

fn holds(root: &Value, schema: &Value, keyword: &str, rule: &Value, value: &Value) -> bool {
    let each = |rule: &Value| -> Vec<bool> {
        rule.as_array().unwrap().iter().map(|schema| is_valid(root, schema, value)).collect()
    };
    match keyword {
        _ if ANNOTATIONS.contains(&keyword) => true,
        "$ref" => is_valid(root, resolve(root, rule), value),
        "type" => match rule {
            Value::Array(types) => types.iter().any(|name| is_of_type(value, name.as_str().unwrap())),
            name => is_of_type(value, name.as_str().unwrap()),
        },
        "const" => is_same(rule, value),
        "enum" => rule.as_array().unwrap().iter().any(|one| is_same(one, value)),
        "anyOf" => each(rule).contains(&true),
        "not" => !is_valid(root, rule, value),
        "minimum" => value.as_number().is_none_or(|number| compare(number, rule) != Ordering::Less),
        "maximum" => value.as_number().is_none_or(|number| compare(number, rule) != Ordering::Greater),
        "minLength" => value.as_str().is_none_or(|text| length(text) >= rule.as_u64().unwrap()),
        "maxLength" => value.as_str().is_none_or(|text| length(text) <= rule.as_u64().unwrap()),
        "pattern" => value.as_str().is_none_or(|text| regex(rule.as_str().unwrap()).is_match(text)),
        "required" => value.as_object().is_none_or(|fields| {
            rule.as_array().unwrap().iter().all(|name| fields.contains_key(name.as_str().unwrap()))
        }),
        "properties" => value.as_object().is_none_or(|fields| {
            let described = rule.as_object().unwrap().iter();
            described
                .filter_map(|(name, schema)| Some((schema, fields.get(name)?)))
                .all(|(schema, field)| is_valid(root, schema, field))
        }),
        "additionalProperties" => value.as_object().is_none_or(|fields| {
            let named = schema["properties"].as_object();
            fields
                .iter()
                .filter(|(name, _)| named.is_none_or(|named| !named.contains_key(*name)))
                .all(|(_, field)| is_valid(root, rule, field))
        }),
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| is_valid(root, rule, item))),
        other => unreachable!("the validator of the tests does not know `{other}`"),
    }
}

/// Finds what a reference names.
pub(super) fn resolve<'a>(root: &'a Value, reference: &Value) -> &'a Value {
    root.pointer(reference.as_str().unwrap().trim_start_matches('#')).unwrap()
}

fn regex(pattern: &str) -> Regex {
    // Compiled once per pattern: there are few, and each is large.
    thread_local! {
        static KNOWN: std::cell::RefCell<std::collections::HashMap<String, Regex>> = std::cell::RefCell::default();
    }
    KNOWN.with_borrow_mut(|known| {
        known.entry(pattern.to_owned()).or_insert_with(|| Regex::new(pattern).unwrap()).clone()
    })
}

fn length(text: &str) -> u64 {
    text.chars().count() as u64
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.as_number().is_some_and(|number| whole(number).is_some() || is_huge_whole(number)),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => unreachable!("JSON Schema has no type `{other}`"),
    }
}

fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(_)) => compare(one, other) == Ordering::Equal,
        _ => one == other,
    }
}

/// Gives a number as a whole one where it is: 1.0 is one, as JSON Schema says.
fn whole(number: &Number) -> Option<i128> {
    let float = || number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 1e30);
    number.as_u64().map(i128::from).or(number.as_i64().map(i128::from)).or_else(|| float().map(|f| f as i128))
}

/// Tells whether a number is whole and too large to be compared but as a float.
fn is_huge_whole(number: &Number) -> bool {
    number.as_f64().is_some_and(|float| float.fract() == 0.0)
}

fn compare(number: &Number, other: &Value) -> Ordering {
    let other = other.as_number().unwrap();
    match (whole(number), whole(other)) {
        (Some(number), Some(other)) => number.cmp(&other),
        _ => number.as_f64().partial_cmp(&other.as_f64()).unwrap(),
    }
}
