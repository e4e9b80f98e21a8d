//! Writing samples while the agent runs.
//!
//! Promises that samples are numbered without a hole: one that could not be written (a full disk) gives its
//! number to the next, which then covers its span too.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use horizons_actors::clock::{Clock, SystemClock};
use horizons_actors::ports::scheduler::{AttemptSample, AttemptTotals};

use super::log;
use crate::scheduler::local::measure::{Meter, Usage, mebibytes, percent};

/// Writes the samples of one attempt.
#[derive(Debug)]
pub(super) struct Recorder {
    file: File,
    started: Instant,
    next_index: u64,
    last: Usage,
    last_at: Instant,
    /// Whether the last write may have left half a line.
    is_torn: bool,
}

impl Recorder {
    pub(super) fn new(file: File, started: Instant) -> Self {
        Self { file, started, next_index: 0, last: Usage::default(), last_at: started, is_torn: false }
    }

    /// Gives when the next sample is due.
    pub(super) fn due_at(&self, interval: Duration) -> Instant {
        self.last_at + interval
    }

    /// Writes a sample of what was used up to `at`.
    pub(super) fn record(&mut self, usage: Usage, at: Instant) {
        let span = at.saturating_duration_since(self.last_at);
        let sample = AttemptSample {
            index: self.next_index,
            taken_at: SystemClock.now(),
            cpu_usage_percent: percent(usage.cpu.saturating_sub(self.last.cpu), span),
            memory_usage_mb: mebibytes(usage.memory.bytes),
            io_operations: usage.io_calls.saturating_sub(self.last.io_calls),
            execution_time_seconds: at.saturating_duration_since(self.started).as_secs_f64(),
        };
        let mut line = Vec::new();
        if self.is_torn {
            line.push(b'\n');
        }
        let written =
            serde_json::to_writer(&mut line, &sample).map_err(std::io::Error::from).and_then(|()| {
                line.push(b'\n');
                self.file.write_all(&line)
            });
        match written {
            Ok(()) => {
                self.next_index += 1;
                self.last = usage;
                self.last_at = at;
                self.is_torn = false;
            }
            Err(error) => {
                log(&format!("failed to write a sample: {error}"));
                // Wait a whole interval before the next try; the figures since the last sample are kept.
                self.last_at = at;
                self.is_torn = true;
            }
        }
    }

    /// Makes the samples durable and gives the totals.
    pub(super) fn finish(mut self, meter: &Meter, ended: Instant) -> AttemptTotals {
        let total = meter.total();
        self.record(total, ended);
        if let Err(error) = self.file.sync_all() {
            log(&format!("failed to sync the samples: {error}"));
        }
        let run_time = ended.saturating_duration_since(self.started);
        AttemptTotals {
            cpu_usage_percent: percent(total.cpu, run_time),
            memory_usage_mb: mebibytes(meter.peak_bytes()),
            io_operations: total.io_calls,
            execution_time_seconds: run_time.as_secs_f64(),
        }
    }
}
