//! The settings of the SQLite store.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::db::error::OpenError;
use crate::db::fatal::{FatalHook, end_process};
use crate::db::log_choice::LogChoice;
use crate::private::Access;

/// The database's file in its folder.
pub(super) const FILE_NAME: &str = "horizons.db";

/// The lock's file in the folder.
pub(super) const LOCK_NAME: &str = "lock";

/// Lists what a running store has open in its folder, but for the memory that SQLite shares.
pub fn open_files(folder: &Path) -> [PathBuf; 3] {
    [folder.join(FILE_NAME), folder.join(format!("{FILE_NAME}-wal")), folder.join(LOCK_NAME)]
}

/// The page: fewer pages per commit than the default of 4 KiB for rows of some hundred bytes.
pub(super) const PAGE_BYTES: u64 = 8192;

/// Smallest disk limit: an empty store with its indexes, and some room.
const DISK_LIMIT_MIN_BYTES: u64 = 1024 * 1024;

/// The settings of a store.
#[derive(Clone)]
pub struct SqliteConfig {
    /// The data folder; made if absent.
    pub folder: PathBuf,
    /// Who may pass the folder.
    pub access: Access,
    /// The event log that the rows are about.
    pub log: LogChoice,
    /// What the database may take before new work is refused. The write-ahead log comes on top, see
    /// `wal_limit_bytes`.
    pub disk_limit_bytes: u64,
    /// What lanes may take above the limit.
    pub reserve_bytes: u64,
    /// Commands that may wait for the writer.
    pub command_queue: usize,
    /// Transactions of lanes that may wait for the writer.
    pub batch_queue: usize,
    /// Commands in one commit, so that they never starve the lanes.
    pub commands_per_commit: usize,
    /// Threads that read for lanes, and as many for people.
    pub readers: usize,
    /// Reads that may wait for those threads, of each kind.
    pub read_queue: usize,
    /// The writer's page cache.
    pub cache_bytes: u64,
    /// A write-ahead log of this size makes the writer wait, a second at most, until it was moved into the file.
    pub wal_limit_bytes: u64,
    /// How often the write-ahead log is moved into the file beside the writer's work.
    pub checkpoint_interval: Duration,
    /// A wait before each commit, set by tests that need a slow store.
    pub commit_delay: Option<Duration>,
    /// What to do when the process must end.
    pub on_fatal: FatalHook,
}

impl std::fmt::Debug for SqliteConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteConfig").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl SqliteConfig {
    /// Gives the defaults for a folder.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            access: Access::Owner,
            log: LogChoice::Embedded,
            disk_limit_bytes: 16 * 1024 * 1024 * 1024,
            reserve_bytes: 512 * 1024 * 1024,
            command_queue: 1024,
            batch_queue: 256,
            commands_per_commit: 64,
            readers: 2,
            read_queue: 1024,
            cache_bytes: 64 * 1024 * 1024,
            wal_limit_bytes: 256 * 1024 * 1024,
            checkpoint_interval: Duration::from_millis(50),
            commit_delay: None,
            on_fatal: end_process(),
        }
    }

    /// Checks the ranges.
    pub(super) fn check(&self) -> Result<(), OpenError> {
        let at_least_one = [
            ("command_queue", self.command_queue),
            ("batch_queue", self.batch_queue),
            ("commands_per_commit", self.commands_per_commit),
            ("readers", self.readers),
            ("read_queue", self.read_queue),
        ];
        if let Some((setting, _)) = at_least_one.into_iter().find(|(_, value)| *value == 0) {
            return Err(OpenError::Setting { setting, wanted: "at least 1", got: 0 });
        }
        if self.disk_limit_bytes < DISK_LIMIT_MIN_BYTES {
            return Err(OpenError::Setting {
                setting: "disk_limit_bytes",
                wanted: "at least 1 MiB",
                got: self.disk_limit_bytes,
            });
        }
        Ok(())
    }
}
