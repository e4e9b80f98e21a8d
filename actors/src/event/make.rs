//! Makes identifiers for new events (E9).
//!
//! Promises identifiers drawn from the randomness that is passed in, so that a simulation repeats itself.

use crate::clock::Randomness;
use crate::ids::{CorrelationId, EventId, JobId};

/// Makes the identifier of a new event.
pub fn new_event_id(randomness: &dyn Randomness) -> EventId {
    EventId(randomness.next_uuid())
}

/// Makes the identifier that follows a new request across services.
pub fn new_correlation_id(randomness: &dyn Randomness) -> CorrelationId {
    CorrelationId(randomness.next_uuid())
}

/// Makes the identifier of a new job: the text of a random UUID.
pub fn new_job_id(randomness: &dyn Randomness) -> JobId {
    JobId::parse(&randomness.next_uuid().to_string()).expect("the text of a UUID is a valid identifier")
}
