//! Why a record was not processed: data, not an error.
//!
//! Promises one stable snake_case name per reason, used alike as metric label, log field, stored value and
//! header, and the same answer in every consumer, because all of them decode with the same function.

use serde::Serialize;

use crate::ids::Partition;

/// Tells why a record is not processed: most of these are poison (design D6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Rejection {
    /// The record has no payload (a tombstone); no topic of record gives it a meaning.
    PayloadMissing,
    /// The content type is none that is read here.
    UnknownContentType {
        /// What the header says.
        got: String,
    },
    /// The bytes are no document of the content type.
    MalformedBytes {
        /// The decoder's words.
        detail: String,
    },
    /// The event type is none that exists.
    UnknownType {
        /// What the event says.
        got: String,
    },
    /// The schema version is none that is known for the type.
    UnknownVersion {
        /// What the event says.
        got: u64,
    },
    /// A field that must be there is not.
    MissingField {
        /// The field, with dots for nesting.
        field: String,
    },
    /// A field has a value of a wrong type or outside its range.
    InvalidValue {
        /// The field, with dots for nesting.
        field: String,
        /// What was wanted.
        wanted: String,
    },
    /// An identifier or a key is a UUID, and not in the one form that is on the wire: it would be another
    /// identifier beside the real one, and hash to another partition.
    UuidForm {
        /// The field, with dots for nesting; `key` for the record's own.
        field: String,
    },
    /// A field of a closed set has a value that is not in it.
    UnknownValue {
        /// The field, with dots for nesting.
        field: String,
        /// What it holds.
        got: String,
    },
    /// The event's type does not belong on this topic, or the record's key is not the event's.
    Misplaced {
        /// What was wanted.
        wanted: String,
    },
    /// The record stands in another partition than its key's home: its producer chooses partitions in another way.
    /// It is set aside unread, and nobody waits behind it.
    WrongPartition {
        /// Where its key is at home.
        home: Partition,
    },
    /// The behaviour panicked on this very event as often as is tried.
    BehaviourPanicked {
        /// The panic's message.
        detail: String,
    },
    /// The store refused the event's effects because of their data.
    StoreRefused {
        /// The store's words.
        detail: String,
    },
    /// So many processes in a row died while they looked at this very event.
    ProcessDied {
        /// How many.
        deaths: u32,
    },
}

/// Longest detail that is kept, so that a hostile record cannot fill the store with its own error text.
const DETAIL_MAX_CHARS: usize = 300;

/// Cuts a text to what a rejection keeps.
pub fn short_detail(text: &str) -> String {
    text.chars().take(DETAIL_MAX_CHARS).collect()
}

impl Rejection {
    /// Lists the name of every reason, for metric labels.
    pub const NAMES: [&'static str; 14] = [
        "payload_missing",
        "unknown_content_type",
        "malformed_bytes",
        "unknown_type",
        "unknown_version",
        "missing_field",
        "invalid_value",
        "uuid_form",
        "unknown_value",
        "misplaced",
        "wrong_partition",
        "behaviour_panicked",
        "store_refused",
        "process_died",
    ];

    /// Gives the stable name of the reason.
    pub const fn name(&self) -> &'static str {
        match self {
            Rejection::PayloadMissing => "payload_missing",
            Rejection::UnknownContentType { .. } => "unknown_content_type",
            Rejection::MalformedBytes { .. } => "malformed_bytes",
            Rejection::UnknownType { .. } => "unknown_type",
            Rejection::UnknownVersion { .. } => "unknown_version",
            Rejection::MissingField { .. } => "missing_field",
            Rejection::InvalidValue { .. } => "invalid_value",
            Rejection::UuidForm { .. } => "uuid_form",
            Rejection::UnknownValue { .. } => "unknown_value",
            Rejection::Misplaced { .. } => "misplaced",
            Rejection::WrongPartition { .. } => "wrong_partition",
            Rejection::BehaviourPanicked { .. } => "behaviour_panicked",
            Rejection::StoreRefused { .. } => "store_refused",
            Rejection::ProcessDied { .. } => "process_died",
        }
    }

    /// Tells whether the record is poison (design D6). One in a wrong partition is not: no story misses anything where
    /// it stands, so its key is not parked, and it is no sign of a fault of ours.
    pub const fn is_poison(&self) -> bool {
        match self {
            Rejection::WrongPartition { .. } => false,
            Rejection::PayloadMissing
            | Rejection::UnknownContentType { .. }
            | Rejection::MalformedBytes { .. }
            | Rejection::UnknownType { .. }
            | Rejection::UnknownVersion { .. }
            | Rejection::MissingField { .. }
            | Rejection::InvalidValue { .. }
            | Rejection::UuidForm { .. }
            | Rejection::UnknownValue { .. }
            | Rejection::Misplaced { .. }
            | Rejection::BehaviourPanicked { .. }
            | Rejection::StoreRefused { .. }
            | Rejection::ProcessDied { .. } => true,
        }
    }

    /// Gives the field at fault, where one is.
    pub fn field(&self) -> Option<&str> {
        match self {
            Rejection::MissingField { field }
            | Rejection::InvalidValue { field, .. }
            | Rejection::UuidForm { field }
            | Rejection::UnknownValue { field, .. } => Some(field),
            _ => None,
        }
    }
}

impl std::fmt::Display for Rejection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Rejection::PayloadMissing => write!(f, "wanted a payload, got none"),
            Rejection::UnknownContentType { got } => {
                write!(f, "wanted `application/json` or `application/msgpack` as content type, got `{got}`")
            }
            Rejection::MalformedBytes { detail } => write!(f, "malformed bytes: {detail}"),
            Rejection::UnknownType { got } => write!(f, "unknown event type `{got}`"),
            Rejection::UnknownVersion { got } => write!(f, "unknown schema version `{got}`"),
            Rejection::MissingField { field } => write!(f, "missing field `{field}`"),
            Rejection::InvalidValue { field, wanted } => write!(f, "invalid `{field}`: wanted {wanted}"),
            Rejection::UuidForm { field } => {
                write!(f, "another form of a UUID in `{field}`: wanted lower case with hyphens")
            }
            Rejection::UnknownValue { field, got } => write!(f, "unknown value of `{field}`: `{got}`"),
            Rejection::Misplaced { wanted } => write!(f, "misplaced record: wanted {wanted}"),
            Rejection::WrongPartition { home } => {
                write!(f, "record of another partition: its key is at home in partition {home}")
            }
            Rejection::BehaviourPanicked { detail } => write!(f, "behaviour panicked: {detail}"),
            Rejection::StoreRefused { detail } => write!(f, "store refused the effects: {detail}"),
            Rejection::ProcessDied { deaths } => {
                write!(f, "{deaths} processes in a row died while they looked at this event")
            }
        }
    }
}
