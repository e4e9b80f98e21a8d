//! The order in which a round takes the locks that other processes may wait for.
//!
//! Promises that no two rounds wait for one another in a circle: what a round is going to write is known before it
//! begins, so it first takes all of its gates, in one order that is the same for every process:
//!
//! 1. names (idempotency keys), by the number that the server locks them under
//! 2. the lease of the relay, which stands for every cursor of the outbox
//! 3. jobs, by id: a job stands for its orders and the events of its sequences
//! 4. lanes, by number: the progress of a lane stands for all that is derived in it, its parked keys, trials and gaps
//!
//! Ends of the log come behind, by topic and partition (`take_offsets`), and last of all the count of wishes.

use std::collections::BTreeSet;

use diesel::prelude::*;
use horizons_actors::ids::{LaneKey, ProcessId, Topic};
use horizons_actors::ports::store::StoreError;

use super::engine::{self, Connection, IS_SHARED, engine};
use super::lanes;
use super::queue::{LaneCommit, LaneWork, Round};
use super::round::Context;
use super::schema::progress;

/// What a round is going to write, as far as other processes may write it too, as its members say it.
#[derive(Debug, Default)]
pub(super) struct Locks<'a> {
    /// Names that nothing has a row for yet.
    pub(super) names: BTreeSet<String>,
    /// Whether it is about the relay's lease or cursors.
    pub(super) is_of_relay: bool,
    pub(super) jobs: BTreeSet<&'a str>,
    /// Lanes that are opened, and made where they are not there.
    pub(super) opened: BTreeSet<&'a LaneKey>,
    /// Lanes by the generation that this process knows.
    pub(super) lanes: BTreeSet<&'a LaneKey>,
    /// Lanes by their newest generation, whatever is remembered of them.
    pub(super) newest: BTreeSet<&'a LaneKey>,
    /// Every lane of a topic.
    pub(super) topics: BTreeSet<Topic>,
    /// Every lane that a process has opened.
    pub(super) processes: BTreeSet<ProcessId>,
}

/// The locks of a round, by what the database knows them under.
#[derive(Debug)]
#[allow(dead_code, reason = "an engine with one writer takes none")]
pub(super) struct Wanted<'a> {
    pub(super) names: BTreeSet<String>,
    pub(super) is_of_relay: bool,
    pub(super) jobs: BTreeSet<&'a str>,
    pub(super) lanes: BTreeSet<i64>,
}

/// Takes the locks of a round, before anything else.
pub(super) fn take(
    connection: &mut Connection,
    context: &Context<'_>,
    round: &Round,
) -> Result<(), StoreError> {
    if !IS_SHARED {
        return Ok(());
    }
    let mut locks = Locks::default();
    for member in &round.commands {
        member.lock(&mut locks);
    }
    let mut commits: BTreeSet<&LaneKey> = BTreeSet::new();
    for work in &round.lanes {
        match work {
            LaneWork::Ask { member, .. } => member.lock(&mut locks),
            LaneWork::Commit(LaneCommit { transaction, .. }) => {
                commits.insert(&transaction.lane);
                locks.jobs.extend(transaction.effects.orders.iter().map(|order| order.job_id.as_str()));
            }
        }
    }
    let lanes = numbers(connection, context, &locks, commits)?;
    let Locks { names, is_of_relay, jobs, .. } = locks;
    engine::take_locks(connection, &Wanted { names, is_of_relay, jobs, lanes })
}

/// Returns the numbers of the lanes that are locked.
fn numbers(
    connection: &mut Connection,
    context: &Context<'_>,
    locks: &Locks<'_>,
    commits: BTreeSet<&LaneKey>,
) -> Result<BTreeSet<i64>, StoreError> {
    let mut numbers = BTreeSet::new();
    for lane in &locks.newest {
        numbers.extend(context.lanes.find_newest(connection, lane)?);
    }
    for process in &locks.processes {
        let of_process: Vec<i64> = progress::table
            .filter(progress::opened_by.eq(process.0.as_bytes().as_slice()))
            .select(progress::lane)
            .load(connection)
            .map_err(engine)?;
        numbers.extend(of_process);
    }
    if !locks.topics.is_empty() {
        let all = context.lanes.sorted(connection)?;
        let of_topics = all.iter().filter(|stored| locks.topics.contains(&stored.lane.topic_partition.topic));
        numbers.extend(of_topics.map(|stored| stored.number));
    }
    // A lane that is made is locked by that: so in order, like all others.
    for lane in &locks.opened {
        numbers.insert(lanes::begin(connection, context.log_id, lane)?);
    }
    // Commits alone take their lanes in order by themselves, in the statement that moves them.
    let mut known = locks.lanes.clone();
    if !numbers.is_empty() || !known.is_empty() {
        known.extend(commits);
    }
    for lane in known {
        numbers.extend(context.lanes.find(connection, lane)?);
    }
    Ok(numbers)
}
