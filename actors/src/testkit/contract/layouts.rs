//! Layouts of topics: their epochs, and what adopting one does to lanes and rows.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::Store;
use super::outbox::RelayedStore;
use super::sample::{Owner, PROCESS, at, id, job, jobs_lane, outgoing, parking, partition, write};
use crate::command::LayoutAdoption;
use crate::effect::{Effects, StateMove};
use crate::event::partition_among;
use crate::ids::{Attempt, Group, LogTopic, Offset, Partition, Topic};
use crate::layout::Layout;
use crate::ports::outbox::{CursorMove, OutboxPartition, RelayId};
use crate::ports::store::{
    AppendedAt, CommitError, JobExpectation, LayoutAdopted, LayoutBegun, Unsent, UnsentRows,
};
use crate::record::OutgoingRecord;
use crate::state::{JobAggregate, StateKey, StateValue};

const TOPIC: Topic = Topic::JobLifecycle;

fn adoption(epochs: usize) -> LayoutAdoption {
    LayoutAdoption { topic: TOPIC, epochs, partitions: 12, ends: vec![Offset(1); 12] }
}

async fn adopt(store: &impl Store, epochs: usize) -> LayoutAdopted {
    store.adopt_layout(adoption(epochs)).await.expect("an adoption can be stored")
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

/// Rows written for their keys after a layout was begun go where it says and wait; it counts once those of before are sent,
/// and they are sent then.
pub async fn layout_that_is_begun_waits_until_what_was_written_before_is_sent(store: Arc<impl RelayedStore>) {
    let key = moving_key();
    let (before, after) = (partition_among(10, &key), partition_among(12, &key));
    let append = |named: Partition| {
        let at = partition(TOPIC, named.0);
        let record = OutgoingRecord { key: Some(key.clone()), ..outgoing(at, "event") };
        store.append_records(vec![record], Vec::new())
    };
    let place = |partition| OutboxPartition { topic: LogTopic::Record(TOPIC), partition };
    let act = || outgoing(partition(Topic::AuditTrail, 0), "act");
    let begin = || store.begin_layout(adoption(1), act());
    append(before).await.expect("a record can be appended");

    let begun = [begin().await, begin().await].map(|begun| begun.expect("a layout can be begun"));
    let moved = append(before).await.expect("a record can be appended");
    let early = store.adopt_layout(adoption(1)).await.expect("a layout can be asked for");
    let relay = RelayId(Uuid::from_u128(1));
    let lease = store.take_lease(relay, Duration::from_secs(3_600)).await.expect("a lease can be asked for");
    let epoch = lease.expect("nobody else holds the lease").epoch;
    let held = store.outbox_heads().end(place(after));
    let step = CursorMove { partition: place(before), from: Offset(0), next: Offset(1), tail: Offset(1) };
    let refused = store.advance_cursors(epoch, vec![step]).await.expect("a cursor can be moved");
    let unsent = store.read_unsent(TOPIC).await.expect("it can be asked");
    let adopted = store.adopt_layout(adoption(1)).await.expect("a layout can be asked for");
    let later = append(before).await.expect("a record can be appended");

    assert_eq!(begun, [LayoutBegun::Begun { partitions: 12 }, LayoutBegun::Begun { partitions: 12 }]);
    let stands = |appended: &[AppendedAt]| appended.first().map(|at| (at.partition, at.offset));
    assert_eq!((stands(&moved), held), (Some((after, Offset(0))), Offset(0)));
    let rows = UnsentRows { partition: before, next: Offset(0), end: Offset(1) };
    assert_eq!(early, LayoutAdopted::Unsent(Unsent { begun: Some(12), places: vec![rows] }));
    assert_eq!((refused, unsent), (Vec::new(), Unsent { begun: Some(12), places: Vec::new() }));
    assert!(matches!(adopted, LayoutAdopted::Adopted(_)), "{adopted:?}");
    assert_eq!(stands(&later), Some((after, Offset(1))));
    assert_eq!(store.outbox_heads().end(place(after)), Offset(2));
    let acts = store
        .outbox_heads()
        .end(OutboxPartition { topic: LogTopic::Record(Topic::AuditTrail), partition: Partition(0) });
    assert_eq!(acts, Offset(1), "what is begun again is audited once");
}

/// Gives a key that goes to an added partition with the change.
fn moving_key() -> Bytes {
    let is_moving = |key: &Bytes| partition_among(12, key).0 >= 10;
    (0..).map(|number| Bytes::from(format!("job-{number}"))).find(is_moving).expect("one of six goes there")
}
