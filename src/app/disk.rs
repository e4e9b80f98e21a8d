//! Watches the room that the data folder's file system has.
//!
//! Promises that a full disk is noticed within [`LOOK_PAUSE`], that the ballast is given up only after agents had
//! the time to hold still, and that it is made anew, and new work taken again, as soon as there is room: all
//! without help. Nothing here waits for the store or a lock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::attempts_folder;
use crate::config::Config;
use crate::disk::{Ballast, DiskState, Room};
use crate::exit::{Exit, Failure};
use crate::metrics::DiskMetrics;
use crate::periodic::{Periodic, RoundLimit};
use crate::scheduler::local::space;

/// Between two looks: a fast writer fills a disk in seconds.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// How long shims have to make their agents hold still before the ballast is given up: several of their ticks.
const HOLD_WAIT: Duration = Duration::from_secs(1);

/// How often what attempts take is added up, and at least so many times longer than that takes.
const COUNT_PAUSE: Duration = Duration::from_secs(5);
const COUNT_SHARE: u32 = 50;

/// Gives where the ballast is.
pub(super) fn ballast(config: &Config) -> Result<Ballast, Failure> {
    // Shims outlive this process, and with it the working folder that a relative path is meant in.
    let folder =
        std::path::absolute(&config.store.folder).map_err(|error| Failure::new(Exit::Store, &error))?;
    Ok(Ballast { folder, wanted_bytes: config.store.ballast_bytes })
}

/// Gives the ballast up before a start on a full disk: the store cannot be opened without room.
///
/// Whatever fills the disk has stopped doing so: agents hold still while it is full.
pub(super) fn make_room_for_a_start(config: &Config) -> Result<(), Failure> {
    let ballast = ballast(config)?;
    // A folder that is not there yet is made by the store.
    let Ok(room) = ballast.look() else { return Ok(()) };
    if room.is_low() && room.free_bytes < room.target_bytes && room.ballast_bytes > 0 {
        tracing::warn!(
            disk.free_bytes = room.free_bytes,
            disk.ballast_bytes = room.ballast_bytes,
            "disk full at the start: the ballast is given up"
        );
        if let Err(error) = ballast.give_up(u64::MAX) {
            tracing::error!(%error, "the ballast cannot be given up");
        }
    }
    Ok(())
}

/// The threads that look after the disk; they end when this is dropped.
pub(super) struct DiskWatch {
    _looks: Periodic,
    _counts: Periodic,
}

/// Looks once, then starts the threads.
pub(super) fn start(
    config: &Config,
    state: Arc<DiskState>,
    metrics: DiskMetrics,
) -> Result<DiskWatch, Failure> {
    let failed = |error: std::io::Error| Failure::new(Exit::Failed, &error);
    let mut watch = Watch {
        ballast: ballast(config)?,
        state,
        metrics: metrics.clone(),
        full_since: None,
        is_blind: false,
    };
    watch.look();
    let looks = Periodic::start("disk-watch", RoundLimit::OfEveryThread, move |rounds| {
        while rounds.next(LOOK_PAUSE) {
            watch.look();
        }
    });
    let attempts_folder = attempts_folder(config);
    // Apart from the looks: there may be many folders, and nothing waits for this figure.
    let counts = Periodic::start("disk-count", RoundLimit::None, move |rounds| {
        let mut pause = Duration::ZERO;
        while rounds.next(pause) {
            let began_at = Instant::now();
            metrics.observe_attempts(space::of_all(&attempts_folder));
            pause = COUNT_PAUSE.max(began_at.elapsed() * COUNT_SHARE);
        }
    });
    Ok(DiskWatch { _looks: looks.map_err(failed)?, _counts: counts.map_err(failed)? })
}

struct Watch {
    ballast: Ballast,
    state: Arc<DiskState>,
    metrics: DiskMetrics,
    full_since: Option<Instant>,
    /// Whether the last look failed.
    is_blind: bool,
}

impl Watch {
    fn look(&mut self) {
        let room = match self.ballast.look() {
            Ok(room) => room,
            Err(error) => {
                if !std::mem::replace(&mut self.is_blind, true) {
                    tracing::warn!(%error, "the room on the disk cannot be told");
                }
                return;
            }
        };
        self.is_blind = false;
        match self.full_since {
            None if room.is_low() => {
                self.full_since = Some(Instant::now());
                tracing::error!(
                    disk.free_bytes = room.free_bytes,
                    disk.ballast_bytes = room.ballast_bytes,
                    "disk full: new work is refused and agents hold still until there is room"
                );
            }
            Some(since) if room.is_ample() => {
                self.full_since = None;
                let full_seconds = since.elapsed().as_secs();
                tracing::info!(disk.free_bytes = room.free_bytes, full_seconds, "the disk has room again");
                self.complete(room);
            }
            Some(since) => self.give_up_a_piece(room, since),
            None => self.complete(room),
        }
        self.state.set(self.full_since.is_some(), room.available_bytes());
        self.metrics.observe(room, self.full_since.is_some());
    }

    /// Sets aside what is missing of the ballast.
    fn complete(&self, room: Room) {
        if room.ballast_bytes < room.target_bytes
            && room.is_ample()
            && let Err(error) = self.ballast.make(room.target_bytes)
        {
            tracing::warn!(%error, "the ballast cannot be set aside");
        }
    }

    fn give_up_a_piece(&self, room: Room, full_since: Instant) {
        let piece = room.piece_bytes();
        let is_wanted = room.free_bytes < piece && room.ballast_bytes > 0;
        if is_wanted && full_since.elapsed() >= HOLD_WAIT {
            tracing::warn!(disk.ballast_bytes = room.ballast_bytes, "a piece of the ballast is given up");
            if let Err(error) = self.ballast.give_up(piece) {
                tracing::error!(%error, "the ballast cannot be given up");
            }
        }
    }
}
