//! The integration tests.
//! Horizons from outside, with real processes, files and services; one file for each feature or situation.

mod local_scheduler;
