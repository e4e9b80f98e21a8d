//! The orchestrator: the one writer of a job's state, between users, store and scheduler (design D18).
//!
//! Promises that nothing is answered before it is committed; that what was accepted is carried out however
//! often the process dies, because work is a row in the store ([`Order`](horizons_actors::command::Order)) and
//! a live job is asked after until it has ended; and that every change is one transaction, guarded by the
//! sequences of the row it was decided on. What follows from what is decided in
//! [`horizons_actors::orchestrator`]; here is only its I/O. Promises nothing while no driver runs
//! ([`Orchestrator::run`]): requests are then stored and wait.

mod apply;
mod driver;
mod error;
mod relay;
mod requests;
#[cfg(test)]
mod tests;
mod trouble;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use horizons_actors::backoff::BackoffPolicy;
use horizons_actors::clock::{Clock, Randomness};
use horizons_actors::event::{Encoding, Event};
use horizons_actors::ids::{JobId, Topic};
use horizons_actors::layout::Layout;
use horizons_actors::orchestrator::Unencodable;
use horizons_actors::ports::scheduler::Scheduler;
use horizons_actors::ports::store::JobStore;
use horizons_actors::record::OutgoingRecord;
use horizons_actors::state::JobHome;
use tokio::sync::{Mutex, Notify};

pub use horizons_actors::ports::commands::CommandError as OrchestratorError;
use horizons_actors::ports::commands::{Cancelling, ExternalRecord, Submitted, Verdict};
pub use requests::APPEND_RECORDS_MAX;

/// How many locks stand for all jobs: enough that two busy jobs seldom share one.
const TURNS: usize = 256;

/// How the orchestrator works.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OrchestratorConfig {
    /// How long a submit waits for the scheduler's verdict after its commit.
    pub verdict_wait: Duration,
    /// When a caller who is sent away may come back.
    pub retry_after: Duration,
    /// How events are written.
    pub encoding: Encoding,
    /// How long work waits that failed for a passing reason; it is tried for ever.
    pub backoff: BackoffPolicy,
    /// How many jobs are handled at the same time.
    pub parallel_jobs: usize,
    /// How long one call of the scheduler may take before it counts as away.
    pub scheduler_time_limit: Duration,
    /// How often orders that nobody announced are looked for, and live jobs asked after at the latest.
    pub look_interval: Duration,
    /// How often a poison event is tried before its key is released no more.
    pub release_attempts: u32,
}

impl Default for OrchestratorConfig {
    fn default() -> Self {
        Self {
            verdict_wait: Duration::from_secs(2),
            retry_after: Duration::from_secs(1),
            encoding: Encoding::default(),
            backoff: BackoffPolicy { initial: Duration::from_millis(100), limit: Duration::from_secs(30) },
            parallel_jobs: 16,
            scheduler_time_limit: Duration::from_secs(30),
            look_interval: Duration::from_secs(1),
            release_attempts: 10,
        }
    }
}

/// Gives the layout of a topic, as last heard of.
pub type Layouts = Arc<dyn Fn(Topic) -> Layout + Send + Sync>;

/// Turns an event into its record.
type Encoder = Box<dyn Fn(&Event) -> Result<OutgoingRecord, Unencodable> + Send + Sync>;

/// What every clone shares.
struct Shared {
    store: Arc<dyn JobStore>,
    scheduler: Arc<dyn Scheduler>,
    clock: Arc<dyn Clock>,
    randomness: Arc<dyn Randomness>,
    config: OrchestratorConfig,
    encoder: Encoder,
    /// Where new records go.
    layouts: Layouts,
    /// Where a new job is at home.
    home: Box<dyn Fn(&JobId) -> JobHome + Send + Sync>,
    /// One of these is held from the read to the write of a job, so that a wish to cancel, which changes no
    /// sequence, cannot be overwritten from a row that was read before it.
    turns: Vec<Mutex<()>>,
    /// Submits that wait for the scheduler's verdict.
    verdicts: verdict::Verdicts,
    /// Rung when an order was written.
    orders_written: Notify,
    /// Rung when a live job is worth asking after.
    look_wanted: Notify,
    /// What the scheduler did not do of late.
    trouble: trouble::Trouble,
}

/// The orchestrator; clones share it.
///
/// *Cancel safety*: a request's future may be dropped; what it asked for then happens or not, as after a
/// lost answer.
#[derive(Clone)]
pub struct Orchestrator {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Orchestrator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Orchestrator").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl Orchestrator {
    /// Makes an orchestrator over a store and a scheduler. There must be one for a store.
    pub fn new(
        store: Arc<dyn JobStore>,
        scheduler: Arc<dyn Scheduler>,
        clock: Arc<dyn Clock>,
        randomness: Arc<dyn Randomness>,
        config: OrchestratorConfig,
    ) -> Self {
        Self::under(store, scheduler, clock, randomness, config, Arc::new(Layout::first_of))
    }

    /// The same over topics that may have grown.
    pub fn under(
        store: Arc<dyn JobStore>,
        scheduler: Arc<dyn Scheduler>,
        clock: Arc<dyn Clock>,
        randomness: Arc<dyn Randomness>,
        config: OrchestratorConfig,
        layouts: Layouts,
    ) -> Self {
        let shared = Shared {
            store,
            scheduler,
            clock,
            randomness,
            config,
            encoder: encoder(config.encoding, Arc::clone(&layouts)),
            home: {
                let layouts = Arc::clone(&layouts);
                Box::new(move |job_id| JobHome::by(job_id, |topic| layouts(topic)))
            },
            layouts,
            turns: (0..TURNS).map(|_| Mutex::new(())).collect(),
            verdicts: verdict::Verdicts::default(),
            orders_written: Notify::new(),
            look_wanted: Notify::new(),
            trouble: trouble::Trouble::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Tells what the scheduler does not do of late, if anything.
    pub fn scheduler_trouble(&self) -> Option<String> {
        self.shared.trouble.told()
    }

    /// Tells that orders may have been written by somebody else, a lane for instance. They would be found
    /// anyway, after the look interval.
    pub fn announce_orders(&self) {
        self.shared.orders_written.notify_one();
    }
}

fn encoder(encoding: Encoding, layouts: Layouts) -> Encoder {
    Box::new(move |event| {
        let mut record = horizons_actors::event::encode(event, encoding).map_err(|error| Unencodable {
            // Of an event, its payload; of the payload, the field that made it so large.
            field: error
                .field()
                .filter(|field| *field != "payload")
                .unwrap_or(payload_field(event))
                .to_owned(),
            reason: error.to_string(),
        })?;
        if let Some(key) = &record.key {
            record.partition = layouts(event.topic()).home_now(key);
        }
        Ok(record)
    })
}

/// Names the field that makes an event too large: the only one without a limit of its own.
fn payload_field(event: &Event) -> &'static str {
    use horizons_actors::event::Payload;
    match &event.payload {
        Payload::JobSubmitted(_) | Payload::AuditActionRecorded(_) => "parameters",
        Payload::JobFailed(_) => "error_message",
        Payload::JobCancelled(_) => "cancellation_reason",
        Payload::JobQueued(_)
        | Payload::JobRunning(_)
        | Payload::JobStatusChanged(_)
        | Payload::JobCompleted(_)
        | Payload::JobMetricsRecorded(_)
        | Payload::NotificationSent(_)
        | Payload::SystemHealthCheck(_) => "payload",
    }
}
