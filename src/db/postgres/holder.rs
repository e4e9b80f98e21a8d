//! How a process names itself in a lease, so that another on the same machine can tell that it is dead.
//!
//! Promises that a process is called dead only where that is certain: the same boot of the same machine, the
//! same space of process numbers, and no process with that number and that time of start.

use std::fmt;

use crate::life::{Life, life_of};

/// A process, named so that no other ever has the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    host: String,
    pid: u32,
    /// When the process began, in the kernel's ticks since its boot.
    started: u64,
    /// The boot of the machine and the space of process numbers.
    place: String,
}

impl Holder {
    /// Names this process.
    pub(super) fn this() -> std::io::Result<Self> {
        let pid = std::process::id();
        let Life::Since(started) = life_of(pid) else {
            return Err(std::io::Error::other("failed to read `/proc/self/stat`"));
        };
        let host =
            std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim().replace(char::is_whitespace, "-");
        Ok(Self { host, pid, started, place: place()? })
    }

    /// Reads a name; none for what this program did not write.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let (host, pid, started, place) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        Some(Self {
            host: host.to_owned(),
            pid: pid.parse().ok()?,
            started: started.parse().ok()?,
            place: place.to_owned(),
        })
    }

    /// Names the process for people.
    pub(super) fn for_people(&self) -> String {
        format!("process {} on {}", self.pid, self.host)
    }

    /// Tells whether the process has certainly ended.
    pub(super) fn is_dead(&self) -> bool {
        place().is_ok_and(|here| here == self.place) && self.is_dead_by(life_of(self.pid))
    }

    /// Judges by what is known of its number.
    fn is_dead_by(&self, life: Life) -> bool {
        match life {
            Life::Gone => true,
            // The number has gone to another process.
            Life::Since(started) => started != self.started,
            Life::Unknown => false,
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.host, self.pid, self.started, self.place)
    }
}

/// Names the boot of this machine and the space of process numbers that we live in.
fn place() -> std::io::Result<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let space = std::fs::read_link("/proc/self/ns/pid")?;
    Ok(format!("{}/{}", boot.trim(), space.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holder_this_process_round_trips_and_lives() {
        let this = Holder::this().unwrap();

        assert_eq!(Holder::parse(&this.to_string()), Some(this.clone()));
        assert!(!this.is_dead());
    }

    #[test]
    fn holder_ended_process_is_dead_only_at_its_own_place() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let Life::Since(started) = life_of(child.id()) else { panic!("the child runs") };
        let of_child = Holder { pid: child.id(), started, ..Holder::this().unwrap() };
        assert!(!of_child.is_dead());

        child.kill().unwrap();
        child.wait().unwrap();

        assert!(of_child.is_dead());
        assert!(!Holder { place: "elsewhere".to_owned(), ..of_child }.is_dead());
    }

    #[test]
    fn holder_that_cannot_be_looked_at_keeps_its_lease() {
        let holder = Holder::this().unwrap();

        assert!(!holder.is_dead_by(Life::Unknown));
        assert!(holder.is_dead_by(Life::Gone));
        assert!(holder.is_dead_by(Life::Since(holder.started + 1)));
    }
}
