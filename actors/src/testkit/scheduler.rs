//! A scheduler whose attempts a test starts, samples and ends.
//!
//! Promises what the scheduler port promises: submitting again answers the same and starts nothing twice; an
//! attempt that was cancelled or lost before it started never starts; `find` tells the truth after a lost
//! answer. Nothing happens by itself: attempts move only when the test says so.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;

use super::locked;
use crate::clock::{Clock, Timestamp};
use crate::ids::{AttemptId, SchedulerJobId};
use crate::ports::Reply;
use crate::ports::scheduler::{
    AttemptEnd, AttemptExit, AttemptReport, AttemptSample, AttemptSpec, AttemptTotals, Scheduler,
    SchedulerError,
};

/// How long `changed` waits at most, by tokio's clock: the poll interval of a real adapter.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// What the scheduler says to a submit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchedulerVerdict {
    /// It takes the attempt.
    Accept,
    /// It refuses the attempt for good, in these words about this field.
    Refuse {
        /// The field at fault.
        field: &'static str,
        /// What was wanted and what was got.
        reason: String,
    },
    /// It is away; it has not taken the attempt.
    Unavailable,
    /// It takes the attempt, but the answer is lost.
    AcceptUnanswered,
    /// It takes the attempt and answers after so long (tokio's time).
    AcceptAfter(Duration),
}

/// Tells why a test's command makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FakeSchedulerError {
    /// The attempt was never submitted.
    #[error("attempt `{0}` was never submitted")]
    Unknown(AttemptId),
    /// The attempt has ended: cancelled, lost or finished.
    #[error("attempt `{0}` has ended")]
    Ended(AttemptId),
    /// The attempt has started already.
    #[error("attempt `{0}` has started already")]
    Started(AttemptId),
    /// The attempt has not started.
    #[error("attempt `{0}` has not started")]
    NotStarted(AttemptId),
}

#[derive(Debug)]
struct FakeAttempt {
    spec: AttemptSpec,
    report: AttemptReport,
    samples: Vec<AttemptSample>,
    is_cancel_wanted: bool,
}

#[derive(Debug, Default)]
struct State {
    attempts: BTreeMap<AttemptId, FakeAttempt>,
    /// Attempts that were cancelled before they were submitted.
    tombstones: BTreeMap<AttemptId, AttemptReport>,
    named: u64,
    starts: BTreeMap<AttemptId, u32>,
    submits: BTreeMap<AttemptId, u32>,
    cancels: Vec<AttemptId>,
    cleaned: Vec<AttemptId>,
    verdicts: VecDeque<SchedulerVerdict>,
    refused_checks: VecDeque<(&'static str, String)>,
    is_away: bool,
    holds_cancels: bool,
}

struct Shared {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
    /// What `changed` has answered for.
    seen: Mutex<watch::Receiver<u64>>,
}

/// A scheduler for tests; clones share it.
///
/// ```
/// use std::sync::Arc;
/// use horizons_actors::clock::Timestamp;
/// use horizons_actors::testkit::{FakeScheduler, ManualClock};
///
/// let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1)));
/// let scheduler = FakeScheduler::new(clock);
///
/// assert_eq!(scheduler.submitted(), vec![]);
/// ```
#[derive(Clone)]
pub struct FakeScheduler {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for FakeScheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeScheduler").field("state", &*locked(&self.shared.state)).finish_non_exhaustive()
    }
}

impl FakeScheduler {
    /// Makes a scheduler that knows no attempt and accepts all.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let changes = watch::Sender::new(0);
        let seen = Mutex::new(changes.subscribe());
        Self { shared: Arc::new(Shared { clock, state: Mutex::default(), changes, seen }) }
    }

    /// Appends what the scheduler says to the next submit of an attempt that it does not know yet.
    pub fn script(&self, verdict: SchedulerVerdict) {
        locked(&self.shared.state).verdicts.push_back(verdict);
    }

    /// Makes the next `check` refuse a field.
    pub fn refuse_check(&self, field: &'static str, reason: &str) {
        locked(&self.shared.state).refused_checks.push_back((field, reason.to_owned()));
    }

    /// Takes the scheduler away: every call fails as transient until [`FakeScheduler::back`]. Attempts go on.
    pub fn away(&self) {
        locked(&self.shared.state).is_away = true;
    }

    /// Brings the scheduler back.
    pub fn back(&self) {
        locked(&self.shared.state).is_away = false;
        self.tell();
    }

    /// Makes cancelled attempts run on until [`FakeScheduler::carry_out_cancels`], as real ones do for a
    /// moment.
    pub fn hold_cancels(&self) {
        locked(&self.shared.state).holds_cancels = true;
    }

    /// Ends every attempt that was cancelled meanwhile, and later ones at once.
    pub fn carry_out_cancels(&self) {
        let now = self.shared.clock.now();
        let mut state = locked(&self.shared.state);
        state.holds_cancels = false;
        for attempt in state.attempts.values_mut().filter(|attempt| attempt.is_cancel_wanted) {
            end(attempt, now, AttemptExit::Cancelled, None);
        }
        drop(state);
        self.tell();
    }

    /// Starts an attempt, as the machine does when its turn comes.
    ///
    /// *Errors*: [`FakeSchedulerError`]; an attempt starts at most once, and never after its end.
    pub fn start(&self, id: &AttemptId) -> Result<(), FakeSchedulerError> {
        let now = self.shared.clock.now();
        let mut state = locked(&self.shared.state);
        let attempt = live(&mut state, id)?;
        if attempt.report.started_at.is_some() {
            return Err(FakeSchedulerError::Started(id.clone()));
        }
        attempt.report.started_at = Some(now);
        *state.starts.entry(id.clone()).or_default() += 1;
        drop(state);
        self.tell();
        Ok(())
    }

    /// Takes a sample of a running attempt.
    ///
    /// *Errors*: [`FakeSchedulerError`].
    pub fn sample(
        &self,
        id: &AttemptId,
        cpu_usage_percent: f64,
        memory_usage_mb: f64,
        io_operations: u64,
    ) -> Result<AttemptSample, FakeSchedulerError> {
        let now = self.shared.clock.now();
        let mut state = locked(&self.shared.state);
        let attempt = live(&mut state, id)?;
        let started_at =
            attempt.report.started_at.ok_or_else(|| FakeSchedulerError::NotStarted(id.clone()))?;
        let sample = AttemptSample {
            index: attempt.report.samples,
            taken_at: now,
            cpu_usage_percent,
            memory_usage_mb,
            io_operations,
            execution_time_seconds: now.since(started_at).as_secs_f64(),
        };
        attempt.samples.push(sample);
        attempt.report.samples += 1;
        drop(state);
        self.tell();
        Ok(sample)
    }

    /// Ends a running attempt well, with totals of its samples.
    ///
    /// *Errors*: [`FakeSchedulerError`].
    pub fn finish(&self, id: &AttemptId) -> Result<(), FakeSchedulerError> {
        self.end_running(id, AttemptExit::Completed)
    }

    /// Ends a running attempt badly.
    ///
    /// *Errors*: [`FakeSchedulerError`].
    pub fn fail(
        &self,
        id: &AttemptId,
        error_code: &str,
        error_message: &str,
    ) -> Result<(), FakeSchedulerError> {
        let (error_code, error_message) = (error_code.to_owned(), error_message.to_owned());
        self.end_running(id, AttemptExit::Failed { error_code, error_message })
    }

    /// Loses an attempt, started or not: it is reported as `attempt_lost`, without totals.
    ///
    /// *Errors*: [`FakeSchedulerError`].
    pub fn lose(&self, id: &AttemptId) -> Result<(), FakeSchedulerError> {
        let now = self.shared.clock.now();
        let exit = AttemptExit::Failed {
            error_code: "attempt_lost".to_owned(),
            error_message: "the attempt left no trace".to_owned(),
        };
        end(live(&mut locked(&self.shared.state), id)?, now, exit, None);
        self.tell();
        Ok(())
    }

    /// Forgets an attempt altogether: `find` does not know it any more.
    pub fn forget(&self, id: &AttemptId) {
        locked(&self.shared.state).attempts.remove(id);
        self.tell();
    }

    /// Counts how often an attempt was started; more than one is a broken promise.
    pub fn starts(&self, id: &AttemptId) -> u32 {
        locked(&self.shared.state).starts.get(id).copied().unwrap_or_default()
    }

    /// Counts how often an attempt was submitted, repeats and failures included.
    pub fn submits(&self, id: &AttemptId) -> u32 {
        locked(&self.shared.state).submits.get(id).copied().unwrap_or_default()
    }

    /// Lists what was accepted, in order of attempt.
    pub fn submitted(&self) -> Vec<AttemptSpec> {
        locked(&self.shared.state).attempts.values().map(|attempt| attempt.spec.clone()).collect()
    }

    /// Lists the calls of `cancel`, repeats included.
    pub fn cancels(&self) -> Vec<AttemptId> {
        locked(&self.shared.state).cancels.clone()
    }

    /// Lists the calls of `clean`, repeats included.
    pub fn cleaned(&self) -> Vec<AttemptId> {
        locked(&self.shared.state).cleaned.clone()
    }

    fn end_running(&self, id: &AttemptId, exit: AttemptExit) -> Result<(), FakeSchedulerError> {
        let now = self.shared.clock.now();
        let mut state = locked(&self.shared.state);
        let attempt = live(&mut state, id)?;
        let started_at =
            attempt.report.started_at.ok_or_else(|| FakeSchedulerError::NotStarted(id.clone()))?;
        let totals = totals_of(&attempt.samples, now.since(started_at));
        end(attempt, now, exit, Some(totals));
        drop(state);
        self.tell();
        Ok(())
    }

    fn tell(&self) {
        self.shared.changes.send_modify(|changes| *changes += 1);
    }

    /// Answers a call, unless the scheduler is away.
    fn call<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut State) -> Result<T, SchedulerError>,
    ) -> Reply<T, SchedulerError> {
        let mut state = locked(&self.shared.state);
        let answer = if state.is_away { Err(unavailable()) } else { act(&mut state) };
        std::future::ready(answer).boxed()
    }
}

fn unavailable() -> SchedulerError {
    SchedulerError::Unavailable("scripted".to_owned())
}

fn live<'a>(state: &'a mut State, id: &AttemptId) -> Result<&'a mut FakeAttempt, FakeSchedulerError> {
    let attempt = state.attempts.get_mut(id).ok_or_else(|| FakeSchedulerError::Unknown(id.clone()))?;
    if attempt.report.end.is_some() {
        return Err(FakeSchedulerError::Ended(id.clone()));
    }
    Ok(attempt)
}

/// Ends an attempt, unless it has ended already.
fn end(attempt: &mut FakeAttempt, now: Timestamp, exit: AttemptExit, totals: Option<AttemptTotals>) {
    attempt.report.end.get_or_insert(AttemptEnd { ended_at: now, exit, totals });
}

fn totals_of(samples: &[AttemptSample], ran: Duration) -> AttemptTotals {
    let cpu: f64 = samples.iter().map(|sample| sample.cpu_usage_percent).sum();
    AttemptTotals {
        cpu_usage_percent: if samples.is_empty() { 0.0 } else { cpu / samples.len() as f64 },
        memory_usage_mb: samples.iter().map(|sample| sample.memory_usage_mb).fold(0.0, f64::max),
        io_operations: samples.iter().map(|sample| sample.io_operations).sum(),
        execution_time_seconds: ran.as_secs_f64(),
    }
}

impl State {
    fn new_report(&mut self, now: Timestamp) -> AttemptReport {
        self.named += 1;
        let scheduler_job_id = SchedulerJobId::parse(&format!("fake-{}", self.named))
            .expect("a short text of letters and digits is a valid identifier");
        AttemptReport { scheduler_job_id, queued_at: now, started_at: None, end: None, samples: 0 }
    }

    fn accept(&mut self, spec: AttemptSpec, now: Timestamp) -> AttemptReport {
        let report = self.tombstones.remove(&spec.id).unwrap_or_else(|| self.new_report(now));
        let attempt =
            FakeAttempt { spec, report: report.clone(), samples: Vec::new(), is_cancel_wanted: false };
        self.attempts.insert(attempt.spec.id.clone(), attempt);
        report
    }
}

impl Scheduler for FakeScheduler {
    fn check(&self, _spec: &AttemptSpec) -> Result<(), SchedulerError> {
        match locked(&self.shared.state).refused_checks.pop_front() {
            None => Ok(()),
            Some((field, reason)) => Err(SchedulerError::Refused { field, reason }),
        }
    }

    fn submit(&self, spec: AttemptSpec) -> Reply<AttemptReport, SchedulerError> {
        let now = self.shared.clock.now();
        let mut state = locked(&self.shared.state);
        *state.submits.entry(spec.id.clone()).or_default() += 1;
        if state.is_away {
            return std::future::ready(Err(unavailable())).boxed();
        }
        if let Some(known) = state.attempts.get(&spec.id) {
            return std::future::ready(Ok(known.report.clone())).boxed();
        }
        let mut delay = Duration::ZERO;
        let answer = match state.verdicts.pop_front().unwrap_or(SchedulerVerdict::Accept) {
            SchedulerVerdict::Accept => Ok(state.accept(spec, now)),
            SchedulerVerdict::Refuse { field, reason } => Err(SchedulerError::Refused { field, reason }),
            SchedulerVerdict::Unavailable => Err(unavailable()),
            SchedulerVerdict::AcceptUnanswered => {
                state.accept(spec, now);
                Err(unavailable())
            }
            SchedulerVerdict::AcceptAfter(after) => {
                delay = after;
                Ok(state.accept(spec, now))
            }
        };
        drop(state);
        self.tell();
        if delay.is_zero() {
            return std::future::ready(answer).boxed();
        }
        async move {
            tokio::time::sleep(delay).await;
            answer
        }
        .boxed()
    }

    fn find(&self, id: AttemptId) -> Reply<Option<AttemptReport>, SchedulerError> {
        self.call(|state| {
            let known = state.attempts.get(&id).map(|attempt| &attempt.report);
            Ok(known.or_else(|| state.tombstones.get(&id)).cloned())
        })
    }

    fn samples(&self, id: AttemptId, from: u64, limit: usize) -> Reply<Vec<AttemptSample>, SchedulerError> {
        self.call(|state| {
            let samples = state.attempts.get(&id).map(|attempt| attempt.samples.as_slice());
            let wanted = samples.unwrap_or_default().iter().filter(|sample| sample.index >= from);
            Ok(wanted.take(limit).copied().collect())
        })
    }

    fn cancel(&self, id: AttemptId) -> Reply<(), SchedulerError> {
        let now = self.shared.clock.now();
        let answer = self.call(|state| {
            state.cancels.push(id.clone());
            let holds = state.holds_cancels;
            match state.attempts.get_mut(&id) {
                Some(attempt) if holds && attempt.report.started_at.is_some() => {
                    attempt.is_cancel_wanted = true;
                }
                Some(attempt) => end(attempt, now, AttemptExit::Cancelled, None),
                None if state.tombstones.contains_key(&id) => {}
                None => {
                    let exit = AttemptExit::Cancelled;
                    let mut report = state.new_report(now);
                    report.end = Some(AttemptEnd { ended_at: now, exit, totals: None });
                    state.tombstones.insert(id, report);
                }
            }
            Ok(())
        });
        self.tell();
        answer
    }

    fn clean(&self, id: AttemptId) -> Reply<(), SchedulerError> {
        self.call(|state| {
            state.cleaned.push(id);
            Ok(())
        })
    }

    fn changed(&self) -> Reply<(), SchedulerError> {
        let shared = Arc::clone(&self.shared);
        async move {
            let mut seen = locked(&shared.seen).clone();
            // The sender lives in `shared`; after the poll interval the answer is the same.
            let _ = tokio::time::timeout(POLL_INTERVAL, seen.changed()).await;
            seen.mark_unchanged();
            *locked(&shared.seen) = seen;
            Ok(())
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
