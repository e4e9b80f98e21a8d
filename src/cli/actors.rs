//! `horizons actors`: the actor tree.

use clap::Subcommand;
use serde_json::Value;

use crate::exit::{Exit, Failure};

use super::client::{Call, ClientOptions};
use super::output::{Column, Form, Output, cell};
use super::{Context, ask, with_output};

/// Look at the actors
#[derive(Debug, Subcommand)]
pub(super) enum ActorsCommand {
    /// Show groups and lanes with state, position, lag, pace of the last minute and restarts
    #[command(after_help = "Examples:\n  horizons actors tree\n  horizons actors tree --json")]
    Tree {
        #[command(flatten)]
        client: ClientOptions,
    },
}

/// Columns of a group's lanes.
const LANE_COLUMNS: [(&str, &str); 15] = [
    ("TOPIC", "topic"),
    ("PARTITION", "partition"),
    ("STATE", "state"),
    ("NEXT", "next_offset"),
    ("END", "log_end_offset"),
    ("HIGH", "log_high_offset"),
    ("OPEN S", "transaction_open_seconds"),
    ("LAG", "lag_records"),
    ("LAG S", "lag_seconds"),
    ("EVENTS/S", "events_per_second"),
    ("P99 MS", "processing_p99_ms"),
    ("PARKED", "parked_keys"),
    ("WAITING", "parked_records"),
    ("RESTARTS", "restarts"),
    ("LAST ERROR", "last_error"),
];

/// Asks for the tree and prints it.
pub(super) fn run(command: &ActorsCommand, context: &Context<'_>) -> Result<Exit, Failure> {
    let ActorsCommand::Tree { client } = command;
    let answer = ask(client, context, Call::get("/actors"))?;
    with_output(Form::from_flag(client.json), context, |output| {
        match output.form() {
            Form::Json => output.json(&answer.body)?,
            Form::Text => print_tree(output, &answer.body)?,
        }
        Ok(Exit::Done)
    })
}

/// What is told of a thread that has been at one thing for long.
const THREAD_COLUMNS: [Column; 3] = [("THREAD", "thread"), ("DOES", "does"), ("FOR S", "silent_seconds")];

/// A thread that does one thing for longer is shown.
const LONG_SECONDS: f64 = 1.0;

fn print_tree(output: &mut Output<'_>, tree: &Value) -> Result<(), Failure> {
    output.line(&format!("job supervisors: {}", cell(tree, "job_supervisors")))?;
    let threads = tree.get("threads").and_then(Value::as_array).into_iter().flatten();
    let is_long = |thread: &&Value| {
        let seconds = thread.get("silent_seconds").and_then(Value::as_f64);
        cell(thread, "state") == "working" && seconds.is_some_and(|seconds| seconds >= LONG_SECONDS)
    };
    let long: Vec<Value> = threads.filter(is_long).cloned().collect();
    if !long.is_empty() {
        output.rows(&THREAD_COLUMNS, &long)?;
    }
    for group in tree.get("groups").and_then(Value::as_array).into_iter().flatten() {
        let error = match cell(group, "last_error") {
            error if error == "-" => String::new(),
            error => format!(", last error: {error}"),
        };
        output.line(&format!(
            "\n{}: {}, {} restarts, {} rebalances{error}",
            cell(group, "group"),
            cell(group, "state"),
            cell(group, "restarts"),
            cell(group, "rebalances"),
        ))?;
        output.line(&pace(group))?;
        let lanes = group.get("lanes").and_then(Value::as_array).cloned().unwrap_or_default();
        output.rows(&LANE_COLUMNS, &lanes)?;
    }
    Ok(())
}

/// Says what a group answered of late.
fn pace(group: &Value) -> String {
    if group.get("processing_p50_ms").is_none_or(Value::is_null) {
        return "  last minute: nothing came".to_owned();
    }
    format!(
        "  last minute: {} events/s, error rate {}, waiting {}, processing P50 {} P95 {} P99 {} ms",
        cell(group, "events_per_second"),
        cell(group, "error_rate"),
        cell(group, "waiting_rate"),
        cell(group, "processing_p50_ms"),
        cell(group, "processing_p95_ms"),
        cell(group, "processing_p99_ms"),
    )
}
