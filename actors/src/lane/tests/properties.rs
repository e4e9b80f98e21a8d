//! Any mix of poison, panics, store and log faults, restarts, rebalances and operators' wishes, with two
//! processes over one store: order kept, nothing lost, nothing doubled.

use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use bytes::Bytes;
use proptest::prelude::*;

use super::world::{LIMIT, Options, World, event, event_id, group, lane_of, neighbours, run};
use crate::command::ParkedKeyId;
use crate::ids::{LaneKey, Offset};
use crate::lane::credit::CreditLimits;
use crate::lane::environment::LaneSettings;
use crate::lane::fault::FaultPoint;
use crate::lane::status::StatusBoard;
use crate::ports::query::QueryStore;
use crate::ports::store::{DesiredState, JobStore, ParkedWish, WishAnswer};
use crate::supervisor::Supervisor;
use crate::supervisor::message::StopAll;
use crate::testkit::{EventBuilder, Fault, MemberId, StoreCall, wait_until};

/// Jobs that all go through the one lane under test.
const JOBS: usize = 3;

/// Records that the duplicate window spans: every history is longer.
const WINDOW: u64 = 12;

/// Credits so small that a single batch takes all of them.
const TINY: CreditLimits = CreditLimits { lane_records: 2, lane_bytes: 700, total_bytes: 1_000 };

/// How a partition goes from one process to another, or to the same one again.
#[derive(Debug, Clone, Copy)]
enum Move {
    /// In good order, with so many milliseconds for the lane to stop.
    Revoke { within_ms: u64 },
    /// Without asking.
    Lose,
    /// Without telling the former owner, which goes on as a zombie.
    Silently,
}

/// One thing that happens while events flow.
#[derive(Debug, Clone)]
enum Step {
    Publish { job: usize },
    PublishWithTimer { job: usize },
    Poison { job: usize },
    Duplicate { back: u64 },
    RefuseNext,
    PanicOnNext { job: usize, times: u32, is_in_keys: bool },
    PanicInTick { times: u32 },
    PanicAt { point: FaultPoint },
    StoreFault { call: StoreCall, fault: Fault },
    FailReads { reads: usize },
    Release { job: usize },
    Desire { desired: DesiredState },
    Hold,
    Deliver,
    Restart { process: usize },
    Rebalance { how: Move, to: usize },
    Pass { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let job = 0..JOBS;
    let process = 0..2_usize;
    let delay = (1..400_u64).prop_map(|ms| Fault::Delay(Duration::from_millis(ms)));
    let lost = prop::sample::select(vec![Fault::UnknownWritten, Fault::UnknownUnwritten]);
    let calls = prop::sample::select(vec![
        StoreCall::OpenLane,
        StoreCall::ReadProgress,
        StoreCall::ReadOrders,
        StoreCall::Load,
        StoreCall::LoadDueTimers,
        StoreCall::LoadParked,
        StoreCall::Commit,
    ]);
    let how = prop_oneof![
        (1..500_u64).prop_map(|within_ms| Move::Revoke { within_ms }),
        Just(Move::Lose),
        Just(Move::Silently),
    ];
    prop_oneof![
        14 => job.clone().prop_map(|job| Step::Publish { job }),
        1 => job.clone().prop_map(|job| Step::PublishWithTimer { job }),
        1 => job.clone().prop_map(|job| Step::Poison { job }),
        3 => (1..=WINDOW).prop_map(|back| Step::Duplicate { back }),
        1 => Just(Step::RefuseNext),
        1 => (job.clone(), 1..5_u32, any::<bool>())
            .prop_map(|(job, times, is_in_keys)| Step::PanicOnNext { job, times, is_in_keys }),
        1 => (1..4_u32).prop_map(|times| Step::PanicInTick { times }),
        1 => prop::sample::select(vec![
            FaultPoint::Started, FaultPoint::BeforeBatch, FaultPoint::BeforeApply, FaultPoint::BeforeCommit,
            FaultPoint::AfterCommit, FaultPoint::BeforeTick, FaultPoint::BeforeDrain,
        ]).prop_map(|point| Step::PanicAt { point }),
        1 => (calls.clone(), delay).prop_map(|(call, fault)| Step::StoreFault { call, fault }),
        1 => calls.prop_map(|call| Step::StoreFault { call, fault: Fault::Unavailable }),
        1 => lost.prop_map(|fault| Step::StoreFault { call: StoreCall::Commit, fault }),
        1 => (1..4_usize).prop_map(|reads| Step::FailReads { reads }),
        2 => job.prop_map(|job| Step::Release { job }),
        1 => prop::sample::select(vec![DesiredState::Paused, DesiredState::Running])
            .prop_map(|desired| Step::Desire { desired }),
        1 => Just(Step::Hold),
        2 => Just(Step::Deliver),
        1 => process.clone().prop_map(|process| Step::Restart { process }),
        2 => (how, process).prop_map(|(how, to)| Step::Rebalance { how, to }),
        4 => (1..300_u64).prop_map(|ms| Step::Pass { ms }),
    ]
}

/// One of the processes: its supervisor, its board, and its place in the group.
struct Process {
    tree: Addr<Supervisor>,
    board: Arc<StatusBoard>,
    member: MemberId,
}

/// Two processes over one store and one log, and what was asked of them.
struct History {
    world: World,
    processes: Vec<Process>,
    jobs: Vec<String>,
    lane: LaneKey,
    published: [u64; JOBS],
    /// What stands in the log: job and sequence, by offset.
    written: Vec<(Offset, usize, u64)>,
    has_timer: [bool; JOBS],
}

impl History {
    async fn new(credits: CreditLimits) -> Self {
        let settings = LaneSettings {
            drain_records: 3,
            duplicate_window_records: WINDOW as usize,
            ..LaneSettings::default()
        };
        let timer_delay = Duration::from_millis(300);
        let mut options = Options { settings, batch_records: 7, credits, timer_delay, ..Options::default() };
        options.restarts.budget = 1_000;
        let world = World::new(options);
        let (jobs, _) = neighbours(JOBS);
        let lane = lane_of(&jobs[0]);
        let (published, has_timer) = ([0; JOBS], [false; JOBS]);
        let mut history =
            Self { world, processes: Vec::new(), jobs, lane, published, written: Vec::new(), has_timer };
        for _ in 0..2 {
            let process = history.join(Arc::default()).await;
            history.processes.push(process);
        }
        history
    }

    async fn join(&self, board: Arc<StatusBoard>) -> Process {
        let members = || self.world.log.members(&group());
        let before = members().len();
        let tree = self.world.start_with_board(Arc::clone(&board));
        wait_until("the process to join", LIMIT, || members().len() > before).await;
        let member = *members().last().expect("one has joined");
        Process { tree, board, member }
    }

    /// Publishes a job's next event.
    fn publish(&mut self, job: usize, user: Option<&str>) {
        self.published[job] += 1;
        let sequence = self.published[job];
        let next = event(&self.jobs[job], sequence);
        let (_, offset) = self.world.publish(&user.map_or(next.clone(), |user| next.user(user)));
        self.written.push((offset, job, sequence));
    }

    /// Publishes again, as a producer's retry does, what lies so many records back: an event or an earlier retry;
    /// nothing where poison is.
    fn publish_again(&mut self, back: u64) {
        let end = self.world.end(self.lane.topic_partition);
        let again = self.written.iter().find(|(offset, ..)| offset.0 + back == end.0);
        if let Some((_, job, sequence)) = again.copied() {
            let (_, offset) = self.world.publish(&event(&self.jobs[job], sequence));
            self.written.push((offset, job, sequence));
        }
    }

    /// Stores a wish about a job's key, unless the last one is still to be carried out. Nobody tells the lane.
    async fn wish(&self, job: &str, wish: ParkedWish) {
        let key = ParkedKeyId { lane: self.lane.clone(), key: Bytes::copy_from_slice(job.as_bytes()) };
        let parked = self.world.store.parked_keys(JOBS).await.unwrap();
        if parked.iter().any(|parked| parked.key == key.key && parked.wish == ParkedWish::Wait) {
            let command = super::parking::command(&self.world, key.clone());
            let audit = EventBuilder::audit_action_recorded().record();
            let answer = self.world.store.set_parked_wish(command, key, wish, u32::MAX, audit).await.unwrap();
            assert_eq!(answer, WishAnswer::Stored);
        }
    }

    fn desire(&self, desired: DesiredState) {
        self.world.store.set_desired(&self.lane, desired);
    }

    async fn take(&mut self, step: Step) {
        let partition = self.lane.topic_partition;
        match step {
            Step::Publish { job } => self.publish(job, None),
            Step::PublishWithTimer { job } => {
                self.has_timer[job] = true;
                self.publish(job, Some("timer"));
            }
            Step::Poison { job } => drop(self.world.publish_poison(&self.jobs[job])),
            Step::Duplicate { back } => self.publish_again(back),
            Step::RefuseNext => {
                self.world.store.faults().refuse_record_of(&self.lane, self.world.end(partition));
            }
            Step::PanicOnNext { job, times, is_in_keys } => {
                let panics = &self.world.panics;
                let whose = if is_in_keys { &panics.in_keys } else { &panics.on_event };
                whose.lock().unwrap().insert(event_id(&self.jobs[job], self.published[job] + 1), times);
            }
            Step::PanicInTick { times } => *self.world.panics.in_tick.lock().unwrap() = times,
            Step::PanicAt { point } => {
                self.world.panics.at_point.lock().unwrap().insert((point, partition.partition), 1);
            }
            Step::StoreFault { call, fault } => self.world.store.faults().script(call, fault),
            Step::FailReads { reads } => self.world.log.fail_reads(partition, reads),
            Step::Release { job } => self.wish(&self.jobs[job], ParkedWish::Release).await,
            Step::Desire { desired } => self.desire(desired),
            Step::Hold => self.world.log.hold(&self.lane),
            Step::Deliver => self.world.log.release(&self.lane),
            Step::Restart { process } => self.restart(process).await,
            Step::Rebalance { how, to } => self.rebalance(how, to).await,
            Step::Pass { ms } => tokio::time::sleep(Duration::from_millis(ms)).await,
        }
    }

    async fn restart(&mut self, process: usize) {
        let Process { tree, board, .. } = &self.processes[process];
        tree.send(StopAll { within: Duration::from_millis(50) }).await.unwrap();
        self.processes[process] = self.join(Arc::clone(board)).await;
        let partition = self.lane.topic_partition;
        if self.world.log.owner(&group(), partition).is_none() {
            self.world.log.assign(self.processes[process].member, vec![partition]);
        }
    }

    async fn rebalance(&self, how: Move, to: usize) {
        let log = &self.world.log;
        let partitions = vec![self.lane.topic_partition];
        let from = log.owner(&group(), self.lane.topic_partition).expect("somebody always owns it");
        match how {
            Move::Revoke { within_ms } => {
                log.revoke(from, partitions.clone(), Duration::from_millis(within_ms)).await;
            }
            Move::Lose => log.lose(from, partitions.clone()),
            Move::Silently => {}
        }
        log.assign(self.processes[to].member, partitions);
    }

    /// Ends what stands in the way, and lets the operator release every real event and discard poison.
    async fn finish(&self) {
        self.world.store.faults().accept_records();
        self.world.log.release(&self.lane);
        self.desire(DesiredState::Running);
        self.world.settle().await;
        let started = tokio::time::Instant::now();
        loop {
            let parked = self.world.store.parked_keys(JOBS).await.unwrap();
            if parked.is_empty() {
                break;
            }
            assert!(started.elapsed() < LIMIT, "still parked: {parked:?}");
            for job in &self.jobs {
                let queue = self.world.store.parked_of(&self.lane, &Bytes::copy_from_slice(job.as_bytes()));
                let is_event = queue.first().is_some_and(|head| !is_malformed(head.record.payload.as_ref()));
                self.wish(job, if is_event { ParkedWish::Release } else { ParkedWish::DiscardHead }).await;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        self.world.settle().await;
        // A broken timer is postponed by a minute: looked at rarely, because each look costs real time.
        while !self.world.store.timers_of(&self.lane).is_empty() {
            assert!(started.elapsed() < LIMIT, "a timer was never answered");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn check(&self) {
        let World { store, escalations, .. } = &self.world;
        for (job, published) in self.jobs.iter().zip(self.published) {
            assert_eq!(self.world.counted(job), published, "{job}: counted in state");
            assert_eq!(self.world.applied(job).await, (1..=published).collect::<Vec<_>>(), "{job}");
        }
        for (job, has_timer) in self.jobs.iter().zip(self.has_timer) {
            let is_answered = store.orders().iter().any(|(order, _)| order.job_id.as_str() == job);
            assert_eq!(is_answered, has_timer, "{job}: timer");
        }
        assert!(escalations.lock().unwrap().is_empty(), "{escalations:?}");
    }

    async fn stop(&self) {
        for process in &self.processes {
            process.tree.send(StopAll { within: Duration::from_secs(1) }).await.unwrap();
        }
        wait_until("every credit to come back", LIMIT, || self.world.credit.held_bytes() == 0).await;
        assert!(self.world.log.members(&group()).is_empty(), "a reader was left over");
    }
}

/// Tells whether a payload is one that [`World::publish_poison`] publishes.
fn is_malformed(payload: Option<&Bytes>) -> bool {
    payload.is_some_and(|payload| payload.starts_with(b"\xff"))
}

/// Histories that are tried: `HORIZONS_TEST_CORE_HISTORIES`, else so many.
const HISTORIES: u32 = 64;

/// Reads how many histories are tried.
fn histories() -> u32 {
    match std::env::var("HORIZONS_TEST_CORE_HISTORIES") {
        Ok(text) => text.parse().expect("`HORIZONS_TEST_CORE_HISTORIES` is a number"),
        Err(_) => HISTORIES,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: histories(), ..ProptestConfig::default() })]

    #[test]
    fn lane_any_history_keeps_order_and_applies_each_event_once(
        steps in prop::collection::vec(step(), 1..60),
        is_tiny in any::<bool>(),
    ) {
        run(|| async move {
            let credits = if is_tiny { TINY } else { Options::default().credits };
            let mut history = History::new(credits).await;
            for step in steps {
                history.take(step).await;
            }
            history.finish().await;
            history.check().await;
            history.stop().await;
        });
    }
}
