//! A whole small system for lane tests: store, log, supervisor and one recording group, under a paused clock.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actix::{Actor, Addr};
use bytes::Bytes;
use prometheus::Registry;

use super::flood::{Gathered, GatheringLog};
use super::ownership::{ReaderCalls, WatchedLog};
use crate::backoff::{BackoffPolicy, RestartPolicy};
use crate::clock::{Clock, Moment, Timestamp};
use crate::command::{Order, OrderKind};
use crate::dispatcher::GroupSpec;
use crate::effect::{TimelineEntry, Timer, TimerId};
use crate::event::{Encoding, Event, JobStatus, decode};
use crate::ids::{
    EventId, Group, JobId, LaneKey, LogTopic, Offset, Partition, ProcessId, Sequence, Topic, TopicPartition,
};
use crate::lane::behaviour::{Applied, Behaviour, BehaviourFactory, Entry, Verdict, Workspace};
use crate::lane::credit::{CreditLimits, GlobalCredit};
use crate::lane::environment::{Decoder, LaneEnvironment, LaneSettings};
use crate::lane::fault::{FaultPoint, Faults};
use crate::lane::notice::{CommitListener, CommitNotice};
use crate::lane::status::StatusBoard;
use crate::metrics::LaneMetrics;
use crate::ports::log::EventLog;
use crate::ports::query::QueryStore;
use crate::ports::witness::Witness;
use crate::record::LogRecord;
use crate::snapshot::{ActorState, LaneSnapshot};
use crate::state::{Aggregate, JobAggregate, StateKey, StateValue};
use crate::supervisor::Supervisor;
use crate::supervisor::wishes::WishWatch;
use crate::testkit::{
    BatchLimits, EventBuilder, ManualClock, MemoryStore, SeededRandomness, SimulatedLog, wait_until,
};
use crate::trial::Thought;

/// How long a test waits for anything, in tokio's paused time.
pub(super) const LIMIT: Duration = Duration::from_secs(600);

/// Where and how often the recording behaviour panics.
#[derive(Debug, Default)]
pub(super) struct Panics {
    /// In `apply`, by event: so many times.
    pub(super) on_event: Mutex<HashMap<EventId, u32>>,
    /// In `keys`, by event: so many times.
    pub(super) in_keys: Mutex<HashMap<EventId, u32>>,
    /// In `finish`, whenever this event is in the batch: so many times.
    pub(super) in_finish: Mutex<HashMap<EventId, u32>>,
    /// In `tick`.
    pub(super) in_tick: Mutex<u32>,
    /// In `timer_keys`, by the timer's job: so many times.
    pub(super) in_timer_keys: Mutex<HashMap<String, u32>>,
    /// In `finish`, whenever a timer of this job is answered: so many times.
    pub(super) in_timer_finish: Mutex<HashMap<String, u32>>,
    /// What kills the process.
    pub(super) deadly: Mutex<Deadly>,
    /// By point in lane code.
    pub(super) at_point: Mutex<HashMap<(FaultPoint, Partition), u32>>,
}

/// What kills the process that looks at it, and the process.
#[derive(Debug, Default)]
pub(super) struct Deadly {
    /// In `apply`.
    pub(super) events: HashSet<EventId>,
    /// In the decoder, by payload.
    pub(super) payloads: HashSet<Bytes>,
    /// In `tick`, by the timer's job.
    pub(super) timers: HashSet<String>,
    /// Whose store dies.
    pub(super) victim: Option<MemoryStore>,
}

impl Deadly {
    fn kill_if(&self, is_deadly: bool) {
        if let Some(victim) = self.victim.as_ref().filter(|_| is_deadly) {
            victim.die();
        }
    }
}

/// Takes one panic of those that are left.
fn take(left: Option<&mut u32>) -> bool {
    left.filter(|left| **left > 0).map(|left| *left -= 1).is_some()
}

/// Panics outside of any lock, which the panic would poison.
fn panic_if(is_asked_for: bool, what: &str) {
    if is_asked_for {
        std::panic::panic_any(format!("asked for: {what}"));
    }
}

impl Faults for Panics {
    fn hit(&self, point: FaultPoint, lane: &LaneKey) {
        let key = (point, lane.topic_partition.partition);
        let is_asked_for = take(self.at_point.lock().unwrap().get_mut(&key));
        panic_if(is_asked_for, "at a point");
    }
}

/// Records every event of a job in order, counts them, and sets a timer on `job.completed`.
pub(super) struct Recorder {
    pub(super) group: Group,
    pub(super) panics: Arc<Panics>,
    pub(super) timer_delay: Duration,
}

impl Behaviour for Recorder {
    fn group(&self) -> Group {
        self.group.clone()
    }

    fn topics(&self) -> Vec<Topic> {
        vec![Topic::JobLifecycle]
    }

    fn keys(&self, entry: &Entry, keys: &mut Vec<StateKey>) {
        if let Verdict::Event(Event { job_id: Some(job_id), event_id, .. }) = &entry.verdict {
            let is_asked_for = take(self.panics.in_keys.lock().unwrap().get_mut(event_id));
            panic_if(is_asked_for, "keys");
            keys.push(StateKey::JobAggregate(job_id.clone(), Default::default()));
        }
    }

    fn apply(&self, entry: &Entry, work: &mut Workspace<'_>) -> Applied {
        let Verdict::Event(event) = &entry.verdict else { unreachable!("the lane sets poison aside") };
        let is_asked_for = take(self.panics.on_event.lock().unwrap().get_mut(&event.event_id));
        panic_if(is_asked_for, "apply");
        let deadly = self.panics.deadly.lock().unwrap();
        deadly.kill_if(deadly.events.contains(&event.event_id));
        drop(deadly);
        let job_id = event.job_id.clone().expect("lifecycle events have a job");
        let sequence = event.sequence.unwrap_or_default();
        let key = StateKey::JobAggregate(job_id.clone(), Default::default());
        if event.user_id.as_str() == "refused" {
            return Applied::Refused { reason: "test", detail: "asked for".to_owned() };
        }
        let now = work.now;
        match work.get_mut(&key) {
            Some(StateValue::JobAggregate(row)) => {
                row.cpu_usage_percent.count += 1;
                row.last_sequence = Some(sequence);
            }
            _ => {
                let row = JobAggregate {
                    job_id: job_id.clone(),
                    attempt: Default::default(),
                    cpu_usage_percent: Aggregate { count: 1, ..Aggregate::default() },
                    memory_usage_mb: Aggregate::default(),
                    io_operations: Aggregate::default(),
                    execution_time_seconds: Aggregate::default(),
                    last_sequence: Some(sequence),
                    summary: None,
                    updated_at: now,
                };
                work.put(key, StateValue::JobAggregate(row));
            }
        }
        if event.user_id.as_str() == "timer" {
            let id = TimerId { kind: "clean".to_owned(), key: job_id.as_str().to_owned() };
            work.effects.timers_set.push(Timer { id, due_at: now.plus(self.timer_delay) });
        }
        work.effects.timeline.push(TimelineEntry {
            job_id,
            offset: entry.record.offset,
            event_id: event.event_id,
            event_type: event.payload.event_type(),
            sequence,
            status: JobStatus::Submitted,
            attempt: Default::default(),
            happened_at: event.timestamp,
            applied_at: now,
            payload: String::new(),
        });
        Applied::Applied
    }

    fn finish(&self, work: &mut Workspace<'_>) {
        for entry in &work.effects.timeline {
            let is_asked_for = take(self.panics.in_finish.lock().unwrap().get_mut(&entry.event_id));
            panic_if(is_asked_for, "finish");
        }
        for order in &work.effects.orders {
            let job = order.job_id.as_str();
            let is_asked_for = take(self.panics.in_timer_finish.lock().unwrap().get_mut(job));
            panic_if(is_asked_for, "finish of a timer");
        }
    }

    fn timer_keys(&self, timer: &Timer, _keys: &mut Vec<StateKey>) {
        let is_asked_for = take(self.panics.in_timer_keys.lock().unwrap().get_mut(&timer.id.key));
        panic_if(is_asked_for, "timer keys");
    }

    fn tick(&self, timer: &Timer, work: &mut Workspace<'_>) {
        let is_asked_for = take(Some(&mut self.panics.in_tick.lock().unwrap()));
        panic_if(is_asked_for, "tick");
        let deadly = self.panics.deadly.lock().unwrap();
        deadly.kill_if(deadly.timers.contains(&timer.id.key));
        drop(deadly);
        let now = work.now;
        work.effects.orders.push(Order {
            job_id: JobId::parse(&timer.id.key).expect("timers are keyed by job"),
            attempt: crate::ids::Attempt(1),
            kind: OrderKind::Clean,
            ordered_at: now,
        });
    }
}

/// Keeps every notice.
#[derive(Default)]
pub(super) struct Notices(pub(super) Mutex<Vec<CommitNotice>>);

impl CommitListener for Notices {
    fn committed(&self, notice: &CommitNotice) {
        self.0.lock().unwrap().push(notice.clone());
    }
}

/// A witness in memory, which sees nothing more once its process is dead.
pub(super) struct Seen {
    store: MemoryStore,
    thought: Mutex<Option<Thought>>,
}

impl Seen {
    /// Gives what the process is thinking about, or was when it died.
    pub(super) fn thought(&self) -> Option<Thought> {
        self.thought.lock().unwrap().clone()
    }

    fn see(&self, thought: Option<Thought>) {
        if !self.store.is_dead() {
            *self.thought.lock().unwrap() = thought;
        }
    }
}

impl Witness for Seen {
    fn begins(&self, thought: &Thought) {
        self.see(Some(thought.clone()));
    }

    fn ends(&self) {
        self.see(None);
    }
}

/// A clock that never tells the same time twice, so that what is stamped tells the order in which it happened.
struct Ticking {
    clock: Arc<ManualClock>,
    told: AtomicU64,
}

impl Clock for Ticking {
    fn now(&self) -> Timestamp {
        let ticks = self.told.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        self.clock.now().plus(Duration::from_micros(ticks))
    }

    fn moment(&self) -> Moment {
        self.clock.moment()
    }
}

/// How a world differs from the default.
pub(super) struct Options {
    /// Whether lanes are never told the same time twice.
    pub(super) is_ticking: bool,
    pub(super) settings: LaneSettings,
    pub(super) credits: CreditLimits,
    pub(super) batch_records: usize,
    pub(super) restarts: RestartPolicy,
    pub(super) timer_delay: Duration,
    /// Whether a reader's first batches are gathered and passed on all at once.
    pub(super) gathered: Option<Gathered>,
    /// How often the log says that `job-0`'s partition is not assigned when its lane starts.
    pub(super) refused_starts: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            is_ticking: false,
            settings: LaneSettings::default(),
            credits: CreditLimits { lane_records: 1_000, lane_bytes: 1 << 20, total_bytes: 8 << 20 },
            batch_records: 10,
            restarts: RestartPolicy {
                budget: 5,
                window: Duration::from_secs(60),
                backoff: BackoffPolicy { initial: Duration::from_millis(5), limit: Duration::from_secs(1) },
            },
            timer_delay: Duration::from_secs(10),
            gathered: None,
            refused_starts: 0,
        }
    }
}

/// The system under test.
pub(super) struct World {
    pub(super) store: MemoryStore,
    pub(super) log: SimulatedLog,
    pub(super) clock: Arc<ManualClock>,
    pub(super) panics: Arc<Panics>,
    pub(super) board: Arc<StatusBoard>,
    pub(super) notices: Arc<Notices>,
    pub(super) credit: Arc<GlobalCredit>,
    pub(super) escalations: Arc<Mutex<Vec<String>>>,
    /// What lanes and dispatchers asked readers, in order.
    pub(super) reader_calls: Arc<ReaderCalls>,
    /// What this process leaves behind.
    pub(super) witness: Arc<Seen>,
    pub(super) process: ProcessId,
    options: Options,
}

/// Runs a test inside an actor system with a paused clock.
pub(super) fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    // Panics that a test asks for would fill its output.
    static QUIET: std::sync::Once = std::sync::Once::new();
    QUIET.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let is_asked_for =
                info.payload().downcast_ref::<String>().is_some_and(|text| text.starts_with("asked for"));
            if !is_asked_for {
                usual(info);
            }
        }));
    });
    let runner = actix::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
    });
    runner.block_on(test());
}

impl World {
    pub(super) fn new(options: Options) -> Self {
        Self::of_process(&MemoryStore::new(), 0, options)
    }

    /// Makes the world of another process over the same data, in a log that gives it every partition; a second
    /// later than the one before.
    pub(super) fn of_process(store: &MemoryStore, number: u32, options: Options) -> Self {
        let store = store.as_new_process();
        let started = Timestamp::from_millis(1_700_000_000_000 + i64::from(number) * 1_000);
        let witness = Arc::new(Seen { store: store.clone(), thought: Mutex::default() });
        let limits = BatchLimits { max_records: options.batch_records, max_bytes: 1 << 20 };
        Self {
            log: SimulatedLog::with_limits(Arc::new(store.clone()), limits),
            store,
            process: ProcessId(uuid::Uuid::from_u128(u128::from(number))),
            clock: Arc::new(ManualClock::following_tokio(started)),
            panics: Arc::default(),
            board: Arc::default(),
            notices: Arc::default(),
            credit: Arc::default(),
            escalations: Arc::default(),
            reader_calls: Arc::new(ReaderCalls::refusing(options.refused_starts)),
            witness,
            options,
        }
    }

    /// Lets the log give nothing by itself.
    pub(super) fn unassigned(options: Options) -> Self {
        let mut world = Self::new(options);
        world.log = SimulatedLog::unassigned(Arc::new(world.store.clone()));
        world
    }

    /// Gives the decoder, which may kill the process.
    fn decoder(&self) -> Decoder {
        let panics = Arc::clone(&self.panics);
        Arc::new(move |topic, record: &LogRecord| {
            let deadly = panics.deadly.lock().unwrap();
            deadly.kill_if(record.payload.as_ref().is_some_and(|payload| deadly.payloads.contains(payload)));
            drop(deadly);
            decode(topic, record)
        })
    }

    /// Starts a process: a supervisor with the recording group.
    pub(super) fn start(&self) -> Addr<Supervisor> {
        self.start_with_board(Arc::clone(&self.board))
    }

    pub(super) fn start_with_board(&self, board: Arc<StatusBoard>) -> Addr<Supervisor> {
        let (panics, timer_delay) = (Arc::clone(&self.panics), self.options.timer_delay);
        let recorder: BehaviourFactory =
            Arc::new(move || Box::new(Recorder { group: group(), panics: Arc::clone(&panics), timer_delay }));
        self.start_groups(board, vec![recorder])
    }

    /// Starts a process with these groups.
    pub(super) fn start_groups(
        &self,
        board: Arc<StatusBoard>,
        behaviours: Vec<BehaviourFactory>,
    ) -> Addr<Supervisor> {
        let watched = Arc::clone(&board);
        let environment = Arc::new(LaneEnvironment {
            log_id: self.log.id(),
            process: self.process,
            store: Arc::new(self.store.clone()),
            clock: match self.options.is_ticking {
                true => Arc::new(Ticking { clock: Arc::clone(&self.clock), told: AtomicU64::new(0) }),
                false => Arc::clone(&self.clock) as _,
            },
            randomness: Arc::new(SeededRandomness::new(7)),
            decoder: self.decoder(),
            listener: Arc::clone(&self.notices) as _,
            faults: Arc::clone(&self.panics) as _,
            metrics: LaneMetrics::register(&Registry::new()).expect("a new registry has no names"),
            board,
            settings: self.options.settings,
            trial_token: tokio::sync::Mutex::default(),
            witness: Arc::clone(&self.witness) as _,
            started: Instant::now(),
        });
        let incarnations = Arc::new(AtomicU64::new(0));
        let spec = |behaviour: BehaviourFactory| GroupSpec {
            group: behaviour().group(),
            topics: behaviour().topics(),
            behaviour,
            environment: Arc::clone(&environment),
            log: match self.options.gathered {
                Some(gathered) => Arc::new(GatheringLog { log: self.log.clone(), gathered }),
                None => Arc::new(WatchedLog { log: self.log.clone(), calls: Arc::clone(&self.reader_calls) }),
            },
            credits: self.options.credits,
            global_credit: Arc::clone(&self.credit),
            restarts: self.options.restarts,
            arbiters: Vec::new(),
            incarnations: Arc::clone(&incarnations),
        };
        let specs = behaviours.into_iter().map(spec).collect();
        let escalations = Arc::clone(&self.escalations);
        let escalate = move |group: &Group, failure: &str| {
            escalations.lock().unwrap().push(format!("{group}: {failure}"));
        };
        let tree = Supervisor::new(specs, self.options.restarts, None, Arc::new(escalate)).start();
        let wishes = WishWatch {
            store: Arc::new(self.store.clone()),
            board: watched,
            restarts: tree.clone().recipient(),
            relay: None,
            announce_orders: Box::new(|| {}),
            asked: Arc::default(),
        };
        // It ends with the test's system.
        actix::spawn(wishes.watch(std::future::pending()));
        tree
    }

    /// Publishes an event; answers where it went.
    pub(super) fn publish(&self, event: &EventBuilder) -> (TopicPartition, Offset) {
        self.append(event.record())
    }

    pub(super) fn append(&self, record: crate::record::OutgoingRecord) -> (TopicPartition, Offset) {
        let LogTopic::Record(topic) = record.topic else { unreachable!("tests append to topics of record") };
        let partition = TopicPartition { topic, partition: record.partition };
        (partition, self.store.append(record).unwrap())
    }

    /// Publishes bytes that are no event, under a job's key.
    pub(super) fn publish_poison(&self, job: &str) -> (TopicPartition, Offset) {
        let mut record = event(job, 1).record();
        record.payload = Some(Bytes::from_static(b"\xffnot an event"));
        self.append(record)
    }

    /// Gives the sequences of a job in the order in which they were applied.
    pub(super) async fn applied(&self, job: &str) -> Vec<u64> {
        let job_id = JobId::parse(job).unwrap();
        let mut entries = self.store.timeline(job_id, usize::MAX).await.unwrap().rows;
        entries.sort_by_key(|entry| (entry.applied_at, entry.offset));
        entries.into_iter().map(|entry| entry.sequence.0).collect()
    }

    /// Gives how many events of a job its state counts: the same as applied, unless an effect was doubled.
    pub(super) fn counted(&self, job: &str) -> u64 {
        let job_id = JobId::parse(job).unwrap();
        let key = StateKey::JobAggregate(job_id, Default::default());
        match self.store.state_of(&lane_of(job), &key) {
            Some(StateValue::JobAggregate(row)) => row.cpu_usage_percent.count,
            _ => 0,
        }
    }

    /// Waits until every lane has answered everything in the log.
    pub(super) async fn settle(&self) {
        self.settle_group(group()).await;
    }

    /// Waits until every lane of a group has answered everything in the log.
    pub(super) async fn settle_group(&self, group: Group) {
        let store = self.store.clone();
        wait_until("every lane to be at the end of its partition", LIMIT, || {
            Topic::JobLifecycle.all_partitions().all(|partition| {
                let end = self.end(partition);
                let lane = LaneKey { group: group.clone(), topic_partition: partition };
                let next = store.progress_of(&lane).and_then(|progress| progress.next).unwrap_or_default();
                next >= end
            })
        })
        .await;
    }

    pub(super) fn end(&self, partition: TopicPartition) -> Offset {
        use crate::ports::log::RecordSource;
        self.store.heads().end(partition)
    }

    pub(super) fn snapshot(&self, job: &str) -> LaneSnapshot {
        let lane = lane_of(job);
        self.board.lane(&lane).snapshot(&lane, self.clock.reading())
    }

    pub(super) async fn wait_for_state(&self, job: &str, state: ActorState) {
        let lane = lane_of(job);
        wait_until(&format!("lane {lane} to be {}", state.name()), LIMIT, || {
            self.board.lane(&lane).state() == state
        })
        .await;
    }
}

pub(super) fn group() -> Group {
    Group::known("recorder")
}

/// Gives the lane that a job's events go through.
pub(super) fn lane_of(job: &str) -> LaneKey {
    LaneKey {
        group: group(),
        topic_partition: TopicPartition {
            topic: Topic::JobLifecycle,
            partition: event(job, 1).record().partition,
        },
    }
}

/// Gives jobs that all go through one lane, and one that does not.
pub(super) fn neighbours(count: usize) -> (Vec<String>, String) {
    let partition = lane_of("job-0").topic_partition;
    let (same, other): (Vec<_>, Vec<_>) = (0..1_000)
        .map(|number| format!("job-{number}"))
        .partition(|job| lane_of(job).topic_partition == partition);
    (same.into_iter().take(count).collect(), other.into_iter().next().unwrap())
}

/// Makes an event of a job with an id that follows from job and sequence.
pub(super) fn event(job: &str, sequence: u64) -> EventBuilder {
    EventBuilder::job_submitted()
        .job(job)
        .sequence(Sequence(sequence).0)
        .event_id(event_id(job, sequence))
        .encoding(Encoding::Json)
}

pub(super) fn event_id(job: &str, sequence: u64) -> EventId {
    let name = format!("{job}/{sequence}");
    let mut bytes = [0; 16];
    for (index, byte) in name.bytes().enumerate() {
        bytes[index % 16] = u8::wrapping_mul(bytes[index % 16], 31).wrapping_add(byte);
    }
    EventId(uuid::Uuid::from_bytes(bytes))
}
