//! One commit for many: commands and transactions of lanes in one database transaction (design D7).
//!
//! Promises that progress of all lanes is moved first, then the rows of those that still own theirs are
//! written, then the audit entries of all, then the outbox; and that a member which fails because of its data fails alone.

use std::cell::Cell;
use std::mem;
use std::time::Instant;

use horizons_actors::clock::Timestamp;
use horizons_actors::effect::{Effects, StateMove};
use horizons_actors::ids::{LogId, LogTopic, Offset, Partition};
use horizons_actors::ports::store::{AppendedAt, LaneCommitted, StoreError};

use super::audit_append::AuditRows;
use super::effects::{self, LaneRows};
use super::engine::{self, Connection};
use super::lanes::{self, Lanes, Ownership, Seen, StoredLane};
use super::numbers::EntryNumbers;
use super::operation::{Gathered, Writing};
use super::placing::Placing;
use super::profile::WriterProfile;
use super::queue::{LaneCommit, LaneWork, Round};
use super::records::{self, Appended, Outgoing};
use super::{locks, state_rows, wishes};
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
    pub(super) fn read(&self, connection: &mut Connection) -> Result<u64, StoreError> {
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

/// What a committed round did, beside what its members are answered.
#[derive(Debug)]
pub(super) struct Done {
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

fn write(connection: &mut Connection, context: &Context<'_>, round: &Round) -> Result<Done, StoreError> {
    locks::take(connection, context, round)?;
    let mut gathered = Gathered::default();
    let mut writing = Writing { connection, context, gathered: &mut gathered };
    for member in &round.commands {
        member.write(&mut writing)?;
    }
    let owned = claim(&mut writing, &round.lanes)?;
    faults::hit("store-after-progress");
    write_lanes(&mut writing, owned)?;
    let Gathered { outbox, turns, made, wished, .. } = gathered;
    let Appended { places, ends } =
        records::append(connection, context.log_id, context.placing, &outbox, &turns)?;
    wishes::note(connection, context.lanes, wished)?;
    Ok(Done { places, ends, made })
}

/// A transaction of a lane whose owner has moved its progress.
struct Owned<'a> {
    commit: &'a LaneCommit,
    number: i64,
    seen: Seen,
}

/// Carries out what lanes ask, then moves the progress of those that commit: a lane is never asked and committed in
/// the other order within a round (see `Queue::take`). Returns the transactions of those that own theirs.
fn claim<'a>(writing: &mut Writing<'_, 'a>, work: &'a [LaneWork]) -> Result<Vec<Owned<'a>>, StoreError> {
    let mut commits = Vec::with_capacity(work.len());
    for work in work {
        match work {
            LaneWork::Ask { member, .. } => member.write(writing)?,
            LaneWork::Commit(commit) => {
                commit.written.replace(None);
                if let Some(number) =
                    writing.context.lanes.find(writing.connection, &commit.transaction.lane)?
                {
                    commits.push((number, commit));
                }
            }
        }
    }
    let claims: Vec<_> =
        commits.iter().map(|(number, commit)| (*number, commit.transaction.as_ref())).collect();
    let claimed = engine::advance(writing.connection, &claims)?;
    let owned =
        commits.into_iter().zip(claimed).filter_map(|((number, commit), ownership)| match ownership {
            Ownership::Owned(seen) => Some(Owned { commit, number, seen }),
            Ownership::Fenced => None,
        });
    Ok(owned.collect())
}

/// Writes the rows of lanes that own theirs, all together.
fn write_lanes<'a>(writing: &mut Writing<'_, 'a>, owned: Vec<Owned<'a>>) -> Result<(), StoreError> {
    let mut audit = AuditRows::new(writing.context.entry_numbers);
    let mut rows = LaneRows::default();
    for Owned { commit, number, seen } in owned {
        let (connection, transaction) = (&mut *writing.connection, commit.transaction.as_ref());
        if rows.has(number) {
            mem::take(&mut rows).write(connection)?;
        }
        for StateMove { from, key } in &transaction.effects.moves {
            let mut former = transaction.lane.clone();
            former.topic_partition.partition = *from;
            if let Some(former) = writing.context.lanes.find(connection, &former)? {
                state_rows::remove(connection, former, key)?;
            }
        }
        effects::write(connection, number, &transaction.effects, &seen, &mut rows, &mut audit)?;
        let next_timer = next_timer(connection, number, &transaction.effects, &seen)?;
        writing.gathered.outbox.extend(transaction.effects.outbox.iter().map(Outgoing::ByKey));
        commit
            .written
            .replace(Some(LaneCommitted { fence: lanes::following(transaction.fence), next_timer }));
    }
    rows.write(writing.connection)?;
    audit.write(writing.connection)
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
