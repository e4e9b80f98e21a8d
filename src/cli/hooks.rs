//! What the command line needs from the rest of the program.
//!
//! Promises that the command line itself knows no adapter: `main` fills [`Hooks`] with the functions of the
//! one place that knows all parts.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use horizons_actors::ids::{LogId, TopicPartition};
use horizons_actors::ports::query::{QueryStore, StoredAuditEntry};
use horizons_actors::record::Digest32;

use crate::config::{Agent, AgentProblem, Config};
use crate::exit::{Exit, Failure};

use super::bench::BenchOptions;
use super::demo::DemoOptions;

/// A data folder that was opened for reading while no server runs.
pub struct OpenedStore {
    /// Its queries.
    pub store: Arc<dyn QueryStore>,
    /// The log that it holds.
    pub log_id: LogId,
}

/// What is claimed about the end of an audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEnd {
    /// Its entries.
    pub size: u64,
    /// The head of its hash chain.
    pub chain_head: Digest32,
    /// The roots of its tree's perfect subtrees, where the source tells them.
    pub frontier: Option<Vec<Digest32>>,
}

/// What is wrong with an audit log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct VerifyFinding(pub String);

/// Recomputes one audit log from its entries.
pub trait LogVerifier {
    /// Takes the next entry, in order of index.
    ///
    /// *Errors*: what is wrong with it.
    fn check(&mut self, entry: &StoredAuditEntry) -> Result<(), VerifyFinding>;

    /// Compares what was recomputed with the claim.
    ///
    /// *Errors*: what does not match.
    fn finish(self: Box<Self>, end: &LogEnd) -> Result<(), VerifyFinding>;
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
    /// Opens a data folder for reading while no server runs.
    pub open_store: fn(&Path) -> Result<OpenedStore, Failure>,
    /// Starts to recompute an audit log.
    pub verifier: fn(&LogId, TopicPartition) -> Box<dyn LogVerifier>,
    /// Checks an agent by the scheduler's rules.
    pub check_agent: fn(&Agent) -> Vec<AgentProblem>,
}

/// Verifies nothing and says so, in a build without the auditor.
#[derive(Debug, Clone, Copy)]
pub struct NoVerifier;

impl LogVerifier for NoVerifier {
    fn check(&mut self, _: &StoredAuditEntry) -> Result<(), VerifyFinding> {
        Err(VerifyFinding("this build contains no verifier".to_owned()))
    }

    fn finish(self: Box<Self>, _: &LogEnd) -> Result<(), VerifyFinding> {
        Err(VerifyFinding("this build contains no verifier".to_owned()))
    }
}
