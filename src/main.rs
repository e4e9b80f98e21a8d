//! Arguments, configuration, start, exit code.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [command, folder] if command == "run-agent" => horizons::run_agent::run(Path::new(folder)),
        _ => ExitCode::SUCCESS,
    }
}
