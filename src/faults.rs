//! Named points at which a test build ends the process.

/// Marks a point.
pub fn hit(_point: &str) {}
