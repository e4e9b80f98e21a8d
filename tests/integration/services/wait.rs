//! Waiting for a condition, with a limit; never by sleeping a fixed time.

use std::time::{Duration, Instant};

/// Longer than anything takes on a loaded machine; a test that waits so long has failed.
pub(crate) const WAIT_LIMIT: Duration = Duration::from_secs(120);

/// Between two looks at a condition.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// Waits for a condition, with a limit.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    wait_some(what, || condition().then_some(()));
}

/// Waits for a value, with a limit.
pub(crate) fn wait_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let give_up_at = Instant::now() + WAIT_LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < give_up_at, "waited too long for {what}");
        std::thread::park_timeout(LOOK_PAUSE);
    }
}
