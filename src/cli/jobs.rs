//! `horizons jobs`: submit, list, show and cancel.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::exit::{Exit, Failure};

use super::client::{Answer, Call, Client, ClientOptions, percent_encoded};
use super::events::name_and_value;
use super::output::{Form, Output, cell};
use super::{Context, PageOptions, ask, converse, print_done, print_page, with_output};

/// Submit, list, show and cancel jobs
#[derive(Debug, Subcommand)]
pub(super) enum JobsCommand {
    /// Submit a job
    #[command(after_help = "Examples:\n  horizons jobs submit calibrate ngc-1300\n  \
        horizons jobs submit image ngc-1300 --parameter width=256 --wait\n  \
        horizons jobs submit calibrate ngc-1300 --idempotency-key night-7      repeat safely\n\n\
        With --wait the exit code is 0 only if the job completed.")]
    Submit(SubmitArguments),
    /// List jobs, newest first
    #[command(
        after_help = "Examples:\n  horizons jobs list\n  horizons jobs list --status FAILED --limit 10 --json"
    )]
    List {
        /// Submitted by this user only
        #[arg(long, value_name = "NAME")]
        of: Option<String>,
        /// In this status only
        #[arg(long)]
        status: Option<String>,
        #[command(flatten)]
        page: PageOptions,
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Show a job, its timeline and its metrics
    #[command(after_help = "Examples:\n  horizons jobs show JOB\n  horizons jobs show JOB --json")]
    Show {
        /// Job id
        job: String,
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Cancel a job; its whole process group ends
    #[command(after_help = "Example:\n  horizons jobs cancel JOB --reason 'wrong data set'")]
    Cancel {
        /// Job id
        job: String,
        /// Why; stands in the audit trail
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        client: ClientOptions,
    },
}

#[derive(Debug, Args)]
pub(super) struct SubmitArguments {
    /// Agent, as declared in the configuration
    agent: String,
    /// Data set
    #[arg(allow_hyphen_values = true)]
    dataset_id: String,
    /// Parameter, may be repeated; a value that is JSON is taken as JSON, else as text
    #[arg(long = "parameter", value_name = "NAME=VALUE", value_parser = name_and_value)]
    parameters: Vec<(String, String)>,
    /// System to run on
    #[arg(long, default_value = "local")]
    tacc_system: String,
    /// Makes a repeated submit the same job
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Wait until the job has ended
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    client: ClientOptions,
}

const COLUMNS: [(&str, &str); 6] = [
    ("JOB", "job_id"),
    ("STATUS", "status"),
    ("ATTEMPT", "attempt"),
    ("AGENT", "agent"),
    ("USER", "user_id"),
    ("SUBMITTED", "submitted_at"),
];

/// How often a waiting submit asks.
const WAIT_POLL: Duration = Duration::from_millis(200);

/// Runs one of the commands.
pub(super) fn run(command: JobsCommand, context: &Context<'_>) -> Result<Exit, Failure> {
    match command {
        JobsCommand::Submit(arguments) => submit(&arguments, context),
        JobsCommand::List { of, status, page, client } => {
            let call = Call::get("/jobs")
                .query("user", of)
                .query("status", status)
                .query("limit", Some(page.limit))
                .query("cursor", page.cursor);
            let answer = ask(&client, context, call)?;
            print_page(&client, context, &COLUMNS, &answer)
        }
        JobsCommand::Show { job, client } => show(&job, &client, context),
        JobsCommand::Cancel { job, reason, client } => {
            let path = format!("/jobs/{}/cancel", percent_encoded(&job));
            let answer = ask(&client, context, Call::post(path, json!({ "reason": reason })))?;
            print_done(&client, context, &format!("cancel asked for: {job}"), &answer)
        }
    }
}

fn submit(arguments: &SubmitArguments, context: &Context<'_>) -> Result<Exit, Failure> {
    let parameters: Map<String, Value> =
        arguments.parameters.iter().map(|(name, text)| (name.clone(), parameter(text))).collect();
    let mut call = Call::post(
        "/jobs",
        json!({
            "agent": arguments.agent,
            "dataset_id": arguments.dataset_id,
            "parameters": parameters,
            "tacc_system": arguments.tacc_system,
        }),
    );
    if let Some(key) = &arguments.idempotency_key {
        call.headers.push(("idempotency-key", key.clone()));
    }
    let client = Client::new(&arguments.client, context)?;
    let job = converse(async {
        let job = job_of(&client.call(call).await?);
        if arguments.wait { wait_for_end(&client, &job).await } else { Ok(job) }
    })?;
    with_output(Form::from_flag(arguments.client.json), context, |output| {
        output.rows(&COLUMNS, std::slice::from_ref(&job))
    })?;
    let has_failed = arguments.wait && cell(&job, "status") != "COMPLETED";
    Ok(if has_failed { Exit::Failed } else { Exit::Done })
}

/// Reads a parameter's value: JSON where it is JSON, else text.
fn parameter(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
}

/// Gives the job of an answer, which may stand in a field of its own.
fn job_of(answer: &Answer) -> Value {
    answer.body.get("job").unwrap_or(&answer.body).clone()
}

/// Asks until the job has ended and no attempt follows.
///
/// *Cancel safety*: nothing is changed by asking.
async fn wait_for_end(client: &Client, job: &Value) -> Result<Value, Failure> {
    let path = format!("/jobs/{}", percent_encoded(&cell(job, "job_id")));
    loop {
        let job = job_of(&client.call(Call::get(path.as_str())).await?);
        let is_end = matches!(cell(&job, "status").as_str(), "COMPLETED" | "FAILED" | "CANCELLED");
        let will_retry = job.get("will_retry").and_then(Value::as_bool).unwrap_or(false);
        if is_end && !will_retry {
            return Ok(job);
        }
        tokio::time::sleep(WAIT_POLL).await;
    }
}

fn show(job: &str, options: &ClientOptions, context: &Context<'_>) -> Result<Exit, Failure> {
    let client = Client::new(options, context)?;
    let path = format!("/jobs/{}", percent_encoded(job));
    let (job, timeline, metrics) = converse(async {
        let job = job_of(&client.call(Call::get(path.as_str())).await?);
        let timeline = client.call(Call::get(format!("{path}/timeline"))).await?;
        let metrics = client.call(Call::get(format!("{path}/metrics"))).await?;
        Ok((job, timeline, metrics))
    })?;
    with_output(Form::from_flag(options.json), context, |output| {
        match output.form() {
            Form::Json => {
                output.json(&json!({"job": job, "timeline": timeline.body, "metrics": metrics.body}))?;
            }
            Form::Text => print_job(output, &job, &timeline.rows(), &metrics.rows())?,
        }
        Ok(Exit::Done)
    })
}

/// Columns of the tables under a job: whatever scalar fields its rows have, so that no field is hidden.
fn print_job(
    output: &mut Output<'_>,
    job: &Value,
    timeline: &[Value],
    metrics: &[Value],
) -> Result<(), Failure> {
    print_fields(output, job)?;
    for (title, rows) in [("timeline", timeline), ("metrics", metrics)] {
        output.line(&format!("\n{title}:"))?;
        if rows.is_empty() {
            output.line("none yet")?;
        }
        for row in rows {
            let fields = row.as_object().into_iter().flatten();
            let fields = fields.map(|(name, _)| format!("{name}={}", cell(row, name)));
            output.line(&format!("  {}", fields.collect::<Vec<_>>().join(" ")))?;
        }
    }
    Ok(())
}

/// Prints an object's fields, one a line, aligned.
fn print_fields(output: &mut Output<'_>, object: &Value) -> Result<(), Failure> {
    let names = || object.as_object().into_iter().flat_map(Map::keys);
    let width = names().map(|name| name.chars().count()).max().unwrap_or_default();
    for name in names() {
        output.line(&format!("{name:width$}  {}", cell(object, name)))?;
    }
    Ok(())
}
