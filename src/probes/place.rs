//! Where the process stands: its data folder, and its threads.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use horizons_actors::heartbeat::{self, ThreadSnapshot, ThreadState};
use horizons_actors::probes::{Finding, ProbeKind};

use super::ProbeSource;
use super::process::listed;
use crate::presence::Presence;

/// A thread that is at one thing for longer is told of: commits and reads take milliseconds.
const LONG_SECONDS: f64 = 5.0;

/// Tells whether the data folder is where it was.
#[derive(Debug)]
pub struct FolderProbe(Arc<Presence>);

impl FolderProbe {
    /// Looks at what must stay where it is.
    pub const fn new(presence: Arc<Presence>) -> Self {
        Self(presence)
    }
}

impl ProbeSource for FolderProbe {
    fn look(&self) -> BoxFuture<'_, Vec<Finding>> {
        let finding = match self.0.check() {
            Ok(()) => Finding::ok(ProbeKind::DataFolder, "is where it was"),
            Err(gone) => Finding::failed(ProbeKind::DataFolder, gone),
        };
        async move { vec![finding] }.boxed()
    }
}

/// Tells whether a thread is at one thing for long.
#[derive(Debug)]
pub struct ThreadsProbe;

impl ProbeSource for ThreadsProbe {
    fn look(&self) -> BoxFuture<'_, Vec<Finding>> {
        let finding = judge(&heartbeat::threads());
        async move { vec![finding] }.boxed()
    }
}

fn judge(threads: &[ThreadSnapshot]) -> Finding {
    let is_long = |thread: &&ThreadSnapshot| {
        thread.state == ThreadState::Working && thread.silent_seconds >= LONG_SECONDS
    };
    let long: Vec<String> = threads
        .iter()
        .filter(is_long)
        .map(|thread| format!("{} at {} for {:.0} s", thread.thread, thread.does, thread.silent_seconds))
        .collect();
    match long.is_empty() {
        true => Finding::ok(ProbeKind::Threads, format!("{} threads move or wait", threads.len())),
        false => Finding::degraded(ProbeKind::Threads, listed(long)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_at_one_thing_for_long_are_named_and_waiting_ones_are_well() {
        let thread = |name: &str, state, silent_seconds| ThreadSnapshot {
            thread: name.to_owned(),
            state,
            does: "a commit",
            silent_seconds,
            allowed_seconds: None,
        };
        let well = [thread("one", ThreadState::Waiting, 900.0), thread("two", ThreadState::Working, 0.4)];
        let long = [thread("store-writer", ThreadState::Working, 7.2)];

        assert_eq!(judge(&well), Finding::ok(ProbeKind::Threads, "2 threads move or wait"));
        assert_eq!(judge(&long), Finding::degraded(ProbeKind::Threads, "store-writer at a commit for 7 s"));
    }
}
