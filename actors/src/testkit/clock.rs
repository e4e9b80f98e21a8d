//! Time and randomness in the hands of a test.
//!
//! Promises that the clock stands still until it is moved, or moves exactly as tokio's (paused) clock does,
//! and that the same seed gives the same bits. The bits are not fit for secrets.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::{Clock, Moment, Randomness, Timestamp};

/// A wall clock that a test moves.
///
/// ```
/// use std::time::Duration;
/// use horizons_actors::clock::{Clock, Timestamp};
/// use horizons_actors::testkit::ManualClock;
///
/// let clock = ManualClock::at(Timestamp::from_millis(1_000));
///
/// clock.advance(Duration::from_millis(5));
///
/// assert_eq!(clock.now(), Timestamp::from_millis(1_005));
/// ```
#[derive(Debug)]
pub struct ManualClock {
    /// Microseconds since 1970, without what tokio's clock adds.
    micros: AtomicI64,
    /// Microseconds that the test has moved it on, however it was set, without what tokio's clock adds.
    moved_micros: AtomicI64,
    /// Since when tokio's clock adds to it.
    follows_since: Option<Instant>,
}

impl ManualClock {
    /// Makes a clock that stands still at a time.
    pub const fn at(start: Timestamp) -> Self {
        Self {
            micros: AtomicI64::new(start.as_micros()),
            moved_micros: AtomicI64::new(0),
            follows_since: None,
        }
    }

    /// Makes a clock that shows `start` now and goes on as tokio's clock does: under a paused clock, timers
    /// and wall clock then agree. Call it inside the runtime.
    pub fn following_tokio(start: Timestamp) -> Self {
        Self {
            micros: AtomicI64::new(start.as_micros()),
            moved_micros: AtomicI64::new(0),
            follows_since: Some(Instant::now()),
        }
    }

    /// Moves the clock on.
    pub fn advance(&self, duration: Duration) {
        let moved = Timestamp::from_micros(self.micros.load(Ordering::SeqCst)).plus(duration);
        self.micros.store(moved.as_micros(), Ordering::SeqCst);
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        self.moved_micros.fetch_add(micros, Ordering::SeqCst);
    }

    /// Sets the clock, backwards too, as real wall clocks can be.
    pub fn set(&self, now: Timestamp) {
        let elapsed = self.follows_since.map_or(Duration::ZERO, |since| since.elapsed());
        self.micros.store(now.minus(elapsed).as_micros(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        let set = Timestamp::from_micros(self.micros.load(Ordering::SeqCst));
        match self.follows_since {
            None => set,
            Some(since) => set.plus(since.elapsed()),
        }
    }

    fn moment(&self) -> Moment {
        let moved = Moment::from_micros(self.moved_micros.load(Ordering::SeqCst));
        moved.plus(self.follows_since.map_or(Duration::ZERO, |since| since.elapsed()))
    }
}

/// Randomness that repeats itself from a seed.
///
/// ```
/// use horizons_actors::clock::Randomness;
/// use horizons_actors::testkit::SeededRandomness;
///
/// assert_eq!(SeededRandomness::new(7).next_u64(), SeededRandomness::new(7).next_u64());
/// ```
///
/// *Source*: SplitMix64, Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
#[derive(Debug)]
pub struct SeededRandomness {
    state: AtomicU64,
}

/// SplitMix64's increment: the odd number nearest to 2^64 divided by the golden ratio.
const GOLDEN_GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

impl SeededRandomness {
    /// Starts from a seed.
    pub const fn new(seed: u64) -> Self {
        Self { state: AtomicU64::new(seed) }
    }
}

impl Randomness for SeededRandomness {
    fn next_u64(&self) -> u64 {
        let before = self.state.fetch_add(GOLDEN_GAMMA, Ordering::SeqCst);
        let mut mixed = before.wrapping_add(GOLDEN_GAMMA);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn randomness_known_seed_gives_published_numbers() {
        let randomness = SeededRandomness::new(0);

        let drawn = [randomness.next_u64(), randomness.next_u64()];

        assert_eq!(drawn, [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4]);
    }

    #[tokio::test(start_paused = true)]
    async fn clock_following_tokio_moves_with_paused_time() {
        let clock = ManualClock::following_tokio(Timestamp::from_millis(100));

        tokio::time::advance(Duration::from_millis(40)).await;
        let after_wait = clock.now();
        clock.set(Timestamp::from_millis(7));

        assert_eq!(after_wait, Timestamp::from_millis(140));
        assert_eq!(clock.now(), Timestamp::from_millis(7));
    }
}
