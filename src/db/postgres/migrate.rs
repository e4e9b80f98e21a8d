//! Making and changing the tables, and the rights of the role that runs the program.
//!
//! Promises that two processes never migrate at once, that a schema with a migration which is not ours is
//! refused, and that the granted role has no right to change or remove what the audit log holds, nor to touch
//! the triggers that refuse it: it does not own the tables.

use diesel::connection::SimpleConnection;
use diesel::migration::MigrationSource;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::config::{PostgresConfig, quoted};
use super::connection::{self, open_error};
use super::engine::Connection;
use crate::db::error::OpenError;

/// The steps from an empty schema to the tables of today.
const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/postgres");

/// Distinguishes our advisory lock from those of other programs; the schema's name chooses the other half.
const LOCK_CLASS: i32 = 0x686f_7269;

/// Tables of which no row is ever changed or removed.
const IMMUTABLE: [&str; 4] = ["audit_entries", "audit_bodies", "audit_runs", "audit_segments"];

/// Tables whose rows change and stay.
const GROWING: [&str; 6] =
    ["audit_logs", "log_head", "store_identity", "lanes", "outbox_cursors", "layout_epochs"];

/// A row with one number.
#[derive(QueryableByName)]
struct NumberRow {
    #[diesel(sql_type = BigInt)]
    value: i64,
}

/// Applies what is missing, as the role of the configuration's address, and grants the role that is named there
/// what a running program needs.
///
/// *Errors*: [`OpenError::Unreachable`], [`OpenError::NewerSchema`], and [`OpenError::Refused`] where the role
/// may not.
pub fn migrate(config: &PostgresConfig) -> Result<(), OpenError> {
    config.check()?;
    let mut connection = connection::open(config)?;
    apply(&mut connection, config)
}

/// Removes the configuration's schema with all that is in it, if it is there.
///
/// *Errors*: [`OpenError::Unreachable`], and [`OpenError::Refused`] where the role may not.
pub fn remove_schema(config: &PostgresConfig) -> Result<(), OpenError> {
    let mut connection = connection::open(config)?;
    connection
        .batch_execute(&format!(
            "SET client_min_messages = warning; SET statement_timeout = 0; DROP SCHEMA IF EXISTS {} CASCADE",
            quoted(&config.schema)
        ))
        .map_err(|error| open_error(config, &error))
}

/// Applies what is missing over a connection.
pub(super) fn apply(connection: &mut Connection, config: &PostgresConfig) -> Result<(), OpenError> {
    // The lock is the session's: it goes with the connection, however that ends. Whoever waits for it waits as
    // long as the other's migration takes.
    let class = LOCK_CLASS;
    let lock = format!(
        "SET statement_timeout = 0; SET lock_timeout = 0;
         SELECT pg_advisory_lock({class}, hashtext({schema}));
         SET client_min_messages = warning;",
        schema = literal(&config.schema)
    );
    connection.batch_execute(&lock).map_err(|error| open_error(config, &error))?;
    let applied = apply_locked(connection, config);
    let unlock = format!("SELECT pg_advisory_unlock({class}, hashtext({}))", literal(&config.schema));
    let unlocked = connection
        .batch_execute(&unlock)
        .and_then(|()| {
            connection.batch_execute(&format!(
                "SET statement_timeout = {}; SET lock_timeout = {}",
                config.statement_timeout.as_millis(),
                config.lock_timeout.as_millis()
            ))
        })
        .map_err(|error| open_error(config, &error));
    applied.and(unlocked)
}

fn apply_locked(connection: &mut Connection, config: &PostgresConfig) -> Result<(), OpenError> {
    let failed = |error: diesel::result::Error| open_error(config, &error);
    // Asked first: making a schema if it is absent needs the right to make one even where it is there.
    if !exists(connection, &config.schema).map_err(failed)? {
        connection.batch_execute(&format!("CREATE SCHEMA {}", quoted(&config.schema))).map_err(failed)?;
    }
    refuse_newer(connection, config)?;
    connection
        .run_pending_migrations(MIGRATIONS)
        .map_err(|error| OpenError::Refused { store: config.name(), detail: error.to_string() })?;
    match &config.grant_to {
        Some(role) => connection.batch_execute(&grants(&config.schema, role)).map_err(failed),
        None => Ok(()),
    }
}

/// Checks that a schema is there and has our migrations, no fewer and no more.
pub(super) fn check(connection: &mut Connection, config: &PostgresConfig) -> Result<(), OpenError> {
    let failed = |error: diesel::result::Error| open_error(config, &error);
    if !exists(connection, &config.schema).map_err(failed)? {
        return Err(OpenError::Missing { file: config.name().into() });
    }
    refuse_newer(connection, config)?;
    // As above, this may not make the table of migrations.
    let applied = applied(connection).map_err(failed)?;
    let known = known(config)?;
    if applied.len() < known.len() {
        Err(OpenError::OlderSchema { file: config.name().into() })
    } else {
        Ok(())
    }
}

/// Tells whether a schema is there.
fn exists(connection: &mut Connection, schema: &str) -> QueryResult<bool> {
    let found = diesel::sql_query("SELECT count(*) AS value FROM pg_namespace WHERE nspname = $1")
        .bind::<Text, _>(schema)
        .get_result::<NumberRow>(connection)?;
    Ok(found.value == 1)
}

diesel::table! {
    __diesel_schema_migrations (version) { version -> Text, run_on -> Timestamp, }
}

/// Lists the migrations of the schema; none where there is no table of them.
fn applied(connection: &mut Connection) -> QueryResult<Vec<String>> {
    let tables = diesel::sql_query(
        "SELECT count(*) AS value FROM pg_tables
         WHERE schemaname = current_schema() AND tablename = '__diesel_schema_migrations'",
    )
    .get_result::<NumberRow>(connection)?;
    if tables.value == 0 {
        return Ok(Vec::new());
    }
    __diesel_schema_migrations::table
        .select(__diesel_schema_migrations::version)
        .order(__diesel_schema_migrations::version)
        .load(connection)
}

/// Lists our own.
fn known(config: &PostgresConfig) -> Result<Vec<String>, OpenError> {
    let migrations = MigrationSource::<Pg>::migrations(&MIGRATIONS)
        .map_err(|error| OpenError::Other { file: config.name().into(), detail: error.to_string() })?;
    Ok(migrations.iter().map(|migration| migration.name().version().to_string()).collect())
}

/// Refuses a schema that has a migration which is not ours.
fn refuse_newer(connection: &mut Connection, config: &PostgresConfig) -> Result<(), OpenError> {
    let known = known(config)?;
    let applied = applied(connection).map_err(|error| open_error(config, &error))?;
    match applied.into_iter().find(|version| !known.contains(version)) {
        Some(migration) => Err(OpenError::NewerSchema { file: config.name().into(), migration }),
        None => Ok(()),
    }
}

/// Gives the statements that give a role what a running program needs, and take away what it does not.
fn grants(schema: &str, role: &str) -> String {
    let (schema, role) = (quoted(schema), quoted(role));
    let mut statements = format!(
        "GRANT USAGE ON SCHEMA {schema} TO {role};
         REVOKE CREATE ON SCHEMA {schema} FROM {role};
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role};
         REVOKE TRUNCATE, TRIGGER, REFERENCES ON ALL TABLES IN SCHEMA {schema} FROM {role};
         GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {role};
         REVOKE INSERT, UPDATE, DELETE ON {schema}.__diesel_schema_migrations FROM {role};"
    );
    for table in IMMUTABLE {
        statements.push_str(&format!("REVOKE UPDATE, DELETE ON {schema}.{table} FROM {role};"));
    }
    for table in GROWING {
        statements.push_str(&format!("REVOKE DELETE ON {schema}.{table} FROM {role};"));
    }
    // A record of the log is removed by retention, and never changed.
    statements.push_str(&format!("REVOKE UPDATE ON {schema}.log FROM {role};"));
    // Both of these are made once.
    statements.push_str(&format!("REVOKE UPDATE ON {schema}.store_identity, {schema}.lanes FROM {role};"));
    statements
}

/// Quotes a text for SQL.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
