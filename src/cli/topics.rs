//! `horizons topics`: the topics of an event log on Kafka.

use clap::{Args, Subcommand};

use crate::exit::{Exit, Failure};

use super::{ConfigOption, Context, Form, start_quiet_log};

/// Create, check and describe the topics of an event log on Kafka
#[derive(Debug, Subcommand)]
pub(super) enum TopicsCommand {
    /// Create the topics that are missing; those that exist are left as they are
    #[command(after_help = "Examples:\n  horizons topics create\n  HORIZONS_KAFKA_BOOTSTRAP=kafka-1:9092 \
                            HORIZONS_EVENT_LOG_KIND=kafka horizons topics create\n\nWants `event_log.kind = \
                            \"kafka\"`. Copies of each partition: `kafka.replication_factor`.")]
    Create(TopicsArguments),
    /// Compare the topics with what Horizons needs; exit code 1 where something differs
    #[command(after_help = "Example:\n  horizons topics check --json")]
    Check(TopicsArguments),
    /// Show every topic with its partitions, copies, retention and ends
    #[command(after_help = "Example:\n  horizons topics describe --json")]
    Describe(TopicsArguments),
}

/// Which brokers, and for whom the answer is.
#[derive(Debug, Args)]
pub(super) struct TopicsArguments {
    #[command(flatten)]
    config: ConfigOption,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// What is to be done with the topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TopicsAct {
    /// Create what is missing.
    Create,
    /// Compare.
    Check,
    /// Show.
    Describe,
}

/// Runs one of the commands.
pub(super) fn run(command: &TopicsCommand, context: &Context<'_>) -> Result<Exit, Failure> {
    let (act, arguments) = match command {
        TopicsCommand::Create(arguments) => (TopicsAct::Create, arguments),
        TopicsCommand::Check(arguments) => (TopicsAct::Check, arguments),
        TopicsCommand::Describe(arguments) => (TopicsAct::Describe, arguments),
    };
    let config = arguments.config.load(context)?.config;
    start_quiet_log(&config, context)?;
    (context.hooks.topics)(config, act, Form::from_flag(arguments.json))
}
