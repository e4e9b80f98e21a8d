//! Horizons: the event processor of Cosmic Horizons.
//!
//! # The path of an event
//!
//! ```text
//!  HTTP, CLI ─► orchestrator ─► store: job row + log rows (one transaction) ─► orders ─► scheduler ─► shim ─► agent
//!                                  │
//!                                  ▼
//!                     embedded log: topics × partitions (the store's own table)
//!                                  │  one reader thread per consumer group, held back by credits
//!             ┌────────────────────┼────────────────────┐
//!         Dispatcher           Dispatcher           Dispatcher          (`horizons_actors::dispatcher`)
//!         audit-trail          job-metrics          jobs
//!             │ one lane per partition, batches in order                (`horizons_actors::lane`)
//!           Lane …               Lane …               Lane …
//!             │ decode → load state → pure behaviour → effects
//!             ▼
//!     store: effects + next offset in one transaction, compare-and-set on owner and position
//!             │ after commit
//!             └─► credits back, job supervisors, metrics
//! ```
//!
//! An event is written once, in the transaction that caused it ([`orchestrator`], [`db`]). Each consumer
//! group reads it on its own ([`embedded_log`]), applies it on the lane of its partition, and stores its
//! effects together with the position behind it. Whatever is in memory may vanish at any instant: every
//! recovery reads again from the stored position.
//!
//! [`app`] alone knows all parts. What touches the outside world is here; what thinks is in
//! `horizons_actors`, which holds no C and does no I/O.

pub mod app;
pub mod cli;
pub mod config;
pub mod db;
pub mod disk;
pub mod embedded_log;
pub mod exit;
pub mod faults;
pub mod http;
pub mod kafka;
pub mod life;
pub mod metrics;
pub mod orchestrator;
pub mod periodic;
pub mod presence;
pub mod private;
pub mod probes;
pub mod run_agent;
pub mod scheduler;
pub mod secret;
pub mod shown;
pub mod telemetry;
pub mod witness;
