//! One commit for many: commands and transactions of lanes in one database transaction (design D7).
//!
//! Promises that progress of all lanes is moved first, then the rows of those that still own theirs are
//! written, then the audit entries of all, then the outbox; and that a member which fails because of its data fails alone.

use std::cell::Cell;
use std::mem;
use std::time::Instant;

use horizons_actors::clock::Timestamp;
use horizons_actors::command::OrderKind;
use horizons_actors::effect::{Effects, StateMove};
use horizons_actors::ids::{LaneKey, LogId, LogTopic, Offset, Partition, ProcessId};
use horizons_actors::ports::store::{
    AppendedAt, GapAccepted, JobExpectation, JobWritten, LaneCommitted, LaneOpened, LayoutAdopted,
    LayoutBegun, Progress, ResumeAnswer, StoreError, WishAnswer,
};
use horizons_actors::ports::wishes::Wished;

use super::audit_append::AuditRows;
use super::effects::{self, LaneRows};
use super::engine::{self, Connection};
use super::lanes::{self, Lanes, Ownership, Seen, StoredLane};
use super::numbers::EntryNumbers;
use super::outbox::{self, OutboxResult};
use super::placing::{Placing, Turn};
use super::profile::WriterProfile;
use super::queue::{CommandWork, LaneNote, LaneWork, OutboxWork, Round};
use super::records::{self, Appended, Outgoing};
use super::{gaps, jobs, layouts, locks, parking, state_rows, trials, wishes};
use crate::db::outcome::RoundError;
use crate::faults;

/// What a round needs beside the connection.
pub(super) struct Context<'a> {
    pub(super) log_id: &'a LogId,
    pub(super) lanes: &'a Lanes,
    pub(super) disk_limit_bytes: u64,
    pub(super) used: &'a UsedBytes,
    pub(super) profile: &'a WriterProfile,
    pub(super) entry_numbers: &'a EntryNumbers,
    pub(super) placing: &'a Placing,
}

/// What the database took when it was looked at last: asking each time would cost more than the write.
#[derive(Debug, Default)]
pub(super) struct UsedBytes(Cell<Option<(Instant, u64)>>);

impl UsedBytes {
    fn read(&self, connection: &mut Connection) -> Result<u64, StoreError> {
        if let Some((at, bytes)) = self.0.get()
            && at.elapsed() < engine::USED_BYTES_FRESH
        {
            return Ok(bytes);
        }
        let bytes = engine::used_bytes(connection).map_err(engine::engine)?;
        self.0.set(Some((Instant::now(), bytes)));
        Ok(bytes)
    }
}

/// What a command is answered after the commit.
#[derive(Debug)]
pub(super) enum CommandResult {
    Written(Result<JobWritten, StoreError>),
    Answered(Result<(), StoreError>),
    /// On success the place of its first record among the round's, and how many there are.
    Appended(Result<(usize, usize), StoreError>),
    Wished(WishAnswer),
    Resumed(ResumeAnswer),
    Acquitted,
    Outbox(OutboxResult),
    SentAgain,
    Accepted(GapAccepted),
    Begun(LayoutBegun),
    Adopted(LayoutAdopted),
}

/// What work of a lane is answered after the commit.
#[derive(Debug)]
pub(super) enum LaneResult {
    Opened(Box<LaneOpened>),
    Noted(bool),
    Progress(Option<Progress>),
    Committed(LaneCommitted),
    Fenced,
}

/// What a committed round did.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) commands: Vec<CommandResult>,
    pub(super) lanes: Vec<LaneResult>,
    pub(super) places: Vec<AppendedAt>,
    pub(super) ends: Vec<(LogTopic, Partition, Offset)>,
    pub(super) made: Vec<StoredLane>,
}

/// Writes a round in one transaction.
pub(super) fn run(
    connection: &mut Connection,
    context: &Context<'_>,
    round: &Round,
) -> Result<Done, RoundError> {
    let begun = Instant::now();
    engine::begin(connection).map_err(RoundError::RolledBack)?;
    let done = match write(connection, context, round) {
        Ok(done) => done,
        Err(error) => {
            engine::roll_back(connection);
            return Err(RoundError::RolledBack(error));
        }
    };
    faults::hit("store-before-commit");
    let written = Instant::now();
    engine::commit(connection)?;
    faults::hit("store-after-commit");
    context.profile.committed(begun, written, Instant::now());
    Ok(done)
}

/// What has been gathered so far.
#[derive(Default)]
struct Gathered<'a> {
    outbox: Vec<Outgoing<'a>>,
    turns: Vec<Turn>,
    made: Vec<StoredLane>,
    wished: Vec<Wished>,
    used_bytes: Option<u64>,
}

fn write(connection: &mut Connection, context: &Context<'_>, round: &Round) -> Result<Done, StoreError> {
    locks::take(connection, context, round)?;
    let mut gathered = Gathered::default();
    let mut commands = Vec::with_capacity(round.commands.len());
    for command in &round.commands {
        commands.push(write_command(connection, context, command, &mut gathered)?);
    }
    let owners = claim(connection, context, &round.lanes, &mut gathered)?;
    faults::hit("store-after-progress");
    let mut audit = AuditRows::new(context.entry_numbers);
    let mut rows = LaneRows::default();
    let mut lanes = Vec::with_capacity(round.lanes.len());
    for (work, owner) in round.lanes.iter().zip(owners) {
        if let Owner::Owned(number, _) = owner
            && rows.has(number)
        {
            mem::take(&mut rows).write(connection)?;
        }
        if let (LaneWork::Commit { transaction, .. }, Owner::Owned(..)) = (work, &owner) {
            for StateMove { from, key } in &transaction.effects.moves {
                let mut former = transaction.lane.clone();
                former.topic_partition.partition = *from;
                if let Some(former) = context.lanes.find(connection, &former)? {
                    state_rows::remove(connection, former, key)?;
                }
            }
        }
        lanes.push(write_lane(connection, work, owner, &mut gathered, &mut rows, &mut audit)?);
    }
    rows.write(connection)?;
    audit.write(connection)?;
    let Gathered { outbox, turns, .. } = &gathered;
    let Appended { places, ends } =
        records::append(connection, context.log_id, context.placing, outbox, turns)?;
    wishes::note(connection, context.lanes, gathered.wished)?;
    Ok(Done { commands, lanes, places, ends, made: gathered.made })
}

/// Carries a command out. Errors that are answers leave nothing written.
fn write_command<'a>(
    connection: &mut Connection,
    context: &Context<'_>,
    command: &'a CommandWork,
    gathered: &mut Gathered<'a>,
) -> Result<CommandResult, StoreError> {
    match command {
        CommandWork::WriteJob { write, .. } => {
            if let Some(idempotency) = &write.idempotency
                && let Some(repeated) = jobs::repeated(connection, idempotency)?
            {
                return Ok(CommandResult::Written(Ok(repeated)));
            }
            if write.expectation == JobExpectation::New
                && let Err(full) = check_disk_limit(connection, context, gathered)?
            {
                return Ok(CommandResult::Written(Err(full)));
            }
            let written = match jobs::write(connection, write) {
                Err(conflict @ StoreError::Conflict(_)) => Err(conflict),
                other => Ok(other?),
            };
            if matches!(written, Ok(JobWritten::Written)) {
                // A job's partitions stand in its row.
                gathered.outbox.extend(write.events.iter().map(|event| Outgoing::Placed(&event.record)));
                // What an operator wants ended is not to wait for the next look of the process with the scheduler.
                if write.orders.iter().any(|order| order.kind == OrderKind::Cancel) {
                    gathered.wished.push(Wished::Orders);
                }
            }
            Ok(CommandResult::Written(written))
        }
        CommandWork::AnswerOrder { order, reply, .. } => {
            Ok(CommandResult::Answered(match jobs::answer_order(connection, order, reply) {
                Err(conflict @ StoreError::Conflict(_)) => Err(conflict),
                other => {
                    other?;
                    Ok(())
                }
            }))
        }
        CommandWork::AppendRecords { records, audit, .. } => {
            if let Err(full) = check_disk_limit(connection, context, gathered)? {
                return Ok(CommandResult::Appended(Err(full)));
            }
            let first = gathered.outbox.len();
            gathered.outbox.extend(records.iter().chain(audit).map(Outgoing::ByKey));
            Ok(CommandResult::Appended(Ok((first, records.len()))))
        }
        CommandWork::SetParkedWish { command, key, wish, attempts_limit, audit, .. } => {
            let wished = parking::Wished { key, wish: *wish, attempts_limit: *attempts_limit };
            let answer = parking::set_wish(connection, context.lanes, &wished, command)?;
            if answer == WishAnswer::Stored {
                gathered.wished.push(Wished::Lane(key.lane.clone()));
                gathered.outbox.push(Outgoing::ByKey(audit));
            }
            Ok(CommandResult::Wished(answer))
        }
        CommandWork::ResumeLane { lane, audit, .. } => {
            let answer = lanes::resume(connection, context.lanes, lane)?;
            if answer == ResumeAnswer::Resumed {
                gathered.wished.push(Wished::Lane(lane.clone()));
                gathered.outbox.push(Outgoing::ByKey(audit));
            }
            Ok(CommandResult::Resumed(answer))
        }
        CommandWork::Acquit { process, seen, .. } => {
            trials::acquit(connection, context.lanes, *process, seen.as_ref())?;
            Ok(CommandResult::Acquitted)
        }
        CommandWork::Outbox(work) => {
            let (result, published) = outbox::write(connection, context.log_id, work)?;
            if let (OutboxWork::SetAside { partition, .. }, Some(_)) = (work.as_ref(), published) {
                gathered.wished.push(Wished::Outbox(*partition));
            }
            gathered.outbox.extend(published.map(Outgoing::ByKey));
            Ok(CommandResult::Outbox(result))
        }
        CommandWork::SendAgain { partition, audit, .. } => {
            gathered.wished.push(Wished::Outbox(*partition));
            gathered.outbox.push(Outgoing::ByKey(audit));
            Ok(CommandResult::SentAgain)
        }
        CommandWork::AcceptGap { command, acceptance, audit, .. } => {
            let (answer, made) =
                gaps::accept(connection, context.lanes, context.log_id, command, acceptance)?;
            if matches!(answer, GapAccepted::Accepted { .. }) {
                gathered.wished.push(Wished::Lane(acceptance.lane.clone()));
                gathered.outbox.push(Outgoing::ByKey(audit));
            }
            gathered.made.extend(made);
            Ok(CommandResult::Accepted(answer))
        }
        CommandWork::BeginLayout { adoption, audit, .. } => {
            let (answer, turn) = layouts::begin(connection, context.log_id, adoption)?;
            if let Some(turn) = turn.filter(|turn| !gathered.turns.contains(turn)) {
                gathered.turns.push(turn);
                gathered.outbox.push(Outgoing::ByKey(audit));
            }
            Ok(CommandResult::Begun(answer))
        }
        CommandWork::AdoptLayout { adoption, .. } => {
            let answer = layouts::adopt(connection, context.log_id, adoption)?;
            if let LayoutAdopted::Adopted(layout) = &answer {
                gathered.turns.push(Turn::Counts { topic: layout.topic(), partitions: layout.partitions() });
            }
            Ok(CommandResult::Adopted(answer))
        }
    }
}

/// Checks once per round whether new work may still be taken.
fn check_disk_limit(
    connection: &mut Connection,
    context: &Context<'_>,
    gathered: &mut Gathered<'_>,
) -> Result<Result<(), StoreError>, StoreError> {
    let used_bytes = match gathered.used_bytes {
        Some(used_bytes) => used_bytes,
        None => *gathered.used_bytes.insert(context.used.read(connection)?),
    };
    let limit_bytes = context.disk_limit_bytes;
    Ok(if used_bytes >= limit_bytes {
        Err(StoreError::DiskLimit { used_bytes, limit_bytes })
    } else {
        Ok(())
    })
}

/// What the first pass over a lane's work found.
enum Owner {
    /// It was only asked something.
    Answered(LaneResult),
    /// It owns its progress, which is moved.
    Owned(i64, Seen),
    /// It does not.
    Fenced,
}

/// Answers what lanes ask, then moves the progress of those that commit: a lane is never asked and committed in
/// the other order within a round (see `Queue::take`).
fn claim(
    connection: &mut Connection,
    context: &Context<'_>,
    work: &[LaneWork],
    gathered: &mut Gathered<'_>,
) -> Result<Vec<Owner>, StoreError> {
    let mut owners = Vec::with_capacity(work.len());
    let mut claims = Vec::with_capacity(work.len());
    for work in work {
        owners.push(match work {
            LaneWork::Open { lane, process, .. } => {
                Owner::Answered(open(connection, context, lane, *process, gathered)?)
            }
            LaneWork::Note { lane, epoch, note, .. } => {
                let is_owner = match context.lanes.find(connection, lane)? {
                    Some(number) if lanes::is_owned_by(connection, number, *epoch)? => {
                        write_note(connection, number, note)?;
                        true
                    }
                    _ => false,
                };
                Owner::Answered(LaneResult::Noted(is_owner))
            }
            LaneWork::ReadProgress { lane, .. } => {
                let progress = match context.lanes.find(connection, lane)? {
                    Some(number) => lanes::lock_progress(connection, number)?,
                    None => None,
                };
                Owner::Answered(LaneResult::Progress(progress))
            }
            LaneWork::Commit { transaction, .. } => {
                match context.lanes.find(connection, &transaction.lane)? {
                    Some(number) => {
                        claims.push((number, transaction.as_ref()));
                        Owner::Owned(number, Seen::default())
                    }
                    None => Owner::Fenced,
                }
            }
        });
    }
    let mut claimed = engine::advance(connection, &claims)?.into_iter();
    for owner in &mut owners {
        if let Owner::Owned(number, _) = *owner {
            *owner = match claimed.next() {
                Some(Ownership::Owned(seen)) => Owner::Owned(number, seen),
                Some(Ownership::Fenced) | None => Owner::Fenced,
            };
        }
    }
    Ok(owners)
}

/// Takes a new epoch for the newest generation of a lane, whatever is remembered of it.
fn open(
    connection: &mut Connection,
    context: &Context<'_>,
    lane: &LaneKey,
    process: ProcessId,
    gathered: &mut Gathered<'_>,
) -> Result<LaneResult, StoreError> {
    let stored = lanes::find_or_make(connection, context.log_id, lane)?;
    let opened = lanes::open(connection, context.log_id, &stored, process)?;
    gathered.made.push(stored);
    Ok(LaneResult::Opened(Box::new(opened)))
}

/// Writes what the owner of a lane notes.
fn write_note(connection: &mut Connection, number: i64, note: &LaneNote) -> Result<(), StoreError> {
    match note {
        LaneNote::Trial(subject, phase) => trials::write(connection, number, subject, *phase),
        LaneNote::EndedInOrder => {
            trials::rest(connection, number)?;
            lanes::end_in_order(connection, number)
        }
        LaneNote::Gap(Some(gap)) => gaps::note(connection, number, gap),
        LaneNote::Gap(None) => gaps::forget_open(connection, number),
    }
}

fn write_lane<'a>(
    connection: &mut Connection,
    work: &'a LaneWork,
    owner: Owner,
    gathered: &mut Gathered<'a>,
    rows: &mut LaneRows<'a>,
    audit: &mut AuditRows<'_>,
) -> Result<LaneResult, StoreError> {
    let (LaneWork::Commit { transaction, .. }, Owner::Owned(number, seen)) = (work, &owner) else {
        return Ok(match owner {
            Owner::Answered(result) => result,
            Owner::Owned(..) | Owner::Fenced => LaneResult::Fenced,
        });
    };
    effects::write(connection, *number, &transaction.effects, seen, rows, audit)?;
    gathered.outbox.extend(transaction.effects.outbox.iter().map(Outgoing::ByKey));
    Ok(LaneResult::Committed(LaneCommitted {
        fence: lanes::following(transaction.fence),
        next_timer: next_timer(connection, *number, &transaction.effects, seen)?,
    }))
}

/// Gives when the earliest timer of a lane falls due after a transaction.
fn next_timer(
    connection: &mut Connection,
    number: i64,
    effects: &Effects,
    seen: &Seen,
) -> Result<Option<Timestamp>, StoreError> {
    match seen.next_timer {
        Some(due_at) if effects.timers_set.is_empty() && effects.timers_cleared.is_empty() => {
            Ok(due_at.map(Timestamp::from_micros))
        }
        _ => lanes::next_timer(connection, number),
    }
}
