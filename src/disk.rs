//! Room on the data folder's file system, and the ballast that is given up when there is none.
//!
//! Promises that server and shims judge alike, from what the file system says and from how much of the ballast is
//! still there: what giving it up makes free does not count as room. So agents that hold still while the disk is
//! full do not go on because the ballast was given up, and what it frees is left for cancels, ends and clean-up.
//! Knows no quotas: a write that one refuses is seen as a failed write only.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::fcntl::posix_fallocate;
use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};

/// The ballast's file in the data folder.
pub const BALLAST_NAME: &str = "ballast";

/// On a small file system the ballast takes this part of it at most.
const SMALL_DISK_PART: u64 = 16;

/// Even without a ballast so much must be free, and less on a small file system.
const FREE_MIN_BYTES: u64 = 1024 * 1024;

/// Without a ballast, this part of a small file system must be free.
const FREE_MIN_PART: u64 = 64;

/// The ballast is given up in so many pieces: whoever writes on takes one of them, not all.
const PIECES: u64 = 4;

/// The unit in which the kernel tells what a file takes, whatever the file system's is.
///
/// *Source*: `st_blocks` in stat(3type).
const BLOCK_BYTES: u64 = 512;

/// Where the ballast is, and how large it is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ballast {
    /// The data folder.
    pub folder: PathBuf,
    /// What is to be set aside; less on a small file system.
    pub wanted_bytes: u64,
}

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// What the file system holds in all.
    pub total_bytes: u64,
    /// What anybody may still write.
    pub free_bytes: u64,
    /// What the ballast takes now.
    pub ballast_bytes: u64,
    /// What the ballast is to take.
    pub target_bytes: u64,
}

impl Room {
    /// Gives what is free once the ballast is whole again.
    pub const fn available_bytes(&self) -> u64 {
        (self.free_bytes + self.ballast_bytes).saturating_sub(self.target_bytes)
    }

    /// Gives what must be free, or the disk counts as full.
    const fn least_bytes(&self) -> u64 {
        let small = self.total_bytes / FREE_MIN_PART;
        let least = if small < FREE_MIN_BYTES { small } else { FREE_MIN_BYTES };
        if self.target_bytes > least { self.target_bytes } else { least }
    }

    /// Tells whether the disk is full: nothing new is begun.
    pub const fn is_low(&self) -> bool {
        self.available_bytes() < self.least_bytes()
    }

    /// Tells whether a disk that was full no longer is: well above where that begins, so that it does not flap.
    pub const fn is_ample(&self) -> bool {
        self.available_bytes() >= 2 * self.least_bytes()
    }

    /// Gives one piece of the ballast.
    pub const fn piece_bytes(&self) -> u64 {
        self.target_bytes.div_ceil(PIECES)
    }
}

impl Ballast {
    fn path(&self) -> PathBuf {
        self.folder.join(BALLAST_NAME)
    }

    /// Asks the file system.
    ///
    /// *Errors*: what the operating system says; the folder may be gone.
    pub fn look(&self) -> io::Result<Room> {
        let stat = statvfs(&self.folder)?;
        let block_bytes = stat.fragment_size();
        let total_bytes = stat.blocks().saturating_mul(block_bytes);
        let free_bytes = stat.blocks_available().saturating_mul(block_bytes);
        let target_bytes = self.wanted_bytes.min(total_bytes / SMALL_DISK_PART);
        Ok(Room { total_bytes, free_bytes, ballast_bytes: allocated_bytes(&self.path())?, target_bytes })
    }

    /// Sets the ballast aside, or what is missing of it.
    ///
    /// *Errors*: what the operating system says; a full disk for one.
    pub fn make(&self, bytes: u64) -> io::Result<()> {
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(self.path())?;
        if bytes > 0 {
            posix_fallocate(&file, 0, i64::try_from(bytes).unwrap_or(i64::MAX))?;
        }
        file.set_len(bytes)
    }

    /// Gives up a part of the ballast, or all that is left.
    ///
    /// *Errors*: what the operating system says. A ballast that is not there is none.
    pub fn give_up(&self, bytes: u64) -> io::Result<()> {
        let file = match OpenOptions::new().write(true).open(self.path()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        file.set_len(file.metadata()?.len().saturating_sub(bytes))
    }
}

/// Gives what a file takes on the disk; nothing when it is not there.
fn allocated_bytes(path: &Path) -> io::Result<u64> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(metadata.blocks().saturating_mul(BLOCK_BYTES)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// What an attempt, or all of them, take on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptSpace {
    /// Standard output and standard error, and what is kept of them.
    pub output_bytes: u64,
    /// The work folder.
    pub work_bytes: u64,
}

/// What the last look at the disk found, for whoever has to decide at once.
#[derive(Debug, Default)]
pub struct DiskState {
    is_full: AtomicBool,
    available_bytes: AtomicU64,
}

impl DiskState {
    /// Tells whether the disk is full: nothing new is begun.
    pub fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    /// Gives what is free beside the ballast.
    pub fn available_bytes(&self) -> u64 {
        self.available_bytes.load(Ordering::Relaxed)
    }

    /// Notes what a look found.
    pub fn set(&self, is_full: bool, available_bytes: u64) {
        self.available_bytes.store(available_bytes, Ordering::Relaxed);
        self.is_full.store(is_full, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn room(free_mib: u64, ballast_mib: u64) -> Room {
        Room {
            total_bytes: 100_000 * MIB,
            free_bytes: free_mib * MIB,
            ballast_bytes: ballast_mib * MIB,
            target_bytes: 64 * MIB,
        }
    }

    #[test]
    fn room_that_giving_up_the_ballast_makes_is_none() {
        let before = room(10, 64);
        let after = room(74, 0);

        assert!(before.is_low() && after.is_low());
        assert_eq!(before.available_bytes(), after.available_bytes());
        assert!(!after.is_ample());
    }

    #[test]
    fn room_between_low_and_ample_is_neither() {
        let some = room(100, 64);

        assert!(!some.is_low() && !some.is_ample());
        assert!(room(128, 64).is_ample() && room(63, 64).is_low());
    }

    #[test]
    fn room_without_a_ballast_is_low_before_nothing_is_free() {
        let room = |free_mib| Room { target_bytes: 0, ..room(free_mib, 0) };

        assert!(room(0).is_low() && !room(2).is_low());
    }

    #[test]
    fn ballast_is_made_given_up_in_parts_and_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let ballast = Ballast { folder: folder.path().to_owned(), wanted_bytes: 4 * MIB };

        let none = ballast.look().unwrap().ballast_bytes;
        ballast.give_up(MIB).unwrap();
        ballast.make(4 * MIB).unwrap();
        let whole = ballast.look().unwrap();
        ballast.give_up(whole.piece_bytes()).unwrap();
        let less = ballast.look().unwrap().ballast_bytes;
        ballast.give_up(u64::MAX).unwrap();
        let gone = ballast.look().unwrap().ballast_bytes;
        ballast.make(4 * MIB).unwrap();

        assert_eq!((none, whole.ballast_bytes, less, gone), (0, 4 * MIB, 3 * MIB, 0));
        assert_eq!(ballast.look().unwrap().ballast_bytes, 4 * MIB);
    }
}
