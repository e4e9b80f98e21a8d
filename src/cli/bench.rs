//! `horizons bench`: measures against limits taken in the same run.

use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::Args;

use crate::config::Source;
use crate::exit::{Exit, Failure};

use super::{ConfigOption, Context, Form, start_quiet_log};

/// Measure throughput beside the limits of the same machine in the same run
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  horizons bench\n  horizons bench --records 500000 --rounds 3 --json\n  \
                        horizons bench --folder /mnt/fast      measure that disk\n\n\
                        --json prints one object a line: figure, value, unit, limit, limit_value, ratio."
)]
pub(super) struct BenchArguments {
    #[command(flatten)]
    config: ConfigOption,
    /// Records in the log
    #[arg(long, default_value = "200000")]
    records: NonZeroU64,
    /// Bytes of a record's payload
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(64..=1_000_000))]
    payload_bytes: u32,
    /// Rounds; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Folder to work in [default: a temporary one]
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// What the benchmark is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchOptions {
    /// Records in the log.
    pub records: NonZeroU64,
    /// Bytes of a record's payload.
    pub payload_bytes: u32,
    /// Rounds.
    pub rounds: u32,
    /// The folder to work in; none means a temporary one.
    pub folder: Option<PathBuf>,
    /// For whom it prints.
    pub form: Form,
}

/// Runs the benchmark with the example's settings, whatever lies in the working folder.
pub(super) fn run(arguments: &BenchArguments, context: &Context<'_>) -> Result<Exit, Failure> {
    let config = arguments.config.load_or(context, Some(Source::example()))?.config;
    start_quiet_log(&config, context)?;
    let options = BenchOptions {
        records: arguments.records,
        payload_bytes: arguments.payload_bytes,
        rounds: arguments.rounds,
        folder: arguments.folder.clone(),
        form: Form::from_flag(arguments.json),
    };
    (context.hooks.bench)(config, options)
}
