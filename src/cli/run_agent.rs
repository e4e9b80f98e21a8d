//! `horizons run-agent`: one attempt under its shim. Called by the scheduler, not by people.

use std::ffi::OsString;

use clap::Args;

use crate::exit::{Exit, Failure};

use super::Context;

/// Run one attempt; the scheduler calls this
#[derive(Debug, Args)]
#[command(hide = true, disable_help_flag = true)]
pub(super) struct RunAgentArguments {
    /// The scheduler's own arguments, as they are
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Hands the arguments to the scheduler's shim.
pub(super) fn run(arguments: RunAgentArguments, context: &Context<'_>) -> Result<Exit, Failure> {
    (context.hooks.run_agent)(arguments.arguments)
}
