//! Gaps in the log, and decisions about them (design D2).
//!
//! Promises that a lane has one open gap at most, and that a decision about another gap than the one that is
//! there changes nothing.

use diesel::prelude::*;
use horizons_actors::clock::Timestamp;
use horizons_actors::command::Command;
use horizons_actors::gap::{FoundGap, GapAcceptance, GapKind, GapRemedy};
use horizons_actors::ids::{CommandId, Epoch, LaneKey, LogId, Offset, UserId};
use horizons_actors::ports::page::{Page, PageRoom, Weighed};
use horizons_actors::ports::query::{GapDecision, GapPosition, StoredGap};
use horizons_actors::ports::store::{GapAccepted, StoreError};
use horizons_actors::ports::wishes::Wished;
use horizons_actors::record::OutgoingRecord;

use super::engine::{Connection, engine};
use super::lanes::{self, Lanes, StoredLane};
use super::locks::Locks;
use super::operation::{Operation, Writing, Written};
use super::pages::weighed_rows;
use super::ports::limit;
use super::schema::gaps;
use super::state::{named, parsed, uuid};
use super::{layouts, trials};
use crate::db::words::{Words, WordsRef};

/// What a row says that a lane found.
type FoundColumns = (String, i64, i64, i64, i64);

fn into_gap((kind, next, low, high, found_at): FoundColumns) -> Result<FoundGap, StoreError> {
    Ok(FoundGap {
        kind: named("kind of a gap", &kind, GapKind::from_name)?,
        next: Offset(next.cast_unsigned()),
        low: Offset(low.cast_unsigned()),
        high: Offset(high.cast_unsigned()),
        found_at: Timestamp::from_micros(found_at),
    })
}

/// Reads the open gap of a lane.
pub(super) fn read_open(connection: &mut Connection, lane: i64) -> Result<Option<FoundGap>, StoreError> {
    let row: Option<FoundColumns> = gaps::table
        .filter(gaps::lane.eq(lane))
        .filter(gaps::decided_at.is_null())
        .select(FOUND_FIELDS)
        .first(connection)
        .optional()
        .map_err(engine)?;
    row.map(into_gap).transpose()
}

/// Stores the open gap of a lane: one that is there already is shown as it was found last.
fn note(connection: &mut Connection, lane: i64, gap: &FoundGap) -> Result<(), StoreError> {
    let said = (
        gaps::kind.eq(gap.kind.name()),
        gaps::next_offset.eq(gap.next.0.cast_signed()),
        gaps::low_offset.eq(gap.low.0.cast_signed()),
        gaps::high_offset.eq(gap.high.0.cast_signed()),
        gaps::found_at.eq(gap.found_at.as_micros()),
    );
    let open = gaps::table.filter(gaps::lane.eq(lane)).filter(gaps::decided_at.is_null());
    let updated = diesel::update(open).set(said).execute(connection).map_err(engine)?;
    if updated == 0 {
        diesel::insert_into(gaps::table)
            .values((gaps::lane.eq(lane), said))
            .execute(connection)
            .map_err(engine)?;
    }
    Ok(())
}

/// Removes the open gap of a lane, which is gone by itself.
fn forget_open(connection: &mut Connection, lane: i64) -> Result<(), StoreError> {
    diesel::delete(gaps::table.filter(gaps::lane.eq(lane)).filter(gaps::decided_at.is_null()))
        .execute(connection)
        .map_err(engine)?;
    Ok(())
}

/// Carries out a decision about a gap; gives the generation that it makes, if it makes one.
fn accept(
    connection: &mut Connection,
    lanes: &Lanes,
    log_id: &LogId,
    command: &Command,
    acceptance: &GapAcceptance,
) -> Result<(GapAccepted, Option<StoredLane>), StoreError> {
    let Some(number) = lanes.find_newest(connection, &acceptance.lane)? else {
        return Ok((GapAccepted::NoGap, None));
    };
    // Held first, so that no incarnation moves the lane between the look and the decision.
    let progress = lanes::lock_progress(connection, number)?;
    let Some(gap) = read_open(connection, number)? else { return Ok((GapAccepted::NoGap, None)) };
    // A lane that cannot read its very first record has no position yet.
    let stands_there = progress.is_some_and(|progress| progress.next.is_none_or(|next| next == gap.next));
    if !acceptance.is_about(&gap) || !stands_there {
        return Ok((GapAccepted::Changed(gap), None));
    }
    diesel::update(gaps::table.filter(gaps::lane.eq(number)).filter(gaps::decided_at.is_null()))
        .set((
            gaps::decided_at.eq(command.requested_at.as_micros()),
            gaps::decided_by.eq(command.principal.user_id.as_str()),
            gaps::command_id.eq(command.command_id.0.as_bytes().as_slice()),
            gaps::reason.eq(command.reason.as_deref().map(WordsRef)),
        ))
        .execute(connection)
        .map_err(engine)?;
    let mut made = None;
    let stored = lanes::find_or_make(connection, log_id, &acceptance.lane)?;
    let generation = match gap.kind.remedy() {
        GapRemedy::Skip => {
            lanes::skip_to(connection, number, gap.low)?;
            trials::forget_log(connection, number)?;
            stored.generation
        }
        GapRemedy::ReadAnew => {
            let next = stored.generation.following();
            let new = lanes::make(connection, log_id, &acceptance.lane, next)?;
            lanes::hand_on(connection, number, new.number)?;
            layouts::begin_anew(connection, log_id, acceptance.lane.topic_partition)?;
            made = Some(new);
            next
        }
    };
    Ok((GapAccepted::Accepted { generation, resumes_at: gap.low }, made))
}

/// The columns of a gap as they are read.
type GapColumns = (i64, i64, FoundColumns, Option<i64>, Option<String>, Option<Vec<u8>>, Option<Words>);

/// Lists gaps behind one: open ones in order of lane, then the decided ones, newest first.
pub(super) fn list(
    connection: &mut Connection,
    lanes: &Lanes,
    after: Option<&GapPosition>,
    wanted: usize,
) -> Result<Page<StoredGap>, StoreError> {
    let mut room = PageRoom::new(wanted);
    let mut page = Page::default();
    let lanes = lanes.sorted(connection)?;
    if !matches!(after, Some(GapPosition::Decided(_))) {
        for gap in open_gaps(connection, &lanes)? {
            if matches!(after, Some(GapPosition::Open(after)) if gap.lane <= *after) {
                continue;
            }
            if !room.take(gap.weight_bytes()) {
                page.has_more = true;
                return Ok(page);
            }
            page.rows.push(gap);
        }
    }
    let mut below = match after {
        Some(GapPosition::Decided(number)) => number.cast_signed(),
        _ => i64::MAX,
    };
    loop {
        // What weighs is an operator's reason, which is bounded when it is given: rows are read as they are, and one
        // more than there is room for tells whether more follow.
        let asked = weighed_rows(&room);
        let rows: Vec<GapColumns> = gaps::table
            .filter(gaps::decided_at.is_not_null())
            .filter(gaps::gap.lt(below))
            .order(gaps::gap.desc())
            .limit(asked)
            .select(GAP_FIELDS)
            .load(connection)
            .map_err(engine)?;
        let is_last = i64::try_from(rows.len()).is_ok_and(|read| read < asked);
        below = rows.last().map_or(below, |row| row.0);
        for row in rows {
            let Some(gap) = into_stored(row, &lanes)? else { continue };
            if !room.take(gap.weight_bytes()) {
                page.has_more = true;
                return Ok(page);
            }
            page.rows.push(gap);
        }
        if is_last {
            return Ok(page);
        }
    }
}

/// What is read of what a lane found.
type FoundFields = (gaps::kind, gaps::next_offset, gaps::low_offset, gaps::high_offset, gaps::found_at);

/// What is read of a gap.
type GapFields =
    (gaps::gap, gaps::lane, FoundFields, gaps::decided_at, gaps::decided_by, gaps::command_id, gaps::reason);

const FOUND_FIELDS: FoundFields =
    (gaps::kind, gaps::next_offset, gaps::low_offset, gaps::high_offset, gaps::found_at);

const GAP_FIELDS: GapFields =
    (gaps::gap, gaps::lane, FOUND_FIELDS, gaps::decided_at, gaps::decided_by, gaps::command_id, gaps::reason);

/// Reads the open gaps in order of lane; a lane has one at most.
fn open_gaps(connection: &mut Connection, lanes: &[StoredLane]) -> Result<Vec<StoredGap>, StoreError> {
    let rows: Vec<GapColumns> = gaps::table
        .filter(gaps::decided_at.is_null())
        .order(gaps::lane)
        .limit(limit(usize::MAX))
        .select(GAP_FIELDS)
        .load(connection)
        .map_err(engine)?;
    let mut open = Vec::with_capacity(rows.len());
    for row in rows {
        open.extend(into_stored(row, lanes)?);
    }
    open.sort_by(|left, right| left.lane.cmp(&right.lane));
    Ok(open)
}

/// Gives a gap; none of another log that the store was about before, which has no lane here.
fn into_stored(row: GapColumns, lanes: &[StoredLane]) -> Result<Option<StoredGap>, StoreError> {
    let (gap, number, found, decided_at, decided_by, command_id, reason) = row;
    let Some(stored) = lanes.iter().find(|stored| stored.number == number) else { return Ok(None) };
    let decision = match (decided_at, decided_by, command_id) {
        (Some(decided_at), Some(decided_by), Some(command_id)) => Some(GapDecision {
            number: gap.cast_unsigned(),
            command_id: CommandId(uuid(&command_id)?),
            decided_by: parsed("user id", &decided_by, UserId::parse)?,
            reason: reason.map(String::from),
            decided_at: Timestamp::from_micros(decided_at),
        }),
        _ => None,
    };
    let (lane, generation) = (stored.lane.clone(), stored.generation);
    Ok(Some(StoredGap { lane, generation, gap: into_gap(found)?, decision }))
}

/// The gap that the owner of a lane found; none says that one is gone by itself.
pub(super) struct NoteGap {
    pub(super) lane: LaneKey,
    pub(super) epoch: Epoch,
    pub(super) gap: Option<FoundGap>,
}

impl Operation for NoteGap {
    type Answer = bool;

    fn lock<'a>(&'a self, locks: &mut Locks<'a>) {
        locks.lanes.insert(&self.lane);
    }

    fn write<'a>(&'a self, round: &mut Writing<'_, 'a>) -> Result<Written<bool>, StoreError> {
        let Some(number) = round.owned(&self.lane, self.epoch)? else { return Ok(Written::Done(false)) };
        match &self.gap {
            Some(gap) => note(round.connection, number, gap)?,
            None => forget_open(round.connection, number)?,
        }
        Ok(Written::Done(true))
    }
}

/// An operator's decision about the open gap of a lane.
pub(super) struct AcceptGap {
    pub(super) command: Command,
    pub(super) acceptance: GapAcceptance,
    pub(super) audit: OutgoingRecord,
}

impl Operation for AcceptGap {
    type Answer = GapAccepted;

    fn lock<'a>(&'a self, locks: &mut Locks<'a>) {
        locks.newest.insert(&self.acceptance.lane);
    }

    fn write<'a>(&'a self, round: &mut Writing<'_, 'a>) -> Result<Written<GapAccepted>, StoreError> {
        let Self { command, acceptance, audit } = self;
        let (lanes, log_id) = (round.context.lanes, round.context.log_id);
        let (answer, made) = accept(round.connection, lanes, log_id, command, acceptance)?;
        if matches!(answer, GapAccepted::Accepted { .. }) {
            round.tell(Wished::Lane(acceptance.lane.clone()));
            round.publish(audit);
        }
        round.gathered.made.extend(made);
        Ok(Written::Done(answer))
    }
}
