//! What somebody asks Horizons to do, and the row that carries work to whoever does it.
//!
//! Promises that every state-changing request, from HTTP, the command line or the program itself, is one
//! [`Command`] with a principal and its audit entry. Work that touches the outside world is an [`Order`]: a
//! row in the store, unique by (job, attempt, kind), so that asking twice does nothing twice.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::event::TaccSystem;
use crate::gap::GapAcceptance;
use crate::ids::{
    AgentName, Attempt, CommandId, CorrelationId, DatasetId, EventId, JobId, LaneKey, LogTopic,
    OPAQUE_ID_MAX_CHARS, Offset, Partition, ResourceId, Topic, UserId,
};
use crate::parameters::Parameters;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Principal {
    /// The user.
    pub user_id: UserId,
}

/// Something a principal asks for.
///
/// *Shape*: identified by `command_id`.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Identifies the command.
    pub command_id: CommandId,
    /// Follows the request that brought it.
    pub correlation_id: CorrelationId,
    /// Who asks.
    pub principal: Principal,
    /// Why, in the principal's words.
    pub reason: Option<String>,
    /// Makes a repeated request the same command (submit only).
    pub idempotency_key: Option<String>,
    /// When it was asked.
    pub requested_at: Timestamp,
    /// What is asked.
    pub kind: CommandKind,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum CommandKind {
    /// Run a job.
    SubmitJob(JobRequest),
    /// End a job.
    CancelJob {
        /// The job.
        job_id: JobId,
    },
    /// Let a parked key's events flow again, its poison event first.
    ReleaseKey(ParkedKeyId),
    /// Give the first parked event of a key up, then let the rest flow.
    DiscardHead(ParkedKeyId),
    /// Let a lane go on that is held.
    ResumeLane(LaneKey),
    /// Let a lane go on behind a gap in its log.
    AcceptGap(GapAcceptance),
    /// Let the partitions count that were added to a topic.
    AdoptLayout(LayoutAdoption),
    /// Append a record that somebody else made, as it is.
    AppendRecord {
        /// The topic.
        topic: Topic,
        /// Identifies the appended record in the audit entry.
        record_id: EventId,
    },
    /// Keep a record apart that Kafka refuses for good, so that its partition goes on.
    SetAsideRecord {
        /// The topic.
        topic: LogTopic,
        /// The partition.
        partition: Partition,
        /// Its offset in the outbox.
        offset: Offset,
    },
    /// Send the record again at which a partition stands, because what refused it was changed.
    SendRecordAgain {
        /// The topic.
        topic: LogTopic,
        /// The partition.
        partition: Partition,
    },
}

impl CommandKind {
    /// Gives the name of the action in the audit trail.
    pub const fn action(&self) -> &'static str {
        match self {
            CommandKind::SubmitJob(_) => "job.submit",
            CommandKind::CancelJob { .. } => "job.cancel",
            CommandKind::ReleaseKey(_) => "parked.release",
            CommandKind::DiscardHead(_) => "parked.discard",
            CommandKind::ResumeLane(_) => "lane.resume",
            CommandKind::AcceptGap(_) => "gap.accept",
            CommandKind::AdoptLayout(_) => "layout.adopt",
            CommandKind::AppendRecord { .. } => "record.append",
            CommandKind::SetAsideRecord { .. } => "record.set_aside",
            CommandKind::SendRecordAgain { .. } => "record.send_again",
        }
    }

    /// Gives what the action acts on.
    pub fn resource_id(&self, job_id: Option<&JobId>) -> ResourceId {
        let text = match self {
            CommandKind::SubmitJob(_) => job_id.map_or("job", JobId::as_str).to_owned(),
            CommandKind::CancelJob { job_id } => job_id.as_str().to_owned(),
            CommandKind::ReleaseKey(key) | CommandKind::DiscardHead(key) => key.lane.to_string(),
            CommandKind::ResumeLane(lane) => lane.to_string(),
            CommandKind::AcceptGap(gap) => gap.lane.to_string(),
            CommandKind::AdoptLayout(adoption) => adoption.topic.name().to_owned(),
            CommandKind::AppendRecord { topic, .. } => topic.name().to_owned(),
            CommandKind::SetAsideRecord { topic, partition, offset } => {
                format!("{topic}-{partition}@{offset}")
            }
            CommandKind::SendRecordAgain { topic, partition } => format!("{topic}-{partition}"),
        };
        let text = fitting(&text);
        ResourceId::parse(&text).expect("names of jobs, lanes and topics hold no control characters")
    }
}

/// Cuts a name that is longer than an id may be: that of a lane has the name of its group in it, which may be as
/// long as an id by itself.
fn fitting(text: &str) -> Cow<'_, str> {
    const MARK: &str = "…";
    if text.chars().count() <= OPAQUE_ID_MAX_CHARS {
        return Cow::Borrowed(text);
    }
    let kept: String = text.chars().take(OPAQUE_ID_MAX_CHARS - MARK.chars().count()).collect();
    Cow::Owned(kept + MARK)
}

/// What a user submits.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRequest {
    /// The agent that is to do the work.
    pub agent: AgentName,
    /// The data set to work on.
    pub dataset_id: DatasetId,
    /// Parameters for the agent.
    pub parameters: Parameters,
    /// The system to run on.
    pub tacc_system: TaccSystem,
}

/// Partitions that are to count, as they were seen in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutAdoption {
    /// The topic.
    pub topic: Topic,
    /// The number of epochs that the stored layout had when the log was looked at.
    pub epochs: usize,
    /// The partitions that the log has.
    pub partitions: u16,
    /// Where each of them ended then.
    pub ends: Vec<Offset>,
}

/// Names a key that is parked in a lane.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ParkedKeyId {
    /// The lane.
    pub lane: LaneKey,
    /// The record key, byte for byte.
    pub key: bytes::Bytes,
}

/// Work for whoever talks to the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OrderKind {
    /// Hand an attempt to the scheduler.
    Submit,
    /// End an attempt at the scheduler.
    Cancel,
    /// Remove what an ended attempt left behind.
    Clean,
}

impl OrderKind {
    /// Gives the stable name that is stored.
    pub const fn name(self) -> &'static str {
        match self {
            OrderKind::Submit => "submit",
            OrderKind::Cancel => "cancel",
            OrderKind::Clean => "clean",
        }
    }

    /// Finds the kind with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [OrderKind::Submit, OrderKind::Cancel, OrderKind::Clean].into_iter().find(|kind| kind.name() == name)
    }
}

/// A piece of work on an attempt, stored in the transaction that decided on it.
///
/// *Shape*: identified by (`job_id`, `attempt`, `kind`); writing it again changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The job.
    pub job_id: JobId,
    /// The attempt.
    pub attempt: Attempt,
    /// What to do.
    pub kind: OrderKind,
    /// When it was decided.
    pub ordered_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Group, TopicPartition};

    #[test]
    fn resource_id_of_a_lane_whose_group_has_the_longest_name_fits() {
        for name in ["g".repeat(OPAQUE_ID_MAX_CHARS), "ü".repeat(OPAQUE_ID_MAX_CHARS)] {
            let group = Group::parse(&name).expect("the longest name is one");
            let topic_partition = TopicPartition { topic: Topic::JobLifecycle, partition: Partition(3) };
            let lane = LaneKey { group, topic_partition };
            let key = ParkedKeyId { lane: lane.clone(), key: bytes::Bytes::from_static(b"k") };

            for kind in [CommandKind::DiscardHead(key.clone()), CommandKind::ResumeLane(lane.clone())] {
                let id = kind.resource_id(None);
                assert!(
                    id.as_str().chars().count() == OPAQUE_ID_MAX_CHARS && id.as_str().ends_with('…'),
                    "{id}"
                );
            }
        }
    }
}
