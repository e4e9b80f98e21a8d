//! The turn of a job's event: the check on `sequence` that does not depend on how long ago something was (design D18).
//!
//! Promises that an event whose sequence, or a later one, was taken before is told to be late: the duplicate window
//! is bounded, and a producer's retry may come after it. Sequences may be left out, but never go back.
//!
//! A behaviour that keeps the last sequence in a row of its own asks [`Late::check`]. One that does not announces
//! [`turn_key`] and asks [`Workspace::take_turn`], and the row is kept for it.

use crate::event::Event;
use crate::ids::Sequence;
use crate::lane::behaviour::Workspace;
use crate::state::{StateKey, StateValue};

/// Tells that an event comes too late: one of this or a later sequence was taken before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`sequence` is late: wanted more than {last}, got {got}")]
pub struct Late {
    /// The last sequence that was taken.
    pub last: Sequence,
    /// What the event says.
    pub got: Sequence,
}

impl Late {
    /// The stable name of the reason, the same in every group.
    pub const REASON: &'static str = "late_sequence";

    /// Checks a sequence against the last one that was taken, if any was.
    ///
    /// *Errors*: [`Late`] when it is not a later one.
    pub fn check(last: Option<Sequence>, got: Sequence) -> Result<(), Self> {
        match last {
            Some(last) if got <= last => Err(Self { last, got }),
            Some(_) | None => Ok(()),
        }
    }
}

/// Names the row that [`Workspace::take_turn`] needs; none for an event that is not counted.
pub fn turn_key(event: &Event) -> Option<StateKey> {
    let (job_id, _) = event.job_id.as_ref().zip(event.sequence)?;
    Some(StateKey::LastSequence(job_id.clone()))
}

impl Workspace<'_> {
    /// Takes the turn of a job's event, once for each lane. To be asked last before anything is written for the
    /// event; one that is not counted has no turn to miss.
    ///
    /// *Errors*: [`Late`] when its turn, or a later one, was taken before; nothing is written then.
    pub fn take_turn(&mut self, event: &Event) -> Result<(), Late> {
        let (Some(key), Some(got)) = (turn_key(event), event.sequence) else { return Ok(()) };
        let last = match self.get(&key) {
            Some(StateValue::LastSequence(last)) => Some(*last),
            _ => None,
        };
        Late::check(last, got)?;
        self.put(key, StateValue::LastSequence(got));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_is_whatever_does_not_go_on() {
        let check = |last: Option<u64>, got| Late::check(last.map(Sequence), Sequence(got));

        assert_eq!([check(None, 1), check(Some(1), 2), check(Some(1), 9)], [Ok(()), Ok(()), Ok(())]);
        assert!([check(Some(1), 1), check(Some(9), 1)].iter().all(Result::is_err));
        let late = check(Some(9), 3).unwrap_err();
        assert_eq!(late.to_string(), "`sequence` is late: wanted more than 9, got 3");
    }
}
