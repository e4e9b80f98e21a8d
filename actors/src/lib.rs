//! The core of Horizons: events, messages, actors, state machines and the ports they need. No C, no I/O.
//!
#![doc = include_str!("../README.md")]

pub mod aggregator;
pub mod auditor;
pub mod backoff;
pub mod child;
pub mod clock;
pub mod command;
pub mod dispatcher;
pub mod effect;
pub mod event;
pub mod gap;
pub mod heartbeat;
pub mod ids;
pub mod jobs;
pub mod lane;
pub mod latency;
pub mod layout;
pub mod metrics;
pub mod orchestrator;
pub mod parameters;
pub mod ports;
pub mod probes;
pub mod record;
pub mod rejection;
pub mod snapshot;
pub mod state;
pub mod supervisor;
#[cfg(feature = "testkit")]
pub mod testkit;
pub mod trial;

/// The guides whose examples are compiled and run.
#[cfg(doctest)]
mod guides {
    #[doc = include_str!("../../docs/adding-a-consumer.md")]
    struct AddingAConsumer;

    #[doc = include_str!("../../docs/testkit.md")]
    struct TestKit;
}
