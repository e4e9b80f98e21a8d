//! What nobody but the server's user may read (requirement: one user's jobs are no other user's business).
//!
//! Promises that folders and files of the data folder are made without rights for group and others, whatever the umask
//! is, and that those of an older installation lose such rights when they are used. Does not promise anything about
//! rights by access control lists.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// A file: reading and writing by its owner.
const FILE_MODE: u32 = 0o600;

/// The bits that say who may do what.
const RIGHTS: u32 = 0o777;

/// The bit of folders in which everyone may make files of his own.
const STICKY: u32 = 0o1000;

/// Who may pass a folder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Access {
    /// Its owner alone.
    #[default]
    Owner,
    /// Whoever knows the name of something in it that he may use; nobody but the owner can list it. For agents that
    /// run as another user.
    Passing,
}

impl Access {
    const fn mode(self) -> u32 {
        match self {
            Access::Owner => 0o700,
            Access::Passing => 0o711,
        }
    }
}

/// Makes a folder, and those above it, as far as they are missing; one that is there is given these rights.
///
/// *Errors*: what making it met. Rights that may not be changed are only logged.
pub fn make_folder(path: &Path, access: Access) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(Access::Owner.mode()).create(path)?;
    set_rights(path, access.mode());
    Ok(())
}

/// Makes a folder as [`make_folder`] does, but leaves one alone that is used for other things too: that holds something,
/// and no file of this name.
///
/// *Errors*: as [`make_folder`].
pub fn make_or_adopt_folder(path: &Path, access: Access, mark: &str) -> io::Result<()> {
    let is_of_others = match std::fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_some() && !path.join(mark).exists(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    if is_of_others {
        tracing::warn!(path = %path.display(), "the data folder holds other things too: its rights are left as they are");
        return Ok(());
    }
    make_folder(path, access)
}

/// Makes an empty file, if there is none; one that is there is given these rights, and is not opened.
///
/// *Errors*: what making it met. Rights that may not be changed are only logged.
pub fn make_file(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path) {
        Ok(_made) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            close_file(path);
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Takes the rights of group and others to a file away, if there is one.
pub fn close_file(path: &Path) {
    set_rights(path, FILE_MODE);
}

/// Gives a path these rights and no others; the owner's own are not widened.
fn set_rights(path: &Path, wanted: u32) {
    let Ok(found) = std::fs::metadata(path) else { return };
    let mode = found.permissions().mode();
    if found.is_dir() && mode & STICKY != 0 {
        // A folder for everyone, such as `/tmp`.
        return;
    }
    // Passing is the one right that may be given; reading never is.
    let passing = if found.is_dir() { wanted & 0o011 } else { 0 };
    let rights = (mode & RIGHTS & wanted) | passing;
    if rights == mode & RIGHTS {
        return;
    }
    let changed = std::fs::set_permissions(path, Permissions::from_mode((mode & !RIGHTS) | rights));
    let (was, path) = (format!("{:03o}", mode & RIGHTS), path.display());
    match changed {
        Ok(()) => {
            tracing::info!(%path, was, now = format!("{rights:03o}"), "rights of the data folder are set");
        }
        Err(error) => {
            tracing::warn!(%path, was, %error, "others may read the data folder, and that cannot be changed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & RIGHTS
    }

    fn set(path: &Path, mode: u32) {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn make_folder_new_or_old_is_its_owners_alone() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("a/b");

        make_folder(&folder, Access::Owner).unwrap();
        assert_eq!((rights(&folder), rights(&parent.path().join("a"))), (0o700, 0o700));
        set(&folder, 0o755);
        make_folder(&folder, Access::Owner).unwrap();
        assert_eq!(rights(&folder), 0o700);
        set(&folder, 0o500);
        make_folder(&folder, Access::Owner).unwrap();
        assert_eq!(rights(&folder), 0o500, "a folder that was made read-only stays so");
    }

    #[test]
    fn make_folder_to_be_passed_can_be_passed_and_not_read() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("a");

        make_folder(&folder, Access::Passing).unwrap();
        assert_eq!(rights(&folder), 0o711);
        set(&folder, 0o777);
        make_folder(&folder, Access::Passing).unwrap();
        assert_eq!(rights(&folder), 0o711);
        make_folder(&folder, Access::Owner).unwrap();
        assert_eq!(rights(&folder), 0o700);
    }

    #[test]
    fn make_or_adopt_folder_of_others_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("home");
        std::fs::create_dir(&folder).unwrap();
        set(&folder, 0o755);
        std::fs::write(folder.join("letter"), "").unwrap();

        make_or_adopt_folder(&folder, Access::Owner, "ours").unwrap();
        assert_eq!(rights(&folder), 0o755);
        std::fs::write(folder.join("ours"), "").unwrap();
        set(&folder, 0o1777);
        make_or_adopt_folder(&folder, Access::Owner, "ours").unwrap();
        assert_eq!(rights(&folder), 0o777);
        set(&folder, 0o755);
        make_or_adopt_folder(&folder, Access::Owner, "ours").unwrap();
        assert_eq!(rights(&folder), 0o700);
        make_or_adopt_folder(&parent.path().join("new"), Access::Owner, "ours").unwrap();
        assert_eq!(rights(&parent.path().join("new")), 0o700);
    }

    #[test]
    fn make_file_new_or_old_is_its_owners_alone_and_keeps_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");

        make_file(&file).unwrap();
        assert_eq!(rights(&file), 0o600);
        std::fs::write(&file, "kept").unwrap();
        set(&file, 0o664);
        make_file(&file).unwrap();
        close_file(&folder.path().join("none"));

        assert_eq!((rights(&file), std::fs::read_to_string(&file).unwrap().as_str()), (0o600, "kept"));
    }
}
