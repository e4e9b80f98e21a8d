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
use horizons_actors::command::ParkedKeyId;
use horizons_actors::gap::GapAcceptance;
use horizons_actors::ids::LaneKey;
use horizons_actors::ports::store::{JobExpectation, StoreError};

use super::engine::{self, Connection, IS_SHARED, engine};
use super::lanes;
use super::queue::{CommandWork, LaneWork, Round};
use super::round::Context;
use super::schema::progress;

/// What a round is going to write, as far as other processes may write it too.
#[derive(Debug, Default)]
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
    let mut wanted = Wanted::default();
    let mut asked: BTreeSet<&LaneKey> = BTreeSet::new();
    let mut opened: BTreeSet<&LaneKey> = BTreeSet::new();
    let mut commits: BTreeSet<&LaneKey> = BTreeSet::new();
    for command in &round.commands {
        match command {
            CommandWork::WriteJob { write, .. } => {
                if let Some(idempotency) = &write.idempotency {
                    wanted.names.insert(format!("{}/{}", idempotency.user_id, idempotency.key));
                }
                // A new job is nobody else's yet.
                if write.expectation != JobExpectation::New {
                    wanted.jobs.insert(write.row.job_id.as_str());
                }
            }
            CommandWork::AnswerOrder { order, .. } => {
                wanted.jobs.insert(order.job_id.as_str());
            }
            CommandWork::SetParkedWish { key: ParkedKeyId { lane, .. }, .. }
            | CommandWork::ResumeLane { lane, .. }
            | CommandWork::AcceptGap { acceptance: GapAcceptance { lane, .. }, .. } => {
                wanted.lanes.extend(context.lanes.find_newest(connection, lane)?);
            }
            CommandWork::Acquit { process, seen, .. } => {
                let of_process: Vec<i64> = progress::table
                    .filter(progress::opened_by.eq(process.0.as_bytes().as_slice()))
                    .select(progress::lane)
                    .load(connection)
                    .map_err(engine)?;
                wanted.lanes.extend(of_process);
                asked.extend(seen.as_ref().map(|thought| &thought.lane));
            }
            CommandWork::Outbox(_) => wanted.is_of_relay = true,
            CommandWork::BeginLayout { adoption, .. } => {
                wanted.names.insert(format!("layout of {}", adoption.topic));
            }
            CommandWork::AdoptLayout { adoption, .. } => {
                wanted.names.insert(format!("layout of {}", adoption.topic));
                let all = context.lanes.sorted(connection)?;
                let of_topic =
                    all.iter().filter(|stored| stored.lane.topic_partition.topic == adoption.topic);
                wanted.lanes.extend(of_topic.map(|stored| stored.number));
            }
            CommandWork::AppendRecords { .. } | CommandWork::SendAgain { .. } => {}
        }
    }
    for work in &round.lanes {
        match work {
            LaneWork::Open { lane, .. } => {
                opened.insert(lane);
            }
            LaneWork::Note { lane, .. } | LaneWork::ReadProgress { lane, .. } => {
                asked.insert(lane);
            }
            LaneWork::Commit { transaction, .. } => {
                commits.insert(&transaction.lane);
                wanted.jobs.extend(transaction.effects.orders.iter().map(|order| order.job_id.as_str()));
            }
        }
    }
    for lane in opened {
        wanted.lanes.insert(lanes::begin(connection, context.log_id, lane)?);
    }
    // Commits alone take their lanes in order by themselves, in the statement that moves them.
    if !wanted.lanes.is_empty() || !asked.is_empty() {
        asked.append(&mut commits);
    }
    for lane in asked {
        wanted.lanes.extend(context.lanes.find(connection, lane)?);
    }
    engine::take_locks(connection, &wanted)
}
