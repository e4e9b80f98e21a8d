//! `horizons events`: appends records that somebody else made.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::exit::{Exit, Failure};

use super::client::{Call, Client, ClientError, ClientOptions, base64_text, percent_encoded};
use super::output::Form;
use super::record_file::{Part, RecordFile};
use super::{Context, ask, converse, print_done, with_output};

/// Append records to a topic
#[derive(Debug, Subcommand)]
pub(super) enum EventsCommand {
    /// Append one record, byte for byte as given, or many from a file
    #[command(after_help = "Examples:\n  \
        horizons events publish system-health --key cluster --value-file event.json --header content-type=application/json\n  \
        horizons events publish job-lifecycle --key j-1 --value 'not an event'      becomes a dead letter\n  \
        horizons events publish job-metrics --records records.jsonl\n\n\
        A line of --records is an object: {\"key_base64\": …, \"value_base64\": …, \"headers\": {…}}; - reads standard input.\n\
        A file of any size is sent in parts, each whole or not at all; a failure names the line and what was appended.")]
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
    match &arguments.records {
        Some(path) => publish_file(path, &arguments, context),
        None => {
            let call = call(&arguments.topic, &[record(&arguments)?]);
            let answer = ask(&arguments.client, context, call)?;
            print_done(&arguments.client, context, &sentence(1, &arguments.topic), &answer)
        }
    }
}

fn call(topic: &str, records: &[Value]) -> Call<'static> {
    Call::post(format!("/topics/{}/records", percent_encoded(topic)), json!({ "records": records }))
}

fn sentence(count: usize, topic: &str) -> String {
    format!("appended {count} record{} to {topic}", if count == 1 { "" } else { "s" })
}

/// Publishes a file in parts, each of them whole or not at all, one after the other.
fn publish_file(path: &Path, arguments: &PublishArguments, context: &Context<'_>) -> Result<Exit, Failure> {
    let mut file = RecordFile::new(open(path)?);
    let client = Client::new(&arguments.client, context)?;
    let form = Form::from_flag(arguments.client.json);
    let mut appended = 0;
    let stopped = |appended: usize, failure: Failure| {
        let before = format!("{}; then: ", sentence(appended, &arguments.topic));
        Failure {
            message: format!("{}{}", if appended > 0 { &before } else { "" }, failure.message),
            ..failure
        }
    };
    loop {
        let part = file.next_part().map_err(|error| stopped(appended, Failure::new(Exit::Usage, &error)))?;
        let Some(part) = part else { break };
        let mut waiting = vec![part];
        while let Some(part) = waiting.pop() {
            match converse(async { Ok(client.call(call(&arguments.topic, &part.records)).await) }) {
                Ok(Ok(answer)) => {
                    appended += part.records.len();
                    if form == Form::Json {
                        with_output(form, context, |output| output.json(&answer.body))?;
                    }
                }
                Ok(Err(error)) if error.is_too_large() && part.records.len() > 1 => {
                    let (first, rest) = part.halves();
                    waiting.extend(rest);
                    waiting.push(first);
                }
                Ok(Err(error)) => return Err(stopped(appended, part_failure(&part, error))),
                Err(failure) => {
                    let unknown = format!("{}; {} may be appended or not", failure.message, part.span());
                    return Err(stopped(appended, Failure { message: unknown, ..failure }));
                }
            }
        }
    }
    if appended == 0 {
        return Err(Failure::text(
            Exit::Usage,
            "failed to read `--records`: wanted at least one record, got none",
        ));
    }
    if form == Form::Text {
        with_output(form, context, |output| output.line(&sentence(appended, &arguments.topic)))?;
    }
    Ok(Exit::Done)
}

/// Says which lines a failure is about, and what is known of them.
fn part_failure(part: &Part, error: ClientError) -> Failure {
    let place = match error.refused_item("records").and_then(|index| part.lines.get(index)) {
        Some(line) => format!("`--records` line {line}: "),
        None => format!("`--records` {}: ", part.span()),
    };
    let is_unknown = matches!(error, ClientError::Broken { .. } | ClientError::Foreign { .. });
    let failure = Failure::from(error);
    let known = if is_unknown { "; they may be appended or not" } else { "" };
    Failure { message: format!("{place}{}{known}", failure.message), ..failure }
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

/// Opens a file, or standard input where it is called `-`.
fn open(path: &Path) -> Result<Box<dyn BufRead>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::new(std::io::stdin())));
    }
    match File::open(path) {
        Ok(file) => Ok(Box::new(BufReader::new(file))),
        Err(error) => {
            Err(Failure::text(Exit::Usage, format!("failed to read `{}`: {error}", path.display())))
        }
    }
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = open(path)?.read_to_end(&mut bytes);
    read.map_err(|error| {
        Failure::text(Exit::Usage, format!("failed to read `{}`: {error}", path.display()))
    })?;
    Ok(bytes)
}
