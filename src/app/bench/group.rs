//! The auditor's group alone, from an open store to the end of the log, embedded or on Kafka.
//!
//! Promises the parts that `serve` runs (reader, dispatcher, lanes, supervisor, store) with the same settings,
//! without the other groups, HTTP and the scheduler; and an end when nothing moves any more.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use actix::Actor;
use actix_rt::Arbiter;
use horizons_actors::clock::{Randomness, SystemClock, SystemRandomness};
use horizons_actors::event::decode;
use horizons_actors::ids::{Group, Incarnation, LogId, ProcessId, Topic, TopicPartition};
use horizons_actors::lane::behaviour::BehaviourFactory;
use horizons_actors::lane::credit::CreditPool;
use horizons_actors::lane::environment::{Decoder, LaneEnvironment};
use horizons_actors::lane::fault::NoFaults;
use horizons_actors::lane::notice::{CommitListener, CommitNotice};
use horizons_actors::lane::status::StatusBoard;
use horizons_actors::metrics::LaneMetrics;
use horizons_actors::ports::log::{EventLog, LogEnds, LogError, LogReader, LogSink, Revocation};
use horizons_actors::ports::witness::NoWitness;
use horizons_actors::record::RecordBatch;
use horizons_actors::supervisor::Supervisor;
use horizons_actors::supervisor::message::StopAll;
use prometheus::Registry;
use tokio::sync::Notify;

use super::lens::Lens;
use super::meter;
use crate::app::{Store, auditor, escalate, groups, lane_settings};
use crate::config::Config;
use crate::exit::{Exit, Failure};

/// How long no record may be committed before the run is given up.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// Counts what is committed and notes when the last record was.
struct Finish {
    wanted: u64,
    seen: AtomicU64,
    at: Mutex<Option<Instant>>,
    reached: Notify,
}

impl Finish {
    fn at(&self) -> Option<Instant> {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CommitListener for Finish {
    fn committed(&self, notice: &CommitNotice) {
        let count = notice.outcomes.len() as u64;
        let seen = self.seen.fetch_add(count, Ordering::Relaxed) + count;
        if count > 0 && seen >= self.wanted {
            self.at.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
            self.reached.notify_one();
        }
    }
}

/// What the group works with.
pub(super) struct Subject {
    /// The log that it reads.
    pub(super) log: Arc<dyn EventLog>,
    /// The id of the log.
    pub(super) log_id: LogId,
    /// The store that it writes to.
    pub(super) store: Arc<dyn Store>,
}

/// How a run went.
#[derive(Debug)]
pub(super) struct Ended {
    /// From the first assignment of partitions to the last commit.
    pub(super) time: Duration,
    /// The processor time that each kind of thread took meanwhile.
    pub(super) threads: BTreeMap<String, Duration>,
}

/// Lets the auditor read the whole log.
///
/// *Errors*: when it stands still for [`STALL_LIMIT`].
pub(super) async fn run(
    config: &Config,
    subject: Subject,
    records: u64,
    lens: Option<&Arc<Lens>>,
) -> Result<Ended, Failure> {
    let Subject { log, log_id, store } = subject;
    let finish = Arc::new(Finish {
        wanted: records,
        seen: AtomicU64::new(0),
        at: Mutex::new(None),
        reached: Notify::new(),
    });
    let (decoder, behaviour): (Decoder, BehaviourFactory) = match lens {
        None => (Arc::new(decode), auditor(config)),
        Some(lens) => (lens.decoder(), lens.behaviour(auditor(config))),
    };
    let environment = Arc::new(LaneEnvironment {
        log_id,
        process: ProcessId(SystemRandomness.next_uuid()),
        store: store as _,
        clock: Arc::new(SystemClock),
        randomness: Arc::new(SystemRandomness),
        decoder,
        listener: Arc::clone(&finish) as _,
        faults: Arc::new(NoFaults),
        metrics: LaneMetrics::register(&Registry::new())
            .map_err(|error| Failure::new(Exit::Failed, &error))?,
        board: Arc::new(StatusBoard::default()),
        settings: lane_settings(config),
        trial_token: tokio::sync::Mutex::default(),
        witness: Arc::new(NoWitness),
        started: Instant::now(),
    });
    let begun = Arc::new(OnceLock::new());
    let log: Arc<dyn EventLog> = Arc::new(NotedLog { inner: log, begun: Arc::clone(&begun) });
    let dispatch = Arbiter::new();
    let data: Vec<Arbiter> = (0..config.lanes.arbiters).map(|_| Arbiter::new()).collect();

    let threads_before = meter::thread_times();
    let supervisor = Supervisor::new(
        groups(config, log, &environment, data.iter().map(Arbiter::handle), vec![behaviour]),
        config.lanes.restart,
        Some(dispatch.handle()),
        Arc::new(|group: &Group, failure: &str| escalate(group.as_str(), failure)),
    )
    .start();
    let end = until_done(&finish).await;
    let mut threads = meter::thread_times();
    for (name, before) in threads_before {
        threads.entry(name).and_modify(|time| *time = time.saturating_sub(before));
    }

    if supervisor.send(StopAll { within: config.lanes.drain_timeout }).await.is_err() {
        tracing::warn!("the supervisor had ended before it was asked to");
    }
    for arbiter in data.into_iter().chain([dispatch]) {
        arbiter.stop();
        if arbiter.join().is_err() {
            return Err(Failure::text(Exit::Failed, "a thread of lanes ended by a panic"));
        }
    }
    let begun = begun.get().copied().expect("what was committed was assigned before");
    Ok(Ended { time: end?.duration_since(begun), threads })
}

/// A log that notes when it first assigns partitions.
struct NotedLog {
    inner: Arc<dyn EventLog>,
    begun: Arc<OnceLock<Instant>>,
}

impl EventLog for NotedLog {
    fn id(&self) -> LogId {
        self.inner.id()
    }

    fn subscribe(
        &self,
        group: Group,
        topics: Vec<Topic>,
        sink: Arc<dyn LogSink>,
        credits: Arc<CreditPool>,
    ) -> Result<Arc<dyn LogReader>, LogError> {
        let sink = Arc::new(NotedSink { inner: sink, begun: Arc::clone(&self.begun) });
        self.inner.subscribe(group, topics, sink, credits)
    }
}

/// Passes on what a reader delivers.
struct NotedSink {
    inner: Arc<dyn LogSink>,
    begun: Arc<OnceLock<Instant>>,
}

impl LogSink for NotedSink {
    fn assigned(&self, partitions: Vec<TopicPartition>) {
        self.begun.get_or_init(Instant::now);
        self.inner.assigned(partitions);
    }

    fn revoked(&self, revocation: Revocation) {
        self.inner.revoked(revocation);
    }

    fn lost(&self, partitions: Vec<TopicPartition>) {
        self.inner.lost(partitions);
    }

    fn read(&self, batch: RecordBatch) -> Result<(), RecordBatch> {
        self.inner.read(batch)
    }

    fn broken(&self, partition: TopicPartition, incarnation: Incarnation) {
        self.inner.broken(partition, incarnation);
    }

    fn ends(&self, ends: Vec<(TopicPartition, LogEnds)>) {
        self.inner.ends(ends);
    }

    fn health(&self, health: Result<(), LogError>) {
        self.inner.health(health);
    }
}

async fn until_done(finish: &Finish) -> Result<Instant, Failure> {
    let mut seen_before = 0;
    loop {
        if let Some(at) = finish.at() {
            return Ok(at);
        }
        if tokio::time::timeout(STALL_LIMIT, finish.reached.notified()).await.is_ok() {
            continue;
        }
        let seen = finish.seen.load(Ordering::Relaxed);
        if seen == seen_before {
            let wanted = finish.wanted;
            return Err(Failure::text(
                Exit::Failed,
                format!(
                    "failed to read the log to its end: wanted {wanted} records, got {seen} and then none for {} s",
                    STALL_LIMIT.as_secs()
                ),
            ));
        }
        seen_before = seen;
    }
}
