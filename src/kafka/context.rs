//! What the client library calls back: rebalances, errors and log lines.
//!
//! Promises that a rebalance is carried out here and nowhere else: what is assigned is not fetched until a
//! lane asks, what is revoked is given back when its lanes have stopped or the time is over, and what is lost
//! is let go at once with nothing committed. Everything runs on the reader's thread, inside a poll.
//!
//! *Source*: research, rules E2 and E3. The hook is overridden whole, because the library's own one assigns
//! by itself and drops what the calls answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use horizons_actors::ids::TopicPartition;
use horizons_actors::lane::guard::guard;
use horizons_actors::ports::log::Revocation;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::oneshot;

use super::block::wait_for;
use super::names::TopicNames;
use super::shared::Shared;

/// The client library's view of a group's reader.
pub(super) struct GroupContext {
    shared: Arc<Shared>,
    names: TopicNames,
    /// How long lanes may take to stop.
    rebalance_wait: Duration,
    /// Calls back so far: a poll that gives nothing has emptied the queue only if none came in it.
    calls: AtomicU64,
    is_closing: AtomicBool,
}

impl GroupContext {
    pub(super) fn new(shared: Arc<Shared>, names: TopicNames, rebalance_wait: Duration) -> Self {
        Self { shared, names, rebalance_wait, calls: AtomicU64::new(0), is_closing: AtomicBool::new(false) }
    }

    /// Gives the calls back so far.
    pub(super) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Makes rebalances from now on let everything go without a word.
    pub(super) fn set_closing(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
    }

    fn count_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    fn assigned(&self, consumer: &BaseConsumer<Self>, partitions: &[TopicPartition]) {
        // The group waits for an answer; what is fetched, and from where, lanes decide.
        if let Err(error) = consumer.incremental_assign(&TopicPartitionList::new()) {
            tracing::warn!(group = %self.shared.group, error = %error, "failed to answer an assignment");
        }
        if self.is_closing.load(Ordering::Relaxed) || partitions.is_empty() {
            return;
        }
        tracing::info!(group = %self.shared.group, partitions = partitions.len(), "partitions assigned");
        self.shared.own(partitions);
        self.shared.sink.assigned(partitions.to_vec());
    }

    fn revoked(&self, consumer: &BaseConsumer<Self>, partitions: &[TopicPartition]) {
        let is_lost = consumer.assignment_lost();
        let ours = self.shared.disown(partitions);
        if !self.is_closing.load(Ordering::Relaxed) && !ours.is_empty() {
            // Whatever happens there, the group must be answered.
            if let Err(panic) = guard(|| self.tell_revoked(ours, is_lost)) {
                tracing::error!(group = %self.shared.group, error = %panic, "failed to tell of a revocation");
            }
        }
        if let Err(error) = self.let_go(consumer, partitions) {
            tracing::warn!(group = %self.shared.group, error = %error, "failed to give partitions back");
        }
    }

    fn tell_revoked(&self, partitions: Vec<TopicPartition>, is_lost: bool) {
        let group = &self.shared.group;
        if is_lost {
            tracing::warn!(group = %group, partitions = partitions.len(), "partitions lost");
            return self.shared.sink.lost(partitions);
        }
        let started = Instant::now();
        let deadline = started + self.rebalance_wait;
        let (done, heard) = oneshot::channel();
        self.shared.sink.revoked(Revocation { partitions: partitions.clone(), deadline, done });
        // A dropped sender counts as an answer.
        let is_done = wait_for(heard, deadline).is_some();
        let waited_ms = started.elapsed().as_millis();
        tracing::info!(group = %group, partitions = partitions.len(), waited_ms, is_done, "partitions revoked");
        if !is_done {
            // The fence refuses whatever these lanes still write.
            self.shared.sink.lost(partitions);
        }
    }

    /// Gives how long a revocation waits for lanes.
    pub(super) const fn rebalance_wait(&self) -> Duration {
        self.rebalance_wait
    }

    /// Gives back what is fetched; of the rest the library knows nothing.
    fn let_go(&self, consumer: &BaseConsumer<Self>, partitions: &[TopicPartition]) -> KafkaResult<()> {
        let fetched = self.names.read(&consumer.assignment()?);
        let leaving = fetched.into_iter().filter(|one| partitions.contains(one));
        consumer.incremental_unassign(&self.names.list(leaving.map(|one| (one, KafkaOffset::Invalid))))
    }
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.count_call();
        log_line(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(group = %self.shared.group, error = %error, reason, "the client reports an error");
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        kind: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        self.count_call();
        let partitions = self.names.read(partitions);
        match kind {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assigned(consumer, &partitions),
            _ => self.revoked(consumer, &partitions),
        }
        self.shared.bell.ring();
    }
}

/// Passes a line of the client library's log on. It reports a broker's absence as an error, which for us is
/// a state that passes.
pub(super) fn log_line(level: RDKafkaLogLevel, facility: &str, line: &str) {
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error
        | RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", facility, "{line}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
            tracing::debug!(target: "librdkafka", facility, "{line}");
        }
    }
}
