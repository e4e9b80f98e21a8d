//! An event log for tests, with group members, rebalances, gaps and zombies, over any [`RecordSource`].
//!
//! Promises what the log port promises: per partition, records in offset order from where they were asked
//! for, tagged with the incarnation that asked, only with credit, and ownership answered by the group's
//! current assignment. Readers are tasks of the current tokio runtime; no thread is started. Does not keep
//! records of its own: they live in the source (a [`MemoryStore`](super::MemoryStore), for example), and
//! trimming, truncating or recreating a partition changes only what readers see.
//!
//! The first member of a group is given every partition of its topics, unless the log was made with
//! [`SimulatedLog::unassigned`]; members that come later get nothing until [`SimulatedLog::rebalance`] or
//! [`SimulatedLog::assign`].
//!
//! ```
//! use std::sync::Arc;
//! use horizons_actors::ids::{Group, LogTopic, Partition, Topic, TopicPartition};
//! use horizons_actors::testkit::{MemoryStore, SimulatedLog};
//!
//! let store = MemoryStore::new();
//! let log = SimulatedLog::over(Arc::new(store.clone()));
//! let partition = TopicPartition { topic: Topic::JobLifecycle, partition: Partition(0) };
//!
//! assert_eq!(log.members(&Group::jobs()), vec![]);
//! assert_eq!(log.owner(&Group::jobs(), partition), None);
//! ```

mod member;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use self::member::{MemberReader, MemberTask};
use self::view::View;
use super::locked;
use crate::ids::{Group, Incarnation, LaneKey, LogId, Offset, Partition, Topic, TopicPartition};
use crate::lane::credit::CreditPool;
use crate::ports::log::{EventLog, LogError, LogReader, LogSink, RecordSource, Revocation};

/// Names a member of a group: one call of `subscribe`, numbered from 0 over all groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(usize);

/// How large batches may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Records of a batch.
    pub max_records: usize,
    /// Bytes of a batch, after its first record.
    pub max_bytes: usize,
}

/// Small enough that a test with a few hundred records sees several batches.
const DEFAULT_LIMITS: BatchLimits = BatchLimits { max_records: 100, max_bytes: 1 << 20 };

/// How a revocation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevocationEnd {
    /// The lanes stopped in time.
    Finished,
    /// They did not: the partitions were lost.
    TimedOut,
}

/// What a member's sink is told next.
enum Announcement {
    Assigned(Vec<TopicPartition>),
    Revoked(Revocation),
    Lost(Vec<TopicPartition>),
    Broken(TopicPartition, Incarnation),
}

/// What is delivered of a partition.
#[derive(Debug, Clone, Copy)]
struct Delivery {
    incarnation: Incarnation,
    position: Offset,
    /// How far the lane is, as it asked or told last.
    applied: Offset,
}

/// What the log knows of a member.
struct Member {
    group: Group,
    topics: Vec<Topic>,
    wake: Arc<Notify>,
    /// What the member believes to be its own; a zombie believes more than is true.
    assigned: BTreeSet<TopicPartition>,
    deliveries: BTreeMap<TopicPartition, Delivery>,
    /// Where lanes said that they stand, before they start.
    inspected: BTreeMap<TopicPartition, Offset>,
    announcements: VecDeque<Announcement>,
    is_closed: bool,
}

/// What the log knows of a group.
#[derive(Default)]
struct GroupState {
    owners: BTreeMap<TopicPartition, MemberId>,
    offsets: BTreeMap<TopicPartition, Offset>,
}

#[derive(Default)]
struct LogState {
    members: Vec<Member>,
    groups: HashMap<Group, GroupState>,
    views: HashMap<TopicPartition, View>,
    held: HashSet<LaneKey>,
    failing_reads: HashMap<TopicPartition, usize>,
    failing_calls: usize,
    is_away: bool,
    /// How many partitions a topic has, where that is not what it begins with.
    counts: HashMap<Topic, u16>,
}

/// Takes one off a count; tells whether there was one.
fn count_down(count: &mut usize) -> bool {
    let is_left = *count > 0;
    *count = count.saturating_sub(1);
    is_left
}

impl LogState {
    fn check_reachable(&mut self) -> Result<(), LogError> {
        if self.is_away || count_down(&mut self.failing_calls) {
            return Err(LogError::Unavailable("scripted".to_owned()));
        }
        Ok(())
    }

    fn partitions_of(&self, topic: Topic) -> u16 {
        self.counts.get(&topic).copied().unwrap_or(topic.partitions())
    }

    fn all_partitions(&self, topic: Topic) -> impl Iterator<Item = TopicPartition> + use<> {
        (0..self.partitions_of(topic))
            .map(move |number| TopicPartition { topic, partition: Partition(number) })
    }

    fn owner(&self, group: &Group, partition: TopicPartition) -> Option<MemberId> {
        self.groups.get(group)?.owners.get(&partition).copied()
    }

    /// Makes a member the owner; a former owner is not told.
    fn assign(&mut self, id: MemberId, partitions: Vec<TopicPartition>) {
        let Some(member) = self.members.get_mut(id.0).filter(|member| !member.is_closed) else { return };
        let owners = &mut self.groups.entry(member.group.clone()).or_default().owners;
        owners.extend(partitions.iter().map(|partition| (*partition, id)));
        member.assigned.extend(&partitions);
        member.announcements.push_back(Announcement::Assigned(partitions));
        member.wake.notify_one();
    }

    /// Stops what a member is delivered of some partitions.
    fn stop_delivery(&mut self, id: MemberId, partitions: &[TopicPartition]) {
        let Some(member) = self.members.get_mut(id.0) else { return };
        for partition in partitions {
            member.deliveries.remove(partition);
        }
    }

    /// Ends a member's ownership, and its belief in it.
    fn disown(&mut self, id: MemberId, partitions: &[TopicPartition]) {
        self.stop_delivery(id, partitions);
        let Some(member) = self.members.get_mut(id.0) else { return };
        let owners = &mut self.groups.entry(member.group.clone()).or_default().owners;
        for partition in partitions {
            member.assigned.remove(partition);
            if owners.get(partition) == Some(&id) {
                owners.remove(partition);
            }
        }
    }

    fn announce(&mut self, id: MemberId, announcement: Announcement) {
        if let Some(member) = self.members.get_mut(id.0) {
            member.announcements.push_back(announcement);
            member.wake.notify_one();
        }
    }

    fn close(&mut self, id: MemberId) {
        let Some(member) = self.members.get_mut(id.0) else { return };
        member.is_closed = true;
        let partitions: Vec<TopicPartition> = member.assigned.iter().copied().collect();
        self.disown(id, &partitions);
    }

    fn open_members(&self, group: &Group) -> Vec<MemberId> {
        let members = self.members.iter().enumerate();
        let open = members.filter(|(_, member)| member.group == *group && !member.is_closed);
        open.map(|(index, _)| MemberId(index)).collect()
    }
}

struct Shared {
    id: LogId,
    source: Arc<dyn RecordSource>,
    config: BatchLimits,
    is_first_member_assigned: bool,
    state: Mutex<LogState>,
    /// The members' wake-ups, apart from the state: called on the thread that commits.
    wakes: Arc<Mutex<Vec<Arc<Notify>>>>,
}

impl Shared {
    fn wake_all(&self) {
        for wake in locked(&self.wakes).iter() {
            wake.notify_one();
        }
    }
}

/// An event log for tests; clones share it.
#[derive(Clone)]
pub struct SimulatedLog {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for SimulatedLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimulatedLog").field("id", &self.shared.id).finish_non_exhaustive()
    }
}

impl SimulatedLog {
    /// Makes a log that gives the first member of each group every partition.
    pub fn over(source: Arc<dyn RecordSource>) -> Self {
        Self::new(source, DEFAULT_LIMITS, true)
    }

    /// Makes a log with batches of at most this size that gives the first member every partition.
    pub fn with_limits(source: Arc<dyn RecordSource>, limits: BatchLimits) -> Self {
        Self::new(source, limits, true)
    }

    /// Makes a log that gives no member anything by itself.
    pub fn unassigned(source: Arc<dyn RecordSource>) -> Self {
        Self::new(source, DEFAULT_LIMITS, false)
    }

    fn new(source: Arc<dyn RecordSource>, config: BatchLimits, is_first_member_assigned: bool) -> Self {
        let wakes: Arc<Mutex<Vec<Arc<Notify>>>> = Arc::default();
        let listening = Arc::clone(&wakes);
        source.heads().on_advance(move || locked(&listening).iter().for_each(|wake| wake.notify_one()));
        let id = LogId::parse("simulated-log").expect("the text is a valid identifier");
        let state = Mutex::default();
        Self { shared: Arc::new(Shared { id, source, config, is_first_member_assigned, state, wakes }) }
    }

    /// Lists the open members of a group, oldest first.
    pub fn members(&self, group: &Group) -> Vec<MemberId> {
        locked(&self.shared.state).open_members(group)
    }

    /// Gives the member that owns a partition for a group.
    pub fn owner(&self, group: &Group, partition: TopicPartition) -> Option<MemberId> {
        locked(&self.shared.state).owner(group, partition)
    }

    /// Gives how far a group told the log that it is.
    pub fn group_offsets(&self, group: &Group) -> BTreeMap<TopicPartition, Offset> {
        locked(&self.shared.state).groups.get(group).map(|group| group.offsets.clone()).unwrap_or_default()
    }

    /// Gives a member partitions. A former owner is not told: it is a zombie until [`SimulatedLog::lose`].
    pub fn assign(&self, member: MemberId, partitions: Vec<TopicPartition>) {
        locked(&self.shared.state).assign(member, partitions);
    }

    /// Takes partitions from a member in good order: delivery stops at once, ownership ends when the lanes
    /// have stopped. After the deadline (tokio's time) they are lost.
    ///
    /// *Cancel safety*: dropping the future leaves the partitions with the member, undelivered.
    pub async fn revoke(
        &self,
        member: MemberId,
        partitions: Vec<TopicPartition>,
        deadline: Duration,
    ) -> RevocationEnd {
        let (done, answered) = oneshot::channel();
        let deadline = Instant::now() + deadline;
        {
            let mut state = locked(&self.shared.state);
            state.stop_delivery(member, &partitions);
            let revocation =
                Revocation { partitions: partitions.clone(), deadline: deadline.into_std(), done };
            state.announce(member, Announcement::Revoked(revocation));
        }

        // A dropped sender counts as an answer.
        let end = match timeout_at(deadline, answered).await {
            Ok(_) => RevocationEnd::Finished,
            Err(_) => RevocationEnd::TimedOut,
        };

        let mut state = locked(&self.shared.state);
        state.disown(member, &partitions);
        if end == RevocationEnd::TimedOut {
            state.announce(member, Announcement::Lost(partitions));
        }
        end
    }

    /// Takes partitions from a member without asking, and tells it.
    pub fn lose(&self, member: MemberId, partitions: Vec<TopicPartition>) {
        let mut state = locked(&self.shared.state);
        state.disown(member, &partitions);
        state.announce(member, Announcement::Lost(partitions));
    }

    /// Ends a member as a broker does when a killed process stops its heartbeats: its partitions are free,
    /// nothing more is delivered, and nobody tells it.
    pub fn expire(&self, member: MemberId) {
        locked(&self.shared.state).close(member);
        self.shared.wake_all();
    }

    /// Spreads the group's partitions evenly over its open members, as a broker does when one joins or
    /// leaves: what moves is revoked first, everywhere, then assigned. Partitions that stay are not touched.
    pub async fn rebalance(&self, group: &Group, deadline: Duration) {
        let moves = self.planned_moves(group);

        let revocations = moves
            .iter()
            .filter(|planned| !planned.revoked.is_empty())
            .map(|planned| self.revoke(planned.member, planned.revoked.clone(), deadline));
        futures_util::future::join_all(revocations).await;

        for planned in moves {
            if !planned.assigned.is_empty() {
                self.assign(planned.member, planned.assigned);
            }
        }
    }

    fn planned_moves(&self, group: &Group) -> Vec<PlannedMove> {
        let state = locked(&self.shared.state);
        let members = state.open_members(group);
        let in_group = members.iter().filter_map(|id| state.members.get(id.0));
        let topics: BTreeSet<Topic> = in_group.flat_map(|member| member.topics.clone()).collect();
        let partitions: Vec<TopicPartition> =
            topics.into_iter().flat_map(|topic| state.all_partitions(topic)).collect();

        let mut moves = Vec::new();
        for (turn, member) in members.iter().enumerate() {
            let wanted: BTreeSet<TopicPartition> =
                partitions.iter().skip(turn).step_by(members.len()).copied().collect();
            let owned: BTreeSet<TopicPartition> = partitions
                .iter()
                .copied()
                .filter(|partition| state.owner(group, *partition) == Some(*member))
                .collect();
            moves.push(PlannedMove {
                member: *member,
                revoked: owned.difference(&wanted).copied().collect(),
                assigned: wanted.difference(&owned).copied().collect(),
            });
        }
        moves
    }

    /// Gives a topic more partitions, as an administrator does. Each group's first open member gets those that are new.
    pub fn grow(&self, topic: Topic, partitions: u16) {
        let mut state = locked(&self.shared.state);
        let former = state.partitions_of(topic);
        state.counts.insert(topic, partitions);
        let groups: BTreeSet<Group> = state
            .members
            .iter()
            .filter(|member| !member.is_closed && member.topics.contains(&topic))
            .map(|member| member.group.clone())
            .collect();
        let added: Vec<TopicPartition> = (former..partitions)
            .map(|number| TopicPartition { topic, partition: Partition(number) })
            .collect();
        for group in groups {
            if let Some(member) = state.open_members(&group).first().copied() {
                state.assign(member, added.clone());
            }
        }
        drop(state);
        self.shared.wake_all();
    }

    /// Holds a partition's records back from one group.
    pub fn hold(&self, lane: &LaneKey) {
        locked(&self.shared.state).held.insert(lane.clone());
    }

    /// Delivers a partition to a group again.
    pub fn release(&self, lane: &LaneKey) {
        locked(&self.shared.state).held.remove(lane);
        self.shared.wake_all();
    }

    /// Removes a partition's records below an offset, as retention does. A reader that stands below is told
    /// that its place is broken, so that its lane looks again and finds the gap.
    pub fn trim(&self, partition: TopicPartition, low: Offset) {
        self.change_view(partition, |view, _| view.trim(low));
    }

    /// Removes a partition's records from an offset on, as an unclean election does; records that are
    /// appended later take their offsets.
    pub fn truncate(&self, partition: TopicPartition, end: Offset) {
        self.change_view(partition, |view, source_end| view.truncate(end, source_end));
    }

    /// Makes a partition anew: empty, from offset 0.
    pub fn recreate(&self, partition: TopicPartition) {
        self.change_view(partition, View::recreate);
    }

    /// Makes an offset hold nothing that a reader is given, as the marker at a transaction's end or a record of an
    /// aborted one; readers pass it all the same.
    pub fn hide(&self, partition: TopicPartition, offset: Offset) {
        self.change_view(partition, |view, _| view.hide(offset));
    }

    /// Makes the records from one offset to before another unreadable, as a broker's broken disk does.
    pub fn corrupt(&self, partition: TopicPartition, from: Offset, until: Offset) {
        self.change_view(partition, |view, _| view.corrupt(from, until));
    }

    /// Makes the records of a partition readable again, as another replica that takes over.
    pub fn mend(&self, partition: TopicPartition) {
        self.change_view(partition, |view, _| view.mend());
    }

    /// Opens a transaction that holds readers back from an offset on; none ends it.
    pub fn hold_at(&self, partition: TopicPartition, open_from: Option<Offset>) {
        self.change_view(partition, |view, _| view.hold_at(open_from));
    }

    fn change_view(&self, partition: TopicPartition, change: impl FnOnce(&mut View, Offset)) {
        let source_end = self.shared.source.heads().end(partition);
        let mut state = locked(&self.shared.state);
        change(state.views.entry(partition).or_default(), source_end);
        drop(state);
        self.shared.wake_all();
    }

    /// Makes the next reads of a partition fail; each is tried again.
    pub fn fail_reads(&self, partition: TopicPartition, reads: usize) {
        *locked(&self.shared.state).failing_reads.entry(partition).or_default() += reads;
    }

    /// Makes the next calls that the log answers fail as transient: `subscribe`, `inspect`,
    /// `confirm_ownership`, `log_end`.
    pub fn fail_calls(&self, calls: usize) {
        locked(&self.shared.state).failing_calls += calls;
    }

    /// Takes the log away: nothing is delivered, every call fails as transient.
    pub fn away(&self) {
        locked(&self.shared.state).is_away = true;
    }

    /// Brings the log back.
    pub fn back(&self) {
        locked(&self.shared.state).is_away = false;
        self.shared.wake_all();
    }
}

/// What a rebalance does to a member.
struct PlannedMove {
    member: MemberId,
    revoked: Vec<TopicPartition>,
    assigned: Vec<TopicPartition>,
}

impl EventLog for SimulatedLog {
    fn id(&self) -> LogId {
        self.shared.id.clone()
    }

    fn subscribe(
        &self,
        group: Group,
        topics: Vec<Topic>,
        sink: Arc<dyn LogSink>,
        credits: Arc<CreditPool>,
    ) -> Result<Arc<dyn LogReader>, LogError> {
        let wake = Arc::new(Notify::new());
        let member = {
            let mut state = locked(&self.shared.state);
            state.check_reachable()?;
            let is_first = state.open_members(&group).is_empty();
            let member = MemberId(state.members.len());
            state.members.push(Member {
                group: group.clone(),
                topics: topics.clone(),
                wake: Arc::clone(&wake),
                assigned: BTreeSet::new(),
                deliveries: BTreeMap::new(),
                inspected: BTreeMap::new(),
                announcements: VecDeque::new(),
                is_closed: false,
            });
            if is_first && self.shared.is_first_member_assigned {
                let all = topics.into_iter().flat_map(|topic| state.all_partitions(topic)).collect();
                state.assign(member, all);
            }
            member
        };
        locked(&self.shared.wakes).push(Arc::clone(&wake));
        let returned = Arc::clone(&wake);
        credits.on_return(move || returned.notify_one());

        let (ended, watched) = watch::channel(false);
        let task = MemberTask {
            shared: Arc::clone(&self.shared),
            member,
            group: group.clone(),
            sink,
            credits,
            wake: Arc::clone(&wake),
            ended,
            served: None,
            handed_back: None,
            ends: BTreeMap::new(),
        };
        tokio::spawn(task.run());
        Ok(Arc::new(MemberReader { shared: Arc::clone(&self.shared), member, group, wake, ended: watched }))
    }
}
