//! How a lane answers a batch: take it in, decode it, and apply it in pieces until each record is answered.
//!
//! Promises that every record asks the duplicate window once, in the order of the log; that a piece which fails as a
//! whole is tried in halves until the record at fault is alone; and that what is not answered when the lane holds
//! still is taken in again.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;

use crate::effect::{Effects, Outcome};
use crate::ids::Offset;
use crate::lane::answer::{answer, convict, poison_among, record_raw, set_aside, set_aside_for};
use crate::lane::behaviour::{Entry, PoisonPolicy, Verdict, Workspace};
use crate::lane::core::transaction::{AtHand, Reach, Step, Work};
use crate::lane::core::{LaneCore, PANICS_BEFORE_POISON};
use crate::lane::fault::FaultPoint;
use crate::lane::guard::guard;
use crate::lane::message::LaneExit;
use crate::lane::trial::is_convicted;
use crate::record::{LogRecord, RecordBatch};
use crate::rejection::{Rejection, short_detail};
use crate::state::StateKey;
use crate::trial::TrialSubject;

/// Records of the log that are answered in one transaction.
struct Piece<'a> {
    entries: &'a mut [Entry],
    /// Where the lane is behind them.
    end: Offset,
    /// Set where one record is tried alone.
    subject: Option<&'a TrialSubject>,
    /// The poison among them, as last evaluated.
    poison: usize,
    /// Why they make the lane hold still, if they do.
    flood: Option<String>,
}

impl Work for Piece<'_> {
    fn len(&self) -> usize {
        self.entries.len()
    }

    fn subject(&self) -> Option<&TrialSubject> {
        self.subject
    }

    fn is_convicted(&self) -> bool {
        self.entries.iter().any(is_convicted)
    }

    fn keys(&self, core: &LaneCore, at_hand: &AtHand, keys: &mut Vec<StateKey>) {
        core.keys_of_entries(self.entries, at_hand, keys);
    }

    fn evaluate(&mut self, core: &LaneCore, at_hand: &AtHand, space: &mut Workspace<'_>) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(self.entries.len());
        let mut parked_here = HashSet::new();
        for (index, entry) in self.entries.iter().enumerate() {
            at_hand.take_up(index);
            let outcome = core.answer(entry, &parked_here, space);
            if outcome == Outcome::Parked {
                parked_here.extend(entry.record.key.clone());
            }
            outcomes.push(outcome);
        }
        self.poison = poison_among(&space.effects);
        self.flood = core.flood.weigh(self.len(), self.poison).map(|flood| flood.to_string());
        space.effects.held_because = self.flood.clone();
        outcomes
    }

    fn reaches(&self) -> Option<Reach> {
        let last_fingerprint = self.entries.last().map(|entry| entry.record.fingerprint());
        Some(Reach { next: self.end, last_fingerprint })
    }

    fn panicked(&mut self, core: &mut LaneCore, index: usize, text: &str) -> Result<(), LaneExit> {
        core.charge(self.entries, index, text)
    }

    fn refused(&mut self, _core: &LaneCore, detail: &str) -> Result<(), LaneExit> {
        refuse_only(self.entries, detail)
    }

    fn committed(&mut self, core: &mut LaneCore) {
        core.flood.note(self.len(), self.poison);
        if let Some(reason) = &self.flood {
            core.hold(reason);
        }
    }
}

/// Sets the only entry aside because the store refuses what comes of it.
pub(super) fn refuse_only(entries: &mut [Entry], detail: &str) -> Result<(), LaneExit> {
    let Some(entry) = entries.first_mut() else { return Err(LaneExit::Failed(detail.to_owned())) };
    convict(entry, Rejection::StoreRefused { detail: short_detail(detail) })
}

impl LaneCore {
    /// Takes a batch in: what lies below the position goes into the duplicate window, the rest is returned.
    /// A batch of another incarnation is dropped: it was read for a lane that is gone.
    pub(in crate::lane) fn absorb(
        &mut self,
        mut batch: RecordBatch,
    ) -> Result<Option<RecordBatch>, LaneExit> {
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

    /// Applies a batch that was taken in, or leaves the remainder to the next incarnation when the lane ends. Returns
    /// what a lane that holds still in its midst has not answered.
    pub(in crate::lane) async fn process(
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
            if let Step::Ended = self.try_record(record, end).await? {
                return Ok(None);
            }
            if self.is_held() {
                // What is not tried is not even decoded.
                return Ok(self.remainder(batch, records.into_iter().chain(beyond).collect()));
            }
        }
        if records.is_empty() {
            self.pass(next).await?;
            return Ok(self.remainder(batch, beyond));
        }
        let fresh = records.into_iter().map(|record| {
            let entry = self.understand(record);
            self.recognise(entry)
        });
        let mut pieces = VecDeque::from([fresh.collect::<Vec<Entry>>()]);
        while !self.is_held()
            && let Some(mut piece) = pieces.pop_front()
        {
            if let Some(last) = self.flood_within(&piece).filter(|last| last + 1 < piece.len()) {
                pieces.push_front(piece.split_off(last + 1));
            }
            let end = match (pieces.is_empty(), piece.last()) {
                (false, Some(last)) => last.record.offset.following(),
                _ => next,
            };
            match self.apply(&mut piece, end, None).await? {
                Step::Done => {}
                Step::Split => {
                    let second = piece.split_off(piece.len() / 2);
                    pieces.push_front(second);
                    pieces.push_front(piece);
                }
                Step::Ended => return Ok(None),
            }
        }
        self.panics.clear();
        self.repeats.clear();
        let left = pieces.into_iter().flatten().map(|entry| entry.record);
        Ok(self.remainder(batch, left.chain(beyond).collect()))
    }

    /// Moves the position past offsets that hold no record, unless the lane ends or is past them already.
    async fn pass(&mut self, next: Offset) -> Result<(), LaneExit> {
        if self.position < next
            && let Step::Done = self.write(next, "pass offsets without a record", Effects::default).await?
        {
            self.trials.passed(next);
        }
        Ok(())
    }

    /// Applies records of the log in one transaction; one that is tried alone is named.
    pub(super) async fn apply(
        &mut self,
        entries: &mut [Entry],
        end: Offset,
        subject: Option<&TrialSubject>,
    ) -> Result<Step, LaneExit> {
        self.wait_below_parked_limit(entries).await?;
        let mut piece = Piece { entries, end, subject, poison: 0, flood: None };
        self.transact(&mut piece).await
    }

    /// Announces the rows that the behaviour needs for entries.
    pub(super) fn keys_of_entries(&self, entries: &[Entry], at_hand: &AtHand, keys: &mut Vec<StateKey>) {
        let is_raw = self.behaviour.poison_policy() == PoisonPolicy::RecordRaw;
        for (index, entry) in entries.iter().enumerate() {
            at_hand.take_up(index);
            if is_raw || matches!(entry.verdict, Verdict::Event(_)) {
                self.behaviour.keys(entry, keys);
            }
        }
    }

    /// Answers one record of the log; `parked_here` are the keys that records before it have parked.
    fn answer(&self, entry: &Entry, parked_here: &HashSet<Bytes>, space: &mut Workspace<'_>) -> Outcome {
        let behaviour = self.behaviour.as_ref();
        let is_parked = |key: &&Bytes| self.parked.has(key) || parked_here.contains(*key);
        match (behaviour.poison_policy(), &entry.verdict) {
            (PoisonPolicy::RecordRaw, _) => record_raw(behaviour, entry, space),
            (PoisonPolicy::Park, Verdict::Rejected(rejection))
                if self.repeats.contains(&entry.record.offset) =>
            {
                set_aside(entry, rejection, space)
            }
            (PoisonPolicy::Park, _) => {
                answer(behaviour, entry, entry.record.key.as_ref().filter(is_parked), space)
            }
        }
    }

    /// Charges a panic to the event it happened on; the third makes it poison.
    pub(super) fn charge(&mut self, entries: &mut [Entry], index: usize, text: &str) -> Result<(), LaneExit> {
        self.env.metrics.count_panic(&self.lane.group);
        let Some(entry) = entries.get_mut(index) else {
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
    async fn wait_below_parked_limit(&mut self, entries: &[Entry]) -> Result<(), LaneExit> {
        let limit = self.env.settings.parked_key_limit;
        while let Some(key) = entries
            .iter()
            .filter(|entry| set_aside_for(entry).is_none())
            .filter_map(|entry| entry.record.key.as_ref())
            .find(|key| self.parked.is_full(key, limit))
            .cloned()
        {
            if self.is_ending() {
                return Ok(());
            }
            // Whichever key was released: the wish is read once.
            self.drain_released().await?;
            if !self.parked.is_full(&key, limit) {
                continue;
            }
            self.status
                .waiting(&format_args!("{limit} records wait behind one key: release or discard its head"));
            tokio::time::sleep(self.env.settings.tick_interval).await;
            if self.status.take_nudge() {
                self.refresh_orders().await?;
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

    /// Returns the index of the record that makes a flood, as far as decoding shows.
    fn flood_within(&self, entries: &[Entry]) -> Option<usize> {
        let mut parked_here = HashSet::new();
        let mut poison = 0;
        entries.iter().enumerate().find_map(|(index, entry)| {
            let key = entry.record.key.as_ref();
            let waits = key.is_some_and(|key| self.parked.has(key) || parked_here.contains(key));
            let is_poison = matches!(&entry.verdict, Verdict::Rejected(rejection) if rejection.is_poison());
            if waits || !is_poison {
                return None;
            }
            parked_here.extend(key);
            poison += 1;
            self.flood.weigh(index + 1, poison).map(|_flood| index)
        })
    }

    /// Returns the remainder of a batch, as the lane will take it in again.
    fn remainder(&mut self, batch: RecordBatch, records: Vec<LogRecord>) -> Option<RecordBatch> {
        if records.is_empty() {
            return None;
        }
        self.read_position = self.position;
        Some(RecordBatch { from: self.position, records, ..batch })
    }
}
