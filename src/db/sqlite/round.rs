//! One commit for many: commands and transactions of lanes in one database transaction (design D7).
//!
//! Promises that progress of all lanes is moved first, then the rows of those that still own theirs are
//! written, then the audit entries of all, then the outbox; and that a member which fails because of its data fails alone.

use std::time::Instant;

use diesel::connection::SimpleConnection;
use diesel::sqlite::SqliteConnection;
use horizons_actors::ids::{LaneKey, LogId, LogTopic, Offset, Partition};
use horizons_actors::ports::store::{
    AppendedAt, CommitError, JobExpectation, JobWritten, LaneCommitted, LaneOpened, Progress, StoreError,
};
use horizons_actors::record::OutgoingRecord;

use super::audit_append::{AuditRows, EntryNumbers};
use super::lanes::{self, Lanes, Ownership};
use super::profile::WriterProfile;
use super::queue::{CommandWork, LaneWork, Round};
use super::records::{self, Appended};
use super::{connection as database, effects, jobs, parking};
use crate::db::error::{Fault, engine, fault_of, store_error};
use crate::faults;

/// What a round needs beside the connection.
pub(super) struct Context<'a> {
    pub(super) log_id: &'a LogId,
    pub(super) lanes: &'a Lanes,
    pub(super) disk_limit_bytes: u64,
    pub(super) profile: &'a WriterProfile,
    pub(super) entry_numbers: &'a EntryNumbers,
}

/// What a command is answered after the commit.
#[derive(Debug)]
pub(super) enum CommandResult {
    Written(Result<JobWritten, StoreError>),
    Answered(Result<(), StoreError>),
    /// On success the place of its first record among the round's, and how many there are.
    Appended(Result<(usize, usize), StoreError>),
    Wished(Result<bool, StoreError>),
}

/// What work of a lane is answered after the commit.
#[derive(Debug)]
pub(super) enum LaneResult {
    Opened(LaneOpened),
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
    pub(super) made: Vec<(LaneKey, i64)>,
}

/// Why a round was not committed.
#[derive(Debug)]
pub(super) enum RoundError {
    /// Nothing was written: a member failed, or the database did.
    RolledBack(StoreError),
    /// Whether it was written cannot be told.
    Unknown(String),
    /// The disk failed under COMMIT: the process must not go on.
    Disk(String),
}

impl RoundError {
    /// Tells whether doing the members one by one may spare the others.
    pub(super) fn may_be_a_member(&self) -> bool {
        matches!(self, RoundError::RolledBack(error) if !error.is_transient())
    }

    /// Gives the answer for those who have no unknown outcome.
    pub(super) fn as_store_error(&self) -> StoreError {
        match self {
            RoundError::RolledBack(error) => error.clone(),
            RoundError::Unknown(text) | RoundError::Disk(text) => {
                StoreError::Unavailable(format!("outcome of the commit is unknown: {text}"))
            }
        }
    }

    /// Gives the answer for a lane's transaction.
    pub(super) fn as_commit_error(&self) -> CommitError {
        match self {
            RoundError::RolledBack(error) => CommitError::Store(error.clone()),
            RoundError::Unknown(text) | RoundError::Disk(text) => CommitError::Unknown(text.clone()),
        }
    }
}

/// Writes a round in one transaction.
pub(super) fn run(
    connection: &mut SqliteConnection,
    context: &Context<'_>,
    round: &Round,
) -> Result<Done, RoundError> {
    let begun = Instant::now();
    connection
        .batch_execute("BEGIN IMMEDIATE")
        .map_err(|error| RoundError::RolledBack(store_error(&error)))?;
    let done = match write(connection, context, round) {
        Ok(done) => done,
        Err(error) => {
            roll_back(connection);
            return Err(RoundError::RolledBack(error));
        }
    };
    faults::hit("store-before-commit");
    let written = Instant::now();
    if let Err(error) = connection.batch_execute("COMMIT") {
        let text = error.to_string();
        let is_rolled_back = connection.batch_execute("ROLLBACK").is_ok();
        return Err(match fault_of(&text) {
            Fault::Disk => RoundError::Disk(text),
            _ if is_rolled_back => RoundError::RolledBack(store_error(&error)),
            _ => RoundError::Unknown(text),
        });
    }
    faults::hit("store-after-commit");
    context.profile.committed(begun, written, Instant::now());
    Ok(done)
}

/// Ends a transaction without a trace.
fn roll_back(connection: &mut SqliteConnection) {
    // Some failures roll back by themselves; then this answers that no transaction is open, which is as good.
    if let Err(error) = connection.batch_execute("ROLLBACK") {
        tracing::debug!(%error, "transaction was over before it was rolled back");
    }
}

/// What has been gathered so far.
#[derive(Default)]
struct Gathered<'a> {
    outbox: Vec<&'a OutgoingRecord>,
    made: Vec<(LaneKey, i64)>,
    used_bytes: Option<u64>,
}

fn write(
    connection: &mut SqliteConnection,
    context: &Context<'_>,
    round: &Round,
) -> Result<Done, StoreError> {
    let mut gathered = Gathered::default();
    let mut commands = Vec::with_capacity(round.commands.len());
    for command in &round.commands {
        commands.push(write_command(connection, context, command, &mut gathered)?);
    }
    let mut owners = Vec::with_capacity(round.lanes.len());
    for work in &round.lanes {
        owners.push(advance(connection, context, work, &mut gathered)?);
    }
    faults::hit("store-after-progress");
    let mut audit = AuditRows::new(context.entry_numbers);
    let mut lanes = Vec::with_capacity(round.lanes.len());
    for (work, owner) in round.lanes.iter().zip(owners) {
        lanes.push(write_lane(connection, work, owner, &mut gathered, &mut audit)?);
    }
    audit.write(connection)?;
    let Appended { places, ends } = records::append(connection, &gathered.outbox)?;
    Ok(Done { commands, lanes, places, ends, made: gathered.made })
}

/// Carries a command out. Errors that are answers leave nothing written.
fn write_command<'a>(
    connection: &mut SqliteConnection,
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
                gathered.outbox.extend(write.events.iter().map(|event| &event.record));
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
            gathered.outbox.extend(records.iter().chain(audit));
            Ok(CommandResult::Appended(Ok((first, records.len()))))
        }
        CommandWork::SetParkedWish { command, key, wish, audit, .. } => {
            let Some(number) = context.lanes.number(&key.lane) else {
                return Ok(CommandResult::Wished(Ok(false)));
            };
            let command = command.command_id.0.as_bytes();
            let is_parked = parking::set_wish(connection, number, &key.key, *wish, command)?;
            if is_parked {
                gathered.outbox.push(audit);
            }
            Ok(CommandResult::Wished(Ok(is_parked)))
        }
    }
}

/// Checks once per round whether new work may still be taken.
fn check_disk_limit(
    connection: &mut SqliteConnection,
    context: &Context<'_>,
    gathered: &mut Gathered<'_>,
) -> Result<Result<(), StoreError>, StoreError> {
    let used_bytes = match gathered.used_bytes {
        Some(used_bytes) => used_bytes,
        None => *gathered.used_bytes.insert(database::used_bytes(connection).map_err(engine)?),
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
    Owned(i64),
    /// It does not.
    Fenced,
}

fn advance(
    connection: &mut SqliteConnection,
    context: &Context<'_>,
    work: &LaneWork,
    gathered: &mut Gathered<'_>,
) -> Result<Owner, StoreError> {
    match work {
        LaneWork::Open { lane, .. } => {
            let number = match context.lanes.number(lane) {
                Some(number) => number,
                None => {
                    let number = lanes::number_or_make(connection, context.log_id, lane)?;
                    gathered.made.push((lane.clone(), number));
                    number
                }
            };
            Ok(Owner::Answered(LaneResult::Opened(lanes::open(connection, number)?)))
        }
        LaneWork::ReadProgress { lane, .. } => match context.lanes.number(lane) {
            Some(number) => {
                Ok(Owner::Answered(LaneResult::Progress(lanes::read_progress(connection, number)?)))
            }
            None => Ok(Owner::Answered(LaneResult::Progress(None))),
        },
        LaneWork::Commit { transaction, .. } => {
            let Some(number) = context.lanes.number(&transaction.lane) else { return Ok(Owner::Fenced) };
            Ok(match lanes::advance(connection, number, transaction)? {
                Ownership::Owned => Owner::Owned(number),
                Ownership::Fenced => Owner::Fenced,
            })
        }
    }
}

fn write_lane<'a>(
    connection: &mut SqliteConnection,
    work: &'a LaneWork,
    owner: Owner,
    gathered: &mut Gathered<'a>,
    audit: &mut AuditRows<'_>,
) -> Result<LaneResult, StoreError> {
    let (LaneWork::Commit { transaction, .. }, Owner::Owned(number)) = (work, &owner) else {
        return Ok(match owner {
            Owner::Answered(result) => result,
            Owner::Owned(_) | Owner::Fenced => LaneResult::Fenced,
        });
    };
    effects::write(connection, *number, &transaction.effects, audit)?;
    gathered.outbox.extend(&transaction.effects.outbox);
    Ok(LaneResult::Committed(LaneCommitted {
        fence: lanes::following(transaction.fence),
        next_timer: lanes::next_timer(connection, *number)?,
    }))
}
