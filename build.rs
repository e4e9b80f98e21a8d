//! Rebuilds when a migration changes: they are built into the program.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
