//! Waiting for a condition, with a limit; never by sleeping a fixed time.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::Thread;
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
pub(crate) fn wait_some<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_within(WAIT_LIMIT, what, look)
}

/// Waits for a value, with a limit of its own.
pub(crate) fn wait_within<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let give_up_at = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < give_up_at, "waited longer than {limit:?} for {what}");
        std::thread::park_timeout(LOOK_PAUSE);
    }
}

/// Wakes a thread that waits on a future.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits on a future that needs no runtime, with a limit; also within one, which it blocks.
pub(crate) fn wait_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    wait_some("an answer", || match future.as_mut().poll(&mut context) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    })
}
