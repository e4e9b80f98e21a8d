//! `horizons ready`: what of a running server works, and what does not.

use clap::Args;
use serde_json::Value;

use crate::exit::{Exit, Failure};

use super::client::{Call, ClientOptions};
use super::output::{Column, Form};
use super::{Context, ask, with_output};

/// Show every probe of the server; ends with 1 when the server is not ready
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  horizons ready\n  horizons ready --json")]
pub(super) struct ReadyArguments {
    #[command(flatten)]
    client: ClientOptions,
}

const COLUMNS: [Column; 4] =
    [("PROBE", "name"), ("STATE", "state"), ("SINCE", "since"), ("DETAIL", "detail")];

/// Asks for the probes and prints them.
pub(super) fn run(arguments: &ReadyArguments, context: &Context<'_>) -> Result<Exit, Failure> {
    let ReadyArguments { client } = arguments;
    let answer = ask(client, context, Call::get("/ready").also_answers_503())?;
    let is_ready = answer.body.get("is_ready").and_then(Value::as_bool) == Some(true);
    with_output(Form::from_flag(client.json), context, |output| {
        match output.form() {
            Form::Json => output.json(&answer.body)?,
            Form::Text => {
                let probes = answer.body.get("probes").and_then(Value::as_array).cloned().unwrap_or_default();
                output.rows(&COLUMNS, &probes)?;
            }
        }
        Ok(if is_ready { Exit::Done } else { Exit::Failed })
    })
}
