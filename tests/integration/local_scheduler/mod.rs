//! The local scheduler and its shim, with real processes.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "clippy knows test functions, but not what they share"
)]

mod bench;
mod crash;
#[cfg(feature = "fail-points")]
mod fail_points;
mod intake;
mod run;
