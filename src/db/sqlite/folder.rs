//! The data folder and its lock.
//!
//! Promises that one process at a time writes a folder, and that the lock goes with the process however it
//! ends: it belongs to the open file, not to the file's presence.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::config::LOCK_NAME;
use crate::db::error::OpenError;

/// A locked data folder.
#[derive(Debug)]
pub(super) struct FolderLock {
    _lock: Flock<File>,
}

impl FolderLock {
    /// Makes the folder if absent and locks it.
    pub(super) fn take(folder: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Folder { folder: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(folder.join(LOCK_NAME))
            .map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                lock.set_len(0).map_err(failed)?;
                lock.rewind().map_err(failed)?;
                writeln!(lock, "{}", std::process::id()).map_err(failed)?;
                Ok(Self { _lock: lock })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                file.read_to_string(&mut text).map_err(failed)?;
                let pid = match text.trim() {
                    "" => "unknown".to_owned(),
                    pid => pid.to_owned(),
                };
                Err(OpenError::Locked { folder: folder.to_owned(), pid })
            }
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }
}
