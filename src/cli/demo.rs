//! `horizons demo`: everything at work in a temporary folder.

use clap::Args;

use crate::config::Source;
use crate::exit::{Exit, Failure};

use super::{ConfigOption, Context, Form, start_quiet_log};

/// See everything work: real jobs of every outcome in a temporary folder, then an account that must add up
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  horizons demo\n  horizons demo --jobs 50 --json\n  horizons demo --keep      \
                        go on serving afterwards\n\nExit code 0 only if everything adds up."
)]
pub(super) struct DemoArguments {
    #[command(flatten)]
    config: ConfigOption,
    /// Go on serving afterwards, and keep the folder
    #[arg(long)]
    keep: bool,
    /// Jobs to run
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(5..=10_000))]
    jobs: u32,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// What happens when the demonstration has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Afterwards {
    /// It ends and leaves nothing behind.
    End,
    /// It goes on serving.
    KeepServing,
}

/// What the demonstration is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DemoOptions {
    /// Jobs to run.
    pub jobs: u32,
    /// What happens afterwards.
    pub afterwards: Afterwards,
    /// For whom it prints.
    pub form: Form,
}

/// Runs the demonstration with the example agents, whatever lies in the working folder.
pub(super) fn run(arguments: &DemoArguments, context: &Context<'_>) -> Result<Exit, Failure> {
    let config = arguments.config.load_or(context, Some(Source::example()))?.config;
    start_quiet_log(&config, context)?;
    let afterwards = if arguments.keep { Afterwards::KeepServing } else { Afterwards::End };
    let options = DemoOptions { jobs: arguments.jobs, afterwards, form: Form::from_flag(arguments.json) };
    (context.hooks.demo)(config, options)
}
