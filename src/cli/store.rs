//! `horizons store`: the tables of a store on PostgreSQL.

use clap::Subcommand;

use crate::exit::{Exit, Failure};

use super::{ConfigOption, Context, Form, start_quiet_log, with_output};

/// Look after the tables of a store on PostgreSQL
#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Make and change the tables, as the role of `postgres.url`; grant `postgres.grant_to` what `serve` needs
    #[command(
        after_help = "Example:\n  HORIZONS_POSTGRES_URL=postgres://owner@db/horizons HORIZONS_POSTGRES_GRANT_TO=horizons \
                            horizons store migrate\n\nWith `postgres.migrations = \"by_operator\"` `serve` only \
                            checks the tables, and may run as a role that cannot change the audit trail."
    )]
    Migrate {
        #[command(flatten)]
        config: ConfigOption,
    },
}

/// Runs one of the commands.
pub(super) fn run(command: &StoreCommand, context: &Context<'_>) -> Result<Exit, Failure> {
    let StoreCommand::Migrate { config } = command;
    let config = config.load(context)?.config;
    start_quiet_log(&config, context)?;
    let exit = (context.hooks.migrate_store)(config)?;
    with_output(Form::Text, context, |output| output.line("the tables are as this version needs them"))?;
    Ok(exit)
}
