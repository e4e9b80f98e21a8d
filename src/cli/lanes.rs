//! `horizons lanes`: lanes that hold still.

use clap::{Args, Subcommand};
use serde_json::json;

use crate::exit::{Exit, Failure};

use super::client::{Call, ClientOptions};
use super::lane::LaneArguments;
use super::{Context, ask, print_done};

/// Let lanes go on that are paused
#[derive(Debug, Subcommand)]
pub(super) enum LanesCommand {
    /// Let a lane go on that a flood of poison has paused; `actors tree` shows which
    #[command(
        after_help = "Example:\n  horizons lanes resume --group jobs --topic job-lifecycle --partition 3 \
                            --reason 'producer is fixed'"
    )]
    Resume(ResumeArguments),
}

/// Names a paused lane.
#[derive(Debug, Args)]
pub(super) struct ResumeArguments {
    #[command(flatten)]
    lane: LaneArguments,
    /// Why; stands in the audit trail
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    client: ClientOptions,
}

/// Runs one of the commands.
pub(super) fn run(command: &LanesCommand, context: &Context<'_>) -> Result<Exit, Failure> {
    let LanesCommand::Resume(ResumeArguments { lane, reason, client }) = command;
    let body = json!({
        "group": lane.group,
        "topic": lane.topic,
        "partition": lane.partition,
        "reason": reason,
    });
    let answer = ask(client, context, Call::post("/lanes/resume", body))?;
    print_done(client, context, &format!("lane goes on: {lane}"), &answer)
}
