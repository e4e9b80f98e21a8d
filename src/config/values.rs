//! Values that fit their keys.
//!
//! Promises that a value is only taken as what its key holds. Knows no rule between keys.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use horizons_actors::ids::Topic;

use super::ShownValue;
use super::error::Origin;
use super::keys::{KEYS, Key, Kind, NAME_PART_MAX, SQL_NAME_MAX};
use super::raw::RawValue;

/// A value that fits its key.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Number(u64),
    Text(String),
    Topics(Vec<Topic>),
}

impl Value {
    fn as_number(&self) -> Option<u64> {
        if let Value::Number(number) = self { Some(*number) } else { None }
    }

    fn as_text(&self) -> Option<&str> {
        if let Value::Text(text) = self { Some(text) } else { None }
    }

    fn as_topics(&self) -> Option<&[Topic]> {
        if let Value::Topics(topics) = self { Some(topics) } else { None }
    }
}

/// Every key's value, by path.
#[derive(Debug, Default)]
pub(super) struct Values {
    by_path: BTreeMap<String, (Value, Origin)>,
}

impl Values {
    /// Adds a key's value.
    pub(super) fn insert(&mut self, key: &Key, value: Value, origin: Origin) {
        self.by_path.insert(key.path(), (value, origin));
    }

    fn get(&self, path: &str) -> &(Value, Origin) {
        self.by_path.get(path).expect("every key that is read is in the table of keys")
    }

    pub(super) fn origin(&self, path: &str) -> &Origin {
        &self.get(path).1
    }

    pub(super) fn number(&self, path: &str) -> u64 {
        self.get(path).0.as_number().expect("a key is read as the kind that the table of keys gives it")
    }

    pub(super) fn text(&self, path: &str) -> &str {
        self.get(path).0.as_text().expect("a key is read as the kind that the table of keys gives it")
    }

    pub(super) fn topics(&self, path: &str) -> Vec<Topic> {
        let topics = self.get(path).0.as_topics();
        topics.expect("a key is read as the kind that the table of keys gives it").to_vec()
    }

    pub(super) fn duration(&self, path: &str) -> Duration {
        Duration::from_millis(self.number(path))
    }

    pub(super) fn size(&self, path: &str) -> usize {
        usize::try_from(self.number(path)).unwrap_or(usize::MAX)
    }

    pub(super) fn shown(&self) -> Vec<ShownValue> {
        let shown = KEYS.iter().map(|key| {
            let path = key.path();
            let (value, origin) = self.get(&path);
            let value = match value {
                Value::Text(text) if key.kind == Kind::Secret && !text.is_empty() => "***".into(),
                Value::Number(number) => serde_json::Value::from(*number),
                Value::Text(text) => serde_json::Value::from(text.as_str()),
                Value::Topics(topics) => topics.iter().map(|topic| topic.name()).collect(),
            };
            ShownValue { key: path, value, origin: origin.clone() }
        });
        shown.collect()
    }
}

/// Reads a value as what its key takes.
pub(super) fn fit(key: &Key, value: &RawValue) -> Option<Value> {
    match (key.kind, value) {
        (Kind::Number { min, max }, RawValue::Number(number)) => {
            let number = u64::try_from(*number).ok()?;
            (min..=max).contains(&number).then_some(Value::Number(number))
        }
        (Kind::OneOf(names), RawValue::Text(text)) => {
            names.contains(&text.as_str()).then(|| Value::Text(text.clone()))
        }
        (Kind::LoopbackAddress, RawValue::Text(text)) => {
            let address: SocketAddr = text.parse().ok()?;
            address.ip().is_loopback().then(|| Value::Text(text.clone()))
        }
        (Kind::Folder, RawValue::Text(text)) => {
            (!text.is_empty() && !text.contains('\0')).then(|| Value::Text(text.clone()))
        }
        (kind, RawValue::Text(text)) => fits_text(kind, text).then(|| Value::Text(text.clone())),
        (Kind::Topics, RawValue::List(items)) => {
            let mut topics = Vec::with_capacity(items.len());
            for item in items {
                let RawValue::Text(name) = item else { return None };
                let topic = Topic::parse(name).ok()?;
                if topics.contains(&topic) {
                    return None;
                }
                topics.push(topic);
            }
            (!topics.is_empty()).then_some(Value::Topics(topics))
        }
        _ => None,
    }
}

/// Tells whether a text is what a kind of key takes that is nothing but text.
fn fits_text(kind: Kind, text: &str) -> bool {
    let has_control = text.chars().any(char::is_control);
    match kind {
        Kind::File | Kind::Name | Kind::Secret => !text.contains('\0'),
        Kind::Brokers => text.is_empty() || text.split(',').all(is_broker),
        Kind::NamePart => {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            text.len() <= NAME_PART_MAX && text.bytes().all(is_plain)
        }
        Kind::NameOfRole if text.is_empty() => true,
        Kind::SqlName | Kind::NameOfRole => {
            let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            text.len() <= SQL_NAME_MAX
                && text.bytes().all(is_plain)
                && text.starts_with(|first: char| first.is_ascii_lowercase())
        }
        Kind::DatabaseUrl => !has_control && (text.is_empty() || is_database_without_password(text)),
        Kind::Number { .. } | Kind::OneOf(_) | Kind::LoopbackAddress | Kind::Folder | Kind::Topics => false,
    }
}

/// Tells whether a text is a host and a port.
fn is_broker(text: &str) -> bool {
    let Some((host, port)) = text.trim().rsplit_once(':') else { return false };
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || ".-_[]:".contains(letter);
    !host.is_empty() && host.chars().all(is_plain) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// Tells whether a text addresses a PostgreSQL database and holds no password.
fn is_database_without_password(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")) else {
        return false;
    };
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
    !user.contains(':') && !text.contains("password=") && !rest.is_empty()
}
