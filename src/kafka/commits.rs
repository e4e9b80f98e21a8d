//! What a group's member commits to its group: positions for lag tools, and proofs of ownership. Pure.
//!
//! Promises that at most one commit is under way, so that every answer belongs to what was asked last; that a
//! proof is answered by the group's coordinator or not at all; and that positions are sent at most once in
//! an interval.

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

/// What the coordinator answered to a commit.
#[derive(Debug, Default)]
pub(super) struct CommitAnswer {
    /// Why nothing of it was taken.
    pub(super) whole: Option<RDKafkaErrorCode>,
    /// Per partition, why it was not taken.
    pub(super) each: Vec<(TopicPartition, Option<RDKafkaErrorCode>)>,
}

impl CommitAnswer {
    /// Gives what was answered for a partition: an error or none; nothing if it was not answered.
    fn of(&self, partition: TopicPartition) -> Option<Option<RDKafkaErrorCode>> {
        if self.whole.is_some() {
            return Some(self.whole);
        }
        self.each.iter().find(|(one, _)| *one == partition).map(|(_, code)| *code)
    }
}

/// Commits of one member.
#[derive(Debug, Default)]
pub(super) struct Commits {
    /// Positions that were not sent yet.
    positions: BTreeMap<TopicPartition, Offset>,
    proofs: Vec<Proof>,
    /// What is under way, and the proofs that wait for its answer.
    under_way: Option<(Instant, Vec<Proof>)>,
    sent_at: Option<Instant>,
}

/// A commit whose answer has not come by then is given up; the client gives up earlier.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// What an error of a commit says about ownership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ownership {
    NotOurs,
    Unknown,
}

/// *Source*: Apache Kafka protocol, error codes of OffsetCommit.
fn ownership(code: RDKafkaErrorCode) -> Ownership {
    match code {
        RDKafkaErrorCode::UnknownMemberId
        | RDKafkaErrorCode::IllegalGeneration
        | RDKafkaErrorCode::FencedInstanceId
        | RDKafkaErrorCode::StaleMemberEpoch
        | RDKafkaErrorCode::FencedMemberEpoch
        | RDKafkaErrorCode::Fenced
        | RDKafkaErrorCode::AssignmentLost => Ownership::NotOurs,
        _ => Ownership::Unknown,
    }
}

impl Commits {
    /// Notes a position; the newest counts.
    pub(super) fn note(&mut self, partition: TopicPartition, next: Offset) {
        self.positions.insert(partition, next);
    }

    /// Notes a question.
    pub(super) fn ask(&mut self, proof: Proof) {
        self.proofs.push(proof);
    }

    /// Forgets positions of partitions that are someone else's.
    pub(super) fn forget(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.positions.remove(partition);
        }
    }

    /// Gives what to commit now, if anything; it is then under way.
    pub(super) fn due(&mut self, now: Instant, interval: Duration) -> Option<Vec<(TopicPartition, Offset)>> {
        if self.under_way.as_ref().is_some_and(|(since, _)| now.duration_since(*since) < GIVE_UP_AFTER) {
            return None;
        }
        self.proofs.retain(|proof| !proof.answer.is_closed());
        let is_quiet = self.sent_at.is_some_and(|at| now.duration_since(at) < interval);
        if self.proofs.is_empty() && (is_quiet || self.positions.is_empty()) {
            return None;
        }
        let mut offsets = std::mem::take(&mut self.positions);
        for proof in &self.proofs {
            offsets.entry(proof.partition).or_insert(proof.next);
        }
        self.sent_at = Some(now);
        self.under_way = Some((now, std::mem::take(&mut self.proofs)));
        Some(offsets.into_iter().collect())
    }

    /// Tells whether a commit is under way.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Tells whether positions wait to be sent.
    pub(super) fn has_positions(&self) -> bool {
        !self.positions.is_empty()
    }

    /// Answers the questions that waited for a commit. A partition that is not held is not ours, whatever the
    /// coordinator says of the member.
    pub(super) fn answered(&mut self, answer: &CommitAnswer, is_held: impl Fn(TopicPartition) -> bool) {
        let Some((_, proofs)) = self.under_way.take() else { return };
        for proof in proofs {
            let verdict = match answer.of(proof.partition) {
                _ if !is_held(proof.partition) => Ok(false),
                Some(None) => Ok(true),
                Some(Some(code)) => match ownership(code) {
                    Ownership::NotOurs => Ok(false),
                    Ownership::Unknown => Err(LogError::Unavailable(code.to_string())),
                },
                None => Err(LogError::Unavailable("the commit was not answered".to_owned())),
            };
            // Whoever asked may have given up.
            let _heard = proof.answer.send(verdict);
        }
    }

    /// Notes that a commit could not even be sent.
    pub(super) fn failed(&mut self, reason: &str) {
        for proof in self.under_way.take().into_iter().flat_map(|(_, proofs)| proofs) {
            let _heard = proof.answer.send(Err(LogError::Unavailable(reason.to_owned())));
        }
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

    fn ask(commits: &mut Commits, number: u16) -> oneshot::Receiver<Result<bool, LogError>> {
        let (answer, heard) = oneshot::channel();
        commits.ask(Proof { partition: partition(number), next: Offset(1), answer });
        heard
    }

    #[test]
    fn due_positions_are_gathered_and_sent_once_in_an_interval() {
        let mut commits = Commits::default();
        let start = Instant::now();
        commits.note(partition(0), Offset(1));
        commits.note(partition(0), Offset(5));

        let first = commits.due(start, INTERVAL);
        commits.note(partition(1), Offset(2));
        let while_under_way = commits.due(start + INTERVAL, INTERVAL);
        let answer = CommitAnswer { whole: None, each: vec![(partition(0), None)] };
        commits.answered(&answer, |_| true);
        let too_soon = commits.due(start + INTERVAL / 2, INTERVAL);
        let second = commits.due(start + INTERVAL, INTERVAL);

        assert_eq!(first, Some(vec![(partition(0), Offset(5))]));
        assert_eq!((while_under_way, too_soon), (None, None));
        assert_eq!(second, Some(vec![(partition(1), Offset(2))]));
    }

    #[test]
    fn proofs_are_answered_by_the_coordinator() {
        let rows = [
            (None, true, Ok(true)),
            (None, false, Ok(false)),
            (Some(RDKafkaErrorCode::UnknownMemberId), true, Ok(false)),
            (Some(RDKafkaErrorCode::IllegalGeneration), true, Ok(false)),
            (Some(RDKafkaErrorCode::FencedInstanceId), true, Ok(false)),
            (Some(RDKafkaErrorCode::RebalanceInProgress), true, Err(())),
            (Some(RDKafkaErrorCode::CoordinatorNotAvailable), true, Err(())),
        ];

        for (code, is_held, expected) in rows {
            let mut commits = Commits::default();
            let mut heard = ask(&mut commits, 0);
            let sent = commits.due(Instant::now(), INTERVAL);
            let answer = CommitAnswer { whole: None, each: vec![(partition(0), code)] };
            commits.answered(&answer, |_| is_held);

            assert_eq!(sent, Some(vec![(partition(0), Offset(1))]), "a proof does not wait");
            let verdict = heard.try_recv().unwrap();
            assert_eq!(verdict.map_err(|error| assert!(error.is_transient())), expected, "{code:?}");
        }
    }

    #[test]
    fn proofs_answer_for_the_whole_commit_counts_for_each() {
        let mut commits = Commits::default();
        let mut heard = ask(&mut commits, 0);
        commits.due(Instant::now(), INTERVAL);
        let whole = Some(RDKafkaErrorCode::UnknownMemberId);

        commits.answered(&CommitAnswer { whole, each: Vec::new() }, |_| true);

        assert!(matches!(heard.try_recv(), Ok(Ok(false))));
    }

    #[test]
    fn proof_that_nobody_waits_for_is_not_sent() {
        let mut commits = Commits::default();
        drop(ask(&mut commits, 0));

        assert_eq!(commits.due(Instant::now(), INTERVAL), None);
    }
}
