//! From the errors of store and scheduler to the answer that a caller gets.

use std::time::Duration;

use horizons_actors::ports::commands::CommandError;
use horizons_actors::ports::scheduler::SchedulerError;
use horizons_actors::ports::store::StoreError;

/// Takes an error of the store.
pub(super) fn from_store(error: StoreError, retry_after: Duration) -> CommandError {
    match error {
        StoreError::Unavailable(_) | StoreError::QueueFull | StoreError::Conflict(_) => {
            CommandError::Busy { retry_after, reason: error.to_string() }
        }
        StoreError::Unknown(reason) => {
            let find_out = "look before you repeat it".to_owned();
            CommandError::Unknown { find_out, job_id: None, reason }
        }
        StoreError::DiskLimit { used_bytes, limit_bytes } => {
            CommandError::DiskLimit { used_bytes, limit_bytes }
        }
        StoreError::Data(reason) => CommandError::Invalid { field: "request".to_owned(), reason },
        StoreError::Broken(reason) => CommandError::Broken(reason),
    }
}

/// Takes an error of the scheduler.
pub(super) fn from_scheduler(error: SchedulerError, retry_after: Duration) -> CommandError {
    match error {
        SchedulerError::Unavailable(reason) => CommandError::Busy { retry_after, reason },
        SchedulerError::Refused { field, reason } => {
            CommandError::Invalid { field: field.to_owned(), reason }
        }
    }
}
