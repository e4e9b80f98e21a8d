//! Rebalances: partitions move between members, and only the rightful owner goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use horizons::kafka::config::KafkaConfig;
use horizons_actors::ids::Offset;
use horizons_actors::ports::log::LogError;

use super::world::{Manner, Member, Store, World, ask, lifecycle};
use crate::services::kafka::{Kafka, KafkaOptions};
use crate::services::proxy::Faults;
use crate::services::wait::{wait_for, wait_some};

/// Times that a member joins and leaves.
const STORM_ROUNDS: usize = 6;

/// Records of the storm, per partition.
const STORM_RECORDS: usize = 3_000;

#[test]
fn members_joining_and_leaving_lose_and_double_nothing() {
    let world = World::shared();
    let log = world.log();
    let store = Arc::new(Store::default());
    let member = Member::join(&log, &store, Manner::Prompt);
    member.wait_assigned(10);
    let is_over = AtomicBool::new(false);

    std::thread::scope(|scope| {
        scope.spawn(|| {
            let chunk = 500;
            for _ in 0..STORM_RECORDS / chunk {
                (0..10).for_each(|number| world.produce(lifecycle(number), "r", chunk));
            }
            is_over.store(true, Ordering::SeqCst);
        });
        for round in 0..STORM_ROUNDS {
            let other = Member::join(&log, &store, Manner::Prompt);
            other.wait_assigned(5);
            let before = other.told().batches;
            if round % 2 == 0 && !is_over.load(Ordering::SeqCst) {
                wait_for("the other to read", || {
                    other.told().batches > before || is_over.load(Ordering::SeqCst)
                });
            }
            let assigned = member.told().assigned.len();
            other.close().unwrap();
            wait_for("the partitions to come back", || member.told().assigned.len() >= assigned + 5);
        }
    });
    member.wait_applied(10 * STORM_RECORDS);

    for number in 0..10 {
        let stored = store.of(lifecycle(number));
        assert_eq!(stored.offsets, (0..STORM_RECORDS as u64).collect::<Vec<u64>>(), "partition {number}");
    }
    assert_eq!(store.seams.load(Ordering::SeqCst), 0);
    assert_eq!(member.told().lost, vec![]);
    println!("storm: {} batches refused by the fence", store.fenced.load(Ordering::SeqCst));
}

#[test]
fn revocation_that_nobody_answers_ends_at_its_deadline() {
    let mut world = World::shared();
    world.config = KafkaConfig { rebalance_limit: Duration::from_millis(1_500), ..world.config };
    let log = world.log();
    let store = Arc::new(Store::default());
    let deaf = Member::join(&log, &store, Manner::Deaf);
    deaf.wait_assigned(10);

    let started = Instant::now();
    let heir = Member::join(&log, &store, Manner::Prompt);
    heir.wait_assigned(5);
    let took = started.elapsed();

    assert_eq!(deaf.told().revoked.len(), 5);
    assert_eq!(deaf.told().lost.len(), 5, "what was not stopped in time is lost");
    assert!(took >= Duration::from_millis(1_400), "{took:?}");
    let assigned = deaf.told().assigned.clone();
    let kept = assigned.into_iter().find(|one| !deaf.told_revoked(*one)).unwrap();
    assert!(ask(deaf.reader.confirm_ownership(kept, Offset(0))).unwrap());
}

#[test]
fn zombie_is_told_no_when_its_session_has_ended() {
    let kafka = Kafka::with(KafkaOptions { proxied: true, ..KafkaOptions::default() });
    let world = World::on(&kafka);
    let store = Arc::new(Store::default());
    let zombie = Member::join(&world.log(), &store, Manner::Prompt);
    zombie.wait_assigned(10);
    let before = ask(zombie.reader.confirm_ownership(lifecycle(0), Offset(0)));

    // The cable of this member alone is pulled: the other one goes past the proxy.
    kafka.proxy(1).set(Faults { hold: true, ..Faults::default() });
    let heir = Member::join(&world.direct_log(), &store, Manner::Prompt);
    heir.wait_assigned(10);
    world.produce(lifecycle(0), "r", 10);
    heir.wait_applied(10);
    let while_away = ask(zombie.reader.confirm_ownership(lifecycle(0), Offset(0)));
    kafka.proxy(1).heal();
    let awake = wait_some("an answer", || ask(zombie.reader.confirm_ownership(lifecycle(0), Offset(0))).ok());
    wait_for("the loss", || zombie.told().lost.len() == 10);

    assert!(before.unwrap());
    // No answer, or a no once it gave itself up; never a yes.
    assert!(!matches!(while_away, Ok(true)), "{while_away:?}");
    assert!(!awake, "the heir owns it");
    assert_eq!(zombie.told().revoked, vec![], "nothing was given back in good order");
    assert_eq!(store.of(lifecycle(0)).offsets, (0..10).collect::<Vec<u64>>());
}

#[test]
fn static_member_is_shut_out_by_another_with_its_id() {
    let mut world = World::shared();
    world.config = KafkaConfig { group_instance_id: Some("node-1".to_owned()), ..world.config };
    let store = Arc::new(Store::default());
    let first = Member::join(&world.log(), &store, Manner::Prompt);
    first.wait_assigned(10);

    let second = Member::join(&world.log(), &store, Manner::Prompt);
    wait_for("the first to be shut out", || {
        first.told().health.iter().any(|health| matches!(health, Err(LogError::ShutOut(_))))
    });
    second.wait_assigned(10);
    world.produce(lifecycle(0), "r", 10);
    second.wait_applied(10);

    assert_eq!(first.told().lost.len(), 10);
    let proof = ask(first.reader.confirm_ownership(lifecycle(0), Offset(0)));
    assert!(matches!(proof, Err(LogError::ShutOut(_))), "{proof:?}");
    assert!(ask(second.reader.confirm_ownership(lifecycle(0), Offset(10))).unwrap());
    first.close().unwrap();
}

#[test]
fn close_leaves_the_group_at_once_and_in_time() {
    let world = World::shared();
    let log = world.log();
    let store = Arc::new(Store::default());
    let first = Member::join(&log, &store, Manner::Prompt);
    first.wait_assigned(10);
    world.produce(lifecycle(0), "r", 10);
    first.wait_applied(10);
    first.reader.commit_advisory(lifecycle(0), Offset(10));

    let started = Instant::now();
    first.close().unwrap();
    let closed_after = started.elapsed();
    let heir = Member::join(&log, &store, Manner::Prompt);
    heir.wait_assigned(10);
    let moved_after = started.elapsed();

    println!("closed after {closed_after:?}, partitions moved after {moved_after:?}");
    assert!(closed_after < Duration::from_secs(2), "{closed_after:?}");
    assert!(moved_after < Duration::from_secs(5), "far below the session's time limit: {moved_after:?}");
    assert!(matches!(ask(first.reader.log_end(lifecycle(0))), Err(LogError::Closed)));
    assert_eq!(world.committed(lifecycle(0)), Some(10), "lag tools see how far the group is");
}
