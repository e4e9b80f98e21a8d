//! Whether the data folder is still where it was when it was opened (design D1: what is stored is what is true).
//!
//! Promises that a folder which was removed, moved away or replaced under a running process is noticed by the next
//! look, also where its name stands for something else by now: identities are compared, not names. What cannot be
//! looked at is no verdict. Never opens a file that SQLite has open: closing it would drop SQLite's locks.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

/// What a name stands for: the device and the number of the file on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    number: u64,
}

impl Identity {
    fn of(path: &Path) -> io::Result<Self> {
        let found = std::fs::metadata(path)?;
        Ok(Self { device: found.dev(), number: found.ino() })
    }
}

/// Something that must stay where it is.
#[derive(Debug)]
struct Watched {
    path: PathBuf,
    identity: Identity,
    /// Keeps a folder's number from being given to another one, and some file systems from giving it a new one.
    _folder: Option<File>,
}

/// What must stay where it is as long as the process runs.
#[derive(Debug, Default)]
pub struct Presence {
    watched: Mutex<Vec<Watched>>,
    /// What is gone; the first finding is the last one.
    gone: OnceLock<String>,
}

impl Presence {
    /// Watches a folder or a file from now on, by its identity of now. One that is not there is not watched.
    ///
    /// *Errors*: what looking at it met.
    pub fn watch(&self, path: &Path) -> io::Result<()> {
        let path = std::path::absolute(path)?;
        let found = match std::fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found?,
        };
        let folder = if found.is_dir() { Some(File::open(&path)?) } else { None };
        let identity = Identity { device: found.dev(), number: found.ino() };
        self.watched().push(Watched { path, identity, _folder: folder });
        Ok(())
    }

    /// Looks at everything; gives what is gone, once and for all.
    pub fn check(&self) -> Result<(), &str> {
        if let Some(gone) = self.gone.get() {
            return Err(gone);
        }
        let found = self.watched().iter().find_map(Watched::missing);
        match found {
            None => Ok(()),
            Some(gone) => Err(self.gone.get_or_init(|| gone)),
        }
    }

    fn watched(&self) -> std::sync::MutexGuard<'_, Vec<Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    /// Tells that it is not there any more, if that is certain.
    fn missing(&self) -> Option<String> {
        let path = self.path.display();
        match Identity::of(&self.path) {
            Ok(identity) if identity == self.identity => None,
            Ok(_) => Some(format!("`{path}` was replaced")),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Some(format!("`{path}` was removed or moved away"))
            }
            Err(error) => {
                tracing::warn!(%error, path = %path, "failed to look whether the data folder is still there");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a data folder with a file and a folder in it, all watched.
    fn watched_folder() -> (tempfile::TempDir, PathBuf, Presence) {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("data");
        std::fs::create_dir_all(folder.join("attempts")).unwrap();
        std::fs::write(folder.join("horizons.db"), b"rows").unwrap();
        let presence = Presence::default();
        for path in [folder.clone(), folder.join("horizons.db"), folder.join("attempts"), folder.join("none")]
        {
            presence.watch(&path).unwrap();
        }
        assert_eq!(presence.check(), Ok(()));
        (parent, folder, presence)
    }

    #[test]
    fn check_everything_in_its_place_stays_well_however_it_is_written() {
        let (_parent, folder, presence) = watched_folder();

        std::fs::write(folder.join("horizons.db"), b"other rows").unwrap();
        std::fs::write(folder.join("attempts/new"), b"").unwrap();

        assert_eq!(presence.check(), Ok(()));
    }

    #[test]
    fn check_folder_or_part_of_it_that_is_gone_is_named() {
        type Act = fn(&Path);
        let acts: [(Act, &str); 5] = [
            (
                |folder| std::fs::rename(folder, folder.with_extension("moved")).unwrap(),
                "removed or moved away",
            ),
            (|folder| std::fs::remove_dir_all(folder).unwrap(), "removed or moved away"),
            (|folder| std::fs::remove_dir_all(folder.join("attempts")).unwrap(), "attempts` was removed"),
            (
                |folder| {
                    std::fs::rename(folder, folder.with_extension("moved")).unwrap();
                    std::fs::create_dir_all(folder.join("attempts")).unwrap();
                    std::fs::write(folder.join("horizons.db"), b"rows").unwrap();
                },
                "data` was replaced",
            ),
            (
                |folder| {
                    std::fs::write(folder.join("copy"), b"rows").unwrap();
                    std::fs::rename(folder.join("copy"), folder.join("horizons.db")).unwrap();
                },
                "horizons.db` was replaced",
            ),
        ];
        for (act, wanted) in acts {
            let (_parent, folder, presence) = watched_folder();

            act(&folder);

            let gone = presence.check().unwrap_err().to_owned();
            assert!(gone.contains(wanted), "{gone}: {wanted}");
            assert_eq!(presence.check(), Err(gone.as_str()), "it stays so");
        }
    }
}
