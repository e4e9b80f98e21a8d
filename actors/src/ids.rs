//! Names and numbers with a type of their own.
//!
//! Promises that no two identifiers of different meaning can be mixed up. Knows nothing of how they are
//! stored or sent.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

mod beginning;

pub use beginning::{BEGINNING_MIN_CHARS, IdRange, JobIdBeginning};

/// Longest opaque identifier that is accepted, in characters (Unicode scalar values), as JSON Schema counts
/// them. Four bytes each at most, so that keys of this size fit every index we write.
pub const OPAQUE_ID_MAX_CHARS: usize = 255;

/// Tells why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is empty.
    #[error("wanted 1..={OPAQUE_ID_MAX_CHARS} characters, got none")]
    Empty,
    /// The text is longer than [`OPAQUE_ID_MAX_CHARS`].
    #[error("wanted 1..={OPAQUE_ID_MAX_CHARS} characters, got {0}")]
    TooLong(usize),
    /// The text is shorter than [`BEGINNING_MIN_CHARS`] and is to tell a job apart from others.
    #[error("wanted {BEGINNING_MIN_CHARS}..={OPAQUE_ID_MAX_CHARS} characters, got {0}")]
    TooShort(usize),
    /// The text holds a control character.
    #[error("wanted text without control characters")]
    ControlCharacter,
    /// The text is not a UUID in its hyphenated form.
    #[error("wanted a UUID in its hyphenated form, got `{0}`")]
    NotUuid(String),
    /// The text is a UUID in braces or with `urn:uuid:` before it.
    #[error("wanted the UUID alone, without braces or `urn:uuid:`, got `{0}`")]
    WrappedUuid(String),
    /// The text is not one of a closed set of names.
    #[error("wanted one of {wanted}, got `{got}`")]
    UnknownName {
        /// The names that exist.
        wanted: &'static str,
        /// What was given.
        got: String,
    },
}

/// Looks for a control character; identifiers are almost always ASCII, where bytes tell.
fn has_control_character(text: &str) -> bool {
    if text.is_ascii() {
        text.bytes().any(|byte| byte.is_ascii_control())
    } else {
        text.chars().any(char::is_control)
    }
}

macro_rules! opaque_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// *Shape*: 1 to [`OPAQUE_ID_MAX_CHARS`] characters of UTF-8 without control characters.
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the text and takes it.
            ///
            /// *Errors*: [`IdError`] when the text is empty, too long or holds a control character.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                if text.is_empty() {
                    return Err(IdError::Empty);
                }
                // Almost every text is so short that its bytes tell.
                if text.len() > OPAQUE_ID_MAX_CHARS {
                    let chars = text.chars().count();
                    if chars > OPAQUE_ID_MAX_CHARS {
                        return Err(IdError::TooLong(chars));
                    }
                }
                if has_control_character(text) {
                    return Err(IdError::ControlCharacter);
                }
                Ok(Self(Arc::from(text)))
            }

            /// Gives the text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

opaque_id! {
    /// Names a job.
    JobId
}

impl JobId {
    /// Takes an id as somebody gives it who asks for a job: a UUID in any letter case is the one job.
    ///
    /// Whatever comes from a record, a row or a file is taken as it is, by [`JobId::parse`].
    ///
    /// *Errors*: as [`JobId::parse`], and [`IdError::WrappedUuid`] for a UUID in braces or as a URN.
    ///
    /// *Source*: [RFC 9562](https://www.rfc-editor.org/rfc/rfc9562#section-4): output in lower case, input in
    /// any.
    pub fn asked_for(text: &str) -> Result<Self, IdError> {
        match UuidText::of(text) {
            UuidText::OtherCase(uuid) => Self::parse(&uuid.hyphenated().to_string()),
            UuidText::Wrapped => Err(IdError::WrappedUuid(text.to_owned())),
            UuidText::LowerCase(_) | UuidText::None => Self::parse(text),
        }
    }
}
opaque_id! {
    /// Names who initiated something.
    UserId
}
opaque_id! {
    /// Names a data set.
    DatasetId
}
opaque_id! {
    /// Names what an audited action acted on.
    ResourceId
}
opaque_id! {
    /// Names a job in the scheduler's own words.
    SchedulerJobId
}
opaque_id! {
    /// Names an agent that is declared in the configuration.
    AgentName
}
opaque_id! {
    /// Names an event log: random for the embedded one, the cluster's id for Kafka.
    LogId
}
opaque_id! {
    /// Names a consumer group, and with it the behaviour that runs in its lanes.
    Group
}

impl LogId {
    /// Gives the id under which a generation of a lane of this log is stored and hashed (design D8): the
    /// log's own for the first one, with the generation's number for those after it.
    ///
    /// *Errors*: [`IdError::TooLong`] when the number does not fit behind the id.
    pub fn of_generation(&self, generation: Generation) -> Result<Self, IdError> {
        match generation {
            Generation(0) => Ok(self.clone()),
            Generation(number) => Self::parse(&format!("{self}+{number}")),
        }
    }
}

impl Group {
    /// Gives the group with a name that is known at compile time.
    pub fn known(name: &'static str) -> Self {
        Self(Arc::from(name))
    }

    /// Gives the group of the compliance auditor.
    pub fn audit_trail() -> Self {
        Self::known("audit-trail")
    }

    /// Gives the group that keeps the jobs' state and their supervisors.
    pub fn jobs() -> Self {
        Self::known("jobs")
    }

    /// Gives the group of the metrics aggregator.
    pub fn job_metrics() -> Self {
        Self::known("job-metrics")
    }
}

/// Length of the hyphenated form of a UUID.
const UUID_TEXT_BYTES: usize = 36;

/// What goes before a UUID in a URN, in any letter case.
const UUID_URN_PREFIX: &str = "urn:uuid:";

/// Tells in which form a text is a UUID. There is one on the wire, lower case with hyphens: texts are compared,
/// hashed to partitions and stored byte for byte, so that another form of the same UUID would be another id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UuidText {
    /// The form that is written.
    LowerCase(Uuid),
    /// The hyphenated form with letters in upper case.
    OtherCase(Uuid),
    /// In braces, or with `urn:uuid:` before it.
    Wrapped,
    /// None of them. Digits without hyphens are none: they may be anything else as well.
    None,
}

impl UuidText {
    /// Looks at a text.
    pub fn of(text: &str) -> Self {
        if let Some(uuid) = hyphenated(text) {
            let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
            return if is_lower { UuidText::LowerCase(uuid) } else { UuidText::OtherCase(uuid) };
        }
        let in_braces = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let as_urn = text
            .split_at_checked(UUID_URN_PREFIX.len())
            .and_then(|(prefix, rest)| prefix.eq_ignore_ascii_case(UUID_URN_PREFIX).then_some(rest));
        match in_braces.or(as_urn).and_then(hyphenated) {
            Some(_) => UuidText::Wrapped,
            None => UuidText::None,
        }
    }

    /// Tells whether the text is a UUID in another form than the one that is written.
    pub fn is_other_form(text: &str) -> bool {
        matches!(UuidText::of(text), UuidText::OtherCase(_) | UuidText::Wrapped)
    }
}

fn hyphenated(text: &str) -> Option<Uuid> {
    if text.len() == UUID_TEXT_BYTES { Uuid::try_parse_ascii(text.as_bytes()).ok() } else { None }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// Reads the hyphenated form in any letter case, as somebody gives it who asks.
            ///
            /// *Errors*: [`IdError::NotUuid`], [`IdError::WrappedUuid`].
            pub fn parse(text: &str) -> Result<Self, IdError> {
                match UuidText::of(text) {
                    UuidText::LowerCase(uuid) | UuidText::OtherCase(uuid) => Ok(Self(uuid)),
                    UuidText::Wrapped => Err(IdError::WrappedUuid(text.to_owned())),
                    UuidText::None => Err(IdError::NotUuid(text.to_owned())),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }
    };
}

uuid_id! {
    /// Identifies one event, wherever it is copied to.
    EventId
}
uuid_id! {
    /// Follows a request across services.
    CorrelationId
}
uuid_id! {
    /// Identifies one life of the program: drawn when it starts, never stored to be used again.
    ProcessId
}
uuid_id! {
    /// Identifies one command of a user, an operator or the program itself.
    CommandId
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl $name {
            /// Gives the number after this one.
            pub fn following(self) -> Self {
                Self(self.0 + 1)
            }
        }
    };
}

number! {
    /// Numbers a partition of a topic, from 0.
    Partition(u16)
}
number! {
    /// Numbers a record in a partition, from 0. As a position it always means the next record to read.
    Offset(u64)
}
number! {
    /// Counts the events of one job on one topic, from 1.
    Sequence(u64)
}
number! {
    /// Numbers the attempts of a job, from 1.
    Attempt(u32)
}
number! {
    /// Counts the owners that a lane's progress has had; only the newest one may write.
    Epoch(u64)
}
number! {
    /// Counts the transactions of a lane; part of the compare-and-set that fences it.
    Revision(u64)
}
number! {
    /// Counts the logs that a lane has read under the same name: raised when an operator accepts that the
    /// partition was made anew. Progress, audit log, parked keys and dead letters belong to one generation.
    Generation(u32)
}
number! {
    /// Counts the lives of a lane inside this process; batches of another life are dropped.
    Incarnation(u64)
}

/// Names one of the topics of record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// What happens to jobs; keyed by job.
    JobLifecycle,
    /// What running jobs use; keyed by job.
    JobMetrics,
    /// What was sent to whom; no key, no order promised.
    Notifications,
    /// What users and operators did; keyed by resource.
    AuditTrail,
    /// How the system is; one constant key.
    SystemHealth,
}

/// Seconds in a day, for the retention periods below.
const DAY_SECONDS: u64 = 86_400;

impl Topic {
    /// Lists every topic of record.
    pub const ALL: [Topic; 5] = [
        Topic::JobLifecycle,
        Topic::JobMetrics,
        Topic::Notifications,
        Topic::AuditTrail,
        Topic::SystemHealth,
    ];

    /// Gives the topic's name.
    pub const fn name(self) -> &'static str {
        match self {
            Topic::JobLifecycle => "job-lifecycle",
            Topic::JobMetrics => "job-metrics",
            Topic::Notifications => "notifications",
            Topic::AuditTrail => "audit-trail",
            Topic::SystemHealth => "system-health",
        }
    }

    /// Gives the number of partitions.
    pub const fn partitions(self) -> u16 {
        match self {
            Topic::JobLifecycle | Topic::JobMetrics => 10,
            Topic::Notifications | Topic::AuditTrail => 5,
            Topic::SystemHealth => 3,
        }
    }

    /// Tells whether a record's key decides where it belongs; where not, any partition will do.
    pub const fn is_keyed(self) -> bool {
        match self {
            Topic::JobLifecycle | Topic::JobMetrics | Topic::AuditTrail | Topic::SystemHealth => true,
            Topic::Notifications => false,
        }
    }

    /// Gives how long a record is kept.
    pub const fn retention(self) -> std::time::Duration {
        let days = match self {
            Topic::JobLifecycle | Topic::JobMetrics => 30,
            Topic::Notifications | Topic::SystemHealth => 7,
            Topic::AuditTrail => 90,
        };
        std::time::Duration::from_secs(days * DAY_SECONDS)
    }

    /// Gives the number that stands for the topic in stored keys; never reused.
    pub const fn code(self) -> u8 {
        match self {
            Topic::JobLifecycle => 0,
            Topic::JobMetrics => 1,
            Topic::Notifications => 2,
            Topic::AuditTrail => 3,
            Topic::SystemHealth => 4,
        }
    }

    /// Finds the topic with this number.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| topic.code() == code)
    }

    /// Finds the topic with this name.
    ///
    /// *Errors*: [`IdError::UnknownName`].
    pub fn parse(name: &str) -> Result<Self, IdError> {
        Self::ALL.into_iter().find(|topic| topic.name() == name).ok_or_else(|| IdError::UnknownName {
            wanted: "`job-lifecycle`, `job-metrics`, `notifications`, `audit-trail`, `system-health`",
            got: name.to_owned(),
        })
    }

    /// Lists the topic's partitions.
    pub fn all_partitions(self) -> impl Iterator<Item = TopicPartition> {
        (0..self.partitions()).map(move |number| TopicPartition { topic: self, partition: Partition(number) })
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Topic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Topic {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Names a topic that records are written to: one of record, or the dead letters of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LogTopic {
    /// A topic of record.
    Record(Topic),
    /// The dead letters of a topic of record, named `<topic>.dlq`; it has none of its own.
    DeadLetter(Topic),
}

/// What a dead-letter topic's number has above its source's.
const DEAD_LETTER_CODE_OFFSET: u8 = 16;

impl LogTopic {
    /// Gives the number that stands for the topic in stored keys.
    pub const fn code(self) -> u8 {
        match self {
            LogTopic::Record(topic) => topic.code(),
            LogTopic::DeadLetter(topic) => topic.code() + DEAD_LETTER_CODE_OFFSET,
        }
    }

    /// Finds the topic with this number.
    pub fn from_code(code: u8) -> Option<Self> {
        match code.checked_sub(DEAD_LETTER_CODE_OFFSET) {
            Some(source) => Topic::from_code(source).map(LogTopic::DeadLetter),
            None => Topic::from_code(code).map(LogTopic::Record),
        }
    }

    /// Finds the topic with this name.
    ///
    /// *Errors*: [`IdError::UnknownName`].
    pub fn parse(name: &str) -> Result<Self, IdError> {
        match name.strip_suffix(".dlq") {
            Some(source) => Topic::parse(source).map(LogTopic::DeadLetter),
            None => Topic::parse(name).map(LogTopic::Record),
        }
    }

    /// Gives the topic of record that this one is or belongs to.
    pub const fn source(self) -> Topic {
        match self {
            LogTopic::Record(topic) | LogTopic::DeadLetter(topic) => topic,
        }
    }
}

impl fmt::Display for LogTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogTopic::Record(topic) => f.write_str(topic.name()),
            LogTopic::DeadLetter(topic) => write!(f, "{}.dlq", topic.name()),
        }
    }
}

/// Names one partition of a topic of record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TopicPartition {
    /// The topic.
    pub topic: Topic,
    /// The partition.
    pub partition: Partition,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// Names one lane: what one group does with one partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LaneKey {
    /// The consumer group.
    pub group: Group,
    /// The partition.
    #[serde(flatten)]
    pub topic_partition: TopicPartition,
}

impl fmt::Display for LaneKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.group, self.topic_partition)
    }
}

/// Names one attempt of a job; whatever is written outside the store is keyed by it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttemptId {
    /// The job.
    pub job_id: JobId,
    /// The attempt of the job.
    pub attempt: Attempt,
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.job_id, self.attempt)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOWER: &str = "0193a1c0-0000-7000-8000-0000000000aa";

    #[test]
    fn uuid_text_of_every_form_is_told_apart() {
        let upper = LOWER.to_ascii_uppercase();
        let uuid = Uuid::from_u128(0x0193_a1c0_0000_7000_8000_0000_0000_00aa);
        let digits = LOWER.replace('-', "");
        let table = [
            (LOWER.to_owned(), UuidText::LowerCase(uuid)),
            (upper.clone(), UuidText::OtherCase(uuid)),
            (LOWER.replace("aa", "aA"), UuidText::OtherCase(uuid)),
            (format!("{{{LOWER}}}"), UuidText::Wrapped),
            (format!("urn:uuid:{LOWER}"), UuidText::Wrapped),
            (format!("URN:UUID:{upper}"), UuidText::Wrapped),
            (digits.clone(), UuidText::None),
            (digits.to_ascii_uppercase(), UuidText::None),
            (format!("{{{digits}}}"), UuidText::None),
            (format!("{LOWER} "), UuidText::None),
            (format!("{{{LOWER}"), UuidText::None),
            (LOWER.replace("aa", "ag"), UuidText::None),
            ("NGC-1300".to_owned(), UuidText::None),
            ("urn:uuid\u{e9}".to_owned(), UuidText::None),
            (String::new(), UuidText::None),
        ];

        for (text, wanted) in table {
            assert_eq!(UuidText::of(&text), wanted, "{text}");
        }
    }

    #[test]
    fn job_id_asked_for_in_upper_case_is_the_one_job() {
        assert_eq!(JobId::asked_for(&LOWER.to_ascii_uppercase()), JobId::parse(LOWER));
        assert_eq!(JobId::asked_for(LOWER), JobId::parse(LOWER));
        for wrapped in [format!("{{{LOWER}}}"), format!("urn:uuid:{LOWER}")] {
            assert_eq!(JobId::asked_for(&wrapped), Err(IdError::WrappedUuid(wrapped.clone())));
            assert_eq!(CorrelationId::parse(&wrapped), Err(IdError::WrappedUuid(wrapped)));
        }
        assert_eq!(CorrelationId::parse(&LOWER.to_ascii_uppercase()), CorrelationId::parse(LOWER));
    }

    proptest! {
        #[test]
        fn job_id_asked_for_that_is_no_uuid_stays_as_it_is(text in "[^\\p{Cc}]{1,40}") {
            prop_assume!(UuidText::of(&text) == UuidText::None);

            let asked_for = JobId::asked_for(&text).unwrap();
            prop_assert_eq!(asked_for.as_str(), text);
        }
    }
}
