//! The watchdog: a thread outside all arbiters that judges whether they move (design D5).
//!
//! Promises that a thread which has been inside one piece of code for longer than the limit is found, within
//! a quarter of the limit, and told to whoever ends the process. Waiting for store or log is not being stuck.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix_rt::ArbiterHandle;

use crate::lane::status::StatusBoard;

/// Beats per limit: a healthy thread is heard of several times before it could be called stuck.
const BEATS_PER_LIMIT: u32 = 8;

/// Looks per limit.
const LOOKS_PER_LIMIT: u32 = 4;

/// What was found stuck.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// The thread's name.
    pub thread: String,
    /// For how long it has not moved.
    pub for_at_least: Duration,
    /// The lanes that are inside their behaviour now.
    pub lanes: Vec<String>,
}

/// A thread that beats.
struct Watched {
    name: String,
    beat: Arc<AtomicI64>,
}

/// The running watchdog; dropping it ends its thread.
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
    /// Starts to watch arbiters. `on_stuck` is called once, on the watchdog's thread; it ends the process.
    pub fn start(
        arbiters: Vec<(String, ArbiterHandle)>,
        board: Arc<StatusBoard>,
        limit: Duration,
        on_stuck: impl Fn(Stuck) + Send + 'static,
    ) -> Self {
        let started = Instant::now();
        let is_ended = Arc::new(AtomicBool::new(false));
        let watched: Vec<Watched> = arbiters
            .into_iter()
            .map(|(name, arbiter)| {
                let beat = Arc::new(AtomicI64::new(0));
                arbiter.spawn(keep_beating(
                    Arc::clone(&beat),
                    started,
                    limit / BEATS_PER_LIMIT,
                    Arc::clone(&is_ended),
                ));
                Watched { name, beat }
            })
            .collect();
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let stopped = Arc::clone(&stop);
        let watch = move || {
            let (ended, wake) = &*stopped;
            let mut is_over = ended.lock().unwrap_or_else(PoisonError::into_inner);
            while !*is_over {
                if let Some(stuck) = find_stuck(&watched, &board, micros(started), limit) {
                    on_stuck(stuck);
                    break;
                }
                is_over = wake
                    .wait_timeout(is_over, limit / LOOKS_PER_LIMIT)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
            is_ended.store(true, Ordering::Relaxed);
        };
        let thread = std::thread::Builder::new().name("watchdog".to_owned()).spawn(watch);
        if let Err(error) = &thread {
            tracing::error!(error = %error, "failed to start the watchdog");
        }
        Self { stop, thread: thread.ok() }
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

/// Writes the time down again and again, from inside an arbiter.
async fn keep_beating(beat: Arc<AtomicI64>, started: Instant, every: Duration, is_ended: Arc<AtomicBool>) {
    while !is_ended.load(Ordering::Relaxed) {
        beat.store(micros(started), Ordering::Relaxed);
        tokio::time::sleep(every).await;
    }
}

fn micros(started: Instant) -> i64 {
    i64::try_from(started.elapsed().as_micros()).unwrap_or(i64::MAX)
}

/// Finds a thread whose last beat is older than the limit.
fn find_stuck(watched: &[Watched], board: &StatusBoard, now: i64, limit: Duration) -> Option<Stuck> {
    let (thread, silent) = watched
        .iter()
        .map(|thread| (thread, now.saturating_sub(thread.beat.load(Ordering::Relaxed))))
        .max_by_key(|(_, silent)| *silent)?;
    let silent = Duration::from_micros(u64::try_from(silent).unwrap_or(0));
    if silent < limit {
        return None;
    }
    let lanes = board.lanes().into_iter().filter(|(_, status)| status.busy_since().is_some());
    Some(Stuck {
        thread: thread.name.clone(),
        for_at_least: silent,
        lanes: lanes.map(|(lane, _)| lane.to_string()).collect(),
    })
}
