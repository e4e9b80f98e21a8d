//! Outside an assignment a lane starts again only if the log says that its partition is still ours (design D2).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::world::{LIMIT, Options, World, event, group, lane_of, neighbours, run};
use crate::backoff::RestartPolicy;
use crate::ids::{Group, Incarnation, LogId, Offset, Topic, TopicPartition};
use crate::lane::credit::CreditPool;
use crate::lane::fault::FaultPoint;
use crate::lane::status::StatusBoard;
use crate::ports::Reply;
use crate::ports::log::{EventLog, Inspection, LogError, LogReader, LogSink};
use crate::snapshot::ActorState;
use crate::testkit::{Fault, SimulatedLog, StoreCall, wait_until};

/// What a reader was asked about the partition of `job-0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// Whether it is still ours.
    WhetherOurs,
    /// To deliver it.
    ToStart,
}

/// What the readers of a world were asked, and how often they still refuse to start.
pub(super) struct ReaderCalls {
    /// By reader, in order of their subscription.
    asked: Mutex<Vec<Vec<Asked>>>,
    refusals: Mutex<u32>,
    /// The pool of each reader, and how many records the watched lane might have when it started.
    credits: Mutex<Vec<(Arc<CreditPool>, usize)>>,
}

impl ReaderCalls {
    /// Makes readers that refuse so many starts.
    pub(super) fn refusing(refusals: u32) -> Self {
        Self { asked: Mutex::default(), refusals: Mutex::new(refusals), credits: Mutex::default() }
    }

    /// Counts the readers.
    fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    /// Gives how many records the watched lane of the last reader might have when it started, and may have now.
    pub(super) fn credit(&self) -> (usize, usize) {
        let credits = self.credits.lock().unwrap();
        let (pool, at_start) = credits.last().expect("a group has subscribed");
        (*at_start, pool.available(lane_of("job-0").topic_partition).0)
    }

    /// Gives what a reader was asked.
    fn of(&self, reader: usize) -> Vec<Asked> {
        self.asked.lock().unwrap()[reader].clone()
    }
}

/// A log whose readers note what they are asked.
pub(super) struct WatchedLog {
    pub(super) log: SimulatedLog,
    pub(super) calls: Arc<ReaderCalls>,
}

impl EventLog for WatchedLog {
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
        self.calls.credits.lock().unwrap().push((Arc::clone(&credits), 0));
        let inner = self.log.subscribe(group, topics, sink, credits)?;
        let mut asked = self.calls.asked.lock().unwrap();
        asked.push(Vec::new());
        Ok(Arc::new(WatchedReader { inner, number: asked.len() - 1, calls: Arc::clone(&self.calls) }))
    }
}

struct WatchedReader {
    inner: Arc<dyn LogReader>,
    number: usize,
    calls: Arc<ReaderCalls>,
}

impl WatchedReader {
    fn note(&self, partition: TopicPartition, asked: Asked) {
        if partition == lane_of("job-0").topic_partition {
            self.calls.asked.lock().unwrap()[self.number].push(asked);
        }
    }
}

impl LogReader for WatchedReader {
    fn inspect(&self, partition: TopicPartition, next: Option<Offset>) -> Reply<Inspection, LogError> {
        self.inner.inspect(partition, next)
    }

    fn confirm_ownership(&self, partition: TopicPartition, next: Offset) -> Reply<bool, LogError> {
        self.note(partition, Asked::WhetherOurs);
        self.inner.confirm_ownership(partition, next)
    }

    fn start(
        &self,
        partition: TopicPartition,
        incarnation: Incarnation,
        from: Offset,
    ) -> Result<(), LogError> {
        self.note(partition, Asked::ToStart);
        if partition == lane_of("job-0").topic_partition {
            let (pool, at_start) = &mut self.calls.credits.lock().unwrap()[self.number];
            *at_start = pool.available(partition).0;
        }
        let mut refusals = self.calls.refusals.lock().unwrap();
        if partition == lane_of("job-0").topic_partition && *refusals > 0 {
            *refusals -= 1;
            return Err(LogError::NotAssigned(partition));
        }
        self.inner.start(partition, incarnation, from)
    }

    fn stop(&self, partition: TopicPartition, incarnation: Incarnation) {
        self.inner.stop(partition, incarnation);
    }

    fn log_end(&self, partition: TopicPartition) -> Reply<Offset, LogError> {
        self.inner.log_end(partition)
    }

    fn commit_advisory(&self, partition: TopicPartition, next: Offset) {
        self.inner.commit_advisory(partition, next);
    }

    fn close(&self) -> Reply<(), LogError> {
        self.inner.close()
    }
}

/// Lets the next lane of `job-0`'s partition that comes to apply a batch panic outside its behaviour.
fn panic_once(world: &World) {
    let point = (FaultPoint::BeforeApply, lane_of("job-0").topic_partition.partition);
    world.panics.at_point.lock().unwrap().insert(point, 1);
}

#[test]
fn lane_that_fails_starts_again_after_the_log_confirmed_it() {
    run(|| async {
        let world = World::new(Options::default());
        let _tree = world.start();
        panic_once(&world);

        world.publish(&event("job-0", 1));
        wait_until("the event", LIMIT, || world.counted("job-0") == 1).await;

        assert_eq!(world.reader_calls.of(0), [Asked::ToStart, Asked::WhetherOurs, Asked::ToStart]);
        assert_eq!(world.snapshot("job-0").restarts, 1);
    });
}

#[test]
fn lane_that_fails_while_the_log_is_away_asks_until_it_answers() {
    run(|| async {
        let world = World::new(Options::default());
        let _tree = world.start();
        world.settle().await;
        wait_until("the lane", LIMIT, || world.snapshot("job-0").state == ActorState::Running).await;
        panic_once(&world);
        world.log.fail_calls(3);

        world.publish(&event("job-0", 1));
        wait_until("the event", LIMIT, || world.counted("job-0") == 1).await;

        let mut wanted = vec![Asked::ToStart];
        wanted.extend([Asked::WhetherOurs; 4]);
        wanted.push(Asked::ToStart);
        assert_eq!(world.reader_calls.of(0), wanted);
        assert_eq!(world.snapshot("job-0").restarts, 1, "asking again is no failure");
    });
}

#[test]
fn zombie_whose_lane_fails_stays_down_and_takes_no_epoch() {
    run(|| async {
        let world = World::unassigned(Options::default());
        let lane = lane_of("job-0");
        let zombie_board = Arc::new(StatusBoard::default());
        let _zombie = world.start_with_board(Arc::clone(&zombie_board));
        wait_until("the first member", LIMIT, || world.log.members(&group()).len() == 1).await;
        let _owner = world.start();
        wait_until("the second member", LIMIT, || world.log.members(&group()).len() == 2).await;
        let members = world.log.members(&group());
        world.log.assign(members[0], vec![lane.topic_partition]);
        world.store.faults().script(StoreCall::Load, Fault::Hang);
        world.publish(&event("job-0", 1));
        wait_until("the zombie to hang", LIMIT, || world.store.faults().hanging() == 1).await;
        // The partition goes to the other process; nobody told the zombie.
        world.log.assign(members[1], vec![lane.topic_partition]);
        wait_until("the owner to apply it", LIMIT, || world.counted("job-0") == 1).await;
        let epoch = world.store.progress_of(&lane).unwrap().fence.epoch;

        panic_once(&world);
        world.store.faults().release_hung();
        wait_until("the zombie to stay down", LIMIT, || {
            zombie_board.lane(&lane).state() == ActorState::Stopped
        })
        .await;
        tokio::time::sleep(Duration::from_secs(60)).await;

        assert_eq!(world.reader_calls.of(0), [Asked::ToStart, Asked::WhetherOurs]);
        assert_eq!(world.reader_calls.of(1), [Asked::ToStart], "the owner was disturbed");
        assert_eq!(world.store.progress_of(&lane).unwrap().fence.epoch, epoch);
        world.publish(&event("job-0", 2));
        wait_until("the owner to go on", LIMIT, || world.counted("job-0") == 2).await;
    });
}

#[test]
fn lane_whose_partition_is_not_assigned_when_it_starts_costs_no_restart_budget() {
    run(|| async {
        let usual = Options::default();
        let restarts = RestartPolicy { budget: 0, ..usual.restarts };
        let world = World::new(Options { restarts, refused_starts: 3, ..usual });
        let _tree = world.start();

        world.publish(&event("job-0", 1));
        wait_until("the event", LIMIT, || world.counted("job-0") == 1).await;

        let mut wanted = [Asked::ToStart, Asked::WhetherOurs].repeat(3);
        wanted.push(Asked::ToStart);
        assert_eq!(world.reader_calls.of(0), wanted);
        assert_eq!(world.snapshot("job-0").restarts, 0);
        assert!(world.escalations.lock().unwrap().is_empty());
    });
}

#[test]
fn dispatcher_that_starts_anew_shows_only_the_lanes_it_is_given() {
    run(|| async {
        let usual = Options::default();
        let restarts = RestartPolicy { budget: 1, ..usual.restarts };
        let world = World::unassigned(Options { restarts, ..usual });
        let (first, other) = (lane_of("job-0"), lane_of(&neighbours(1).1));
        let _tree = world.start();
        wait_until("the member", LIMIT, || world.log.members(&group()).len() == 1).await;
        world.log.assign(world.log.members(&group())[0], vec![first.topic_partition]);
        let point = (FaultPoint::BeforeApply, first.topic_partition.partition);
        world.panics.at_point.lock().unwrap().insert(point, 2);
        world.publish(&event("job-0", 1));
        let is_anew = || world.reader_calls.count() == 2;
        wait_until("the dispatcher to start anew", LIMIT, is_anew).await;
        assert!(world.board.find_lane(&first).is_some(), "it may come back to this process");

        let member = *world.log.members(&group()).last().unwrap();
        world.log.assign(member, vec![other.topic_partition]);
        wait_until("the lane that it is given", LIMIT, || world.board.find_lane(&other).is_some()).await;

        assert!(world.board.find_lane(&first).is_none(), "a lane of someone else is shown");
        assert!(world.escalations.lock().unwrap().is_empty());
    });
}
