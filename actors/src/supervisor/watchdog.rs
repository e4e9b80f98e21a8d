//! The watchdog: a thread outside all others that judges whether they move (design D5).
//!
//! Promises that a thread which has been inside one thing for longer than it may be is found, within a quarter of the
//! limit, and that the process is ended then, whatever locks are held, whoever reads the log and however memory is:
//! what is said about it is said on another thread, which is given a moment. Waiting for store or log is not being
//! stuck, and neither is a time in which the process did not run (SIGSTOP, a paused machine): only time counts in
//! which the watchdog itself has looked.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use actix_rt::ArbiterHandle;

use crate::heartbeat::{Heartbeat, Heartbeats, Signs, THREADS_MAX};
use crate::lane::status::StatusBoard;

/// Beats per limit: a healthy thread is heard of several times before it could be called stuck.
const BEATS_PER_LIMIT: u32 = 8;

/// Looks per limit.
const LOOKS_PER_LIMIT: u32 = 8;

/// How long what is said about a stuck thread may take before the process is ended without it.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(2);

/// Nothing was found.
const NONE: usize = usize::MAX;

/// What was found stuck.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// The thread's name.
    pub thread: String,
    /// What it does.
    pub does: &'static str,
    /// For how long it has not moved.
    pub for_at_least: Duration,
    /// The lanes that are inside their behaviour now.
    pub lanes: Vec<String>,
}

/// What is done about a stuck thread.
pub struct Verdict {
    /// Says so; called on a thread of its own, which may wait for anything.
    pub say: Box<dyn Fn(Stuck) + Send>,
    /// Ends the process; called on the watchdog's thread once it is said or could not be. Must not wait for anything.
    pub end: Box<dyn Fn() + Send>,
}

/// What the watchdog and the thread that speaks for it share.
#[derive(Debug)]
struct Found {
    /// The place of the thread that is stuck.
    place: AtomicUsize,
    is_said: AtomicBool,
    is_over: AtomicBool,
}

/// The running watchdog; dropping it ends its threads.
pub struct Watchdog {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Watchdog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watchdog").finish_non_exhaustive()
    }
}

impl Watchdog {
    /// Starts to watch every thread that gives signs of life; arbiters are made to.
    ///
    /// *Errors*: what starting a thread met.
    pub fn start(
        arbiters: Vec<(String, ArbiterHandle)>,
        heartbeats: Heartbeats,
        board: Arc<StatusBoard>,
        limit: Duration,
        verdict: Verdict,
    ) -> std::io::Result<Self> {
        for (name, arbiter) in arbiters {
            // An arbiter that has ended already is not watched.
            arbiter.spawn(keep_beating(heartbeats.register(name), limit));
        }
        let found =
            Arc::new(Found { place: AtomicUsize::new(NONE), is_said: false.into(), is_over: false.into() });
        let Verdict { say, end } = verdict;
        let speaker = {
            let (heartbeats, found) = (heartbeats.clone(), Arc::clone(&found));
            let speak = move || speak(&found, &heartbeats, &board, say.as_ref());
            std::thread::Builder::new().name("watchdog-voice".to_owned()).spawn(speak)?
        };
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let stopped = Arc::clone(&stop);
        let mut judge = Judge::new(limit, Instant::now());
        let watch = move || {
            let (ended, wake) = &*stopped;
            let mut is_over = ended.lock().unwrap_or_else(PoisonError::into_inner);
            while !*is_over {
                if let Some(place) = judge.look(&heartbeats, Instant::now()) {
                    have_said(&found, place, speaker.thread());
                    end();
                    break;
                }
                is_over = wake.wait_timeout(is_over, judge.pause).unwrap_or_else(PoisonError::into_inner).0;
            }
            found.is_over.store(true, Ordering::Release);
            speaker.thread().unpark();
        };
        let thread = std::thread::Builder::new().name("watchdog".to_owned()).spawn(watch)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        let (ended, wake) = &*self.stop;
        *ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // A watchdog that panicked has said so already.
            drop(thread.join());
        }
    }
}

/// Gives signs of life again and again, from inside a thread that runs tasks. It ends with that thread's runtime.
pub async fn keep_beating(heartbeat: Heartbeat, limit: Duration) {
    loop {
        heartbeat.works("its tasks");
        tokio::time::sleep(limit / BEATS_PER_LIMIT).await;
    }
}

/// Has the other thread say what was found, and waits for it, with a limit.
fn have_said(found: &Found, place: usize, speaker: &Thread) {
    found.place.store(place, Ordering::Release);
    speaker.unpark();
    let until = Instant::now() + LAST_WORDS_LIMIT;
    while !found.is_said.load(Ordering::Acquire) {
        let Some(left) = until.checked_duration_since(Instant::now()) else { return };
        // Short, as nobody wakes this thread.
        std::thread::park_timeout(left.min(Duration::from_millis(5)));
    }
}

/// The thread that says what was found; it may take locks and memory.
fn speak(found: &Found, heartbeats: &Heartbeats, board: &StatusBoard, say: &dyn Fn(Stuck)) {
    loop {
        let place = found.place.load(Ordering::Acquire);
        if let Some(thread) = heartbeats.thread(place) {
            let lanes = board.lanes().into_iter().filter(|(_, status)| status.busy_since().is_some());
            say(Stuck {
                thread: thread.thread,
                does: thread.does,
                for_at_least: Duration::from_secs_f64(thread.silent_seconds),
                lanes: lanes.map(|(lane, _)| lane.to_string()).collect(),
            });
        }
        if place != NONE {
            found.is_said.store(true, Ordering::Release);
            return;
        }
        if found.is_over.load(Ordering::Acquire) {
            return;
        }
        std::thread::park();
    }
}

/// The last sign of a thread, and when it was seen, in the time that was looked.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    count: u64,
    at: Duration,
}

/// Judges by what it has seen itself, look by look; takes no memory after its start.
struct Judge {
    limit: Duration,
    pause: Duration,
    seen: Vec<Option<Seen>>,
    looked_at: Instant,
    /// How long it has looked: the time between two looks, but never much more than the pause between them, as
    /// nobody ran in the rest.
    looked: Duration,
}

impl Judge {
    fn new(limit: Duration, now: Instant) -> Self {
        let pause = limit / LOOKS_PER_LIMIT;
        Self { limit, pause, seen: vec![None; THREADS_MAX], looked_at: now, looked: Duration::ZERO }
    }

    /// Looks at every thread; gives the place of one that is stuck.
    fn look(&mut self, heartbeats: &Heartbeats, now: Instant) -> Option<usize> {
        self.looked += now.saturating_duration_since(self.looked_at).min(self.pause * 2);
        self.looked_at = now;
        let (looked, limit) = (self.looked, self.limit);
        self.seen
            .iter_mut()
            .enumerate()
            .find_map(|(place, seen)| is_stuck(seen, heartbeats.signs(place), looked, limit).then_some(place))
    }
}

/// Notes the signs of a place, and tells whether there was none for too long.
fn is_stuck(seen: &mut Option<Seen>, signs: Option<Signs>, looked: Duration, limit: Duration) -> bool {
    match (signs, *seen) {
        (Some(Signs { count, is_working: true, allowed }), Some(last)) if last.count == count => {
            looked.saturating_sub(last.at) >= limit.max(allowed)
        }
        (Some(Signs { count, .. }), _) => {
            *seen = Some(Seen { count, at: looked });
            false
        }
        (None, _) => {
            *seen = None;
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(8);
    const PAUSE: Duration = Duration::from_secs(1);

    /// Looks so many times, a pause apart, and tells at which look something was stuck.
    fn looks(judge: &mut Judge, heartbeats: &Heartbeats, looks: u32) -> Option<u32> {
        (0..looks).find(|_| {
            let next = judge.looked_at + PAUSE;
            judge.look(heartbeats, next).is_some()
        })
    }

    fn watched() -> (Judge, Heartbeats, Heartbeat) {
        let heartbeats = Heartbeats::default();
        let heartbeat = heartbeats.register("worker");
        (Judge::new(LIMIT, Instant::now()), heartbeats, heartbeat)
    }

    #[test]
    fn judge_thread_without_a_sign_is_stuck_after_the_limit() {
        let (mut judge, heartbeats, heartbeat) = watched();
        heartbeat.works("one thing");

        assert_eq!(looks(&mut judge, &heartbeats, 100), Some(8));
    }

    #[test]
    fn judge_thread_that_gives_signs_or_waits_is_never_stuck() {
        let (mut judge, heartbeats, heartbeat) = watched();
        for _ in 0..10 {
            heartbeat.works("one thing after the other");
            assert_eq!(looks(&mut judge, &heartbeats, 8), None);
        }
        heartbeat.waits("more");

        assert_eq!(looks(&mut judge, &heartbeats, 1000), None);
    }

    #[test]
    fn judge_thread_that_may_take_longer_is_given_its_time() {
        let (mut judge, heartbeats, heartbeat) = watched();
        heartbeat.works_at_most("something long", Duration::from_secs(20));

        assert_eq!(looks(&mut judge, &heartbeats, 100), Some(20));
    }

    #[test]
    fn judge_time_in_which_nobody_ran_does_not_count() {
        let (mut judge, heartbeats, heartbeat) = watched();
        heartbeat.works("one thing");
        assert_eq!(looks(&mut judge, &heartbeats, 4), None);

        // Stopped for an hour.
        let after = judge.looked_at + Duration::from_secs(3600);
        assert_eq!(judge.look(&heartbeats, after), None);

        assert_eq!(looks(&mut judge, &heartbeats, 100), Some(2));
    }

    #[test]
    fn watchdog_says_who_is_stuck_before_it_ends_the_process() {
        let heartbeats = Heartbeats::default();
        let heartbeat = heartbeats.register("store-writer");
        heartbeat.works("a commit");
        let (said, heard) = std::sync::mpsc::channel();
        let ended = said.clone();
        let verdict = Verdict {
            say: Box::new(move |stuck| said.send(Some(stuck)).unwrap()),
            end: Box::new(move || ended.send(None).unwrap()),
        };

        let board = Arc::new(StatusBoard::default());
        let limit = Duration::from_millis(80);
        let _watchdog = Watchdog::start(Vec::new(), heartbeats, board, limit, verdict).unwrap();

        let stuck = heard.recv_timeout(Duration::from_secs(60)).unwrap().unwrap();
        assert_eq!((stuck.thread.as_str(), stuck.does), ("store-writer", "a commit"));
        assert_eq!(heard.recv_timeout(Duration::from_secs(60)).unwrap(), None);
    }

    #[test]
    fn watchdog_whose_voice_is_held_up_ends_the_process_all_the_same() {
        let heartbeats = Heartbeats::default();
        let heartbeat = heartbeats.register("store-writer");
        heartbeat.works("a commit");
        let (let_speak, may_speak) = std::sync::mpsc::channel::<()>();
        let (ended, heard) = std::sync::mpsc::channel();
        let verdict = Verdict {
            say: Box::new(move |_| assert!(may_speak.recv().is_err())),
            end: Box::new(move || ended.send(()).unwrap()),
        };

        let board = Arc::new(StatusBoard::default());
        let limit = Duration::from_millis(80);
        let _watchdog = Watchdog::start(Vec::new(), heartbeats, board, limit, verdict).unwrap();

        heard.recv_timeout(Duration::from_secs(60)).unwrap();
        drop(let_speak);
    }
}
