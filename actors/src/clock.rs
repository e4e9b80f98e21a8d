//! The clocks and randomness as ports: one that tells the date and can be set, and one that only goes on.
//!
//! Promises that nothing in the core asks the operating system for the time or for random bits: both are
//! passed in, so that a whole system runs under a paused clock or from a seed. Timers use tokio's own
//! clock, which tests pause. What took how long, and what happens how often, is measured between [`Moment`]s: the
//! wall clock may be set back or forward at any time, and must then neither spend a budget nor make a rate.

use std::fmt;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

mod rfc3339;

/// A point in time, UTC.
///
/// *Units*: microseconds since 1970-01-01T00:00:00Z. Written as RFC 3339 with microseconds.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Takes microseconds since the epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Takes milliseconds since the epoch, the unit of Kafka's record timestamps.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1000))
    }

    /// Gives microseconds since the epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Gives whole milliseconds since the epoch.
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// Gives the time so much later.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// Gives the time so much earlier.
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// Gives how much later this is than `earlier`, zero if it is not later.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Reads RFC 3339 with any offset.
    pub fn parse(text: &str) -> Option<Self> {
        rfc3339::parse_micros(text.as_bytes())
            .or_else(|| DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_micros()))
            .map(Self)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = rfc3339::format_micros(self.0) {
            return f.write_str(std::str::from_utf8(&text).expect("digits and punctuation are ASCII"));
        }
        match DateTime::<Utc>::from_timestamp_micros(self.0) {
            Some(time) => f.write_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true)),
            None => write!(f, "{}us", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("wanted an RFC 3339 time"))
    }
}

/// A point on a clock that nobody sets: it only goes on, from a start of its own.
///
/// *Units*: microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Moment(i64);

impl Moment {
    /// Takes microseconds since the clock's own start.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Takes milliseconds since the clock's own start.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1000))
    }

    /// Gives the moment so much later.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// Gives how much later this is than `earlier`, zero if it is not later.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// Both clocks, read at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// The date, for what is shown and stored and for the age of what others have dated.
    pub wall: Timestamp,
    /// For what took how long.
    pub moment: Moment,
}

/// Tells the time.
pub trait Clock: Send + Sync {
    /// Gives the wall-clock time now.
    fn now(&self) -> Timestamp;

    /// Gives the moment that it is on the clock that nobody sets.
    fn moment(&self) -> Moment;

    /// Reads both.
    fn reading(&self) -> Now {
        Now { wall: self.now(), moment: self.moment() }
    }
}

/// Gives random bits; seeded in a simulation.
pub trait Randomness: Send + Sync {
    /// Gives 64 random bits.
    fn next_u64(&self) -> u64;

    /// Makes a random UUID (version 4) of two draws.
    fn next_uuid(&self) -> Uuid {
        let bits = (u128::from(self.next_u64()) << 64) | u128::from(self.next_u64());
        uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
    }
}

/// The operating system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp(Utc::now().timestamp_micros())
    }

    fn moment(&self) -> Moment {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        Moment(i64::try_from(START.elapsed().as_micros()).unwrap_or(i64::MAX))
    }
}

/// The operating system's randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandomness;

impl Randomness for SystemRandomness {
    fn next_u64(&self) -> u64 {
        let (high, _) = Uuid::new_v4().as_u64_pair();
        let (_, low) = Uuid::new_v4().as_u64_pair();
        // Two draws are mixed because a version 4 UUID has six fixed bits.
        high ^ low.rotate_left(32)
    }

    fn next_uuid(&self) -> Uuid {
        Uuid::new_v4()
    }
}
