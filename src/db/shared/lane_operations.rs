//! What is asked of the store about a lane beside its transactions.

use horizons_actors::ids::{Epoch, LaneKey, ProcessId};
use horizons_actors::ports::store::{LaneOpened, Progress, ResumeAnswer, StoreError};
use horizons_actors::ports::wishes::Wished;
use horizons_actors::record::OutgoingRecord;

use super::locks::Locks;
use super::operation::{Operation, Writing, Written};
use super::{lanes, trials};

/// Takes a new epoch for the newest generation of a lane, whatever is remembered of it.
pub(super) struct OpenLane {
    pub(super) lane: LaneKey,
    pub(super) process: ProcessId,
}

impl Operation for OpenLane {
    type Answer = LaneOpened;

    fn lock<'a>(&'a self, locks: &mut Locks<'a>) {
        locks.opened.insert(&self.lane);
    }

    fn write<'a>(&'a self, round: &mut Writing<'_, 'a>) -> Result<Written<LaneOpened>, StoreError> {
        let log_id = round.context.log_id;
        let stored = lanes::find_or_make(round.connection, log_id, &self.lane)?;
        let opened = lanes::open(round.connection, log_id, &stored, self.process)?;
        round.gathered.made.push(stored);
        Ok(Written::Done(opened))
    }
}

/// Reads how far a lane is, behind every write that was queued before.
pub(super) struct ReadProgress {
    pub(super) lane: LaneKey,
}

impl Operation for ReadProgress {
    type Answer = Option<Progress>;

    fn lock<'a>(&'a self, locks: &mut Locks<'a>) {
        locks.lanes.insert(&self.lane);
    }

    fn write<'a>(&'a self, round: &mut Writing<'_, 'a>) -> Result<Written<Option<Progress>>, StoreError> {
        Ok(Written::Done(match round.context.lanes.find(round.connection, &self.lane)? {
            Some(number) => lanes::lock_progress(round.connection, number)?,
            None => None,
        }))
    }
}

/// Notes that an incarnation of a lane ended in order. Whoever is not the owner any more has nothing to end.
pub(super) struct EndLane {
    pub(super) lane: LaneKey,
    pub(super) epoch: Epoch,
}

impl Operation for EndLane {
    type Answer = ();

    fn lock<'a>(&'a self, locks: &mut Locks<'a>) {
        locks.lanes.insert(&self.lane);
    }

    fn write<'a>(&'a self, round: &mut Writing<'_, 'a>) -> Result<Written<()>, StoreError> {
        if let Some(number) = round.owned(&self.lane, self.epoch)? {
            trials::rest(round.connection, number)?;
            lanes::end_in_order(round.connection, number)?;
        }
        Ok(Written::Done(()))
    }
}

/// Lets a lane go on that is held.
pub(super) struct ResumeLane {
    pub(super) lane: LaneKey,
    pub(super) audit: OutgoingRecord,
}

impl Operation for ResumeLane {
    type Answer = ResumeAnswer;

    fn lock<'a>(&'a self, locks: &mut Locks<'a>) {
        locks.newest.insert(&self.lane);
    }

    fn write<'a>(&'a self, round: &mut Writing<'_, 'a>) -> Result<Written<ResumeAnswer>, StoreError> {
        let answer = lanes::resume(round.connection, round.context.lanes, &self.lane)?;
        if answer == ResumeAnswer::Resumed {
            round.tell(Wished::Lane(self.lane.clone()));
            round.publish(&self.audit);
        }
        Ok(Written::Done(answer))
    }
}
