//! The writing thread's connection: made anew when it is gone, without holding up who waits for an answer.
//!
//! Promises that work which meets no connection is answered within [`PATIENCE`], and that attempts to connect
//! are spaced by a wait that doubles up to a limit.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use horizons_actors::ports::store::StoreError;

use super::config::PostgresConfig;
use super::connection::connect;
use super::engine::Connection;
use super::errors::connection_text;
use super::numbers::EntryNumbers;
use crate::db::fatal::FatalError;
use crate::periodic;

/// How long work waits for a connection that is being made.
const PATIENCE: Duration = Duration::from_millis(100);

/// The first wait is the longest divided by this.
const FIRST_WAIT_DIVISOR: u32 = 50;

/// Slow statements that a commit may have, each just within its limit, before the database counts as stuck.
const STATEMENTS_PER_COMMIT: u32 = 8;

/// What an attempt to connect brings.
type Attempt = Receiver<Result<Connection, String>>;

/// How the link stands.
enum State {
    Up(Connection),
    /// An attempt is under way on a thread of its own.
    Connecting(Attempt),
    /// The next attempt may begin then.
    Down {
        until: Instant,
    },
}

/// The one connection that writes.
pub(super) struct Link {
    config: PostgresConfig,
    state: State,
    wait: Duration,
    last_error: String,
}

impl Link {
    pub(super) fn new(connection: Connection, config: PostgresConfig) -> Self {
        let wait = config.reconnect_max / FIRST_WAIT_DIVISOR;
        Self { config, state: State::Up(connection), wait, last_error: "connection lost".to_owned() }
    }

    /// Gives the connection, making it anew if it is gone and the time has come.
    pub(super) fn connection(&mut self) -> Result<&mut Connection, StoreError> {
        if let State::Down { until } = self.state
            && Instant::now() >= until
        {
            self.state = State::Connecting(self.begin()?);
        }
        if let State::Connecting(attempt) = &self.state {
            match attempt.recv_timeout(PATIENCE) {
                Ok(Ok(connection)) => {
                    tracing::info!(store = self.config.name(), "connected to the database again");
                    self.wait = self.config.reconnect_max / FIRST_WAIT_DIVISOR;
                    self.state = State::Up(connection);
                }
                Ok(Err(text)) => self.failed_attempt(text),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => self.failed_attempt("the attempt ended".to_owned()),
            }
        }
        match &mut self.state {
            State::Up(connection) => Ok(connection),
            State::Connecting(_) | State::Down { .. } => {
                Err(StoreError::Unavailable(format!("no connection to the database: {}", self.last_error)))
            }
        }
    }

    /// Gives how long a commit may take: its statements have a limit each, and the first that reaches it is the last.
    pub(super) fn commit_limit(&self) -> Duration {
        self.config.statement_timeout * STATEMENTS_PER_COMMIT
    }

    /// Begins an attempt.
    fn begin(&self) -> Result<Attempt, StoreError> {
        let (sender, receiver) = channel();
        let config = self.config.clone();
        let attempt = move || {
            let made = connect(&config).map_err(|error| connection_text(&error));
            // Without a listener the store has ended, and the connection with it.
            let _ = sender.send(made);
        };
        periodic::once("store-connect", "the database", attempt)
            .map_err(|error| StoreError::Unavailable(format!("failed to start a thread: {error}")))?;
        Ok(receiver)
    }

    fn failed_attempt(&mut self, text: String) {
        if text != self.last_error {
            tracing::warn!(store = self.config.name(), error = text, "failed to connect to the database");
        }
        self.last_error = text;
        self.state = State::Down { until: Instant::now() + self.wait };
        self.wait = (self.wait * 2).min(self.config.reconnect_max);
    }

    /// Looks after a failed round whether the connection still serves; no transaction is left open on it.
    pub(super) fn check(&mut self, numbers: &EntryNumbers) {
        let State::Up(connection) = &mut self.state else { return };
        if let Err(error) = connection.batch_execute("ROLLBACK") {
            self.last_error = error.to_string().trim().replace('\n', "; ");
            tracing::warn!(
                store = self.config.name(),
                error = self.last_error,
                "lost the connection to the database"
            );
            self.state = State::Down { until: Instant::now() };
            numbers.forget();
        }
    }

    /// Notes that a round was committed.
    pub(super) const fn committed(&self) {}

    /// Has nothing to do after a round.
    pub(super) const fn after_round(&mut self) -> Result<(), FatalError> {
        Ok(())
    }
}
