//! Looks at the parts of the process, again and again, and tells the board of probes.
//!
//! Promises that looking never waits longer than a source allows itself, that no two looks run at once however
//! often they are asked for, and that what a source does not name any more is forgotten. Parts that know by
//! themselves how they are report to the [`ProbeBoard`] without being looked at. Which state makes the process
//! unready is decided by `horizons_actors::probes`.

mod lanes;
mod place;
mod process;

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use horizons_actors::clock::Clock;
use horizons_actors::probes::{Finding, ProbeBoard, ProbeName};
use tokio::sync::Mutex;
use tokio::time::Instant;

pub use self::lanes::{LaneProbes, OPENING_LIMIT};
pub use self::place::{FolderProbe, ThreadsProbe};
pub use self::process::{DiskProbe, EventLogProbe, RelayProbe, STORE_LIMIT, SchedulerProbe, StoreProbe};

/// How often everything is looked at when nobody asks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What was looked at a shorter time ago is not looked at again, so that asking costs nothing.
pub const LOOK_GAP: Duration = Duration::from_millis(100);

/// Somebody who can be asked how parts are. Bounds its own time.
pub trait ProbeSource: Send + Sync {
    /// Tells how every part is that it knows of now; those that it no longer names are forgotten.
    fn look(&self) -> BoxFuture<'_, Vec<Finding>>;
}

/// What one source named last.
struct Known {
    source: Arc<dyn ProbeSource>,
    names: BTreeSet<ProbeName>,
}

/// Everything that is only done by one look at a time.
struct Looks {
    known: Vec<Known>,
    last: Option<Instant>,
}

/// The sources, and the board that they are written to.
pub struct Probes {
    board: Arc<ProbeBoard>,
    clock: Arc<dyn Clock>,
    gap: Duration,
    looks: Mutex<Looks>,
}

impl fmt::Debug for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probes").field("board", &self.board).finish_non_exhaustive()
    }
}

impl Probes {
    /// Takes the sources; what was looked at within `gap` is not looked at again.
    pub fn new(
        board: Arc<ProbeBoard>,
        clock: Arc<dyn Clock>,
        sources: Vec<Arc<dyn ProbeSource>>,
        gap: Duration,
    ) -> Self {
        let known = sources.into_iter().map(|source| Known { source, names: BTreeSet::new() });
        Self { board, clock, gap, looks: Mutex::new(Looks { known: known.collect(), last: None }) }
    }

    /// Gives the board.
    pub const fn board(&self) -> &Arc<ProbeBoard> {
        &self.board
    }

    /// Looks at everything, unless that was done just now. Waits for a look that is under way.
    pub async fn look(&self) {
        let mut looks = self.looks.lock().await;
        if looks.last.is_some_and(|last| last.elapsed() < self.gap) {
            return;
        }
        let sources = looks.known.iter().map(|known| Arc::clone(&known.source)).collect::<Vec<_>>();
        let all = futures_util::future::join_all(sources.iter().map(|source| source.look())).await;
        let now = self.clock.now();
        for (known, findings) in looks.known.iter_mut().zip(all) {
            let names: BTreeSet<ProbeName> = findings.iter().map(|finding| finding.name.clone()).collect();
            for gone in known.names.difference(&names) {
                self.board.forget(gone);
            }
            known.names = names;
            for finding in findings {
                self.board.report(finding, now);
            }
        }
        looks.last = Some(Instant::now());
    }

    /// Looks at everything every second, until told to stop.
    pub async fn keep_looking(self: Arc<Self>, stop: impl Future<Output = ()> + Send) {
        let mut stop = std::pin::pin!(stop);
        loop {
            self.look().await;
            tokio::select! {
                () = &mut stop => return,
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use horizons_actors::clock::SystemClock;
    use horizons_actors::probes::ProbeKind;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Names one part less each time.
    struct Shrinking(AtomicUsize);

    impl ProbeSource for Shrinking {
        fn look(&self) -> BoxFuture<'_, Vec<Finding>> {
            let left = self.0.fetch_sub(1, Ordering::Relaxed);
            let name = |number: usize| ProbeName { kind: ProbeKind::Lanes, of: Some(number.to_string()) };
            let findings = (0..left).map(|number| Finding::ok(name(number), "well")).collect();
            async move { findings }.boxed()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn look_part_that_is_not_named_any_more_is_forgotten() {
        let source: Arc<dyn ProbeSource> = Arc::new(Shrinking(AtomicUsize::new(2)));
        let probes = Probes::new(Arc::default(), Arc::new(SystemClock), vec![source], LOOK_GAP);

        probes.look().await;
        let first = probes.board().probes().len();
        probes.look().await;
        let at_once = probes.board().probes().len();
        tokio::time::advance(LOOK_GAP).await;
        probes.look().await;

        assert_eq!((first, at_once, probes.board().probes().len()), (2, 2, 1));
    }
}
