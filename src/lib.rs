//! Horizons.
