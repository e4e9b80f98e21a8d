//! The scheduler `local`: attempts are child processes of this machine, each under a shim (design D20).
//!
//! Promises that an attempt is on the disk before `submit` answers, that it starts at most once, first come
//! first served within the slots, and that after any death of Horizons everything is found again from the
//! folders. Does not remember an attempt after `clean`, and serves one process at a time: whoever starts it
//! holds the lock of the data folder.

mod burial;
pub(crate) mod cgroup;
pub mod config;
pub(crate) mod folder;
mod intake;
pub(crate) mod measure;
pub(crate) mod output;
pub(crate) mod process;
mod removal;
pub mod run_as;
mod samples;
pub mod space;
pub mod template;
mod watcher;

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use horizons_actors::clock::Clock;
use horizons_actors::heartbeat::{self, Heartbeat};
use horizons_actors::ids::{AgentName, AttemptId};
use horizons_actors::ports::Reply;
use horizons_actors::ports::output::{AttemptOutput, OutputError, OutputPage, OutputQuery};
use horizons_actors::ports::scheduler::{
    AttemptReport, AttemptSample, AttemptSpec, Scheduler, SchedulerError,
};
use tokio::sync::{Notify, oneshot};

pub use self::burial::Troubles;
pub use self::config::{AgentConfig, ConfigProblem, LocalSchedulerConfig};
use self::folder::folder_name;
pub use self::folder::{FolderError, Overflow};
use self::samples::SampleIndex;
use self::template::ArgumentTemplate;
use self::watcher::{Notice, Watcher};

/// What shim and agent keep of Horizons' environment; the rest may hold secrets.
pub(crate) const INHERITED_VARIABLES: [&str; 3] = ["PATH", "HOME", "LANG"];

/// Threads for file work: a submit spends its time in fsync, and several overlap well on one disk.
const WORKERS: usize = 4;

/// Requests that may wait for a worker; beyond that the scheduler says that it is unavailable.
const WAITING_REQUESTS_MAX: usize = 1024;

/// Tells why the local scheduler does not start.
#[derive(Debug, thiserror::Error)]
pub enum LocalSchedulerError {
    /// The configuration cannot work.
    #[error("failed to configure the local scheduler: {}", list(.0))]
    Config(Vec<ConfigProblem>),
    /// The folder of attempts cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A thread cannot be started.
    #[error("failed to start a thread of the local scheduler: {0}")]
    Thread(#[from] std::io::Error),
}

impl LocalSchedulerError {
    /// Tells whether starting again may succeed without a change.
    pub const fn is_transient(&self) -> bool {
        matches!(self, LocalSchedulerError::Thread(_))
    }
}

fn list(problems: &[ConfigProblem]) -> String {
    problems.iter().map(ConfigProblem::to_string).collect::<Vec<_>>().join("; ")
}

/// An agent whose templates have been read.
#[derive(Debug)]
struct Agent {
    config: AgentConfig,
    arguments: Vec<ArgumentTemplate>,
}

/// What the port's calls, the workers and the watcher share.
struct Shared {
    config: LocalSchedulerConfig,
    /// The folder of attempts, absolute and without links.
    attempts_folder: PathBuf,
    agents: BTreeMap<AgentName, Agent>,
    clock: Arc<dyn Clock>,
    /// The next attempt's place in the queue.
    next_order: AtomicU64,
    /// By folder name.
    samples: Mutex<HashMap<String, Arc<Mutex<SampleIndex>>>>,
    changes: Notify,
    watcher: Sender<Notice>,
    /// The control group that attempts have theirs in, where one can be had.
    control_group: Option<PathBuf>,
}

impl Shared {
    fn folder_of(&self, id: &AttemptId) -> PathBuf {
        self.attempts_folder.join(folder_name(id))
    }

    fn samples_of(&self, name: &str) -> Arc<Mutex<SampleIndex>> {
        let mut all = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(name.to_owned()).or_default())
    }

    fn forget_samples_of(&self, name: &str) {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    fn tell_watcher(&self, notice: Notice) {
        if self.watcher.send(notice).is_err() {
            // It only ends when the scheduler is dropped; the folders then tell the next one.
            tracing::debug!("the local scheduler's watcher has ended");
        }
    }
}

type Work = Box<dyn FnOnce(&Shared) + Send>;

/// Runs attempts as child processes of this machine.
pub struct LocalScheduler {
    shared: Arc<Shared>,
    work: Option<SyncSender<Work>>,
    threads: Vec<JoinHandle<()>>,
}

impl LocalScheduler {
    /// Takes up all attempts of the folder and starts the scheduler's threads.
    ///
    /// Blocks while it reads the folder: call it where the program starts.
    ///
    /// *Errors*: [`LocalSchedulerError`].
    pub fn start(config: LocalSchedulerConfig, clock: Arc<dyn Clock>) -> Result<Self, LocalSchedulerError> {
        let problems = config.check();
        if !problems.is_empty() {
            return Err(LocalSchedulerError::Config(problems));
        }
        let attempts_folder = intake::prepare(&config.attempts_folder)?;
        if config.agents.values().any(|agent| agent.run_as.is_some()) {
            run_as::open_passage(&attempts_folder)?;
        }
        let found = intake::take_up(&attempts_folder)?;
        let (watcher, notices) = channel();
        let shared = Arc::new(Shared {
            agents: read_agents(&config)?,
            next_order: AtomicU64::new(found.next_order),
            config,
            attempts_folder,
            clock,
            samples: Mutex::default(),
            changes: Notify::new(),
            watcher,
            control_group: control_group(),
        });
        let (work, waiting) = sync_channel::<Work>(WAITING_REQUESTS_MAX);
        let waiting = Arc::new(Mutex::new(waiting));
        let mut scheduler = Self { shared: Arc::clone(&shared), work: Some(work), threads: Vec::new() };
        for index in 0..WORKERS {
            let (shared, waiting) = (Arc::clone(&shared), Arc::clone(&waiting));
            let name = format!("scheduler-{index}");
            let thread = std::thread::Builder::new().name(name.clone());
            let work = move || run_worker(&shared, &waiting, &heartbeat::register(name));
            scheduler.threads.push(thread.spawn(work)?);
        }
        let thread = std::thread::Builder::new().name("scheduler-watcher".to_owned());
        let watcher = Watcher::new(shared, found.live);
        scheduler.threads.push(thread.spawn(move || watcher.run(&notices))?);
        Ok(scheduler)
    }

    /// Has a worker do something and gives its answer later; `away` words why there is none.
    fn ask<T: Send + 'static, E: Send + 'static>(
        &self,
        away: fn(String) -> E,
        request: impl FnOnce(&Shared) -> Result<T, E> + Send + 'static,
    ) -> Reply<T, E> {
        let (answer, reply) = oneshot::channel();
        let work: Work = Box::new(move |shared| {
            // Nobody may be waiting any more, as after a crash.
            let _ = answer.send(request(shared));
        });
        let handed_over = match &self.work {
            Some(queue) => queue.try_send(work).map_err(|error| match error {
                TrySendError::Full(_) => format!("{WAITING_REQUESTS_MAX} requests are waiting"),
                TrySendError::Disconnected(_) => "the workers have ended".to_owned(),
            }),
            None => Err("the scheduler is being stopped".to_owned()),
        };
        Box::pin(async move {
            handed_over.map_err(away)?;
            reply.await.unwrap_or_else(|_| Err(away("the worker ended before it could answer".to_owned())))
        })
    }
}

impl Drop for LocalScheduler {
    /// Stops the threads; running attempts go on, and the next scheduler on the folder finds them.
    fn drop(&mut self) {
        self.work = None;
        self.shared.tell_watcher(Notice::Stop);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the local scheduler had panicked");
            }
        }
    }
}

/// Finds the control group that attempts have theirs in.
fn control_group() -> Option<PathBuf> {
    let found = cgroup::base();
    match &found {
        Some(group) => tracing::debug!(group = %group.display(), "attempts have control groups"),
        None => tracing::info!(
            "no control group can be had: a process that hides all marks of its attempt outlives a killed shim"
        ),
    }
    found
}

fn read_agents(config: &LocalSchedulerConfig) -> Result<BTreeMap<AgentName, Agent>, LocalSchedulerError> {
    let mut agents = BTreeMap::new();
    for (name, agent) in &config.agents {
        let arguments: Result<Vec<_>, _> =
            agent.arguments.iter().map(|text| ArgumentTemplate::parse(text)).collect();
        let arguments = arguments.map_err(|error| {
            let key = format!("agents.{name}.arguments");
            LocalSchedulerError::Config(vec![ConfigProblem { key, reason: error.to_string() }])
        })?;
        agents.insert(name.clone(), Agent { config: agent.clone(), arguments });
    }
    Ok(agents)
}

fn run_worker(shared: &Shared, waiting: &Mutex<Receiver<Work>>, heartbeat: &Heartbeat) {
    loop {
        heartbeat.waits("requests");
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(work) = next else { return };
        heartbeat.works("a request");
        // A panic is answered by the dropped sender; the worker goes on.
        if catch_unwind(AssertUnwindSafe(|| work(shared))).is_err() {
            tracing::error!("a request to the local scheduler panicked");
        }
    }
}

/// Gives a configured time as whole milliseconds, for the files.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

impl Scheduler for LocalScheduler {
    fn check(&self, spec: &AttemptSpec) -> Result<(), SchedulerError> {
        intake::launch_of(&self.shared, spec).map(|_| ())
    }

    fn submit(&self, spec: AttemptSpec) -> Reply<AttemptReport, SchedulerError> {
        self.ask(SchedulerError::Unavailable, move |shared| intake::submit(shared, &spec))
    }

    fn find(&self, id: AttemptId) -> Reply<Option<AttemptReport>, SchedulerError> {
        self.ask(SchedulerError::Unavailable, move |shared| intake::find(shared, &id))
    }

    fn samples(&self, id: AttemptId, from: u64, limit: usize) -> Reply<Vec<AttemptSample>, SchedulerError> {
        self.ask(SchedulerError::Unavailable, move |shared| intake::samples(shared, &id, from, limit))
    }

    fn cancel(&self, id: AttemptId) -> Reply<(), SchedulerError> {
        self.ask(SchedulerError::Unavailable, move |shared| intake::cancel(shared, &id))
    }

    fn clean(&self, id: AttemptId) -> Reply<(), SchedulerError> {
        self.ask(SchedulerError::Unavailable, move |shared| intake::clean(shared, &id))
    }

    fn changed(&self) -> Reply<(), SchedulerError> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            // Either way something may have changed.
            let _ = tokio::time::timeout(shared.config.poll_interval, shared.changes.notified()).await;
            Ok(())
        })
    }
}

impl AttemptOutput for LocalScheduler {
    fn read(&self, query: OutputQuery) -> Reply<OutputPage, OutputError> {
        self.ask(OutputError::Unavailable, move |shared| {
            output::read(&shared.folder_of(&query.attempt), &query)
        })
    }
}
