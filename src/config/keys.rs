//! Every key of the configuration: its place, kind, range, default and meaning.
//!
//! Promises one table from which reading, checking, the environment variables, `config.toml` and the
//! reference in the documentation all follow. Does not hold the agents, whose names are the user's.

use horizons_actors::ids::Topic;

/// What a key may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number within bounds, both included.
    Number {
        /// The least.
        min: u64,
        /// The greatest.
        max: u64,
    },
    /// One of a closed set of names.
    OneOf(&'static [&'static str]),
    /// A socket address on loopback.
    LoopbackAddress,
    /// A folder.
    Folder,
    /// A list of topics of record.
    Topics,
    /// A path, or nothing.
    File,
    /// Addresses of brokers with commas between, or nothing.
    Brokers,
    /// Part of a name in Kafka, or nothing.
    NamePart,
    /// A name in SQL that needs no quotes.
    SqlName,
    /// A name in SQL that needs no quotes, or nothing.
    NameOfRole,
    /// A name of free form, or nothing.
    Name,
    /// The address of a PostgreSQL database without a password, or nothing.
    DatabaseUrl,
    /// A password, or nothing. It is read from the environment only, and never shown.
    Secret,
}

/// The value of a key that nobody set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultValue {
    /// A number.
    Number(u64),
    /// A text.
    Text(&'static str),
    /// Every topic of record.
    AllTopics,
}

/// A key.
///
/// *Shape*: identified by section and name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// The table it stands in.
    pub section: &'static str,
    /// Its name there; ends in its unit where it has one.
    pub name: &'static str,
    /// What it may hold.
    pub kind: Kind,
    /// What it holds when nobody sets it.
    pub default: DefaultValue,
    /// What it does, as a sentence.
    pub meaning: &'static str,
}

/// Begins the name of every environment variable.
pub const ENVIRONMENT_PREFIX: &str = "HORIZONS_";

/// The environment variables that are no keys, and what they are for.
pub const OTHER_VARIABLES: [(&str, &str); 4] = [
    ("HORIZONS_CONFIG", "path of the configuration file, where `--config` is not given"),
    ("HORIZONS_URL", "address of the server for client commands, where `--url` is not given"),
    ("HORIZONS_USER", "user that client commands act as, where `--user` is not given"),
    ("HORIZONS_FAIL_AT", "named point at which a test build fails; builds for users ignore it"),
];

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// Largest number that TOML can hold, and so any key.
const NUMBER_MAX: u64 = i64::MAX as u64;

const fn number(
    section: &'static str,
    name: &'static str,
    (min, max): (u64, u64),
    default: u64,
    meaning: &'static str,
) -> Key {
    Key { section, name, kind: Kind::Number { min, max }, default: DefaultValue::Number(default), meaning }
}

const fn text(
    section: &'static str,
    name: &'static str,
    kind: Kind,
    default: &'static str,
    meaning: &'static str,
) -> Key {
    Key { section, name, kind, default: DefaultValue::Text(default), meaning }
}

/// Lists every key, in the order of `config.toml`.
pub const KEYS: [Key; 65] = [
    text(
        "http",
        "listen",
        Kind::LoopbackAddress,
        "127.0.0.1:8650",
        "Address that HTTP is served on. Port 0 takes a free one.",
    ),
    number("http", "body_limit_bytes", (KIB, 64 * MIB), MIB, "Largest request body that is read."),
    number(
        "http",
        "header_read_timeout_ms",
        (100, MINUTE_MS),
        5_000,
        "How long a client may take to send a request's headers.",
    ),
    number(
        "http",
        "connection_limit",
        (1, 65_536),
        256,
        "Connections served at once; further ones wait to be accepted.",
    ),
    number(
        "http",
        "submit_wait_ms",
        (0, MINUTE_MS),
        2_000,
        "How long a submit waits for the scheduler's verdict before it answers 202.",
    ),
    text(
        "store",
        "engine",
        Kind::OneOf(&["sqlite", "postgres"]),
        "sqlite",
        "Where everything is kept: `sqlite`, a file in the folder below, or `postgres`, see `[postgres]`.",
    ),
    text(
        "store",
        "folder",
        Kind::Folder,
        "data",
        "Folder of the database and of the jobs' files, relative to the working folder. One `serve` at a time.",
    ),
    number(
        "store",
        "disk_limit_bytes",
        (16 * MIB, NUMBER_MAX),
        10 * GIB,
        "What the database may take before submits and external records are refused.",
    ),
    number(
        "store",
        "disk_reserve_bytes",
        (MIB, NUMBER_MAX),
        256 * MIB,
        "Part of the limit that is kept for lanes, so that accepted work can end. Smaller than the limit.",
    ),
    number(
        "store",
        "ballast_bytes",
        (0, NUMBER_MAX),
        64 * MIB,
        "Room set aside in the folder and given up when the disk is full; less than that free beside it counts as full.",
    ),
    number(
        "store",
        "command_queue",
        (1, 65_536),
        256,
        "Commands that may wait for the database; further ones are answered 503.",
    ),
    text(
        "postgres",
        "url",
        Kind::DatabaseUrl,
        "",
        "Database, where `store.engine` is `postgres`. The password comes from HORIZONS_POSTGRES_PASSWORD.",
    ),
    text("postgres", "password", Kind::Secret, "", "Password of the user in `postgres.url`."),
    text(
        "postgres",
        "schema",
        Kind::SqlName,
        "horizons",
        "Schema that holds the tables. Two installations in one database take two.",
    ),
    number(
        "postgres",
        "connections",
        (2, 256),
        8,
        "Connections that read, beside the one that writes and one for each consumer group.",
    ),
    number(
        "postgres",
        "timeout_ms",
        (500, 10 * MINUTE_MS),
        10_000,
        "How long one statement, or a connection without an answer, may take before it is given up and tried again.",
    ),
    text(
        "postgres",
        "migrations",
        Kind::OneOf(&["at_start", "by_operator"]),
        "at_start",
        "Who makes and changes the tables: `serve` when it starts, or an operator with `horizons store migrate`.",
    ),
    text(
        "postgres",
        "grant_to",
        Kind::NameOfRole,
        "",
        "Role that a migration grants what `serve` needs, and no more: it cannot change or remove audit entries.",
    ),
    text(
        "event_log",
        "kind",
        Kind::OneOf(&["embedded", "kafka"]),
        "embedded",
        "Where events are published and read: `embedded`, in the store itself, or `kafka`, see `[kafka]`.",
    ),
    text(
        "kafka",
        "bootstrap",
        Kind::Brokers,
        "",
        "Brokers to begin with, where `event_log.kind` is `kafka`.",
    ),
    text("kafka", "topic_prefix", Kind::NamePart, "", "Put before the name of every topic."),
    text("kafka", "group_prefix", Kind::NamePart, "", "Put before the name of every consumer group."),
    number(
        "kafka",
        "replication_factor",
        (1, 32),
        3,
        "Copies of every partition: what `horizons topics create` asks for and `check` demands.",
    ),
    text(
        "kafka",
        "instance_id",
        Kind::NamePart,
        "",
        "Name of this process as a static member of its groups. Each process its own; empty is dynamic membership.",
    ),
    number(
        "kafka",
        "session_timeout_ms",
        (6_000, 30 * MINUTE_MS),
        10_000,
        "How long a process may be silent before its partitions go to others.",
    ),
    number(
        "kafka",
        "rebalance_timeout_ms",
        (100, 10 * MINUTE_MS),
        5_000,
        "How long lanes may take to finish what they have at the store when their partition is taken away.",
    ),
    text(
        "kafka",
        "compression",
        Kind::OneOf(&["none", "lz4", "zstd"]),
        "none",
        "How batches of published records are compressed. KafkaJS, for one, reads `lz4` and `zstd` only with a plug-in.",
    ),
    text(
        "kafka",
        "security",
        Kind::OneOf(&["plaintext", "tls", "sasl_plaintext", "sasl_tls"]),
        "plaintext",
        "How brokers are spoken with: encrypted or not, with a user's name and password or not.",
    ),
    text(
        "kafka",
        "ca_file",
        Kind::File,
        "",
        "Certificates (PEM) of who may sign a broker's. Empty: the machine's own.",
    ),
    text(
        "kafka",
        "certificate_file",
        Kind::File,
        "",
        "Certificate (PEM) of this client, where brokers ask for one.",
    ),
    text("kafka", "key_file", Kind::File, "", "Key (PEM) of that certificate."),
    text(
        "kafka",
        "sasl_mechanism",
        Kind::OneOf(&["scram-sha-256", "scram-sha-512"]),
        "scram-sha-512",
        "How user and password are proven.",
    ),
    text("kafka", "sasl_user", Kind::Name, "", "User, where `kafka.security` begins with `sasl`."),
    text("kafka", "sasl_password", Kind::Secret, "", "Password of that user."),
    number(
        "kafka",
        "relay_lease_ms",
        (3_000, 10 * MINUTE_MS),
        10_000,
        "For how long a process may publish before it must say again that it lives; another takes over after it.",
    ),
    number("lanes", "batch_records", (1, 100_000), 1_000, "Most records in one batch of a lane."),
    number(
        "lanes",
        "batch_bytes",
        (KIB, 256 * MIB),
        MIB,
        "Most bytes in one batch of a lane; a larger record travels alone.",
    ),
    number(
        "lanes",
        "credit_lane_records",
        (1, 1_000_000),
        4_000,
        "Most records on their way to one lane. At least one batch.",
    ),
    number(
        "lanes",
        "credit_lane_bytes",
        (KIB, GIB),
        4 * MIB,
        "Most bytes on their way to one lane. At least one batch.",
    ),
    number(
        "lanes",
        "credit_total_bytes",
        (KIB, 1024 * GIB),
        64 * MIB,
        "Most bytes on their way to all lanes together. At least one lane's.",
    ),
    number(
        "lanes",
        "duplicate_window_records",
        (0, 10_000_000),
        10_000,
        "Records per lane within which a repeated event id is recognised; more than a producer can have in flight.",
    ),
    number(
        "lanes",
        "flood_records",
        (1, 1_000_000),
        1_000,
        "Last records of a lane among which poison is counted.",
    ),
    number(
        "lanes",
        "flood_poison",
        (0, 1_000_000),
        100,
        "So many of those that are poison make the lane hold still until an operator resumes it. 0 is never.",
    ),
    number(
        "lanes",
        "release_attempts",
        (1, 1_000_000),
        10,
        "How often a poison event is tried before its key is released no more; discarding it is always possible.",
    ),
    number("lanes", "arbiters", (1, 256), 2, "Threads that lanes are spread over."),
    number(
        "lanes",
        "drain_timeout_ms",
        (0, 10 * MINUTE_MS),
        10_000,
        "How long lanes may take to end their batches at shutdown; what is left is read again at the next start.",
    ),
    number(
        "lanes",
        "stuck_after_ms",
        (1_000, HOUR_MS),
        30_000,
        "How long a thread may make no progress before the watchdog ends the process.",
    ),
    number(
        "lanes",
        "retry_initial_ms",
        (1, MINUTE_MS),
        50,
        "First delay of a lane that waits for the store.",
    ),
    number(
        "lanes",
        "retry_limit_ms",
        (1, HOUR_MS),
        2_000,
        "Longest delay of a lane that waits for the store; it tries for ever.",
    ),
    number(
        "lanes",
        "restart_budget",
        (0, 1_000),
        5,
        "Restarts granted to one actor within the window; the next one escalates.",
    ),
    number("lanes", "restart_window_ms", (1_000, DAY_MS), MINUTE_MS, "Window of the restart budget."),
    number("lanes", "restart_initial_ms", (1, MINUTE_MS), 5, "First delay before an actor is started again."),
    number(
        "lanes",
        "restart_limit_ms",
        (1, HOUR_MS),
        5_000,
        "Longest delay before an actor is started again.",
    ),
    Key {
        section: "audit",
        name: "topics",
        kind: Kind::Topics,
        default: DefaultValue::AllTopics,
        meaning: "Topics whose events are kept in the audit trail. Leaving one out shows in the report.",
    },
    number(
        "jobs",
        "clean_after_ms",
        (0, 365 * DAY_MS),
        HOUR_MS,
        "How long an ended attempt's folder is kept.",
    ),
    number(
        "jobs",
        "external_silent_ms",
        (1, 3650 * DAY_MS),
        7 * DAY_MS,
        "How long another producer's job that has not ended may be silent before it is not followed any more; its next \
         event has it followed again.",
    ),
    number(
        "jobs",
        "external_forgotten_ms",
        (1, 3650 * DAY_MS),
        35 * DAY_MS,
        "How long after its last event another producer's job is known, with its timeline. At least \
         `jobs.external_silent_ms`; longer than the log keeps records, as what comes later is taken for a new job.",
    ),
    text(
        "scheduler",
        "kind",
        Kind::OneOf(&["local", "none"]),
        "local",
        "What runs the jobs: `local` starts them on this machine; `none` leaves that to another process.",
    ),
    number("scheduler", "slots", (1, 4_096), 2, "Attempts that run at once; further ones wait in the queue."),
    number(
        "scheduler",
        "sample_interval_ms",
        (10, HOUR_MS),
        500,
        "How often a running attempt's use of processor, memory and I/O is measured.",
    ),
    number(
        "scheduler",
        "kill_grace_ms",
        (0, HOUR_MS),
        5_000,
        "How long an attempt may take to end by itself when it is cancelled, before it is killed.",
    ),
    number(
        "scheduler",
        "poll_interval_ms",
        (10, MINUTE_MS),
        100,
        "How often the scheduler is asked how attempts stand.",
    ),
    text(
        "events",
        "encoding",
        Kind::OneOf(&["json", "msgpack"]),
        "json",
        "Encoding of the events that Horizons writes; every encoding is read.",
    ),
    text("log", "format", Kind::OneOf(&["text", "json"]), "text", "Form of the log lines on standard error."),
    text(
        "log",
        "level",
        Kind::OneOf(&["error", "warn", "info", "debug", "trace"]),
        "info",
        "Least level that is logged.",
    ),
];

/// Says what a name in SQL is.
fn sql_name() -> String {
    format!("a small letter and at most {} further small letters, digits and `_`", SQL_NAME_MAX - 1)
}

/// Longest part of a name in Kafka that may be configured; a name has 249 characters at most.
pub(super) const NAME_PART_MAX: usize = 100;

/// Longest name in PostgreSQL.
pub(super) const SQL_NAME_MAX: usize = 63;

/// Lists the sections in the order of `config.toml`, without the agents.
pub(super) fn sections() -> Vec<&'static str> {
    let mut sections: Vec<&'static str> = KEYS.iter().map(|key| key.section).collect();
    sections.dedup();
    sections
}

impl Key {
    /// Gives section and name with a dot between.
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// Gives the environment variable that sets the key.
    pub fn variable(&self) -> String {
        format!("{ENVIRONMENT_PREFIX}{}_{}", self.section, self.name).to_ascii_uppercase()
    }

    /// Says what the key may hold.
    pub fn wanted(&self) -> String {
        match self.kind {
            Kind::Number { min, max: NUMBER_MAX } => format!("a whole number of at least {min}"),
            Kind::Number { min, max } => format!("{min}..={max}"),
            Kind::OneOf(names) => format!("one of {}", quoted(names.iter().copied())),
            Kind::LoopbackAddress => {
                "a loopback address and a port, as in `127.0.0.1:8650` or `[::1]:8650`".to_owned()
            }
            Kind::Folder => "the path of a folder".to_owned(),
            Kind::File => "the path of a file, or nothing".to_owned(),
            Kind::Brokers => {
                "addresses as in `kafka-1:9092,kafka-2:9092`, each with its port, or nothing".to_owned()
            }
            Kind::NamePart => {
                format!("at most {NAME_PART_MAX} letters, digits, `.`, `_` and `-`, or nothing")
            }
            Kind::SqlName => sql_name(),
            Kind::NameOfRole => format!("{}, or nothing", sql_name()),
            Kind::Name => "a name, or nothing".to_owned(),
            Kind::DatabaseUrl => {
                "`postgres://USER@HOST:PORT/DATABASE` without a password, or nothing".to_owned()
            }
            Kind::Secret => "a password from the environment, or nothing".to_owned(),
            Kind::Topics => {
                format!("a list of at least one of {}", quoted(Topic::ALL.into_iter().map(Topic::name)))
            }
        }
    }

    /// Gives the unit that the name ends in, in words.
    pub fn unit(&self) -> &'static str {
        match self.name.rsplit('_').next() {
            Some("ms") => "milliseconds",
            Some("bytes") => "bytes",
            Some("records") => "records",
            _ => "",
        }
    }

    /// Writes the default as TOML.
    pub fn default_toml(&self) -> String {
        match self.default {
            DefaultValue::Number(number) => number.to_string(),
            DefaultValue::Text(text) => format!("\"{text}\""),
            DefaultValue::AllTopics => {
                let names: Vec<String> = Topic::ALL.iter().map(|topic| format!("\"{topic}\"")).collect();
                format!("[{}]", names.join(", "))
            }
        }
    }
}

/// Writes names in back quotes with commas between.
pub(super) fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Edits that still count as a slip of the finger.
const SLIP_EDITS_MAX: usize = 2;

/// Finds the name that was probably meant.
pub(super) fn nearest<'a>(given: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A short name must keep most of its letters, or everything would be near everything.
    let limit = SLIP_EDITS_MAX.min(given.chars().count() / 3);
    names
        .into_iter()
        .map(|name| (edit_distance(given, name), name))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Counts the insertions, deletions and replacements between two texts.
fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, from) in left.chars().enumerate() {
        let mut diagonal = index;
        let mut before = index + 1;
        let mut next = vec![before];
        for (to, above) in right.iter().zip(row.iter().skip(1)) {
            let replaced = diagonal + usize::from(from != *to);
            before = replaced.min(before + 1).min(above + 1);
            diagonal = *above;
            next.push(before);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn keys_variables_are_distinct() {
        let mut names: HashSet<String> = KEYS.iter().map(Key::variable).collect();
        names.extend(OTHER_VARIABLES.iter().map(|(name, _)| (*name).to_owned()));

        assert_eq!(names.len(), KEYS.len() + OTHER_VARIABLES.len());
    }

    #[test]
    fn keys_number_defaults_lie_within_their_range() {
        for key in KEYS {
            if let (Kind::Number { min, max }, DefaultValue::Number(default)) = (key.kind, key.default) {
                assert!((min..=max).contains(&default), "{}", key.path());
            }
        }
    }

    #[test]
    fn edit_distance_known_pairs_match() {
        for (left, right, wanted) in
            [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("listen", "lisen", 1)]
        {
            assert_eq!(edit_distance(left, right), wanted, "{left} {right}");
        }
    }

    #[test]
    fn nearest_far_name_suggests_nothing() {
        assert_eq!(nearest("colour", ["listen", "level"]), None);
        assert_eq!(nearest("lisen", ["listen", "level"]), Some("listen"));
    }
}
