//! How a command names a lane.

use std::fmt;

use clap::Args;

/// The lane, as the lists show it.
#[derive(Debug, Args)]
pub(super) struct LaneArguments {
    /// Consumer group
    #[arg(long)]
    pub(super) group: String,
    /// Topic
    #[arg(long)]
    pub(super) topic: String,
    /// Partition
    #[arg(long)]
    pub(super) partition: u16,
}

impl fmt::Display for LaneArguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}-{}", self.group, self.topic, self.partition)
    }
}
