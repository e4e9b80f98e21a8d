//! Arguments, configuration, start, exit code.

use std::collections::BTreeMap;
use std::process::ExitCode;

use horizons::app;
use horizons::cli::{self, Hooks};

fn main() -> ExitCode {
    // A value that is not UTF-8 is no value of ours; the check refuses it, with its odd bytes replaced.
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect();
    cli::run(std::env::args_os(), &environment, &HOOKS).into()
}

/// The functions behind the commands.
const HOOKS: Hooks = Hooks {
    serve: app::serve::serve,
    demo: app::demo::demo,
    bench: app::bench::bench,
    run_agent: app::run_agent,
    topics: app::topics::topics,
    migrate_store: app::migrate_store,
    open_store: app::serve::open_for_reading,
    check_agent: app::check_agent,
    check_program: app::check_program,
    readers_of_the_data_folder: app::readers_of_the_data_folder,
};
