//! `horizons config`: what is configured, and whether it is right.

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::config::{Loaded, SchedulerKind, example_file, markdown_tables};
use crate::exit::{Exit, Failure};

use super::output::Form;
use super::{ConfigOption, Context, with_output};

/// Check the configuration or show what is in force
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check file and environment, and name every problem at once; agents' programs must be there
    #[command(after_help = "Examples:\n  horizons config check\n  horizons config check --config my.toml")]
    Check {
        #[command(flatten)]
        config: ConfigOption,
    },
    /// Show every key's value and where it comes from
    #[command(after_help = "Examples:\n  horizons config show\n  horizons config show --json")]
    Show {
        #[command(flatten)]
        config: ConfigOption,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Print the reference of every key
    #[command(
        after_help = "Examples:\n  horizons config reference\n  horizons config reference --format toml"
    )]
    Reference {
        /// A table for people, or an example file without agents
        #[arg(long, value_enum, default_value_t = ReferenceFormat::Markdown)]
        format: ReferenceFormat,
    },
}

/// The form of the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ReferenceFormat {
    /// Tables.
    Markdown,
    /// An example file.
    Toml,
}

const COLUMNS: [(&str, &str); 3] = [("KEY", "key"), ("VALUE", "value"), ("ORIGIN", "origin")];

/// Runs one of the commands.
pub(super) fn run(command: &ConfigCommand, context: &Context<'_>) -> Result<Exit, Failure> {
    match command {
        ConfigCommand::Check { config } => {
            let loaded = config.load(context)?;
            if loaded.config.scheduler.kind == SchedulerKind::Local {
                config.load_with_programs(context)?;
            }
            let agents = loaded.config.agents.len();
            with_output(Form::Text, context, |output| {
                output.line(&format!("configuration is valid: {agents} agents"))?;
                if let Some(readers) = (context.hooks.readers_of_the_data_folder)(&loaded.config) {
                    output.line(&readers)?;
                }
                Ok(Exit::Done)
            })
        }
        ConfigCommand::Show { config, json } => {
            let rows = rows(&config.load(context)?);
            with_output(Form::from_flag(*json), context, |output| {
                output.rows(&COLUMNS, &rows)?;
                Ok(Exit::Done)
            })
        }
        ConfigCommand::Reference { format } => {
            let text = match format {
                ReferenceFormat::Markdown => markdown_tables(),
                ReferenceFormat::Toml => example_file(),
            };
            with_output(Form::Text, context, |output| {
                output.line(text.trim_end())?;
                Ok(Exit::Done)
            })
        }
    }
}

/// Gives keys, then agents, with their origins.
fn rows(loaded: &Loaded) -> Vec<Value> {
    let keys = loaded
        .values
        .iter()
        .map(|shown| json!({"key": shown.key, "value": shown.value, "origin": shown.origin.to_string()}));
    let agents = loaded
        .config
        .agents
        .iter()
        .map(|(name, agent)| json!({"key": format!("agents.{name}.program"), "value": agent.program, "origin": "file"}));
    keys.chain(agents).collect()
}
