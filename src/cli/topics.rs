//! `horizons topics`: the topics of an event log on Kafka.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::exit::{Exit, Failure};

use super::client::{Call, ClientOptions};
use super::{ConfigOption, Context, Form, ask, print_done, start_quiet_log};

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
    /// Let the partitions count that were added to a topic, from where they end now; asks a running server
    #[command(
        name = "adopt-layout",
        after_help = "Example:\n  horizons topics adopt-layout job-lifecycle --reason 'producers are stopped'\n\nUntil then nothing \
                      is read of them. Keys of other producers go to other partitions from then on: stop those producers, or \
                      be sure that they have seen the new partitions. Cannot be taken back."
    )]
    AdoptLayout(AdoptArguments),
}

/// Names a topic that has grown.
#[derive(Debug, Args)]
pub(super) struct AdoptArguments {
    /// Topic, without a prefix
    topic: String,
    /// Why; stands in the audit trail
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    client: ClientOptions,
}

/// Has a server adopt a topic's added partitions.
fn adopt(arguments: &AdoptArguments, context: &Context<'_>) -> Result<Exit, Failure> {
    let AdoptArguments { topic, reason, client } = arguments;
    let path = format!("/topics/{topic}/layout");
    let answer = ask(client, context, Call::post(&path, json!({ "reason": reason })))?;
    let partitions = answer.body.get("partitions").and_then(Value::as_u64).unwrap_or_default();
    print_done(client, context, &format!("{partitions} partitions of {topic} count"), &answer)
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
        TopicsCommand::AdoptLayout(arguments) => return adopt(arguments, context),
        TopicsCommand::Create(arguments) => (TopicsAct::Create, arguments),
        TopicsCommand::Check(arguments) => (TopicsAct::Check, arguments),
        TopicsCommand::Describe(arguments) => (TopicsAct::Describe, arguments),
    };
    let config = arguments.config.load(context)?.config;
    start_quiet_log(&config, context)?;
    (context.hooks.topics)(config, act, Form::from_flag(arguments.json))
}
