//! Comparing what an attempt's samples add up to with the totals that its end reported (requirement M7).
//!
//! Promises to name what can be compared and differs. Does not say which side is right: samples are taken now
//! and then and may miss a peak or the last moments, while the totals come from the operating system once.

use serde::Serialize;

use crate::state::{Aggregate, JobAggregate};

/// Differences up to this share of the totals are rounding: agents and systems report in coarse units.
pub const TOLERANCE_RATIO: f64 = 0.01;

/// Names a quantity that samples and totals both tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// The greatest sample of memory, beside the reported peak.
    MemoryUsageMb,
    /// The sum of the samples' calls, beside the reported total.
    IoOperations,
    /// The greatest sample of run time, beside the reported run time.
    ExecutionTimeSeconds,
}

/// Tells on which side of the totals the samples are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Deviation {
    /// The samples say more than the totals: one of them is wrong.
    Above,
    /// The samples say less: they missed something, or some are lost.
    Below,
}

/// A quantity about which samples and totals differ.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SummaryDifference {
    /// The quantity.
    pub quantity: Quantity,
    /// On which side the samples are.
    pub deviation: Deviation,
    /// What the samples say.
    pub samples: f64,
    /// What the totals say.
    pub summary: f64,
}

/// Lists the differences between an attempt's samples and its totals; none before both exist. Processor use
/// is not compared: the mean of samples and the mean over time are different things.
pub fn summary_differences(aggregate: &JobAggregate) -> Vec<SummaryDifference> {
    let Some(summary) = aggregate.summary else { return Vec::new() };
    let greatest = |samples: Aggregate| (samples.count > 0).then_some(samples.max);
    let total = |samples: Aggregate| (samples.count > 0).then_some(samples.sum);
    let compared = [
        (Quantity::MemoryUsageMb, greatest(aggregate.memory_usage_mb), summary.memory_usage_mb),
        (Quantity::IoOperations, total(aggregate.io_operations), summary.io_operations as f64),
        (
            Quantity::ExecutionTimeSeconds,
            greatest(aggregate.execution_time_seconds),
            summary.execution_time_seconds,
        ),
    ];
    compared
        .into_iter()
        .filter_map(|(quantity, samples, summary)| {
            let samples = samples?;
            let deviation = deviation(samples, summary)?;
            Some(SummaryDifference { quantity, deviation, samples, summary })
        })
        .collect()
}

/// Tells on which side of the total the samples are, if they differ by more than rounding.
fn deviation(samples: f64, summary: f64) -> Option<Deviation> {
    let tolerated = summary.abs() * TOLERANCE_RATIO;
    if samples > summary + tolerated {
        Some(Deviation::Above)
    } else if samples < summary - tolerated {
        Some(Deviation::Below)
    } else {
        None
    }
}
