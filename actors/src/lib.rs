//! The core of Horizons: events, messages, actors, state machines and the ports they need. No C, no I/O.

pub mod aggregator;
pub mod auditor;
pub mod backoff;
pub mod clock;
pub mod command;
pub mod dispatcher;
pub mod effect;
pub mod event;
pub mod ids;
pub mod jobs;
pub mod lane;
pub mod latency;
pub mod metrics;
pub mod orchestrator;
pub mod ports;
pub mod record;
pub mod rejection;
pub mod snapshot;
pub mod state;
pub mod supervisor;
#[cfg(feature = "testkit")]
pub mod testkit;
