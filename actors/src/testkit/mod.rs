//! Tools for tests of Horizons and of services that speak to it (feature `testkit`).

pub mod event;

pub use event::EventBuilder;
