//! Gaps in a log, and what an operator decides about them, as data (design D2).
//!
//! Promises that a decision names what was seen: when the gap has changed since, nothing happens.

use serde::Serialize;

use crate::clock::Timestamp;
use crate::ids::{LaneKey, Offset};

/// Why reading cannot simply go on where the store says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GapKind {
    /// Records between the stored position and the oldest retained one are gone.
    Trimmed,
    /// The log ends before the stored position: it was truncated or made anew.
    BeyondEnd,
    /// The last applied record is not the one the log holds there: the topic was made anew.
    Replaced,
    /// The log holds bytes at the stored position that are no records, however often they are read.
    Corrupt,
}

impl GapKind {
    /// Lists every kind.
    pub const ALL: [GapKind; 4] = [GapKind::Trimmed, GapKind::BeyondEnd, GapKind::Replaced, GapKind::Corrupt];

    /// Gives the stable name.
    pub const fn name(self) -> &'static str {
        match self {
            GapKind::Trimmed => "trimmed",
            GapKind::BeyondEnd => "beyond_end",
            GapKind::Replaced => "replaced",
            GapKind::Corrupt => "corrupt",
        }
    }

    /// Finds the kind with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Tells what accepting the gap does.
    pub const fn remedy(self) -> GapRemedy {
        match self {
            GapKind::Trimmed | GapKind::Corrupt => GapRemedy::Skip,
            GapKind::BeyondEnd | GapKind::Replaced => GapRemedy::ReadAnew,
        }
    }
}

/// What accepting a gap does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GapRemedy {
    /// The lane goes on at the oldest record that can be read; what was before it is given up.
    Skip,
    /// It is another log under the same name: the lane begins a new generation at the low watermark.
    ReadAnew,
}

/// A gap as a lane finds it.
///
/// *Shape*: a lane has one open gap at most; finding it again updates it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundGap {
    /// Why the lane cannot go on.
    pub kind: GapKind,
    /// The stored position.
    pub next: Offset,
    /// Where reading can go on: the oldest retained record or, behind records that cannot be read, the first one that
    /// can; the end where there is none.
    pub low: Offset,
    /// The end of the partition.
    pub high: Offset,
    /// When it was found.
    pub found_at: Timestamp,
}

impl FoundGap {
    /// Counts the records that accepting it gives up unread; none when the partition is read anew.
    pub const fn records_skipped(&self) -> u64 {
        match self.kind.remedy() {
            GapRemedy::Skip => self.low.0.saturating_sub(self.next.0),
            GapRemedy::ReadAnew => 0,
        }
    }

    /// Counts the offsets that are read after it is accepted, as far as the partition reached when it was found.
    pub const fn records_to_read(&self) -> u64 {
        self.high.0.saturating_sub(self.low.0)
    }
}

/// An operator's decision: the gap as it was shown, so that nothing else is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GapAcceptance {
    /// The lane.
    pub lane: LaneKey,
    /// The kind that was shown.
    pub kind: GapKind,
    /// The stored position that was shown.
    pub next: Offset,
    /// Where reading can go on, as it was shown: there the lane goes on.
    pub low: Offset,
}

impl GapAcceptance {
    /// Tells whether it is about this gap, as it is now.
    pub fn is_about(&self, gap: &FoundGap) -> bool {
        (self.kind, self.next, self.low) == (gap.kind, gap.next, gap.low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(kind: GapKind) -> FoundGap {
        FoundGap { kind, next: Offset(5), low: Offset(8), high: Offset(20), found_at: Timestamp::default() }
    }

    #[test]
    fn gap_each_kind_says_what_accepting_costs() {
        let rows = [
            (GapKind::Trimmed, GapRemedy::Skip, 3),
            (GapKind::BeyondEnd, GapRemedy::ReadAnew, 0),
            (GapKind::Replaced, GapRemedy::ReadAnew, 0),
            (GapKind::Corrupt, GapRemedy::Skip, 3),
        ];

        for (kind, remedy, skipped) in rows {
            assert_eq!((kind.remedy(), gap(kind).records_skipped()), (remedy, skipped), "{}", kind.name());
            assert_eq!(gap(kind).records_to_read(), 12);
            assert_eq!(GapKind::from_name(kind.name()), Some(kind));
        }
    }
}
