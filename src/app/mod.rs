//! The one place that knows all parts: it builds the adapters, starts the actors in order, and ends them in
//! order.
//!
//! Promises that nothing is started before what it needs, that a start which fails leaves nothing behind, and
//! that an orderly end stops intake first, lets every lane finish what it has at the store, and closes the
//! store last. A crash instead of an orderly end loses nothing either (design D1).

mod audit;
pub mod bench;
mod commands;
pub mod demo;
mod disk;
mod faults;
mod folder;
mod kafka;
mod layouts;
mod log;
mod output;
mod probes;
mod relay;
mod scheduler;
pub mod serve;
mod store;
pub mod topics;
mod witness;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use actix::{Actor, Addr};
use actix_rt::Arbiter;
use horizons_actors::aggregator::MetricsAggregator;
use horizons_actors::auditor::Auditor;
use horizons_actors::backoff::RestartPolicy;
use horizons_actors::clock::{Clock, Randomness, SystemClock, SystemRandomness};
use horizons_actors::dispatcher::GroupSpec;
use horizons_actors::event::{Encoding, decode};
use horizons_actors::heartbeat::{self, Heartbeats};
use horizons_actors::ids::{Group, LogId, ProcessId};
use horizons_actors::jobs::{ExternalAges, JobRegistryHandle, JobRegistryParts, Jobs};
use horizons_actors::lane::behaviour::{Behaviour, BehaviourFactory};
use horizons_actors::lane::credit::{CreditLimits, GlobalCredit};
use horizons_actors::lane::environment::{LaneEnvironment, LaneSettings};
use horizons_actors::lane::notice::{CommitListener, CommitNotice, Listeners};
use horizons_actors::lane::status::StatusBoard;
use horizons_actors::metrics::LaneMetrics;
use horizons_actors::ports::log::EventLog;
use horizons_actors::ports::output::AttemptOutput;
use horizons_actors::ports::relay::RelayView;
use horizons_actors::supervisor::Supervisor;
use horizons_actors::supervisor::message::StopAll;
use horizons_actors::supervisor::watchdog::{Stuck, Verdict, Watchdog, keep_beating};
use horizons_actors::supervisor::wishes::WishWatch;
use prometheus::Registry;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use self::layouts::{Adopter, TopicWatch};
use self::probes::Probed;
use self::relay::RelayPort;
use crate::config::{Config, EventEncoding, EventLogKind, SchedulerKind};
use crate::db::postgres::Lease;
use crate::disk::DiskState;
use crate::exit::{Exit, Failure, end_now};
use crate::metrics::DiskMetrics;
use crate::orchestrator::{Orchestrator, OrchestratorConfig};
use crate::periodic::Periodic;
use crate::presence::Presence;
use crate::probes::Probes;
use crate::scheduler::local::Troubles;
use crate::telemetry;

use self::scheduler::StartedScheduler;
pub use self::scheduler::{check_agent, check_program, readers_of_the_data_folder, run_agent};
pub use self::store::{OpenStore, Store, migrate_store, open_failure};

/// Threads of the runtime that serves HTTP and drives jobs: both wait more than they work.
const FRONT_THREADS: usize = 2;

/// What a start may be given beside the configuration.
#[derive(Default)]
pub struct Extras {
    /// Who else hears of commits.
    pub listeners: Vec<Arc<dyn CommitListener>>,
    /// A store that commits this much slower; for tests of overload.
    pub commit_delay: Option<Duration>,
}

/// The runtime that serves HTTP and drives jobs.
///
/// It may be dropped anywhere: a start that fails drops it inside an actor system, where nobody may wait for its tasks.
struct Front(Option<tokio::runtime::Runtime>);

impl std::ops::Deref for Front {
    type Target = tokio::runtime::Runtime;

    fn deref(&self) -> &Self::Target {
        self.0.as_ref().expect("only its end takes the runtime away")
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A running Horizons.
pub struct Running {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The log that the store's rows are about.
    pub log_id: LogId,
    /// How every actor is.
    pub board: Arc<StatusBoard>,
    /// What Prometheus reads.
    pub registry: Registry,
    /// The lanes' metrics.
    pub lane_metrics: LaneMetrics,
    /// Submits and cancels.
    pub orchestrator: Orchestrator,
    /// The job supervisors.
    pub jobs: JobRegistryHandle,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Random bits.
    pub randomness: Arc<dyn Randomness>,
    /// How every part is.
    pub probes: Arc<Probes>,
    /// Reads what attempts write.
    output: Arc<dyn AttemptOutput>,
    /// The relay, where the event log is on Kafka.
    relay: Option<Arc<RelayPort>>,
    /// Whether the disk is full.
    disk: Arc<DiskState>,
    disk_watch: disk::DiskWatch,
    /// Attempts that cannot be ended.
    troubles: Arc<Troubles>,
    attempts_folder: PathBuf,
    /// Looks at the topics, where the event log is on Kafka.
    topics: Option<Arc<Adopter>>,
    /// Held as long as jobs are driven here.
    scheduler_lease: Option<Arc<Lease>>,
    /// Whether the data folder is still there.
    presence: Arc<Presence>,
    folder_watch: Periodic,
    supervisor: Addr<Supervisor>,
    arbiters: Vec<Arbiter>,
    watchdog: Watchdog,
    stop: watch::Sender<bool>,
    /// Notified when an operator's wish is stored here.
    asked: Arc<Notify>,
    driver: JoinHandle<()>,
    front: Front,
    drain_timeout: Duration,
}

/// Binds the configured address.
///
/// *Errors*: [`Exit::Occupied`] when it is in use.
pub fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    let listener = TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|error| {
            Failure::text(Exit::Occupied, format!("failed to listen on `{address}` (`http.listen`): {error}"))
        })?;
    Ok(listener)
}

impl Running {
    /// Starts everything but HTTP. Call it inside an actix system; its thread carries control messages only.
    pub fn start(config: &Config, opened: OpenStore, extras: Extras) -> Result<Self, Failure> {
        let scheduler_lease = opened.scheduler_lease();
        let OpenStore { store, log_id, brokers, .. } = opened;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let randomness: Arc<dyn Randomness> = Arc::new(SystemRandomness);
        let board = Arc::new(StatusBoard::default());
        let registry = Registry::new();
        let lane_metrics =
            LaneMetrics::register(&registry).map_err(|error| Failure::new(Exit::Failed, &error))?;
        let front = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(FRONT_THREADS)
            .thread_name("front")
            .enable_all()
            .build()
            .map(|runtime| Front(Some(runtime)))
            .map_err(|error| Failure::new(Exit::Failed, &error))?;

        let disk = Arc::new(DiskState::default());
        let troubles = Arc::new(Troubles::default());
        let disk_metrics =
            DiskMetrics::register(&registry).map_err(|error| Failure::new(Exit::Failed, &error))?;
        let disk_watch = disk::start(config, Arc::clone(&disk), disk_metrics)?;
        let StartedScheduler { scheduler, output } =
            scheduler::start(config, Arc::clone(&clock), Arc::clone(&disk), Arc::clone(&troubles))?;
        layouts::learn(store.as_ref(), &board, &front)?;
        let known = Arc::clone(&board);
        let orchestrator = Orchestrator::under(
            Arc::clone(&store) as _,
            scheduler,
            Arc::clone(&clock),
            Arc::clone(&randomness),
            OrchestratorConfig {
                verdict_wait: match config.scheduler.kind {
                    SchedulerKind::Local => config.http.submit_wait,
                    // The verdict is told in another process.
                    SchedulerKind::Elsewhere => Duration::ZERO,
                },
                encoding: match config.events.encoding {
                    EventEncoding::Json => Encoding::Json,
                    EventEncoding::MessagePack => Encoding::MessagePack,
                },
                release_attempts: config.lanes.release_attempts,
                look_interval: config.scheduler.poll_interval.max(LOOK_INTERVAL_MIN),
                ..OrchestratorConfig::default()
            },
            Arc::new(move |topic| known.layout(topic)),
        );

        let watched = |name: &str| (name.to_owned(), Arbiter::new());
        let dispatch = watched("dispatch");
        let supervise = watched("jobs");
        let data: Vec<_> =
            (0..config.lanes.arbiters).map(|number| watched(&format!("lanes-{number}"))).collect();
        let jobs = JobRegistryHandle::start(
            &supervise.1.handle(),
            JobRegistryParts {
                query: Arc::clone(&store) as _,
                board: Arc::clone(&board),
                clock: Arc::clone(&clock),
                randomness: Arc::clone(&randomness),
                restarts: config.lanes.restart,
                escalate: Arc::new(|failure| escalate("job registry", &failure)),
            },
        )
        .map_err(|error| Failure::new(Exit::Failed, &error))?;
        let counted = jobs.clone();
        board.count_job_supervisors_with(move || counted.live_supervisors());
        let mut listeners: Vec<Arc<dyn CommitListener>> = vec![
            Arc::new(SupervisorListener { jobs: jobs.clone() }),
            Arc::new(OrderListener { orchestrator: orchestrator.clone() }),
        ];
        listeners.extend(extras.listeners);
        let process = ProcessId(randomness.next_uuid());
        let environment = Arc::new(LaneEnvironment {
            log_id: log_id.clone(),
            process,
            store: Arc::clone(&store) as _,
            clock: Arc::clone(&clock),
            randomness: Arc::clone(&randomness),
            decoder: Arc::new(decode),
            listener: Arc::new(Listeners(listeners)),
            faults: faults::lane_faults(),
            metrics: lane_metrics.clone(),
            board: Arc::clone(&board),
            settings: lane_settings(config),
            trial_token: tokio::sync::Mutex::default(),
            witness: witness::start(config, process, store.as_ref(), &front),
            started: Instant::now(),
        });
        let relay = match config.event_log {
            EventLogKind::Embedded => None,
            EventLogKind::Kafka => Some(Arc::new(RelayPort::start(
                config,
                OpenStore::writers(config),
                Arc::clone(&store) as _,
                Arc::clone(&clock),
                &registry,
            )?)),
        };
        let topics = match config.event_log {
            EventLogKind::Embedded => None,
            EventLogKind::Kafka => Some(Arc::new(Adopter {
                topics: TopicWatch::start(config, Arc::clone(&board), &registry)?,
                acts: Arc::clone(&store) as _,
                layouts: Arc::clone(&store) as _,
                board: Arc::clone(&board),
            })),
        };
        let groups = groups(
            config,
            log::open(config, log_id.clone(), Arc::clone(&store) as _)?,
            &environment,
            data.iter().map(|(_, arbiter)| arbiter.handle()),
            behaviours(config),
        );
        let restarts: RestartPolicy = config.lanes.restart;
        let supervisor = Supervisor::new(
            groups,
            restarts,
            Some(dispatch.1.handle()),
            Arc::new(|group: &Group, failure: &str| escalate(group.as_str(), failure)),
        )
        .start();

        let all: Vec<(String, Arbiter)> = [dispatch, supervise].into_iter().chain(data).collect();
        let handles = all.iter().map(|(name, arbiter)| (name.clone(), arbiter.handle())).collect();
        let limit = config.lanes.stuck_after;
        let verdict = Verdict { say: Box::new(say_stuck), end: Box::new(end_stuck) };
        let watchdog = Watchdog::start(handles, Heartbeats::of_process(), Arc::clone(&board), limit, verdict)
            .map_err(|error| Failure::new(Exit::Failed, &error))?;
        front.spawn(keep_beating(heartbeat::register("front"), limit));
        let presence = folder::present(config)?;
        let folder_watch = folder::watch(Arc::clone(&presence))?;
        let (stop, stopped) = watch::channel(false);
        let asked = Arc::new(Notify::new());
        let announced = orchestrator.clone();
        let wishes = WishWatch {
            store: Arc::clone(&store) as _,
            board: Arc::clone(&board),
            restarts: supervisor.clone().recipient(),
            relay: relay.clone().map(|relay| relay as Arc<dyn RelayView>),
            announce_orders: Box::new(move || announced.announce_orders()),
            asked: Arc::clone(&asked),
        };
        front.spawn(wishes.watch(until_set(stopped.clone())));
        if let Some(topics) = topics.clone() {
            front.spawn(topics.keep_finishing(until_set(stopped.clone())));
        }
        let driver = match config.scheduler.kind {
            SchedulerKind::Local => front.spawn(orchestrator.clone().run(until_set(stopped))),
            SchedulerKind::Elsewhere => front.spawn(until_set(stopped)),
        };
        let probes = probes::start(
            Probed {
                store: Arc::clone(&store) as _,
                disk: Arc::clone(&disk),
                presence: Arc::clone(&presence),
                board: Arc::clone(&board),
                clock: Arc::clone(&clock),
                brokers: (config.event_log == EventLogKind::Kafka).then_some(brokers),
                relay: relay.clone(),
                orchestrator: orchestrator.clone(),
                troubles: Arc::clone(&troubles),
                driver: (config.scheduler.kind == SchedulerKind::Local).then(|| driver.abort_handle()),
            },
            &front,
            until_set(stop.subscribe()),
        );
        Ok(Self {
            store,
            log_id,
            probes,
            board,
            registry,
            lane_metrics,
            orchestrator,
            jobs,
            clock,
            randomness,
            output,
            relay,
            disk,
            disk_watch,
            troubles,
            attempts_folder: attempts_folder(config),
            topics,
            scheduler_lease,
            presence,
            folder_watch,
            supervisor,
            arbiters: all.into_iter().map(|(_, arbiter)| arbiter).collect(),
            watchdog,
            stop,
            asked,
            driver,
            front,
            drain_timeout: config.lanes.drain_timeout,
        })
    }

    /// Gives the runtime that serves HTTP.
    pub fn front(&self) -> tokio::runtime::Handle {
        self.front.handle().clone()
    }

    /// Gives a future that is ready once the end has begun; intake stops then.
    pub fn until_stopping(&self) -> impl Future<Output = ()> + Send + 'static {
        until_set(self.stop.subscribe())
    }

    /// Begins the end: intake stops.
    fn begin_stop(&self) {
        self.stop.send_replace(true);
    }

    /// Ends everything in order; the store closes when the last holder of it goes.
    pub async fn stop(self) {
        let Self {
            supervisor,
            arbiters,
            watchdog,
            stop,
            driver,
            front,
            drain_timeout,
            jobs,
            relay,
            scheduler_lease,
            disk_watch,
            folder_watch,
            ..
        } = self;
        stop.send_replace(true);
        if tokio::time::timeout(drain_timeout, driver).await.is_err() {
            tracing::warn!("the orchestrator is abandoned in the middle of its work: nothing is lost by it");
        }
        if supervisor.send(StopAll { within: drain_timeout }).await.is_err() {
            tracing::warn!("the supervisor had ended before it was asked to");
        }
        jobs.stop();
        drop(disk_watch);
        // Nothing drives jobs any more.
        drop(scheduler_lease);
        for arbiter in arbiters {
            arbiter.stop();
            if arbiter.join().is_err() {
                tracing::warn!("a thread of lanes ended by a panic");
            }
        }
        if let Some(relay) = relay {
            // What lanes and users published last is sent as well; what is left is sent by the next relay.
            let sent = tokio::task::spawn_blocking(move || relay.stop(drain_timeout)).await;
            if sent.is_err() {
                tracing::warn!("the relay ended by a panic");
            }
        }
        drop(folder_watch);
        drop(watchdog);
        // Its tasks have ended or were abandoned above; waiting here would block the actor system's thread.
        drop(front);
    }
}

/// Live jobs are asked after at most this often when nothing announces a change.
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(100);

async fn until_set(mut flag: watch::Receiver<bool>) {
    // The sender goes only with the program.
    let _set = flag.wait_for(|is_set| *is_set).await;
}

fn lane_settings(config: &Config) -> LaneSettings {
    LaneSettings {
        duplicate_window_records: config.lanes.duplicate_window_records,
        retry: config.lanes.retry,
        flood: config.lanes.flood,
        joined_records: config.lanes.batch_records,
        joined_bytes: config.lanes.batch_bytes,
        trial_records: config.lanes.batch_records,
        ..LaneSettings::default()
    }
}

/// Gives what the three groups do.
fn behaviours(config: &Config) -> Vec<BehaviourFactory> {
    let clean_after = config.jobs.clean_after;
    let external =
        ExternalAges { silent: config.jobs.external_silent, forgotten: config.jobs.external_forgotten };
    vec![
        auditor(config),
        Arc::new(move || Box::new(Jobs::new(clean_after).with_external(external))),
        Arc::new(|| Box::new(MetricsAggregator)),
    ]
}

/// Gives what the auditor does.
fn auditor(config: &Config) -> BehaviourFactory {
    let audited = config.audit.topics.clone();
    Arc::new(move || Box::new(Auditor::of(audited.clone())))
}

/// Makes a group of each behaviour, all on one log.
fn groups(
    config: &Config,
    log: Arc<dyn EventLog>,
    environment: &Arc<LaneEnvironment>,
    arbiters: impl Iterator<Item = actix_rt::ArbiterHandle>,
    behaviours: Vec<BehaviourFactory>,
) -> Vec<GroupSpec> {
    let credits = CreditLimits {
        lane_records: config.lanes.credit_lane_records,
        lane_bytes: config.lanes.credit_lane_bytes,
        total_bytes: config.lanes.credit_total_bytes,
    };
    let global_credit = Arc::new(GlobalCredit::default());
    let incarnations = Arc::new(AtomicU64::new(0));
    let arbiters: Vec<_> = arbiters.collect();
    behaviours
        .into_iter()
        .map(faults::with_points)
        .map(|behaviour| {
            let one: Box<dyn Behaviour> = behaviour();
            GroupSpec {
                group: one.group(),
                topics: one.topics(),
                behaviour,
                environment: Arc::clone(environment),
                log: Arc::clone(&log),
                credits,
                global_credit: Arc::clone(&global_credit),
                restarts: config.lanes.restart,
                arbiters: arbiters.clone(),
                incarnations: Arc::clone(&incarnations),
            }
        })
        .collect()
}

/// Ends the process because a restart budget is spent; a service manager starts it again.
fn escalate(who: &str, failure: &str) {
    tracing::error!(who, error = failure, "restart budget is spent: the process ends");
    end_now(Exit::Escalated);
}

/// Says that a thread does not move, and so the process ends; by design D1 that is the same recovery as any other.
fn say_stuck(stuck: Stuck) {
    let Stuck { thread, does, for_at_least, lanes } = stuck;
    let stuck_ms = for_at_least.as_millis();
    tracing::error!(thread, does, stuck_ms, lanes = ?lanes, "thread is stuck: the process ends");
    telemetry::flush();
}

/// Ends the process without waiting for anything.
fn end_stuck() {
    signal_hook::low_level::exit(i32::from(Exit::Stuck.code()));
}

/// Passes committed transitions to the job supervisors.
struct SupervisorListener {
    jobs: JobRegistryHandle,
}

impl CommitListener for SupervisorListener {
    fn committed(&self, notice: &CommitNotice) {
        self.jobs.on_notices(&notice.notices);
    }
}

/// Tells the orchestrator that a lane's timers may have written orders.
struct OrderListener {
    orchestrator: Orchestrator,
}

impl CommitListener for OrderListener {
    fn committed(&self, notice: &CommitNotice) {
        if notice.outcomes.is_empty() {
            self.orchestrator.announce_orders();
        }
    }
}

/// The folder of attempts within the data folder.
const ATTEMPTS: &str = "attempts";

/// Gives where attempts have their folders.
fn attempts_folder(config: &Config) -> PathBuf {
    config.store.folder.join(ATTEMPTS)
}
