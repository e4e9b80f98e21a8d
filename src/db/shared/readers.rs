//! Threads that read.
//!
//! Promises that a read sees everything that was committed before it was asked for, and that a full queue
//! answers at once. What one read looks at is bounded by its query.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use diesel::connection::{AnsiTransactionManager, TransactionManager as _};
use horizons_actors::heartbeat::{self, Heartbeat};
use horizons_actors::ports::Reply;
use horizons_actors::ports::store::StoreError;
use tokio::sync::oneshot;

use super::engine::{Connection, ReadPool};

/// How long a read may take before its thread counts as stuck; the longest are those of people over large tables.
const READ_LIMIT: Duration = Duration::from_secs(300);

/// A read on its way to a thread: given a connection, or why there is none.
type Job = Box<dyn FnOnce(Result<&mut Connection, StoreError>) + Send>;

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    is_closed: bool,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

/// A few threads with one bounded queue.
pub(super) struct Readers {
    shared: Arc<Shared>,
    limit: usize,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    /// Starts the threads.
    pub(super) fn start(name: &str, pool: &ReadPool, threads: usize, limit: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::new(State::default()), wake: Condvar::new() });
        let mut readers = Self { shared, limit, threads: Vec::with_capacity(threads) };
        for number in 0..threads {
            let (shared, pool) = (Arc::clone(&readers.shared), pool.clone());
            let name = format!("{name}-{number}");
            let thread = std::thread::Builder::new()
                .name(name.clone())
                .spawn(move || work(&shared, &pool, &heartbeat::register(name)))?;
            readers.threads.push(thread);
        }
        Ok(readers)
    }

    /// Queues a read.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Reply<T, StoreError> {
        let (answer, receiver) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // Whoever does not listen any more needs no answer.
            let _ = answer.send(connection.and_then(|connection| read_on(connection, read)));
        });
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.jobs.len() >= self.limit {
            return Box::pin(std::future::ready(Err(StoreError::QueueFull)));
        }
        state.jobs.push_back(job);
        drop(state);
        self.shared.wake.notify_one();
        Box::pin(async move {
            receiver
                .await
                .unwrap_or_else(|_| Err(StoreError::Broken("a read ended without an answer".to_owned())))
        })
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).is_closed = true;
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing left to tell.
            let _ = thread.join();
        }
    }
}

/// Takes a connection of the pool.
fn take(
    pool: &ReadPool,
) -> Result<diesel::r2d2::PooledConnection<diesel::r2d2::ConnectionManager<Connection>>, StoreError> {
    pool.get().map_err(|error| StoreError::Unavailable(error.to_string()))
}

/// Reads on a connection, and has the pool replace one that failed: diesel does not call a connection broken
/// that was cut before a statement was prepared on it, and the pool would hand it out for ever.
fn read_on<T>(
    connection: &mut Connection,
    read: impl FnOnce(&mut Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let answer = read(connection);
    if matches!(answer, Err(StoreError::Unavailable(_))) {
        AnsiTransactionManager::transaction_manager_status_mut(connection).set_in_error();
    }
    answer
}

/// Reads on a connection of the pool, on the caller's thread.
pub(super) fn read_now<T>(
    pool: &ReadPool,
    read: impl FnOnce(&mut Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    read_on(&mut *take(pool)?, read)
}

fn work(shared: &Shared, pool: &ReadPool, heartbeat: &Heartbeat) {
    let next = || {
        heartbeat.waits("reads");
        let job = next(shared);
        heartbeat.works_at_most("a read", READ_LIMIT);
        job
    };
    while let Some(job) = next() {
        let caught = catch_unwind(AssertUnwindSafe(|| match take(pool) {
            Ok(mut connection) => job(Ok(&mut connection)),
            Err(error) => job(Err(error)),
        }));
        if caught.is_err() {
            tracing::error!("a read panicked");
        }
    }
}

/// Waits for a read; none when the store is closed and none is left.
fn next(shared: &Shared) -> Option<Job> {
    let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if let Some(job) = state.jobs.pop_front() {
            return Some(job);
        }
        if state.is_closed {
            return None;
        }
        state = shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
}
