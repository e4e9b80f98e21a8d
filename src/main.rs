//! Arguments, configuration, start, exit code.
fn main() {}
