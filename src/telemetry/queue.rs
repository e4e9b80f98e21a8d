//! The way of log lines to their reader: through memory, on a thread of its own.
//!
//! Promises that whoever logs never waits for whoever reads: when the reader stops, lines wait up to a bound, further
//! ones are counted and dropped, and a line tells how many once it reads again. What is queued comes out in order.
//! A process that ends waits for the last lines, with a limit; one that is killed or aborts loses what the thread has
//! not written yet, a moment's lines.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing_subscriber::fmt::MakeWriter;

/// What may wait, in bytes; as much again is on its way to the reader. Some thousands of lines.
pub(super) const LIMIT_BYTES: usize = 1024 * 1024;

/// How long the thread waits for a reader that takes nothing just now before it asks again.
const READER_PATIENCE_MS: u16 = 1000;

#[derive(Debug, Default)]
struct State {
    /// Whole lines.
    waiting: Vec<u8>,
    /// Bytes that were ever queued.
    queued: u64,
    /// Bytes of these that were written, or that nobody reads.
    done: u64,
    /// Lines that were dropped and not told of.
    untold: u64,
    is_writer_idle: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    limit_bytes: usize,
    /// There is something to write.
    more: Condvar,
    /// Something was written.
    written: Condvar,
    dropped: AtomicU64,
}

impl Shared {
    /// Never held over more than copying a line.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drop_lines(&self, state: &mut State, lines: u64) {
        state.untold += lines;
        self.dropped.fetch_add(lines, Ordering::Relaxed);
    }
}

/// The queue.
#[derive(Debug, Clone)]
pub(super) struct LineQueue(Arc<Shared>);

impl LineQueue {
    /// Starts the thread that writes to a reader. Every call of `tell_dropped` is given how many lines were dropped
    /// since the last one, and should log that.
    pub(super) fn start(
        mut reader: impl Write + Send + 'static,
        limit_bytes: usize,
        tell_dropped: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            limit_bytes,
            more: Condvar::new(),
            written: Condvar::new(),
            dropped: AtomicU64::new(0),
        });
        let writer = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_lines(&writer, &mut reader, &tell_dropped))?;
        Ok(Self(shared))
    }

    /// Queues a line with its end, or drops it.
    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.0.state();
        if state.waiting.len().saturating_add(line.len()) > self.0.limit_bytes {
            self.0.drop_lines(&mut state, 1);
            return;
        }
        state.waiting.extend_from_slice(line);
        state.queued += line.len() as u64;
        let is_writer_idle = state.is_writer_idle;
        drop(state);
        if is_writer_idle {
            self.0.more.notify_one();
        }
    }

    /// Waits until all that is queued now was written; false when it was not within the limit.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let state = self.0.state();
        let queued = state.queued;
        let waited = self.0.written.wait_timeout_while(state, limit, |state| state.done < queued);
        waited.unwrap_or_else(PoisonError::into_inner).0.done >= queued
    }

    /// Counts the lines that were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }
}

/// The thread: it holds no lock while it writes.
fn write_lines(shared: &Shared, reader: &mut impl Write, tell_dropped: &impl Fn(u64)) {
    let mut lines = Vec::new();
    loop {
        let untold = {
            let mut state = shared.state();
            while state.waiting.is_empty() {
                state.is_writer_idle = true;
                state = shared.more.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.is_writer_idle = false;
            std::mem::swap(&mut state.waiting, &mut lines);
            std::mem::take(&mut state.untold)
        };
        // Queued behind what was there when lines were dropped, now that there is room.
        if untold > 0 {
            tell_dropped(untold);
        }
        let is_read = reader.write_all(&lines).is_ok();
        let mut state = shared.state();
        if !is_read {
            let lost = lines.iter().filter(|byte| **byte == b'\n').count();
            shared.drop_lines(&mut state, lost as u64);
        }
        state.done += lines.len() as u64;
        drop(state);
        shared.written.notify_all();
        lines.clear();
    }
}

/// A subscriber hands each line over whole.
impl<'a> MakeWriter<'a> for LineQueue {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

/// Takes a line.
pub(super) struct Line<'a>(&'a LineQueue);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard error without the lock that the standard library holds over each write: what is printed there by others,
/// a failed assertion for instance, must not wait for the log's reader either.
#[derive(Debug)]
pub(super) struct StandardError;

impl Write for StandardError {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stream = io::stderr();
        loop {
            match nix::unistd::write(&stream, bytes) {
                // Another program that has the stream too may have made it one that does not wait.
                Err(Errno::EAGAIN) => {
                    let mut wanted = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
                    poll(&mut wanted, PollTimeout::from(READER_PATIENCE_MS))?;
                }
                Err(Errno::EINTR) => {}
                written => return Ok(written?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    /// A reader that takes one write at a time, when it is told to.
    struct Slow {
        may_read: Receiver<()>,
        read: SyncSender<String>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.may_read.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            // The test has ended.
            let _ = self.read.send(String::from_utf8(bytes.to_vec()).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const LIMIT: Duration = Duration::from_secs(30);

    fn slow_queue(limit_bytes: usize) -> (LineQueue, SyncSender<()>, Receiver<String>) {
        let (let_read, may_read) = sync_channel(100);
        let (read, seen) = sync_channel(100);
        let own: Arc<Mutex<Option<LineQueue>>> = Arc::default();
        let told = Arc::clone(&own);
        let queue = LineQueue::start(Slow { may_read, read }, limit_bytes, move |lines| {
            let queue = told.lock().unwrap().clone().unwrap();
            queue.push(format!("{lines} dropped\n").as_bytes());
        })
        .unwrap();
        *own.lock().unwrap() = Some(queue.clone());
        (queue, let_read, seen)
    }

    #[test]
    fn push_reader_stopped_returns_at_once_and_what_is_dropped_is_told_later() {
        let (queue, let_read, seen) = slow_queue(16);
        queue.push(b"first\n");
        // The thread has it and waits for the reader: what waits is empty again.
        while !queue.0.state().waiting.is_empty() {
            std::thread::yield_now();
        }

        for line in 0..10 {
            queue.push(format!("line {line}\n").as_bytes());
        }

        assert_eq!(queue.dropped(), 8);
        assert!(!queue.flush(Duration::from_millis(1)));
        for _ in 0..3 {
            let_read.send(()).unwrap();
        }
        assert!(queue.flush(LIMIT));
        let read: Vec<String> = std::iter::from_fn(|| seen.recv_timeout(LIMIT).ok()).take(3).collect();
        assert_eq!(read, ["first\n", "line 0\nline 1\n", "8 dropped\n"]);
    }

    #[test]
    fn flush_waits_for_what_is_queued() {
        let (queue, let_read, seen) = slow_queue(LIMIT_BYTES);
        for _ in 0..3 {
            let_read.send(()).unwrap();
        }

        queue.push(b"last words\n");

        assert!(queue.flush(LIMIT));
        assert_eq!(seen.try_recv().unwrap(), "last words\n");
    }

    #[test]
    fn push_reader_gone_counts_lines_and_goes_on() {
        let (queue, let_read, _seen) = slow_queue(LIMIT_BYTES);
        drop(let_read);

        queue.push(b"one\ntwo\n");
        assert!(queue.flush(LIMIT));
        queue.push(b"three\n");
        assert!(queue.flush(LIMIT));

        assert!(queue.dropped() >= 3, "{}", queue.dropped());
    }
}
