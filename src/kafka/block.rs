//! Waiting for a future on a plain thread, with a limit.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::Thread;
use std::time::Instant;

/// Wakes a parked thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits on this thread; nothing when the deadline passes first.
pub(super) fn wait_for<T>(future: impl Future<Output = T>, deadline: Instant) -> Option<T> {
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return Some(value);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        std::thread::park_timeout(left);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn wait_for_an_answer_a_dropped_sender_or_the_deadline() {
        let far = Instant::now() + Duration::from_secs(20);
        let (answered, heard) = oneshot::channel();
        let answering = std::thread::spawn(move || answered.send(7));
        assert_eq!(wait_for(heard, far), Some(Ok(7)));
        answering.join().unwrap().unwrap();

        let (dropped, heard) = oneshot::channel::<()>();
        drop(dropped);
        assert!(matches!(wait_for(heard, far), Some(Err(_))));

        let (_kept, heard) = oneshot::channel::<()>();
        assert!(wait_for(heard, Instant::now() + Duration::from_millis(20)).is_none());
    }
}
