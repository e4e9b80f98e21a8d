//! What the relay knows of one partition: what is sent, what is acknowledged, and whether it may go on. Pure.
//!
//! Promises that the acknowledged position is always the end of an unbroken run from the cursor, and that after
//! a failure nothing is sent before the partition was looked at in Kafka again: so a later record never
//! overtakes an earlier one, and none is sent twice that can be found there.
//!
//! ```text
//! unknown ──look──► looking ──found──► flowing ──refused for good, alone──► stopped ──set aside──► unknown
//!    ▲  ▲              │away, missing     │ rebuild with something unacknowledged
//!    │  └── waiting ◄──┘                  │
//!    └────────────────────────────────────┘
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use horizons_actors::clock::Timestamp;
use horizons_actors::ids::Offset;
use horizons_actors::ports::outbox::{Cursor, CursorMove, OutboxPartition};

/// How long a producer is sure to be known to the partition's leader after an acknowledgement.
///
/// A batch whose sequence does not follow is refused by a leader that knows the producer, and accepted by one
/// that does not. So the first record of a producer is acknowledged alone, before others may be in flight: else
/// the second batch could be taken where the first was refused.
///
/// *Source*: Kafka, `ProducerAppendInfo.checkSequence`; `producer.id.expiration.ms` is a day by default.
const KNOWN_FOR: Duration = Duration::from_secs(3_600);

/// The first pause after something passing, and the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LIMIT: Duration = Duration::from_secs(5);

/// Whether a partition may be sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// Rows that were sent may or may not be in Kafka: a look is needed.
    Unknown,
    /// The look is under way.
    Looking,
    /// It may be sent to.
    Flowing,
    /// Something passing is in the way.
    Waiting {
        /// When the next look is due.
        until: Instant,
        /// What is in the way.
        why: String,
    },
    /// Kafka refuses the row at `at` for good; an operator decides.
    Stopped {
        /// The row.
        at: Offset,
        /// Kafka's words.
        why: String,
    },
}

/// A row that the producer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) offset: Offset,
    /// What it counts against the memory limit.
    pub(super) bytes: usize,
    /// The time that the row itself carries.
    pub(super) recorded_at: Timestamp,
    /// When its commit was known to us.
    pub(super) committed_at: Instant,
    /// Whether nothing else of the partition was in flight beside it so far.
    is_alone: bool,
    acknowledged: Option<Offset>,
}

/// What a failed delivery did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The row is refused for good, which is new.
    Stopped,
    /// It is not known which of several rows is at fault: they are tried one by one.
    Doubt,
    /// It is tried again.
    Again,
}

/// One partition.
#[derive(Debug)]
pub(super) struct PartitionState {
    partition: OutboxPartition,
    /// The first row that is not acknowledged.
    next: Offset,
    /// Where a look in Kafka begins.
    tail: Option<Offset>,
    /// What the store has of both.
    stored: (Offset, Option<Offset>),
    /// The first row that the producer does not have.
    unsent: Offset,
    in_flight: VecDeque<Sent>,
    phase: Phase,
    /// Rows below this are sent one by one.
    one_by_one_until: Offset,
    /// When the present producer had its last acknowledgement here.
    known_since: Option<Instant>,
    pauses: u32,
    /// The row whose refusal was told already.
    told: Option<Offset>,
}

impl PartitionState {
    /// Takes a cursor as it is stored, with the partition's end at that time.
    pub(super) fn new(cursor: &Cursor, end: Offset) -> Self {
        // Without rows beyond the cursor nothing can have been sent beyond it.
        let is_clear = cursor.tail.is_some() && end <= cursor.next;
        Self {
            partition: cursor.partition,
            next: cursor.next,
            tail: cursor.tail,
            stored: (cursor.next, cursor.tail),
            unsent: cursor.next,
            in_flight: VecDeque::new(),
            phase: if is_clear { Phase::Flowing } else { Phase::Unknown },
            one_by_one_until: Offset(0),
            known_since: None,
            pauses: 0,
            told: None,
        }
    }

    pub(super) const fn partition(&self) -> OutboxPartition {
        self.partition
    }

    /// Gives the first row that is not acknowledged.
    pub(super) const fn next(&self) -> Offset {
        self.next
    }

    /// Gives the first row that the producer does not have.
    pub(super) const fn unsent(&self) -> Offset {
        self.unsent
    }

    pub(super) const fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Gives the oldest row that waits for its acknowledgement.
    pub(super) fn oldest(&self) -> Option<&Sent> {
        self.in_flight.front()
    }

    /// Tells how many rows may be handed to the producer now, at most `limit`.
    pub(super) fn may_send(&self, limit: usize, now: Instant) -> usize {
        if self.phase != Phase::Flowing {
            return 0;
        }
        if self.goes_one_by_one(now) { usize::from(self.in_flight.is_empty()).min(limit) } else { limit }
    }

    fn goes_one_by_one(&self, now: Instant) -> bool {
        let is_known = self.known_since.is_some_and(|since| now.saturating_duration_since(since) < KNOWN_FOR);
        !is_known || self.unsent < self.one_by_one_until
    }

    /// Notes that the producer has a row.
    pub(super) fn sent(
        &mut self,
        offset: Offset,
        bytes: usize,
        recorded_at: Timestamp,
        committed_at: Instant,
    ) {
        debug_assert_eq!(offset, self.unsent, "rows are sent in order");
        // What travels beside another may have been refused for the other's sake, or for that of the batch.
        for other in &mut self.in_flight {
            other.is_alone = false;
        }
        let is_alone = self.in_flight.is_empty();
        self.unsent = offset.following();
        self.in_flight.push_back(Sent {
            offset,
            bytes,
            recorded_at,
            committed_at,
            is_alone,
            acknowledged: None,
        });
    }

    /// Notes that the producer itself refused to take the row at [`PartitionState::unsent`].
    pub(super) fn refused_at_hand_over(&mut self, why: String) -> Verdict {
        self.stop(self.unsent, why)
    }

    /// Notes that the producer could not take the row at [`PartitionState::unsent`], for a reason that passes.
    pub(super) fn paused_at_hand_over(&mut self, why: String, now: Instant) {
        if self.phase == Phase::Flowing {
            self.wait(why, now);
        }
    }

    /// Notes an acknowledgement with the record's offset in Kafka; gives the row when it was waited for.
    pub(super) fn acknowledged(&mut self, offset: Offset, at: Offset, now: Instant) -> Option<Sent> {
        let first = self.in_flight.front()?.offset;
        let index = usize::try_from(offset.0.checked_sub(first.0)?).ok()?;
        let sent = self.in_flight.get_mut(index)?;
        if sent.acknowledged.replace(at).is_some() {
            return None;
        }
        let answered = *sent;
        self.known_since = Some(now);
        self.pauses = 0;
        while let Some(at) = self.in_flight.front().and_then(|sent| sent.acknowledged) {
            self.in_flight.pop_front();
            self.next = self.next.following();
            self.tail = Some(self.tail.map_or(at.following(), |tail| tail.max(at.following())));
        }
        Some(answered)
    }

    /// Notes that a row was not delivered. The producer is made anew after this, in every case.
    pub(super) fn failed(
        &mut self,
        offset: Offset,
        is_permanent: bool,
        why: String,
        now: Instant,
    ) -> Verdict {
        if is_permanent {
            let is_alone = self.in_flight.iter().any(|sent| sent.offset == offset && sent.is_alone);
            if is_alone {
                return self.stop(offset, why);
            }
            self.one_by_one_until = self.one_by_one_until.max(self.unsent);
            return Verdict::Doubt;
        }
        if !matches!(self.phase, Phase::Stopped { .. }) {
            self.wait(why, now);
        }
        Verdict::Again
    }

    fn stop(&mut self, at: Offset, why: String) -> Verdict {
        self.phase = Phase::Stopped { at, why };
        if self.told.replace(at) == Some(at) { Verdict::Again } else { Verdict::Stopped }
    }

    /// Notes that the producer was made anew: nothing is in flight, and what was is unknown.
    pub(super) fn rebuilt(&mut self) {
        self.known_since = None;
        let is_unknown = !self.in_flight.is_empty();
        self.in_flight.clear();
        self.unsent = self.next;
        match &self.phase {
            Phase::Flowing if is_unknown => self.phase = Phase::Unknown,
            // What was found before counts for nothing: the older producer may have added to it.
            Phase::Looking => self.phase = Phase::Unknown,
            Phase::Stopped { at, .. } if *at != self.next => self.phase = Phase::Unknown,
            Phase::Unknown | Phase::Flowing | Phase::Waiting { .. } | Phase::Stopped { .. } => {}
        }
    }

    /// Gives what a look needs, when one is due: the row and the place in Kafka to begin at.
    pub(super) fn begin_look(&mut self, now: Instant) -> Option<(Offset, Option<Offset>)> {
        let is_due = match &self.phase {
            Phase::Unknown => true,
            Phase::Waiting { until, .. } => now >= *until,
            Phase::Looking | Phase::Flowing | Phase::Stopped { .. } => false,
        };
        // What is in flight is answered first: a look could not tell it from what is not there.
        if !is_due || !self.in_flight.is_empty() {
            return None;
        }
        self.phase = Phase::Looking;
        Some((self.next, self.tail))
    }

    /// Tells when a look is due.
    pub(super) fn look_due(&self, now: Instant) -> Option<Instant> {
        match &self.phase {
            _ if !self.in_flight.is_empty() => None,
            Phase::Unknown => Some(now),
            Phase::Waiting { until, .. } => Some(*until),
            Phase::Looking | Phase::Flowing | Phase::Stopped { .. } => None,
        }
    }

    /// Takes what a look found; gives how many rows need not be sent. A look that was begun before something
    /// else happened to the partition counts for nothing.
    pub(super) fn found(&mut self, from: Offset, next: Offset, tail: Offset) -> u64 {
        if self.phase != Phase::Looking {
            return 0;
        }
        if from != self.next || next < from {
            self.phase = Phase::Unknown;
            return 0;
        }
        self.next = next;
        self.unsent = next;
        self.tail = Some(self.tail.map_or(tail, |known| known.max(tail)));
        self.phase = Phase::Flowing;
        next.0 - from.0
    }

    /// Tells whether the place in Kafka must be stored before anything is sent: the first time, when nothing
    /// else would tell a successor where to look.
    pub(super) const fn must_store_first(&self) -> bool {
        self.stored.1.is_none()
    }

    /// Takes a look that failed.
    pub(super) fn look_failed(&mut self, why: String, now: Instant) {
        if self.phase == Phase::Looking {
            self.wait(why, now);
        }
    }

    fn wait(&mut self, why: String, now: Instant) {
        let pause = PAUSE_FIRST.saturating_mul(1 << self.pauses.min(10)).min(PAUSE_LIMIT);
        self.pauses = self.pauses.saturating_add(1);
        self.phase = Phase::Waiting { until: now + pause, why };
    }

    /// Gives the step that the stored cursor lacks.
    pub(super) fn unstored(&self) -> Option<CursorMove> {
        let tail = self.tail?;
        ((self.next, self.tail) != self.stored).then_some(CursorMove {
            partition: self.partition,
            from: self.stored.0,
            next: self.next,
            tail,
        })
    }

    /// Gives how many rows are acknowledged and not stored as such.
    pub(super) const fn unstored_rows(&self) -> u64 {
        self.next.0 - self.stored.0.0
    }

    /// Notes that a step was stored.
    pub(super) fn was_stored(&mut self, step: &CursorMove) {
        self.stored = (step.next, Some(step.tail));
    }

    /// Takes the cursor as an operator left it: what it stood at was set aside. Gives the bytes of rows that
    /// were in flight and are not waited for any more.
    pub(super) fn was_moved(&mut self, cursor: &Cursor) -> usize {
        if cursor.next <= self.stored.0 {
            return 0;
        }
        self.stored = (cursor.next, cursor.tail);
        if cursor.next <= self.next {
            return 0;
        }
        self.next = cursor.next;
        self.tail = self.tail.max(cursor.tail);
        self.unsent = self.unsent.max(cursor.next);
        let mut freed = 0;
        while let Some(sent) = self.in_flight.front().filter(|sent| sent.offset < cursor.next) {
            freed += if sent.acknowledged.is_none() { sent.bytes } else { 0 };
            self.in_flight.pop_front();
        }
        if matches!(self.phase, Phase::Stopped { .. } | Phase::Waiting { .. } | Phase::Looking) {
            self.phase = Phase::Unknown;
        }
        self.pauses = 0;
        freed
    }

    /// Tries a refused row again: an operator says that the reason is gone.
    pub(super) fn try_again(&mut self) -> bool {
        let is_stopped = matches!(self.phase, Phase::Stopped { .. });
        if is_stopped {
            self.phase = Phase::Unknown;
            self.told = None;
        }
        is_stopped
    }
}

#[cfg(test)]
mod tests;
