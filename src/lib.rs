//! Horizons.

pub mod faults;
