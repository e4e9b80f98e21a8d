//! What processes before this one left behind about their trials, and what this one leaves.
//!
//! Promises that it is carried out before any lane is opened, and that nothing depends on it: without it, deaths are
//! charged as the store alone can tell.

use std::sync::Arc;

use horizons_actors::ids::ProcessId;
use horizons_actors::ports::store::LaneStore;
use horizons_actors::ports::witness::{NoWitness, Witness};
use tokio::runtime::Runtime;

use crate::config::Config;
use crate::witness::{FileWitness, left_behind};

/// Acquits what processes that are gone were not thinking about, and starts this one's witness.
pub(super) fn start(
    config: &Config,
    process: ProcessId,
    store: &dyn LaneStore,
    runtime: &Runtime,
) -> Arc<dyn Witness> {
    let folder = &config.store.folder;
    let left = left_behind(folder).unwrap_or_else(|error| {
        tracing::warn!(%error, "failed to read what processes before this one left behind");
        Vec::new()
    });
    for left in left {
        let acquitted = store.acquit(left.process, left.seen.clone());
        // The caller's thread may be one that must not wait for a future itself.
        match std::thread::scope(|scope| scope.spawn(|| runtime.block_on(acquitted)).join()) {
            Ok(Ok(())) => left.forget(),
            Ok(Err(error)) => {
                tracing::warn!(%error, "failed to take back what a process that was killed tried")
            }
            Err(_panic) => {}
        }
    }
    match FileWitness::start(folder, process) {
        Ok(witness) => Arc::new(witness),
        Err(error) => {
            tracing::warn!(%error, "trials go on without a witness: a kill from outside may be charged to one");
            Arc::new(NoWitness)
        }
    }
}
