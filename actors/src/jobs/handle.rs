//! How others reach the job registry, and who starts it again.
//!
//! Promises that telling the registry never blocks and never fails: what does not reach it is read from the
//! store later. The registry is built anew by its factory after any end, with a delay that grows, until its
//! restart budget is spent; then the caller is told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, ArbiterHandle, Handler, Message};
use tokio::sync::oneshot;

use crate::backoff::{RestartDecision, RestartLedger, RestartPolicy};
use crate::clock::{Clock, Randomness};
use crate::ids::JobId;
use crate::jobs::message::{
    GetJobCounts, GetJobSupervisor, JobCounts, JobSupervisorSnapshot, JobsTransitioned, RegistryError,
};
use crate::jobs::registry::JobRegistry;
use crate::lane::behaviour::Notice;
use crate::lane::guard::CaughtPanic;
use crate::lane::status::StatusBoard;
use crate::ports::query::QueryStore;
use crate::state::JobView;

/// How long a question waits for its answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// What the registry is built of.
#[derive(Clone)]
pub struct JobRegistryParts {
    /// Where live jobs are read.
    pub query: Arc<dyn QueryStore>,
    /// Which lanes this process has: the jobs of others have their supervisors elsewhere.
    pub board: Arc<StatusBoard>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Random bits for delays.
    pub randomness: Arc<dyn Randomness>,
    /// How often the registry, and how often each supervisor, is started again.
    pub restarts: RestartPolicy,
    /// Called once when the registry's restart budget is spent, with the last panic's text.
    pub escalate: Arc<dyn Fn(String) + Send + Sync>,
}

/// What the handle, the registry and the supervisors share. It outlives every registry.
#[derive(Default)]
pub(super) struct Shared {
    /// The registry that runs now.
    registry: RwLock<Option<Addr<JobRegistry>>>,
    /// Set when something did not reach the registry: the store is to be read.
    is_behind: AtomicBool,
    /// Set when the program ends: the registry is not started again.
    is_stopping: AtomicBool,
    /// Live supervisors.
    pub(super) live: AtomicU64,
    /// Restarts of supervisors.
    pub(super) supervisor_restarts: AtomicU64,
    /// Restarts of the registry.
    pub(super) registry_restarts: AtomicU64,
    /// Finished readings of every live job.
    pub(super) resyncs: AtomicU64,
    /// Messages that did not fit a mailbox.
    missed: AtomicU64,
    /// The last panic's text.
    last_error: Mutex<Option<String>>,
}

impl Shared {
    /// Passes a message to the registry that runs now. Tells whether it was taken.
    pub(super) fn tell_registry<M>(&self, message: M) -> bool
    where
        M: Message<Result = ()> + Send + 'static,
        JobRegistry: Handler<M>,
        <JobRegistry as Actor>::Context: ToEnvelope<JobRegistry, M>,
    {
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        registry.as_ref().is_some_and(|registry| registry.try_send(message).is_ok())
    }

    /// Remembers that something was missed.
    pub(super) fn note_missed(&self) {
        self.missed.fetch_add(1, Ordering::Relaxed);
        self.is_behind.store(true, Ordering::Release);
    }

    /// Has the store read.
    pub(super) fn want_resync(&self) {
        self.is_behind.store(true, Ordering::Release);
    }

    /// Tells whether the store is to be read, and forgets it.
    pub(super) fn take_behind(&self) -> bool {
        self.is_behind.swap(false, Ordering::AcqRel)
    }

    /// Remembers a panic.
    pub(super) fn note_panic(&self, panic: &CaughtPanic) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic.to_string());
    }

    /// Tells whether the registry is to end.
    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    /// Gives the figures.
    pub(super) fn counts(&self, rebuilding: u64) -> JobCounts {
        JobCounts {
            live: self.live.load(Ordering::Relaxed),
            rebuilding,
            supervisor_restarts: self.supervisor_restarts.load(Ordering::Relaxed),
            registry_restarts: self.registry_restarts.load(Ordering::Relaxed),
            resyncs: self.resyncs.load(Ordering::Relaxed),
            missed: self.missed.load(Ordering::Relaxed),
            last_error: self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    fn set_registry(&self, registry: Option<Addr<JobRegistry>>) {
        *self.registry.write().unwrap_or_else(PoisonError::into_inner) = registry;
    }
}

/// Reaches the job registry, whichever runs now.
#[derive(Clone)]
pub struct JobRegistryHandle {
    shared: Arc<Shared>,
}

impl JobRegistryHandle {
    /// Starts the registry, and with it all supervisors, on an arbiter; it is started again there whenever it
    /// ends unasked.
    ///
    /// *Errors*: [`RegistryError::NotRunning`] when the arbiter has stopped.
    pub fn start(arbiter: &ArbiterHandle, parts: JobRegistryParts) -> Result<Self, RegistryError> {
        let shared = Arc::new(Shared::default());
        let kept = keep_alive(Arc::clone(&shared), parts);
        if arbiter.spawn(kept) { Ok(Self { shared }) } else { Err(RegistryError::NotRunning) }
    }

    /// Tells the registry what a committed transaction changed. Never blocks.
    pub fn on_notices(&self, notices: &[Notice]) {
        let mut newest: BTreeMap<&JobId, &JobView> = BTreeMap::new();
        let mut left: Vec<JobId> = Vec::new();
        for notice in notices {
            match notice {
                Notice::JobChanged(view) => {
                    newest.insert(&view.job_id, view);
                }
                Notice::JobLeft(job_id) => left.push(job_id.clone()),
            }
        }
        if newest.is_empty() && left.is_empty() {
            return;
        }
        let views = newest.into_values().cloned().collect();
        if !self.shared.tell_registry(JobsTransitioned { views, left }) {
            self.shared.note_missed();
        }
    }

    /// Asks how a job's supervisor is; nothing when it has none.
    ///
    /// *Errors*: [`RegistryError`]; all of them pass.
    pub async fn job_supervisor(
        &self,
        job_id: JobId,
    ) -> Result<Option<JobSupervisorSnapshot>, RegistryError> {
        let registry = self.registry()?;
        let asked = registry.send(GetJobSupervisor { job_id }).timeout(ANSWER_LIMIT);
        asked.await.map_err(|_| RegistryError::NoAnswer)?
    }

    /// Asks for the registry's figures.
    ///
    /// *Errors*: [`RegistryError`]; all of them pass.
    pub async fn job_counts(&self) -> Result<JobCounts, RegistryError> {
        let registry = self.registry()?;
        registry.send(GetJobCounts).timeout(ANSWER_LIMIT).await.map_err(|_| RegistryError::NoAnswer)?
    }

    /// Gives the count of live supervisors without asking anybody.
    pub fn live_supervisors(&self) -> u64 {
        self.shared.live.load(Ordering::Relaxed)
    }

    /// Gives the restarts of supervisors without asking anybody.
    pub fn supervisor_restarts(&self) -> u64 {
        self.shared.supervisor_restarts.load(Ordering::Relaxed)
    }

    /// Has every live job read from the store on the registry's next tick.
    pub fn resync(&self) {
        self.shared.want_resync();
    }

    /// Ends the registry and its supervisors for good, on the registry's next tick.
    pub fn stop(&self) {
        self.shared.is_stopping.store(true, Ordering::Release);
    }

    /// Gives the registry that runs now.
    pub(super) fn registry(&self) -> Result<Addr<JobRegistry>, RegistryError> {
        let registry = self.shared.registry.read().unwrap_or_else(PoisonError::into_inner);
        registry.clone().ok_or(RegistryError::NotRunning)
    }
}

/// Starts the registry, and again after every end, until it is to stop or its budget is spent.
async fn keep_alive(shared: Arc<Shared>, parts: JobRegistryParts) {
    let mut ledger = RestartLedger::default();
    while !shared.is_stopping() {
        let (alive, ended) = oneshot::channel::<()>();
        let registry = JobRegistry::new(Arc::clone(&shared), parts.clone(), alive).start();
        shared.set_registry(Some(registry));
        // The sender lives in the actor and never sends: it is dropped with the actor, however that ends.
        let _dropped = ended.await;
        shared.set_registry(None);
        shared.live.store(0, Ordering::Relaxed);
        if shared.is_stopping() {
            break;
        }
        shared.want_resync();
        match ledger.on_exit(&parts.restarts, parts.clock.moment(), parts.randomness.next_u64()) {
            RestartDecision::Restart(delay) => {
                shared.registry_restarts.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(delay_ms = delay.as_millis(), "job registry ended and is started again");
                tokio::time::sleep(delay).await;
            }
            RestartDecision::Escalate => {
                let last_error = shared.counts(0).last_error;
                tracing::error!(error = last_error, "job registry ended and its restart budget is spent");
                (parts.escalate)(last_error.unwrap_or_else(|| "job registry ended".to_owned()));
                break;
            }
        }
    }
}
