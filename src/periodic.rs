//! A thread of its own for what is done again and again, or once and for any time.
//!
//! Of the first promises that the thread ends within a round once its [`Periodic`] is dropped, without a pause being waited
//! out, and
//! that the watchdog sees every round: one that takes longer than it may is a stuck thread.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use horizons_actors::heartbeat::{self, Heartbeat};

/// Starts a thread for one thing that may take any time, as what it waits for has a limit elsewhere or none: it is shown
/// to people, and not judged. Nobody waits for its end.
///
/// *Errors*: when no thread can be started.
pub fn once(
    name: impl Into<String>,
    waits_for: &'static str,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let name = name.into();
    let thread = std::thread::Builder::new().name(name.clone());
    let started = thread.spawn(move || {
        let heartbeat = heartbeat::register(name);
        heartbeat.waits(waits_for);
        run();
    });
    started.map(drop)
}

/// How long a round may take.
#[derive(Debug, Clone, Copy)]
pub enum RoundLimit {
    /// What the watchdog allows every thread.
    OfEveryThread,
    /// Longer: what it waits for has a limit of its own.
    AtMost(Duration),
    /// Any time: nothing else waits for it.
    None,
}

/// What the thread is given to know when a round is due.
#[derive(Debug)]
pub struct Rounds {
    stopped: Receiver<()>,
    heartbeat: Heartbeat,
    limit: RoundLimit,
}

impl Rounds {
    /// Waits for the next round; false when there is none, as the thread shall end.
    pub fn next(&self, pause: Duration) -> bool {
        self.heartbeat.waits("its next round");
        let is_due = matches!(self.stopped.recv_timeout(pause), Err(RecvTimeoutError::Timeout));
        match self.limit {
            RoundLimit::OfEveryThread => self.heartbeat.works("a round"),
            RoundLimit::AtMost(limit) => self.heartbeat.works_at_most("a round", limit),
            RoundLimit::None => self.heartbeat.waits("its round to end"),
        }
        is_due
    }
}

/// A thread that works in rounds; dropping it ends the thread and waits for that.
#[derive(Debug)]
pub struct Periodic {
    name: &'static str,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Periodic {
    /// Starts the thread. It asks [`Rounds::next`] before each round.
    ///
    /// *Errors*: when no thread can be started.
    pub fn start(
        name: &'static str,
        limit: RoundLimit,
        run: impl FnOnce(&Rounds) + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            run(&Rounds { stopped, heartbeat: heartbeat::register(name), limit });
        })?;
        Ok(Self { name, stop: Some(stop), thread: Some(thread) })
    }

    /// The same, and dropping it only tells the thread to end: a round may wait for another machine.
    pub fn not_waited_for(mut self) -> Self {
        self.thread = None;
        self
    }
}

impl Drop for Periodic {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(thread = self.name, "a thread had panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::sync_channel;

    /// Longer than any test may take.
    const NEVER: Duration = Duration::from_secs(3600);

    #[test]
    fn dropped_thread_ends_without_waiting_its_pause_out() {
        let (ended, told) = channel();
        let thread = Periodic::start("ends", RoundLimit::OfEveryThread, move |rounds| {
            ended.send(rounds.next(NEVER)).expect("somebody listens");
        })
        .expect("a thread starts");

        drop(thread);

        assert_eq!(told.try_recv(), Ok(false), "the thread has ended, and was told to");
    }

    #[test]
    fn thread_that_is_not_waited_for_may_be_in_a_round() {
        let (began, told) = channel();
        let (finish, finished) = sync_channel::<()>(0);
        let thread = Periodic::start("lingers", RoundLimit::None, move |rounds| {
            while rounds.next(Duration::ZERO) {
                began.send(()).expect("somebody listens");
                finished.recv().expect("somebody finishes it");
            }
        })
        .expect("a thread starts")
        .not_waited_for();
        told.recv().expect("a round began");

        drop(thread);

        finish.send(()).expect("the thread is still in its round");
        assert!(told.recv().is_err(), "no round follows");
    }

    #[test]
    fn watchdog_sees_rounds_that_have_a_limit() {
        for (limit, is_judged) in [
            (RoundLimit::OfEveryThread, true),
            (RoundLimit::AtMost(Duration::from_secs(7)), true),
            (RoundLimit::None, false),
        ] {
            let (began, told) = channel();
            let (finish, finished) = sync_channel::<()>(0);
            let thread = Periodic::start("is-judged", limit, move |rounds| {
                assert!(rounds.next(Duration::ZERO), "a round is due");
                began.send(()).expect("somebody listens");
                finished.recv().expect("somebody finishes it");
            })
            .expect("a thread starts");
            told.recv().expect("a round began");

            let seen = heartbeat::threads().into_iter().find(|seen| seen.thread == "is-judged");
            finish.send(()).expect("the thread is in its round");
            drop(thread);

            let seen = seen.expect("the thread is registered");
            assert_eq!(seen.state == heartbeat::ThreadState::Working, is_judged, "{limit:?}");
            let allowed =
                if let RoundLimit::AtMost(limit) = limit { Some(limit.as_secs_f64()) } else { None };
            assert_eq!(seen.allowed_seconds, allowed, "{limit:?}");
        }
    }
}
