//! `horizons events`: appends records that somebody else made.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::exit::{Exit, Failure};

use super::client::{Call, ClientOptions, base64_text, percent_encoded};
use super::{Context, ask, print_done};

/// Append records to a topic
#[derive(Debug, Subcommand)]
pub(super) enum EventsCommand {
    /// Append one record, byte for byte as given, or many from a file
    #[command(after_help = "Examples:\n  \
        horizons events publish system-health --key cluster --value-file event.json --header content-type=application/json\n  \
        horizons events publish job-lifecycle --key j-1 --value 'not an event'      becomes a dead letter\n  \
        horizons events publish job-metrics --records records.jsonl\n\n\
        A line of --records is an object: {\"key_base64\": …, \"value_base64\": …, \"headers\": {…}}; - reads standard input.")]
    Publish(PublishArguments),
}

#[derive(Debug, Args)]
pub(super) struct PublishArguments {
    /// Topic
    topic: String,
    /// Key as text; without a key the record has none
    #[arg(long, conflicts_with = "key_base64")]
    key: Option<String>,
    /// Key as base64
    #[arg(long, value_name = "BASE64")]
    key_base64: Option<String>,
    /// Payload as text
    #[arg(long, conflicts_with_all = ["value_file", "value_base64"])]
    value: Option<String>,
    /// Payload from a file, `-` for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "value_base64")]
    value_file: Option<PathBuf>,
    /// Payload as base64
    #[arg(long, value_name = "BASE64")]
    value_base64: Option<String>,
    /// Header, may be repeated
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = name_and_value)]
    headers: Vec<(String, String)>,
    /// Records from a file, one JSON object a line, `-` for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["key", "key_base64", "value", "value_file", "value_base64", "headers"])]
    records: Option<PathBuf>,
    #[command(flatten)]
    client: ClientOptions,
}

/// Splits `NAME=VALUE`.
///
/// *Errors*: what was wanted, in words.
pub(super) fn name_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("wanted `NAME=VALUE`".to_owned()),
    }
}

/// Publishes and says how many records were appended.
pub(super) fn run(command: EventsCommand, context: &Context<'_>) -> Result<Exit, Failure> {
    let EventsCommand::Publish(arguments) = command;
    let records = match &arguments.records {
        Some(path) => read_records(path)?,
        None => vec![record(&arguments)?],
    };
    let count = records.len();
    let path = format!("/topics/{}/records", percent_encoded(&arguments.topic));
    let answer = ask(&arguments.client, context, Call::post(path, json!({ "records": records })))?;
    let sentence =
        format!("appended {count} record{} to {}", if count == 1 { "" } else { "s" }, arguments.topic);
    print_done(&arguments.client, context, &sentence, &answer)
}

/// Makes the one record that the options describe.
fn record(arguments: &PublishArguments) -> Result<Value, Failure> {
    let key = arguments.key.as_ref().map(|text| base64_text(text.as_bytes()));
    let value = match (&arguments.value, &arguments.value_file) {
        (Some(text), _) => Some(base64_text(text.as_bytes())),
        (None, Some(path)) => Some(base64_text(&read_bytes(path)?)),
        (None, None) => arguments.value_base64.clone(),
    };
    let headers: Map<String, Value> =
        arguments.headers.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
    Ok(json!({
        "key_base64": key.or_else(|| arguments.key_base64.clone()),
        "value_base64": value,
        "headers": headers,
    }))
}

/// Reads records, one JSON object a line; empty lines are skipped.
fn read_records(path: &Path) -> Result<Vec<Value>, Failure> {
    let text = String::from_utf8(read_bytes(path)?)
        .map_err(|error| Failure::text(Exit::Usage, format!("failed to read `--records`: {error}")))?;
    let mut records = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let record: Value = serde_json::from_str(line).map_err(|error| {
            Failure::text(Exit::Usage, format!("failed to read `--records` line {}: {error}", index + 1))
        })?;
        records.push(record);
    }
    if records.is_empty() {
        return Err(Failure::text(
            Exit::Usage,
            "failed to read `--records`: wanted at least one record, got none",
        ));
    }
    Ok(records)
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    read.map_err(|error| Failure::text(Exit::Usage, format!("failed to read `{}`: {error}", path.display())))
}
