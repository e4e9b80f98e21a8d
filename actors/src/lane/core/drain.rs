//! How a lane drains parked keys that an operator released (design D6).
//!
//! Promises that this passes the same fence as batches, that a drained key's records are applied in offset order with
//! their deletion in one transaction, and that a failure parks the key again at its head.

use bytes::Bytes;

use crate::command::ParkedKeyId;
use crate::effect::{
    DeadLetter, DeadLetterOutcome, DeadLetterSettlement, Outcome, ParkedKey, ParkedRecord, ParkedRecordId,
};
use crate::ids::Offset;
use crate::lane::answer::apply_event;
use crate::lane::behaviour::{Entry, Verdict, Workspace};
use crate::lane::core::LaneCore;
use crate::lane::core::batch::refuse_only;
use crate::lane::core::transaction::{AtHand, Step, Work};
use crate::lane::dead_letter::dead_letter_record;
use crate::lane::fault::FaultPoint;
use crate::lane::message::LaneExit;
use crate::lane::trial::{died, is_convicted};
use crate::lane::window::DuplicateWindow;
use crate::ports::store::{ParkedKeyState, ParkedWish};
use crate::record::LogRecord;
use crate::rejection::Rejection;
use crate::state::StateKey;
use crate::trial::TrialSubject;

/// Records parked behind one key that are answered in one transaction.
struct Drain<'a> {
    state: &'a ParkedKeyState,
    entries: &'a mut [Entry],
    /// What was drained of the key before: the lane's own window has gone on since these were parked, and keeps
    /// what it has.
    drained: &'a mut DuplicateWindow,
    /// Whether nothing of the key is left behind them.
    is_all: bool,
    /// Set where one record is tried alone.
    subject: Option<&'a TrialSubject>,
}

impl Drain<'_> {
    /// Reports whether an entry repeats one that stands below it. Asked for every record, so that what repeats one
    /// that is given up is recognised as well.
    fn is_duplicate(&mut self, core: &LaneCore, index: usize) -> bool {
        let Some(Entry { record, verdict: Verdict::Event(event) }) = self.entries.get(index) else {
            return false;
        };
        self.drained.check(event.event_id, record.offset)
            || core.window.stands_below(event.event_id, record.offset)
    }
}

impl Work for Drain<'_> {
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
        let ParkedKeyState { key, head, wish, .. } = self.state;
        let mut outcomes = Vec::with_capacity(self.entries.len());
        for index in 0..self.entries.len() {
            at_hand.take_up(index);
            let is_duplicate = self.is_duplicate(core, index);
            let Some(entry) = self.entries.get(index) else { break };
            let offset = entry.record.offset;
            let is_head = offset == *head;
            if is_head && *wish == ParkedWish::DiscardHead {
                settle(space, offset, DeadLetterOutcome::Discarded);
            } else {
                outcomes.push(match &entry.verdict {
                    Verdict::Rejected(rejection) => {
                        park_again(space, self.state, entry, rejection);
                        return outcomes;
                    }
                    Verdict::Event(event) if !is_duplicate => {
                        apply_event(core.behaviour.as_ref(), entry, event, space)
                    }
                    Verdict::Event(_) | Verdict::Duplicate(_) => Outcome::Duplicate,
                });
                if is_head {
                    settle(space, offset, DeadLetterOutcome::Released);
                }
            }
            space.effects.records_unparked.push(ParkedRecordId { key: key.clone(), offset });
        }
        if self.is_all {
            space.effects.keys_unparked.push(key.clone());
        }
        outcomes
    }

    fn panicked(&mut self, core: &mut LaneCore, index: usize, text: &str) -> Result<(), LaneExit> {
        core.charge(self.entries, index, text)
    }

    fn refused(&mut self, _core: &LaneCore, detail: &str) -> Result<(), LaneExit> {
        refuse_only(self.entries, detail)
    }
}

impl LaneCore {
    /// Drains every key that an operator released.
    pub(in crate::lane) async fn drain_released(&mut self) -> Result<(), LaneExit> {
        for key in self.parked.all_to_drain() {
            self.drain(key).await?;
        }
        Ok(())
    }

    /// Drains a key as far as it goes: until its queue is empty or something in it is poison.
    async fn drain(&mut self, key: Bytes) -> Result<(), LaneExit> {
        let mut limit = self.env.settings.drain_records;
        let mut drained = DuplicateWindow::new(self.env.settings.duplicate_window_records);
        while let Some(state) = self.parked.to_drain(&key) {
            self.env.faults.hit(FaultPoint::BeforeDrain, &self.lane);
            let id = ParkedKeyId { lane: self.lane.clone(), key: key.clone() };
            let parked = self.retry(|| self.env.store.load_parked(id.clone(), limit)).await?;
            let is_all = parked.len() < limit;
            let step = match self.alone(&parked) {
                None => {
                    let entries = parked.into_iter().map(|parked| self.decode(parked.record));
                    let entries = &mut entries.collect::<Vec<Entry>>()[..];
                    let drained = &mut drained;
                    self.transact(&mut Drain { state: &state, entries, drained, is_all, subject: None })
                        .await?
                }
                Some(record) => {
                    let is_all = is_all && parked.len() == 1;
                    self.drain_alone(&state, record, &mut drained, is_all).await?
                }
            };
            match step {
                Step::Done => {}
                // One at a time, as a failure cannot be told apart.
                Step::Split => limit = 1,
                Step::Ended => break,
            }
            drained.trim();
        }
        self.panics.clear();
        Ok(())
    }

    /// Returns the first record if it is to be tried alone: because the lane is careful, or because some record
    /// of these is known to kill processes.
    fn alone(&self, parked: &[ParkedRecord]) -> Option<LogRecord> {
        let is_careful =
            self.trials.is_aside() || parked.iter().any(|parked| self.trials.is_deadly(parked.record.offset));
        parked.first().filter(|_| is_careful).map(|parked| parked.record.clone())
    }

    /// Drains one record in a trial.
    async fn drain_alone(
        &mut self,
        state: &ParkedKeyState,
        record: LogRecord,
        drained: &mut DuplicateWindow,
        is_all: bool,
    ) -> Result<Step, LaneExit> {
        let subject = TrialSubject::Parked(record.offset);
        // A head that is given up is given up unread.
        let is_unread = record.offset == state.head && state.wish == ParkedWish::DiscardHead;
        let mut entry = match is_unread {
            true => Entry { record, verdict: died(0) },
            false => self.understand_in_trial(&subject, record).await?,
        };
        let entries = std::slice::from_mut(&mut entry);
        let subject = Some(&subject).filter(|_| !is_unread);
        self.transact(&mut Drain { state, entries, drained, is_all, subject }).await
    }
}

/// Notes what became of a dead letter.
fn settle(space: &mut Workspace<'_>, offset: Offset, outcome: DeadLetterOutcome) {
    let settled_at = space.now;
    space.effects.dead_letters_settled.push(DeadLetterSettlement { offset, outcome, settled_at });
}

/// Parks a key again behind an event that is poison still, or is found to be now.
fn park_again(space: &mut Workspace<'_>, state: &ParkedKeyState, entry: &Entry, rejection: &Rejection) {
    let now = space.now;
    let record = &entry.record;
    if record.offset == state.head {
        settle(space, record.offset, DeadLetterOutcome::RejectedAgain(rejection.clone()));
    } else {
        space.effects.dead_letters.push(DeadLetter {
            record: record.clone(),
            rejection: rejection.clone(),
            is_parked: true,
            rejected_at: now,
        });
        let letter = dead_letter_record(space.lane, record, rejection, now);
        space.effects.outbox.push(letter);
    }
    space.effects.keys_parked.push(ParkedKey {
        key: state.key.clone(),
        head: record.offset,
        rejection: rejection.clone(),
        parked_at: now,
    });
}
