//! `horizons jobs`: submit, list, show, cancel, and what agents wrote.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand};
use horizons_actors::parameters::ParameterValue;
use serde::Serialize;
use serde_json::{Value, json};

use crate::exit::{Exit, Failure};

use super::client::{Answer, Call, Client, ClientOptions, percent_encoded};
use super::events::name_and_value;
use super::job_id::AskedJob;
use super::logs::{self, LogsArguments};
use super::output::{Column, Form, Output, cell};
use super::{Context, PageOptions, ask, converse, hint, print_done, print_page, with_output};

/// Submit, list, show and cancel jobs, read what their agents wrote
#[derive(Debug, Subcommand)]
pub(super) enum JobsCommand {
    /// Submit a job
    #[command(after_help = "Examples:\n  horizons jobs submit calibrate ngc-1300\n  \
        horizons jobs submit image ngc-1300 --parameter width=256 --wait\n  \
        horizons jobs submit image ngc-1300 --parameter-json 'levels=[1, 2.50]'\n  \
        horizons jobs submit calibrate ngc-1300 --idempotency-key night-7      repeat safely\n\n\
        With --wait the exit code is 0 only if the job completed.")]
    Submit(SubmitArguments),
    /// List jobs, newest first
    #[command(
        after_help = "Examples:\n  horizons jobs list\n  horizons jobs list --status FAILED --limit 10 --json"
    )]
    List {
        /// Submitted here (`owned`) or by other producers (`external`) only
        #[arg(long, value_parser = ["owned", "external"])]
        origin: Option<String>,
        /// Submitted by this user only
        #[arg(long, value_name = "NAME")]
        of: Option<String>,
        /// In this status only
        #[arg(long)]
        status: Option<String>,
        /// Whose id begins so only, at least 4 characters; in order of id
        #[arg(long, value_name = "BEGINNING")]
        id: Option<String>,
        #[command(flatten)]
        page: PageOptions,
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Show a job, its timeline and its metrics
    #[command(after_help = "Examples:\n  horizons jobs show JOB\n  horizons jobs show 0f9a --json      as \
        much of its id as no other job's has, 4 characters or more")]
    Show {
        /// Job id, or a beginning of it that no other has
        job: String,
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Show what a job's agent wrote to standard output or standard error
    Logs(LogsArguments),
    /// Cancel a job; its whole process group ends
    #[command(after_help = "Example:\n  horizons jobs cancel JOB --reason 'wrong data set'")]
    Cancel {
        /// Job id, or a beginning of it that no other has
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
    /// Parameter, may be repeated; the value is text and reaches the agent to the letter
    #[arg(long = "parameter", value_name = "NAME=VALUE", value_parser = name_and_value)]
    parameters: Vec<(String, String)>,
    /// Parameter whose value is JSON, may be repeated; it reaches the agent as it is written
    #[arg(long = "parameter-json", value_name = "NAME=JSON", value_parser = name_and_json)]
    json_parameters: Vec<(String, String)>,
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

const COLUMNS: [(&str, &str); 7] = [
    ("JOB", "job_id"),
    ("ORIGIN", "origin"),
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
        JobsCommand::List { origin, of, status, id, page, client } => {
            let call = Call::get("/jobs")
                .query("origin", origin)
                .query("user", of)
                .query("status", status)
                .query("id_beginning", id)
                .query("limit", Some(page.limit))
                .query("cursor", page.cursor);
            let answer = ask(&client, context, call)?;
            print_page(&client, context, &COLUMNS, &answer)
        }
        JobsCommand::Show { job, client } => show(&job, &client, context),
        JobsCommand::Logs(arguments) => logs::run(&arguments, context),
        JobsCommand::Cancel { job, reason, client } => {
            let server = Client::new(&client, context)?;
            let mut job = AskedJob::new(&job);
            let cancel = |path: &str| Call::post(format!("{path}/cancel"), json!({ "reason": reason }));
            let answer = converse(async { Ok(job.call(&server, cancel).await?) })?;
            print_done(&client, context, &format!("cancel asked for: {}", job.id()), &answer)
        }
    }
}

fn submit(arguments: &SubmitArguments, context: &Context<'_>) -> Result<Exit, Failure> {
    let request = JobRequest {
        agent: &arguments.agent,
        dataset_id: &arguments.dataset_id,
        parameters: parameters_of(arguments)?,
        tacc_system: &arguments.tacc_system,
    };
    let body = serde_json::to_string(&request).map_err(|error| Failure::new(Exit::Usage, &error))?;
    let mut call = Call::post_text("/jobs", body);
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

/// The body of a submit; parameters go to the letter.
#[derive(Debug, Serialize)]
struct JobRequest<'a> {
    agent: &'a str,
    dataset_id: &'a str,
    parameters: BTreeMap<&'a str, ParameterValue>,
    tacc_system: &'a str,
}

/// Gathers the parameters of both options.
///
/// *Errors*: a name that is given twice, as only one of the two could count.
fn parameters_of(arguments: &SubmitArguments) -> Result<BTreeMap<&str, ParameterValue>, Failure> {
    let texts = arguments.parameters.iter().map(|(name, text)| (name, Ok(text.as_str().into())));
    let json = arguments.json_parameters.iter().map(|(name, text)| (name, ParameterValue::from_json(text)));
    let mut parameters = BTreeMap::new();
    for (name, value) in texts.chain(json) {
        let refuse = |reason: String| Failure::text(Exit::Usage, format!("parameter `{name}`: {reason}"));
        let value = value.map_err(|error| refuse(error.to_string()))?;
        if parameters.insert(name.as_str(), value).is_some() {
            return Err(refuse("wanted once, got twice".to_owned()));
        }
    }
    Ok(parameters)
}

/// Splits `NAME=JSON`.
///
/// *Errors*: what was wanted, in words.
fn name_and_json(text: &str) -> Result<(String, String), String> {
    let (name, value) = name_and_value(text)?;
    ParameterValue::from_json(&value).map_err(|error| error.to_string())?;
    Ok((name, value))
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
    let mut asked = AskedJob::new(job);
    let (job, timeline, metrics) = converse(async {
        let job = job_of(&asked.call(&client, |path| Call::get(path)).await?);
        let timeline = asked.call(&client, |path| Call::get(format!("{path}/timeline"))).await?;
        let metrics = asked.call(&client, |path| Call::get(format!("{path}/metrics"))).await?;
        Ok((job, timeline, metrics))
    })?;
    for (what, page) in [("steps", &timeline), ("attempts", &metrics)] {
        if page.next().is_some() {
            hint(&format!("the job has more {what} than are shown"));
        }
    }
    with_output(Form::from_flag(options.json), context, |output| {
        match output.form() {
            Form::Json => {
                output.json(&json!({"job": job, "timeline": timeline.body, "metrics": metrics.body}))?;
            }
            Form::Text => print_job(output, &job, &timeline.body, &metrics.body)?,
        }
        Ok(Exit::Done)
    })
}

/// Columns of a job's steps.
const STEP_COLUMNS: [Column; 6] = [
    ("SEQUENCE", "sequence"),
    ("EVENT", "event_type"),
    ("STATUS", "status"),
    ("ATTEMPT", "attempt"),
    ("HAPPENED", "happened_at"),
    ("APPLIED", "applied_at"),
];

/// Columns of what was refused about a job.
const REFUSAL_COLUMNS: [Column; 4] =
    [("REFUSED", "refused_at"), ("OFFSET", "offset"), ("REASON", "reason"), ("DETAIL", "detail")];

/// Columns of an attempt's metrics: what its samples give, then its totals.
const METRICS_COLUMNS: [Column; 8] = [
    ("ATTEMPT", "attempt"),
    ("SAMPLES", "aggregates.cpu_usage_percent.count"),
    ("CPU % MEAN", "aggregates.cpu_usage_percent.mean"),
    ("CPU % MAX", "aggregates.cpu_usage_percent.max"),
    ("MEMORY MB MAX", "aggregates.memory_usage_mb.max"),
    ("IO OPERATIONS", "summary.io_operations"),
    ("SECONDS", "summary.execution_time_seconds"),
    ("UPDATED", "updated_at"),
];

/// Prints a job, its steps, what was refused about it, and its metrics.
fn print_job(output: &mut Output<'_>, job: &Value, timeline: &Value, metrics: &Value) -> Result<(), Failure> {
    print_fields(output, job)?;
    let tables: [(&str, &[Column], &Value); 3] = [
        ("timeline", &STEP_COLUMNS, &timeline["steps"]),
        ("refused", &REFUSAL_COLUMNS, &timeline["refusals"]),
        ("metrics", &METRICS_COLUMNS, &metrics["attempts"]),
    ];
    for (title, columns, rows) in tables {
        let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
        if !rows.is_empty() {
            output.line(&format!("\n{title}"))?;
            output.rows(columns, rows)?;
        }
    }
    Ok(())
}

/// Prints an object's fields, one a line, aligned; those of an object within it with a dot.
fn print_fields(output: &mut Output<'_>, object: &Value) -> Result<(), Failure> {
    let mut names = Vec::new();
    for (name, value) in object.as_object().into_iter().flatten() {
        match value {
            Value::Null => {}
            Value::Array(items) if items.is_empty() => {}
            Value::Object(fields) if name != "parameters" => {
                names.extend(fields.keys().map(|inner| format!("{name}.{inner}")));
            }
            _ => names.push(name.clone()),
        }
    }
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or_default();
    for name in &names {
        output.line(&format!("{name:width$}  {}", cell(object, name)))?;
    }
    Ok(())
}
