//! `horizons serve`: runs until it is told to stop.

use clap::Args;

use crate::exit::{Exit, Failure};
use crate::telemetry;

use super::{ConfigOption, Context};

/// Run the event processor until SIGINT or SIGTERM
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  horizons serve\n  horizons serve --config /etc/horizons/config.toml\n  \
                        HORIZONS_HTTP_LISTEN=127.0.0.1:9000 horizons serve"
)]
pub(super) struct ServeArguments {
    #[command(flatten)]
    config: ConfigOption,
}

/// Loads the configuration, starts the log and serves.
pub(super) fn run(arguments: &ServeArguments, context: &Context<'_>) -> Result<Exit, Failure> {
    let config = arguments.config.load(context)?.config;
    telemetry::start(config.log, context.environment).map_err(|error| Failure::new(Exit::Failed, &error))?;
    (context.hooks.serve)(config)
}
