//! What can go wrong when a store is opened or asked.
//!
//! Promises that each failure of the engine lands in exactly one kind of [`StoreError`]: away (try again),
//! data (the caller's rows are at fault, from a closed list), or broken.

use std::path::PathBuf;

use diesel::result::{DatabaseErrorKind, Error as DieselError};
use horizons_actors::ids::LogId;
use horizons_actors::ports::store::StoreError;

use super::log_choice::LogChoice;

/// Names the log that was asked for.
fn wanted_log(choice: &LogChoice) -> String {
    match choice {
        LogChoice::Embedded => "the embedded one".to_owned(),
        LogChoice::Kafka(log_id) => format!("`{log_id}`"),
        LogChoice::RememberedKafka => "one on Kafka".to_owned(),
    }
}

/// Tells why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data folder cannot be made, read or written.
    #[error("failed to use data folder `{}`: {source}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// Another process has the folder.
    #[error("failed to lock data folder `{}`: process {pid} has it", folder.display())]
    Locked {
        /// The folder.
        folder: PathBuf,
        /// The process that holds the lock, as it wrote itself down; `unknown` if it did not.
        pid: String,
    },
    /// There is no store to read.
    #[error("failed to open `{}`: there is no store in this folder", file.display())]
    Missing {
        /// The file that was expected.
        file: PathBuf,
    },
    /// The file may not be written.
    #[error("failed to open `{}`: the file or its folder is read-only", file.display())]
    ReadOnly {
        /// The file.
        file: PathBuf,
    },
    /// What is in the write-ahead log cannot be read without a place to write.
    #[error(
        "failed to open `{}` for reading: changes stand in a write-ahead log beside it, and neither may be written; \
         copy the folder to where it may be, and read the copy",
        file.display()
    )]
    ReadOnlyLog {
        /// The file.
        file: PathBuf,
    },
    /// The file is no database, or a damaged one.
    #[error("failed to open `{}`: {detail}; restore it from a backup or move it away", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What the engine says.
        detail: String,
    },
    /// The file was written by a newer version of the program.
    #[error(
        "failed to open `{}`: it has migration `{migration}`, which this version does not know; use a newer version",
        file.display()
    )]
    NewerSchema {
        /// The file.
        file: PathBuf,
        /// The first unknown migration.
        migration: String,
    },
    /// The file lacks migrations, and reading alone may not apply them.
    #[error("failed to open `{}` for reading: it is older than this version; start the server once", file.display())]
    OlderSchema {
        /// The file.
        file: PathBuf,
    },
    /// There is no room.
    #[error("failed to open `{}`: the disk is full", file.display())]
    DiskFull {
        /// The file.
        file: PathBuf,
    },
    /// The database's server cannot be reached, or does not let us in now.
    #[error("failed to open {store}: {detail}")]
    Unreachable {
        /// The store, without its address.
        store: String,
        /// What the server or the network says.
        detail: String,
    },
    /// The server refused a statement: a right is missing, or something else stands in the schema.
    #[error("failed to open {store}: {detail}")]
    Refused {
        /// The store.
        store: String,
        /// What the server says.
        detail: String,
    },
    /// The server may lose what it has confirmed.
    #[error(
        "failed to open {store}: the server runs with `{setting}` off and may lose what it has confirmed"
    )]
    NotDurable {
        /// The store.
        store: String,
        /// The setting.
        setting: &'static str,
    },
    /// Somebody between us and the server gives our connections to others.
    #[error(
        "failed to open {store}: its connections go through a pooler that hands them out anew for each transaction, \
         so that settings, locks and prepared statements of a session do not hold; connect to the server itself, \
         or through a pooler that keeps a connection for its client (`pool_mode = session`)"
    )]
    Pooled {
        /// The store.
        store: String,
    },
    /// Another process does what only one may do.
    #[error("failed to take lease `{name}` of {store}: `{holder}` has it")]
    LeaseHeld {
        /// The store.
        store: String,
        /// The lease.
        name: &'static str,
        /// Who has it, as it named itself.
        holder: String,
    },
    /// The store is about another event log than the one that is configured.
    #[error(
        "failed to open the store: its rows are about the event log `{stored}`, and {} is configured; configure that \
         log, or take another store",
        wanted_log(.wanted)
    )]
    OtherLog {
        /// The log that it remembers.
        stored: LogId,
        /// The log that was asked for.
        wanted: LogChoice,
    },
    /// The store is new, and the brokers whose log it is to be about do not answer.
    #[error("failed to open the store: it is new, and the brokers do not say which cluster they are")]
    NoLog,
    /// A setting has a value outside its range.
    #[error("invalid `{setting}`: wanted {wanted}, got {got}")]
    Setting {
        /// The setting.
        setting: &'static str,
        /// Its range.
        wanted: &'static str,
        /// Its value.
        got: u64,
    },
    /// Anything else.
    #[error("failed to open `{}`: {detail}", file.display())]
    Other {
        /// The file.
        file: PathBuf,
        /// What the engine says.
        detail: String,
    },
}

/// What a message of SQLite's says about who is at fault.
///
/// *Source*: diesel gives the message of `sqlite3_errmsg` and no code. The primary messages are constants of
/// SQLite's (`sqlite3ErrStr`); a test provokes those that can be provoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Locked, busy or out of memory: it may work later.
    Away,
    /// The disk or the file's limit is full: it may work later.
    Full,
    /// The operating system failed to read, write or sync.
    Disk,
    /// The file may not be written.
    ReadOnly,
    /// The file is no database, or damaged.
    Damaged,
    /// The caller's data.
    Data,
    /// A promise of our own.
    Ours,
}

/// Messages that begin like this, and what they mean.
const MESSAGES: [(&str, Fault); 16] = [
    ("database is locked", Fault::Away),
    ("database table is locked", Fault::Away),
    ("database schema is locked", Fault::Away),
    ("locking protocol", Fault::Away),
    ("interrupted", Fault::Away),
    ("out of memory", Fault::Away),
    ("database or disk is full", Fault::Full),
    ("disk I/O error", Fault::Disk),
    ("unable to open database file", Fault::Disk),
    ("attempt to write a readonly database", Fault::ReadOnly),
    ("database disk image is malformed", Fault::Damaged),
    ("malformed database schema", Fault::Damaged),
    ("file is not a database", Fault::Damaged),
    ("string or blob too big", Fault::Data),
    ("datatype mismatch", Fault::Data),
    ("integer overflow", Fault::Data),
];

/// Finds who is at fault by the engine's message.
pub(super) fn fault_of(message: &str) -> Fault {
    MESSAGES.iter().find(|(start, _)| message.starts_with(start)).map_or(Fault::Ours, |(_, fault)| *fault)
}

/// Turns a failure of the engine into the port's error.
pub(super) fn store_error(error: &DieselError) -> StoreError {
    let text = error.to_string();
    match error {
        DieselError::DatabaseError(DatabaseErrorKind::Unknown, _) => match fault_of(&text) {
            Fault::Away | Fault::Full | Fault::Disk | Fault::ReadOnly => StoreError::Unavailable(text),
            Fault::Data => StoreError::Data(text),
            Fault::Damaged | Fault::Ours => StoreError::Broken(text),
        },
        DieselError::DatabaseError(DatabaseErrorKind::UnableToSendCommand, _) => StoreError::Data(text),
        _ => StoreError::Broken(text),
    }
}

/// Turns a failure into the port's error, for `map_err`.
pub(super) fn engine(error: DieselError) -> StoreError {
    store_error(&error)
}

/// Says that a stored value is none that this program writes.
pub(super) fn unreadable(what: &str, got: impl std::fmt::Display) -> StoreError {
    StoreError::Broken(format!("stored {what} is not readable: `{got}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_of_known_messages_is_told_apart() {
        let found: Vec<Fault> = [
            "database is locked",
            "database or disk is full",
            "disk I/O error",
            "file is not a database",
            "string or blob too big",
            "horizons: an audit entry is never changed",
        ]
        .into_iter()
        .map(fault_of)
        .collect();

        assert_eq!(found, [Fault::Away, Fault::Full, Fault::Disk, Fault::Damaged, Fault::Data, Fault::Ours]);
    }
}
