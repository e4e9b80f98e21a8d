//! The configuration: raw → check → immutable [`Config`].
//!
//! Promises that environment beats file beats default, that unknown keys are refused, and that all problems
//! are reported at once, each with its key and origin. Reads no environment by itself: it is passed in. Does
//! not know what an agent's placeholders mean: the scheduler's [`AgentCheck`] does.

mod agents;
mod check;
mod error;
mod keys;
mod raw;
mod reference;
mod rules;
mod values;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use horizons_actors::backoff::{BackoffPolicy, RestartPolicy};
use horizons_actors::ids::{AgentName, Topic};
use horizons_actors::lane::brake::FloodLimit;

pub use crate::secret::Secret;
pub use agents::{
    Agent, AgentCheck, AgentProblem, MEMORY_LIMIT_DEFAULT_BYTES, OutputOverflow, TIME_LIMIT_DEFAULT,
};
pub use error::{ConfigError, Fault, Origin, Problem};
pub use keys::{DefaultValue, ENVIRONMENT_PREFIX, KEYS, Key, Kind, OTHER_VARIABLES};
pub use reference::{example_file, markdown_tables};

/// Everything that can be configured, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The HTTP server.
    pub http: Http,
    /// The store.
    pub store: Store,
    /// The database of a store on PostgreSQL.
    pub postgres: Postgres,
    /// Where events are published and read.
    pub event_log: EventLogKind,
    /// The brokers of an event log on Kafka.
    pub kafka: Kafka,
    /// Dispatchers, lanes and their supervision.
    pub lanes: Lanes,
    /// The audit trail.
    pub audit: Audit,
    /// Jobs.
    pub jobs: Jobs,
    /// What runs jobs.
    pub scheduler: Scheduler,
    /// What users may submit jobs to, by name.
    pub agents: BTreeMap<AgentName, Agent>,
    /// The events that Horizons writes.
    pub events: Events,
    /// The log.
    pub log: Log,
}

/// The HTTP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// The address; always loopback.
    pub listen: SocketAddr,
    /// Largest request body that is read.
    pub body_limit_bytes: u64,
    /// How long a client may take to send a request's headers.
    pub header_read_timeout: Duration,
    /// Connections served at once.
    pub connection_limit: usize,
    /// How long a submit waits for the scheduler's verdict.
    pub submit_wait: Duration,
}

/// Which engine keeps everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreEngine {
    /// A file.
    Sqlite,
    /// A PostgreSQL database.
    Postgres,
}

/// The database of a store on PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Postgres {
    /// Its address, without a password; empty where the engine is another.
    pub url: String,
    /// The password.
    pub password: Secret,
    /// The schema of the tables.
    pub schema: String,
    /// Who makes and changes the tables.
    pub migrations: Migrations,
    /// The role that a migration grants what a running program needs.
    pub grant_to: Option<String>,
    /// Connections that read.
    pub connections: u32,
    /// How long one statement may take.
    pub timeout: Duration,
}

/// Who makes and changes the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Migrations {
    /// The program, when it starts.
    AtStart,
    /// An operator beforehand, perhaps as another role.
    ByOperator,
}

/// Where events are published and read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventLogKind {
    /// In the store.
    Embedded,
    /// In Apache Kafka.
    Kafka,
}

/// The brokers of an event log on Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kafka {
    /// Brokers to begin with; empty where the log is another.
    pub bootstrap: String,
    /// Put before the name of every topic.
    pub topic_prefix: String,
    /// Put before the name of every consumer group.
    pub group_prefix: String,
    /// Copies of every partition.
    pub replication_factor: u16,
    /// The name of this process as a static member; dynamic without.
    pub instance_id: Option<String>,
    /// How long a process may be silent.
    pub session_timeout: Duration,
    /// How long lanes may take to let partitions go.
    pub rebalance_timeout: Duration,
    /// How batches are compressed, as Kafka names it.
    pub compression: String,
    /// How brokers are spoken with.
    pub security: KafkaSecurity,
    /// Certificates of who may sign a broker's.
    pub ca_file: Option<PathBuf>,
    /// Certificate and key of this client.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// How long a process owns the relay without a sign of life.
    pub relay_lease: Duration,
}

/// How brokers are spoken with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KafkaSecurity {
    /// Neither encrypted nor with a user.
    Plaintext,
    /// Encrypted.
    Tls,
    /// With a user, not encrypted.
    SaslPlaintext(KafkaUser),
    /// Encrypted and with a user.
    SaslTls(KafkaUser),
}

/// Who we are to brokers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaUser {
    /// How it is proven, as Kafka names it.
    pub mechanism: String,
    /// The user.
    pub user: String,
    /// The password.
    pub password: Secret,
}

/// The store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// What keeps it.
    pub engine: StoreEngine,
    /// The folder of the database and of the jobs' files.
    pub folder: PathBuf,
    /// What the database may take.
    pub disk_limit_bytes: u64,
    /// The part of the limit that is kept for lanes; less than the limit.
    pub disk_reserve_bytes: u64,
    /// Room that is set aside on the disk and given up when the disk is full.
    pub ballast_bytes: u64,
    /// Commands that may wait.
    pub command_queue: usize,
}

/// Dispatchers, lanes and their supervision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lanes {
    /// Most records in one batch.
    pub batch_records: usize,
    /// Most bytes in one batch.
    pub batch_bytes: usize,
    /// Most records on their way to one lane; at least one batch.
    pub credit_lane_records: usize,
    /// Most bytes on their way to one lane; at least one batch.
    pub credit_lane_bytes: usize,
    /// Most bytes on their way to all lanes; at least one lane's.
    pub credit_total_bytes: usize,
    /// Records within which a repeated event id is recognised.
    pub duplicate_window_records: usize,
    /// How much poison makes a lane hold still.
    pub flood: FloodLimit,
    /// How often a poison event is tried at most.
    pub release_attempts: u32,
    /// Threads that lanes are spread over.
    pub arbiters: usize,
    /// How long lanes may take to end their batches at shutdown.
    pub drain_timeout: Duration,
    /// How long a thread may make no progress.
    pub stuck_after: Duration,
    /// How a lane waits for the store.
    pub retry: BackoffPolicy,
    /// How actors are started again.
    pub restart: RestartPolicy,
}

/// The audit trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Topics that are kept, each once, at least one.
    pub topics: Vec<Topic>,
}

/// Jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jobs {
    /// How long an ended attempt's folder is kept.
    pub clean_after: Duration,
    /// How long another producer's job may be silent before it is not followed any more.
    pub external_silent: Duration,
    /// How long after its last event another producer's job is known.
    pub external_forgotten: Duration,
}

/// What runs jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheduler {
    /// Which one.
    pub kind: SchedulerKind,
    /// Attempts that run at once.
    pub slots: usize,
    /// How often a running attempt is measured.
    pub sample_interval: Duration,
    /// How long an attempt may take to end by itself.
    pub kill_grace: Duration,
    /// How often the scheduler is asked.
    pub poll_interval: Duration,
}

/// Which scheduler runs jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SchedulerKind {
    /// Child processes of this machine.
    Local,
    /// Another process of the same installation does.
    Elsewhere,
}

/// The events that Horizons writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Events {
    /// Their encoding.
    pub encoding: EventEncoding,
}

/// How an event is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventEncoding {
    /// JSON.
    Json,
    /// MessagePack.
    MessagePack,
}

/// The log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// The form of its lines.
    pub format: LogFormat,
    /// The least level that is logged.
    pub level: LogLevel,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A level of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogLevel {
    /// A person must act.
    Error,
    /// Degraded.
    Warn,
    /// A change of state.
    Info,
    /// The rest.
    Debug,
    /// Everything.
    Trace,
}

/// The file that is read when none is named and it exists.
pub const FILE_DEFAULT: &str = "config.toml";

/// The example file as it lies beside the sources, with its example agents.
pub const EXAMPLE: &str = include_str!("../../config.toml");

/// Where the text of a configuration comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file, which must exist.
    File(PathBuf),
    /// A text and the name that messages give it.
    Text {
        /// The name.
        name: String,
        /// The text.
        text: String,
    },
    /// Nothing: defaults and environment only.
    Nothing,
}

impl Source {
    /// Gives the file that the option names, else `HORIZONS_CONFIG`.
    pub fn named(option: Option<&Path>, environment: &BTreeMap<String, String>) -> Option<Self> {
        let variable = environment.get("HORIZONS_CONFIG").filter(|path| !path.is_empty());
        option.map(Path::to_path_buf).or_else(|| variable.map(PathBuf::from)).map(Source::File)
    }

    /// Gives [`FILE_DEFAULT`] in the working folder if it exists, else nothing.
    pub fn in_working_folder() -> Self {
        let path = PathBuf::from(FILE_DEFAULT);
        if path.exists() { Source::File(path) } else { Source::Nothing }
    }

    /// Gives the example file, for the demonstration and for tests.
    pub fn example() -> Self {
        Source::Text { name: FILE_DEFAULT.to_owned(), text: EXAMPLE.to_owned() }
    }
}

/// A configuration with the origin of every value.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Every key's value, in the order of `config.toml`.
    pub values: Vec<ShownValue>,
}

/// The value of one key, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct ShownValue {
    /// The key, with its section.
    pub key: String,
    /// The value.
    pub value: serde_json::Value,
    /// Where it comes from.
    pub origin: Origin,
}

/// Reads and checks a configuration.
///
/// *Errors*: [`ConfigError::Unreadable`] without the file, [`ConfigError::Syntax`] where it is no TOML,
/// [`ConfigError::Invalid`] with every problem of file and environment.
pub fn load(
    source: &Source,
    environment: &BTreeMap<String, String>,
    check_agent: &AgentCheck,
) -> Result<Loaded, ConfigError> {
    check::check(read(source, environment)?, check_agent)
}

/// Gives the address at which a server of this configuration is reached. Judges no other key: a client may be told
/// where a server is by a configuration that has another mistake.
///
/// *Errors*: those of [`load`], about this key alone.
pub fn listen_address(
    source: &Source,
    environment: &BTreeMap<String, String>,
) -> Result<SocketAddr, ConfigError> {
    check::listen_address(&read(source, environment)?)
}

/// Reads what file and environment say.
fn read(source: &Source, environment: &BTreeMap<String, String>) -> Result<raw::RawConfig, ConfigError> {
    let mut raw = raw::RawConfig::default();
    match source {
        Source::File(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?;
            raw::read_file(&path.display().to_string(), &text, &mut raw)?;
        }
        Source::Text { name, text } => raw::read_file(name, text, &mut raw)?,
        Source::Nothing => {}
    }
    raw::read_environment(environment, &mut raw);
    Ok(raw)
}
