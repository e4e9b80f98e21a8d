//! Removing a folder with everything in it, whatever modes an agent left.
//!
//! Promises that nothing outside the folder is touched: each name is looked up in a folder that is open, and no link
//! is followed. Folders that may not be read or written are made so first. Depth costs nothing: what is found
//! below a folder is moved up beside it, so that a tree of any depth takes two open folders.

use std::ffi::{CStr, CString};
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;
use uuid::Uuid;

/// What the owner must be allowed to do with a folder in order to remove what is in it.
const OWNER_ALL: u32 = 0o700;

/// How often a folder is gone through when it does not get empty: somebody may still add to it.
const PASSES_MAX: u32 = 3;

/// Removes a folder. One that is not there is fine.
pub(super) fn remove_folder(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a folder in another one"));
    };
    let name = CString::new(name.as_encoded_bytes())?;
    let parent = rustix::fs::open(parent, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let root = match open_folder(parent.as_fd(), &name) {
        Ok(root) => root,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    Removal { root, prefix: Uuid::new_v4(), moved: 0 }.empty()?;
    Ok(unlinkat(parent, &name, AtFlags::REMOVEDIR)?)
}

struct Removal {
    root: OwnedFd,
    /// Begins the names of what was moved up: no agent has one of these.
    prefix: Uuid,
    moved: u64,
}

impl Removal {
    fn empty(&mut self) -> io::Result<()> {
        let mut folders = Vec::new();
        for _ in 0..PASSES_MAX {
            for name in names_in(self.root.as_fd())? {
                if !remove_file(self.root.as_fd(), &name)? {
                    folders.push(name);
                }
            }
            if folders.is_empty() {
                return Ok(());
            }
            while let Some(name) = folders.pop() {
                self.remove_folder(&name, &mut folders)?;
            }
        }
        Ok(())
    }

    /// Removes a folder of the root, after what is in it; folders in it are moved up, and are to be removed then.
    fn remove_folder(&mut self, name: &CStr, folders: &mut Vec<CString>) -> io::Result<()> {
        let folder = match open_folder(self.root.as_fd(), name) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for _ in 0..PASSES_MAX {
            for inner in names_in(folder.as_fd())? {
                if !remove_file(folder.as_fd(), &inner)? {
                    self.move_up(folder.as_fd(), &inner, folders)?;
                }
            }
            match unlinkat(&self.root, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Errno::NOTEMPTY.into())
    }

    fn move_up(&mut self, folder: BorrowedFd<'_>, name: &CStr, folders: &mut Vec<CString>) -> io::Result<()> {
        // An empty one need not be moved.
        if unlinkat(folder, name, AtFlags::REMOVEDIR).is_ok() {
            return Ok(());
        }
        // A folder that is moved has its `..` written anew, which its own mode must allow.
        drop(open_folder(folder, name)?);
        self.moved += 1;
        let new_name = CString::new(format!(".{}-{}", self.prefix, self.moved))?;
        renameat(folder, name, &self.root, &new_name)?;
        folders.push(new_name);
        Ok(())
    }
}

/// Removes what is no folder; tells whether it was none.
fn remove_file(folder: BorrowedFd<'_>, name: &CStr) -> io::Result<bool> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        // Which of the two depends on the file system.
        Err(Errno::ISDIR | Errno::PERM) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Opens a folder for reading, after it was made readable and writable; what is no folder is refused.
fn open_folder(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let place = openat(
        parent,
        name,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    // By what is open, so that it is this folder whatever stands at its name by now. It may be another user's,
    // where root removes; then its mode does not matter.
    let _ = fs::set_permissions(
        format!("/proc/self/fd/{}", place.as_raw_fd()),
        Permissions::from_mode(OWNER_ALL),
    );
    openat(place, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn names_in(folder: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn remove_folder_takes_any_modes_and_follows_no_link() {
        let outer = tempfile::tempdir().unwrap();
        let kept = outer.path().join("kept");
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        fs::set_permissions(&kept, Permissions::from_mode(0o755)).unwrap();
        let gone = outer.path().join("gone");
        for name in ["a/b/c", "a/b/d", "closed/inner"] {
            fs::create_dir_all(gone.join(name)).unwrap();
            fs::write(gone.join(name).join("file"), "x").unwrap();
        }
        symlink(&kept, gone.join("a/link")).unwrap();
        symlink("../../kept", gone.join("link")).unwrap();
        symlink("nowhere", gone.join("a/b/dangling")).unwrap();
        for (name, mode) in [("a/b/c", 0o500), ("a/b", 0o555), ("closed/inner", 0), ("closed", 0)] {
            fs::set_permissions(gone.join(name), Permissions::from_mode(mode)).unwrap();
        }

        remove_folder(&gone).unwrap();
        remove_folder(&gone).unwrap();

        assert!(!gone.exists());
        assert_eq!(fs::read_to_string(kept.join("file")).unwrap(), "x");
        assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn remove_folder_takes_a_tree_deeper_than_descriptors_and_paths_go() {
        let outer = tempfile::tempdir().unwrap();
        let gone = outer.path().join("gone");
        fs::create_dir(&gone).unwrap();
        let mut at: OwnedFd = fs::File::open(&gone).unwrap().into();
        for _ in 0..3_000 {
            rustix::fs::mkdirat(&at, c"deep", Mode::RWXU).unwrap();
            at = openat(&at, c"deep", OFlags::DIRECTORY, Mode::empty()).unwrap();
        }

        remove_folder(&gone).unwrap();

        assert!(!gone.exists());
    }

    #[test]
    fn remove_folder_of_a_link_or_a_file_is_refused() {
        let outer = tempfile::tempdir().unwrap();
        let kept = outer.path().join("kept");
        fs::create_dir(&kept).unwrap();
        symlink(&kept, outer.path().join("link")).unwrap();
        fs::write(outer.path().join("file"), "x").unwrap();

        assert!(remove_folder(&outer.path().join("link")).is_err());
        assert!(remove_folder(&outer.path().join("file")).is_err());
        assert!(kept.exists());
    }
}
