//! Running agents as another user than the server.
//!
//! Promises that an agent which runs as somebody else has no group and no right of the server's, and may read of the
//! data folder only what is its attempt's: its work folder, its output and its parameters. The folders above are
//! opened for passing through, not for listing. Only a server with root's rights over users and files can do this.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, lchown};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User, setgroups};
use serde::{Deserialize, Serialize};

use super::folder::{FolderError, PARAMETERS_FILE, STDERR_FILE, STDOUT_FILE, WORK_FOLDER};

/// A user and a group that an agent runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunAs {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The user's home.
    pub home: PathBuf,
}

/// Tells why an agent cannot run as somebody else.
#[derive(Debug, thiserror::Error)]
pub enum RunAsError {
    /// The text is no user and group.
    #[error("wanted `USER` or `USER:GROUP`, got `{0}`")]
    Form(String),
    /// The machine does not know the user.
    #[error("wanted a user of this machine, got `{0}`")]
    NoUser(String),
    /// The machine does not know the group.
    #[error("wanted a group of this machine, got `{0}`")]
    NoGroup(String),
    /// The machine does not say.
    #[error("failed to look `{name}` up: {source}")]
    Lookup {
        /// The name.
        name: String,
        /// Why.
        source: nix::errno::Errno,
    },
    /// Rights are missing.
    #[error("this process may not run agents as others: it lacks {0}; run it as root, or give it those")]
    Rights(String),
}

/// The rights that are needed, each with its bit.
///
/// *Source*: capabilities(7), `linux/capability.h`.
const RIGHTS: [(u32, &str); 6] = [
    (0, "CAP_CHOWN"),
    (1, "CAP_DAC_OVERRIDE"),
    (3, "CAP_FOWNER"),
    (5, "CAP_KILL"),
    (6, "CAP_SETGID"),
    (7, "CAP_SETUID"),
];

impl RunAs {
    /// Looks up a user and a group, `USER` or `USER:GROUP`, by name or number.
    pub fn parse(text: &str) -> Result<Self, RunAsError> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        if user.is_empty() || group == Some("") {
            return Err(RunAsError::Form(text.to_owned()));
        }
        let known = match user.parse() {
            Ok(uid) => User::from_uid(Uid::from_raw(uid)),
            Err(_) => User::from_name(user),
        };
        let known = known
            .map_err(|source| RunAsError::Lookup { name: user.to_owned(), source })?
            .ok_or_else(|| RunAsError::NoUser(user.to_owned()))?;
        let gid = match group {
            None => known.gid,
            Some(name) => {
                let found = match name.parse() {
                    Ok(gid) => Group::from_gid(Gid::from_raw(gid)),
                    Err(_) => Group::from_name(name),
                };
                found
                    .map_err(|source| RunAsError::Lookup { name: name.to_owned(), source })?
                    .ok_or_else(|| RunAsError::NoGroup(name.to_owned()))?
                    .gid
            }
        };
        Ok(Self { uid: known.uid.as_raw(), gid: gid.as_raw(), home: known.dir })
    }

    /// Checks that this process may do what is needed.
    pub fn check_rights() -> Result<(), RunAsError> {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let missing = missing_rights(&status);
        if missing.is_empty() { Ok(()) } else { Err(RunAsError::Rights(missing.join(", "))) }
    }
}

/// Lists the rights that are not in force, by what the kernel says about a process.
fn missing_rights(status: &str) -> Vec<&'static str> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let in_force = line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0);
    RIGHTS.iter().filter(|(bit, _)| in_force & (1 << bit) == 0).map(|(_, name)| *name).collect()
}

/// May be passed through by everybody, and listed by the owner alone.
const PASSAGE: u32 = 0o711;

/// The bits of a mode that say who may do what.
const MODE_BITS: u32 = 0o777;

/// Parameters are read by the agent and written by nobody.
const PARAMETERS_MODE: u32 = 0o440;

/// Lets others pass through the data folder and the folder of attempts in it: a user who may not pass cannot reach
/// a file of its own by its path.
pub(crate) fn open_passage(attempts_folder: &Path) -> Result<(), FolderError> {
    for folder in attempts_folder.ancestors().take(2) {
        let failed = || FolderError::io("open for agents of other users", folder);
        let mode = fs::metadata(folder).map_err(failed())?.permissions().mode();
        fs::set_permissions(folder, Permissions::from_mode(mode & !MODE_BITS | PASSAGE)).map_err(failed())?;
    }
    Ok(())
}

/// Gives an attempt's files to the agent's user, and gives up this process's own further groups.
pub(crate) fn give(folder: &Path, run_as: &RunAs) -> io::Result<()> {
    setgroups(&[])?;
    let (uid, gid) = (Some(run_as.uid), Some(run_as.gid));
    for name in [WORK_FOLDER, STDOUT_FILE, STDERR_FILE] {
        lchown(folder.join(name), uid, gid)?;
    }
    let parameters = folder.join(PARAMETERS_FILE);
    chown(&parameters, None, gid)?;
    fs::set_permissions(&parameters, Permissions::from_mode(PARAMETERS_MODE))?;
    fs::set_permissions(folder, Permissions::from_mode(PASSAGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_users_by_name_and_number_gives_the_same() {
        let by_name = RunAs::parse("root:daemon").unwrap();
        let by_number = RunAs::parse("0:1").unwrap();

        assert_eq!(by_name, by_number);
        assert_eq!((by_name.uid, by_name.gid), (0, 1));
        assert_eq!(RunAs::parse("root").unwrap().gid, 0);
    }

    #[test]
    fn parse_unknown_ones_names_them() {
        let errors = ["nobody-knows", "root:nobody-knows", "", "root:", ":root"]
            .map(|text| RunAs::parse(text).unwrap_err().to_string());

        assert_eq!(
            errors,
            [
                "wanted a user of this machine, got `nobody-knows`",
                "wanted a group of this machine, got `nobody-knows`",
                "wanted `USER` or `USER:GROUP`, got ``",
                "wanted `USER` or `USER:GROUP`, got `root:`",
                "wanted `USER` or `USER:GROUP`, got `:root`",
            ]
        );
    }

    #[test]
    fn missing_rights_are_named() {
        assert_eq!(missing_rights("CapEff:\t000001ffffffffff\n"), Vec::<&str>::new());
        assert_eq!(missing_rights("CapEff:\t000000000000004b\n"), ["CAP_KILL", "CAP_SETUID"]);
        assert_eq!(missing_rights("").len(), RIGHTS.len());
    }
}
