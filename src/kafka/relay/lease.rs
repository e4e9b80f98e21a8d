//! When the relay may send, by its own clock. Pure.
//!
//! The lease ends by the database's clock. Its holder stops at two thirds of it by a monotonic clock, counted
//! from before the request: so it has stopped before another can have taken over, however long the answer
//! took, unless the two clocks run apart by a third (or the process was frozen; then the cursors are fenced).
//!
//! ```text
//! free ──ask──► asking ──granted──► held ──at a third──► renewing ──true──► held
//!  ▲  ▲            │refused, failed        │two thirds passed   │false
//!  │  └────────────┘                       │                    │
//!  └───────────────────────────────────────┴────────────────────┘
//! ```

use std::time::{Duration, Instant};

use horizons_actors::ids::Epoch;

/// How often a relay that does not hold the lease asks for it, in parts of the lease.
const ASKS_PER_LEASE: u32 = 6;

/// What to ask the store for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// The lease.
    Take,
    /// More time for this epoch.
    Renew(Epoch),
}

#[derive(Debug, Clone, Copy)]
struct Held {
    epoch: Epoch,
    /// When the request that granted it was made.
    since: Instant,
}

/// Keeps the lease.
#[derive(Debug)]
pub(super) struct LeaseKeeper {
    duration: Duration,
    held: Option<Held>,
    /// When the request that waits for its answer was made.
    asked: Option<Instant>,
    /// Not before this is asked again.
    ask_at: Option<Instant>,
}

impl LeaseKeeper {
    pub(super) fn new(duration: Duration) -> Self {
        Self { duration, held: None, asked: None, ask_at: None }
    }

    /// Gives the lease's length.
    pub(super) const fn duration(&self) -> Duration {
        self.duration
    }

    /// Tells what is to be asked now; the answer to an earlier request is waited for first.
    pub(super) fn ask(&mut self, now: Instant) -> Option<Ask> {
        if self.asked.is_some() || self.ask_at.is_some_and(|at| now < at) {
            return None;
        }
        let ask = match self.held.filter(|held| now < held.since + self.duration * 2 / 3) {
            None => Ask::Take,
            Some(held) if now >= held.since + self.duration / 3 => Ask::Renew(held.epoch),
            Some(_) => return None,
        };
        self.asked = Some(now);
        Some(ask)
    }

    /// Takes a grant of the lease, or its refusal.
    pub(super) fn taken(&mut self, epoch: Option<Epoch>, now: Instant) {
        let since = self.asked.take().unwrap_or(now);
        self.held = epoch.map(|epoch| Held { epoch, since });
        self.ask_at = self.held.is_none().then(|| now + self.duration / ASKS_PER_LEASE);
    }

    /// Takes the answer to a renewal.
    pub(super) fn renewed(&mut self, is_ours: bool, now: Instant) {
        let since = self.asked.take().unwrap_or(now);
        match &mut self.held {
            Some(held) if is_ours => held.since = since,
            _ => self.held = None,
        }
        self.ask_at = None;
    }

    /// Takes a failure of the request: what is held stays held for the time it has.
    pub(super) fn failed(&mut self, now: Instant) {
        self.asked = None;
        self.ask_at = Some(now + self.duration / (ASKS_PER_LEASE * 4));
    }

    /// Gives the lease up at once: the store has told that it is another's.
    pub(super) fn lose(&mut self, now: Instant) {
        self.held = None;
        self.ask_at = Some(now + self.duration / ASKS_PER_LEASE);
    }

    /// Notes that sending has stopped because the time was over: an answer that comes late grants nothing any
    /// more, as nobody would send under it; the lease is taken anew.
    pub(super) fn stopped(&mut self) {
        self.held = None;
    }

    /// Gives the epoch while sending is allowed.
    pub(super) fn epoch(&self, now: Instant) -> Option<Epoch> {
        self.held.filter(|held| now < held.since + self.duration * 2 / 3).map(|held| held.epoch)
    }

    /// Tells how long nothing happens by itself.
    pub(super) fn sleep(&self, now: Instant) -> Duration {
        let wake = match (self.asked, self.held, self.ask_at) {
            (Some(_), Some(held), _) => held.since + self.duration * 2 / 3,
            (Some(_), None, _) => now + self.duration,
            (None, Some(held), at) => {
                let renew = (held.since + self.duration / 3).max(at.unwrap_or(held.since));
                renew.min(held.since + self.duration * 2 / 3)
            }
            (None, None, at) => at.unwrap_or(now),
        };
        wake.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEASE: Duration = Duration::from_millis(900);

    fn after(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn keeper_held_lease_is_renewed_at_a_third_and_ends_at_two_thirds() {
        let start = Instant::now();
        let mut keeper = LeaseKeeper::new(LEASE);

        assert_eq!(keeper.ask(start), Some(Ask::Take));
        assert_eq!(keeper.ask(start), None, "one request at a time");
        keeper.taken(Some(Epoch(4)), after(start, 100));
        assert_eq!(keeper.epoch(after(start, 100)), Some(Epoch(4)));
        assert_eq!(keeper.ask(after(start, 299)), None);
        assert_eq!(keeper.ask(after(start, 300)), Some(Ask::Renew(Epoch(4))));
        assert_eq!(keeper.epoch(after(start, 599)), Some(Epoch(4)));
        assert_eq!(keeper.epoch(after(start, 600)), None, "no answer came in time");
        keeper.renewed(true, after(start, 650));
        assert_eq!(keeper.epoch(after(start, 650)), Some(Epoch(4)), "counted from the request at 300");
        assert_eq!(keeper.epoch(after(start, 900)), None);
    }

    #[test]
    fn keeper_renewed_after_sending_stopped_takes_the_lease_anew() {
        let start = Instant::now();
        let mut keeper = LeaseKeeper::new(LEASE);
        keeper.ask(start);
        keeper.taken(Some(Epoch(4)), start);
        assert_eq!(keeper.ask(after(start, 300)), Some(Ask::Renew(Epoch(4))));
        assert_eq!(keeper.epoch(after(start, 600)), None);

        keeper.stopped();
        keeper.renewed(true, after(start, 650));

        assert_eq!(keeper.epoch(after(start, 650)), None, "nobody sends under it");
        assert_eq!(keeper.ask(after(start, 650)), Some(Ask::Take));
    }

    #[test]
    fn keeper_refused_or_lost_lease_is_asked_for_again_later() {
        let start = Instant::now();
        let mut keeper = LeaseKeeper::new(LEASE);

        keeper.ask(start);
        keeper.taken(None, start);
        assert_eq!((keeper.epoch(start), keeper.ask(after(start, 149))), (None, None));
        assert_eq!(keeper.ask(after(start, 150)), Some(Ask::Take));
        keeper.taken(Some(Epoch(5)), after(start, 150));
        keeper.ask(after(start, 450));
        keeper.renewed(false, after(start, 460));
        assert_eq!(keeper.epoch(after(start, 460)), None);
        assert_eq!(keeper.ask(after(start, 461)), Some(Ask::Take));
    }

    /// What happens to a keeper.
    #[derive(Debug, Clone)]
    enum Happens {
        Pass(u64),
        Granted,
        Refused,
        Failed,
        Lost,
    }

    fn happens() -> impl Strategy<Value = Happens> {
        prop_oneof![
            4 => (0_u64..400).prop_map(Happens::Pass),
            3 => Just(Happens::Granted),
            1 => Just(Happens::Refused),
            1 => Just(Happens::Failed),
            1 => Just(Happens::Lost),
        ]
    }

    proptest! {
        /// Sending is never allowed at or after two thirds of the last granted request's own time.
        #[test]
        fn keeper_any_history_never_sends_past_two_thirds(history in proptest::collection::vec(happens(), 1..80)) {
            let mut keeper = LeaseKeeper::new(LEASE);
            let mut now = Instant::now();
            let mut asked: Option<(Ask, Instant)> = None;
            let mut granted_from: Option<Instant> = None;

            for step in history {
                if let Some(ask) = keeper.ask(now) {
                    asked = Some((ask, now));
                }
                match step {
                    Happens::Pass(ms) => now += Duration::from_millis(ms),
                    Happens::Granted => match asked.take() {
                        Some((Ask::Take, at)) => {
                            keeper.taken(Some(Epoch(1)), now);
                            granted_from = Some(at);
                        }
                        Some((Ask::Renew(_), at)) => {
                            if keeper.held.is_some() {
                                granted_from = Some(at);
                            }
                            keeper.renewed(true, now);
                        }
                        None => {}
                    },
                    Happens::Refused => match asked.take() {
                        Some((Ask::Take, _)) => keeper.taken(None, now),
                        Some((Ask::Renew(_), _)) => keeper.renewed(false, now),
                        None => {}
                    },
                    Happens::Failed => {
                        if asked.take().is_some() {
                            keeper.failed(now);
                        }
                    }
                    Happens::Lost => keeper.lose(now),
                }
                if keeper.epoch(now).is_some() {
                    let from = granted_from.unwrap();
                    prop_assert!(now < from + LEASE * 2 / 3);
                }
                prop_assert!(keeper.sleep(now) <= LEASE);
            }
        }
    }
}
