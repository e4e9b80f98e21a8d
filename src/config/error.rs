//! What can be wrong with a configuration, and where it came from.
//!
//! Promises that every problem names its key, its origin, what was wanted and what was got.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::shown::shown;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The file, by its name, and the line.
    File {
        /// The file as it was named.
        name: Arc<str>,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable, by its name.
    Environment(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { name, line } => write!(f, "{name}:{line}"),
            Origin::Environment(name) => write!(f, "environment {name}"),
        }
    }
}

/// What is wrong with a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No such key exists.
    #[error("unknown key{}", suggestion(.nearest.as_deref()))]
    Unknown {
        /// The key that was probably meant.
        nearest: Option<String>,
    },
    /// The value is of the wrong type or outside its range.
    #[error("wanted {wanted}, got {got}")]
    Wrong {
        /// What the key may hold.
        wanted: String,
        /// What it holds, quoted.
        got: String,
    },
    /// The key must be set.
    #[error("missing, wanted {wanted}")]
    Missing {
        /// What the key may hold.
        wanted: String,
    },
    /// The value is fine by itself but breaks a rule.
    #[error("{0}")]
    Rule(String),
}

/// Words the suggestion after an unknown key.
fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!(", did you mean `{name}`?"))
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` ({origin}): {fault}")]
pub struct Problem {
    /// The key, or what stands in its place.
    pub key: String,
    /// Where it comes from.
    pub origin: Origin,
    /// What is wrong with it.
    pub fault: Fault,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read the configuration `{path}`: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML; every place is named.
    #[error("failed to parse the configuration `{name}`:{}", lines(.faults))]
    Syntax {
        /// The file as it was named.
        name: String,
        /// Line and description.
        faults: Vec<String>,
    },
    /// Values are wrong; all of them are named.
    #[error("failed to check the configuration:{}", lines(.0))]
    Invalid(Vec<Problem>),
}

impl ConfigError {
    /// Tells whether loading again may succeed without a change by a person: never.
    pub const fn is_transient(&self) -> bool {
        false
    }
}

/// Writes each item on a line of its own, indented; what a file or a variable holds makes no further ones.
fn lines(items: &[impl fmt::Display]) -> String {
    items.iter().map(|item| format!("\n  {}", shown(&item.to_string()))).collect()
}
