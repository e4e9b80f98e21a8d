//! Any mix of poison, panics, store faults, restarts and releases: order kept, nothing lost, nothing doubled.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::world::{LIMIT, Options, World, event, event_id, group, lane_of, neighbours, run};
use crate::command::ParkedKeyId;
use crate::lane::environment::LaneSettings;
use crate::lane::fault::FaultPoint;
use crate::ports::query::QueryStore;
use crate::ports::store::{JobStore, ParkedWish};
use crate::supervisor::message::StopAll;
use crate::testkit::{EventBuilder, Fault, StoreCall, wait_until};

/// One thing that happens while events flow.
#[derive(Debug, Clone)]
enum Step {
    Publish { job: usize },
    Poison { job: usize },
    Duplicate { job: usize },
    PanicOnNext { job: usize, times: u32 },
    PanicAt { point: FaultPoint },
    StoreFault { fault: Fault },
    Release { job: usize },
    Restart,
    Pause { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let job = 0..3_usize;
    prop_oneof![
        12 => job.clone().prop_map(|job| Step::Publish { job }),
        1 => job.clone().prop_map(|job| Step::Poison { job }),
        1 => job.clone().prop_map(|job| Step::Duplicate { job }),
        1 => (job.clone(), 1..3_u32).prop_map(|(job, times)| Step::PanicOnNext { job, times }),
        1 => prop::sample::select(vec![
            FaultPoint::BeforeBatch, FaultPoint::BeforeApply, FaultPoint::BeforeCommit,
            FaultPoint::AfterCommit, FaultPoint::BeforeDrain,
        ]).prop_map(|point| Step::PanicAt { point }),
        1 => prop::sample::select(vec![Fault::Unavailable, Fault::UnknownWritten, Fault::UnknownUnwritten])
            .prop_map(|fault| Step::StoreFault { fault }),
        1 => job.prop_map(|job| Step::Release { job }),
        1 => Just(Step::Restart),
        3 => (1..200_u64).prop_map(|ms| Step::Pause { ms }),
    ]
}

async fn wish(world: &World, job: &str, wish: ParkedWish) {
    let key = ParkedKeyId { lane: lane_of(job), key: Bytes::copy_from_slice(job.as_bytes()) };
    let command = super::parking::command(world, key.clone());
    let audit = EventBuilder::audit_action_recorded().record();
    // A key that is not parked any more has nothing to wish for.
    let _is_parked = world.store.set_parked_wish(command, key, wish, audit).await.unwrap();
    world.board.lane(&lane_of(job)).nudge();
}

proptest! {
    #[test]
    fn lane_any_history_keeps_order_and_applies_each_event_once(steps in prop::collection::vec(step(), 1..80)) {
        run(|| async move {
            let settings = LaneSettings { drain_records: 3, ..LaneSettings::default() };
            let mut options = Options { settings, batch_records: 7, ..Options::default() };
            options.restarts.budget = 1_000;
            let world = World::new(options);
            let (jobs, _) = neighbours(3);
            let lane = lane_of(&jobs[0]);
            let mut published = [0_u64; 3];
            let mut tree = world.start();
            for step in steps {
                match step {
                    Step::Publish { job } => {
                        published[job] += 1;
                        world.publish(&event(&jobs[job], published[job]));
                    }
                    Step::Poison { job } => drop(world.publish_poison(&jobs[job])),
                    Step::Duplicate { job } if published[job] > 0 => {
                        world.publish(&event(&jobs[job], published[job]));
                    }
                    Step::Duplicate { .. } => {}
                    Step::PanicOnNext { job, times } => {
                        world.panics.on_event.lock().unwrap().insert(event_id(&jobs[job], published[job] + 1), times);
                    }
                    Step::PanicAt { point } => {
                        world.panics.at_point.lock().unwrap().insert((point, lane.topic_partition.partition), 1);
                    }
                    Step::StoreFault { fault } => world.store.faults().script(StoreCall::Commit, fault),
                    Step::Release { job } => wish(&world, &jobs[job], ParkedWish::Release).await,
                    Step::Restart => {
                        tree.send(StopAll { within: Duration::from_millis(50) }).await.unwrap();
                        tree = world.start();
                    }
                    Step::Pause { ms } => tokio::time::sleep(Duration::from_millis(ms)).await,
                }
            }
            world.settle().await;
            // Every poison event is given up, one after the other, until nothing is parked.
            let started = tokio::time::Instant::now();
            loop {
                let parked = world.store.parked_keys(10).await.unwrap();
                if parked.is_empty() {
                    break;
                }
                assert!(started.elapsed() < LIMIT, "still parked: {parked:?}");
                for job in &jobs {
                    wish(&world, job, ParkedWish::DiscardHead).await;
                }
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            world.settle().await;
            for (job, published) in jobs.iter().zip(published) {
                assert_eq!(world.counted(job), published, "{job}: counted in state");
                assert_eq!(world.applied(job).await, (1..=published).collect::<Vec<_>>(), "{job}");
            }
            assert!(world.escalations.lock().unwrap().is_empty());
            tree.send(StopAll { within: Duration::from_secs(1) }).await.unwrap();
            wait_until("every credit to come back", LIMIT, || world.credit.held_bytes() == 0).await;
            assert!(world.log.members(&group()).is_empty(), "a reader was left over");
        });
    }
}
