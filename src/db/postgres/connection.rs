//! Connections: how they are made, and what every one of them is told.
//!
//! Promises that a commit on any of them waits for the disk, that no statement and no wait for a lock is
//! without a limit, and that a peer that went silent is found within the network's limit.

use std::collections::BTreeSet;

use diesel::Connection as _;
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, CustomizeConnection, Pool};

use super::config::{PostgresConfig, UnsafeServer, quoted};
use super::engine::{Connection, ReadPool};
use super::errors::{Fault, connection_text, fault_of, speaks_foreign};
use crate::db::error::OpenError;

/// How long a read waits for a connection of the pool: there is one for each thread, so it waits only while
/// the server is away, and then it should be told soon.
const POOL_WAIT: std::time::Duration = std::time::Duration::from_secs(1);

/// How often two connections are looked at for a pooler: enough to be given another's connection by a busy one.
const POOLER_LOOKS: u32 = 8;

/// Unanswered probes after which a silent connection counts as cut.
const PROBES: u64 = 3;

/// Locales in which the server's messages are English.
const ENGLISH: [&str; 4] = ["C", "POSIX", "en", ""];

/// A row with one text.
#[derive(QueryableByName)]
struct TextRow {
    #[diesel(sql_type = diesel::sql_types::Text)]
    value: String,
}

/// A row with one number.
#[derive(QueryableByName)]
struct NumberRow {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    value: i64,
}

/// Gives what libpq is told: where the database is, and how to find out that it is gone.
pub(super) fn url(config: &PostgresConfig) -> String {
    let silence = config.network_timeout.as_secs().max(1);
    let probe = (silence / PROBES).max(1);
    config.url.with(&[
        ("application_name", "horizons".to_owned()),
        ("connect_timeout", config.connect_timeout.as_secs().max(2).to_string()),
        ("keepalives", "1".to_owned()),
        ("keepalives_idle", probe.to_string()),
        ("keepalives_interval", probe.to_string()),
        ("keepalives_count", PROBES.to_string()),
        ("tcp_user_timeout", config.network_timeout.as_millis().to_string()),
    ])
}

/// Gives what each connection is told first.
fn settings(config: &PostgresConfig) -> String {
    format!(
        "SET search_path = {};
         SET synchronous_commit = on;
         SET default_transaction_isolation = 'read committed';
         SET statement_timeout = {};
         SET lock_timeout = {};
         SET idle_in_transaction_session_timeout = {};
         SET jit = off;",
        quoted(&config.schema),
        config.statement_timeout.as_millis(),
        config.lock_timeout.as_millis(),
        config.statement_timeout.as_millis(),
    )
}

/// Opens a connection and tells it the settings.
pub(super) fn connect(config: &PostgresConfig) -> Result<Connection, ConnectionError> {
    let mut connection = Connection::establish(&url(config))?;
    prepare(&mut connection, config).map_err(ConnectionError::CouldntSetupConfiguration)?;
    Ok(connection)
}

/// Tells a connection the settings.
fn prepare(connection: &mut Connection, config: &PostgresConfig) -> QueryResult<()> {
    connection.batch_execute(&settings(config))?;
    // Errors are told apart by their text. Without the right to choose the language it stays as it is.
    if connection.batch_execute("SET lc_messages = 'C'").is_err() && !speaks_english(connection)? {
        speaks_foreign();
        tracing::warn!("the server's messages are not English: errors that are not recognised are retried");
    }
    Ok(())
}

/// Tells whether the server's messages are known ones.
fn speaks_english(connection: &mut Connection) -> QueryResult<bool> {
    let locale = show(connection, "lc_messages")?;
    let language = locale.split(['.', '_', '@']).next().unwrap_or_default();
    Ok(ENGLISH.contains(&language))
}

/// Reads a setting of the server's.
fn show(connection: &mut Connection, setting: &str) -> QueryResult<String> {
    Ok(diesel::sql_query("SELECT current_setting($1) AS value")
        .bind::<diesel::sql_types::Text, _>(setting)
        .get_result::<TextRow>(connection)?
        .value)
}

/// Opens a connection for opening the store, after a look at what is between us and the server.
///
/// *Errors*: [`OpenError::Pooled`], [`OpenError::Unreachable`], [`OpenError::Refused`].
pub(super) fn open(config: &PostgresConfig) -> Result<Connection, OpenError> {
    refuse_pooler(config)?;
    connect(config).map_err(|error| connect_error(config, error))
}

fn connect_error(config: &PostgresConfig, error: ConnectionError) -> OpenError {
    match error {
        ConnectionError::CouldntSetupConfiguration(error) => open_error(config, &error),
        error => OpenError::Unreachable { store: config.name(), detail: connection_text(&error) },
    }
}

/// Refuses a pooler that gives our connections to others between transactions.
///
/// Two connections that live at once have a process of the server's each, the same one for as long as they live.
/// Behind such a pooler an idle one serves both, and a busy one serves each by turns. Nothing of the session is used
/// to find out, and no transaction waits for another one.
fn refuse_pooler(config: &PostgresConfig) -> Result<(), OpenError> {
    let make = || Connection::establish(&url(config)).map_err(|error| connect_error(config, error));
    let pooled = || OpenError::Pooled { store: config.name() };
    let (mut one, mut other) = (make()?, make()?);
    let (mut of_one, mut of_other) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..POOLER_LOOKS {
        for (connection, processes) in [(&mut one, &mut of_one), (&mut other, &mut of_other)] {
            let looked = server_process(connection);
            processes.insert(looked.map_err(|error| {
                // One that allows no transaction at all hangs up at the first; the next connection serves as before.
                let is_served = make().is_ok_and(|mut third| third.batch_execute("SELECT 1").is_ok());
                if fault_of(&error) == Fault::Cut && is_served {
                    pooled()
                } else {
                    open_error(config, &error)
                }
            })?);
        }
    }
    let is_direct = of_one.len() == 1 && of_other.len() == 1 && of_one.is_disjoint(&of_other);
    if is_direct { Ok(()) } else { Err(pooled()) }
}

/// Gives the server's process behind a connection, in one transaction: its parts go to the same one.
fn server_process(connection: &mut Connection) -> QueryResult<i64> {
    connection.batch_execute("BEGIN")?;
    let process =
        diesel::sql_query("SELECT pg_backend_pid()::bigint AS value").get_result::<NumberRow>(connection)?;
    connection.batch_execute("COMMIT")?;
    Ok(process.value)
}

/// Turns what the engine says at opening into what an operator can act on.
pub(super) fn open_error(config: &PostgresConfig, error: &diesel::result::Error) -> OpenError {
    let detail = error.to_string();
    match fault_of(error) {
        Fault::Cut | Fault::Away => OpenError::Unreachable { store: config.name(), detail },
        Fault::Data | Fault::Ours => OpenError::Refused { store: config.name(), detail },
    }
}

/// Checks that the server keeps what it confirms.
pub(super) fn check_durable(connection: &mut Connection, config: &PostgresConfig) -> Result<(), OpenError> {
    for setting in ["fsync", "full_page_writes"] {
        let value = show(connection, setting).map_err(|error| open_error(config, &error))?;
        if value == "on" {
            continue;
        }
        match config.unsafe_server {
            UnsafeServer::Refuse => {
                return Err(OpenError::NotDurable { store: config.name(), setting });
            }
            UnsafeServer::Warn => {
                tracing::warn!(setting, "the server may lose what it has confirmed: this setting is off");
            }
        }
    }
    Ok(())
}

/// Prepares each connection of the pool.
#[derive(Debug)]
struct ReaderSettings(PostgresConfig);

impl CustomizeConnection<Connection, diesel::r2d2::Error> for ReaderSettings {
    fn on_acquire(&self, connection: &mut Connection) -> Result<(), diesel::r2d2::Error> {
        prepare(connection, &self.0)
            .and_then(|()| connection.batch_execute("SET default_transaction_read_only = on"))
            .map_err(diesel::r2d2::Error::QueryError)
    }
}

/// Makes the pool of reading connections. A connection that was cut fails the read that finds it, and is then
/// replaced.
pub(super) fn read_pool(config: &PostgresConfig, size: u32) -> Result<ReadPool, OpenError> {
    Pool::builder()
        .max_size(size)
        .min_idle(Some(1))
        .test_on_check_out(false)
        .connection_timeout(POOL_WAIT.max(config.connect_timeout))
        .connection_customizer(Box::new(ReaderSettings(config.clone())))
        .build(ConnectionManager::new(url(config)))
        .map_err(|error| OpenError::Unreachable { store: config.name(), detail: error.to_string() })
}

/// Tells what the database takes.
pub(super) fn used_bytes(connection: &mut Connection) -> QueryResult<u64> {
    let bytes = diesel::sql_query("SELECT pg_database_size(current_database()) AS value")
        .get_result::<NumberRow>(connection)?
        .value;
    Ok(bytes.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::super::config::ConnectionUrl;
    use super::*;

    #[test]
    fn url_silent_peer_is_given_up_within_the_networks_limit() {
        let config = PostgresConfig::new(ConnectionUrl::new("postgres://h/d"));

        let url = url(&config);

        let limit = config.network_timeout.as_millis();
        assert!(url.contains(&format!("tcp_user_timeout={limit}")), "{url}");
        assert!(url.contains("keepalives_idle=1&keepalives_interval=1&keepalives_count=3"), "{url}");
    }
}
