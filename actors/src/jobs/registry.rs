//! The keeper of the job supervisors.
//!
//! Promises one supervisor for every live job that was committed: started on the job's first committed
//! event, retired after its end, rebuilt after a panic of its own or of the registry, and read from the store
//! when a message was lost. A panic in one supervisor touches no other. A job whose partition another process
//! has is supervised there (design D14): its supervisor here ends when the partition goes, and starts when it
//! comes. Does not decide anything about a job.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::dev::SendError;
use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, ResponseFuture, WrapFuture,
};
use tokio::sync::oneshot;

use crate::backoff::{RestartDecision, RestartLedger};
use crate::clock::Moment;
use crate::event::partition_among;
use crate::ids::{Group, JobId, LaneKey, Topic, TopicPartition};
use crate::jobs::handle::{JobRegistryParts, Shared};
use crate::jobs::message::{
    ChildExited, GetJobCounts, GetJobState, GetJobSupervisor, JobCounts, JobSupervisorSnapshot,
    JobTransitioned, JobsTransitioned, RegistryError, Resync,
};
use crate::jobs::supervisor::JobSupervisor;
use crate::lane::guard::{CaughtPanic, guard, guard_async};
use crate::ports::store::StoreError;
use crate::state::JobView;

/// Messages that wait at most: with batches of some hundred views this bounds the wait to some megabytes.
const MAILBOX_MESSAGES: usize = 64;

/// How often what was left undone is looked for: short beside what a person notices.
const TICK: Duration = Duration::from_millis(50);

/// Live jobs that are read in one call.
const PAGE_JOBS: usize = 1_000;

/// Addresses that are checked in one tick, so that a tick stays far below its own interval.
const SWEEP_CHILDREN: usize = 2_048;

/// Views that wait for a full mailbox at most; beyond that the store is read.
const PENDING_MAX: usize = 4_096;

/// Time between two readings of all live jobs, so that lasting overload does not become lasting reading.
const READING_GAP: Duration = Duration::from_secs(1);

/// How long a reading of the store may take.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// How long a supervisor may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// How one reading of the store ended.
type ReadAnswer<T> = Result<T, ReadError>;

/// Tells why live jobs could not be read.
#[derive(Debug, Clone, thiserror::Error)]
enum ReadError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store did not answer in time.
    #[error("no answer within {}s", READ_LIMIT.as_secs())]
    Late,
    /// The reading panicked.
    #[error(transparent)]
    Panicked(#[from] CaughtPanic),
}

/// A supervisor that the registry keeps.
struct Child {
    /// Its address; dropping it ends the supervisor.
    supervisor: Addr<JobSupervisor>,
    /// The reading of the store, or the transition during one, that last showed the job alive.
    generation: u32,
}

/// A job whose supervisor ended unasked.
#[derive(Default)]
struct Recovery {
    /// Its restarts.
    ledger: RestartLedger,
    /// When it ended last.
    ended_at: Moment,
    /// Whether a new supervisor is on its way.
    is_pending: bool,
}

/// Keeps one supervisor per live job.
pub struct JobRegistry {
    /// What outlives this registry.
    shared: Arc<Shared>,
    /// Ports and policy.
    parts: JobRegistryParts,
    /// Tells the factory of this registry's end by being dropped.
    _alive: oneshot::Sender<()>,
    /// The live supervisors.
    children: BTreeMap<JobId, Child>,
    /// Newest views that did not fit a supervisor's mailbox.
    pending: BTreeMap<JobId, Arc<JobView>>,
    /// Jobs whose supervisors ended unasked within the restart window.
    recoveries: BTreeMap<JobId, Recovery>,
    /// Numbers the readings of the store.
    generation: u32,
    /// While the store is read: the jobs that ended meanwhile, which an older page may still show.
    reading: Option<BTreeSet<JobId>>,
    /// Readings that failed in a row.
    failed_readings: u32,
    /// No reading starts before this.
    reading_not_before: Moment,
    /// The last job whose address was checked.
    swept: Option<JobId>,
    /// The lanes that this process had when the store was last to be read for them.
    lanes_revision: u64,
}

impl Actor for JobRegistry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_MESSAGES);
        // The first tick reads the live jobs, if there is a lane already.
        // A panic is noted and answered by a new registry.
        let _caught = self.guarded(ctx, Self::on_tick);
        ctx.run_interval(TICK, |registry, ctx| {
            let _caught = registry.guarded(ctx, Self::on_tick);
        });
    }
}

impl Handler<JobsTransitioned> for JobRegistry {
    type Result = ();

    fn handle(&mut self, message: JobsTransitioned, ctx: &mut Self::Context) {
        let JobsTransitioned { views, left } = message;
        let _caught = self.guarded(ctx, |registry, ctx| {
            for job_id in left {
                registry.retire(&job_id);
            }
            for view in views {
                registry.take(view, ctx);
            }
            registry.read_if_behind(ctx);
        });
    }
}

impl Handler<ChildExited> for JobRegistry {
    type Result = ();

    fn handle(&mut self, message: ChildExited, ctx: &mut Self::Context) {
        let ChildExited { job_id } = message;
        let _caught = self.guarded(ctx, |registry, ctx| registry.on_child_exited(job_id, ctx));
    }
}

impl Handler<GetJobSupervisor> for JobRegistry {
    type Result = ResponseFuture<Result<Option<JobSupervisorSnapshot>, RegistryError>>;

    fn handle(&mut self, message: GetJobSupervisor, ctx: &mut Self::Context) -> Self::Result {
        let GetJobSupervisor { job_id } = message;
        let found = self.guarded(ctx, |registry, _ctx| {
            registry.children.get(&job_id).map(|child| child.supervisor.clone())
        });
        Box::pin(async move {
            let Some(supervisor) = found? else { return Ok(None) };
            let asked = supervisor.send(GetJobState).timeout(ANSWER_LIMIT);
            asked.await.map_err(|_| RegistryError::NoAnswer)?.map(Some)
        })
    }
}

impl Handler<GetJobCounts> for JobRegistry {
    type Result = Result<JobCounts, RegistryError>;

    fn handle(&mut self, message: GetJobCounts, ctx: &mut Self::Context) -> Self::Result {
        let GetJobCounts = message;
        Ok(self.guarded(ctx, |registry, _ctx| {
            let rebuilding = registry.recoveries.values().filter(|recovery| recovery.is_pending).count();
            registry.shared.counts(rebuilding as u64)
        })?)
    }
}

impl Handler<Resync> for JobRegistry {
    type Result = ();

    fn handle(&mut self, message: Resync, ctx: &mut Self::Context) {
        let Resync = message;
        let _caught = self.guarded(ctx, |registry, ctx| {
            registry.shared.want_resync();
            registry.read_if_behind(ctx);
        });
    }
}

impl JobRegistry {
    /// Makes a registry without supervisors; it reads the live jobs when it starts.
    pub(super) fn new(shared: Arc<Shared>, parts: JobRegistryParts, alive: oneshot::Sender<()>) -> Self {
        Self {
            shared,
            parts,
            _alive: alive,
            children: BTreeMap::new(),
            pending: BTreeMap::new(),
            recoveries: BTreeMap::new(),
            generation: 0,
            reading: None,
            failed_readings: 0,
            reading_not_before: Moment::default(),
            swept: None,
            lanes_revision: 0,
        }
    }

    /// Tells whether the lane that follows a job is this process's.
    fn owns(&self, job_id: &JobId) -> bool {
        // A job of our own stays where it began, one of others goes where the newest layout says: which one a view is
        // of does not tell, and a supervisor too many only answers what the view says.
        let layout = self.parts.board.layout(Topic::JobLifecycle);
        layout.epochs().any(|epoch| {
            let partition = partition_among(epoch.partitions, job_id.as_str().as_bytes());
            let topic_partition = TopicPartition { topic: Topic::JobLifecycle, partition };
            self.parts.board.find_lane(&LaneKey { group: Group::jobs(), topic_partition }).is_some()
        })
    }

    /// Runs a handler's body; a panic is noted and ends the registry, and its factory builds another.
    fn guarded<T>(
        &mut self,
        ctx: &mut Context<Self>,
        body: impl FnOnce(&mut Self, &mut Context<Self>) -> T,
    ) -> Result<T, CaughtPanic> {
        let ran = guard(|| body(self, ctx));
        if let Err(panic) = &ran {
            tracing::warn!(error = %panic, "job registry ended and will be rebuilt");
            self.shared.note_panic(panic);
            ctx.terminate();
        }
        ran
    }

    /// Does what was left undone.
    fn on_tick(&mut self, ctx: &mut Context<Self>) {
        if self.shared.is_stopping() {
            ctx.terminate();
            return;
        }
        for (job_id, view) in std::mem::take(&mut self.pending) {
            self.deliver(job_id, view, ctx);
        }
        self.sweep(ctx);
        let now = self.parts.clock.moment();
        let window = self.parts.restarts.window;
        self.recoveries.retain(|_, recovery| recovery.is_pending || now.since(recovery.ended_at) <= window);
        let lanes_revision = self.parts.board.lanes_revision();
        if std::mem::replace(&mut self.lanes_revision, lanes_revision) != lanes_revision {
            self.shared.want_resync();
        }
        self.read_if_behind(ctx);
    }

    /// Takes a committed view: starts, tells or retires the job's supervisor.
    fn take(&mut self, view: JobView, ctx: &mut Context<Self>) {
        if view.is_terminal() {
            self.retire(&view.job_id);
            return;
        }
        match self.children.entry(view.job_id.clone()) {
            Entry::Occupied(mut child) => {
                child.get_mut().generation = self.generation;
                self.deliver(view.job_id.clone(), Arc::new(view), ctx);
            }
            Entry::Vacant(vacant) => {
                let live_since = self.parts.clock.now();
                let supervisor = JobSupervisor::new(&view, live_since, Arc::clone(&self.shared)).start();
                vacant.insert(Child { supervisor, generation: self.generation });
                self.count_live();
            }
        }
    }

    /// Ends a job's supervisor for good.
    fn retire(&mut self, job_id: &JobId) {
        self.children.remove(job_id);
        self.pending.remove(job_id);
        self.recoveries.remove(job_id);
        if let Some(ended) = &mut self.reading {
            ended.insert(job_id.clone());
        }
        self.count_live();
    }

    /// Passes a view to a supervisor, or keeps it for the next tick.
    fn deliver(&mut self, job_id: JobId, view: Arc<JobView>, ctx: &mut Context<Self>) {
        let Some(child) = self.children.get(&job_id) else { return };
        match child.supervisor.try_send(JobTransitioned { view: Arc::clone(&view) }) {
            Ok(()) => {
                // What waited is older than what was taken now.
                self.pending.remove(&job_id);
            }
            Err(SendError::Full(_))
                if self.pending.len() < PENDING_MAX || self.pending.contains_key(&job_id) =>
            {
                self.pending.insert(job_id, view);
            }
            Err(SendError::Full(_)) => self.shared.note_missed(),
            Err(SendError::Closed(_)) => self.on_child_exited(job_id, ctx),
        }
    }

    /// Checks a slice of the addresses: the note of a supervisor's end may have been lost.
    fn sweep(&mut self, ctx: &mut Context<Self>) {
        let from = self.swept.take().map_or(Bound::Unbounded, Bound::Excluded);
        let mut closed = Vec::new();
        let mut checked = 0;
        for (job_id, child) in self.children.range((from, Bound::Unbounded)).take(SWEEP_CHILDREN) {
            checked += 1;
            if !child.supervisor.connected() {
                closed.push(job_id.clone());
            }
            self.swept = Some(job_id.clone());
        }
        if checked < SWEEP_CHILDREN {
            self.swept = None;
        }
        for job_id in closed {
            self.on_child_exited(job_id, ctx);
        }
    }

    /// Answers the end of a supervisor; an end that was asked for has no entry any more.
    fn on_child_exited(&mut self, job_id: JobId, ctx: &mut Context<Self>) {
        if self.children.get(&job_id).is_none_or(|child| child.supervisor.connected()) {
            return;
        }
        self.children.remove(&job_id);
        self.pending.remove(&job_id);
        self.count_live();
        self.recover(job_id, ctx);
    }

    /// Has a new supervisor built, after a delay that grows. A job whose budget is spent waits for a whole
    /// window: giving one job up must not end the others, and giving it up for ever would hide it.
    fn recover(&mut self, job_id: JobId, ctx: &mut Context<Self>) {
        let now = self.parts.clock.moment();
        let random = self.parts.randomness.next_u64();
        let recovery = self.recoveries.entry(job_id.clone()).or_default();
        recovery.ended_at = now;
        recovery.is_pending = true;
        let delay = match recovery.ledger.on_exit(&self.parts.restarts, now, random) {
            RestartDecision::Restart(delay) => delay,
            RestartDecision::Escalate => {
                tracing::error!(job.id = %job_id, "job supervisor keeps ending and waits for a whole window");
                self.parts.restarts.window
            }
        };
        self.shared.supervisor_restarts.fetch_add(1, Ordering::Relaxed);
        ctx.run_later(delay, |registry, ctx| {
            let _caught = registry.guarded(ctx, |registry, ctx| registry.read_one(job_id, ctx));
        });
    }

    /// Reads the job whose supervisor is to be rebuilt.
    fn read_one(&mut self, job_id: JobId, ctx: &mut Context<Self>) {
        let reply = self.parts.query.job_view(job_id.clone());
        let read = async move { within_limit(reply).await }.into_actor(self);
        ctx.spawn(read.map(move |answer, registry, ctx| {
            let _caught = registry.guarded(ctx, |registry, ctx| registry.rebuild(job_id, answer, ctx));
        }));
    }

    /// Builds a supervisor of what the store has, unless the job has ended or lives meanwhile.
    fn rebuild(&mut self, job_id: JobId, answer: ReadAnswer<Option<JobView>>, ctx: &mut Context<Self>) {
        let Some(recovery) = self.recoveries.get_mut(&job_id).filter(|recovery| recovery.is_pending) else {
            return;
        };
        match answer {
            Ok(view) => {
                recovery.is_pending = false;
                if let Some(view) = view.filter(|view| !view.is_terminal() && self.owns(&view.job_id)) {
                    self.take(view, ctx);
                }
            }
            Err(error) => {
                tracing::warn!(job.id = %job_id, %error, "failed to rebuild a job supervisor, trying again");
                let delay = self.parts.restarts.backoff.limit;
                ctx.run_later(delay, |registry, ctx| {
                    let _caught = registry.guarded(ctx, |registry, ctx| registry.read_one(job_id, ctx));
                });
            }
        }
    }

    /// Starts to read every live job, when something was missed and no reading is under way.
    fn read_if_behind(&mut self, ctx: &mut Context<Self>) {
        let is_early = self.parts.clock.moment() < self.reading_not_before;
        if self.reading.is_some() || is_early || !self.shared.take_behind() {
            return;
        }
        self.generation = self.generation.wrapping_add(1);
        self.reading = Some(BTreeSet::new());
        self.read_page(None, ctx);
    }

    /// Reads the live jobs after one.
    fn read_page(&mut self, after: Option<JobId>, ctx: &mut Context<Self>) {
        let reply = self.parts.query.live_job_views(after, PAGE_JOBS);
        let read = async move { within_limit(reply).await }.into_actor(self);
        ctx.spawn(read.map(|answer, registry, ctx| {
            let _caught = registry.guarded(ctx, |registry, ctx| registry.take_page(answer, ctx));
        }));
    }

    /// Takes a page of live jobs; an empty one ends the reading.
    fn take_page(&mut self, answer: ReadAnswer<Vec<JobView>>, ctx: &mut Context<Self>) {
        let views = match answer {
            Ok(views) => views,
            Err(error) => {
                tracing::warn!(%error, "failed to read the live jobs, trying again");
                self.failed_readings = self.failed_readings.saturating_add(1);
                let random = self.parts.randomness.next_u64();
                let delay = self.parts.restarts.backoff.delay(self.failed_readings, random);
                self.reading_not_before = self.parts.clock.moment().plus(delay);
                self.reading = None;
                self.shared.want_resync();
                return;
            }
        };
        let Some(last) = views.last().map(|view| view.job_id.clone()) else {
            self.end_reading();
            return;
        };
        for view in views {
            let has_ended = self.reading.as_ref().is_some_and(|ended| ended.contains(&view.job_id));
            if !has_ended && self.owns(&view.job_id) {
                self.take(view, ctx);
            }
        }
        self.read_page(Some(last), ctx);
    }

    /// Retires what the reading did not show: it has ended, and the word of it was lost.
    fn end_reading(&mut self) {
        let generation = self.generation;
        self.children.retain(|_, child| child.generation == generation);
        self.pending.retain(|job_id, _| self.children.contains_key(job_id));
        self.reading = None;
        self.failed_readings = 0;
        self.reading_not_before = self.parts.clock.moment().plus(READING_GAP);
        self.shared.resyncs.fetch_add(1, Ordering::Relaxed);
        self.count_live();
    }

    fn count_live(&self) {
        self.shared.live.store(self.children.len() as u64, Ordering::Relaxed);
    }
}

/// Waits for a reading within the limit, and catches its panic.
async fn within_limit<T>(reply: crate::ports::Reply<T, StoreError>) -> ReadAnswer<T> {
    let read = tokio::time::timeout(READ_LIMIT, guard_async(reply)).await.map_err(|_| ReadError::Late)?;
    Ok(read??)
}

#[cfg(test)]
mod bench;
#[cfg(test)]
mod fake_query;
#[cfg(test)]
mod tests;
