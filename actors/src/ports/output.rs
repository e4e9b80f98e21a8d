//! What attempts write to standard output and standard error, for who asks to read it.
//!
//! Promises bytes as the agent wrote them, in order, a bounded part at a time, also while the agent runs. Where a limit
//! has old output given up, the reader is told so and goes on with what is there. Does not promise that output outlives
//! the clean-up of its attempt.

use std::fmt;

use bytes::Bytes;

use crate::ids::AttemptId;
use crate::ports::Reply;

/// Tells why there is no output to give.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutputError {
    /// There are no files: the attempt has not started, was cleaned up, or ran somewhere else.
    #[error(
        "the output of attempt `{0}` is not here: it has not started, or its files were removed after its end"
    )]
    Missing(AttemptId),
    /// Another process of this installation runs the jobs and has their files.
    #[error("the files of jobs are with another process{}", named(.holder.as_deref()))]
    Elsewhere {
        /// The process, where it is known.
        holder: Option<String>,
    },
    /// The files cannot be read now.
    #[error("output unavailable: {0}")]
    Unavailable(String),
}

fn named(holder: Option<&str>) -> String {
    holder.map_or_else(String::new, |holder| format!(": `{holder}`"))
}

impl OutputError {
    /// Tells whether the same call may succeed later.
    pub const fn is_transient(&self) -> bool {
        matches!(self, OutputError::Unavailable(_))
    }
}

/// One of an attempt's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl OutputStream {
    /// Lists both.
    pub const ALL: [Self; 2] = [Self::Stdout, Self::Stderr];

    /// Gives the name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    /// Finds a stream by its name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stream| stream.name() == name)
    }
}

/// A place in an output.
///
/// *Shape*: as text `kept:OFFSET` within what was kept of older output, `current:OFFSET` within what the agent appends
/// to. *Units*: bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputCursor {
    /// In the part of older output that was kept when the rest was given up.
    Kept(u64),
    /// In what the agent appends to.
    Current(u64),
}

impl OutputCursor {
    /// Reads the text form.
    pub fn parse(text: &str) -> Option<Self> {
        let (part, offset) = text.split_once(':')?;
        let offset = offset.parse().ok()?;
        match part {
            "kept" => Some(Self::Kept(offset)),
            "current" => Some(Self::Current(offset)),
            _ => None,
        }
    }
}

impl fmt::Display for OutputCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept(offset) => write!(f, "kept:{offset}"),
            Self::Current(offset) => write!(f, "current:{offset}"),
        }
    }
}

/// What to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputQuery {
    /// The attempt.
    pub attempt: AttemptId,
    /// Which of its outputs.
    pub stream: OutputStream,
    /// Where to begin; none for the oldest there is.
    pub cursor: Option<OutputCursor>,
    /// Most bytes to give.
    pub limit_bytes: usize,
}

/// Part of an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputPage {
    /// The bytes.
    pub content: Bytes,
    /// Where the next part begins.
    pub next: OutputCursor,
    /// Whether more is there already.
    pub has_more: bool,
    /// Whether output between the last part and this one was given up.
    pub was_cut: bool,
}

/// Reads the output of attempts.
pub trait AttemptOutput: Send + Sync {
    /// Reads part of an output.
    ///
    /// *Errors*: [`OutputError`].
    fn read(&self, query: OutputQuery) -> Reply<OutputPage, OutputError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_text_form_survives() {
        for cursor in [OutputCursor::Kept(0), OutputCursor::Current(u64::MAX)] {
            assert_eq!(OutputCursor::parse(&cursor.to_string()), Some(cursor));
        }
        for text in ["", "kept", "kept:", "kept:-1", "other:1", "current:99999999999999999999"] {
            assert_eq!(OutputCursor::parse(text), None, "{text}");
        }
    }
}
