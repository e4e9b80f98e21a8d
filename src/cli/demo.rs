//! `horizons demo`: everything at work in a temporary folder, or on the brokers and the database that are named.

use clap::Args;

use crate::config::Source;
use crate::exit::{Exit, Failure};

use super::{ConfigOption, Context, Form, start_quiet_log};

/// See everything work: real jobs of every outcome in a temporary folder, then an account that must add up
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  horizons demo\n  horizons demo --jobs 50 --json\n  horizons demo --keep      \
                        go on serving afterwards\n  horizons demo --kafka 127.0.0.1:9092 --postgres \
                        postgres://horizons@127.0.0.1/horizons\n\nOn Kafka and PostgreSQL it makes topics, groups \
                        and a schema of its own, whose names begin with `horizons-demo` and `horizons_demo`, and \
                        removes them afterwards. The database's password comes from \
                        HORIZONS_POSTGRES_PASSWORD.\n\nExit code 0 only if everything adds up."
)]
pub(super) struct DemoArguments {
    #[command(flatten)]
    config: ConfigOption,
    /// Go on serving afterwards, and keep the folder
    #[arg(long)]
    keep: bool,
    /// Jobs to run
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(5..=10_000))]
    jobs: u32,
    /// Publish to and read from these Kafka brokers
    #[arg(long, value_name = "BOOTSTRAP")]
    kafka: Option<String>,
    /// Keep everything in this PostgreSQL database
    #[arg(long, value_name = "URL")]
    postgres: Option<String>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// What happens when the demonstration has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Afterwards {
    /// It ends and leaves nothing behind.
    End,
    /// It goes on serving.
    KeepServing,
}

/// What the demonstration is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DemoOptions {
    /// Jobs to run.
    pub jobs: u32,
    /// What happens afterwards.
    pub afterwards: Afterwards,
    /// For whom it prints.
    pub form: Form,
}

/// Runs the demonstration with the example agents, whatever lies in the working folder.
pub(super) fn run(arguments: &DemoArguments, context: &Context<'_>) -> Result<Exit, Failure> {
    // The options stand for variables, so that whatever is wrong with them is said as for any key.
    let mut environment = context.environment.clone();
    let mut set = |name: &str, value: &str| environment.insert(name.to_owned(), value.to_owned());
    if let Some(bootstrap) = &arguments.kafka {
        set("HORIZONS_EVENT_LOG_KIND", "kafka");
        set("HORIZONS_KAFKA_BOOTSTRAP", bootstrap);
    }
    if let Some(url) = &arguments.postgres {
        set("HORIZONS_STORE_ENGINE", "postgres");
        set("HORIZONS_POSTGRES_URL", url);
    }
    let context = &Context { environment: &environment, hooks: context.hooks };
    let config = arguments.config.load_or(context, Some(Source::example()))?.config;
    start_quiet_log(&config, context)?;
    let afterwards = if arguments.keep { Afterwards::KeepServing } else { Afterwards::End };
    let options = DemoOptions { jobs: arguments.jobs, afterwards, form: Form::from_flag(arguments.json) };
    (context.hooks.demo)(config, options)
}
