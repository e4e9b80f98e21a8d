//! The program as a process: started, spoken to over HTTP, killed, stopped and examined from outside.
//!
//! Counts of the long tests come from the environment: `tests/run.sh` sets the short form unless told
//! `--full`. Every test that draws numbers prints its seed; `HORIZONS_TEST_SEED` sets it.

#![expect(
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what tests share fails them, and prints seeds and figures"
)]

mod bad_input;
pub(crate) mod checker;
pub(crate) mod client;
pub(crate) mod crash;
mod damage;
#[cfg(feature = "fail-points")]
mod deadly;
mod evidence;
mod external;
#[cfg(feature = "fail-points")]
mod fail_points;
mod folder;
pub(crate) mod full_disk;
#[cfg(feature = "fail-points")]
mod lanes;
mod lifecycle;
pub(crate) mod load;
mod log_reader;
mod logs;
pub(crate) mod look;
#[cfg(feature = "fail-points")]
mod overload;
mod parameters;
pub(crate) mod place;
pub(crate) mod random;
mod rights;
pub(crate) mod server;
mod shutdown;
mod threads;
pub(crate) mod topics;
mod users;
mod uuids;

/// Reads a count from the environment.
pub(crate) fn count(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("`{variable}`: wanted a number, got `{text}`")),
        Err(_) => default,
    }
}
