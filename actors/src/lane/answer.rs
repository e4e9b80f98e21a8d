//! How one entry is answered, and what a transaction changes about parked keys. Pure.

use std::collections::HashMap;

use bytes::Bytes;

use crate::effect::{DeadLetter, Effects, Outcome, ParkedKey, ParkedRecord, Refusal};
use crate::event::Event;
use crate::ids::{JobId, Offset};
use crate::lane::behaviour::{Applied, Behaviour, Entry, Verdict, Workspace};
use crate::lane::dead_letter::dead_letter_record;
use crate::lane::message::LaneExit;
use crate::rejection::{Rejection, short_detail};
use crate::state::{StateKey, StateValue};
use crate::trial::SettledTrial;

/// Makes an entry poison. One that is rejected already and still cannot be stored is beyond the lane.
pub(super) fn convict(entry: &mut Entry, rejection: Rejection) -> Result<(), LaneExit> {
    if let Verdict::Rejected(earlier) = &entry.verdict {
        return Err(LaneExit::Failed(format!(
            "failed to set record {} aside: {earlier}; {rejection}",
            entry.record.offset
        )));
    }
    entry.verdict = Verdict::Rejected(rejection);
    Ok(())
}

/// Gives everything to a behaviour that records raw bytes.
pub(super) fn record_raw(behaviour: &dyn Behaviour, entry: &Entry, work: &mut Workspace<'_>) -> Outcome {
    match (behaviour.apply(entry, work), &entry.verdict) {
        (_, Verdict::Duplicate(_)) => Outcome::Duplicate,
        (Applied::Applied, _) => Outcome::Applied,
        (Applied::Refused { .. }, _) => Outcome::Refused,
    }
}

/// Answers a record, `parked_behind` the key that it has to wait for, if any. A duplicate waits for nobody: what it
/// repeats was applied, or waits itself.
pub(super) fn answer(
    behaviour: &dyn Behaviour,
    entry: &Entry,
    parked_behind: Option<&Bytes>,
    work: &mut Workspace<'_>,
) -> Outcome {
    match (&entry.verdict, parked_behind) {
        (Verdict::Duplicate(_), _) => Outcome::Duplicate,
        (Verdict::Rejected(rejection), _) if !rejection.is_poison() => set_aside(entry, rejection, work),
        (Verdict::Event(_) | Verdict::Rejected(_), Some(key)) => {
            park(key, entry, work);
            Outcome::Waiting
        }
        (Verdict::Rejected(rejection), None) => isolate(entry, rejection, work),
        (Verdict::Event(event), None) => apply_event(behaviour, entry, event, work),
    }
}

/// Applies an event that is no duplicate.
pub(super) fn apply_event(
    behaviour: &dyn Behaviour,
    entry: &Entry,
    event: &Event,
    work: &mut Workspace<'_>,
) -> Outcome {
    match behaviour.apply(entry, work) {
        Applied::Applied => Outcome::Applied,
        Applied::Refused { reason, detail } => {
            work.effects.refusals.push(Refusal {
                offset: entry.record.offset,
                event_id: event.event_id,
                job_id: event.job_id.clone(),
                event_type: event.payload.event_type(),
                reason,
                detail: short_detail(&detail),
                refused_at: work.now,
            });
            Outcome::Refused
        }
    }
}

/// Sets a poison event aside: dead letter, and where it has a key, the key is parked behind it.
fn isolate(entry: &Entry, rejection: &Rejection, work: &mut Workspace<'_>) -> Outcome {
    let Entry { record, .. } = entry;
    let now = work.now;
    work.effects.dead_letters.push(DeadLetter {
        record: record.clone(),
        rejection: rejection.clone(),
        is_parked: record.key.is_some(),
        rejected_at: now,
    });
    let letter = dead_letter_record(work.lane, record, rejection, now);
    work.effects.outbox.push(letter);
    let Some(key) = &record.key else { return Outcome::DeadLettered };
    work.effects.keys_parked.push(ParkedKey {
        key: key.clone(),
        head: record.offset,
        rejection: rejection.clone(),
        parked_at: now,
    });
    park(key, entry, work);
    Outcome::Parked
}

/// Gives why a record is set aside although it is no poison.
pub(super) const fn set_aside_for(entry: &Entry) -> Option<&Rejection> {
    match &entry.verdict {
        Verdict::Rejected(rejection) if !rejection.is_poison() => Some(rejection),
        Verdict::Rejected(_) | Verdict::Event(_) | Verdict::Duplicate(_) => None,
    }
}

/// Keeps a record that is not to be applied and that nobody is to wait for: a dead letter that nobody waits behind.
pub(super) fn set_aside(entry: &Entry, rejection: &Rejection, work: &mut Workspace<'_>) -> Outcome {
    let Entry { record, .. } = entry;
    let now = work.now;
    work.effects.dead_letters.push(DeadLetter {
        record: record.clone(),
        rejection: rejection.clone(),
        is_parked: false,
        rejected_at: now,
    });
    work.effects.outbox.push(dead_letter_record(work.lane, record, rejection, now));
    Outcome::DeadLettered
}

/// Counts the poison among what a transaction sets aside.
pub(super) fn poison_among(effects: &Effects) -> usize {
    effects.dead_letters.iter().filter(|letter| letter.rejection.is_poison()).count()
}

/// Puts a record at the end of its key's queue.
fn park(key: &Bytes, entry: &Entry, work: &mut Workspace<'_>) {
    let parked = ParkedRecord { key: key.clone(), record: entry.record.clone(), parked_at: work.now };
    work.effects.records_parked.push(parked);
}

/// What a lane takes over from a transaction once it is durable.
pub(super) struct Summary {
    /// Rows as they are now.
    pub(super) states: Vec<(StateKey, StateValue)>,
    /// Jobs whose views are kept no longer.
    pub(super) views_retired: Vec<JobId>,
    /// Trials that are over.
    pub(super) trials_settled: Vec<SettledTrial>,
    /// Records that were set aside.
    pub(super) rejected: Vec<(Rejection, Offset, Option<Bytes>)>,
    /// Keys that are parked now, or at another head.
    pub(super) keys_parked: Vec<ParkedKey>,
    /// Records that were parked, by key.
    pub(super) records_parked: HashMap<Bytes, u64>,
    /// Records that wait no longer, by key.
    pub(super) records_unparked: HashMap<Bytes, u64>,
    /// Keys that are parked no longer.
    pub(super) keys_unparked: Vec<Bytes>,
}

impl Summary {
    pub(super) fn of(effects: &Effects) -> Self {
        let rejected = effects
            .dead_letters
            .iter()
            .map(|letter| (letter.rejection.clone(), letter.record.offset, letter.record.key.clone()));
        Self {
            states: effects.states.clone(),
            views_retired: effects.views_retired.iter().map(|view| view.job_id.clone()).collect(),
            trials_settled: effects.trials_settled.clone(),
            rejected: rejected.collect(),
            keys_parked: effects.keys_parked.clone(),
            records_parked: counted(effects.records_parked.iter().map(|record| &record.key)),
            records_unparked: counted(effects.records_unparked.iter().map(|record| &record.key)),
            keys_unparked: effects.keys_unparked.clone(),
        }
    }
}

/// Counts how often each key comes.
fn counted<'a>(keys: impl Iterator<Item = &'a Bytes>) -> HashMap<Bytes, u64> {
    let mut counts = HashMap::new();
    for key in keys {
        *counts.entry(key.clone()).or_default() += 1;
    }
    counts
}
