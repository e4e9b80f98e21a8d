//! The core of Horizons: events, messages, actors, state machines and the ports they need. No C, no I/O.

pub mod aggregator;
pub mod backoff;
pub mod clock;
pub mod command;
pub mod effect;
pub mod event;
pub mod ids;
pub mod jobs;
pub mod lane;
pub mod ports;
pub mod record;
pub mod rejection;
pub mod snapshot;
pub mod state;
