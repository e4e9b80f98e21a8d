//! Watching the agent until nothing of it is left.
//!
//! Promises that the first reason to end an attempt decides its outcome, that every descendant is waited for,
//! and that each one gets SIGTERM, then after the grace SIGKILL until it is gone. A process stuck in the kernel
//! keeps the attempt running: it has not ended.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use horizons_actors::clock::{Clock, SystemClock, Timestamp};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::agent::RunningAgent;
use super::exit;
use super::recorder::Recorder;
use super::space::Space;
use super::{ShimError, log};
use crate::scheduler::local::folder::{self, AttemptResult, CANCEL_FILE, Ending, Launch};
use crate::scheduler::local::measure::{Memory, Meter};
use crate::scheduler::local::process::{self, ProcessStat};

/// The first look at a new agent: soon, so that a short run is measured; each later one waits twice as long.
const FIRST_TICK: Duration = Duration::from_millis(5);

/// How often memory, output and the disk are compared with their limits in the long run.
const LIMITS_TICK: Duration = Duration::from_millis(100);

/// How often the remaining processes are signalled once the attempt is being ended.
const ENDING_TICK: Duration = Duration::from_millis(20);

/// The longest pause between two signals to processes that SIGKILL does not end.
const STUCK_TICK: Duration = Duration::from_secs(1);

/// Signals as readable events.
///
/// They are caught by handlers, not blocked: an agent would inherit a blocked signal, and then no SIGTERM
/// could end it before the grace has passed; handlers do not survive `exec`.
#[derive(Debug)]
pub(super) struct Signals {
    /// Readable once any of the signals has come.
    wake: UnixStream,
    /// The signals that tell the shim to end, each with whether it has come.
    ending: Vec<(Signal, Arc<AtomicBool>)>,
}

/// Signals that tell the shim to end.
const ENDING_SIGNALS: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];

/// Signals that only wake: children and the cancel file are looked at in any case.
const WAKING_SIGNALS: [Signal; 2] = [Signal::SIGCHLD, Signal::SIGUSR1];

impl Signals {
    /// Catches the signals that are to be read.
    pub(super) fn catch() -> Result<Self, ShimError> {
        Self::register().map_err(|source| ShimError::Signals { source })
    }

    fn register() -> std::io::Result<Self> {
        let (wake, sender) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let mut ending = Vec::new();
        for signal in ENDING_SIGNALS {
            let has_come = Arc::new(AtomicBool::new(false));
            // Before the pipe, so that whoever is woken finds it set.
            signal_hook::flag::register(signal as i32, Arc::clone(&has_come))?;
            ending.push((signal, has_come));
        }
        for signal in ENDING_SIGNALS.into_iter().chain(WAKING_SIGNALS) {
            signal_hook::low_level::pipe::register(signal as i32, sender.try_clone()?)?;
        }
        Ok(Self { wake, ending })
    }

    /// Takes all waiting signals; gives one that tells the shim to end.
    fn take(&self) -> Result<Option<Signal>, ShimError> {
        let mut waiting = [0; 64];
        loop {
            match (&self.wake).read(&mut waiting) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => return Err(ShimError::Signals { source }),
            }
        }
        let mut come = self.ending.iter().filter(|(_, has_come)| has_come.swap(false, Ordering::SeqCst));
        Ok(come.next().map(|(signal, _)| *signal))
    }

    fn wait(&self, limit: Duration) -> Result<(), ShimError> {
        let mut descriptors = [PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        // Rounded up: waking a little early would spin until the deadline.
        let millis = limit.as_micros().div_ceil(1000);
        let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
        match poll(&mut descriptors, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(ShimError::system("wait for signals")(error)),
        }
    }
}

/// How the agent's own process ended.
#[derive(Debug, Clone)]
struct AgentExit {
    ending: Ending,
    ended_at: Timestamp,
    ended: Instant,
}

/// The attempt is being ended since then.
#[derive(Debug, Clone, Copy)]
struct EndingSince {
    since: Instant,
    is_told: bool,
    /// Until the next look.
    pause: Duration,
}

/// For how long the agent was made to hold still.
#[derive(Debug, Default)]
struct Hold {
    since: Option<Instant>,
    before: Duration,
}

/// One attempt's agent and what is known of it.
struct Supervision<'a> {
    folder: &'a Path,
    launch: &'a Launch,
    agent: RunningAgent,
    meter: Meter,
    recorder: Recorder,
    space: Space,
    hold: Hold,
    exit: Option<AgentExit>,
    /// Why the attempt was ended before the agent ended by itself.
    cause: Option<Ending>,
    ending: Option<EndingSince>,
    tick: Duration,
}

/// Watches the agent to its end and gives the attempt's result.
pub(super) fn supervise(
    folder: &Path,
    launch: &Launch,
    agent: RunningAgent,
    (samples, space): (File, Space),
    signals: &Signals,
) -> Result<AttemptResult, ShimError> {
    let recorder = Recorder::new(samples, agent.started);
    let mut supervision = Supervision {
        folder,
        launch,
        agent,
        meter: Meter::new(launch.memory_limit_bytes, launch.control_group.clone()),
        recorder,
        space,
        hold: Hold::default(),
        exit: None,
        cause: None,
        ending: None,
        tick: FIRST_TICK,
    };
    loop {
        let told_to_end = signals.take()?;
        let mut descendants = process::descendants(own_pid());
        supervision.reap(&mut descendants)?;
        supervision.look(&descendants, told_to_end);
        supervision.hold_while_the_disk_is_full(&descendants);
        // The list may have missed one that changed its parent while it was made; a child left shows that.
        if supervision.exit.is_some() && descendants.is_empty() && !exit::has_children()? {
            return Ok(supervision.finish());
        }
        supervision.end_descendants(&descendants);
        signals.wait(supervision.until_next_look())?;
    }
}

fn own_pid() -> i32 {
    // A pid on Linux is at most 2^22.
    i32::try_from(std::process::id()).unwrap_or(i32::MAX)
}

impl Supervision<'_> {
    /// Waits for every child that has ended, the agent and orphans alike, and takes it off the list.
    ///
    /// They are found by looking, not by waiting for any child: what a child used can be read only before it is
    /// waited for. One that ends after the look has sent its signal, and is found in the next.
    fn reap(&mut self, descendants: &mut Vec<ProcessStat>) -> Result<(), ShimError> {
        let own = own_pid();
        let mut still_there = Vec::with_capacity(descendants.len());
        for stat in descendants.drain(..) {
            if stat.parent != own || !stat.is_zombie() {
                still_there.push(stat);
                continue;
            }
            self.meter.before_reaping(stat.pid);
            let Some(ending) = exit::wait_for_ended(stat.pid)? else {
                still_there.push(stat);
                continue;
            };
            if stat.pid == self.agent.pid {
                self.exit = Some(AgentExit { ending, ended_at: SystemClock.now(), ended: Instant::now() });
            }
        }
        *descendants = still_there;
        Ok(())
    }

    /// Measures, writes a sample if one is due, and decides whether the attempt is to be ended.
    fn look(&mut self, descendants: &[ProcessStat], told_to_end: Option<Signal>) {
        let now = Instant::now();
        if self.exit.is_none() {
            let usage = self.meter.measure(descendants);
            if now >= self.recorder.due_at(self.sample_interval()) {
                self.recorder.record(usage, now);
            }
            let over_space = self.space.look(now);
            if self.cause.is_none() {
                self.cause = self.reason_to_end(now, usage.memory, told_to_end).or(over_space);
            }
        }
        // What the agent left behind when it ended by itself is ended too.
        if self.ending.is_none() && (self.cause.is_some() || self.exit.is_some()) {
            self.ending = Some(EndingSince { since: now, is_told: false, pause: ENDING_TICK });
        }
    }

    fn reason_to_end(&self, now: Instant, memory: Memory, told_to_end: Option<Signal>) -> Option<Ending> {
        match folder::is_there(&self.folder.join(CANCEL_FILE)) {
            Ok(true) => return Some(Ending::Cancelled),
            Ok(false) => {}
            Err(error) => log(&error.to_string()),
        }
        if let Some(signal) = told_to_end {
            return Some(Ending::ShimStopped { signal: signal.as_str().to_owned() });
        }
        if now >= self.deadline() {
            return Some(Ending::TimeLimit { limit_ms: self.launch.time_limit_ms });
        }
        self.launch
            .memory_limit_bytes
            .filter(|limit_bytes| memory.is_read && memory.bytes > *limit_bytes)
            .map(|limit_bytes| Ending::MemoryLimit { limit_bytes, used_bytes: memory.bytes })
    }

    /// Stops every process of the agent while the disk is full, and lets them go on when there is room.
    ///
    /// So nobody takes what the ballast frees, and nobody meets a write that fails. The time does not count.
    fn hold_while_the_disk_is_full(&mut self, descendants: &[ProcessStat]) {
        let Some(ballast) = &self.launch.ballast else { return };
        // A folder that cannot be asked is no full disk.
        let Ok(room) = ballast.look() else { return };
        match self.hold.since {
            None if room.is_low() => {
                log("the disk is full: the agent holds still until there is room");
                self.hold.since = Some(Instant::now());
            }
            Some(since) if room.is_ample() => {
                log("the disk has room again: the agent goes on");
                self.hold.since = None;
                self.hold.before += since.elapsed();
                if self.ending.is_none() {
                    descendants.iter().for_each(|stat| stat.signal(Signal::SIGCONT));
                }
            }
            None | Some(_) => {}
        }
        if self.hold.since.is_some() && self.ending.is_none() {
            // Again in each look: one that was being started may have been missed.
            for stat in descendants.iter().filter(|stat| !stat.is_zombie() && !stat.is_stopped()) {
                stat.signal(Signal::SIGSTOP);
            }
        }
    }

    fn end_descendants(&mut self, descendants: &[ProcessStat]) {
        let Some(ending) = self.ending.as_mut() else { return };
        // On a full disk there is no grace: nothing could be saved, and whoever is let go on takes the last room.
        let is_grace_over = self.hold.since.is_some()
            || ending.since.elapsed() >= Duration::from_millis(self.launch.kill_grace_ms);
        let signal = if is_grace_over { Signal::SIGKILL } else { Signal::SIGTERM };
        if ending.is_told && !is_grace_over {
            return;
        }
        ending.is_told = true;
        // The group's number belongs to the agent until the agent is waited for, or while a member is left.
        let is_group_ours =
            self.exit.is_none() || descendants.iter().any(|stat| stat.group == self.agent.pid);
        // One that was stopped could not heed the signal.
        let signals = [Some(signal), (signal == Signal::SIGTERM).then_some(Signal::SIGCONT)];
        for signal in signals.into_iter().flatten() {
            if is_group_ours {
                process::signal_group(self.agent.pid, signal);
            }
            for stat in descendants.iter().filter(|stat| stat.group != self.agent.pid && !stat.is_zombie()) {
                stat.signal(signal);
            }
        }
    }

    fn until_next_look(&mut self) -> Duration {
        if let Some(ending) = self.ending.as_mut() {
            let pause = ending.pause;
            // What SIGKILL does not end soon is stuck in the kernel, and may be for hours.
            if ending.since.elapsed() >= Duration::from_millis(self.launch.kill_grace_ms) {
                ending.pause = pause.saturating_mul(2).min(STUCK_TICK);
            }
            return pause;
        }
        let longest = self.sample_interval().min(LIMITS_TICK);
        let tick = self.tick.min(longest);
        self.tick = self.tick.saturating_mul(2).min(longest);
        let now = Instant::now();
        let next = self.deadline().min(self.recorder.due_at(self.sample_interval()));
        tick.min(next.saturating_duration_since(now))
    }

    fn sample_interval(&self) -> Duration {
        Duration::from_millis(self.launch.sample_interval_ms)
    }

    fn deadline(&self) -> Instant {
        let held = self.hold.before + self.hold.since.map_or(Duration::ZERO, |since| since.elapsed());
        self.agent.started + Duration::from_millis(self.launch.time_limit_ms) + held
    }

    fn finish(mut self) -> AttemptResult {
        self.space.finish();
        let exit = self.exit.unwrap_or_else(|| AgentExit {
            ending: Ending::StartFailed { reason: "the agent was never seen".to_owned() },
            ended_at: SystemClock.now(),
            ended: Instant::now(),
        });
        AttemptResult {
            started_at: Some(self.agent.started_at),
            ended_at: exit.ended_at,
            totals: Some(self.recorder.finish(&self.meter, exit.ended)),
            ending: self.cause.unwrap_or(exit.ending),
        }
    }
}
