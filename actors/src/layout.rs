//! Where a key is at home: a topic's partitions, and from which offset on how many of them count.
//!
//! Promises one answer per key and offset, the same in every group and process and for ever: a stored layout only
//! grows by epochs, so that what a lane decided about a record is decided again when it is read again. Pure.
//!
//! A key's records are applied in its home partition only. Producers that choose partitions otherwise would have one
//! job's events applied by several lanes at once, in any order: its state would go back, and one event count twice.

use crate::event::partition::partition_among;
use crate::ids::{Offset, Partition, Topic};

/// One stretch of a topic's life: how many partitions keys are spread over, and from where on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutEpoch {
    /// The partitions that keys are spread over.
    pub partitions: u16,
    /// From which offset of each partition on; the beginning for one that is not named.
    pub from: Vec<Offset>,
}

impl LayoutEpoch {
    /// Gives the offset of a partition from which this epoch is in force.
    pub fn starts_at(&self, partition: Partition) -> Offset {
        self.from.get(usize::from(partition.0)).copied().unwrap_or_default()
    }
}

/// The layout of a topic: its epochs, oldest first, never none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    topic: Topic,
    first: LayoutEpoch,
    later: Vec<LayoutEpoch>,
}

/// Where a record stands, seen from its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Where its key is at home, or its topic has no homes.
    Home,
    /// Not where its key is at home.
    Elsewhere {
        /// Where that is.
        home: Partition,
    },
}

impl Layout {
    /// Gives the layout that a topic begins with.
    pub fn first_of(topic: Topic) -> Self {
        Self::new(topic, LayoutEpoch { partitions: topic.partitions(), from: Vec::new() }, Vec::new())
    }

    /// Puts stored epochs together.
    pub const fn new(topic: Topic, first: LayoutEpoch, later: Vec<LayoutEpoch>) -> Self {
        Self { topic, first, later }
    }

    /// Gives the topic.
    pub const fn topic(&self) -> Topic {
        self.topic
    }

    /// Lists the epochs, oldest first.
    pub fn epochs(&self) -> impl DoubleEndedIterator<Item = &LayoutEpoch> {
        std::iter::once(&self.first).chain(&self.later)
    }

    /// Gives the newest epoch.
    pub fn newest(&self) -> &LayoutEpoch {
        self.later.last().unwrap_or(&self.first)
    }

    /// Gives the number of partitions that new records are spread over.
    pub fn partitions(&self) -> u16 {
        self.newest().partitions
    }

    /// Gives the partition that a new record with this key belongs in.
    pub fn home_now(&self, key: &[u8]) -> Partition {
        partition_among(self.partitions(), key)
    }

    /// Gives the epoch that is in force at an offset of a partition.
    pub fn at(&self, partition: Partition, offset: Offset) -> &LayoutEpoch {
        self.epochs().rev().find(|epoch| epoch.starts_at(partition) <= offset).unwrap_or(&self.first)
    }

    /// Counts the epochs.
    pub const fn count(&self) -> usize {
        self.later.len() + 1
    }

    /// Gives the epoch with this number, from 0.
    pub fn epoch(&self, number: usize) -> Option<&LayoutEpoch> {
        self.epochs().nth(number)
    }

    /// Gives the number of the epoch that is in force at an offset of a partition.
    pub fn number_at(&self, partition: Partition, offset: Offset) -> usize {
        let later = self.later.iter().rposition(|epoch| epoch.starts_at(partition) <= offset);
        later.map_or(0, |index| index + 1)
    }

    /// Gives the next offset of a partition, after one, at which another epoch begins.
    pub fn boundary_after(&self, partition: Partition, offset: Offset) -> Option<Offset> {
        self.later.iter().map(|epoch| epoch.starts_at(partition)).filter(|start| *start > offset).min()
    }

    /// Tells whether a partition is one of those that keys are spread over, now or at any time.
    pub fn has(&self, partition: Partition) -> bool {
        self.epochs().any(|epoch| partition.0 < epoch.partitions)
    }

    /// Makes the epoch that follows, with more partitions. It is in force from where each partition of before ended when it
    /// was asked, or where somebody has read to since; all of the partitions that were added belong to it.
    pub fn following(
        &self,
        partitions: u16,
        ended: &[Offset],
        read: impl Fn(Partition) -> Offset,
    ) -> LayoutEpoch {
        let former = self.partitions();
        let start = |number: u16| match number < former {
            true => ended.get(usize::from(number)).copied().unwrap_or_default().max(read(Partition(number))),
            false => Offset(0),
        };
        LayoutEpoch { partitions, from: (0..partitions).map(start).collect() }
    }

    /// Lets the newest epoch count in a partition that was made anew from its first record on: its offsets are others.
    pub fn begin_anew(&mut self, partition: Partition) {
        for epoch in std::iter::once(&mut self.first).chain(&mut self.later) {
            if let Some(start) = epoch.from.get_mut(usize::from(partition.0)) {
                *start = Offset(0);
            }
        }
    }

    /// Adds an epoch.
    pub fn grown(mut self, epoch: LayoutEpoch) -> Self {
        self.later.push(epoch);
        self
    }

    /// Tells whether a record stands where its key is at home. A record without a key has no home: whether its topic
    /// takes such records is for the decoder.
    pub fn place(&self, key: Option<&[u8]>, partition: Partition, offset: Offset) -> Place {
        let Some(key) = key.filter(|_| self.topic.is_keyed()) else { return Place::Home };
        let home = partition_among(self.at(partition, offset).partitions, key);
        if home == partition { Place::Home } else { Place::Elsewhere { home } }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Ten partitions, then twelve, from offset 100 on in each of the ten.
    fn grown() -> Layout {
        let first = Layout::first_of(Topic::JobLifecycle);
        let following = first.following(12, &[Offset(100); 12], |_| Offset(0));
        first.grown(following)
    }

    #[test]
    fn place_keyless_topic_or_record_is_home_everywhere() {
        let notifications = Layout::first_of(Topic::Notifications);

        assert_eq!(notifications.place(Some(b"job-1"), Partition(0), Offset(0)), Place::Home);
        assert_eq!(notifications.place(Some(b"job-1"), Partition(1), Offset(0)), Place::Home);
        assert_eq!(grown().place(None, Partition(1), Offset(0)), Place::Home);
    }

    #[test]
    fn at_partition_that_was_added_only_the_new_epoch_counts() {
        let layout = grown();

        assert_eq!(layout.at(Partition(9), Offset(99)).partitions, 10);
        assert_eq!(layout.at(Partition(9), Offset(100)).partitions, 12);
        assert_eq!(layout.at(Partition(11), Offset(0)).partitions, 12);
        assert_eq!(
            (layout.number_at(Partition(9), Offset(99)), layout.number_at(Partition(11), Offset(0))),
            (0, 1)
        );
        assert_eq!(layout.boundary_after(Partition(9), Offset(99)), Some(Offset(100)));
        assert_eq!(layout.boundary_after(Partition(9), Offset(100)), None);
        assert!(layout.has(Partition(11)) && !layout.has(Partition(12)));
    }

    #[test]
    fn following_never_begins_before_what_somebody_has_read() {
        let layout = Layout::first_of(Topic::JobLifecycle);

        let epoch = layout.following(12, &[Offset(5); 12], |partition| Offset(u64::from(partition.0)));

        assert_eq!(
            epoch.from.iter().map(|start| start.0).collect::<Vec<_>>(),
            [5, 5, 5, 5, 5, 5, 6, 7, 8, 9, 0, 0]
        );
    }

    proptest! {
        #[test]
        fn place_any_key_has_exactly_one_home(key in proptest::collection::vec(any::<u8>(), 0..40), offset in 0_u64..200) {
            for layout in [Layout::first_of(Topic::JobLifecycle), Layout::first_of(Topic::AuditTrail)] {
                let homes: Vec<Partition> = (0..layout.partitions())
                    .map(Partition)
                    .filter(|partition| layout.place(Some(&key), *partition, Offset(offset)) == Place::Home)
                    .collect();

                prop_assert_eq!(homes, vec![layout.home_now(&key)]);
            }
        }

        #[test]
        fn place_in_a_grown_topic_follows_the_epoch_in_force(key in proptest::collection::vec(any::<u8>(), 0..40)) {
            let layout = grown();
            let homes = |offset: u64| -> Vec<Partition> {
                let all = (0..10).map(Partition);
                all.filter(|partition| layout.place(Some(&key), *partition, Offset(offset)) == Place::Home).collect()
            };

            let (before, after) = (partition_among(10, &key), partition_among(12, &key));

            prop_assert_eq!(homes(99), vec![before]);
            prop_assert_eq!(homes(100), Some(after).filter(|home| home.0 < 10).into_iter().collect::<Vec<_>>());
        }
    }
}
