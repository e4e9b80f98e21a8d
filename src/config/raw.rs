//! Reads what file and environment say, before anybody has judged it.
//!
//! Promises that every given value keeps its origin, and that unknown keys, sections and variables are
//! found, all of them. Judges no value.

use std::collections::BTreeMap;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Fault, Origin, Problem};
use super::keys::{ENVIRONMENT_PREFIX, KEYS, Key, Kind, OTHER_VARIABLES, nearest, sections};

/// The section whose tables are named by the user.
pub(super) const AGENTS_SECTION: &str = "agents";

/// A value as it was given.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum RawValue {
    /// A whole number.
    Number(i128),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<RawValue>),
    /// A table, in the order of its keys.
    Table(Vec<(String, Given)>),
    /// Something that no key takes: its type and text.
    Other(&'static str, String),
}

impl RawValue {
    /// Writes the value for a message.
    pub(super) fn shown(&self) -> String {
        match self {
            RawValue::Number(number) => format!("`{number}`"),
            RawValue::Text(text) => format!("`{text}`"),
            RawValue::List(_) => "a list".to_owned(),
            RawValue::Table(_) => "a table".to_owned(),
            RawValue::Other(kind, text) => format!("the {kind} `{text}`"),
        }
    }
}

/// A value and where it comes from.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Given {
    pub(super) value: RawValue,
    pub(super) origin: Origin,
}

/// Everything that was given.
#[derive(Debug, Default)]
pub(super) struct RawConfig {
    /// Values by the path of their key; the environment has replaced the file's.
    pub(super) values: BTreeMap<String, Given>,
    /// Agents by name.
    pub(super) agents: Vec<(String, Given)>,
    /// What is unknown or in the wrong place.
    pub(super) problems: Vec<Problem>,
}

/// Reads a file's text.
///
/// *Errors*: [`ConfigError::Syntax`] with every place at which the text is no TOML.
pub(super) fn read_file(name: &str, text: &str, raw: &mut RawConfig) -> Result<(), ConfigError> {
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let faults = errors.iter().map(|error| {
            let start = error.span().map_or(0, |span| span.start);
            format!("{name}:{}: {}", line_of(text, start), error.message())
        });
        return Err(ConfigError::Syntax { name: name.to_owned(), faults: faults.collect() });
    }
    let lines = Lines { name: Arc::from(name), text };
    for (section, given) in lines.table(document.get_ref()) {
        raw.take_section(section, given);
    }
    Ok(())
}

/// Reads the environment over what the file said.
pub(super) fn read_environment(environment: &BTreeMap<String, String>, raw: &mut RawConfig) {
    let variables: BTreeMap<String, Key> = KEYS.iter().map(|key| (key.variable(), *key)).collect();
    for (name, text) in environment.iter().filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX)) {
        let origin = Origin::Environment(name.clone());
        if let Some(key) = variables.get(name) {
            if text.contains(char::REPLACEMENT_CHARACTER) {
                let fault = Fault::Wrong { wanted: "text in UTF-8".to_owned(), got: format!("`{text}`") };
                raw.problems.push(Problem { key: key.path(), origin, fault });
                continue;
            }
            let value = environment_value(key.kind, text);
            raw.values.insert(key.path(), Given { value, origin });
        } else if is_of_a_service(name, text) {
            // A container platform set it: it is none of ours, however much its name looks like a key.
        } else if let Some(fault) = judge_variable(name, &variables) {
            raw.problems.push(Problem { key: name.clone(), origin, fault });
        }
    }
}

/// Reads a variable's text as what its key takes.
fn environment_value(kind: Kind, text: &str) -> RawValue {
    let as_text = |text: &str| RawValue::Text(text.to_owned());
    match kind {
        Kind::Number { .. } => text.parse().map_or_else(|_| as_text(text), RawValue::Number),
        Kind::Topics => RawValue::List(text.split(',').map(|part| as_text(part.trim())).collect()),
        Kind::OneOf(_)
        | Kind::LoopbackAddress
        | Kind::Folder
        | Kind::File
        | Kind::Brokers
        | Kind::NamePart
        | Kind::SqlName
        | Kind::NameOfRole
        | Kind::Name
        | Kind::DatabaseUrl
        | Kind::Secret => as_text(text),
    }
}

/// Tells what is wrong with a variable that is no key: one that looks like a key is refused, another is
/// none of ours (a container platform sets `HORIZONS_PORT` for a service of our name).
fn judge_variable(name: &str, variables: &BTreeMap<String, Key>) -> Option<Fault> {
    if OTHER_VARIABLES.iter().any(|(other, _)| *other == name) {
        return None;
    }
    let rest = name.strip_prefix(ENVIRONMENT_PREFIX).unwrap_or(name).to_ascii_lowercase();
    let starts_section = |section: &str| rest.strip_prefix(section).is_some_and(|rest| rest.starts_with('_'));
    if starts_section(AGENTS_SECTION) {
        let reason = "agents are declared in the file only, because their names are free";
        return Some(Fault::Rule(reason.to_owned()));
    }
    // Names are compared without the prefix, or a short one would be near every other.
    let others = OTHER_VARIABLES.iter().map(|(other, _)| *other);
    let known = variables.keys().map(String::as_str).chain(others);
    let known: Vec<String> =
        known.filter_map(|name| name.strip_prefix(ENVIRONMENT_PREFIX)).map(str::to_ascii_lowercase).collect();
    let nearest = nearest(&rest, known.iter().map(String::as_str))
        .map(|name| format!("{ENVIRONMENT_PREFIX}{}", name.to_ascii_uppercase()));
    if nearest.is_some() || sections().into_iter().any(starts_section) {
        return Some(Fault::Unknown { nearest });
    }
    None
}

/// Protocols of a service's ports.
const SERVICE_PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

/// Tells whether a container platform sets the variable to tell where a service is. One that is called
/// `horizons-kafka` has variables that begin like those of our section `kafka`.
///
/// *Source*: <https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>
fn is_of_a_service(name: &str, text: &str) -> bool {
    let is_service =
        name.ends_with("_SERVICE_HOST") || name.ends_with("_SERVICE_PORT") || name.contains("_SERVICE_PORT_");
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_uppercase());
    let is_link =
        name.ends_with("_PORT") && scheme.is_some_and(|scheme| SERVICE_PROTOCOLS.contains(&scheme.as_str()));
    is_service || is_link || name.rsplit_once("_PORT_").is_some_and(|(_, port)| is_port_of_link(port))
}

/// Reads `9092_TCP`, alone or with the part that it tells.
fn is_port_of_link(port: &str) -> bool {
    let mut parts = port.split('_');
    let is_number = parts.next().is_some_and(|number| number.parse::<u16>().is_ok());
    let is_protocol = parts.next().is_some_and(|protocol| SERVICE_PROTOCOLS.contains(&protocol));
    let is_part = parts.next().is_none_or(|part| ["PROTO", "PORT", "ADDR"].contains(&part));
    is_number && is_protocol && is_part && parts.next().is_none()
}

impl RawConfig {
    fn take_section(&mut self, section: String, given: Given) {
        let RawValue::Table(entries) = given.value else {
            let fault = match nearest_anywhere(&section) {
                Some(_) => Fault::Unknown { nearest: nearest_anywhere(&section) },
                None if is_section(&section) => {
                    Fault::Wrong { wanted: "a table".to_owned(), got: given.value.shown() }
                }
                None => Fault::Unknown { nearest: None },
            };
            self.problems.push(Problem { key: section, origin: given.origin, fault });
            return;
        };
        if section == AGENTS_SECTION {
            self.agents = entries;
            return;
        }
        if !is_section(&section) {
            let nearest =
                nearest(&section, sections().into_iter().chain([AGENTS_SECTION])).map(str::to_owned);
            let fault = Fault::Unknown { nearest };
            self.problems.push(Problem { key: section, origin: given.origin, fault });
            return;
        }
        for (name, given) in entries {
            let path = format!("{section}.{name}");
            if KEYS.iter().any(|key| key.section == section && key.name == name) {
                self.values.insert(path, given);
            } else {
                let names = KEYS.iter().filter(|key| key.section == section).map(|key| key.name);
                let nearest = nearest(&name, names)
                    .map(|name| format!("{section}.{name}"))
                    .or_else(|| nearest_anywhere(&name));
                self.problems.push(Problem {
                    key: path,
                    origin: given.origin,
                    fault: Fault::Unknown { nearest },
                });
            }
        }
    }
}

fn is_section(name: &str) -> bool {
    name == AGENTS_SECTION || sections().contains(&name)
}

/// Finds a key of exactly this name in any section, for a key that stands in the wrong one.
fn nearest_anywhere(name: &str) -> Option<String> {
    KEYS.iter().find(|key| key.name == name).map(Key::path)
}

/// Turns parsed TOML into given values with the line of each.
struct Lines<'a> {
    name: Arc<str>,
    text: &'a str,
}

impl Lines<'_> {
    fn table(&self, table: &DeTable<'_>) -> Vec<(String, Given)> {
        let given = table.iter().map(|(key, value)| {
            let line = line_of(self.text, key.span().start);
            let origin = Origin::File { name: Arc::clone(&self.name), line };
            (key.get_ref().to_string(), Given { value: self.value(value.get_ref()), origin })
        });
        given.collect()
    }

    fn value(&self, value: &DeValue<'_>) -> RawValue {
        match value {
            DeValue::Integer(integer) => i128::from_str_radix(integer.as_str(), integer.radix())
                .map_or_else(|_| RawValue::Other("integer", integer.to_string()), RawValue::Number),
            DeValue::String(text) => RawValue::Text(text.to_string()),
            DeValue::Array(items) => {
                RawValue::List(items.iter().map(|item| self.value(item.get_ref())).collect())
            }
            DeValue::Table(table) => RawValue::Table(self.table(table)),
            DeValue::Float(float) => RawValue::Other("float", float.to_string()),
            DeValue::Boolean(truth) => RawValue::Other("boolean", truth.to_string()),
            DeValue::Datetime(time) => RawValue::Other("time", time.to_string()),
        }
    }
}

/// Counts the lines up to a byte.
fn line_of(text: &str, byte: usize) -> usize {
    text.bytes().take(byte).filter(|byte| *byte == b'\n').count() + 1
}
