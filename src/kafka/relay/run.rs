//! The relay's thread: the lease, one step after the other, and the end.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use horizons_actors::clock::Clock;
use horizons_actors::heartbeat;
use horizons_actors::ids::Epoch;
use horizons_actors::lane::guard::guard;
use horizons_actors::ports::Reply;
use horizons_actors::ports::outbox::{
    CursorMove, OutboxHeads, OutboxPartition, OutboxStore, RelayId, RelayLease,
};
use horizons_actors::ports::store::StoreError;

use super::inbox::{Ending, Inbox, Mail};
use super::lease::{Ask, LeaseKeeper};
use super::looking::{Looker, Looking};
use super::metrics::{RelayMetrics, TopicMetrics};
use super::partition::PartitionState;
use super::status::StatusBoard;
use super::times::CommitTimes;
use super::{RelayConfig, RelayParts};
use crate::kafka::names::topic_name;
use crate::kafka::producer::IdempotentProducer;

/// How long the relay rests after a failure of the store, or a panic.
const REST: Duration = Duration::from_millis(200);

/// How long a step may take before the thread counts as stuck: the longest makes the producer anew.
const STEP_LIMIT: Duration = Duration::from_secs(120);

/// An answer of the store that is waited for between other things.
pub(super) struct Pending<T>(Option<Reply<T, StoreError>>);

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Pending<T> {
    pub(super) fn set(&mut self, reply: Reply<T, StoreError>) {
        self.0 = Some(reply);
    }

    pub(super) const fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Gives the answer once, when it is there; the waker is told otherwise.
    pub(super) fn poll(&mut self, waker: &Waker) -> Option<Result<T, StoreError>> {
        let polled = self.0.as_mut()?.as_mut().poll(&mut Context::from_waker(waker));
        let Poll::Ready(answer) = polled else { return None };
        self.0 = None;
        Some(answer)
    }
}

/// One partition with what belongs to it beside its state.
pub(super) struct Lane {
    pub(super) state: PartitionState,
    /// Its topic's name in Kafka.
    pub(super) topic: Arc<str>,
    pub(super) metrics: TopicMetrics,
    /// When the rows that are not acknowledged were committed.
    pub(super) times: CommitTimes,
    /// Whether a row of it failed since the producer was made.
    pub(super) has_failed: bool,
}

/// What exists while this relay holds the lease.
pub(super) struct Leading {
    pub(super) epoch: Epoch,
    /// In the order of partitions.
    pub(super) lanes: Vec<Lane>,
    pub(super) index: HashMap<OutboxPartition, usize>,
    pub(super) producer: Option<IdempotentProducer>,
    /// Numbers the producers, so that a late answer of an older one is known.
    pub(super) producer_number: u64,
    /// Not before this is another producer made.
    pub(super) producer_at: Option<Instant>,
    /// Rows that the producer has not answered.
    pub(super) unanswered: usize,
    pub(super) in_flight_bytes: usize,
    /// Set after a failure until the producer is made anew: how long its answers are waited for.
    pub(super) breaking: Option<Instant>,
    /// Which partition is asked first.
    pub(super) turn: usize,
    pub(super) advance: Pending<Vec<OutboxPartition>>,
    pub(super) moves: Vec<CursorMove>,
    pub(super) advance_at: Instant,
    pub(super) removal: Pending<u64>,
    /// Whether cursors were stored since the last removal found little: idle stores are left alone.
    pub(super) is_removable: bool,
    pub(super) removal_at: Instant,
    pub(super) removal_begun: Instant,
    pub(super) cursors_at: Instant,
    /// Partitions that an operator has done something about, until their cursors are read.
    pub(super) asked: Vec<OutboxPartition>,
}

/// The relay.
pub(super) struct Relay {
    pub(super) config: RelayConfig,
    pub(super) store: Arc<dyn OutboxStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: RelayMetrics,
    id: RelayId,
    pub(super) inbox: Arc<Inbox>,
    pub(super) board: Arc<StatusBoard>,
    pub(super) heads: Arc<OutboxHeads>,
    pub(super) waker: Waker,
    pub(super) lease: LeaseKeeper,
    take: Pending<Option<RelayLease>>,
    renew: Pending<bool>,
    /// A lease that was taken and whose ends are not read yet.
    taken: Option<RelayLease>,
    pub(super) leading: Option<Leading>,
    pub(super) looking: Looking,
    /// Counts producers over all leases.
    pub(super) producers: u64,
    pub(super) rebuilds: u64,
    pub(super) trouble: Option<String>,
    heads_at: Instant,
    pub(super) status_at: Instant,
    /// After a failure of the store nothing is read before this.
    pub(super) rest_until: Option<Instant>,
}

impl Relay {
    pub(super) fn new(
        config: RelayConfig,
        parts: RelayParts,
        inbox: Arc<Inbox>,
        board: Arc<StatusBoard>,
    ) -> std::io::Result<Self> {
        let RelayParts { store, clock, metrics, id } = parts;
        let heads = store.outbox_heads();
        let woken = Arc::downgrade(&inbox);
        heads.follow(move || {
            if let Some(inbox) = woken.upgrade() {
                inbox.nudge();
            }
        });
        let looking = Looking::start(Looker {
            store: Arc::clone(&store),
            client: config.client.clone(),
            topic_prefix: config.topic_prefix.clone(),
            inbox: Arc::clone(&inbox),
        })?;
        let now = Instant::now();
        Ok(Self {
            lease: LeaseKeeper::new(config.lease),
            waker: Waker::from(Arc::clone(&inbox)),
            config,
            store,
            clock,
            metrics,
            id,
            inbox,
            board,
            heads,
            take: Pending::default(),
            renew: Pending::default(),
            taken: None,
            leading: None,
            looking,
            producers: 0,
            rebuilds: 0,
            trouble: None,
            heads_at: now,
            status_at: now,
            rest_until: None,
        })
    }

    /// Works until told to end.
    pub(super) fn run(mut self) {
        let mut sleep = Duration::ZERO;
        let heartbeat = heartbeat::register("relay");
        loop {
            heartbeat.waits("work");
            let mut mail = self.inbox.take(sleep);
            heartbeat.works_at_most("a step", STEP_LIMIT);
            match mail.ending.take() {
                Some(Ending::Abrupt) => {
                    tracing::info!("relay abandoned");
                    return;
                }
                Some(Ending::Orderly(until)) => {
                    heartbeat.waits("its end");
                    self.end(mail, until);
                    return;
                }
                None => {}
            }
            sleep = guard(|| self.step(mail)).unwrap_or_else(|panic| {
                tracing::error!(error = %panic, "relay panicked: it takes its lease again");
                // Whatever was half done is forgotten; the cursors and Kafka know where to go on.
                self.step_down(Instant::now());
                REST
            });
        }
    }

    /// Does everything that can be done now; tells how long to sleep then.
    fn step(&mut self, mail: Mail) -> Duration {
        let now = Instant::now();
        self.keep_lease(now);
        self.take_marks();
        self.take_mail(mail, now);
        self.refresh_heads(now);
        self.keep_cursors(now);
        self.keep_outbox_small(now);
        let is_more = self.send(now);
        // Rows that became known in Kafka may free others; cursors that must be stored first are stored at once.
        self.keep_cursors(Instant::now());
        self.keep_status(Instant::now());
        if is_more { Duration::ZERO } else { self.sleep(Instant::now()) }
    }

    fn sleep(&self, now: Instant) -> Duration {
        let until = |at: Instant| at.saturating_duration_since(now);
        let mut sleep = self.lease.sleep(now).min(until(self.heads_at)).min(until(self.status_at));
        if let Some(leading) = &self.leading {
            if !leading.advance.is_some() && leading.lanes.iter().any(|lane| lane.state.unstored().is_some())
            {
                sleep = sleep.min(until(leading.advance_at));
            }
            if leading.is_removable && !leading.removal.is_some() {
                sleep = sleep.min(until(leading.removal_at));
            }
            sleep = leading
                .breaking
                .into_iter()
                .chain(leading.producer_at)
                .fold(sleep, |sleep, at| sleep.min(until(at)));
            let looks = leading
                .lanes
                .iter()
                .filter(|lane| self.heads.end(lane.state.partition()) > lane.state.next());
            let due = looks.filter_map(|lane| lane.state.look_due(now)).min();
            sleep = due.map_or(sleep, |at| sleep.min(until(at)));
        }
        // A due step that could not be done must not turn into a busy loop.
        match self.rest_until {
            Some(at) => sleep.max(until(at)),
            None => sleep.max(Duration::from_micros(500)),
        }
    }

    /// Asks for the lease, takes answers, and stops when its time is over.
    fn keep_lease(&mut self, now: Instant) {
        if let Some(answer) = self.take.poll(&self.waker) {
            match answer {
                Ok(lease) => {
                    self.lease.taken(lease.as_ref().map(|lease| lease.epoch), now);
                    self.step_down(now);
                    self.taken = lease;
                }
                Err(error) => self.lease_failed(&error, now),
            }
        }
        if let Some(answer) = self.renew.poll(&self.waker) {
            match answer {
                Ok(is_ours) => self.lease.renewed(is_ours, now),
                Err(error) => self.lease_failed(&error, now),
            }
        }
        let epoch = self.lease.epoch(now);
        if self.leading.as_ref().is_some_and(|leading| Some(leading.epoch) != epoch) {
            tracing::warn!("relay lost its lease: it stops sending");
            // The answer to a renewal may still come, and must not leave a lease that is held and not used.
            if epoch.is_none() {
                self.lease.stopped();
            }
            self.step_down(now);
        }
        match self.lease.ask(now) {
            Some(Ask::Take) => self.take.set(self.store.take_lease(self.id, self.lease.duration())),
            Some(Ask::Renew(epoch)) => {
                self.renew.set(self.store.renew_lease(self.id, epoch, self.lease.duration()));
            }
            None => {}
        }
        // A store in memory answers at once.
        if let Some(lease) = self.taken.take_if(|lease| epoch == Some(lease.epoch)) {
            self.lead(lease, now);
        }
    }

    fn lease_failed(&mut self, error: &StoreError, now: Instant) {
        tracing::debug!(%error, "failed to ask for the relay's lease");
        self.trouble = Some(error.to_string());
        self.lease.failed(now);
    }

    /// Begins to send.
    fn lead(&mut self, lease: RelayLease, now: Instant) {
        // The ends must be of a time after the lease was taken: what an older owner sent lies below them.
        if let Err(error) = self.store.refresh_heads() {
            tracing::debug!(%error, "failed to read the ends of the outbox");
            self.trouble = Some(error.to_string());
            self.rest_until = Some(now + REST);
            self.taken = Some(lease);
            return;
        }
        tracing::info!(epoch = %lease.epoch, "relay sends");
        let lanes: Vec<Lane> = lease
            .cursors
            .iter()
            .map(|cursor| Lane {
                state: PartitionState::new(cursor, self.heads.end(cursor.partition)),
                topic: topic_name(&self.config.topic_prefix, cursor.partition.topic).into(),
                metrics: self.metrics.of_topic(cursor.partition.topic),
                times: CommitTimes::default(),
                has_failed: false,
            })
            .collect();
        let index = lanes.iter().enumerate().map(|(at, lane)| (lane.state.partition(), at)).collect();
        self.producers += 1;
        self.leading = Some(Leading {
            epoch: lease.epoch,
            lanes,
            index,
            producer: None,
            producer_number: self.producers,
            producer_at: None,
            unanswered: 0,
            in_flight_bytes: 0,
            breaking: None,
            turn: 0,
            advance: Pending::default(),
            moves: Vec::new(),
            advance_at: now,
            removal: Pending::default(),
            is_removable: true,
            removal_at: now,
            removal_begun: now,
            cursors_at: now,
            asked: Vec::new(),
        });
        self.trouble = None;
        self.status_at = now;
    }

    /// Stops sending at once; what is unanswered is the next owner's to look up.
    pub(super) fn step_down(&mut self, now: Instant) {
        self.taken = None;
        self.status_at = now;
        // Dropping the producer purges what it holds.
        drop(self.leading.take());
    }

    /// Looks for commits that woke nobody.
    fn refresh_heads(&mut self, now: Instant) {
        // Left where nobody leads: whoever begins to reads the ends anyway.
        if self.heads.take_doubt() {
            self.heads_at = now;
        }
        if now < self.heads_at || self.leading.is_none() {
            self.heads_at = self.heads_at.max(now + Duration::from_millis(1));
            return;
        }
        self.heads_at = now + self.config.writers.poll_interval();
        if let Err(error) = self.store.refresh_heads() {
            tracing::debug!(%error, "failed to read the ends of the outbox");
            self.trouble = Some(error.to_string());
        }
        self.take_added_partitions(now);
    }

    /// Takes the lease anew when rows were written for partitions that it has no cursors of: a topic has grown.
    fn take_added_partitions(&mut self, now: Instant) {
        let Some(leading) = &self.leading else { return };
        if self.heads.ends().keys().all(|partition| leading.index.contains_key(partition)) {
            return;
        }
        tracing::info!("a topic has grown: the relay takes its lease anew");
        let epoch = leading.epoch;
        self.lease.stopped();
        self.step_down(now);
        // Else nobody could take it until it runs out, this process neither. Written before the next take, which
        // is asked for behind it.
        drop(self.store.release_lease(self.id, epoch));
    }

    /// Ends in good order, as far as the time allows.
    fn end(&mut self, mail: Mail, until: Instant) {
        let mut mail = mail;
        loop {
            let now = Instant::now();
            self.keep_lease(now);
            self.take_mail(mail, now);
            self.keep_cursors(now);
            let is_done = self.leading.as_ref().is_none_or(|leading| {
                let is_stored = leading.lanes.iter().all(|lane| lane.state.unstored().is_none());
                leading.unanswered == 0 && !leading.advance.is_some() && is_stored
            });
            if is_done || now >= until {
                break;
            }
            mail = self.inbox.take(Duration::from_millis(20).min(until - now));
        }
        let Some(leading) = self.leading.take() else { return };
        let (epoch, left) = (leading.epoch, leading.unanswered);
        drop(leading);
        let mut release = Pending::default();
        release.set(self.store.release_lease(self.id, epoch));
        let mut now = Instant::now();
        while release.poll(&self.waker).is_none() && now < until {
            drop(self.inbox.take(Duration::from_millis(20).min(until - now)));
            now = Instant::now();
        }
        tracing::info!(unanswered = left, "relay ended");
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.heads.unfollow();
    }
}
