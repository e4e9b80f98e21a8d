//! The one thread that writes.
//!
//! Promises that whatever it answers as written is durable, that log ends are told before the answers, and
//! that it ends the process rather than go on after the disk failed under a commit.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use horizons_actors::heartbeat::{self, Heartbeat};
use horizons_actors::ids::LogId;
use horizons_actors::ports::log::LogHeads;
use horizons_actors::ports::store::{AppendedAt, CommitError};

use super::lanes::Lanes;
use super::link::Link;
use super::numbers::EntryNumbers;
use super::placing::Placing;
use super::profile::WriterProfile;
use super::queue::{LaneCommit, LaneWork, Queue, Round, closed};
use super::round::{self, Context, Done, UsedBytes};
use super::source;
use crate::db::fatal::{FatalError, FatalHook};
use crate::db::outcome::RoundError;

/// What the writer works with.
pub(super) struct Writer {
    pub(super) link: Link,
    pub(super) queue: Arc<Queue>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) heads: Arc<LogHeads>,
    pub(super) log_id: LogId,
    pub(super) disk_limit_bytes: u64,
    pub(super) used: UsedBytes,
    pub(super) profile: Arc<WriterProfile>,
    pub(super) entry_numbers: EntryNumbers,
    pub(super) placing: Placing,
    pub(super) commit_delay: Option<Duration>,
    pub(super) on_fatal: FatalHook,
}

/// Starts the thread.
pub(super) fn start(writer: Writer) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || writer.work())
}

impl Writer {
    fn work(mut self) {
        let queue = Arc::clone(&self.queue);
        let on_fatal = Arc::clone(&self.on_fatal);
        let ended = catch_unwind(AssertUnwindSafe(|| {
            let heartbeat = heartbeat::register("store-writer");
            let mut idle_since = Instant::now();
            heartbeat.waits("work");
            while let Some(round) = self.queue.take() {
                self.profile.waited_since(idle_since);
                self.carry_out(round, &heartbeat)?;
                idle_since = Instant::now();
                heartbeat.waits("work");
            }
            Ok(())
        }));
        let fatal = match ended {
            Ok(Ok(())) => return,
            Ok(Err(fatal)) => fatal,
            Err(panic) => FatalError::Panicked(panic_text(panic.as_ref())),
        };
        answer_failed(queue.abandon(), &RoundError::RolledBack(closed()));
        on_fatal(&fatal);
    }

    /// Writes a round; if a member fails for a reason of its own, all of them one by one.
    fn carry_out(&mut self, round: Round, heartbeat: &Heartbeat) -> Result<(), FatalError> {
        heartbeat.works_at_most("a commit", self.link.commit_limit());
        wait(self.commit_delay);
        let outcome = self.run(&round);
        match outcome {
            Err(error) if error.may_be_a_member() && round.commands.len() + round.lanes.len() > 1 => {
                tracing::debug!(error = ?error, "a member of a commit failed: each is tried alone");
                for member in alone(round) {
                    heartbeat.works_at_most("a commit", self.link.commit_limit());
                    let outcome = self.run(&member);
                    self.answer(member, outcome)?;
                }
            }
            outcome => self.answer(round, outcome)?,
        }
        self.link.after_round()
    }

    /// Writes a round. One whose rows went by a layout that another process has changed is written once more, by the new one.
    fn run(&mut self, round: &Round) -> Result<Done, RoundError> {
        match self.run_once(round) {
            Err(_) if self.placing.take_outdated() => self.run_once(round),
            outcome => outcome,
        }
    }

    fn run_once(&mut self, round: &Round) -> Result<Done, RoundError> {
        let context = Context {
            log_id: &self.log_id,
            lanes: &self.lanes,
            disk_limit_bytes: self.disk_limit_bytes,
            used: &self.used,
            profile: &self.profile,
            entry_numbers: &self.entry_numbers,
            placing: &self.placing,
        };
        let connection = self.link.connection().map_err(RoundError::RolledBack)?;
        let outcome = round::run(connection, &context, round);
        if outcome.is_err() {
            self.link.check(&self.entry_numbers);
        }
        outcome
    }

    /// Publishes what is committed, then answers.
    fn answer(&mut self, round: Round, outcome: Result<Done, RoundError>) -> Result<(), FatalError> {
        match outcome {
            Ok(done) => {
                self.link.committed();
                self.lanes.publish(done.made.iter().cloned());
                source::publish(&self.heads, &done.ends, Instant::now());
                answer_done(round, &done.places);
                Ok(())
            }
            Err(error) => {
                if let RoundError::Disk(text) = &error {
                    // Whoever waits is told that the store ended, which is true whatever is on the disk.
                    return Err(FatalError::Disk(text.clone()));
                }
                if let RoundError::Unknown(_) = &error {
                    // It may be committed, also a moment from now.
                    self.heads.doubt();
                }
                answer_failed(round, &error);
                Ok(())
            }
        }
    }
}

/// Gives the text of a panic.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a text".to_owned())
}

/// Waits, when a test wants a slow store.
fn wait(delay: Option<Duration>) {
    let Some(delay) = delay else { return };
    let end = Instant::now() + delay;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}

/// Takes a round apart, in its order.
fn alone(round: Round) -> impl Iterator<Item = Round> {
    let commands =
        round.commands.into_iter().map(|command| Round { commands: vec![command], lanes: Vec::new() });
    let lanes = round.lanes.into_iter().map(|lane| Round { commands: Vec::new(), lanes: vec![lane] });
    commands.chain(lanes)
}

/// Answers a committed round.
fn answer_done(round: Round, places: &[AppendedAt]) {
    for member in round.commands {
        member.answer(places);
    }
    for work in round.lanes {
        match work {
            LaneWork::Ask { member, .. } => member.answer(places),
            LaneWork::Commit(LaneCommit { written, answer, .. }) => {
                let _unheard = answer.send(written.into_inner().ok_or(CommitError::Fenced));
            }
        }
    }
}

/// Answers a round that failed as a whole.
fn answer_failed(round: Round, error: &RoundError) {
    for member in round.commands {
        member.fail(error);
    }
    for work in round.lanes {
        match work {
            LaneWork::Ask { member, .. } => member.fail(error),
            LaneWork::Commit(LaneCommit { answer, .. }) => {
                let _unheard = answer.send(Err(error.as_commit_error()));
            }
        }
    }
}
