//! Calls that a lane repeats while what they need is away, and what it notes of gaps.

use std::future::Future;

use crate::gap::{FoundGap, GapKind};
use crate::ids::{LaneKey, Offset};
use crate::lane::environment::LaneEnvironment;
use crate::lane::message::LaneExit;
use crate::lane::status::LaneStatus;
use crate::ports::PortError;
use crate::ports::log::Inspection;
use crate::ports::store::Fence;

/// Gives where reading can go on once a gap is accepted.
pub(super) fn resumes_at(kind: GapKind, log: &Inspection) -> Offset {
    match kind {
        GapKind::Trimmed | GapKind::BeyondEnd | GapKind::Replaced => log.low,
        GapKind::Corrupt => log.unreadable_until.unwrap_or(log.high),
    }
}

/// Notes that a gap is gone without anybody's decision.
pub(super) async fn forget_gap(
    env: &LaneEnvironment,
    lane: &LaneKey,
    status: &LaneStatus,
    fence: Fence,
) -> Result<(), LaneExit> {
    tracing::info!(lane = %lane, "gap of a lane is gone by itself");
    note_gap(env, lane, status, fence, None).await
}

/// Notes the gap that a new incarnation found, or that one is gone.
pub(super) async fn note_gap(
    env: &LaneEnvironment,
    lane: &LaneKey,
    status: &LaneStatus,
    fence: Fence,
    gap: Option<FoundGap>,
) -> Result<(), LaneExit> {
    match retry(env, lane, status, || env.store.note_gap(lane.clone(), fence.epoch, gap)).await? {
        true => Ok(()),
        false => Err(LaneExit::Fenced),
    }
}

/// Repeats a call for ever while what it needs is away, with back-off.
pub(super) async fn retry<T, E: PortError, F: Future<Output = Result<T, E>>>(
    env: &LaneEnvironment,
    lane: &LaneKey,
    status: &LaneStatus,
    mut call: impl FnMut() -> F,
) -> Result<T, LaneExit> {
    let mut failures = 0_u32;
    loop {
        match call().await {
            Ok(answer) => return Ok(answer),
            Err(error) if error.is_transient() => {
                failures = failures.saturating_add(1);
                env.metrics.count_retry(&lane.group);
                status.waiting(&error);
                if failures == 1 {
                    tracing::warn!(lane = %lane, error = %error, "lane waits");
                }
                tokio::time::sleep(env.settings.retry.delay(failures, env.randomness.next_u64())).await;
            }
            Err(error) => return Err(LaneExit::Failed(error.to_string())),
        }
    }
}
