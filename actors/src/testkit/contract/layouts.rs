//! Layouts of topics: their epochs, and what adopting one does to lanes and rows.

use std::sync::Arc;

use super::Store;
use super::sample::{Owner, PROCESS, at, id, job, jobs_lane, outgoing, parking, partition, write};
use crate::command::LayoutAdoption;
use crate::effect::{Effects, StateMove};
use crate::ids::{Attempt, Group, Offset, Partition, Topic};
use crate::layout::Layout;
use crate::ports::store::{CommitError, JobExpectation, LayoutAdopted};
use crate::state::{JobAggregate, StateKey, StateValue};

const TOPIC: Topic = Topic::JobLifecycle;

fn adoption(epochs: usize) -> LayoutAdoption {
    LayoutAdoption { topic: TOPIC, epochs, partitions: 12, ends: vec![Offset(1); 12] }
}

async fn adopt(store: &impl Store, epochs: usize) -> LayoutAdopted {
    let audit = outgoing(partition(Topic::AuditTrail, 0), "act");
    store.adopt_layout(adoption(epochs), audit).await.expect("an adoption can be stored")
}

/// The first lane that is opened stores what its topic begins with; an adoption adds an epoch, once.
pub async fn layout_begins_with_the_first_lane_and_grows_once(store: Arc<impl Store>) {
    let first = Layout::first_of(TOPIC);
    let opened = store.open_lane(jobs_lane(3), PROCESS).await.expect("a lane can be opened");
    let began = store.read_layouts().await.expect("layouts can be read");

    let adopted = adopt(&*store, 1).await;
    let again = adopt(&*store, 1).await;

    let wanted = first.clone().grown(first.following(12, &[Offset(1); 12], |_| Offset(0)));
    assert_eq!((opened.layout, began), (first.clone(), vec![first]));
    assert_eq!(
        (adopted, again),
        (LayoutAdopted::Adopted(wanted.clone()), LayoutAdopted::Changed(wanted.clone()))
    );
    assert_eq!(store.read_layouts().await.expect("layouts can be read"), std::slice::from_ref(&wanted));
    let added = store.open_lane(jobs_lane(11), PROCESS).await.expect("a lane can be opened");
    assert_eq!(added.layout, wanted);
}

/// Nobody who owned a lane writes to it after an adoption, and no boundary is below what one has written.
pub async fn adoption_fences_every_lane_of_the_topic(store: Arc<impl Store>) {
    let opened = store.open_lane(jobs_lane(3), PROCESS).await.expect("a lane can be opened");
    let mut owner = Owner::new(jobs_lane(3), &opened);
    for _ in 0..3 {
        let committed = store.commit(owner.step(Effects::default())).await.expect("the owner may write");
        owner.stepped(&committed);
    }

    let adopted = adopt(&*store, 1).await;
    let late = store.commit(owner.step(Effects::default())).await;

    let LayoutAdopted::Adopted(layout) = adopted else { unreachable!("wanted it adopted, got {adopted:?}") };
    let starts = [2, 3, 10].map(|number| layout.newest().starts_at(Partition(number)));
    assert_eq!(starts, [Offset(1), Offset(3), Offset(0)]);
    assert!(matches!(late, Err(CommitError::Fenced)), "{late:?}");
}

/// Other lanes see how far each lane is and what is parked in it; a row goes over in one transaction; and the home of an
/// owned job is what its row says.
pub async fn positions_are_seen_and_rows_move_between_lanes(store: Arc<impl Store>) {
    let key = StateKey::JobAggregate(id("job-1"), Attempt(1));
    let row = StateValue::JobAggregate(JobAggregate {
        job_id: id("job-1"),
        attempt: Attempt(1),
        cpu_usage_percent: Default::default(),
        memory_usage_mb: Default::default(),
        io_operations: Default::default(),
        execution_time_seconds: Default::default(),
        last_sequence: None,
        summary: None,
        updated_at: at(3),
    });
    let former = store.open_lane(jobs_lane(1), PROCESS).await.expect("a lane can be opened");
    let mut effects = parking("k", 0);
    effects.states = vec![(key.clone(), row.clone())];
    store.commit(Owner::new(jobs_lane(1), &former).step(effects)).await.expect("the owner may write");
    let opened = store.open_lane(jobs_lane(2), PROCESS).await.expect("a lane can be opened");
    let seen = store.read_positions(Group::jobs(), TOPIC).await.expect("positions can be read");

    let moves = vec![StateMove { from: Partition(1), key: key.clone() }];
    let effects = Effects { states: vec![(key.clone(), row.clone())], moves, ..Effects::default() };
    store.commit(Owner::new(jobs_lane(2), &opened).step(effects)).await.expect("the owner may write");

    let shown: Vec<_> = seen.iter().map(|one| (one.partition.0, one.next, one.parked.len())).collect();
    assert_eq!(shown, [(1, Some(Offset(1)), 1), (2, None, 0)]);
    let load = |lane| store.load(lane, vec![key.clone()]);
    assert_eq!(load(jobs_lane(1)).await.expect("rows can be read"), []);
    assert_eq!(load(jobs_lane(2)).await.expect("rows can be read"), [(key.clone(), row)]);

    let mut owned = job("job-9", at(1));
    owned.home.metrics = Partition(11);
    let home = owned.home;
    store.write_job(write(JobExpectation::New, owned)).await.expect("a job can be stored");
    let homes = [StateKey::JobHome(id("job-9")), StateKey::JobHome(id("job-8"))];
    let found = store.load(jobs_lane(2), homes.to_vec()).await.expect("homes can be read");
    assert_eq!(found, [(StateKey::JobHome(id("job-9")), StateValue::JobHome(home))]);
}
