//! How the actors are, for operators: the tree that HTTP, the command line and the dashboard show.
//!
//! Promises plain data taken at one moment; reading it never waits for a busy lane.

use serde::Serialize;

use crate::clock::Timestamp;
pub use crate::heartbeat::{ThreadSnapshot, ThreadState};
use crate::ids::TopicPartition;
pub use crate::lane::Recent;

/// The whole tree.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TreeSnapshot {
    /// When it was taken.
    pub taken_at: Timestamp,
    /// Every consumer group.
    pub groups: Vec<GroupSnapshot>,
    /// Live job supervisors.
    pub job_supervisors: u64,
    /// The process's threads that the watchdog watches, by name.
    pub threads: Vec<ThreadSnapshot>,
}

/// One group: its dispatcher and its lanes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupSnapshot {
    /// The group's name.
    pub group: String,
    /// How the dispatcher is.
    pub state: ActorState,
    /// Restarts of the dispatcher since the program started.
    pub restarts: u64,
    /// Changes of what the log assigned to the group here since the program started: assigned, revoked or lost.
    pub rebalances: u64,
    /// What all its lanes here answered of late.
    #[serde(flatten)]
    pub recent: Recent,
    /// Why it ended last.
    pub last_error: Option<String>,
    /// Its lanes, in order of topic and partition.
    pub lanes: Vec<LaneSnapshot>,
}

/// How an actor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorState {
    /// It takes its epoch and looks for its start.
    Opening,
    /// It works.
    Running,
    /// It waits for the store or the log and tries again.
    Waiting,
    /// An operator holds it.
    Paused,
    /// A gap in the log waits for an operator's decision.
    Gap,
    /// It ended and will be started again.
    Restarting,
    /// It has stopped.
    Stopped,
}

impl ActorState {
    /// Lists every state, for metric labels.
    pub const ALL: [ActorState; 7] = [
        ActorState::Opening,
        ActorState::Running,
        ActorState::Waiting,
        ActorState::Paused,
        ActorState::Gap,
        ActorState::Restarting,
        ActorState::Stopped,
    ];

    /// Gives the stable name.
    pub const fn name(self) -> &'static str {
        match self {
            ActorState::Opening => "opening",
            ActorState::Running => "running",
            ActorState::Waiting => "waiting",
            ActorState::Paused => "paused",
            ActorState::Gap => "gap",
            ActorState::Restarting => "restarting",
            ActorState::Stopped => "stopped",
        }
    }
}

/// One lane.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LaneSnapshot {
    /// The partition.
    #[serde(flatten)]
    pub topic_partition: TopicPartition,
    /// How it is.
    pub state: ActorState,
    /// Its life within this process.
    pub incarnation: u64,
    /// Restarts since the program started.
    pub restarts: u64,
    /// Why it ended or waits, last.
    pub last_error: Option<String>,
    /// The next record it will apply.
    pub next_offset: u64,
    /// The end of its partition, as last heard: so far readers are given records.
    pub log_end_offset: u64,
    /// The offset that the next record of the partition would get: above the end while a transaction is open.
    pub log_high_offset: u64,
    /// Records between the two, and those that are parked.
    pub lag_records: u64,
    /// Age of the oldest record that it has not passed, zero when there is none: parked records, which it has
    /// passed, do not count here.
    pub lag_seconds: f64,
    /// For how long an open transaction has held the end where it is, zero when none does.
    pub transaction_open_seconds: f64,
    /// What it answered of late.
    #[serde(flatten)]
    pub recent: Recent,
    /// Batches that wait in its queue.
    pub queued_batches: u64,
    /// Keys that are parked.
    pub parked_keys: u64,
    /// Records that are parked: the poison at the head of each key, and what waits behind it.
    pub parked_records: u64,
    /// Records applied since the program started.
    pub applied_total: u64,
    /// Duplicates since the program started.
    pub duplicate_total: u64,
    /// Refused since the program started.
    pub refused_total: u64,
    /// Poison that parked its key since the program started.
    pub parked_total: u64,
    /// Records that came to wait behind a parked key since the program started.
    pub waiting_total: u64,
    /// Dead-lettered without a key since the program started.
    pub dead_lettered_total: u64,
    /// When its last transaction was committed.
    pub last_commit_at: Option<Timestamp>,
}
