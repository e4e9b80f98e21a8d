//! What a failure of PostgreSQL's means.
//!
//! Promises that data is blamed only from a closed list: whatever is not recognised is either away (try again)
//! or broken, never the fault of an event.
//!
//! *Source*: diesel gives a kind for a few SQLSTATEs and the message for the rest, never the code. Messages are
//! told apart by their beginning in English, which every connection asks for; a server that does not let its
//! role choose (`lc_messages` is a right of superusers by default) may speak another language, and then what is
//! not recognised counts as away.

use std::sync::atomic::{AtomicBool, Ordering};

use diesel::result::{ConnectionError, DatabaseErrorKind, Error as DieselError};
use horizons_actors::ports::store::StoreError;

/// Who is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The connection is gone.
    Cut,
    /// Busy, locked, full or shutting down: it may work later.
    Away,
    /// The caller's data.
    Data,
    /// A promise of our own, or a right that is missing.
    Ours,
}

/// Whether some server answered in a language that the list does not know.
static IS_FOREIGN: AtomicBool = AtomicBool::new(false);

/// Notes that messages of a server are not English.
pub(super) fn speaks_foreign() {
    IS_FOREIGN.store(true, Ordering::Relaxed);
}

/// Messages that begin like this, and what they mean: classes 22 and 54 are data; 40, 53, 55P03, 57 and 58 are
/// away.
const MESSAGES: [(&str, Fault); 46] = [
    // 08 and libpq's own: the connection.
    ("server closed the connection unexpectedly", Fault::Cut),
    ("could not send data to server", Fault::Cut),
    ("could not receive data from server", Fault::Cut),
    ("no connection to the server", Fault::Cut),
    ("connection not open", Fault::Cut),
    ("SSL connection has been closed unexpectedly", Fault::Cut),
    ("SSL SYSCALL error", Fault::Cut),
    // 57P01 to 57P05 and 25P03.
    ("terminating connection", Fault::Cut),
    ("the database system is", Fault::Cut),
    ("canceling statement due to", Fault::Away),
    ("canceling authentication", Fault::Cut),
    // 40001, 40P01, 55P03.
    ("could not serialize access", Fault::Away),
    ("deadlock detected", Fault::Away),
    ("could not obtain lock", Fault::Away),
    // 53.
    ("could not extend file", Fault::Away),
    ("could not write to file", Fault::Away),
    ("could not write to temporary file", Fault::Away),
    ("could not create file", Fault::Away),
    ("could not resize shared memory", Fault::Away),
    ("out of memory", Fault::Away),
    ("out of shared memory", Fault::Away),
    ("too many connections", Fault::Away),
    ("sorry, too many clients", Fault::Away),
    ("remaining connection slots", Fault::Away),
    ("disk full", Fault::Away),
    // 58030: this or the next server may do better.
    ("could not read block", Fault::Away),
    ("could not write block", Fault::Away),
    ("could not fsync", Fault::Away),
    ("could not open file", Fault::Away),
    ("could not access file", Fault::Away),
    // 25006: a server that became a standby.
    ("cannot execute", Fault::Away),
    // 22.
    ("invalid byte sequence for encoding", Fault::Data),
    ("unsupported Unicode escape sequence", Fault::Data),
    ("value too long for type", Fault::Data),
    ("numeric field overflow", Fault::Data),
    ("bigint out of range", Fault::Data),
    ("integer out of range", Fault::Data),
    ("value \"", Fault::Data),
    ("invalid input syntax", Fault::Data),
    ("character with byte sequence", Fault::Data),
    // 54000.
    ("index row size", Fault::Data),
    ("index row requires", Fault::Data),
    ("row is too big", Fault::Data),
    ("string is too long", Fault::Data),
    ("invalid memory alloc request size", Fault::Data),
    ("cannot enlarge string buffer", Fault::Data),
];

/// Finds who is at fault.
pub(super) fn fault_of(error: &DieselError) -> Fault {
    match error {
        DieselError::DatabaseError(kind, information) => match kind {
            DatabaseErrorKind::ClosedConnection | DatabaseErrorKind::UnableToSendCommand => Fault::Cut,
            DatabaseErrorKind::SerializationFailure | DatabaseErrorKind::ReadOnlyTransaction => Fault::Away,
            DatabaseErrorKind::UniqueViolation
            | DatabaseErrorKind::ForeignKeyViolation
            | DatabaseErrorKind::NotNullViolation
            | DatabaseErrorKind::CheckViolation
            | DatabaseErrorKind::RestrictViolation
            | DatabaseErrorKind::ExclusionViolation => Fault::Ours,
            _ => fault_of_message(information.message()),
        },
        DieselError::BrokenTransactionManager => Fault::Cut,
        DieselError::SerializationError(_) | DieselError::InvalidCString(_) => Fault::Data,
        _ => Fault::Ours,
    }
}

/// Finds who is at fault by the message alone.
fn fault_of_message(message: &str) -> Fault {
    let known = MESSAGES.iter().find(|(start, _)| message.starts_with(start)).map(|(_, fault)| *fault);
    let unknown = if IS_FOREIGN.load(Ordering::Relaxed) { Fault::Away } else { Fault::Ours };
    known.unwrap_or(unknown)
}

/// Turns a failure into the port's error.
pub(super) fn store_error(error: &DieselError) -> StoreError {
    let text = error.to_string();
    match fault_of(error) {
        Fault::Cut | Fault::Away => StoreError::Unavailable(text),
        Fault::Data => StoreError::Data(text),
        Fault::Ours => StoreError::Broken(text),
    }
}

/// Turns a failure to connect into text without what the caller gave to connect with.
pub(super) fn connection_text(error: &ConnectionError) -> String {
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ")
}
