//! Horizons: the event processor of Cosmic Horizons.

pub mod embedded_log;
//! Horizons.

pub mod db;
pub mod faults;
