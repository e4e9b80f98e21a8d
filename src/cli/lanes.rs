//! `horizons lanes`: lanes that hold still.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::exit::{Exit, Failure};

use super::client::{Call, ClientOptions};
use super::output::Form;
use super::{Context, ask, print_done, with_output};

/// Let lanes go on that are paused
#[derive(Debug, Subcommand)]
pub(super) enum LanesCommand {
    /// Let lanes go on that a flood of poison has paused; `actors tree` shows which
    #[command(
        after_help = "Examples:\n  horizons lanes resume --group jobs --topic job-lifecycle --partition 3 \
                            --reason 'producer is fixed'\n  horizons lanes resume --group jobs --topic job-lifecycle \
                            --reason 'producer is fixed'      all of them that are paused"
    )]
    Resume(ResumeArguments),
}

/// Names paused lanes.
#[derive(Debug, Args)]
pub(super) struct ResumeArguments {
    /// Consumer group
    #[arg(long)]
    group: String,
    /// Topic
    #[arg(long)]
    topic: String,
    /// Partition; left out, every one whose lane is paused in the server that is asked
    #[arg(long)]
    partition: Option<u64>,
    /// Why; stands in the audit trail
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    client: ClientOptions,
}

/// Runs one of the commands.
pub(super) fn run(command: &LanesCommand, context: &Context<'_>) -> Result<Exit, Failure> {
    let LanesCommand::Resume(arguments) = command;
    let partitions = match arguments.partition {
        Some(partition) => vec![partition],
        None => paused(arguments, context)?,
    };
    if partitions.is_empty() {
        return with_output(Form::from_flag(arguments.client.json), context, |output| {
            if output.form() == Form::Text {
                output.line("no lane is paused")?;
            }
            Ok(Exit::Done)
        });
    }
    for partition in partitions {
        resume(arguments, partition, context)?;
    }
    Ok(Exit::Done)
}

/// Asks which partitions have a paused lane.
fn paused(arguments: &ResumeArguments, context: &Context<'_>) -> Result<Vec<u64>, Failure> {
    let tree = ask(&arguments.client, context, Call::get("/actors"))?.body;
    let groups = tree.get("groups").and_then(Value::as_array).into_iter().flatten();
    let lanes = groups
        .filter(|group| group.get("group").and_then(Value::as_str) == Some(&arguments.group))
        .filter_map(|group| group.get("lanes").and_then(Value::as_array))
        .flatten();
    let has = |lane: &Value, field: &str, text: &str| lane.get(field).and_then(Value::as_str) == Some(text);
    Ok(lanes
        .filter(|lane| has(lane, "topic", &arguments.topic) && has(lane, "state", "paused"))
        .filter_map(|lane| lane.get("partition").and_then(Value::as_u64))
        .collect())
}

fn resume(arguments: &ResumeArguments, partition: u64, context: &Context<'_>) -> Result<Exit, Failure> {
    let ResumeArguments { group, topic, reason, client, .. } = arguments;
    let body = json!({ "group": group, "topic": topic, "partition": partition, "reason": reason });
    let answer = ask(client, context, Call::post("/lanes/resume", body))?;
    print_done(client, context, &format!("lane goes on: {group}/{topic}-{partition}"), &answer)
}
