//! What an attempt uses, measured by its shim over all processes below it.
//!
//! Promises that processor time and calls never run backwards, that what a process used is kept when the shim
//! waits for it, and that memory which several processes share is counted once. A process that ends unseen under
//! a parent that ignores its children is missed.
//!
//! Memory: where the attempt's control group counts it, that figure. Else the sum of what each process has resident,
//! which is never too low and costs little, as long as that is within the limit or there is one process only. Beyond
//! it the sum of their shares (`Pss`), which is right and dear: it is read for a small part of the time at most, sooner
//! when what the sum has grown by since may have led beyond the limit, and in between the last one stands.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use super::cgroup;
use super::process::{self, ProcessStat};

/// Shares are read at most once in this time, and so many times what it took.
const SHARES_PAUSE: Duration = Duration::from_millis(500);
const SHARES_PART: u32 = 20;

/// The same when the limit seems to be exceeded.
const SHARES_PART_URGENT: u32 = 5;

/// What the attempt has used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    pub(crate) memory: Memory,
    pub(crate) io_calls: u64,
}

/// The memory that an attempt holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) bytes: u64,
    /// Whether it was read just now: only then it is held against a limit.
    pub(crate) is_read: bool,
}

/// A reading of the shares of all processes.
#[derive(Debug, Clone, Copy)]
struct Shares {
    at: Instant,
    took: Duration,
    bytes: u64,
    /// The sum of what was resident then.
    resident_bytes: u64,
}

/// Adds up what the shim's children use.
#[derive(Debug)]
pub(crate) struct Meter {
    page_bytes: u64,
    ticks_per_second: u64,
    limit_bytes: Option<u64>,
    /// The attempt's control group, if it has one.
    group: Option<PathBuf>,
    shares: Option<Shares>,
    /// Calls of the processes that the shim has waited for, and of those these waited for.
    reaped_io_calls: u64,
    last: Usage,
    peak_bytes: u64,
}

impl Meter {
    pub(crate) fn new(limit_bytes: Option<u64>, group: Option<PathBuf>) -> Self {
        Self {
            page_bytes: process::page_bytes(),
            ticks_per_second: process::ticks_per_second(),
            limit_bytes,
            group,
            shares: None,
            reaped_io_calls: 0,
            last: Usage::default(),
            peak_bytes: 0,
        }
    }

    /// Keeps the calls of a child that has ended and is about to be waited for.
    pub(crate) fn before_reaping(&mut self, pid: i32) {
        self.reaped_io_calls += process::io_calls(pid).unwrap_or(0);
    }

    /// Measures now, given the processes below the shim.
    pub(crate) fn measure(&mut self, descendants: &[ProcessStat]) -> Usage {
        let alive_ticks: u64 = descendants.iter().map(|stat| stat.cpu_ticks).sum();
        let alive_micros = alive_ticks.saturating_mul(MICROS_PER_SECOND) / self.ticks_per_second.max(1);
        let alive_calls: u64 = descendants.iter().filter_map(|stat| process::io_calls(stat.pid)).sum();
        let memory = self.memory(descendants);
        let highest_alone =
            descendants.iter().filter_map(|stat| process::peak_resident_bytes(stat.pid)).max().unwrap_or(0);
        self.peak_bytes = self.peak_bytes.max(memory.bytes).max(highest_alone);
        self.last = Usage {
            // Ticks are coarse: a figure from them may be above the exact one that comes after waiting.
            cpu: self.last.cpu.max(Duration::from_micros(alive_micros) + waited_for_cpu()),
            memory,
            io_calls: self.last.io_calls.max(alive_calls + self.reaped_io_calls),
        };
        self.last
    }

    fn memory(&mut self, descendants: &[ProcessStat]) -> Memory {
        if let Some(bytes) = self.group.as_deref().and_then(cgroup::held_bytes) {
            return Memory { bytes, is_read: true };
        }
        let pages: u64 = descendants.iter().map(|stat| stat.resident_pages).sum();
        let resident_bytes = pages.saturating_mul(self.page_bytes);
        let with_memory = descendants.iter().filter(|stat| stat.resident_pages > 0).count();
        if with_memory <= 1 {
            return Memory { bytes: resident_bytes, is_read: true };
        }
        let reckoned = self.shares.map_or(resident_bytes, |shares| {
            resident_bytes.min(shares.bytes + resident_bytes.saturating_sub(shares.resident_bytes))
        });
        let is_urgent = self.limit_bytes.is_some_and(|limit_bytes| reckoned > limit_bytes);
        let now = Instant::now();
        if let Some(shares) = self.shares.filter(|shares| now < shares.next_at(is_urgent)) {
            return Memory { bytes: shares.bytes.min(resident_bytes), is_read: false };
        }
        let bytes = descendants.iter().map(|stat| self.share_of(stat)).sum::<u64>().min(resident_bytes);
        self.shares = Some(Shares { at: now, took: now.elapsed(), bytes, resident_bytes });
        Memory { bytes, is_read: true }
    }

    /// Gives a process's share; all that it has resident where the kernel does not tell.
    fn share_of(&self, stat: &ProcessStat) -> u64 {
        let resident_bytes = stat.resident_pages.saturating_mul(self.page_bytes);
        if stat.resident_pages == 0 {
            return 0;
        }
        match process::share_of_resident_bytes(stat.pid) {
            Some(bytes) => bytes,
            // One that has ended meanwhile holds nothing.
            None if ProcessStat::read(stat.pid).is_none_or(|now| now.resident_pages == 0) => 0,
            None => resident_bytes,
        }
    }

    /// Gives the whole use, once every child was waited for; memory is what was last seen held.
    pub(crate) fn total(&self) -> Usage {
        let memory = match self.last.memory.bytes {
            0 => Memory { bytes: self.peak_bytes(), is_read: false },
            _ => self.last.memory,
        };
        Usage {
            cpu: waited_for_cpu().max(self.last.cpu),
            memory,
            io_calls: self.reaped_io_calls.max(self.last.io_calls),
        }
    }

    /// Gives the most memory that was held at once.
    ///
    /// An attempt that ended before it could be measured has the kernel's figure for its largest process, which
    /// is at least the shim's own.
    pub(crate) fn peak_bytes(&self) -> u64 {
        if self.peak_bytes == 0 { largest_child_bytes() } else { self.peak_bytes }
    }
}

impl Shares {
    fn next_at(&self, is_urgent: bool) -> Instant {
        let pause = match is_urgent {
            true => self.took * SHARES_PART_URGENT,
            false => SHARES_PAUSE.max(self.took * SHARES_PART),
        };
        self.at + self.took + pause
    }
}

const MICROS_PER_SECOND: u64 = 1_000_000;

fn waited_for_cpu() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return Duration::ZERO };
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

fn largest_child_bytes() -> u64 {
    let kibibytes = getrusage(UsageWho::RUSAGE_CHILDREN).map(|usage| usage.max_rss()).unwrap_or(0);
    u64::try_from(kibibytes).unwrap_or(0).saturating_mul(1024)
}

/// Bytes in a MiB, the unit of memory in samples and totals.
const MIB_BYTES: f64 = 1024.0 * 1024.0;

/// Gives bytes as MiB.
#[expect(clippy::cast_precision_loss, reason = "memory stays far below 2^53 bytes")]
pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / MIB_BYTES
}

/// Gives processor time in percent of one core over a span, 0 over no time at all.
pub(crate) fn percent(cpu: Duration, span: Duration) -> f64 {
    if span.is_zero() { 0.0 } else { 100.0 * cpu.as_secs_f64() / span.as_secs_f64() }
}
