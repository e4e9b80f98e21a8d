//! Waiting for a condition, with a limit.
//!
//! Promises that a test never sleeps a guessed time and never hangs: under a paused clock the wait costs no
//! real time, because tokio's clock jumps ahead whenever all tasks are idle.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long one look waits for the next: short against every interval in the system.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Waits until a condition holds; after `limit` of tokio's time it fails the test and says what it waited
/// for.
///
/// # Panics
///
/// When the limit passes first.
///
/// ```
/// use std::time::Duration;
/// use horizons_actors::testkit::wait_until;
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
/// # runtime.block_on(async {
/// let started = tokio::time::Instant::now();
///
/// wait_until("three milliseconds to pass", Duration::from_secs(5), || started.elapsed().as_millis() >= 3).await;
/// # });
/// ```
#[track_caller]
pub fn wait_until(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> bool,
) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let started = Instant::now();
        while !condition() {
            fail_after(limit, started, what, caller);
            sleep(POLL_INTERVAL).await;
        }
    }
}

#[expect(clippy::panic, reason = "an assertion helper of the test kit fails the test")]
fn fail_after(limit: Duration, started: Instant, what: &str, caller: &std::panic::Location<'_>) {
    if started.elapsed() >= limit {
        panic!("waited {limit:?} for {what}, at {caller}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn wait_until_condition_comes_true_returns_at_once() {
        let started = Instant::now();

        wait_until("10 ms", Duration::from_secs(60), || started.elapsed() >= Duration::from_millis(10)).await;

        assert!(started.elapsed() < Duration::from_millis(12));
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "waited 3s for the moon")]
    async fn wait_until_limit_passed_says_what_it_waited_for() {
        wait_until("the moon", Duration::from_secs(3), || false).await;
    }
}
