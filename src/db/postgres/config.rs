//! The settings of the PostgreSQL store.

use std::time::Duration;

use crate::db::error::OpenError;
use crate::db::fatal::{FatalHook, end_process};
use crate::db::log_choice::LogChoice;

/// The longest name that PostgreSQL keeps whole.
const NAME_MAX_BYTES: usize = 63;

/// The shortest time limit: below it a busy server would seem dead.
const TIME_MIN: Duration = Duration::from_millis(100);

/// Where a database is and how to log in: `postgres://…` or `key=value …`, as libpq takes it. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectionUrl(String);

impl ConnectionUrl {
    /// Takes a text; whether libpq understands it shows when it is used.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Adds a password, which the text does not hold.
    pub fn with_password(self, password: &str) -> Self {
        if password.is_empty() {
            return self;
        }
        let is_url = self.is_url();
        let escaped = if is_url {
            percent_encoding::utf8_percent_encode(password, percent_encoding::NON_ALPHANUMERIC).to_string()
        } else {
            format!("'{}'", password.replace('\\', "\\\\").replace('\'', "\\'"))
        };
        Self(self.with(&[("password", escaped)]))
    }

    /// Tells which of libpq's two forms the text has.
    fn is_url(&self) -> bool {
        self.0.starts_with("postgres://") || self.0.starts_with("postgresql://")
    }

    /// Gives the text with settings added where it does not set them itself.
    pub(super) fn with(&self, settings: &[(&str, String)]) -> String {
        let is_url = self.is_url();
        let mut text = self.0.clone();
        for (key, value) in settings {
            if self.sets(key) {
                continue;
            }
            text.push(match (is_url, text.contains('?')) {
                (false, _) => ' ',
                (true, false) => '?',
                (true, true) => '&',
            });
            text.push_str(key);
            text.push('=');
            text.push_str(value);
        }
        text
    }

    /// Tells whether the text sets a key.
    fn sets(&self, key: &str) -> bool {
        self.0
            .split(['?', '&', ' ', '\t', '\n'])
            .any(|part| part.split_once('=').is_some_and(|(name, _)| name.trim() == key))
    }
}

impl std::fmt::Debug for ConnectionUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConnectionUrl(…)")
    }
}

/// Who makes and changes the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Migrations {
    /// Opening the store does; its role owns the tables.
    AtOpen,
    /// An operator does beforehand ([`super::migrate`]), as another role; opening only checks.
    ByOperator,
}

/// What becomes of a server that may forget what it has confirmed (`fsync` or `full_page_writes` off).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnsafeServer {
    /// The store is not opened.
    Refuse,
    /// It is, with a warning: for tests and throw-away data.
    Warn,
}

/// The settings of a store.
#[derive(Clone)]
pub struct PostgresConfig {
    /// The database.
    pub url: ConnectionUrl,
    /// The schema that all tables are in; made if absent.
    pub schema: String,
    /// The event log that the rows are about.
    pub log: LogChoice,
    /// Who migrates.
    pub migrations: Migrations,
    /// The role that a migration grants what a running program needs, and no more; none grants nothing.
    pub grant_to: Option<String>,
    /// What becomes of a server that is not durable.
    pub unsafe_server: UnsafeServer,
    /// What the database may take before new work is refused; none for no limit.
    pub disk_limit_bytes: Option<u64>,
    /// Commands that may wait for the writer.
    pub command_queue: usize,
    /// Transactions of lanes that may wait for the writer.
    pub batch_queue: usize,
    /// Commands in one commit, so that they never starve the lanes.
    pub commands_per_commit: usize,
    /// Threads that read for lanes, and as many for people.
    pub readers: usize,
    /// Reads that may wait for those threads, of each kind.
    pub read_queue: usize,
    /// How long one attempt to connect may take; libpq counts whole seconds and at least two.
    pub connect_timeout: Duration,
    /// How long sent bytes may stay unconfirmed, and a silent connection unanswered, before it counts as cut.
    pub network_timeout: Duration,
    /// How long one statement may run.
    pub statement_timeout: Duration,
    /// How long a statement may wait for a lock.
    pub lock_timeout: Duration,
    /// The longest wait between two attempts to connect; the first is a fiftieth of it.
    pub reconnect_max: Duration,
    /// How long a lease lasts without being renewed.
    pub lease_time: Duration,
    /// A wait before each commit, set by tests that need a slow store.
    pub commit_delay: Option<Duration>,
    /// What to do when the process must end.
    pub on_fatal: FatalHook,
}

impl std::fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresConfig").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl PostgresConfig {
    /// Gives the defaults for a database.
    pub fn new(url: ConnectionUrl) -> Self {
        Self {
            url,
            schema: "horizons".to_owned(),
            log: LogChoice::Embedded,
            migrations: Migrations::AtOpen,
            grant_to: None,
            unsafe_server: UnsafeServer::Refuse,
            disk_limit_bytes: None,
            command_queue: 1024,
            batch_queue: 256,
            commands_per_commit: 64,
            readers: 2,
            read_queue: 1024,
            connect_timeout: Duration::from_secs(3),
            network_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(5),
            reconnect_max: Duration::from_secs(1),
            lease_time: Duration::from_secs(9),
            commit_delay: None,
            on_fatal: end_process(),
        }
    }

    /// Names the store for people, without where it is.
    pub(super) fn name(&self) -> String {
        format!("schema `{}`", self.schema)
    }

    /// Checks the ranges.
    pub(super) fn check(&self) -> Result<(), OpenError> {
        let at_least_one = [
            ("command_queue", self.command_queue),
            ("batch_queue", self.batch_queue),
            ("commands_per_commit", self.commands_per_commit),
            ("readers", self.readers),
            ("read_queue", self.read_queue),
        ];
        if let Some((setting, _)) = at_least_one.into_iter().find(|(_, value)| *value == 0) {
            return Err(OpenError::Setting { setting, wanted: "at least 1", got: 0 });
        }
        let times = [
            ("connect_timeout", self.connect_timeout),
            ("network_timeout", self.network_timeout),
            ("statement_timeout", self.statement_timeout),
            ("lock_timeout", self.lock_timeout),
            ("lease_time", self.lease_time),
        ];
        for (setting, value) in times {
            if value < TIME_MIN {
                let got = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
                return Err(OpenError::Setting { setting, wanted: "at least 100 ms", got });
            }
        }
        for (setting, name) in [("schema", Some(&self.schema)), ("grant_to", self.grant_to.as_ref())] {
            if let Some(name) = name
                && (name.is_empty() || name.len() > NAME_MAX_BYTES || name.contains('\0'))
            {
                let got = name.len() as u64;
                return Err(OpenError::Setting { setting, wanted: "a name of 1..=63 bytes", got });
            }
        }
        Ok(())
    }
}

/// Quotes a name for SQL.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_settings_are_added_in_either_form_unless_set() {
        let settings = [("connect_timeout", "3".to_owned()), ("keepalives_idle", "5".to_owned())];
        let with = |text: &str| ConnectionUrl::new(text).with(&settings);

        assert_eq!(with("postgres://h/d"), "postgres://h/d?connect_timeout=3&keepalives_idle=5");
        assert_eq!(
            with("postgres://h/d?connect_timeout=9"),
            "postgres://h/d?connect_timeout=9&keepalives_idle=5"
        );
        assert_eq!(with("host=h dbname=d"), "host=h dbname=d connect_timeout=3 keepalives_idle=5");
    }

    #[test]
    fn url_is_never_printed() {
        let config = PostgresConfig::new(ConnectionUrl::new("postgres://me:secret@h/d"));

        assert!(!format!("{config:?} {:?}", config.url).contains("secret"));
    }

    #[test]
    fn quoted_name_with_quotes_is_one_name() {
        assert_eq!(quoted("a\"; DROP"), "\"a\"\"; DROP\"");
    }
}
