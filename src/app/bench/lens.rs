//! Timers around the parts of a run, for the profile.
//!
//! Promises that the parts do what they do without it. It costs a reading of the clock before and after each
//! call, so the run that it watches gives no figure.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use horizons_actors::effect::Timer;
use horizons_actors::event::decode;
use horizons_actors::ids::{Group, Offset, Topic, TopicPartition};
use horizons_actors::lane::behaviour::{
    Applied, Behaviour, BehaviourFactory, Entry, PoisonPolicy, Workspace,
};
use horizons_actors::lane::environment::Decoder;
use horizons_actors::ports::log::{LogHeads, RecordSource};
use horizons_actors::ports::store::StoreError;
use horizons_actors::record::LogRecord;
use horizons_actors::state::StateKey;

/// Time spent somewhere.
#[derive(Debug, Default)]
pub(super) struct Spent(AtomicU64);

impl Spent {
    fn on<T>(&self, act: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = act();
        let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.0.fetch_add(nanos, Ordering::Relaxed);
        result
    }

    /// Gives the sum over all threads.
    pub(super) fn sum(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// Where a run spends its time before the store.
#[derive(Debug, Default)]
pub(super) struct Lens {
    /// The reader's reads of the log.
    pub(super) reading: Spent,
    /// Understanding records.
    pub(super) decoding: Spent,
    /// Making entries of records.
    pub(super) applying: Spent,
    /// Hashes, chain and tree.
    pub(super) hashing: Spent,
}

impl Lens {
    /// Gives the decoder, timed.
    pub(super) fn decoder(self: &Arc<Self>) -> Decoder {
        let lens = Arc::clone(self);
        Arc::new(move |topic: Topic, record: &LogRecord| lens.decoding.on(|| decode(topic, record)))
    }

    /// Gives a source, timed.
    pub(super) fn source(self: &Arc<Self>, inner: Arc<dyn RecordSource>) -> Arc<dyn RecordSource> {
        Arc::new(TimedSource { inner, lens: Arc::clone(self) })
    }

    /// Gives behaviours, timed.
    pub(super) fn behaviour(self: &Arc<Self>, inner: BehaviourFactory) -> BehaviourFactory {
        let lens = Arc::clone(self);
        Arc::new(move || Box::new(TimedBehaviour { inner: inner(), lens: Arc::clone(&lens) }))
    }
}

struct TimedSource {
    inner: Arc<dyn RecordSource>,
    lens: Arc<Lens>,
}

impl RecordSource for TimedSource {
    fn heads(&self) -> Arc<LogHeads> {
        self.inner.heads()
    }

    fn refresh_heads(&self) -> Result<(), StoreError> {
        self.inner.refresh_heads()
    }

    fn low(&self, partition: TopicPartition) -> Result<Offset, StoreError> {
        self.inner.low(partition)
    }

    fn read(
        &self,
        partition: TopicPartition,
        from: Offset,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<LogRecord>, StoreError> {
        self.lens.reading.on(|| self.inner.read(partition, from, max_records, max_bytes))
    }

    fn read_previous(
        &self,
        partition: TopicPartition,
        next: Offset,
    ) -> Result<Option<LogRecord>, StoreError> {
        self.inner.read_previous(partition, next)
    }
}

struct TimedBehaviour {
    inner: Box<dyn Behaviour>,
    lens: Arc<Lens>,
}

impl Behaviour for TimedBehaviour {
    fn group(&self) -> Group {
        self.inner.group()
    }

    fn topics(&self) -> Vec<Topic> {
        self.inner.topics()
    }

    fn poison_policy(&self) -> PoisonPolicy {
        self.inner.poison_policy()
    }

    fn keys(&self, entry: &Entry, keys: &mut Vec<StateKey>) {
        self.inner.keys(entry, keys);
    }

    fn apply(&self, entry: &Entry, work: &mut Workspace<'_>) -> Applied {
        self.lens.applying.on(|| self.inner.apply(entry, work))
    }

    fn finish(&self, work: &mut Workspace<'_>) {
        self.lens.hashing.on(|| self.inner.finish(work));
    }

    fn timer_keys(&self, timer: &Timer, keys: &mut Vec<StateKey>) {
        self.inner.timer_keys(timer, keys);
    }

    fn tick(&self, timer: &Timer, work: &mut Workspace<'_>) {
        self.inner.tick(timer, work);
    }
}
