//! What a lane does with batches: decode, load state, apply, commit, and try again in order (design D2, D3,
//! D6).
//!
//! Promises that every record ends in exactly one outcome in the transaction that moves the position past
//! it; that nothing is skipped while the store is away; that poison is charged to the event that caused it;
//! and that a lane which is not the newest owner writes nothing.

mod aftermath;
mod drain;
mod hold;
mod layout;
mod trials;

use std::cell::Cell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::effect::{Effects, Outcome};
use crate::gap::{FoundGap, GapKind};
use crate::ids::{Incarnation, LaneKey, LogId, Offset};
use crate::lane::answer::{Summary, answer, convict, poison_among, record_raw, set_aside, set_aside_for};
use crate::lane::behaviour::{Behaviour, Entry, Notice, PoisonPolicy, Verdict, Workspace};
use crate::lane::brake::FloodBrake;
use crate::lane::core::layout::Passage;
use crate::lane::environment::LaneEnvironment;
use crate::lane::fault::FaultPoint;
use crate::lane::guard::guard;
use crate::lane::message::LaneExit;
use crate::lane::notice::CommitNotice;
use crate::lane::retry::{forget_gap, note_gap, resumes_at, retry};
use crate::lane::start::{rewind, start_answer};
use crate::lane::status::LaneStatus;
use crate::lane::trial::{Trials, is_convicted, settled};
use crate::lane::window::DuplicateWindow;
use crate::layout::Layout;
use crate::ports::PortError;
use crate::ports::log::{LogError, LogReader, StartAnswer};
use crate::ports::store::{CommitError, DesiredState, Fence, LaneTransaction, ParkedKeyState, StoreError};
use crate::record::{Digest32, LogRecord, RecordBatch};
use crate::rejection::{Rejection, short_detail};
use crate::state::{StateKey, StateValue};
use crate::trial::{TrialPhase, TrialSubject};

/// Panics on one and the same event before it is held to be poison (design D6).
pub const PANICS_BEFORE_POISON: u32 = 3;

/// Everything a lane knows; nothing in it is needed to recover (design D1).
pub(super) struct LaneCore {
    pub(super) env: Arc<LaneEnvironment>,
    pub(super) lane: LaneKey,
    pub(super) incarnation: Incarnation,
    pub(super) behaviour: Box<dyn Behaviour>,
    pub(super) reader: Arc<dyn LogReader>,
    pub(super) status: Arc<LaneStatus>,
    /// The id under which this generation of the lane is stored and hashed.
    pub(super) log_id: LogId,
    /// Where keys are at home.
    pub(super) layout: Layout,
    /// How far it is in newer epochs of the layout.
    passage: Passage,
    /// Whether it was told that records stand in a wrong partition: once for each life.
    pub(super) has_told_wrong_partition: bool,
    /// The fence of the next transaction.
    pub(super) fence: Fence,
    /// The stored position; none before the first transaction.
    pub(super) stored_next: Option<Offset>,
    /// The next record to apply.
    pub(super) position: Offset,
    /// The next record that the reader will deliver; below `position` while the window is rebuilt.
    pub(super) read_position: Offset,
    /// The end of the partition as last heard of.
    log_end: Offset,
    /// Rows that only this lane writes, as committed.
    pub(super) cache: HashMap<StateKey, StateValue>,
    pub(super) window: DuplicateWindow,
    /// The keys that are parked, as committed.
    pub(super) parked: HashMap<Bytes, ParkedKeyState>,
    pub(super) desired: DesiredState,
    pub(super) next_timer: Option<Timestamp>,
    /// The log end that must be passed before timers due at the first time fire.
    pub(super) timer_target: Option<(Timestamp, Offset)>,
    /// Panics so far, by record.
    pub(super) panics: HashMap<Offset, u32>,
    /// Records of the batch in hand that repeat others: nobody waits for one, whatever else is wrong with it.
    pub(super) repeats: HashSet<Offset>,
    /// What is tried alone.
    pub(super) trials: Trials,
    /// How much of what was answered last was poison.
    pub(super) flood: FloodBrake,
    /// Whether a gap is noted that is none if the next record can be read.
    has_doubtful_gap: bool,
    /// Transactions in a row that the store turned away.
    commit_failures: u32,
    /// Whether the lane was asked to stop or its dispatcher is gone.
    is_ending: Box<dyn Fn() -> bool>,
}

/// What a transaction will write, and what will be told after it.
pub(super) struct Built {
    pub(super) effects: Effects,
    pub(super) notices: Vec<Notice>,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) now: Timestamp,
}

/// A panic while a transaction was thought out; the record at fault where one is.
pub(super) struct BuildPanic {
    pub(super) index: Option<usize>,
    pub(super) text: String,
}

/// How far a commit got.
pub(super) enum CommitStep {
    /// It is durable.
    Committed,
    /// It was not written; think it out again and try again.
    Again,
    /// The store refuses the data.
    DataRefused(String),
}

/// How far a chunk of a batch got.
pub(super) enum ChunkStep {
    /// It is committed.
    Done,
    /// It is to be tried in halves.
    Split,
    /// Nothing of it is written: the lane ends first.
    Ended,
}

impl LaneCore {
    /// Takes the lane over: a new epoch, the stored position, the place in the log, and the reader's start.
    pub(super) async fn open(
        env: Arc<LaneEnvironment>,
        lane: LaneKey,
        incarnation: Incarnation,
        behaviour: Box<dyn Behaviour>,
        reader: Arc<dyn LogReader>,
        status: Arc<LaneStatus>,
        is_ending: Box<dyn Fn() -> bool>,
    ) -> Result<Self, LaneExit> {
        let partition = lane.topic_partition;
        let opened = retry(&env, &lane, &status, || env.store.open_lane(lane.clone(), env.process)).await?;
        let inspection = retry(&env, &lane, &status, || reader.inspect(partition, opened.next)).await?;
        let position = match start_answer(opened.next, opened.last_fingerprint, &inspection) {
            StartAnswer::AtNext(next) => next,
            StartAnswer::FirstStart(low) => {
                tracing::debug!(lane = %lane, offset = %low, "first start of a lane: it begins at the low watermark");
                low
            }
            StartAnswer::Gap(kind) => {
                let next = opened.next.unwrap_or(inspection.low);
                let (low, high) = (resumes_at(kind, &inspection), inspection.high);
                let gap = FoundGap { kind, next, low, high, found_at: env.clock.now() };
                status.placed(next, high, env.clock.moment());
                note_gap(&env, &lane, &status, opened.fence, Some(gap)).await?;
                return Err(LaneExit::Gap(kind));
            }
        };
        // Whether records can be read shows only when they are: until then such a gap stays noted.
        let has_doubtful_gap = opened.open_gap == Some(GapKind::Corrupt);
        if opened.open_gap.is_some() && !has_doubtful_gap {
            forget_gap(&env, &lane, &status, opened.fence).await?;
        }
        let settings = env.settings;
        let trials = Trials::plan(&opened, position, inspection.high, settings.trial_records);
        if trials.is_log() || trials.is_aside() {
            tracing::warn!(lane = %lane, offset = %position, "processes ended at this place again and again: the lane tries one thing at a time");
        }
        let read_position = rewind(position, inspection.low, settings.duplicate_window_records);
        let core = Self {
            log_id: opened.log_id,
            layout: opened.layout,
            passage: Passage::default(),
            has_told_wrong_partition: false,
            fence: opened.fence,
            stored_next: opened.next,
            position,
            read_position,
            log_end: inspection.high,
            cache: HashMap::new(),
            window: DuplicateWindow::expecting(
                settings.duplicate_window_records,
                position.0 - read_position.0,
            ),
            parked: by_key(opened.parked),
            desired: opened.desired,
            next_timer: opened.next_timer,
            timer_target: None,
            panics: HashMap::new(),
            repeats: HashSet::new(),
            trials,
            flood: FloodBrake::new(settings.flood),
            has_doubtful_gap,
            commit_failures: 0,
            is_ending,
            env,
            lane,
            incarnation,
            behaviour,
            reader,
            status,
        };
        core.reader.start(partition, incarnation, read_position).map_err(|error| match error {
            LogError::NotAssigned(_) => LaneExit::NotAssigned,
            LogError::Unavailable(_) | LogError::Closed | LogError::ShutOut(_) => {
                LaneExit::Failed(format!("failed to start reading: {error}"))
            }
        })?;
        core.status.placed(position, inspection.high, core.env.clock.moment());
        core.status.under_layout(core.layout.count());
        core.status.parked(core.parked.len(), core.parked_records());
        core.show_rest(opened.held_because.as_deref());
        Ok(core)
    }

    /// Repeats a call for ever while what it needs is away, with back-off.
    pub(super) async fn retry<T, E: PortError, F: Future<Output = Result<T, E>>>(
        &self,
        call: impl FnMut() -> F,
    ) -> Result<T, LaneExit> {
        let answer = retry(&self.env, &self.lane, &self.status, call).await?;
        self.status.set_state(self.rest_state());
        Ok(answer)
    }

    /// Reads again what operators want of the lane.
    pub(super) async fn refresh_orders(&mut self) -> Result<(), LaneExit> {
        let orders = self.retry(|| self.env.store.read_orders(self.lane.clone())).await?;
        if (self.desired, orders.desired) == (DesiredState::Paused, DesiredState::Running) {
            tracing::info!(lane = %self.lane, offset = %self.position, "lane goes on");
        }
        self.parked = by_key(orders.parked);
        self.desired = orders.desired;
        self.status.parked(self.parked.len(), self.parked_records());
        self.show_rest(orders.held_because.as_deref());
        Ok(())
    }

    /// Tells whether the lane was asked to stop or its dispatcher is gone; once so, it stays so.
    pub(super) fn is_ending(&self) -> bool {
        (self.is_ending)()
    }

    /// Tells whether records below the position are still to come: until then the duplicate window is not
    /// whole, and nothing that asks it may happen.
    pub(super) fn is_rewinding(&self) -> bool {
        self.read_position < self.position
    }

    /// Tells whether batches that wait may be answered together: not while the window is read anew, the lane is held,
    /// or one record at a time is tried.
    pub(super) fn may_join(&self) -> bool {
        !self.is_rewinding() && !self.is_held() && !self.trials.is_log()
    }

    /// Takes a batch in: what lies below the position goes into the duplicate window, the rest is given back.
    /// A batch of another incarnation is dropped: it was read for a lane that is gone.
    pub(super) fn absorb(&mut self, mut batch: RecordBatch) -> Result<Option<RecordBatch>, LaneExit> {
        if batch.incarnation != self.incarnation {
            return Ok(None);
        }
        if batch.from != self.read_position {
            let (wanted, got) = (self.read_position, batch.from);
            return Err(LaneExit::Failed(format!("reader skipped: wanted a batch from {wanted}, got {got}")));
        }
        self.log_end = self.log_end.max(batch.log_end);
        let position = self.position;
        let first_fresh = batch.records.partition_point(|record| record.offset < position);
        for record in batch.records.drain(..first_fresh) {
            self.remember(&record);
        }
        self.window.trim();
        if batch.next <= position {
            self.read_position = batch.next;
            self.status.progressed(self.position, self.log_end, self.env.clock.moment());
            return Ok(None);
        }
        batch.from = batch.from.max(position);
        self.read_position = batch.from;
        Ok(Some(batch))
    }

    /// Applies a batch that was taken in, or leaves the rest of it to the next incarnation when the lane ends. Gives
    /// back what a lane that is held in its midst has not answered.
    pub(super) async fn process(
        &mut self,
        mut batch: RecordBatch,
        queued: usize,
    ) -> Result<Option<RecordBatch>, LaneExit> {
        let beyond = self.behind_boundary(&mut batch);
        let (next, beyond) = beyond.map_or((batch.next, Vec::new()), |(boundary, beyond)| (boundary, beyond));
        self.env.faults.hit(FaultPoint::BeforeBatch, &self.lane);
        self.read_position = next;
        self.status.queued(queued);
        self.status.progressed(self.position, self.log_end, self.env.clock.moment());
        let mut records = VecDeque::from(std::mem::take(&mut batch.records));
        while self.trials.is_log()
            && let Some(record) = records.pop_front()
        {
            let end = if records.is_empty() { next } else { record.offset.following() };
            if let ChunkStep::Ended = self.try_record(record, end).await? {
                return Ok(None);
            }
            if self.is_held() {
                // What is not tried is not even decoded.
                return Ok(self.rest_of(batch, records.into_iter().chain(beyond).collect()));
            }
        }
        if records.is_empty() {
            self.pass(next).await?;
            return Ok(self.rest_of(batch, beyond));
        }
        let fresh: Vec<Entry> = records
            .into_iter()
            .map(|record| {
                let entry = self.understand(record);
                self.recognise(entry)
            })
            .collect();
        let mut chunks: VecDeque<Vec<Entry>> =
            Some(fresh).filter(|fresh| !fresh.is_empty()).into_iter().collect();
        while !self.is_held()
            && let Some(mut chunk) = chunks.pop_front()
        {
            if let Some(last) = self.flood_within(&chunk).filter(|last| last + 1 < chunk.len()) {
                chunks.push_front(chunk.split_off(last + 1));
            }
            let end = match (chunks.is_empty(), chunk.last()) {
                (false, Some(last)) => last.record.offset.following(),
                _ => next,
            };
            match self.apply_chunk(&mut chunk, end, None).await? {
                ChunkStep::Done => {}
                ChunkStep::Split => {
                    let second = chunk.split_off(chunk.len() / 2);
                    chunks.push_front(second);
                    chunks.push_front(chunk);
                }
                ChunkStep::Ended => return Ok(None),
            }
        }
        self.panics.clear();
        self.repeats.clear();
        let left = chunks.into_iter().flatten().map(|entry| entry.record);
        Ok(self.rest_of(batch, left.chain(beyond).collect()))
    }

    /// Moves the position past offsets that hold no record, unless the lane ends or is past them already.
    async fn pass(&mut self, next: Offset) -> Result<(), LaneExit> {
        while self.position < next && !self.is_ending() {
            let (effects, now) = (Effects::default(), self.env.clock.now());
            let built = Built { effects, notices: Vec::new(), outcomes: Vec::new(), now };
            match self.commit(built, next, None).await? {
                CommitStep::Committed => self.trials.passed(next),
                CommitStep::Again => {}
                CommitStep::DataRefused(detail) => return Err(LaneExit::Failed(detail)),
            }
        }
        Ok(())
    }

    /// Puts a record below the position into the duplicate window.
    fn remember(&mut self, record: &LogRecord) {
        // What is not at home here was never applied here: an event that is, is no duplicate of it.
        if self.trials.is_deadly(record.offset) || self.wrong_partition(record).is_some() {
            return;
        }
        let topic = self.lane.topic_partition.topic;
        if let Ok(Ok(event)) = guard(|| (self.env.decoder)(topic, record)) {
            let _known_already = self.window.check(event.event_id, record.offset);
        }
    }

    /// Decodes a record of the log, if it is at home here.
    pub(super) fn understand(&self, record: LogRecord) -> Entry {
        match self.wrong_partition(&record) {
            Some(rejection) => Entry { record, verdict: Verdict::Rejected(rejection) },
            None => self.decode(record),
        }
    }

    /// Decodes a record; a decoder that panics rejects it. One that is parked was found to be at home when it was.
    pub(super) fn decode(&self, record: LogRecord) -> Entry {
        let topic = self.lane.topic_partition.topic;
        let verdict = match guard(|| (self.env.decoder)(topic, &record)) {
            Ok(Ok(event)) => Verdict::Event(event),
            Ok(Err(rejection)) => Verdict::Rejected(rejection),
            Err(panic) => Verdict::Rejected(Rejection::MalformedBytes { detail: short_detail(&panic.0) }),
        };
        Entry { record, verdict }
    }

    /// Asks the duplicate window about a record that the log has brought, whatever becomes of it: one that will wait
    /// behind a parked key or is found to be poison later stands in the window like every other. To be asked in the
    /// order of the log; asking again changes nothing.
    pub(super) fn recognise(&mut self, entry: Entry) -> Entry {
        match entry.verdict {
            Verdict::Event(event) if self.window.check(event.event_id, entry.record.offset) => {
                self.repeats.insert(entry.record.offset);
                Entry { record: entry.record, verdict: Verdict::Duplicate(event) }
            }
            verdict => Entry { record: entry.record, verdict },
        }
    }

    /// Applies part of a batch in one transaction, as often as it takes; a record that is tried alone says so.
    pub(super) async fn apply_chunk(
        &mut self,
        chunk: &mut [Entry],
        end: Offset,
        subject: Option<&TrialSubject>,
    ) -> Result<ChunkStep, LaneExit> {
        loop {
            // What was convicted is not thought about any more.
            let is_convicted = chunk.iter().any(is_convicted);
            let tried = subject.filter(|_| !is_convicted);
            self.wait_below_parked_limit(chunk).await?;
            if self.is_ending() {
                return Ok(ChunkStep::Ended);
            }
            let keys = self.think(tried, TrialPhase::Waiting, |core| core.keys_of(chunk)).await?;
            let built = match keys {
                Ok(keys) => {
                    self.load_keys(keys).await?;
                    self.env.faults.hit(FaultPoint::BeforeApply, &self.lane);
                    self.think(tried, TrialPhase::Survived, |core| core.build(chunk)).await?
                }
                Err(panic) => Err(panic),
            };
            match built {
                Err(panic) => match panic.index.or_else(|| (chunk.len() == 1).then_some(0)) {
                    Some(index) => self.charge(chunk, index, &panic.text)?,
                    None => return Ok(ChunkStep::Split),
                },
                Ok(mut built) => {
                    let trial = subject.map(|subject| settled(subject, is_convicted));
                    built.effects.trials_settled.extend(trial);
                    let (answered, poison) = (chunk.len(), poison_among(&built.effects));
                    let flood = self.flood.weigh(answered, poison).map(|flood| flood.to_string());
                    built.effects.held_because = flood.clone();
                    let fingerprint = chunk.last().map(|entry| entry.record.fingerprint());
                    match self.commit(built, end, fingerprint).await? {
                        CommitStep::Committed => {
                            self.flood.note(answered, poison);
                            if let Some(reason) = flood {
                                self.hold(&reason);
                            }
                            return Ok(ChunkStep::Done);
                        }
                        CommitStep::Again => {}
                        CommitStep::DataRefused(detail) => match chunk {
                            [entry] => {
                                convict(entry, Rejection::StoreRefused { detail: short_detail(&detail) })?
                            }
                            _ => return Ok(ChunkStep::Split),
                        },
                    }
                }
            }
        }
    }

    /// Charges a panic to the event it happened on; the third makes it poison.
    pub(super) fn charge(&mut self, chunk: &mut [Entry], index: usize, text: &str) -> Result<(), LaneExit> {
        self.env.metrics.count_panic(&self.lane.group);
        let Some(entry) = chunk.get_mut(index) else {
            return Err(LaneExit::Panicked(text.to_owned()));
        };
        let panics = self.panics.entry(entry.record.offset).or_default();
        *panics += 1;
        tracing::warn!(lane = %self.lane, offset = %entry.record.offset, panics, error = text, "behaviour panicked on an event");
        if *panics < PANICS_BEFORE_POISON {
            return Ok(());
        }
        *panics = 0;
        convict(entry, Rejection::BehaviourPanicked { detail: short_detail(text) })
    }

    /// Holds still while a key of the batch has as many records parked as may wait, unless the lane ends.
    async fn wait_below_parked_limit(&mut self, chunk: &[Entry]) -> Result<(), LaneExit> {
        while let Some(key) = chunk
            .iter()
            .filter(|entry| set_aside_for(entry).is_none())
            .filter_map(|entry| entry.record.key.as_ref())
            .find(|key| self.is_at_parked_limit(key))
            .cloned()
        {
            if self.is_ending() {
                return Ok(());
            }
            // Whichever key was released: the wish is read once.
            self.drain_released().await?;
            if !self.is_at_parked_limit(&key) {
                continue;
            }
            self.status.waiting(&format_args!(
                "{} records wait behind one key: release or discard its head",
                self.env.settings.parked_key_limit
            ));
            tokio::time::sleep(self.env.settings.tick_interval).await;
            if self.status.take_nudge() {
                self.refresh_orders().await?;
            }
        }
        Ok(())
    }

    fn is_at_parked_limit(&self, key: &Bytes) -> bool {
        self.parked.get(key).is_some_and(|parked| parked.records >= self.env.settings.parked_key_limit)
    }

    /// Asks the behaviour for the rows that a chunk needs; a panic is charged to the entry like any other.
    pub(super) fn keys_of(&self, chunk: &[Entry]) -> Result<Vec<StateKey>, BuildPanic> {
        let is_raw = self.behaviour.poison_policy() == PoisonPolicy::RecordRaw;
        let mut keys = Vec::new();
        for (index, entry) in chunk.iter().enumerate() {
            if is_raw || matches!(entry.verdict, Verdict::Event(_)) {
                guard(|| self.behaviour.keys(entry, &mut keys))
                    .map_err(|panic| BuildPanic { index: Some(index), text: panic.0 })?;
            }
        }
        Ok(keys)
    }

    /// Loads rows that are not in memory.
    pub(super) async fn load_keys(&mut self, mut keys: Vec<StateKey>) -> Result<(), LaneExit> {
        if self.cache.len() > self.env.settings.cached_rows {
            self.cache.clear();
        }
        // Rows that others write are loaded anew for every transaction.
        self.cache.retain(|key, _| key.is_lane_owned());
        keys.retain(|key| !self.cache.contains_key(key));
        keys.sort_unstable();
        keys.dedup();
        if keys.is_empty() {
            return Ok(());
        }
        let rows = self.retry(|| self.env.store.load(self.lane.clone(), keys.clone())).await?;
        self.cache.extend(rows);
        if self.has_former() {
            keys.retain(|key| !self.cache.contains_key(key));
            self.load_former(keys).await?;
        }
        Ok(())
    }

    /// Thinks a transaction out. Pure, as often as it is asked.
    fn build(&mut self, chunk: &[Entry]) -> Result<Built, BuildPanic> {
        let env = Arc::clone(&self.env);
        let status = Arc::clone(&self.status);
        let _busy = status.enter(env.monotonic_micros());
        let now = env.clock.now();
        let Self { behaviour, cache, parked, repeats, lane, log_id, .. } = self;
        let at = Cell::new(None);
        let thought = guard(|| {
            let mut work = Workspace::new(log_id, lane, now, cache);
            let mut outcomes = Vec::with_capacity(chunk.len());
            let mut parked_here = HashSet::new();
            for (index, entry) in chunk.iter().enumerate() {
                at.set(Some(index));
                let is_parked = |key: &Bytes| parked.contains_key(key) || parked_here.contains(key);
                let outcome = match (behaviour.poison_policy(), &entry.verdict) {
                    (PoisonPolicy::RecordRaw, _) => record_raw(behaviour.as_ref(), entry, &mut work),
                    (PoisonPolicy::Park, Verdict::Rejected(rejection))
                        if repeats.contains(&entry.record.offset) =>
                    {
                        set_aside(entry, rejection, &mut work)
                    }
                    (PoisonPolicy::Park, _) => {
                        let parked_behind = entry.record.key.as_ref().filter(|key| is_parked(key));
                        answer(behaviour.as_ref(), entry, parked_behind, &mut work)
                    }
                };
                if outcome == Outcome::Parked
                    && let Some(key) = &entry.record.key
                {
                    parked_here.insert(key.clone());
                }
                outcomes.push(outcome);
            }
            at.set(None);
            behaviour.finish(&mut work);
            let (effects, notices) = work.finish();
            Built { effects, notices, outcomes, now }
        });
        thought.map_err(|panic| BuildPanic { index: at.get(), text: panic.0 })
    }

    /// Writes a transaction and takes its results over once it is durable.
    pub(super) async fn commit(
        &mut self,
        built: Built,
        next: Offset,
        fingerprint: Option<Digest32>,
    ) -> Result<CommitStep, LaneExit> {
        let Built { mut effects, notices, outcomes, now } = built;
        effects.moves = self.moves_of(&effects.states);
        let summary = Summary::of(&effects);
        let states = effects.states.clone();
        let trials = effects.trials_settled.clone();
        let retired = effects.views_retired.clone();
        self.env.faults.hit(FaultPoint::BeforeCommit, &self.lane);
        let timer = self.env.metrics.commits(&self.lane.group).start_timer();
        let answer = self
            .env
            .store
            .commit(LaneTransaction {
                lane: self.lane.clone(),
                fence: self.fence,
                from: self.stored_next,
                next,
                last_fingerprint: fingerprint,
                now,
                effects,
            })
            .await;
        timer.observe_duration();
        let (fence, next_timer) = match answer {
            Ok(committed) => (committed.fence, committed.next_timer),
            Err(error @ (CommitError::Fenced | CommitError::Unknown(_))) => {
                match self.resolve(&error).await? {
                    // When timers fall due is not known then: ask for them at once.
                    Some(fence) => (fence, Some(now)),
                    None => return Ok(CommitStep::Again),
                }
            }
            Err(CommitError::Store(StoreError::Data(detail))) => return Ok(CommitStep::DataRefused(detail)),
            Err(CommitError::Store(error)) if error.is_transient() => {
                self.wait_for_store(&error).await;
                return Ok(CommitStep::Again);
            }
            Err(CommitError::Store(error)) => return Err(LaneExit::Failed(error.to_string())),
        };
        self.env.faults.hit(FaultPoint::AfterCommit, &self.lane);
        let from = self.position;
        self.commit_failures = 0;
        self.fence = fence;
        self.stored_next = Some(next);
        self.position = next;
        self.next_timer = next_timer;
        self.moved(&states);
        self.cache.extend(states);
        for view in retired {
            self.cache.remove(&StateKey::JobView(view.job_id));
        }
        self.trials.settle(trials);
        self.window.trim();
        self.take_over(summary);
        let now = self.env.clock.reading();
        let committed_at = now.wall;
        self.status.committed(now, next, &outcomes, self.parked.len(), self.parked_records());
        self.status.set_state(self.rest_state());
        self.env.metrics.count_outcomes(&self.lane, &outcomes);
        self.reader.commit_advisory(self.lane.topic_partition, next);
        let notice = CommitNotice { lane: self.lane.clone(), from, next, committed_at, outcomes, notices };
        self.env.listener.committed(&notice);
        if next > from && std::mem::take(&mut self.has_doubtful_gap) {
            forget_gap(&self.env, &self.lane, &self.status, self.fence).await?;
            self.status.set_state(self.rest_state());
        }
        Ok(CommitStep::Committed)
    }

    /// Finds out whether a transaction was committed: my epoch and my new revision means it was. Answers the
    /// new fence, or none when nothing was written and the lane is still ours.
    async fn resolve(&self, error: &CommitError) -> Result<Option<Fence>, LaneExit> {
        let progress = self.retry(|| self.env.store.read_progress(self.lane.clone())).await?;
        let Some(progress) = progress else { return Err(LaneExit::Fenced) };
        let after = Fence { epoch: self.fence.epoch, revision: self.fence.revision.following() };
        if progress.fence == after {
            return Ok(Some(after));
        }
        match error {
            CommitError::Unknown(_) if progress.fence == self.fence => {
                self.env.metrics.count_retry(&self.lane.group);
                Ok(None)
            }
            _ => Err(LaneExit::Fenced),
        }
    }

    /// Waits before a transaction is tried again, longer with every failure in a row.
    async fn wait_for_store(&mut self, error: &StoreError) {
        self.commit_failures = self.commit_failures.saturating_add(1);
        if self.commit_failures == 1 {
            tracing::warn!(lane = %self.lane, error = %error, "lane waits");
        }
        self.env.metrics.count_retry(&self.lane.group);
        self.status.waiting(error);
        let policy = self.env.settings.retry;
        let delay = policy.delay(self.commit_failures, self.env.randomness.next_u64());
        tokio::time::sleep(delay).await;
    }
}

fn by_key(parked: Vec<ParkedKeyState>) -> HashMap<Bytes, ParkedKeyState> {
    parked.into_iter().map(|state| (state.key.clone(), state)).collect()
}
