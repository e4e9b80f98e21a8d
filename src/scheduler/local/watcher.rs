//! The thread that starts shims, sees attempts end, and buries the ones that were cancelled or lost.
//!
//! Promises that no attempt is declared lost while its shim or any of its processes lives, and that one bad
//! folder does not stop the others. All it knows can be thrown away at any time: the folders hold the truth.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use horizons_actors::heartbeat::{self, Heartbeat};
use horizons_actors::ids::{AgentName, AttemptId};
use nix::sys::signal::Signal;

use super::Shared;
use super::burial::{Burial, Burials, Progress};
use super::folder::{
    self, AttemptFile, CANCEL_FILE, Claim, FolderError, SAMPLES_FILE, SHIM_LOG_FILE, SchedulerLock, Standing,
    StartedAgent, TOMBSTONE_FILE, Tombstone, TombstoneCause,
};
use super::intake::shim_environment;
use crate::run_agent::{EXIT_LOCKED, append_to};

/// How often shims may end before they have claimed their attempt, until the attempt counts as not startable.
const LAUNCHES_MAX: u32 = 5;

/// How long to wait after a shim ended without a claim; doubled with every further one.
const LAUNCH_PAUSE: Duration = Duration::from_millis(100);

/// The pause stops growing after so many doublings, at some 25 seconds.
const LAUNCH_DOUBLINGS_MAX: u32 = 8;

/// How soon to look again while something is expected to change at once (a shim claims, a killed process goes).
const SOON: Duration = Duration::from_millis(10);

/// For how long after a start its claim is expected at once.
const CLAIM_EXPECTED_WITHIN: Duration = Duration::from_millis(500);

/// What the watcher is told.
#[derive(Debug)]
pub(super) enum Notice {
    /// A new attempt is on the disk.
    Accepted(Box<AttemptFile>),
    /// A wish to cancel is on the disk.
    Cancelled(AttemptId),
    /// A burial has found out how its attempt stands.
    Looked,
    /// The scheduler is dropped.
    Stop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Queued,
    Running,
    Ended,
}

/// An attempt that has not ended, or whose shim has not.
#[derive(Debug)]
struct Entry {
    attempt: AttemptFile,
    folder: PathBuf,
    phase: Phase,
    /// The shim, if this process started it.
    shim: Option<Child>,
    launched_at: Option<Instant>,
    /// Launches that came to nothing, for the pause; the second figure are those charged to the attempt.
    launches_in_vain: u32,
    failed_launches: u32,
    not_before: Option<Instant>,
    /// Whether a queued attempt's folder may have changed by another hand than our shim's.
    is_to_be_read: bool,
    samples_bytes: u64,
    /// How the end of an attempt stands whose shim is dead.
    burial: Burial,
}

impl Entry {
    fn new(attempts_folder: &Path, attempt: AttemptFile) -> Self {
        Self {
            folder: attempts_folder.join(folder::folder_name(&attempt.id)),
            attempt,
            phase: Phase::Queued,
            shim: None,
            launched_at: None,
            launches_in_vain: 0,
            failed_launches: 0,
            not_before: None,
            is_to_be_read: true,
            samples_bytes: 0,
            burial: Burial::default(),
        }
    }

    fn agent(&self) -> Option<&AgentName> {
        self.attempt.launch.as_ref().map(|launch| &launch.agent)
    }

    fn takes_slot(&self) -> bool {
        self.phase == Phase::Running || (self.phase == Phase::Queued && self.shim.is_some())
    }

    fn may_start(&self, now: Instant) -> bool {
        self.phase == Phase::Queued
            && self.shim.is_none()
            && !self.is_to_be_read
            && self.attempt.launch.is_some()
            && self.not_before.is_none_or(|at| now >= at)
    }
}

/// Whether to look again at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Soon,
    AtPoll,
}

/// Starts shims and watches attempts.
pub(super) struct Watcher {
    shared: Arc<Shared>,
    /// In the order of the queue.
    entries: BTreeMap<(u64, AttemptId), Entry>,
    orders: HashMap<AttemptId, u64>,
    burials: Burials,
}

impl Watcher {
    pub(super) fn new(shared: Arc<Shared>, live: Vec<AttemptFile>) -> Self {
        let mut watcher =
            Self { shared, entries: BTreeMap::new(), orders: HashMap::new(), burials: Burials::default() };
        for attempt in live {
            watcher.add(attempt);
        }
        watcher
    }

    fn add(&mut self, attempt: AttemptFile) {
        self.orders.insert(attempt.id.clone(), attempt.order);
        let key = (attempt.order, attempt.id.clone());
        let entry = Entry::new(&self.shared.attempts_folder, attempt);
        self.entries.entry(key).or_insert(entry);
    }

    pub(super) fn run(mut self, notices: &Receiver<Notice>) {
        let heartbeat = heartbeat::register("scheduler-watcher");
        loop {
            let next = catch_unwind(AssertUnwindSafe(|| self.look(&heartbeat))).unwrap_or_else(|_| {
                tracing::error!("the local scheduler's watcher panicked and goes on");
                Next::AtPoll
            });
            let wait = match next {
                Next::Soon => SOON.min(self.shared.config.poll_interval),
                Next::AtPoll => self.shared.config.poll_interval,
            };
            heartbeat.waits("changes");
            let mut notice = match notices.recv_timeout(wait) {
                Ok(notice) => Some(notice),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            while let Some(told) = notice {
                match told {
                    Notice::Accepted(attempt) => self.add(*attempt),
                    Notice::Cancelled(id) => self.read_again(id),
                    Notice::Looked => {}
                    Notice::Stop => return,
                }
                notice = notices.try_recv().ok();
            }
        }
    }

    fn read_again(&mut self, id: AttemptId) {
        if let Some(entry) = self.orders.get(&id).and_then(|order| self.entries.get_mut(&(*order, id))) {
            entry.is_to_be_read = true;
        }
    }

    /// Looks at every attempt that may have changed, then fills the free slots.
    fn look(&mut self, heartbeat: &Heartbeat) -> Next {
        let mut next = Next::AtPoll;
        let mut is_changed = false;
        for entry in self.entries.values_mut() {
            heartbeat.works("a look at an attempt");
            let before = (entry.phase, entry.samples_bytes);
            match look_at(&self.shared, &self.burials, entry) {
                Ok(Next::Soon) => next = Next::Soon,
                Ok(Next::AtPoll) => {}
                Err(error) => {
                    tracing::warn!(job.id = %entry.attempt.id.job_id, %error, "looking at an attempt failed");
                }
            }
            is_changed |= before != (entry.phase, entry.samples_bytes);
        }
        let orders = &mut self.orders;
        self.entries.retain(|(_, id), entry| {
            let is_kept = entry.phase != Phase::Ended || entry.shim.is_some();
            if !is_kept && orders.get(id) == Some(&entry.attempt.order) {
                orders.remove(id);
            }
            if !is_kept {
                self.shared.config.troubles.note(id, None);
            }
            is_kept
        });
        if self.start_waiting(heartbeat) == Next::Soon {
            next = Next::Soon;
        }
        if is_changed {
            self.shared.changes.notify_one();
        }
        next
    }

    fn start_waiting(&mut self, heartbeat: &Heartbeat) -> Next {
        if self.shared.config.disk.is_full() {
            return Next::AtPoll;
        }
        let mut taken_by: HashMap<AgentName, u32> = HashMap::new();
        let mut taken: u32 = 0;
        for entry in self.entries.values().filter(|entry| entry.takes_slot()) {
            taken += 1;
            if let Some(agent) = entry.agent() {
                *taken_by.entry(agent.clone()).or_default() += 1;
            }
        }
        let now = Instant::now();
        let mut next = Next::AtPoll;
        for entry in self.entries.values_mut().filter(|entry| entry.may_start(now)) {
            if taken >= self.shared.config.slots {
                break;
            }
            let Some(agent) = entry.agent().cloned() else { continue };
            let of_agent = taken_by.entry(agent.clone()).or_default();
            let most = self.shared.agents.get(&agent).and_then(|agent| agent.config.max_slots);
            if most.is_some_and(|most| *of_agent >= most) {
                continue;
            }
            heartbeat.works("starting a shim");
            match launch(&self.shared, &entry.folder) {
                Ok(shim) => {
                    entry.shim = Some(shim);
                    entry.launched_at = Some(now);
                    taken += 1;
                    *of_agent += 1;
                    next = Next::Soon;
                }
                Err(error) => {
                    tracing::warn!(job.id = %entry.attempt.id.job_id, %error, "starting a shim failed");
                    note_failed_launch(entry, Fault::Machine);
                }
            }
        }
        next
    }
}

fn launch(shared: &Shared, folder: &Path) -> Result<Child, FolderError> {
    let output = append_to(folder, SHIM_LOG_FILE)?;
    let errors = output.try_clone().map_err(FolderError::io("open", folder))?;
    Command::new(&shared.config.shim_program)
        .arg("run-agent")
        .arg(folder)
        .env_clear()
        .envs(shim_environment(shared))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .map_err(FolderError::io("run", &shared.config.shim_program))
}

/// What a launch that came to nothing is charged to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The shim ran and ended without a claim.
    Shim,
    /// No shim could be started, or another one had the lock: that says nothing about the attempt.
    Machine,
}

fn note_failed_launch(entry: &mut Entry, fault: Fault) {
    let pause = LAUNCH_PAUSE.saturating_mul(1 << entry.launches_in_vain.min(LAUNCH_DOUBLINGS_MAX));
    entry.not_before = Some(Instant::now() + pause);
    entry.launches_in_vain = entry.launches_in_vain.saturating_add(1);
    if fault == Fault::Shim {
        entry.failed_launches += 1;
    }
    entry.is_to_be_read = true;
}

/// Waits for the shim without blocking.
fn reap(entry: &mut Entry) -> Option<ExitStatus> {
    let status = entry.shim.as_mut()?.try_wait().unwrap_or_else(|error| {
        tracing::warn!(job.id = %entry.attempt.id.job_id, %error, "waiting for a shim failed");
        None
    })?;
    entry.shim = None;
    entry.is_to_be_read = true;
    Some(status)
}

fn look_at(shared: &Arc<Shared>, burials: &Burials, entry: &mut Entry) -> Result<Next, FolderError> {
    let ended_shim = reap(entry);
    let is_quiet = entry.phase == Phase::Queued && entry.shim.is_none() && !entry.is_to_be_read;
    if is_quiet || entry.phase == Phase::Ended {
        return Ok(Next::AtPoll);
    }
    let found = folder::read_standing(&entry.folder)?;
    // Gone, or cleaned away and submitted anew: then the new one has an entry of its own.
    let Some((_, standing)) = found.filter(|(attempt, _)| attempt.key == entry.attempt.key) else {
        entry.phase = Phase::Ended;
        return Ok(Next::AtPoll);
    };
    match standing {
        Standing::Ended { .. } => {
            entry.phase = Phase::Ended;
            Ok(Next::Soon)
        }
        Standing::Claimed { claim, started } => {
            entry.phase = Phase::Running;
            entry.samples_bytes = fs::metadata(entry.folder.join(SAMPLES_FILE)).map_or(0, |data| data.len());
            look_at_claimed(shared, burials, entry, claim.as_ref(), started.as_ref())
        }
        Standing::Queued => look_at_queued(shared, entry, ended_shim),
    }
}

fn look_at_queued(
    shared: &Shared,
    entry: &mut Entry,
    ended_shim: Option<ExitStatus>,
) -> Result<Next, FolderError> {
    if let Some(status) = ended_shim {
        let was_locked_out = status.code() == Some(i32::from(EXIT_LOCKED));
        note_failed_launch(entry, if was_locked_out { Fault::Machine } else { Fault::Shim });
        tracing::warn!(job.id = %entry.attempt.id.job_id, %status, "a shim ended before its claim");
    }
    let cause = if folder::is_there(&entry.folder.join(CANCEL_FILE))? {
        Some(TombstoneCause::Cancelled)
    } else if entry.failed_launches >= LAUNCHES_MAX && entry.shim.is_none() {
        Some(TombstoneCause::StartFailed {
            reason: format!(
                "the attempt's supervisor ended {LAUNCHES_MAX} times before it could start the agent"
            ),
        })
    } else {
        None
    };
    if let Some(cause) = cause {
        return bury_queued(shared, entry, cause);
    }
    entry.is_to_be_read = false;
    let is_claim_near =
        entry.shim.is_some() && entry.launched_at.is_some_and(|at| at.elapsed() < CLAIM_EXPECTED_WITHIN);
    Ok(if is_claim_near { Next::Soon } else { Next::AtPoll })
}

/// Leaves a tombstone for an attempt that nobody has claimed.
fn bury_queued(shared: &Shared, entry: &mut Entry, cause: TombstoneCause) -> Result<Next, FolderError> {
    // A shim that has the lock claims the attempt, or ends.
    let Some(_lock) = SchedulerLock::try_take(&entry.folder)? else { return Ok(Next::AtPoll) };
    if matches!(folder::read_standing(&entry.folder)?, Some((_, Standing::Queued))) {
        write_tombstone(shared, entry, cause)?;
    }
    Ok(Next::Soon)
}

fn look_at_claimed(
    shared: &Arc<Shared>,
    burials: &Burials,
    entry: &mut Entry,
    claim: Option<&Claim>,
    started: Option<&StartedAgent>,
) -> Result<Next, FolderError> {
    match claim {
        Some(claim) if !claim.shim.is_gone() => {
            if entry.is_to_be_read && folder::is_there(&entry.folder.join(CANCEL_FILE))? {
                // The shim looks at the file by itself now and then; this makes it at once.
                claim.shim.signal(Signal::SIGUSR1);
            }
            entry.is_to_be_read = false;
            Ok(Next::AtPoll)
        }
        Some(_) => bury_lost(shared, burials, entry, started),
        // The claim is being written, or its writer died at it: then no agent was started and the lock is free.
        None => match SchedulerLock::try_take(&entry.folder)? {
            Some(_lock) => declare_lost(shared, entry),
            None => Ok(Next::AtPoll),
        },
    }
}

/// Ends what is left of an attempt whose shim is dead, takes its lock and leaves a tombstone.
///
/// The slow part is done elsewhere: here it is only asked how that stands.
fn bury_lost(
    shared: &Arc<Shared>,
    burials: &Burials,
    entry: &mut Entry,
    started: Option<&StartedAgent>,
) -> Result<Next, FolderError> {
    let waker = Arc::clone(shared);
    let done = move || waker.tell_watcher(Notice::Looked);
    let progress = entry.burial.go_on(burials, &entry.attempt, &entry.folder, started, done);
    shared.config.troubles.note(&entry.attempt.id, entry.burial.trouble());
    match progress {
        Progress::Done(_lock) => declare_lost(shared, entry),
        Progress::Soon => Ok(Next::Soon),
        Progress::Waiting => Ok(Next::AtPoll),
        Progress::Failed(error) => Err(error),
    }
}

/// Leaves a tombstone for a claimed attempt without a result; the caller holds the lock.
fn declare_lost(shared: &Shared, entry: &mut Entry) -> Result<Next, FolderError> {
    if matches!(folder::read_standing(&entry.folder)?, Some((_, Standing::Claimed { .. }))) {
        let cause = if folder::is_there(&entry.folder.join(CANCEL_FILE))? {
            TombstoneCause::Cancelled
        } else {
            TombstoneCause::Lost { reason: "the attempt's supervisor ended without a result".to_owned() }
        };
        write_tombstone(shared, entry, cause)?;
    }
    Ok(Next::Soon)
}

fn write_tombstone(shared: &Shared, entry: &mut Entry, cause: TombstoneCause) -> Result<(), FolderError> {
    tracing::info!(job.id = %entry.attempt.id.job_id, attempt = entry.attempt.id.attempt.0, ?cause, "attempt buried");
    folder::write_whole(&entry.folder, TOMBSTONE_FILE, &Tombstone { at: shared.clock.now(), cause })?;
    entry.phase = Phase::Ended;
    Ok(())
}
