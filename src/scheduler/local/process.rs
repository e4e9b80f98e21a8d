//! What the operating system says about processes, read from `/proc`.
//!
//! Promises that a process is only signalled after its identity (pid *and* start time) was read again, so that
//! a recycled pid is not hit. Does not promise a consistent picture: processes come and go while it is read.

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, SysconfVar, sysconf};
use serde::{Deserialize, Serialize};

/// Names a process beyond the reuse of its pid.
///
/// *Shape*: pid, start time in clock ticks since boot, and the id of that boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessIdentity {
    pub(crate) pid: i32,
    pub(crate) start_ticks: u64,
    pub(crate) boot_id: String,
}

impl ProcessIdentity {
    /// Names the process that has this pid now; none if there is no such process.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Some(Self { pid, start_ticks: ProcessStat::read(pid)?.start_ticks, boot_id: boot_id()? })
    }

    /// Tells whether the process runs for certain; a zombie does not.
    pub(crate) fn is_alive(&self) -> bool {
        boot_id().is_some_and(|id| id == self.boot_id)
            && ProcessStat::read(self.pid)
                .is_some_and(|stat| stat.start_ticks == self.start_ticks && !stat.is_zombie())
    }

    /// Tells whether the process has ended for certain: not being able to look (no file handle left) is no end.
    pub(crate) fn is_gone(&self) -> bool {
        if boot_id().is_some_and(|id| id != self.boot_id) {
            return true;
        }
        match fs::read_to_string(format!("/proc/{}/stat", self.pid)) {
            Ok(line) => ProcessStat::parse(&line)
                .is_some_and(|stat| stat.start_ticks != self.start_ticks || stat.is_zombie()),
            Err(error) => {
                error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ESRCH as i32)
            }
        }
    }

    /// Sends a signal if the process still runs.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.is_alive() {
            // It may have ended in between, which is as good.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

/// Gives the id of this boot of the machine; none when it cannot be read now.
fn boot_id() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
}

/// One line of `/proc/PID/stat`.
///
/// *Units*: processor times in clock ticks; resident memory in pages.
///
/// *Source*: proc_pid_stat(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessStat {
    pub(crate) pid: i32,
    pub(crate) state: char,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    /// Own time and the time of children that were waited for.
    pub(crate) cpu_ticks: u64,
    pub(crate) start_ticks: u64,
    pub(crate) resident_pages: u64,
}

impl ProcessStat {
    pub(crate) fn read(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(line: &str) -> Option<Self> {
        // The command stands in parentheses and may itself hold spaces and parentheses.
        let (head, tail) = (line.split_once(" (")?.0, line.rsplit_once(") ")?.1);
        let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index).and_then(|text| text.parse::<i64>().ok());
        let count = |index: usize| number(index).and_then(|value| u64::try_from(value).ok());
        Some(Self {
            pid: head.trim().parse().ok()?,
            state: fields.first()?.chars().next()?,
            parent: i32::try_from(number(1)?).ok()?,
            group: i32::try_from(number(2)?).ok()?,
            cpu_ticks: count(11)? + count(12)? + count(13)? + count(14)?,
            start_ticks: count(19)?,
            resident_pages: count(21)?,
        })
    }

    pub(crate) fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// Says what the process is doing, as proc_pid_stat(5) has it.
    pub(crate) const fn state_in_words(&self) -> &'static str {
        match self.state {
            'R' => "running",
            'S' => "sleeping",
            'D' => "stuck in the kernel",
            'T' | 't' => "stopped",
            _ => "in another state",
        }
    }

    pub(crate) const fn is_stopped(&self) -> bool {
        matches!(self.state, 'T' | 't')
    }

    /// Sends a signal if the pid still belongs to the process that was read.
    pub(crate) fn signal(&self, signal: Signal) {
        let same = ProcessStat::read(self.pid).is_some_and(|now| now.start_ticks == self.start_ticks);
        if same {
            // It may have ended in between, which is as good.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

/// Sends a signal to a whole process group; a group that is gone is fine.
///
/// The caller knows that the group is its own: its leader is not waited for yet, or was just identified.
pub(crate) fn signal_group(group: i32, signal: Signal) {
    match killpg(Pid::from_raw(group), signal) {
        // Gone, or nothing in it that we may signal: what is left is found one by one.
        Ok(()) | Err(Errno::ESRCH | Errno::EPERM) => {}
        Err(error) => tracing::warn!(group, %error, "signalling a process group failed"),
    }
}

/// Lists all processes; a list that could only be read in part is none.
fn pids_in(process_files: &Path) -> io::Result<Vec<i32>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir(process_files)? {
        pids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(pids)
}

fn all_pids() -> io::Result<Vec<i32>> {
    pids_in(Path::new("/proc"))
}

/// Lists all processes below one, zombies included, itself not.
pub(crate) fn descendants(root: i32) -> Vec<ProcessStat> {
    match children_of(root) {
        Some(children) => descendants_by_children(children),
        None => descendants_by_scan(root),
    }
}

fn descendants_by_children(mut open: Vec<i32>) -> Vec<ProcessStat> {
    let mut found = Vec::new();
    let mut seen = std::collections::HashSet::new();
    while let Some(pid) = open.pop() {
        if !seen.insert(pid) {
            continue;
        }
        if let Some(stat) = ProcessStat::read(pid) {
            found.push(stat);
            open.extend(children_of(pid).unwrap_or_default());
        }
    }
    found
}

/// Reads the kernel's list of children, of every thread; none where the kernel keeps no such list.
fn children_of(pid: i32) -> Option<Vec<i32>> {
    let mut children = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let text = fs::read_to_string(thread.path().join("children")).ok()?;
        children.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    Some(children)
}

fn descendants_by_scan(root: i32) -> Vec<ProcessStat> {
    let mut by_parent: HashMap<i32, Vec<ProcessStat>> = HashMap::new();
    // Whom the list lacks the shim still waits for: only the kernel tells it that it has no child left.
    for stat in all_pids().unwrap_or_default().into_iter().filter_map(ProcessStat::read) {
        by_parent.entry(stat.parent).or_default().push(stat);
    }
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        for stat in by_parent.remove(&pid).unwrap_or_default() {
            open.push(stat.pid);
            found.push(stat);
        }
    }
    found
}

/// Gives the read and write calls of a process and of its children that were waited for.
pub(crate) fn io_calls(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    let field = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse::<u64>().ok())
    };
    Some(field("syscr")? + field("syscw")?)
}

/// Gives a process's share of the memory that it has resident: of each page that it has in common with others, its
/// part. The kernel walks through all of its memory for that, some ten milliseconds a gigabyte.
///
/// *Source*: `Pss` in proc_pid_smaps(5).
pub(crate) fn share_of_resident_bytes(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Gives the most memory that a process has had resident, in bytes.
pub(crate) fn peak_resident_bytes(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Gives the size of a page in bytes.
pub(crate) fn page_bytes() -> u64 {
    system_number(SysconfVar::PAGE_SIZE, 4096)
}

/// Gives the clock ticks in a second.
pub(crate) fn ticks_per_second() -> u64 {
    system_number(SysconfVar::CLK_TCK, 100)
}

fn system_number(variable: SysconfVar, usual: u64) -> u64 {
    sysconf(variable).ok().flatten().and_then(|value| u64::try_from(value).ok()).unwrap_or(usual)
}

/// Names a file beyond its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileIdentity {
    device: u64,
    inode: u64,
}

impl FileIdentity {
    pub(crate) fn of(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// What shows that a process belongs to an attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Membership<'a> {
    /// `NAME=value`, set in the agent's environment and inherited from there.
    pub(crate) marker: &'a str,
    /// The attempt's lock file, whose descriptor is inherited.
    pub(crate) lock: Option<FileIdentity>,
    /// The agent, leader of its group, where it is known.
    pub(crate) leader: Option<&'a ProcessIdentity>,
}

/// Lists the living processes that belong to an attempt, wherever they hang in the process tree.
///
/// A child of this very process is not taken for holding the lock alone: for an instant between fork and exec
/// it holds every descriptor that we have open.
///
/// *Errors*: when processes cannot be listed; none found means that there is none.
pub(crate) fn members(of: Membership<'_>) -> io::Result<Vec<ProcessStat>> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let group = of.leader.filter(|leader| leader.is_alive()).map(|leader| leader.pid);
    let members = all_pids()?
        .into_iter()
        .filter(|pid| *pid != own)
        .filter_map(ProcessStat::read)
        .filter(|stat| !stat.is_zombie())
        .filter(|stat| {
            group == Some(stat.group)
                || has_in_environment(stat.pid, of.marker)
                || (stat.parent != own && of.lock.is_some_and(|lock| has_open(stat.pid, lock)))
        });
    Ok(members.collect())
}

fn has_in_environment(pid: i32, marker: &str) -> bool {
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|all| all.split(|byte| *byte == 0).any(|one| one == marker.as_bytes()))
}

fn has_open(pid: i32, file: FileIdentity) -> bool {
    let Ok(entries) = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd")) else { return false };
    entries
        .flatten()
        .any(|entry| fs::metadata(entry.path()).is_ok_and(|metadata| FileIdentity::of(&metadata) == file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_of_processes_that_cannot_be_read_is_no_empty_list() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("42")).unwrap();
        std::fs::write(folder.path().join("uptime"), "1").unwrap();

        assert_eq!(pids_in(folder.path()).unwrap(), [42]);
        assert!(pids_in(&folder.path().join("not mounted")).is_err());
    }

    #[test]
    fn process_stat_with_parentheses_in_the_command_is_read() {
        let line = "42 (a) b (c)) S 7 42 42 0 -1 4194560 1 0 0 0 3 4 5 6 20 0 1 0 987654 1000 250 18446744073709551615 1";

        let stat = ProcessStat::parse(line).unwrap();

        assert_eq!(
            stat,
            ProcessStat {
                pid: 42,
                state: 'S',
                parent: 7,
                group: 42,
                cpu_ticks: 18,
                start_ticks: 987_654,
                resident_pages: 250
            }
        );
    }

    #[test]
    fn process_identity_with_another_start_time_is_not_alive() {
        let own = i32::try_from(std::process::id()).unwrap();
        let identity = ProcessIdentity::of(own).unwrap();

        let recycled = ProcessIdentity { start_ticks: identity.start_ticks + 1, ..identity.clone() };
        let other_boot = ProcessIdentity { boot_id: "another".to_owned(), ..identity.clone() };

        assert!(identity.is_alive());
        assert!(!recycled.is_alive());
        assert!(!other_boot.is_alive());
        assert!(!identity.is_gone());
        assert!(recycled.is_gone());
        assert!(other_boot.is_gone());
    }

    #[test]
    fn descendants_both_ways_find_a_child() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read line"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let pid = i32::try_from(child.id()).unwrap();

        let listed = descendants(own);
        let scanned = descendants_by_scan(own);

        assert!(listed.iter().any(|stat| stat.pid == pid));
        assert!(scanned.iter().any(|stat| stat.pid == pid));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
