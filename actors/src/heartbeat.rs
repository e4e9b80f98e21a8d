//! Signs of life of the process's threads, for the watchdog and for people (design D5).
//!
//! Promises that a sign costs a few stores and a lock that nobody holds for longer than a copy, and that judging reads
//! nothing but numbers: no lock that anybody could hold, no memory that must be had. A thread says what it does before it does it, and says so too when it
//! waits for something that may take any time: then its silence is not judged. Does not promise anything about
//! threads that do not register.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

/// Threads that may be watched at once: several times what the largest configuration starts. One beyond is not
/// watched, and its registration says so.
pub const THREADS_MAX: usize = 256;

/// What a thread says it does, and since when.
#[derive(Debug, Clone, Default)]
struct Words {
    thread: String,
    does: &'static str,
}

/// A place for one thread's signs.
#[derive(Debug, Default)]
struct Slot {
    is_taken: AtomicBool,
    /// Raised with every sign, over all threads that ever had the place; odd while the thread waits.
    signs: AtomicU64,
    /// When the last sign was given, in microseconds since the registry was made.
    at_micros: AtomicU64,
    /// How long what it does may take, beyond what every thread is allowed.
    allowed_micros: AtomicU64,
    /// For people only: the watchdog does not ask for it before it has judged.
    words: Mutex<Words>,
}

impl Slot {
    fn words(&self) -> MutexGuard<'_, Words> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Registry {
    slots: Vec<Slot>,
    made_at: Instant,
}

/// Threads and their signs.
#[derive(Debug, Clone)]
pub struct Heartbeats(Arc<Registry>);

impl Default for Heartbeats {
    fn default() -> Self {
        let slots = (0..THREADS_MAX).map(|_| Slot::default()).collect();
        Self(Arc::new(Registry { slots, made_at: Instant::now() }))
    }
}

/// What a thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ThreadState {
    /// It does something that must come to an end.
    Working,
    /// It waits for something that may take any time.
    Waiting,
}

/// How a thread is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ThreadSnapshot {
    /// Its name.
    pub thread: String,
    /// Whether it works or waits.
    pub state: ThreadState,
    /// What it does, or what it waits for.
    pub does: &'static str,
    /// For how long it has given no sign.
    pub silent_seconds: f64,
    /// How long what it does may take beyond `lanes.stuck_after_ms`; null where that is all.
    pub allowed_seconds: Option<f64>,
}

/// What the watchdog reads of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signs {
    /// How many signs there were; another number is another sign.
    pub count: u64,
    /// Whether the thread works, and so may be judged.
    pub is_working: bool,
    /// How long what it does may take, if longer than what every thread is allowed.
    pub allowed: Duration,
}

/// Registers the calling thread with the process's registry. It waits until it says otherwise.
pub fn register(thread: impl Into<String>) -> Heartbeat {
    Heartbeats::of_process().register(thread)
}

/// Tells how all registered threads of the process are, by name.
pub fn threads() -> Vec<ThreadSnapshot> {
    Heartbeats::of_process().threads()
}

impl Heartbeats {
    /// Gives the registry of this process: it is the process that ends when one of its threads is stuck.
    pub fn of_process() -> Self {
        static OF_PROCESS: LazyLock<Heartbeats> = LazyLock::new(Heartbeats::default);
        OF_PROCESS.clone()
    }

    /// Gives a thread its place. It waits until it says otherwise.
    pub fn register(&self, thread: impl Into<String>) -> Heartbeat {
        let thread = thread.into();
        let free = |slot: &Slot| !slot.is_taken.swap(true, Ordering::AcqRel);
        let Some(place) = self.0.slots.iter().position(free) else {
            tracing::warn!(thread, "too many threads: this one is not watched");
            return Heartbeat { heartbeats: self.clone(), place: THREADS_MAX };
        };
        let heartbeat = Heartbeat { heartbeats: self.clone(), place };
        if let Some(slot) = heartbeat.slot() {
            slot.words().thread = thread;
        }
        heartbeat.waits("its start");
        heartbeat
    }

    /// Reads a place; none where there is no thread.
    pub fn signs(&self, place: usize) -> Option<Signs> {
        let slot = self.0.slots.get(place)?;
        if !slot.is_taken.load(Ordering::Acquire) {
            return None;
        }
        let count = slot.signs.load(Ordering::Acquire);
        let allowed = Duration::from_micros(slot.allowed_micros.load(Ordering::Relaxed));
        Some(Signs { count, is_working: count.is_multiple_of(2), allowed })
    }

    /// Tells how the thread of a place is.
    pub fn thread(&self, place: usize) -> Option<ThreadSnapshot> {
        let signs = self.signs(place)?;
        let slot = self.0.slots.get(place)?;
        let Words { thread, does } = slot.words().clone();
        let silent = self.micros().saturating_sub(slot.at_micros.load(Ordering::Relaxed));
        Some(ThreadSnapshot {
            thread,
            state: if signs.is_working { ThreadState::Working } else { ThreadState::Waiting },
            does,
            // Finer figures would only be noise.
            silent_seconds: (silent / 1_000) as f64 / 1_000.0,
            allowed_seconds: Some(signs.allowed.as_secs_f64()).filter(|seconds| *seconds > 0.0),
        })
    }

    /// Tells how all threads are, by name.
    pub fn threads(&self) -> Vec<ThreadSnapshot> {
        let mut all: Vec<_> = (0..THREADS_MAX).filter_map(|place| self.thread(place)).collect();
        all.sort_by(|one, other| one.thread.cmp(&other.thread));
        all
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.0.made_at.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// A thread's own signs; dropping it ends the watch.
#[derive(Debug)]
pub struct Heartbeat {
    heartbeats: Heartbeats,
    place: usize,
}

impl Heartbeat {
    fn slot(&self) -> Option<&Slot> {
        self.heartbeats.0.slots.get(self.place)
    }

    /// Says that the thread begins something that every thread must be done with in the watchdog's time.
    pub fn works(&self, at: &'static str) {
        self.works_at_most(at, Duration::ZERO);
    }

    /// Says that the thread begins something that may rightly take this long, if that is longer than the watchdog's
    /// time.
    pub fn works_at_most(&self, at: &'static str, allowed: Duration) {
        self.sign(at, ThreadState::Working, allowed);
    }

    /// Says that the thread waits for something that may take any time: its work, an operator, another machine whose
    /// silence has a limit of its own.
    pub fn waits(&self, for_what: &'static str) {
        self.sign(for_what, ThreadState::Waiting, Duration::ZERO);
    }

    fn sign(&self, does: &'static str, state: ThreadState, allowed: Duration) {
        let Some(slot) = self.slot() else { return };
        let allowed = u64::try_from(allowed.as_micros()).unwrap_or(u64::MAX);
        slot.allowed_micros.store(allowed, Ordering::Relaxed);
        slot.at_micros.store(self.heartbeats.micros(), Ordering::Relaxed);
        slot.words().does = does;
        let signs = slot.signs.load(Ordering::Relaxed);
        let is_waiting = u64::from(state == ThreadState::Waiting);
        // The next number of the wanted kind; only the thread itself writes it.
        slot.signs.store((signs | 1) + 1 + is_waiting, Ordering::Release);
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        if let Some(slot) = self.slot() {
            slot.is_taken.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sign_every_one_is_another_and_tells_what_is_done() {
        let heartbeats = Heartbeats::default();
        let heartbeat = heartbeats.register("reader");
        let place = heartbeat.place;
        let at_start = heartbeats.signs(place).unwrap();
        assert!(!at_start.is_working);

        heartbeat.works("a round");
        let first = heartbeats.signs(place).unwrap();
        heartbeat.works_at_most("a round", Duration::from_secs(60));
        let second = heartbeats.signs(place).unwrap();
        heartbeat.waits("records");
        let third = heartbeats.signs(place).unwrap();

        let working = [first, second, third].map(|signs| (signs.is_working, signs.allowed.as_secs()));
        assert_eq!(working, [(true, 0), (true, 60), (false, 0)]);
        let mut counts = vec![at_start.count, first.count, second.count, third.count];
        counts.dedup();
        assert_eq!(counts.len(), 4);
        let shown = heartbeats.threads();
        assert_eq!((shown[0].thread.as_str(), shown[0].does), ("reader", "records"));
        assert_eq!(shown[0].state, ThreadState::Waiting);
    }

    #[test]
    fn place_of_a_thread_that_ended_is_given_again_with_other_signs() {
        let heartbeats = Heartbeats::default();
        let first = heartbeats.register("first");
        let (place, signs) = (first.place, heartbeats.signs(first.place).unwrap());
        drop(first);
        assert_eq!((heartbeats.signs(place), heartbeats.threads().len()), (None, 0));

        let second = heartbeats.register("second");

        assert_eq!(second.place, place);
        assert_ne!(heartbeats.signs(place).unwrap().count, signs.count);
    }

    #[test]
    fn register_more_threads_than_places_leaves_the_rest_unwatched() {
        let heartbeats = Heartbeats::default();
        let all: Vec<_> = (0..=THREADS_MAX).map(|number| heartbeats.register(number.to_string())).collect();

        all[THREADS_MAX].works("unseen");

        assert_eq!(heartbeats.threads().len(), THREADS_MAX);
    }
}
