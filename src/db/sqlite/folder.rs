//! The data folder and its lock.
//!
//! Promises that one process at a time writes a folder, and that the lock goes with the process however it
//! ends: it belongs to what is open, not to a file's presence. Both the folder and the lock file in it are
//! locked: whoever removes the file, by hand or by restoring a backup, must not let a second process in.
//!
//! A process that is killed while it starts an agent leaves a child behind that has not begun the agent's program
//! yet, and has everything open that the dead one had: whoever comes next waits for that moment to pass.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::config::{FILE_NAME, LOCK_NAME};
use crate::db::error::OpenError;
use crate::life::{Life, life_of};
use crate::private::{self, Access};

/// How long a lock is waited for whose owner is not there any more.
const LEFTOVER_LIMIT: Duration = Duration::from_secs(2);

/// Between two looks at it.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// A locked data folder.
#[derive(Debug)]
pub(super) struct FolderLock {
    _folder: Flock<File>,
    /// Tells who has the folder.
    _file: Flock<File>,
}

impl FolderLock {
    /// Makes the folder if absent, keeps others out of it, and locks it.
    pub(super) fn take(folder: &Path, access: Access) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Folder { folder: folder.to_owned(), source };
        let path = folder.join(LOCK_NAME);
        private::make_or_adopt_folder(folder, access, FILE_NAME)
            .and_then(|()| private::make_file(&path))
            .map_err(failed)?;
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(failed)?;
        let give_up_at = Instant::now() + LEFTOVER_LIMIT;
        let (locked, mut file) = loop {
            let (file, opened) = (file.try_clone().map_err(failed)?, File::open(folder).map_err(failed)?);
            let held = match (lock(opened).map_err(failed)?, lock(file).map_err(failed)?) {
                (Tried::Locked(folder), Tried::Locked(file)) => break (folder, file),
                (_, Tried::Held(file)) => holder(file),
                (Tried::Held(_), Tried::Locked(file)) => holder(&*file),
            };
            let pid = held.map_err(failed)?;
            if is_running(&pid) || Instant::now() >= give_up_at {
                return Err(OpenError::Locked { folder: folder.to_owned(), pid });
            }
            std::thread::park_timeout(LOOK_PAUSE);
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

/// Gives who has the folder, as it wrote itself down in the lock file.
fn holder(mut file: impl Read + Seek) -> io::Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(match text.trim() {
        "" => "unknown".to_owned(),
        pid => pid.to_owned(),
    })
}

/// Tells whether a process may run here. One in another container is not seen, and keeps its lock all the same.
fn is_running(pid: &str) -> bool {
    pid.parse().is_ok_and(|pid| life_of(pid) != Life::Gone)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn take_lock_left_with_a_child_of_the_dead_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOCK_NAME);
        // No process has this number: it is beyond the kernel's largest.
        std::fs::write(&path, "4194305\n").unwrap();
        let shell = format!("exec 9<'{}' && flock 9 && echo locked && read line", path.display());
        let mut child = Command::new("sh")
            .args(["-c", &shell])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut locked = [0; 7];
        child.stdout.take().unwrap().read_exact(&mut locked).unwrap();

        let refused = FolderLock::take(folder.path(), Access::Owner).unwrap_err();
        assert!(matches!(&refused, OpenError::Locked { pid, .. } if pid == "4194305"), "{refused}");
        let input = child.stdin.take();
        let taken = std::thread::scope(|scope| {
            let taking = scope.spawn(|| FolderLock::take(folder.path(), Access::Owner));
            drop(input);
            child.wait().unwrap();
            taking.join().unwrap()
        });
        assert!(taken.is_ok(), "{taken:?}");
    }

    #[test]
    fn take_folder_of_a_running_process_is_refused_at_once_with_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::take(folder.path(), Access::Owner).unwrap();
        let asked_at = Instant::now();

        let refused = FolderLock::take(folder.path(), Access::Owner).unwrap_err();

        let ours = std::process::id().to_string();
        assert!(matches!(&refused, OpenError::Locked { pid, .. } if *pid == ours), "{refused}");
        assert!(asked_at.elapsed() < LEFTOVER_LIMIT);
        drop(lock);
        FolderLock::take(folder.path(), Access::Owner).unwrap();
    }
}
