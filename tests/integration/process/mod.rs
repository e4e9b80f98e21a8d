//! The program as a process: started, spoken to over HTTP, killed, stopped and examined from outside.
//!
//! Counts of the long tests come from the environment: `tests/run.sh` sets the short form unless told
//! `--full`. Every test that draws numbers prints its seed; `HORIZONS_TEST_SEED` sets it.

mod checker;
mod client;
mod crash;
#[cfg(feature = "fail-points")]
mod fail_points;
mod load;
mod look;
#[cfg(feature = "fail-points")]
mod overload;
mod random;
mod server;

/// Reads a count from the environment.
fn count(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("`{variable}`: wanted a number, got `{text}`")),
        Err(_) => default,
    }
}
