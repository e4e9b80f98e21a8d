//! More batches at once than a lane's mailbox takes.

use std::sync::{Arc, Mutex};

use super::world::{LIMIT, Options, World, event, lane_of, run};
use crate::ids::{Group, Incarnation, LogId, Topic, TopicPartition};
use crate::lane::LANE_MAILBOX;
use crate::lane::credit::CreditPool;
use crate::ports::log::{EventLog, LogEnds, LogError, LogReader, LogSink, Revocation};
use crate::record::RecordBatch;
use crate::testkit::{SimulatedLog, wait_until};

/// Batches of one record, more than a lane's mailbox takes.
const FLOOD: usize = LANE_MAILBOX + 100;

/// How a reader gathers its first batches.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gathered {
    /// So many are passed on at once.
    pub(super) batches: usize,
    /// What follows them at once.
    pub(super) then: Then,
}

/// What follows gathered batches at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// Nothing.
    Nothing,
    /// Their partition is lost.
    Lose,
    /// Their partition is lost and comes back before its lane can have stopped.
    LoseAndAssign,
}

/// A log whose readers gather batches.
pub(super) struct GatheringLog {
    pub(super) log: SimulatedLog,
    pub(super) gathered: Gathered,
}

impl EventLog for GatheringLog {
    fn id(&self) -> LogId {
        self.log.id()
    }

    fn subscribe(
        &self,
        group: Group,
        topics: Vec<Topic>,
        sink: Arc<dyn LogSink>,
        credits: Arc<CreditPool>,
    ) -> Result<Arc<dyn LogReader>, LogError> {
        let sink = GatheringSink { sink, gathered: self.gathered, batches: Mutex::new(Some(Vec::new())) };
        self.log.subscribe(group, topics, Arc::new(sink), credits)
    }
}

struct GatheringSink {
    sink: Arc<dyn LogSink>,
    gathered: Gathered,
    /// What is gathered; none once it was passed on: from then on batches go straight through.
    batches: Mutex<Option<Vec<RecordBatch>>>,
}

impl LogSink for GatheringSink {
    fn assigned(&self, partitions: Vec<TopicPartition>) {
        self.sink.assigned(partitions);
    }

    fn revoked(&self, revocation: Revocation) {
        self.sink.revoked(revocation);
    }

    fn lost(&self, partitions: Vec<TopicPartition>) {
        self.sink.lost(partitions);
    }

    fn read(&self, batch: RecordBatch) -> Result<(), RecordBatch> {
        let partition = batch.topic_partition;
        let mut gathering = self.batches.lock().unwrap();
        let Some(batches) = gathering.as_mut() else { return self.sink.read(batch) };
        batches.push(batch);
        if batches.len() < self.gathered.batches {
            return Ok(());
        }
        for batch in gathering.take().into_iter().flatten() {
            self.sink.read(batch).expect("the dispatcher's mailbox has room");
        }
        if self.gathered.then != Then::Nothing {
            self.sink.lost(vec![partition]);
        }
        if self.gathered.then == Then::LoseAndAssign {
            self.sink.assigned(vec![partition]);
        }
        Ok(())
    }

    fn broken(&self, partition: TopicPartition, incarnation: Incarnation) {
        self.sink.broken(partition, incarnation);
    }

    fn ends(&self, ends: Vec<(TopicPartition, LogEnds)>) {
        self.sink.ends(ends);
    }
}

fn flooded(then: Then) -> World {
    let gathered = Some(Gathered { batches: FLOOD, then });
    let world = World::new(Options { batch_records: 1, gathered, ..Options::default() });
    for sequence in 1..=FLOOD as u64 {
        world.publish(&event("job-0", sequence));
    }
    world
}

#[test]
fn dispatcher_full_lane_mailbox_keeps_batches_in_order() {
    run(|| async {
        let world = flooded(Then::Nothing);

        let _tree = world.start();
        world.settle().await;

        assert_eq!(world.applied("job-0").await, (1..=FLOOD as u64).collect::<Vec<_>>());
        assert_eq!(world.snapshot("job-0").restarts, 0);
    });
}

#[test]
fn dispatcher_full_lane_mailbox_still_stops_a_lost_lane() {
    run(|| async {
        let world = flooded(Then::Lose);

        let _tree = world.start();

        let lane = lane_of("job-0");
        wait_until("the lane to open", LIMIT, || world.store.progress_of(&lane).is_some()).await;
        wait_until("the lane to be gone", LIMIT, || world.board.find_lane(&lane).is_none()).await;
        wait_until("every credit to come back", LIMIT, || world.credit.held_bytes() == 0).await;
    });
}

#[test]
fn dispatcher_lost_partition_that_comes_back_at_once_spends_no_restart() {
    run(|| async {
        let world = flooded(Then::LoseAndAssign);

        let _tree = world.start();
        world.settle().await;

        assert_eq!(world.applied("job-0").await, (1..=FLOOD as u64).collect::<Vec<_>>());
        let snapshot = world.snapshot("job-0");
        assert!(snapshot.incarnation > u64::from(Topic::JobLifecycle.partitions()), "the lane never stopped");
        assert_eq!(snapshot.restarts, 0);
    });
}
