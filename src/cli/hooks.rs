//! What the command line needs from the rest of the program.
//!
//! Promises that the command line itself knows no adapter: `main` fills [`Hooks`] with the functions of the
//! one place that knows all parts.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use horizons_actors::ids::LogId;
use horizons_actors::ports::query::QueryStore;

use crate::config::{Agent, AgentProblem, Config};
use crate::exit::{Exit, Failure};

use super::bench::BenchOptions;
use super::demo::DemoOptions;
use super::output::Form;
use super::topics::TopicsAct;

/// A data folder that was opened for reading while no server runs.
pub struct OpenedStore {
    /// Its queries.
    pub store: Arc<dyn QueryStore>,
    /// The log that it holds.
    pub log_id: LogId,
}

/// The functions behind the commands.
#[derive(Clone, Copy)]
pub struct Hooks {
    /// Serves until it is told to stop.
    pub serve: fn(Config) -> Result<Exit, Failure>,
    /// Runs the demonstration.
    pub demo: fn(Config, DemoOptions) -> Result<Exit, Failure>,
    /// Runs the benchmark.
    pub bench: fn(Config, BenchOptions) -> Result<Exit, Failure>,
    /// Runs one attempt; the arguments are the scheduler's own.
    pub run_agent: fn(Vec<OsString>) -> Result<Exit, Failure>,
    /// Creates, checks or shows the topics of an event log on Kafka.
    pub topics: fn(Config, TopicsAct, Form) -> Result<Exit, Failure>,
    /// Makes and changes the tables of a store on PostgreSQL.
    pub migrate_store: fn(Config) -> Result<Exit, Failure>,
    /// Opens a data folder for reading while no server runs.
    pub open_store: fn(&Path) -> Result<OpenedStore, Failure>,
    /// Checks an agent by the scheduler's rules.
    pub check_agent: fn(&Agent) -> Vec<AgentProblem>,
    /// Looks whether an agent's program can be started on this machine.
    pub check_program: fn(&Agent) -> Option<AgentProblem>,
    /// Names the agents that can read the data folder, if any can.
    pub readers_of_the_data_folder: fn(&Config) -> Option<String>,
}
