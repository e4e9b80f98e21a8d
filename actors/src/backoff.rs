//! Delays that grow, and a budget of restarts within a window (design D5).
//!
//! Promises that a delay never exceeds its limit and that no more restarts than the budget are granted in any
//! window. Pure: time and random bits are arguments.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Moment;

/// How delays grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffPolicy {
    /// The first delay.
    pub initial: Duration,
    /// No delay is longer.
    pub limit: Duration,
}

/// Delays double up to this many times; after that only the limit counts.
const DOUBLINGS_MAX: u32 = 20;

impl BackoffPolicy {
    /// Gives the delay before try `failures + 1`: doubled per failure, within the limit, and then lowered by
    /// up to a quarter by `random`, so that many waiters do not come back at once.
    pub fn delay(&self, failures: u32, random: u64) -> Duration {
        let doublings = failures.saturating_sub(1).min(DOUBLINGS_MAX);
        let full = self.initial.saturating_mul(1 << doublings).min(self.limit);
        let quarter = u64::try_from(full.as_micros() / 4).unwrap_or(u64::MAX);
        full - Duration::from_micros(if quarter == 0 { 0 } else { random % quarter })
    }
}

/// How many restarts are granted in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Restarts granted within the window.
    pub budget: u32,
    /// The window.
    pub window: Duration,
    /// How long each waits.
    pub backoff: BackoffPolicy,
}

/// What to do about a child that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartDecision {
    /// Start it again after so long.
    Restart(Duration),
    /// The budget is spent: the parent gives up in its turn.
    Escalate,
}

/// The restarts of one child.
#[derive(Debug, Clone, Default)]
pub struct RestartLedger {
    /// Restarts within the window, oldest first.
    recent: VecDeque<Moment>,
    /// All restarts since the start.
    total: u64,
}

impl RestartLedger {
    /// Decides about an unplanned end at `now`, and remembers a restart that it grants.
    pub fn on_exit(&mut self, policy: &RestartPolicy, now: Moment, random: u64) -> RestartDecision {
        while self.recent.front().is_some_and(|oldest| now.since(*oldest) > policy.window) {
            self.recent.pop_front();
        }
        if self.recent.len() >= policy.budget as usize {
            return RestartDecision::Escalate;
        }
        self.recent.push_back(now);
        self.total += 1;
        let failures = u32::try_from(self.recent.len()).unwrap_or(u32::MAX);
        RestartDecision::Restart(policy.backoff.delay(failures, random))
    }

    /// Gives all restarts since the start.
    pub const fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock as _, Timestamp};
    use crate::testkit::ManualClock;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn delay_any_failures_stays_within_bounds(failures in 0_u32..10_000, random: u64, initial_ms in 1_u64..1_000, times in 1_u64..1_000) {
            let policy = BackoffPolicy {
                initial: Duration::from_millis(initial_ms),
                limit: Duration::from_millis(initial_ms * times),
            };

            let delay = policy.delay(failures, random);

            prop_assert!(delay <= policy.limit);
            prop_assert!(delay >= policy.initial * 3 / 4);
        }

        #[test]
        fn ledger_any_exits_never_exceeds_budget(gaps_ms in proptest::collection::vec(0_u64..2_000, 1..200), budget in 1_u32..6) {
            let policy = RestartPolicy {
                budget,
                window: Duration::from_secs(3),
                backoff: BackoffPolicy { initial: Duration::from_millis(1), limit: Duration::from_millis(9) },
            };
            let mut ledger = RestartLedger::default();
            let mut now = Moment::from_micros(0);
            let mut granted = Vec::new();

            for gap in gaps_ms {
                now = now.plus(Duration::from_millis(gap));
                if let RestartDecision::Restart(_) = ledger.on_exit(&policy, now, 7) {
                    granted.push(now);
                }
            }

            for start in &granted {
                let within = granted.iter().filter(|at| *at >= start && at.since(*start) <= policy.window).count();
                prop_assert!(within <= budget as usize);
            }
        }
    }

    #[test]
    fn ledger_wall_clock_that_is_set_back_spends_no_budget() {
        let policy = RestartPolicy {
            budget: 1,
            window: Duration::from_secs(3),
            backoff: BackoffPolicy { initial: Duration::from_millis(1), limit: Duration::from_millis(9) },
        };
        let start = Timestamp::from_millis(1_000_000);
        let clock = ManualClock::at(start);
        let mut ledger = RestartLedger::default();

        for _ in 0..5 {
            let decision = ledger.on_exit(&policy, clock.moment(), 7);
            assert!(matches!(decision, RestartDecision::Restart(_)), "{decision:?}");
            clock.advance(Duration::from_secs(4));
            clock.set(start);
        }
    }
}
