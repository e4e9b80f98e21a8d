//! Control groups: where one can be had, no process leaves its attempt.
//!
//! Promises that whatever a member starts is a member, also a process that left the session, closed everything
//! and cleared its environment; only one that may write to the group's files can leave it. Where the machine does
//! not give us a group of version 2 that we may write, there is none, and processes are found by other marks.
//!
//! *Source*: cgroups(7); `Documentation/admin-guide/cgroup-v2.rst` in the kernel's source.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use uuid::Uuid;

/// Begins the names of our groups.
const NAME_PREFIX: &str = "horizons-attempt-";

/// The process that writes stands for itself under this number.
const SELF: &str = "0";

/// How long a killed group may take to become empty before its removal is left to the next look.
const EMPTY_LIMIT: Duration = Duration::from_secs(1);

/// Between two looks at it.
const EMPTY_PAUSE: Duration = Duration::from_millis(5);

/// Finds the group that this process is in, if groups can be made in it.
pub(super) fn base() -> Option<PathBuf> {
    let base = own_group()?;
    // The only sure answer is to try.
    let probe = base.join(format!("{NAME_PREFIX}probe-{}", Uuid::new_v4()));
    fs::create_dir(&probe).ok()?;
    let is_ours = probe.join("cgroup.kill").exists() && may_write(&probe) && may_write(&base);
    let is_removed = fs::remove_dir(&probe).is_ok();
    (is_ours && is_removed).then_some(base)
}

/// Names the group of an attempt.
pub(super) fn of_attempt(base: &Path, key: Uuid) -> PathBuf {
    base.join(format!("{NAME_PREFIX}{key}"))
}

fn may_write(group: &Path) -> bool {
    fs::OpenOptions::new().write(true).open(group.join("cgroup.procs")).is_ok()
}

/// Gives this process's own group in the hierarchy of version 2.
fn own_group() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    own_group_of(&mounts, &groups)
}

fn own_group_of(mounts: &str, groups: &str) -> Option<PathBuf> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        if kind.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = place.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let below = Path::new(own).strip_prefix(root).ok()?;
        Some(Path::new(point).join(below))
    })
}

/// A group that an agent is started in.
#[derive(Debug)]
pub(crate) struct Group {
    path: PathBuf,
    /// Where the shim itself is, and returns to.
    home: PathBuf,
}

impl Group {
    /// Makes the group; it must not be there yet.
    pub(crate) fn make(path: &Path) -> io::Result<Self> {
        let home = path.parent().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        fs::create_dir(path)?;
        Ok(Self { path: path.to_owned(), home })
    }

    /// Moves this process into the group, so that what it starts is in it.
    pub(crate) fn enter(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.procs"), SELF)
    }

    /// Moves this process back.
    pub(crate) fn leave(&self) -> io::Result<()> {
        fs::write(self.home.join("cgroup.procs"), SELF)
    }
}

/// Tells whether a process lives in a group; a group that is gone has none.
pub(crate) fn is_populated(group: &Path) -> bool {
    fs::read_to_string(group.join("cgroup.events"))
        .is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
}

/// Tells whether this process is in a group, for instance because it could not leave it.
pub(crate) fn holds_self(group: &Path) -> bool {
    let own = std::process::id().to_string();
    fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|all| all.lines().any(|pid| pid == own))
}

/// Kills every process of a group, and removes it when they are gone; tells whether it is gone.
pub(crate) fn kill_and_remove(group: &Path) -> bool {
    if !group.exists() {
        return true;
    }
    if let Err(error) = fs::write(group.join("cgroup.kill"), "1") {
        tracing::debug!(group = %group.display(), %error, "killing a control group failed");
    }
    let give_up_at = Instant::now() + EMPTY_LIMIT;
    while is_populated(group) && Instant::now() < give_up_at {
        std::thread::park_timeout(EMPTY_PAUSE);
    }
    // A group with processes in it is not removed.
    match fs::remove_dir(group) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Gives the memory that a group holds and cannot give back: what its processes made, and shared memory, each page
/// once. None where groups do not count memory.
pub(crate) fn held_bytes(group: &Path) -> Option<u64> {
    held_bytes_of(&fs::read_to_string(group.join("memory.stat")).ok()?)
}

fn held_bytes_of(stat: &str) -> Option<u64> {
    let field = |name: &str| {
        stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<u64>().ok())
    };
    Some(field("anon")? + field("shmem")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_group_is_found_below_the_mount() {
        let mounts = "24 23 0:21 / /proc rw - proc proc rw\n\
            41 24 0:36 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

        let found = own_group_of(mounts, "0::/system.slice/horizons.service\n");

        assert_eq!(found, Some(PathBuf::from("/sys/fs/cgroup/system.slice/horizons.service")));
    }

    #[test]
    fn own_group_beside_version_one_is_found_and_a_foreign_mount_is_not() {
        let mounts = "39 32 0:33 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
            40 32 0:34 /box /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

        let inside = own_group_of(mounts, "4:memory:/other\n0::/box/deep\n");
        let outside = own_group_of(mounts, "0::/elsewhere\n");
        let none = own_group_of(mounts, "4:memory:/other\n");

        assert_eq!(inside, Some(PathBuf::from("/sys/fs/cgroup/unified/deep")));
        assert_eq!((outside, none), (None, None));
    }

    #[test]
    fn held_bytes_leave_out_what_the_kernel_can_take_back() {
        let stat = "anon 1000\nfile 9000\nkernel 5\nshmem 200\nfile_mapped 300\n";

        assert_eq!(held_bytes_of(stat), Some(1200));
        assert_eq!(held_bytes_of("file 1\n"), None);
    }
}
