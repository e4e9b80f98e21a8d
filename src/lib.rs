//! Horizons: the event processor of Cosmic Horizons.

pub mod db;
pub mod embedded_log;
pub mod faults;
pub mod orchestrator;
//! Horizons.

pub mod cli;
pub mod config;
pub mod exit;
pub mod telemetry;
