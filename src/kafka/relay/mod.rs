//! The outbox relay: sends what the store's outbox holds to Kafka (design D9).
//!
//! Promises that the records of a partition reach Kafka in the order of their commits and none is left out; that
//! the requests of users never wait for Kafka; and that a record is sent twice only where a crash leaves no way
//! to know: what the relay has sent beyond a stored cursor is looked up in Kafka before anything is sent again.
//! What can still double a record: an owner that was frozen with records in its client's memory, or a leader
//! that holds an appended batch which it has not replicated when its end is looked at. Consumers know such a
//! record by its event id.
//!
//! ```text
//! writer's commit ──► heads ──wakes──► relay thread ──rows──► producer ──► Kafka
//!                                        ▲    │ cursors            │
//!                      looks in Kafka ───┘    ▼                    ▼
//!                      (own thread)         store ◄──── answers, in order (producer's thread)
//! ```
//!
//! One relay sends at a time: the store's lease says which. A partition that Kafka refuses for good stands
//! still, alone and visibly, until an operator sets the record aside
//! ([`OutboxStore::set_aside`]) or has it tried again.

mod housekeeping;
mod inbox;
mod lease;
mod looking;
mod matcher;
mod metrics;
mod partition;
mod refusal;
mod run;
mod sending;
mod status;
mod times;
mod wire;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use horizons_actors::clock::Clock;
use horizons_actors::ports::outbox::{OutboxPartition, OutboxStore, RelayId};
use rdkafka::config::ClientConfig;

use self::inbox::{Ending, Inbox};
use self::run::Relay;
use self::status::StatusBoard;
use crate::kafka::producer::ProducerConfig;

pub use self::metrics::RelayMetrics;
pub use self::status::{PartitionCondition, PartitionStatus, RelayStatus};
pub use self::wire::ODD_NAME_PREFIX;

/// Whether another process may write to the same outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// No: every commit wakes the relay.
    ThisProcess,
    /// Yes: their commits are found by looking.
    Several,
}

impl Writers {
    /// How often the store is looked at for commits that woke nobody.
    pub(crate) const fn poll_interval(self) -> Duration {
        match self {
            Writers::ThisProcess => Duration::from_secs(1),
            Writers::Several => Duration::from_millis(20),
        }
    }
}

/// What the relay is told.
#[derive(Clone)]
pub struct RelayConfig {
    /// How to reach Kafka: brokers, TLS, SASL, client id.
    pub client: ClientConfig,
    /// Stands before every topic's name.
    pub topic_prefix: String,
    /// How to produce.
    pub producer: ProducerConfig,
    /// How long the lease runs; a crashed relay's successor waits so long.
    pub lease: Duration,
    /// Who writes.
    pub writers: Writers,
}

impl fmt::Debug for RelayConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client's configuration may hold a password.
        f.debug_struct("RelayConfig")
            .field("topic_prefix", &self.topic_prefix)
            .field("producer", &self.producer)
            .field("lease", &self.lease)
            .field("writers", &self.writers)
            .finish_non_exhaustive()
    }
}

/// What the relay works with.
pub struct RelayParts {
    /// The outbox.
    pub store: Arc<dyn OutboxStore>,
    /// The wall clock, for ages of records.
    pub clock: Arc<dyn Clock>,
    /// What it counts.
    pub metrics: RelayMetrics,
    /// Its name; new at every start.
    pub id: RelayId,
}

/// A running relay. Dropping it ends it within [`DROP_LIMIT`].
pub struct RelayHandle {
    inbox: Arc<Inbox>,
    board: Arc<StatusBoard>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// How long a dropped relay may take to end in good order.
pub const DROP_LIMIT: Duration = Duration::from_secs(5);

impl fmt::Debug for RelayHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayHandle").finish_non_exhaustive()
    }
}

impl RelayHandle {
    /// Starts a relay on a thread of its own. It needs no broker to start.
    ///
    /// *Errors*: when no thread can be started.
    pub fn start(config: RelayConfig, parts: RelayParts) -> std::io::Result<Self> {
        let inbox = Arc::new(Inbox::default());
        let board = Arc::new(StatusBoard::default());
        let relay = Relay::new(config, parts, Arc::clone(&inbox), Arc::clone(&board))?;
        let thread = std::thread::Builder::new().name("relay".to_owned()).spawn(move || relay.run())?;
        Ok(Self { inbox, board, thread: Mutex::new(Some(thread)) })
    }

    /// Gives what the relay told last.
    pub fn status(&self) -> RelayStatus {
        self.board.get()
    }

    /// Has a partition look at what an operator did about the record it stands at: one that was set aside is passed;
    /// else a stopped partition tries its record again, as the topic or the rights were changed.
    pub fn look_again(&self, partition: OutboxPartition) {
        self.inbox.look_again(partition);
    }

    /// Ends the relay: what the producer holds is sent, cursors are stored and the lease is given back, as far
    /// as `limit` allows. What is left is sent by the next one. Blocks until the thread has ended.
    pub fn stop(&self, limit: Duration) {
        self.end(Ending::Orderly(Instant::now() + limit));
    }

    /// Ends the relay as a crash would: nothing is flushed, stored or given back. For tests of exactly that.
    pub fn abandon(&self) {
        self.end(Ending::Abrupt);
    }

    fn end(&self, ending: Ending) {
        self.inbox.end(ending);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // Its loop catches panics; there is nothing left to tell.
            let _ended = thread.join();
        }
    }
}

impl Drop for RelayHandle {
    fn drop(&mut self) {
        self.stop(DROP_LIMIT);
    }
}
