//! Catching panics of the registry and the supervisors where they would end an actor without a word.
//!
//! Promises that a panic inside becomes a value with the panic's text. Does not undo what the code had
//! changed before it: the actor stops and is built anew (design D1, D5).

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};

use futures_util::FutureExt;

/// A panic that was caught.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("panicked: {0}")]
pub struct CaughtPanic(pub String);

/// Runs a closure and catches its panic.
pub(super) fn guard<T>(body: impl FnOnce() -> T) -> Result<T, CaughtPanic> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|payload| CaughtPanic(panic_text(&*payload)))
}

/// Runs a future and catches its panic.
pub(super) async fn guard_async<T>(body: impl Future<Output = T>) -> Result<T, CaughtPanic> {
    AssertUnwindSafe(body).catch_unwind().await.map_err(|payload| CaughtPanic(panic_text(&*payload)))
}

/// Gives the text that a panic was raised with.
fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "panic without a text".to_owned())
}
