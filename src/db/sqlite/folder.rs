//! The data folder and its lock.
//!
//! Promises that one process at a time writes a folder, and that the lock goes with the process however it
//! ends: it belongs to what is open, not to a file's presence. Both the folder and the lock file in it are
//! locked: whoever removes the file, by hand or by restoring a backup, must not let a second process in.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::config::LOCK_NAME;
use crate::db::error::OpenError;

/// A locked data folder.
#[derive(Debug)]
pub(super) struct FolderLock {
    _folder: Flock<File>,
    /// Tells who has the folder.
    _file: Flock<File>,
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
        let opened = File::open(folder).map_err(failed)?;
        let (locked, mut file) = match (lock(opened).map_err(failed)?, lock(file).map_err(failed)?) {
            (Tried::Locked(folder), Tried::Locked(file)) => (folder, file),
            (_, Tried::Held(file)) => return Err(held(folder, file).unwrap_or_else(failed)),
            (Tried::Held(_), Tried::Locked(file)) => return Err(held(folder, &*file).unwrap_or_else(failed)),
        };
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { _folder: locked, _file: file })
    }
}

/// What became of a try to lock.
enum Tried {
    Locked(Flock<File>),
    /// Another process has it; the file is open all the same.
    Held(File),
}

/// Tries to lock what is open, without waiting.
fn lock(file: File) -> io::Result<Tried> {
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Tried::Locked(lock)),
        Err((file, Errno::EWOULDBLOCK)) => Ok(Tried::Held(file)),
        Err((_, errno)) => Err(errno.into()),
    }
}

/// Says who has the folder, as it wrote itself down in the lock file.
fn held(folder: &Path, mut file: impl Read) -> io::Result<OpenError> {
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let pid = match text.trim() {
        "" => "unknown".to_owned(),
        pid => pid.to_owned(),
    };
    Ok(OpenError::Locked { folder: folder.to_owned(), pid })
}
