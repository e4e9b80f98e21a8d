//! What reaches the relay's thread from others: answers, looks, wake-ups, orders.
//!
//! Promises that nobody who puts something in waits, and that no wake-up is lost between a look at the work and
//! the sleep that follows.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Wake;
use std::time::{Duration, Instant};

use horizons_actors::ports::outbox::OutboxPartition;
use rdkafka::error::KafkaError;

use super::looking::LookAnswer;
use crate::kafka::producer::{Delivery, DeliverySink};

/// How the relay is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Send what is in the producer, store the cursors, give the lease back; until this time.
    Orderly(Instant),
    /// At once and without a word, as in a crash.
    Abrupt,
}

/// What was put in since the last look.
#[derive(Debug, Default)]
pub(super) struct Mail {
    /// Answers, each with the number of the producer it came from.
    pub(super) deliveries: Vec<(u64, Delivery)>,
    pub(super) looks: Vec<LookAnswer>,
    pub(super) look_again: Vec<OutboxPartition>,
    pub(super) client_error: Option<String>,
    pub(super) ending: Option<Ending>,
}

#[derive(Default)]
struct State {
    mail: Mail,
    is_woken: bool,
}

/// The inbox.
#[derive(Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    wake: Condvar,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, put: impl FnOnce(&mut Mail)) {
        let mut state = self.lock();
        put(&mut state.mail);
        // Told once: at full speed an answer comes every few microseconds.
        let is_first = !std::mem::replace(&mut state.is_woken, true);
        drop(state);
        if is_first {
            self.wake.notify_one();
        }
    }

    /// Ends the sleep.
    pub(super) fn nudge(&self) {
        self.put(|_| {});
    }

    /// Puts answers of the looking thread in.
    pub(super) fn looked(&self, answers: Vec<LookAnswer>) {
        self.put(|mail| mail.looks.extend(answers));
    }

    /// Puts an operator's order in.
    pub(super) fn look_again(&self, partition: OutboxPartition) {
        self.put(|mail| mail.look_again.push(partition));
    }

    /// Asks the relay to end.
    pub(super) fn end(&self, ending: Ending) {
        self.put(|mail| mail.ending = Some(ending));
    }

    /// Sleeps until something is put in, at most so long, and takes it.
    pub(super) fn take(&self, limit: Duration) -> Mail {
        let mut state = self.lock();
        if !state.is_woken && !limit.is_zero() {
            (state, _) = self.wake.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner);
        }
        state.is_woken = false;
        std::mem::take(&mut state.mail)
    }
}

impl Wake for Inbox {
    fn wake(self: Arc<Self>) {
        self.nudge();
    }
}

/// Puts answers of one producer in, under its number.
pub(super) struct FromProducer {
    pub(super) number: u64,
    pub(super) inbox: Arc<Inbox>,
}

impl DeliverySink for FromProducer {
    fn delivered(&self, delivery: Delivery) {
        self.inbox.put(|mail| mail.deliveries.push((self.number, delivery)));
    }

    fn client_error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "the producer's client met an error");
        let text = format!("{error}: {reason}");
        self.inbox.put(|mail| mail.client_error = Some(text));
    }
}
