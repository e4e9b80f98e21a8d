//! The command line: one file per subcommand.
//!
//! Promises help with examples for every command, results on standard output and everything else on
//! standard error, and an [`Exit`] code that tells kinds of failure apart. Client commands speak HTTP with a
//! running server; what starts parts of the program itself goes through [`Hooks`].

mod actors;
mod audit;
mod audit_json;
mod bench;
mod client;
mod config;
mod dead_letters;
mod demo;
mod events;
mod gaps;
mod hooks;
mod job_id;
mod jobs;
mod lane;
mod lanes;
mod logs;
mod output;
mod parked;
mod ready;
mod record_file;
mod relay;
mod run_agent;
mod serve;
mod store;
mod topics;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{Agent, AgentCheck, Config, Loaded, LogLevel, Source, load};
use crate::exit::{Exit, Failure};
use crate::shown::shown;
use crate::telemetry::{self, wants_colour};

pub use audit_json::{JsonFieldError, entry_from_json, entry_to_json, log_from_json, log_to_json};
pub use bench::{BenchOptions, KafkaBench, OpenLoop};
pub use client::{ClientError, ClientOptions, ProblemDocument};
pub use demo::{Afterwards, DemoOptions};
pub use hooks::{Hooks, OpenedStore};
pub use output::{Colour, Column, Form, Output};
pub use topics::TopicsAct;

use client::{Answer, Call, Client};

/// Processes events in order, with effects once, runs jobs under supervision, and keeps an audit trail.
#[derive(Debug, Parser)]
#[command(name = "horizons", version, after_help = help_end(), disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArguments),
    Demo(demo::DemoArguments),
    Bench(bench::BenchArguments),
    #[command(subcommand)]
    Jobs(jobs::JobsCommand),
    #[command(subcommand)]
    Events(events::EventsCommand),
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    Ready(ready::ReadyArguments),
    #[command(subcommand)]
    Actors(actors::ActorsCommand),
    #[command(subcommand)]
    Parked(parked::ParkedCommand),
    #[command(subcommand)]
    Gaps(gaps::GapsCommand),
    #[command(subcommand)]
    Lanes(lanes::LanesCommand),
    #[command(subcommand)]
    DeadLetters(dead_letters::DeadLettersCommand),
    #[command(subcommand)]
    Relay(relay::RelayCommand),
    #[command(subcommand)]
    Topics(topics::TopicsCommand),
    #[command(subcommand)]
    Store(store::StoreCommand),
    #[command(subcommand)]
    Config(config::ConfigCommand),
    RunAgent(run_agent::RunAgentArguments),
}

/// Ends the help of the whole program.
fn help_end() -> String {
    let mut text = String::from(
        "Examples:\n  \
         horizons demo                                 see everything work, in a temporary folder\n  \
         horizons serve                                run with ./config.toml\n  \
         horizons jobs submit calibrate ngc-1300       run a job\n  \
         horizons jobs list --status RUNNING           see what runs\n\nExit codes:\n",
    );
    for exit in Exit::ALL {
        text.push_str(&format!("  {:>3}  {}\n", exit.code(), exit.meaning()));
    }
    text.trim_end().to_owned()
}

/// Where the configuration comes from.
#[derive(Debug, Clone, Default, Args)]
struct ConfigOption {
    /// Configuration file [default: $HORIZONS_CONFIG, else ./config.toml if it exists, else built-in defaults]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigOption {
    /// Tells which file is read: the named one, else `fallback`, else the one in the working folder.
    fn source(&self, context: &Context<'_>, fallback: Option<Source>) -> Source {
        Source::named(self.config.as_deref(), context.environment)
            .or(fallback)
            .unwrap_or_else(Source::in_working_folder)
    }

    /// Reads and checks the configuration.
    fn load(&self, context: &Context<'_>) -> Result<Loaded, Failure> {
        self.load_or(context, None)
    }

    /// Reads and checks the configuration, and looks for the agents' programs.
    fn load_with_programs(&self, context: &Context<'_>) -> Result<Loaded, Failure> {
        let Hooks { check_agent, check_program, .. } = *context.hooks;
        let check = move |agent: &Agent| {
            let mut problems = check_agent(agent);
            problems.extend(check_program(agent));
            problems
        };
        load(&self.source(context, None), context.environment, &check)
            .map_err(|error| Failure::new(Exit::Config, &error))
    }

    /// Reads and checks the configuration, from `fallback` where no file is named.
    fn load_or(&self, context: &Context<'_>, fallback: Option<Source>) -> Result<Loaded, Failure> {
        let source = self.source(context, fallback);
        let check_agent: &AgentCheck = &context.hooks.check_agent;
        load(&source, context.environment, check_agent).map_err(|error| Failure::new(Exit::Config, &error))
    }
}

/// What every command is given.
struct Context<'a> {
    environment: &'a BTreeMap<String, String>,
    hooks: &'a Hooks,
}

/// Runs the command line and tells how the process ends.
///
/// Prints on the process's own streams; everything else it knows is passed in.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &BTreeMap<String, String>,
    hooks: &Hooks,
) -> Exit {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help that cannot be printed has nowhere else to go.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    let context = Context { environment, hooks };
    let exit = dispatch(arguments.command, &context).unwrap_or_else(|failure| {
        if !failure.message.is_empty() {
            telemetry::say(&format!("error: {}", failure.message));
        }
        failure.exit
    });
    telemetry::flush();
    exit
}

/// Tells something beside the result, which has standard output for itself. Where standard error is gone, nobody
/// wants to know.
fn hint(message: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{}", crate::shown::shown(message));
}

fn dispatch(command: Command, context: &Context<'_>) -> Result<Exit, Failure> {
    match command {
        Command::Serve(arguments) => serve::run(&arguments, context),
        Command::Demo(arguments) => demo::run(&arguments, context),
        Command::Bench(arguments) => bench::run(&arguments, context),
        Command::Jobs(command) => jobs::run(command, context),
        Command::Events(command) => events::run(command, context),
        Command::Audit(command) => audit::run(command, context),
        Command::Ready(arguments) => ready::run(&arguments, context),
        Command::Actors(command) => actors::run(&command, context),
        Command::Parked(command) => parked::run(command, context),
        Command::Gaps(command) => gaps::run(command, context),
        Command::Lanes(command) => lanes::run(&command, context),
        Command::DeadLetters(command) => dead_letters::run(&command, context),
        Command::Relay(command) => relay::run(&command, context),
        Command::Topics(command) => topics::run(&command, context),
        Command::Store(command) => store::run(&command, context),
        Command::Config(command) => config::run(&command, context),
        Command::RunAgent(arguments) => run_agent::run(arguments, context),
    }
}

/// Starts a log of errors only, so that it does not drown what the command prints: the poison that the
/// demonstration lets in is no news there. A level from the environment is obeyed.
fn start_quiet_log(config: &Config, context: &Context<'_>) -> Result<(), Failure> {
    let mut log = config.log;
    if !context.environment.contains_key("HORIZONS_LOG_LEVEL") {
        log.level = LogLevel::Error;
    }
    telemetry::start(log, context.environment).map_err(|error| Failure::new(Exit::Failed, &error))
}

/// Prints on standard output, for people or machines.
fn with_output<T>(
    form: Form,
    context: &Context<'_>,
    act: impl FnOnce(&mut Output<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let stdout = std::io::stdout();
    let is_coloured = wants_colour(stdout.is_terminal(), context.environment);
    let colour = if is_coloured { Colour::On } else { Colour::Off };
    act(&mut Output::new(&mut stdout.lock(), form, colour))
}

/// Runs a client command's conversation to its end, or until a person interrupts it.
fn converse<T>(conversation: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, &error))?;
    runtime.block_on(async {
        tokio::select! {
            result = conversation => result,
            _ = tokio::signal::ctrl_c() => Err(Failure::text(Exit::Interrupted, "interrupted")),
        }
    })
}

/// Sends one request and gives its answer.
fn ask(options: &ClientOptions, context: &Context<'_>, call: Call<'_>) -> Result<Answer, Failure> {
    let client = Client::new(options, context)?;
    converse(async { Ok(client.call(call).await?) })
}

/// Prints a page of rows, and beside them how to get the next one.
fn print_page(
    options: &ClientOptions,
    context: &Context<'_>,
    columns: &[output::Column],
    answer: &Answer,
) -> Result<Exit, Failure> {
    with_output(Form::from_flag(options.json), context, |output| {
        output.rows(columns, &answer.rows())?;
        Ok(())
    })?;
    if let Some(next) = answer.next() {
        hint(&format!("more: --cursor {next}"));
    }
    Ok(Exit::Done)
}

/// Says what was done, or prints the server's answer for machines.
fn print_done(
    options: &ClientOptions,
    context: &Context<'_>,
    sentence: &str,
    answer: &Answer,
) -> Result<Exit, Failure> {
    with_output(Form::from_flag(options.json), context, |output| {
        match output.form() {
            Form::Text => output.line(&shown(sentence))?,
            Form::Json => output.json(&answer.body)?,
        }
        Ok(Exit::Done)
    })
}

/// Rows of a page where the option is not given.
const PAGE_DEFAULT: u32 = 50;

/// Which page of a list.
#[derive(Debug, Clone, Args)]
struct PageOptions {
    /// Rows of a page
    #[arg(long, default_value_t = PAGE_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Where the page before ended
    #[arg(long)]
    cursor: Option<String>,
}

impl PageOptions {
    /// Asks for that page of a list.
    fn of<'a>(&self, call: Call<'a>) -> Call<'a> {
        call.query("limit", Some(self.limit)).query("cursor", self.cursor.as_ref())
    }
}
