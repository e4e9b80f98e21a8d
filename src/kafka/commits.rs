//! What a group's member commits to its group: positions for lag tools, and proofs of ownership. Pure.
//!
//! Promises that positions are sent at most once in an interval, and what a commit's answer proves. Positions
//! are sent without waiting for an answer: the client library reports none in the mode that it is used in.
//! A proof needs the answer, so it waits for it, on a thread of its own ([`super::prove`]).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use horizons_actors::ids::{Offset, TopicPartition};
use horizons_actors::ports::log::LogError;
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::oneshot;

/// A question whether a partition is still ours.
#[derive(Debug)]
pub(super) struct Proof {
    pub(super) partition: TopicPartition,
    pub(super) next: Offset,
    pub(super) answer: oneshot::Sender<Result<bool, LogError>>,
}

/// Tells what a commit's answer says about a partition that we believe to be ours.
///
/// *Source*: Apache Kafka protocol, error codes of OffsetCommit.
pub(super) fn verdict(code: Option<RDKafkaErrorCode>) -> Result<bool, LogError> {
    match code {
        None => Ok(true),
        Some(
            RDKafkaErrorCode::UnknownMemberId
            | RDKafkaErrorCode::IllegalGeneration
            | RDKafkaErrorCode::FencedInstanceId
            | RDKafkaErrorCode::StaleMemberEpoch
            | RDKafkaErrorCode::FencedMemberEpoch
            | RDKafkaErrorCode::Fenced
            | RDKafkaErrorCode::AssignmentLost,
        ) => Ok(false),
        Some(other) => Err(LogError::Unavailable(format!("failed to commit: {other}"))),
    }
}

/// Positions on their way to the group.
#[derive(Debug, Default)]
pub(super) struct Positions {
    unsent: BTreeMap<TopicPartition, Offset>,
    sent_at: Option<Instant>,
}

impl Positions {
    /// Notes a position; the newest counts.
    pub(super) fn note(&mut self, partition: TopicPartition, next: Offset) {
        self.unsent.insert(partition, next);
    }

    /// Forgets partitions that are someone else's.
    pub(super) fn forget(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.unsent.remove(partition);
        }
    }

    /// Gives what to send now, if the interval is over.
    pub(super) fn due(&mut self, now: Instant, interval: Duration) -> Option<Vec<(TopicPartition, Offset)>> {
        let is_quiet = self.sent_at.is_some_and(|at| now.duration_since(at) < interval);
        if is_quiet || self.unsent.is_empty() {
            return None;
        }
        self.sent_at = Some(now);
        Some(std::mem::take(&mut self.unsent).into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use horizons_actors::ids::{Partition, Topic};

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(1);

    fn partition(number: u16) -> TopicPartition {
        TopicPartition { topic: Topic::JobLifecycle, partition: Partition(number) }
    }

    #[test]
    fn due_positions_are_gathered_and_sent_once_in_an_interval() {
        let mut positions = Positions::default();
        let start = Instant::now();
        positions.note(partition(0), Offset(1));
        positions.note(partition(0), Offset(5));

        let first = positions.due(start, INTERVAL);
        positions.note(partition(1), Offset(2));
        positions.note(partition(2), Offset(3));
        positions.forget(&[partition(2)]);
        let too_soon = positions.due(start + INTERVAL / 2, INTERVAL);
        let second = positions.due(start + INTERVAL, INTERVAL);
        let nothing_left = positions.due(start + INTERVAL * 2, INTERVAL);

        assert_eq!(first, Some(vec![(partition(0), Offset(5))]));
        assert_eq!(second, Some(vec![(partition(1), Offset(2))]));
        assert_eq!((too_soon, nothing_left), (None, None));
    }

    #[test]
    fn verdict_only_the_coordinator_can_say_no() {
        let rows = [
            (None, Ok(true)),
            (Some(RDKafkaErrorCode::UnknownMemberId), Ok(false)),
            (Some(RDKafkaErrorCode::IllegalGeneration), Ok(false)),
            (Some(RDKafkaErrorCode::FencedInstanceId), Ok(false)),
            (Some(RDKafkaErrorCode::AssignmentLost), Ok(false)),
            (Some(RDKafkaErrorCode::RebalanceInProgress), Err(())),
            (Some(RDKafkaErrorCode::CoordinatorNotAvailable), Err(())),
            (Some(RDKafkaErrorCode::OperationTimedOut), Err(())),
        ];

        for (code, expected) in rows {
            let got = verdict(code).map_err(|error| assert!(error.is_transient()));
            assert_eq!(got, expected, "{code:?}");
        }
    }
}
