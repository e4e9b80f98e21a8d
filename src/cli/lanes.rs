//! `horizons lanes`: lanes that hold still.
//!
//! Promises to see and to resume them whichever process has them: what holds a lane is stored.

use clap::{Args, Subcommand};
use hyper::StatusCode;
use serde_json::{Value, json};

use crate::exit::{Exit, Failure};

use super::client::{Answer, Call, Client, ClientError, ClientOptions};
use super::output::{Column, Form};
use super::{Context, ask, converse, print_done, print_page, with_output};

/// Look at lanes that are paused and let them go on
#[derive(Debug, Subcommand)]
pub(super) enum LanesCommand {
    /// List the lanes that a flood of poison has paused, whichever process has them
    #[command(after_help = "Examples:\n  horizons lanes list\n  horizons lanes list --group jobs --json")]
    List {
        /// Of this consumer group only
        #[arg(long)]
        group: Option<String>,
        /// Of this topic only
        #[arg(long)]
        topic: Option<String>,
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Let lanes go on that a flood of poison has paused; `lanes list` shows which
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
    /// Partition; left out, every one whose lane is paused, whichever process has it
    #[arg(long)]
    partition: Option<u64>,
    /// Why; stands in the audit trail
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    client: ClientOptions,
}

const COLUMNS: [Column; 4] =
    [("GROUP", "group"), ("TOPIC", "topic"), ("PARTITION", "partition"), ("REASON", "reason")];

/// Runs one of the commands.
pub(super) fn run(command: &LanesCommand, context: &Context<'_>) -> Result<Exit, Failure> {
    match command {
        LanesCommand::List { group, topic, client } => {
            let call = paused().query("group", group.as_ref()).query("topic", topic.as_ref());
            let answer = ask(client, context, call)?;
            print_page(client, context, &COLUMNS, &answer)
        }
        LanesCommand::Resume(arguments) => match arguments.partition {
            Some(partition) => {
                let answer = ask(&arguments.client, context, arguments.call(partition))?;
                arguments.print(partition, &answer, context)
            }
            None => resume_all(arguments, context),
        },
    }
}

/// Asks which lanes are paused.
fn paused<'a>() -> Call<'a> {
    Call::get("/lanes/paused")
}

/// Resumes every lane of the topic in the group that is paused.
fn resume_all(arguments: &ResumeArguments, context: &Context<'_>) -> Result<Exit, Failure> {
    let client = Client::new(&arguments.client, context)?;
    let call = paused().query("group", Some(&arguments.group)).query("topic", Some(&arguments.topic));
    let lanes = converse(async { Ok(client.call(call).await?) })?.rows();
    let partitions = lanes.iter().filter_map(|lane| lane.get("partition").and_then(Value::as_u64));
    let mut resumed = 0;
    for partition in partitions {
        match converse(async { Ok(client.call(arguments.call(partition)).await) })? {
            Ok(answer) => {
                arguments.print(partition, &answer, context)?;
                resumed += 1;
            }
            // Somebody else has resumed it since.
            Err(ClientError::Refused { status: StatusCode::CONFLICT, .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if resumed == 0 {
        with_output(Form::from_flag(arguments.client.json), context, |output| match output.form() {
            Form::Text => output.line("no lane is paused"),
            Form::Json => Ok(()),
        })?;
    }
    Ok(Exit::Done)
}

impl ResumeArguments {
    fn call(&self, partition: u64) -> Call<'_> {
        let ResumeArguments { group, topic, reason, .. } = self;
        let body = json!({ "group": group, "topic": topic, "partition": partition, "reason": reason });
        Call::post("/lanes/resume", body)
    }

    fn print(&self, partition: u64, answer: &Answer, context: &Context<'_>) -> Result<Exit, Failure> {
        let ResumeArguments { group, topic, client, .. } = self;
        print_done(client, context, &format!("lane goes on: {group}/{topic}-{partition}"), answer)
    }
}
