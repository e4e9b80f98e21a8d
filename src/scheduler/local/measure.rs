//! What an attempt uses, measured by its shim over all processes below it.
//!
//! Promises that processor time and calls never run backwards, and that what a process used is kept when the
//! shim waits for it. A process that ends unseen under a parent that ignores its children is missed.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use super::process::{self, ProcessStat};

/// What the attempt has used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    pub(crate) resident_bytes: u64,
    pub(crate) io_calls: u64,
}

/// Adds up what the shim's children use.
#[derive(Debug)]
pub(crate) struct Meter {
    page_bytes: u64,
    ticks_per_second: u64,
    /// Calls of the processes that the shim has waited for, and of those these waited for.
    reaped_io_calls: u64,
    last: Usage,
    peak_resident_bytes: u64,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self {
            page_bytes: process::page_bytes(),
            ticks_per_second: process::ticks_per_second(),
            reaped_io_calls: 0,
            last: Usage::default(),
            peak_resident_bytes: 0,
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
        let pages: u64 = descendants.iter().map(|stat| stat.resident_pages).sum();
        let resident_bytes = pages.saturating_mul(self.page_bytes);
        let highest_alone =
            descendants.iter().filter_map(|stat| process::peak_resident_bytes(stat.pid)).max().unwrap_or(0);
        self.peak_resident_bytes = self.peak_resident_bytes.max(resident_bytes).max(highest_alone);
        self.last = Usage {
            // Ticks are coarse: a figure from them may be above the exact one that comes after waiting.
            cpu: self.last.cpu.max(Duration::from_micros(alive_micros) + waited_for_cpu()),
            resident_bytes,
            io_calls: self.last.io_calls.max(alive_calls + self.reaped_io_calls),
        };
        self.last
    }

    /// Gives the whole use, once every child was waited for; memory is what was last seen resident.
    pub(crate) fn total(&self) -> Usage {
        let resident_bytes =
            if self.peak_resident_bytes == 0 { largest_child_bytes() } else { self.last.resident_bytes };
        Usage {
            cpu: waited_for_cpu().max(self.last.cpu),
            resident_bytes,
            io_calls: self.reaped_io_calls.max(self.last.io_calls),
        }
    }

    /// Gives the most memory that was resident at once.
    ///
    /// An attempt that ended before it could be measured has the kernel's figure for its largest process, which
    /// is at least the shim's own.
    pub(crate) fn peak_resident_bytes(&self) -> u64 {
        if self.peak_resident_bytes == 0 { largest_child_bytes() } else { self.peak_resident_bytes }
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
