//! Horizons: the event processor of Cosmic Horizons.

pub mod db;
pub mod embedded_log;
pub mod faults;
pub mod orchestrator;
