//! `horizons jobs logs`: what a job's agent wrote.
//!
//! Promises the agent's bytes on standard output as they were written, but for a terminal: there, what could steer it is
//! shown. `--follow` ends with the attempt.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::exit::{Exit, Failure};
use crate::shown::shown_lines;

use super::client::{Call, Client, ClientOptions, base64_bytes};
use super::job_id::AskedJob;
use super::output::Form;
use super::{Context, converse, hint, with_output};

/// Shows what a job's agent wrote.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  horizons jobs logs JOB\n  horizons jobs logs JOB --stderr --attempt 2\n  \
    horizons jobs logs JOB --follow\n\n\
    With --json each line is an object with `stream` and `content_base64`."
)]
pub(super) struct LogsArguments {
    /// Job id, or a beginning of it that no other has
    job: String,
    /// Which of the two outputs
    #[arg(long, value_enum, default_value_t = Stream::Stdout)]
    stream: Stream,
    /// Short for --stream stderr
    #[arg(long, conflicts_with = "stream")]
    stderr: bool,
    /// Which attempt [default: the latest]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
    /// Go on until the attempt has ended
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    client: ClientOptions,
}

/// One of the two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How often `--follow` asks.
const FOLLOW_POLL: Duration = Duration::from_millis(300);

/// Bytes of a part.
const PART_BYTES: u32 = 256 << 10;

/// Prints the output.
pub(super) fn run(arguments: &LogsArguments, context: &Context<'_>) -> Result<Exit, Failure> {
    let client = Client::new(&arguments.client, context)?;
    let form = Form::from_flag(arguments.client.json);
    let stream = match arguments.stream {
        Stream::Stdout if !arguments.stderr => "stdout",
        Stream::Stdout | Stream::Stderr => "stderr",
    };
    converse(async {
        let mut asked = AskedJob::new(&arguments.job);
        let mut attempt = arguments.attempt;
        let mut cursor: Option<String> = None;
        // Asked before each part: what is read after the end is all there is.
        let mut is_over = false;
        loop {
            if arguments.follow && !is_over {
                let job = asked.call(&client, |path| Call::get(path)).await?.body;
                let job = job.get("job").cloned().unwrap_or_default();
                attempt = attempt.or_else(|| latest(&job));
                is_over = has_ended(&job, attempt);
                if !is_over && attempt.is_none() {
                    tokio::time::sleep(FOLLOW_POLL).await;
                    continue;
                }
            }
            let begin = cursor.take();
            let call = |path: &str| {
                Call::get(format!("{path}/output"))
                    .query("stream", Some(stream))
                    .query("attempt", attempt)
                    .query("limit_bytes", Some(PART_BYTES))
                    .query("cursor", begin.as_ref())
            };
            let part = match asked.call(&client, call).await {
                // It is queued: its files come with its start.
                Err(error) if arguments.follow && !is_over && error.is_not_found() => {
                    tokio::time::sleep(FOLLOW_POLL).await;
                    continue;
                }
                answer => answer?.body,
            };
            attempt = attempt
                .or_else(|| part.get("attempt").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok()));
            print(&part, stream, form, context)?;
            cursor = part.get("next").and_then(Value::as_str).map(str::to_owned);
            match part.get("has_more").and_then(Value::as_bool) {
                Some(true) => {}
                _ if arguments.follow && !is_over => tokio::time::sleep(FOLLOW_POLL).await,
                _ => return Ok(Exit::Done),
            }
        }
    })
}

fn latest(job: &Value) -> Option<u32> {
    let attempt = job.get("attempt").and_then(Value::as_u64)?;
    u32::try_from(attempt).ok().filter(|attempt| *attempt > 0)
}

/// Tells whether an attempt has ended, by its job.
fn has_ended(job: &Value, attempt: Option<u32>) -> bool {
    let status = job.get("status").and_then(Value::as_str).unwrap_or_default();
    let is_later = attempt.is_some() && latest(job) > attempt;
    is_later || matches!(status, "COMPLETED" | "FAILED" | "CANCELLED")
}

fn print(part: &Value, stream: &str, form: Form, context: &Context<'_>) -> Result<(), Failure> {
    if part.get("was_cut").and_then(Value::as_bool) == Some(true) {
        hint("output was given up here: it was more than the agent's limit");
    }
    let content = base64_bytes(part.get("content_base64"))
        .map_err(|error| Failure::text(Exit::Failed, format!("failed to read the answer: {error}")))?;
    let content = content.unwrap_or_default();
    if content.is_empty() {
        return Ok(());
    }
    if form == Form::Json {
        let row = json!({ "stream": stream, "content_base64": part.get("content_base64") });
        return with_output(form, context, |output| output.json(&row));
    }
    let mut stdout = std::io::stdout().lock();
    let written = match stdout.is_terminal() {
        true => stdout.write_all(shown_lines(&String::from_utf8_lossy(&content)).as_bytes()),
        false => stdout.write_all(&content),
    };
    match written.and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        // `horizons jobs logs JOB | head` is no failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::text(Exit::Done, "")),
        Err(error) => Err(Failure::new(Exit::Failed, &error)),
    }
}
