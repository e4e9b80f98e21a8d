//! Whether another process of this machine lives.
//!
//! Promises that a process is called gone only where that is certain: the kernel knows no such process, or it is only
//! left to be waited for. Whatever else is met when one looks (no file handle left, no right to look, processes of
//! others hidden from us, no `/proc` at all) says nothing about it.

use std::io;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

/// What is known of a process number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// There is a process, which began then, in the kernel's ticks since its boot.
    Since(u64),
    /// There is none that runs.
    Gone,
    /// It cannot be told.
    Unknown,
}

/// Looks at a process number.
pub fn life_of(pid: u32) -> Life {
    judge(std::fs::read_to_string(format!("/proc/{pid}/stat")), || is_unknown_to_the_kernel(pid))
}

/// Asks by a signal that is none: a process that may not be seen, or not be signalled, exists all the same.
fn is_unknown_to_the_kernel(pid: u32) -> bool {
    match i32::try_from(pid) {
        // Zero and below stand for groups of processes.
        Ok(pid) if pid > 0 => kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH),
        _ => true,
    }
}

/// *Source*: `proc_pid_stat(5)`; mounts of `/proc` with `hidepid` answer that there is no such file.
fn judge(stat: io::Result<String>, is_unknown_to_the_kernel: impl FnOnce() -> bool) -> Life {
    match stat {
        Ok(stat) => parse(&stat).unwrap_or(Life::Unknown),
        Err(_) if is_unknown_to_the_kernel() => Life::Gone,
        Err(_) => Life::Unknown,
    }
}

fn parse(stat: &str) -> Option<Life> {
    // The name in brackets may hold anything; what follows it does not.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return Some(Life::Gone);
    }
    // The state is the third field and the start is the twenty-second.
    fields.nth(18)?.parse().ok().map(Life::Since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn life_of_processes_that_run_or_ended_is_told() {
        assert!(matches!(life_of(std::process::id()), Life::Since(_)));
        // Beyond the kernel's largest number.
        assert_eq!(life_of(4_194_305), Life::Gone);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(matches!(life_of(child.id()), Life::Since(_)));

        child.kill().unwrap();
        child.wait().unwrap();

        assert_eq!(life_of(child.id()), Life::Gone);
    }

    #[test]
    fn life_that_cannot_be_looked_at_is_unknown_unless_the_kernel_knows_no_such_process() {
        for errno in [
            Errno::EMFILE,
            Errno::ENFILE,
            Errno::EACCES,
            Errno::EPERM,
            Errno::EIO,
            Errno::ENOENT,
            Errno::ESRCH,
        ] {
            let failed = || Err(io::Error::from(errno));

            assert_eq!(judge(failed(), || false), Life::Unknown, "{errno}");
            assert_eq!(judge(failed(), || true), Life::Gone, "{errno}");
        }
        assert_eq!(judge(Ok("7 (half".to_owned()), || false), Life::Unknown);
    }

    #[test]
    fn life_of_a_process_with_an_odd_name_is_read() {
        let fields = "S 1 7 7 0 -1 0 0 0 0 0 1 2 3 4 20 0 1 0 4711 0 0";

        assert_eq!(judge(Ok(format!("7 (a) Z (b) {fields}")), || false), Life::Since(4711));
        assert_eq!(judge(Ok(format!("7 (a) {}", fields.replace('S', "Z"))), || false), Life::Gone);
    }
}
