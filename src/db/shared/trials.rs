//! Trials of what may kill a process (design D6).
//!
//! Promises that a death is charged once, when another process opens the lane, and only to what was being thought
//! about; and that what cannot be tried again is forgotten.

use diesel::dsl::exists;
use diesel::prelude::*;
use horizons_actors::effect::TimerId;
use horizons_actors::ids::{Epoch, LaneKey, Offset, ProcessId};
use horizons_actors::ports::store::StoreError;
use horizons_actors::trial::{SettledTrial, Thought, Trial, TrialEnd, TrialPhase, TrialSubject};

use super::engine::{Connection, engine};
use super::lanes::Lanes;
use super::locks::Locks;
use super::operation::{Operation, Writing, Written};
use super::schema::{parked_records, progress, timers, trials};
use crate::db::error::unreadable;
use crate::db::words::{Words, WordsRef};

/// What names a subject in its row, beside the lane.
struct SubjectColumns<'a> {
    kind: &'static str,
    record_offset: i64,
    timer_kind: &'a str,
    timer_key: &'a str,
}

impl<'a> SubjectColumns<'a> {
    fn of(subject: &'a TrialSubject) -> Self {
        let (timer_kind, timer_key) = match subject {
            TrialSubject::Timer(id) => (id.kind.as_str(), id.key.as_str()),
            TrialSubject::Log(_) | TrialSubject::Parked(_) => ("", ""),
        };
        let record_offset = subject.offset().map_or(0, |offset| offset.0.cast_signed());
        Self { kind: subject.kind(), record_offset, timer_kind, timer_key }
    }
}

/// A trial as it is read.
type TrialColumns = (String, i64, Words, Words, i64, i32, i32);

/// Reads the subject of a row.
fn subject(kind: &str, offset: i64, timer: (Words, Words)) -> Result<TrialSubject, StoreError> {
    let offset = Offset(offset.cast_unsigned());
    match kind {
        "log" => Ok(TrialSubject::Log(offset)),
        "parked" => Ok(TrialSubject::Parked(offset)),
        "timer" => Ok(TrialSubject::Timer(TimerId { kind: timer.0.into(), key: timer.1.into() })),
        other => Err(unreadable("kind of a trial", other)),
    }
}

/// Charges what the process before died of, forgets what cannot be tried again, and lists what is left.
pub(super) fn opened(
    connection: &mut Connection,
    lane: i64,
    next: Option<Offset>,
    is_other_process: bool,
) -> Result<Vec<Trial>, StoreError> {
    let rows: Vec<TrialColumns> = trials::table
        .filter(trials::lane.eq(lane))
        .select((
            trials::kind,
            trials::record_offset,
            trials::timer_kind,
            trials::timer_key,
            trials::deaths,
            trials::is_trying,
            trials::is_convicted,
        ))
        .load(connection)
        .map_err(engine)?;
    let mut left = Vec::with_capacity(rows.len());
    for (kind, offset, timer_kind, timer_key, deaths, is_trying, is_convicted) in rows {
        let subject = subject(&kind, offset, (timer_kind, timer_key))?;
        let deaths = deaths + i64::from(is_trying == 1 && is_other_process);
        let is_convicted = is_convicted == 1;
        if !is_convicted && (deaths == 0 || !can_be_tried(connection, lane, next, &subject)?) {
            remove(connection, lane, &subject)?;
            continue;
        }
        if is_trying == 1 {
            store(connection, lane, &subject, Kept { deaths, is_trying: false, is_convicted })?;
        }
        left.push(Trial { subject, deaths: u32::try_from(deaths).unwrap_or(u32::MAX), is_convicted });
    }
    Ok(left)
}

/// Tells whether a subject is still there to be tried.
fn can_be_tried(
    connection: &mut Connection,
    lane: i64,
    next: Option<Offset>,
    subject: &TrialSubject,
) -> Result<bool, StoreError> {
    let found: bool = match subject {
        TrialSubject::Log(offset) => return Ok(next.is_none_or(|next| *offset >= next)),
        TrialSubject::Parked(offset) => diesel::select(exists(
            parked_records::table
                .filter(parked_records::lane.eq(lane))
                .filter(parked_records::record_offset.eq(offset.0.cast_signed())),
        ))
        .get_result(connection),
        TrialSubject::Timer(id) => diesel::select(exists(
            timers::table
                .filter(timers::lane.eq(lane))
                .filter(timers::kind.eq(WordsRef(&id.kind)))
                .filter(timers::key.eq(WordsRef(&id.key))),
        ))
        .get_result(connection),
    }
    .map_err(engine)?;
    Ok(found)
}

/// What a row says of its subject.
struct Kept {
    deaths: i64,
    is_trying: bool,
    is_convicted: bool,
}

/// Writes a row, whether it is there or not.
fn store(
    connection: &mut Connection,
    lane: i64,
    subject: &TrialSubject,
    kept: Kept,
) -> Result<(), StoreError> {
    let columns = SubjectColumns::of(subject);
    let said = (
        trials::deaths.eq(kept.deaths),
        trials::is_trying.eq(i32::from(kept.is_trying)),
        trials::is_convicted.eq(i32::from(kept.is_convicted)),
    );
    diesel::insert_into(trials::table)
        .values((
            trials::lane.eq(lane),
            trials::kind.eq(columns.kind),
            trials::record_offset.eq(columns.record_offset),
            trials::timer_kind.eq(WordsRef(columns.timer_kind)),
            trials::timer_key.eq(WordsRef(columns.timer_key)),
            said,
        ))
        .on_conflict((
            trials::lane,
            trials::kind,
            trials::record_offset,
            trials::timer_kind,
            trials::timer_key,
        ))
        .do_update()
        .set(said)
        .execute(connection)
        .map_err(engine)?;
    Ok(())
}

/// Reads the deaths of a subject; none without a row.
fn deaths(connection: &mut Connection, lane: i64, subject: &TrialSubject) -> Result<Option<i64>, StoreError> {
    let columns = SubjectColumns::of(subject);
    trials::table
        .filter(trials::lane.eq(lane))
        .filter(trials::kind.eq(columns.kind))
        .filter(trials::record_offset.eq(columns.record_offset))
        .filter(trials::timer_kind.eq(WordsRef(columns.timer_kind)))
        .filter(trials::timer_key.eq(WordsRef(columns.timer_key)))
        .select(trials::deaths)
        .first(connection)
        .optional()
        .map_err(engine)
}

fn remove(connection: &mut Connection, lane: i64, subject: &TrialSubject) -> Result<(), StoreError> {
    let columns = SubjectColumns::of(subject);
    diesel::delete(
        trials::table
            .filter(trials::lane.eq(lane))
            .filter(trials::kind.eq(columns.kind))
            .filter(trials::record_offset.eq(columns.record_offset))
            .filter(trials::timer_kind.eq(WordsRef(columns.timer_kind)))
            .filter(trials::timer_key.eq(WordsRef(columns.timer_key))),
    )
    .execute(connection)
    .map_err(engine)?;
    Ok(())
}

/// Notes how far a trial is.
fn write(
    connection: &mut Connection,
    lane: i64,
    subject: &TrialSubject,
    phase: TrialPhase,
) -> Result<(), StoreError> {
    let is_trying = match phase {
        TrialPhase::Trying => true,
        TrialPhase::Waiting => false,
        TrialPhase::Survived => return remove(connection, lane, subject),
    };
    match deaths(connection, lane, subject)? {
        None if !is_trying => Ok(()),
        found => {
            let deaths = found.unwrap_or(0);
            store(connection, lane, subject, Kept { deaths, is_trying, is_convicted: false })
        }
    }
}

/// Notes that nothing is being thought about.
pub(super) fn rest(connection: &mut Connection, lane: i64) -> Result<(), StoreError> {
    diesel::update(trials::table.filter(trials::lane.eq(lane)))
        .set(trials::is_trying.eq(0))
        .execute(connection)
        .map_err(engine)?;
    Ok(())
}

/// Takes back that a process was trying anything but what it was seen to think about.
fn acquit(
    connection: &mut Connection,
    lanes: &Lanes,
    process: ProcessId,
    seen: Option<&Thought>,
) -> Result<(), StoreError> {
    let process = process.0.as_bytes().as_slice();
    let of_process: Vec<i64> = progress::table
        .filter(progress::opened_by.eq(process))
        .select(progress::lane)
        .load(connection)
        .map_err(engine)?;
    let tried: Vec<(i64, String, i64, Words, Words, i64)> = trials::table
        .filter(trials::lane.eq_any(of_process))
        .filter(trials::is_trying.eq(1))
        .select((
            trials::lane,
            trials::kind,
            trials::record_offset,
            trials::timer_kind,
            trials::timer_key,
            trials::deaths,
        ))
        .load(connection)
        .map_err(engine)?;
    let seen = match seen {
        Some(thought) => lanes.find(connection, &thought.lane)?.map(|lane| (lane, &thought.subject)),
        None => None,
    };
    for (lane, kind, offset, timer_kind, timer_key, deaths) in tried {
        let subject = subject(&kind, offset, (timer_kind, timer_key))?;
        if seen != Some((lane, &subject)) {
            store(connection, lane, &subject, Kept { deaths, is_trying: false, is_convicted: false })?;
        }
    }
    Ok(())
}

/// Ends a trial with the transaction that answers its subject.
pub(super) fn settle(
    connection: &mut Connection,
    lane: i64,
    settled: &SettledTrial,
) -> Result<(), StoreError> {
    let deaths = deaths(connection, lane, &settled.subject)?.unwrap_or(0);
    remove(connection, lane, &settled.subject)?;
    let Some(offset) = settled.subject.offset() else { return Ok(()) };
    let record = TrialSubject::Log(offset);
    match settled.end {
        TrialEnd::Survived => remove(connection, lane, &record),
        TrialEnd::Convicted => {
            store(connection, lane, &record, Kept { deaths, is_trying: false, is_convicted: true })
        }
    }
}

/// Forgets what was tried in the log, because the lane goes on elsewhere.
pub(super) fn forget_log(connection: &mut Connection, lane: i64) -> Result<(), StoreError> {
    diesel::delete(trials::table.filter(trials::lane.eq(lane)).filter(trials::kind.eq("log")))
        .execute(connection)
        .map_err(engine)?;
    Ok(())
}

/// How far the owner of a lane is with a trial.
pub(super) struct WriteTrial {
    pub(super) lane: LaneKey,
    pub(super) epoch: Epoch,
    pub(super) subject: TrialSubject,
    pub(super) phase: TrialPhase,
}

impl Operation for WriteTrial {
    type Answer = bool;

    fn lock<'a>(&'a self, locks: &mut Locks<'a>) {
        locks.lanes.insert(&self.lane);
    }

    fn write<'a>(&'a self, round: &mut Writing<'_, 'a>) -> Result<Written<bool>, StoreError> {
        let Some(number) = round.owned(&self.lane, self.epoch)? else { return Ok(Written::Done(false)) };
        write(round.connection, number, &self.subject, self.phase)?;
        Ok(Written::Done(true))
    }
}

/// Takes back what a process was not seen to think about.
pub(super) struct Acquit {
    pub(super) process: ProcessId,
    pub(super) seen: Option<Thought>,
}

impl Operation for Acquit {
    type Answer = ();

    fn lock<'a>(&'a self, locks: &mut Locks<'a>) {
        locks.processes.insert(self.process);
        locks.lanes.extend(self.seen.as_ref().map(|thought| &thought.lane));
    }

    fn write<'a>(&'a self, round: &mut Writing<'_, 'a>) -> Result<Written<()>, StoreError> {
        acquit(round.connection, round.context.lanes, self.process, self.seen.as_ref())?;
        Ok(Written::Done(()))
    }
}
