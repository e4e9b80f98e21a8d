//! The state machine of a job: which step may follow which.
//!
//! Promises that a terminal job is never left, that a finished attempt is left only by the next attempt or by
//! a cancel while it is waited for, and that a transition that two events tell is taken once. Pure: reads no
//! clock and knows no sequence numbers; those are judged before (see [`judge`](mod@super::judge)).

use crate::clock::Timestamp;
use crate::event::JobStatus;
use crate::ids::Attempt;
use crate::state::{JobOrigin, JobView};

/// The first attempt of a job.
pub const FIRST_ATTEMPT: Attempt = Attempt(1);

/// The state of a job.
///
/// ```text
///  job.submitted ─► SUBMITTED ─► QUEUED ─► RUNNING ─► COMPLETED ■
///                       │         │  ▲        │
///                       │         │  │        ├─────► CANCELLED ■ ◄───────────┐
///                       │         │  │        │                               │ cancelled while it waits
///                       └─────────┴──│────────┴─────► FAILED ─► will retry ───┤
///                                    │                   │                    │
///                                    │                   └───► will not: ■    │
///                                    └────────────── attempt n+1 ─────────────┘
///
///  ■ terminal: never left.  Creation is no transition.
///  SUBMITTED and QUEUED lead to CANCELLED and FAILED as RUNNING does.
/// ```
///
/// An owned job follows exactly these edges, and every transition is a pair: `job.status_changed` takes it,
/// the typed event of the same status and attempt confirms it, and nothing comes between. Where events of it
/// are missing for good, because an operator gave them up, the next one that its owner vouches for is taken
/// from any state but a terminal one ([`State::jump`]).
///
/// An external producer is held to less, because we cannot ask it what it left out: it may skip states
/// forward within an attempt (SUBMITTED → RUNNING, QUEUED → COMPLETED, …) and enter a further attempt in any
/// status but SUBMITTED; it may send only `job.status_changed`, only typed events, or pairs. Whichever comes
/// first takes the transition. A typed event that comes second confirms; a `job.status_changed` that comes
/// second repeats a transition that was taken and is refused, since the pair's order is fixed. The previous
/// status that an external producer names is its own account and is not compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Accepted from the user; no attempt yet.
    Submitted {
        /// When (event time).
        since: Timestamp,
        /// Whether `job.submitted` was seen.
        is_confirmed: bool,
    },
    /// Accepted by the scheduler.
    Queued(Stay),
    /// At work.
    Running(Stay),
    /// Ended well.
    Completed(Stay),
    /// Ended badly.
    Failed {
        /// The attempt that failed, and since when.
        stay: Stay,
        /// Whether another attempt follows.
        will_retry: bool,
    },
    /// Ended by a user.
    Cancelled(Stay),
}

/// What every state of an attempt carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stay {
    /// The attempt.
    pub attempt: Attempt,
    /// When the state was entered (event time).
    pub since: Timestamp,
    /// Whether the typed event was seen.
    pub is_confirmed: bool,
}

/// The status that an event tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The status.
    pub status: JobStatus,
    /// The attempt; without meaning for SUBMITTED.
    pub attempt: Attempt,
    /// Whether another attempt follows; without meaning for any status but FAILED.
    pub will_retry: bool,
    /// When it happened (event time).
    pub at: Timestamp,
}

/// What an event says to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// `job.status_changed`.
    Changed {
        /// Where the job was.
        previous: JobStatus,
        /// Where it is.
        target: Target,
    },
    /// The event that the status has as its own: `job.submitted`, `job.queued`, …
    Typed(Target),
}

impl Input {
    /// Gives the status that the event tells of.
    pub const fn target(&self) -> Target {
        match self {
            Input::Changed { target, .. } | Input::Typed(target) => *target,
        }
    }

    const fn is_typed(&self) -> bool {
        match self {
            Input::Changed { .. } => false,
            Input::Typed(_) => true,
        }
    }
}

/// What an input did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The state was entered.
    Entered,
    /// The state was entered before; this is the second event of the pair.
    Confirmed,
}

/// Tells why the machine does not take an input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The job has ended and no attempt follows.
    #[error("the job is {status} and no attempt follows: wanted no further event, got {got}")]
    Terminal {
        /// The status that it ended in.
        status: JobStatus,
        /// What the event tells of.
        got: JobStatus,
    },
    /// No edge leads there.
    #[error("no transition leads from {from} to {to}")]
    Illegal {
        /// Where the job is.
        from: JobStatus,
        /// Where the event puts it.
        to: JobStatus,
    },
    /// The edge exists, but for another attempt.
    #[error("`attempt` does not fit: wanted {wanted}, got {got}")]
    WrongAttempt {
        /// The attempt that would fit; for an external producer the least.
        wanted: Attempt,
        /// What the event says.
        got: Attempt,
    },
    /// The job was elsewhere than the event says.
    #[error("`previous_status` does not fit: wanted {wanted}, got {got}")]
    WrongPrevious {
        /// Where the job is.
        wanted: JobStatus,
        /// What the event says.
        got: JobStatus,
    },
    /// The second event of a pair says something else than the first.
    #[error("`will_retry` differs within the pair: wanted {wanted}, got {got}")]
    PairDiffers {
        /// What the first event said.
        wanted: bool,
        /// What this one says.
        got: bool,
    },
    /// An owned job's transition is still without its typed event.
    #[error("the pair is open: wanted the typed event of {status}, got another")]
    PairOpen {
        /// The status that waits for its typed event.
        status: JobStatus,
    },
    /// An owned job's transition began with the typed event.
    #[error("the pair begins with `job.status_changed`: got the typed event of {got} first")]
    PairOrder {
        /// What the event tells of.
        got: JobStatus,
    },
    /// An owned job began with something else than `job.submitted`.
    #[error("the first event is `job.submitted`: got {got}")]
    NotSubmitted {
        /// What the event tells of.
        got: JobStatus,
    },
}

impl Refusal {
    /// Gives the stable name of the reason.
    pub const fn reason(&self) -> &'static str {
        match self {
            Refusal::Terminal { .. } => "terminal_job",
            Refusal::Illegal { .. } => "illegal_transition",
            Refusal::WrongAttempt { .. } => "wrong_attempt",
            Refusal::WrongPrevious { .. } => "wrong_previous_status",
            Refusal::PairDiffers { .. } => "pair_differs",
            Refusal::PairOpen { .. } => "pair_open",
            Refusal::PairOrder { .. } => "pair_order",
            Refusal::NotSubmitted { .. } => "not_submitted",
        }
    }
}

/// What kind of edge leads from one status to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edge {
    /// Within the attempt.
    Step,
    /// Within the attempt, past a state; external producers only.
    Skip,
    /// Into the next attempt.
    NextAttempt,
    /// Into the next attempt, past its first state; external producers only.
    NextAttemptSkip,
    /// Out of the wait for the next attempt.
    CancelWait,
    /// There is none.
    None,
}

/// Gives the edge between two statuses, whosever job it is.
const fn edge(from: JobStatus, to: JobStatus) -> Edge {
    use JobStatus::{Cancelled, Completed, Failed, Queued, Running, Submitted};
    match (from, to) {
        (Submitted, Queued | Failed | Cancelled)
        | (Queued, Running | Failed | Cancelled)
        | (Running, Completed | Failed | Cancelled) => Edge::Step,
        (Submitted, Running | Completed) | (Queued, Completed) => Edge::Skip,
        (Failed, Queued) => Edge::NextAttempt,
        (Failed, Running | Completed | Failed) => Edge::NextAttemptSkip,
        (Failed, Cancelled) => Edge::CancelWait,
        (Submitted | Queued | Running | Failed, Submitted)
        | (Queued, Queued)
        | (Running, Queued | Running)
        | (Completed | Cancelled, Submitted | Queued | Running | Completed | Failed | Cancelled) => {
            Edge::None
        }
    }
}

impl State {
    /// Makes the state that a job's first event puts it in: SUBMITTED by `job.submitted`; an external job is
    /// taken as it is found.
    ///
    /// *Errors*: [`Refusal::NotSubmitted`] when an owned job begins otherwise.
    pub fn first(input: Input, origin: JobOrigin) -> Result<Self, Refusal> {
        let target = input.target();
        let is_submission = match input {
            Input::Typed(target) => target.status == JobStatus::Submitted,
            Input::Changed { .. } => false,
        };
        match origin {
            JobOrigin::Owned if !is_submission => Err(Refusal::NotSubmitted { got: target.status }),
            JobOrigin::Owned | JobOrigin::External => Ok(Self::enter(target, input.is_typed())),
        }
    }

    /// Takes an input of an owned job although inputs before it are missing: the job is where its owner says.
    ///
    /// *Errors*: [`Refusal::Terminal`]; the state stays as it is.
    pub const fn jump(before: Option<Self>, input: Input) -> Result<Self, Refusal> {
        match before {
            Some(state) if state.is_terminal() => {
                Err(Refusal::Terminal { status: state.status(), got: input.target().status })
            }
            Some(_) | None => Ok(Self::enter(input.target(), input.is_typed())),
        }
    }

    /// Takes an input: the state after it, and whether that was entered or only confirmed.
    ///
    /// *Errors*: [`Refusal`]; the state stays as it is.
    pub fn next(self, input: Input, origin: JobOrigin) -> Result<(Self, Step), Refusal> {
        if let Input::Typed(target) = input
            && self.awaits(target)
        {
            return self.confirm(target).map(|state| (state, Step::Confirmed));
        }
        let target = input.target();
        if self.is_terminal() {
            return Err(Refusal::Terminal { status: self.status(), got: target.status });
        }
        if origin == JobOrigin::Owned {
            self.check_pair(input)?;
        }
        self.check_edge(target, origin)?;
        Ok((Self::enter(target, input.is_typed()), Step::Entered))
    }

    /// Tells whether the typed event of this target is the one that the state waits for.
    fn awaits(self, target: Target) -> bool {
        let is_same_attempt = target.status == JobStatus::Submitted || target.attempt == self.attempt();
        !self.is_confirmed() && target.status == self.status() && is_same_attempt
    }

    /// Marks the state as confirmed.
    fn confirm(self, target: Target) -> Result<Self, Refusal> {
        let confirmed = |stay: Stay| Stay { is_confirmed: true, ..stay };
        Ok(match self {
            State::Submitted { since, .. } => State::Submitted { since, is_confirmed: true },
            State::Queued(stay) => State::Queued(confirmed(stay)),
            State::Running(stay) => State::Running(confirmed(stay)),
            State::Completed(stay) => State::Completed(confirmed(stay)),
            State::Cancelled(stay) => State::Cancelled(confirmed(stay)),
            State::Failed { will_retry, .. } if will_retry != target.will_retry => {
                return Err(Refusal::PairDiffers { wanted: will_retry, got: target.will_retry });
            }
            State::Failed { stay, will_retry } => State::Failed { stay: confirmed(stay), will_retry },
        })
    }

    /// Checks what only an owned job is held to: whole pairs, in order, from where the job is.
    fn check_pair(self, input: Input) -> Result<(), Refusal> {
        if !self.is_confirmed() {
            return Err(Refusal::PairOpen { status: self.status() });
        }
        match input {
            Input::Typed(target) => Err(Refusal::PairOrder { got: target.status }),
            Input::Changed { previous, .. } if previous != self.status() => {
                Err(Refusal::WrongPrevious { wanted: self.status(), got: previous })
            }
            Input::Changed { .. } => Ok(()),
        }
    }

    /// Checks that an edge leads to the target, for its attempt. The state is not terminal.
    fn check_edge(self, target: Target, origin: JobOrigin) -> Result<(), Refusal> {
        let edge = edge(self.status(), target.status);
        let is_external = origin == JobOrigin::External;
        let is_there = match edge {
            Edge::Step | Edge::NextAttempt | Edge::CancelWait => true,
            Edge::Skip | Edge::NextAttemptSkip => is_external,
            Edge::None => false,
        };
        if !is_there {
            return Err(Refusal::Illegal { from: self.status(), to: target.status });
        }
        let current = self.attempt();
        let is_first = matches!(self, State::Submitted { .. });
        let (wanted, fits) = match edge {
            // An external producer may have made attempts that it never told of.
            Edge::Step | Edge::Skip if is_first => {
                (FIRST_ATTEMPT, is_external || target.attempt == FIRST_ATTEMPT)
            }
            Edge::NextAttempt | Edge::NextAttemptSkip => {
                let following = Attempt(current.0.saturating_add(1));
                let is_later = is_external && target.attempt > current;
                (following, is_later || target.attempt == following && following > current)
            }
            Edge::Step | Edge::Skip | Edge::CancelWait | Edge::None => (current, target.attempt == current),
        };
        if fits { Ok(()) } else { Err(Refusal::WrongAttempt { wanted, got: target.attempt }) }
    }

    /// Makes the state that a target names.
    const fn enter(target: Target, is_confirmed: bool) -> Self {
        let stay = Stay { attempt: target.attempt, since: target.at, is_confirmed };
        match target.status {
            JobStatus::Submitted => State::Submitted { since: target.at, is_confirmed },
            JobStatus::Queued => State::Queued(stay),
            JobStatus::Running => State::Running(stay),
            JobStatus::Completed => State::Completed(stay),
            JobStatus::Failed => State::Failed { stay, will_retry: target.will_retry },
            JobStatus::Cancelled => State::Cancelled(stay),
        }
    }

    /// Reads the state out of a stored view.
    pub const fn of_view(view: &JobView) -> Self {
        let target = Target {
            status: view.status,
            attempt: view.attempt,
            will_retry: view.will_retry,
            at: view.status_since,
        };
        Self::enter(target, view.is_confirmed)
    }

    /// Writes the state into a view.
    pub const fn write_to(self, view: &mut JobView) {
        view.status = self.status();
        view.attempt = self.attempt();
        view.will_retry = self.will_retry();
        view.is_confirmed = self.is_confirmed();
        view.status_since = self.since();
    }

    /// Gives the status.
    pub const fn status(self) -> JobStatus {
        match self {
            State::Submitted { .. } => JobStatus::Submitted,
            State::Queued(_) => JobStatus::Queued,
            State::Running(_) => JobStatus::Running,
            State::Completed(_) => JobStatus::Completed,
            State::Failed { .. } => JobStatus::Failed,
            State::Cancelled(_) => JobStatus::Cancelled,
        }
    }

    /// Gives the attempt; 0 before the first.
    pub const fn attempt(self) -> Attempt {
        match self {
            State::Submitted { .. } => Attempt(0),
            State::Queued(stay)
            | State::Running(stay)
            | State::Completed(stay)
            | State::Cancelled(stay)
            | State::Failed { stay, .. } => stay.attempt,
        }
    }

    /// Gives when the state was entered (event time).
    pub const fn since(self) -> Timestamp {
        match self {
            State::Submitted { since, .. } => since,
            State::Queued(stay)
            | State::Running(stay)
            | State::Completed(stay)
            | State::Cancelled(stay)
            | State::Failed { stay, .. } => stay.since,
        }
    }

    /// Tells whether the typed event was seen.
    pub const fn is_confirmed(self) -> bool {
        match self {
            State::Submitted { is_confirmed, .. } => is_confirmed,
            State::Queued(stay)
            | State::Running(stay)
            | State::Completed(stay)
            | State::Cancelled(stay)
            | State::Failed { stay, .. } => stay.is_confirmed,
        }
    }

    /// Tells whether another attempt follows.
    pub const fn will_retry(self) -> bool {
        match self {
            State::Failed { will_retry, .. } => will_retry,
            State::Submitted { .. }
            | State::Queued(_)
            | State::Running(_)
            | State::Completed(_)
            | State::Cancelled(_) => false,
        }
    }

    /// Tells whether the job has ended and no attempt follows.
    pub const fn is_terminal(self) -> bool {
        match self {
            State::Completed(_) | State::Cancelled(_) => true,
            State::Failed { will_retry, .. } => !will_retry,
            State::Submitted { .. } | State::Queued(_) | State::Running(_) => false,
        }
    }
}

#[cfg(test)]
mod tests;
