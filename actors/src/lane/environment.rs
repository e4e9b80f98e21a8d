//! What every lane of the process shares: ports, settings and whoever listens.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backoff::BackoffPolicy;
use crate::clock::{Clock, Randomness};
use crate::event::Event;
use crate::ids::{LogId, ProcessId, Topic};
use crate::lane::brake::FloodLimit;
use crate::lane::fault::Faults;
use crate::lane::notice::CommitListener;
use crate::lane::status::StatusBoard;
use crate::metrics::LaneMetrics;
use crate::ports::store::LaneStore;
use crate::ports::witness::Witness;
use crate::record::LogRecord;
use crate::rejection::Rejection;

/// Understands a record, or says why not; the same function in every lane.
pub type Decoder = Arc<dyn Fn(Topic, &LogRecord) -> Result<Event, Rejection> + Send + Sync>;

/// How lanes work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneSettings {
    /// How many records of a lane the duplicate window spans.
    pub duplicate_window_records: usize,
    /// How a lane waits for a store or log that is away.
    pub retry: BackoffPolicy,
    /// Parked records that one draining transaction takes.
    pub drain_records: usize,
    /// Records that may wait behind one key before the partition holds still.
    pub parked_key_limit: u64,
    /// How much poison makes a lane hold still.
    pub flood: FloodLimit,
    /// How often a lane looks at its timers and at what operators want.
    pub tick_interval: Duration,
    /// Rows of state that a lane keeps in memory before it forgets them all and loads anew.
    pub cached_rows: usize,
    /// Most records of batches that wait for a lane and are answered together; a single batch may hold as many.
    pub joined_records: usize,
    /// Most bytes of such batches.
    pub joined_bytes: usize,
    /// Records that a lane tries alone before it takes whole batches again: the most that a batch may hold. The
    /// record that processes died over was in the first batch after the position that did not move.
    pub trial_records: usize,
    /// The longest that a lane waits, by chance, before it tries again what a process died over; eight times as
    /// long before the trial that may convict. Processes that are killed from outside so do not meet the same
    /// trial each time.
    pub trial_delay: Duration,
}

impl Default for LaneSettings {
    fn default() -> Self {
        Self {
            duplicate_window_records: 1_000,
            retry: BackoffPolicy { initial: Duration::from_millis(10), limit: Duration::from_secs(5) },
            drain_records: 500,
            parked_key_limit: 10_000,
            flood: FloodLimit { records: 1_000, poison: 100 },
            tick_interval: Duration::from_millis(100),
            cached_rows: 20_000,
            joined_records: 1_000,
            joined_bytes: 1 << 20,
            trial_records: 1_000,
            trial_delay: Duration::from_secs(4),
        }
    }
}

/// What every lane of the process shares.
pub struct LaneEnvironment {
    /// The log's id. What a lane stores and hashes carries the id of its generation, which opening it answers.
    pub log_id: LogId,
    /// This life of the program.
    pub process: ProcessId,
    /// The store.
    pub store: Arc<dyn LaneStore>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Random bits, for back-off.
    pub randomness: Arc<dyn Randomness>,
    /// Understands records.
    pub decoder: Decoder,
    /// Hears of commits.
    pub listener: Arc<dyn CommitListener>,
    /// Makes tests fail where they want to.
    pub faults: Arc<dyn Faults>,
    /// Counts.
    pub metrics: LaneMetrics,
    /// Shows.
    pub board: Arc<StatusBoard>,
    /// How lanes work.
    pub settings: LaneSettings,
    /// Held by the one lane of the process that is inside a trial, so that a death is one trial's; whoever waits
    /// longest is next.
    pub trial_token: tokio::sync::Mutex<()>,
    /// Sees what is thought about in trials.
    pub witness: Arc<dyn Witness>,
    /// The zero of the monotonic clock that [`LaneEnvironment::monotonic_micros`] reads.
    pub started: Instant,
}

impl LaneEnvironment {
    /// Gives microseconds of a monotonic clock, for the watchdog.
    pub fn monotonic_micros(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_micros()).unwrap_or(i64::MAX)
    }
}

impl fmt::Debug for LaneEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaneEnvironment").field("log_id", &self.log_id).finish_non_exhaustive()
    }
}
