//! `horizons relay`: how publishing to Kafka stands, and what becomes of a record that Kafka refuses.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::exit::{Exit, Failure};

use super::client::{Call, ClientOptions};
use super::{Context, Form, PageOptions, ask, print_done, print_page, with_output};

/// See how publishing to Kafka stands, and take a refused record out of the way
#[derive(Debug, Subcommand)]
pub(super) enum RelayCommand {
    /// Show whether this process publishes, what waits and what is in the way
    #[command(after_help = "Examples:\n  horizons relay status\n  horizons relay status --json")]
    Status {
        #[command(flatten)]
        client: ClientOptions,
    },
    /// List records that were set aside
    #[command(after_help = "Example:\n  horizons relay list --json")]
    List {
        #[command(flatten)]
        page: PageOptions,
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Keep the record apart at which a partition stands, so that the partition goes on
    #[command(
        after_help = "Example:\n  horizons relay set-aside --topic job-metrics --partition 3 --offset 42 \
                            --reason 'too large for the topic'"
    )]
    SetAside {
        #[command(flatten)]
        place: PlaceArguments,
        /// Offset of the record in the outbox, as `horizons relay status` shows it
        #[arg(long)]
        offset: u64,
    },
    /// Send the record again at which a partition stands, because the topic was changed
    #[command(
        after_help = "Example:\n  horizons relay send-again --topic job-metrics --partition 3 --reason 'limit raised'"
    )]
    SendAgain {
        #[command(flatten)]
        place: PlaceArguments,
    },
}

/// Names a partition that stands.
#[derive(Debug, Args)]
pub(super) struct PlaceArguments {
    /// Topic, without a prefix
    #[arg(long)]
    topic: String,
    /// Partition
    #[arg(long)]
    partition: u16,
    /// Why; stands in the audit trail
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    client: ClientOptions,
}

const PARTITION_COLUMNS: [(&str, &str); 6] = [
    ("TOPIC", "topic"),
    ("PARTITION", "partition"),
    ("NEXT", "next"),
    ("END", "end"),
    ("CONDITION", "condition"),
    ("DETAIL", "detail"),
];

const SET_ASIDE_COLUMNS: [(&str, &str); 4] =
    [("TOPIC", "topic"), ("PARTITION", "partition"), ("OFFSET", "offset"), ("SET ASIDE", "set_aside_at")];

/// Runs one of the commands.
pub(super) fn run(command: &RelayCommand, context: &Context<'_>) -> Result<Exit, Failure> {
    match command {
        RelayCommand::Status { client } => {
            let answer = ask(client, context, Call::get("/relay"))?;
            print_status(client, context, &answer.body)
        }
        RelayCommand::List { page, client } => {
            let mut answer = ask(client, context, page.of(Call::get("/relay/set-aside")))?;
            for row in answer.body.get_mut("set_aside").and_then(Value::as_array_mut).into_iter().flatten() {
                let offset = row.pointer("/record/offset").cloned();
                if let (Some(row), Some(offset)) = (row.as_object_mut(), offset) {
                    row.insert("offset".to_owned(), offset);
                }
            }
            print_page(client, context, &SET_ASIDE_COLUMNS, &answer)
        }
        RelayCommand::SetAside { place, offset } => {
            let body = json!({
                "topic": place.topic,
                "partition": place.partition,
                "offset": offset,
                "reason": place.reason,
            });
            let answer = ask(&place.client, context, Call::post("/relay/set-aside", body))?;
            let done = format!("set aside: {}-{} at {offset}", place.topic, place.partition);
            print_done(&place.client, context, &done, &answer)
        }
        RelayCommand::SendAgain { place } => {
            let body = json!({ "topic": place.topic, "partition": place.partition, "reason": place.reason });
            let answer = ask(&place.client, context, Call::post("/relay/send-again", body))?;
            let done = format!("asked for: {}-{} sends again", place.topic, place.partition);
            print_done(&place.client, context, &done, &answer)
        }
    }
}

fn print_status(client: &ClientOptions, context: &Context<'_>, status: &Value) -> Result<Exit, Failure> {
    with_output(Form::from_flag(client.json), context, |output| {
        if output.form() == Form::Json {
            output.json(status)?;
            return Ok(Exit::Done);
        }
        let shown = |field: &str| match status.get(field) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None => "-".to_owned(),
            Some(other) => other.to_string(),
        };
        for (name, field) in [
            ("publishes here", "is_leader"),
            ("trouble", "trouble"),
            ("records waiting", "waiting_records"),
            ("oldest, seconds", "oldest_seconds"),
            ("records in flight", "in_flight_records"),
            ("producers made anew", "rebuilds"),
        ] {
            output.line(&format!("{name:<20}{}", shown(field)))?;
        }
        let partitions = status.get("partitions").and_then(Value::as_array).cloned().unwrap_or_default();
        if !partitions.is_empty() {
            output.line("")?;
            output.rows(&PARTITION_COLUMNS, &partitions)?;
        }
        Ok(Exit::Done)
    })
}
