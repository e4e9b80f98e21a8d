//! Connections: how they are opened, and what every one of them is told.
//!
//! Promises that a connection of the store is never used with SQLite's defaults for durability.

use std::path::{Path, PathBuf};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, CustomizeConnection, Pool};
use diesel::sqlite::{Sqlite, SqliteConnection};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use nix::unistd::AccessFlags;

use super::config::{FILE_NAME, PAGE_BYTES, SqliteConfig};
use super::engine::ReadPool;
use crate::db::error::{Fault, OpenError, fault_of};
use crate::private;

/// The steps from an empty file to the tables of today.
const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

/// How long a statement waits for another connection's lock: a checkpoint that empties the log holds it for
/// as long as the disk takes.
const BUSY_TIMEOUT_MS: u32 = 10_000;

/// How long the writer waits for readers when it empties the log: far more than any read of ours takes, and what
/// a commit may be late by.
const EMPTY_LOG_TIMEOUT_MS: u32 = 1000;

/// What a reading connection keeps of the file: the upper pages of its indexes, and little else. What it reads of the
/// log is read once; kept by every connection, that was most of a restarted server's memory.
const READER_CACHE_KIB: u32 = 2 * 1024;

/// A row of `PRAGMA …` with one number.
#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    number: i64,
}

/// Turns what the engine says at opening into what an operator can act on.
pub(super) fn open_error(file: &Path, message: String) -> OpenError {
    let file = file.to_owned();
    match fault_of(&message) {
        Fault::ReadOnly => OpenError::ReadOnly { file },
        Fault::Damaged => OpenError::Damaged { file, detail: message },
        Fault::Full => OpenError::DiskFull { file },
        Fault::Away | Fault::Disk | Fault::Data | Fault::Ours => OpenError::Other { file, detail: message },
    }
}

/// Gives the database's file.
pub(super) fn database_file(folder: &Path) -> PathBuf {
    folder.join(FILE_NAME)
}

/// Gives the URI of a file, with everything escaped that means something in one.
fn uri(file: &Path, mode: &str) -> String {
    use std::fmt::Write;
    use std::os::unix::ffi::OsStrExt;

    let mut uri = String::from("file:");
    for byte in file.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(byte) {
            uri.push(char::from(*byte));
        } else {
            write!(uri, "%{byte:02X}").expect("writing to a string cannot fail");
        }
    }
    uri.push_str("?mode=");
    uri.push_str(mode);
    uri
}

/// Gives the URI of a folder's database for reading.
pub(super) fn read_uri(folder: &Path) -> String {
    uri(&database_file(folder), "ro")
}

/// Gives the URI under which a file is read.
///
/// The engine shares a write-ahead log through a file that it makes beside it. Where it may not, as evidence is kept,
/// the file is opened as one that nobody changes: right as long as no log stands beside it, whose changes would be
/// missed.
fn reading_uri(file: &Path) -> Result<String, OpenError> {
    let may_write = |path: &Path| nix::unistd::eaccess(path, AccessFlags::W_OK).is_ok();
    if may_write(file) && file.parent().is_some_and(may_write) {
        return Ok(uri(file, "rw"));
    }
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    match std::fs::metadata(&log) {
        Ok(log) if log.len() > 0 => Err(OpenError::ReadOnlyLog { file: file.to_owned() }),
        _ => Ok(format!("{}&immutable=1", uri(file, "ro"))),
    }
}

/// Makes the file before SQLite would, as it gives new ones to everyone that the umask lets in; what it makes beside the
/// file gets the file's rights. None of them may be open yet: closing one here would drop SQLite's locks.
fn keep_private(folder: &Path, file: &Path) -> Result<(), OpenError> {
    private::make_file(file).map_err(|source| OpenError::Folder { folder: folder.to_owned(), source })?;
    for beside in ["-wal", "-shm", "-journal"] {
        let mut name = file.as_os_str().to_owned();
        name.push(beside);
        private::close_file(Path::new(&name));
    }
    Ok(())
}

/// Opens the connection that writes, makes the tables and checks that the file can be written.
pub(super) fn open_writer(config: &SqliteConfig) -> Result<SqliteConnection, OpenError> {
    let file = database_file(&config.folder);
    if std::fs::metadata(&file).is_ok_and(|metadata| metadata.permissions().readonly()) {
        return Err(OpenError::ReadOnly { file });
    }
    let failed = |error: diesel::result::Error| open_error(&file, error.to_string());
    keep_private(&config.folder, &file)?;
    let mut connection = SqliteConnection::establish(&uri(&file, "rwc"))
        .map_err(|error| open_error(&file, error.to_string()))?;
    let pages = (config.disk_limit_bytes.saturating_add(config.reserve_bytes)) / PAGE_BYTES;
    // The page size and the kind of vacuum are set before the first table and before the log's mode.
    connection
        .batch_execute(&format!(
            "PRAGMA busy_timeout = {BUSY_TIMEOUT_MS};
             PRAGMA page_size = {PAGE_BYTES};
             PRAGMA auto_vacuum = INCREMENTAL;
             PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             PRAGMA wal_autocheckpoint = 0;
             PRAGMA foreign_keys = ON;
             PRAGMA recursive_triggers = ON;
             PRAGMA temp_store = MEMORY;
             PRAGMA cache_size = -{};",
            config.cache_bytes / 1024,
        ))
        .map_err(failed)?;
    migrate(&mut connection, &file)?;
    connection
        .batch_execute(&format!("PRAGMA max_page_count = {}", pages.min(u64::from(u32::MAX - 1))))
        .map_err(failed)?;
    let is_wal =
        diesel::sql_query("SELECT count(*) AS number FROM pragma_journal_mode WHERE journal_mode = 'wal'")
            .get_result::<Number>(&mut connection)
            .map_err(failed)?
            .number;
    if is_wal == 1 {
        Ok(connection)
    } else {
        Err(OpenError::Other {
            file,
            detail: "the file system has no shared memory for a write-ahead log".to_owned(),
        })
    }
}

/// Applies what is missing; refuses a file that knows more than we do.
fn migrate(connection: &mut SqliteConnection, file: &Path) -> Result<(), OpenError> {
    refuse_newer(connection, file)?;
    connection.run_pending_migrations(MIGRATIONS).map_err(|error| open_error(file, error.to_string()))?;
    Ok(())
}

/// Refuses a file that has a migration which is not ours.
fn refuse_newer(connection: &mut SqliteConnection, file: &Path) -> Result<(), OpenError> {
    use diesel::migration::MigrationSource;

    let failed = |error: Box<dyn std::error::Error + Send + Sync>| open_error(file, error.to_string());
    let known: Vec<String> = MigrationSource::<Sqlite>::migrations(&MIGRATIONS)
        .map_err(failed)?
        .iter()
        .map(|migration| migration.name().version().to_string())
        .collect();
    let applied = connection.applied_migrations().map_err(failed)?;
    match applied.iter().map(ToString::to_string).find(|version| !known.contains(version)) {
        Some(migration) => Err(OpenError::NewerSchema { file: file.to_owned(), migration }),
        None => Ok(()),
    }
}

/// Opens a store for reading alone; the file must be there and as new as we are.
pub(super) fn check_readable(file: &Path) -> Result<SqliteConnection, OpenError> {
    if !file.is_file() {
        return Err(OpenError::Missing { file: file.to_owned() });
    }
    let mut connection = SqliteConnection::establish(&reading_uri(file)?)
        .map_err(|error| open_error(file, error.to_string()))?;
    connection.batch_execute(&reader_settings()).map_err(|error| open_error(file, error.to_string()))?;
    refuse_newer(&mut connection, file)?;
    let pending =
        connection.has_pending_migration(MIGRATIONS).map_err(|error| open_error(file, error.to_string()))?;
    if pending { Err(OpenError::OlderSchema { file: file.to_owned() }) } else { Ok(connection) }
}

/// What a reading connection is told: it may not write, whatever it is asked.
fn reader_settings() -> String {
    format!(
        "PRAGMA busy_timeout = {BUSY_TIMEOUT_MS};
         PRAGMA query_only = ON;
         PRAGMA wal_autocheckpoint = 0;
         PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -{READER_CACHE_KIB};"
    )
}

/// Prepares each connection of the pool.
#[derive(Debug)]
struct ReaderSettings;

impl CustomizeConnection<SqliteConnection, diesel::r2d2::Error> for ReaderSettings {
    fn on_acquire(&self, connection: &mut SqliteConnection) -> Result<(), diesel::r2d2::Error> {
        connection.batch_execute(&reader_settings()).map_err(diesel::r2d2::Error::QueryError)
    }
}

/// Makes the pool of reading connections.
pub(super) fn read_pool(file: &Path, size: u32) -> Result<ReadPool, OpenError> {
    Pool::builder()
        .max_size(size)
        .min_idle(Some(1))
        .test_on_check_out(false)
        .connection_customizer(Box::new(ReaderSettings))
        .build(ConnectionManager::new(reading_uri(file)?))
        .map_err(|error| open_error(file, error.to_string()))
}

/// Opens the connection that moves the write-ahead log into the file.
pub(super) fn open_checkpointer(file: &Path) -> Result<SqliteConnection, OpenError> {
    let mut connection =
        SqliteConnection::establish(&uri(file, "rw")).map_err(|error| open_error(file, error.to_string()))?;
    connection
        .batch_execute(&format!(
            "PRAGMA busy_timeout = {BUSY_TIMEOUT_MS};
             PRAGMA synchronous = FULL;
             PRAGMA wal_autocheckpoint = 0;"
        ))
        .map_err(|error| open_error(file, error.to_string()))?;
    Ok(connection)
}

/// Gives the command that moves the write-ahead log into the file and cuts it, if readers let it.
pub(super) fn empty_log_command() -> String {
    format!(
        "PRAGMA busy_timeout = {EMPTY_LOG_TIMEOUT_MS};
         PRAGMA wal_checkpoint(TRUNCATE);
         PRAGMA busy_timeout = {BUSY_TIMEOUT_MS};"
    )
}

/// Gives the command that moves what is left of the write-ahead log into the file, so that the next commit begins
/// it anew; where a reader looks at it, it goes on growing. The file of the log keeps its size: commits within it
/// need not have the file system note that it has grown.
pub(super) fn begin_log_anew_command() -> String {
    format!(
        "PRAGMA busy_timeout = 0;
         PRAGMA main.wal_checkpoint(RESTART);
         PRAGMA busy_timeout = {BUSY_TIMEOUT_MS};"
    )
}

/// Tells what the database takes: pages in use, without those that are free inside the file.
pub(super) fn used_bytes(connection: &mut SqliteConnection) -> QueryResult<u64> {
    let pages = diesel::sql_query(
        "SELECT page_count - freelist_count AS number FROM pragma_page_count, pragma_freelist_count",
    )
    .get_result::<Number>(connection)?
    .number;
    Ok(pages.cast_unsigned() * PAGE_BYTES)
}
