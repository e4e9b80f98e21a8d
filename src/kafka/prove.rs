//! Asking the group's coordinator whether partitions are still ours, by a commit that waits for its answer.
//!
//! Promises that many questions cost one commit, and that a zombie is told no: one that was given up by its
//! group, or whose partitions were taken while it slept. The thread lives as long as there are questions.

use std::sync::{Arc, Weak};

use horizons_actors::ports::log::LogError;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset as KafkaOffset;

use super::commits::{Proof, verdict};
use super::context::GroupContext;
use super::names::TopicNames;
use super::shared::Shared;
use crate::periodic;

/// What is needed to ask.
#[derive(Clone)]
pub(super) struct Prover {
    pub(super) shared: Arc<Shared>,
    /// Weak, so that a question under way does not keep a closed member in its group for long.
    pub(super) consumer: Weak<BaseConsumer<GroupContext>>,
    pub(super) names: TopicNames,
}

impl Prover {
    /// Asks, on a thread that is started if none is asking.
    pub(super) fn ask(&self, proof: Proof) -> Result<(), LogError> {
        if !self.shared.add_proof(proof)? {
            return Ok(());
        }
        let prover = self.clone();
        // Whoever asks waits only so long.
        let name = format!("prover-{}", self.shared.group);
        let started = periodic::once(name, "the coordinator's answer", move || prover.run());
        started.map_err(|error| {
            // Nobody would answer: whoever asked hears that, and the next question tries again.
            drop(self.shared.take_proofs_or_rest());
            LogError::Unavailable(format!("failed to start a thread: {error}"))
        })
    }

    fn run(&self) {
        while let Some(proofs) = self.shared.take_proofs_or_rest() {
            self.answer(proofs);
        }
    }

    fn answer(&self, proofs: Vec<Proof>) {
        let Some(consumer) = self.consumer.upgrade() else {
            return proofs.into_iter().for_each(|proof| drop(proof.answer.send(Err(LogError::Closed))));
        };
        let is_held = |proof: &Proof| self.shared.owns(proof.partition) && !consumer.assignment_lost();
        let (held, gone): (Vec<Proof>, Vec<Proof>) = proofs.into_iter().partition(is_held);
        // Whoever asked may have given up; so below.
        gone.into_iter().for_each(|proof| drop(proof.answer.send(Ok(false))));
        if held.is_empty() {
            return;
        }
        let raw = |proof: &Proof| KafkaOffset::Offset(i64::try_from(proof.next.0).unwrap_or(i64::MAX));
        let offsets = self.names.list(held.iter().map(|proof| (proof.partition, raw(proof))));
        let code = match consumer.commit(&offsets, CommitMode::Sync) {
            Ok(()) => None,
            Err(KafkaError::ConsumerCommit(code)) => Some(code),
            Err(other) => other.rdkafka_error_code(),
        };
        for proof in held {
            // The coordinator answered for the member; what was taken meanwhile is not its own any more.
            let answer = if is_held(&proof) { verdict(code) } else { Ok(false) };
            drop(proof.answer.send(answer));
        }
    }
}
