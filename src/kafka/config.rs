//! What the adapter must be told, and the client settings that follow from it.
//!
//! Promises that a name which the client library would panic on is refused here, and that no secret is
//! printed. The settings are the ones that were measured or that a promise depends on; each says why.

use std::path::PathBuf;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use super::error::KafkaLogError;
use super::names::check_name;
use crate::secret::Secret;

/// The certificates of a TLS connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsConfig {
    /// The authority that signed the brokers' certificates; the system's own ones when none is named.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate, where brokers ask for one.
    pub certificate_file: Option<PathBuf>,
    /// The key of the client's certificate.
    pub key_file: Option<PathBuf>,
}

/// How a SCRAM password is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScramHash {
    /// SCRAM-SHA-256.
    Sha256,
    /// SCRAM-SHA-512.
    Sha512,
}

impl ScramHash {
    /// Gives the mechanism's registered name.
    pub const fn mechanism(self) -> &'static str {
        match self {
            ScramHash::Sha256 => "SCRAM-SHA-256",
            ScramHash::Sha512 => "SCRAM-SHA-512",
        }
    }
}

/// Who the client says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaslConfig {
    /// How the password is hashed.
    pub hash: ScramHash,
    /// The user.
    pub user: String,
    /// The user's password.
    pub password: Secret,
}

/// How connections to brokers are protected; both may be left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SecurityConfig {
    /// Encrypts and checks the broker's certificate and name.
    pub tls: Option<TlsConfig>,
    /// Signs in.
    pub sasl: Option<SaslConfig>,
}

/// How much one batch takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Records.
    pub records: usize,
    /// Bytes, as [`horizons_actors::record::LogRecord::weight_bytes`] counts them; one record may be larger.
    pub bytes: usize,
}

/// What is known of the cluster and of our place in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaConfig {
    /// Brokers to start from, `host:port`, separated by commas.
    pub bootstrap: String,
    /// Put before every topic's name.
    pub topic_prefix: String,
    /// Put before every group's id.
    pub group_prefix: String,
    /// What the client calls itself to brokers.
    pub client_id: String,
    /// Static membership: an id that no other process has; none means dynamic membership.
    pub group_instance_id: Option<String>,
    /// After so long without a heartbeat a member is given up by its group.
    pub session_timeout: Duration,
    /// After so long without a poll a member gives itself up.
    pub max_poll_interval: Duration,
    /// How long lanes may take to stop when their partitions go elsewhere.
    pub rebalance_limit: Duration,
    /// How long a question to the cluster may take.
    pub request_limit: Duration,
    /// How brokers are spoken to.
    pub security: SecurityConfig,
    /// How much one batch takes.
    pub batch: BatchLimits,
    /// How long a broker holds a fetch open while there is nothing to answer.
    pub fetch_wait: Duration,
    /// Bytes that a group's client reads ahead, all partitions together.
    pub prefetch_bytes: usize,
    /// Bytes that one partition adds to one answer.
    pub partition_fetch_bytes: usize,
    /// How often what lanes did last is compared with what the log holds there.
    pub recheck_every: Duration,
}

/// The longest part of the poll interval that a rebalance may hold the polling thread.
///
/// *Source*: research, rule E3: the wait for lanes must be bounded by a fraction of the interval, or the
/// member gives itself up while it waits.
const REBALANCE_SHARE: u32 = 3;

/// How many heartbeats fit into a session: some may be late without the session ending.
const HEARTBEATS_PER_SESSION: u32 = 8;

/// The longest pause between heartbeats: it is also how soon members hear of a rebalance.
const HEARTBEAT_MAX: Duration = Duration::from_secs(1);

/// How long a client stops to fetch a partition whose prefetch is full, or that failed.
///
/// *Source*: research, part 2.1: the default of a whole second costs throughput.
const FETCH_BACKOFF: Duration = Duration::from_millis(10);

/// How long a client waits before it tries a broker that was away, at first and at most.
const RECONNECT_BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// After so long without an answer a broker counts as away, though its connection stands: one that hangs.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a client asks for topics and leaders while all is well; errors make it ask at once.
const METADATA_REFRESH: Duration = Duration::from_secs(30);

/// Records read ahead, far above what [`KafkaConfig::prefetch_bytes`] lets through: bytes are the limit.
const PREFETCH_RECORDS: u32 = 1_000_000;

impl KafkaConfig {
    /// Gives settings for a cluster, with defaults for everything else.
    pub fn new(bootstrap: impl Into<String>) -> Self {
        Self {
            bootstrap: bootstrap.into(),
            topic_prefix: String::new(),
            group_prefix: String::new(),
            client_id: "horizons".to_owned(),
            group_instance_id: None,
            session_timeout: Duration::from_secs(10),
            max_poll_interval: Duration::from_secs(60),
            rebalance_limit: Duration::from_secs(10),
            request_limit: Duration::from_secs(5),
            security: SecurityConfig::default(),
            batch: BatchLimits { records: 1_000, bytes: 1 << 20 },
            fetch_wait: Duration::from_millis(50),
            prefetch_bytes: 16 << 20,
            partition_fetch_bytes: 1 << 20,
            recheck_every: Duration::from_secs(10),
        }
    }

    /// Checks what the client library would panic on or misunderstand.
    ///
    /// *Errors*: [`KafkaLogError::Name`] for a topic or group that no broker would take,
    /// [`KafkaLogError::Setting`] for a value out of range.
    pub fn check(&self) -> Result<(), KafkaLogError> {
        check_name("kafka.topic_prefix", &format!("{}x", self.topic_prefix))?;
        check_name("kafka.group_prefix", &format!("{}x", self.group_prefix))?;
        if let Some(id) = &self.group_instance_id {
            check_name("kafka.group_instance_id", id)?;
        }
        let has_nul = |text: &str| text.contains('\0');
        if self.bootstrap.is_empty() || has_nul(&self.bootstrap) {
            return Err(KafkaLogError::Setting {
                name: "kafka.bootstrap",
                wanted: "`host:port[,host:port…]`",
            });
        }
        if has_nul(&self.client_id) {
            return Err(KafkaLogError::Setting { name: "kafka.client_id", wanted: "text without NUL" });
        }
        if self.max_poll_interval < self.session_timeout {
            let wanted = "at least the session timeout";
            return Err(KafkaLogError::Setting { name: "kafka.max_poll_interval", wanted });
        }
        if self.batch.records == 0 || self.batch.bytes == 0 {
            return Err(KafkaLogError::Setting {
                name: "kafka.batch",
                wanted: "at least 1 record and 1 byte",
            });
        }
        Ok(())
    }

    /// Gives how long a rebalance may wait for lanes.
    pub fn rebalance_wait(&self) -> Duration {
        self.rebalance_limit.min(self.max_poll_interval / REBALANCE_SHARE)
    }

    /// Gives what every client needs: brokers, protection, and how it comes back after a loss.
    pub fn client(&self, role: &str) -> ClientConfig {
        let mut client = ClientConfig::new();
        client
            .set_log_level(RDKafkaLogLevel::Info)
            .set("bootstrap.servers", &self.bootstrap)
            .set("client.id", format!("{}-{role}", self.client_id))
            .set("reconnect.backoff.ms", millis(RECONNECT_BACKOFF.0))
            .set("reconnect.backoff.max.ms", millis(RECONNECT_BACKOFF.1))
            .set("topic.metadata.refresh.interval.ms", millis(METADATA_REFRESH))
            .set("socket.timeout.ms", millis(SOCKET_TIMEOUT))
            .set("socket.keepalive.enable", "true");
        let SecurityConfig { tls, sasl } = &self.security;
        let protocol = match (tls, sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        client.set("security.protocol", protocol);
        if let Some(TlsConfig { ca_file, certificate_file, key_file }) = tls {
            let files = [
                ("ssl.ca.location", ca_file),
                ("ssl.certificate.location", certificate_file),
                ("ssl.key.location", key_file),
            ];
            for (name, file) in files {
                if let Some(file) = file {
                    client.set(name, file.to_string_lossy());
                }
            }
            client.set("ssl.endpoint.identification.algorithm", "https");
        }
        if let Some(SaslConfig { hash, user, password }) = sasl {
            client
                .set("sasl.mechanism", hash.mechanism())
                .set("sasl.username", user)
                .set("sasl.password", password.reveal());
        }
        client
    }

    /// Gives what every consumer needs, whether or not it is a member of a group.
    fn consumer(&self, role: &str, group_id: &str) -> ClientConfig {
        let mut client = self.client(role);
        client
            .set("group.id", group_id)
            // The store keeps positions; what the group keeps is for lag tools (design D2).
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // A gap is an event that an operator decides on.
            .set("auto.offset.reset", "error")
            // An audit trail does not trust bytes that nobody checked.
            .set("check.crcs", "true")
            .set("isolation.level", "read_committed")
            .set("allow.auto.create.topics", "false")
            .set("fetch.min.bytes", "1")
            .set("fetch.queue.backoff.ms", millis(FETCH_BACKOFF))
            .set("fetch.error.backoff.ms", millis(FETCH_BACKOFF));
        client
    }

    /// Gives the settings of a group's member.
    pub fn member(&self, group: &str) -> ClientConfig {
        let mut client = self.consumer(group, &format!("{}{group}", self.group_prefix));
        let heartbeat = HEARTBEAT_MAX.min(self.session_timeout / HEARTBEATS_PER_SESSION);
        client
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", millis(self.session_timeout))
            .set("heartbeat.interval.ms", millis(heartbeat))
            .set("max.poll.interval.ms", millis(self.max_poll_interval))
            .set("fetch.wait.max.ms", millis(self.fetch_wait))
            .set("max.partition.fetch.bytes", self.partition_fetch_bytes.to_string())
            .set("queued.min.messages", PREFETCH_RECORDS.to_string())
            .set("queued.max.messages.kbytes", (self.prefetch_bytes >> 10).max(1).to_string());
        if let Some(id) = &self.group_instance_id {
            client.set("group.instance.id", id);
        }
        client
    }

    /// Gives the settings of the client that looks at single records, outside of any group.
    pub fn inspector(&self) -> ClientConfig {
        let mut client = self.consumer("inspector", &format!("{}horizons-inspector", self.group_prefix));
        client
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", millis(INSPECTOR_FETCH_WAIT))
            .set("max.partition.fetch.bytes", INSPECTOR_FETCH_BYTES.to_string())
            .set("queued.max.messages.kbytes", (INSPECTOR_QUEUE_BYTES >> 10).to_string());
        client
    }
}

impl KafkaConfig {
    /// Gives the settings of the client that asks where partitions end, open transactions included.
    pub fn uncommitted_inspector(&self) -> ClientConfig {
        let mut client = self.inspector();
        client.set("isolation.level", "read_uncommitted");
        client
    }

    /// Gives the settings of a client that looks at records which cannot be read: what is behind them must fit into
    /// the same answer, or it is not seen.
    pub fn surveyor(&self) -> ClientConfig {
        let mut client = self.consumer("survey", &format!("{}horizons-survey", self.group_prefix));
        client
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", millis(INSPECTOR_FETCH_WAIT))
            .set("max.partition.fetch.bytes", SURVEY_FETCH_BYTES.to_string())
            .set("queued.max.messages.kbytes", (SURVEY_FETCH_BYTES >> 9).to_string());
        client
    }
}

/// Bytes that a survey's fetch asks for: more than two of the largest batches that a topic takes.
const SURVEY_FETCH_BYTES: u32 = 4 << 20;

/// How long a broker holds an inspection's fetch open: what is asked for is there already, or never.
const INSPECTOR_FETCH_WAIT: Duration = Duration::from_millis(10);

/// Bytes that a partition adds to an answer: one record is wanted; a larger one still comes whole.
const INSPECTOR_FETCH_BYTES: u32 = 16 << 10;

/// Bytes that the inspecting client keeps.
const INSPECTOR_QUEUE_BYTES: u32 = 4 << 20;

/// Writes a duration as the library wants it; nothing is shorter than its unit.
fn millis(duration: Duration) -> String {
    duration.as_millis().max(1).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protected(tls: Option<TlsConfig>, sasl: Option<SaslConfig>) -> ClientConfig {
        let security = SecurityConfig { tls, sasl };
        KafkaConfig { security, ..KafkaConfig::new("broker:9092") }.client("test")
    }

    fn scram() -> SaslConfig {
        let password = Secret::new("very secret");
        SaslConfig { hash: ScramHash::Sha512, user: "horizons".to_owned(), password }
    }

    #[test]
    fn client_protection_follows_what_is_given() {
        let tls = || Some(TlsConfig { ca_file: Some(PathBuf::from("/ca.pem")), ..TlsConfig::default() });

        assert_eq!(protected(None, None).get("security.protocol"), Some("plaintext"));
        assert_eq!(protected(tls(), None).get("security.protocol"), Some("ssl"));
        assert_eq!(protected(tls(), None).get("ssl.ca.location"), Some("/ca.pem"));
        assert_eq!(protected(None, Some(scram())).get("security.protocol"), Some("sasl_plaintext"));
        let both = protected(tls(), Some(scram()));
        assert_eq!(both.get("security.protocol"), Some("sasl_ssl"));
        assert_eq!(both.get("sasl.mechanism"), Some("SCRAM-SHA-512"));
        assert_eq!(both.get("sasl.password"), Some("very secret"));
    }

    #[test]
    fn config_debug_shows_no_secret() {
        let security = SecurityConfig { tls: None, sasl: Some(scram()) };
        let config = KafkaConfig { security, ..KafkaConfig::new("broker:9092") };

        let shown = format!("{config:?} {:?}", config.member("jobs"));

        assert!(!shown.contains("very secret"), "{shown}");
    }

    #[test]
    fn member_settings_keep_the_promises() {
        let mut config = KafkaConfig::new("broker:9092");
        config.group_prefix = "test-".to_owned();
        config.group_instance_id = Some("node-1".to_owned());

        let member = config.member("jobs");

        for (name, value) in [
            ("group.id", "test-jobs"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "error"),
            ("check.crcs", "true"),
            ("isolation.level", "read_committed"),
            ("partition.assignment.strategy", "cooperative-sticky"),
            ("group.instance.id", "node-1"),
            ("allow.auto.create.topics", "false"),
        ] {
            assert_eq!(member.get(name), Some(value), "{name}");
        }
        assert_eq!(config.inspector().get("group.instance.id"), None);
        assert!(member.create_native_config().is_ok(), "the library knows every setting");
        assert_eq!(config.surveyor().get("check.crcs"), Some("true"));
        assert_eq!(config.uncommitted_inspector().get("isolation.level"), Some("read_uncommitted"));
        for client in [config.inspector(), config.uncommitted_inspector(), config.surveyor()] {
            assert!(client.create_native_config().is_ok());
        }
    }

    #[test]
    fn check_names_that_the_library_would_panic_on_are_refused() {
        let good = KafkaConfig::new("broker:9092");
        let with_prefix = |prefix: &str| KafkaConfig { topic_prefix: prefix.to_owned(), ..good.clone() };

        assert!(good.check().is_ok());
        assert!(with_prefix("a.b_c-1.").check().is_ok());
        for bad in ["a\0", "ü", "a b", "a/b", &"x".repeat(250)] {
            assert!(with_prefix(bad).check().is_err(), "{bad:?}");
        }
        assert!(KafkaConfig { bootstrap: String::new(), ..good.clone() }.check().is_err());
        assert!(KafkaConfig { bootstrap: "a\0:1".to_owned(), ..good.clone() }.check().is_err());
        assert!(KafkaConfig { max_poll_interval: Duration::from_secs(1), ..good }.check().is_err());
    }

    #[test]
    fn rebalance_wait_stays_within_the_poll_interval() {
        let mut config = KafkaConfig::new("broker:9092");
        config.rebalance_limit = Duration::from_secs(50);

        assert_eq!(config.rebalance_wait(), Duration::from_secs(20));
    }
}
