//! What the local scheduler is told: limits, times and the agents it may run.
//!
//! Promises that every problem is found at once and named by its key. Reads no file and no environment.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use horizons_actors::ids::AgentName;

use super::burial::Troubles;
use super::folder::Overflow;
use super::run_as::RunAs;
use super::template::ArgumentTemplate;
use crate::disk::{Ballast, DiskState};

/// The least address space an agent may be limited to: below it the shim itself cannot work.
pub const ADDRESS_SPACE_MIN_BYTES: u64 = 64 * 1024 * 1024;

/// What the local scheduler is told.
#[derive(Debug, Clone)]
pub struct LocalSchedulerConfig {
    /// Where attempts have their folders; created if it is missing.
    pub attempts_folder: PathBuf,
    /// How many attempts run at once; with 0 attempts are accepted and none starts.
    pub slots: u32,
    /// How often a running attempt is measured.
    pub sample_interval: Duration,
    /// How long an agent has between SIGTERM and SIGKILL.
    pub kill_grace: Duration,
    /// How often the folders are looked at when nothing else happens.
    pub poll_interval: Duration,
    /// The program that has the subcommand `run-agent`; normally this very program.
    pub shim_program: PathBuf,
    /// Added to the shim's environment, which is otherwise cleared except for `PATH`, `HOME` and `LANG`.
    pub shim_environment: BTreeMap<String, String>,
    /// By what shims tell that the disk is full; without it they do not look.
    pub ballast: Option<Ballast>,
    /// Whether the disk is full: then nothing new is started.
    pub disk: Arc<DiskState>,
    /// Where attempts are told that cannot be ended.
    pub troubles: Arc<Troubles>,
    /// The agents, by name.
    pub agents: BTreeMap<AgentName, AgentConfig>,
}

/// A program that jobs may run.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The program, as an absolute path.
    pub program: PathBuf,
    /// One template for each argument; see [`super::template`].
    pub arguments: Vec<String>,
    /// Set for the agent; besides these it has `PATH`, `HOME`, `LANG` and what the scheduler sets itself.
    pub environment: BTreeMap<String, String>,
    /// How long an attempt may run.
    pub time_limit: Duration,
    /// How much memory all processes of an attempt may have resident together.
    pub memory_limit_bytes: Option<u64>,
    /// How much address space each process may have; enforced by the kernel at once.
    pub address_space_limit_bytes: Option<u64>,
    /// How many attempts of this agent run at once.
    pub max_slots: Option<u32>,
    /// How much standard output and standard error of an attempt may take together.
    pub output_limit_bytes: Option<u64>,
    /// What happens to output beyond that.
    pub output_overflow: Overflow,
    /// How much the work folder of an attempt may take.
    pub work_limit_bytes: Option<u64>,
    /// Who the agent runs as, where that is not this process's user.
    pub run_as: Option<RunAs>,
}

/// Something in the configuration that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}`: {reason}")]
pub struct ConfigProblem {
    /// The key, relative to what was checked.
    pub key: String,
    /// What was wanted and what was got.
    pub reason: String,
}

impl ConfigProblem {
    fn new(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { key: key.into(), reason: reason.into() }
    }
}

impl AgentConfig {
    /// Lists everything that cannot work; looks at no file.
    pub fn check(&self) -> Vec<ConfigProblem> {
        let mut problems = Vec::new();
        match self.program.to_str() {
            Some(text) if self.program.is_absolute() && !text.contains('\0') => {}
            _ => problems.push(ConfigProblem::new(
                "program",
                format!("wanted an absolute path in UTF-8, got `{}`", self.program.display()),
            )),
        }
        for (index, text) in self.arguments.iter().enumerate() {
            if let Err(error) = ArgumentTemplate::parse(text) {
                problems.push(ConfigProblem::new(format!("arguments[{index}]"), error.to_string()));
            }
        }
        for (name, value) in &self.environment {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                problems.push(ConfigProblem::new(
                    format!("environment.{name}"),
                    "wanted a name without `=`, and no NUL in name or value",
                ));
            }
            if name.starts_with(RESERVED_PREFIX) {
                problems.push(ConfigProblem::new(
                    format!("environment.{name}"),
                    format!("wanted a name that does not begin with `{RESERVED_PREFIX}`"),
                ));
            }
        }
        if self.time_limit.is_zero() {
            problems.push(ConfigProblem::new("time_limit", "wanted more than zero, got 0"));
        }
        if self.memory_limit_bytes == Some(0) {
            problems.push(ConfigProblem::new("memory_limit_bytes", "wanted more than zero, got 0"));
        }
        if let Some(bytes) = self.address_space_limit_bytes.filter(|bytes| *bytes < ADDRESS_SPACE_MIN_BYTES) {
            problems.push(ConfigProblem::new(
                "address_space_limit_bytes",
                format!("wanted at least {ADDRESS_SPACE_MIN_BYTES}, got {bytes}"),
            ));
        }
        for (key, limit) in
            [("output_limit_bytes", self.output_limit_bytes), ("work_limit_bytes", self.work_limit_bytes)]
        {
            if limit == Some(0) {
                problems.push(ConfigProblem::new(key, "wanted more than zero, got 0"));
            }
        }
        if self.max_slots == Some(0) {
            problems.push(ConfigProblem::new("max_slots", "wanted at least 1, got 0"));
        }
        problems
    }
}

impl AgentConfig {
    /// Looks whether the program is there to be started. Not part of [`AgentConfig::check`]: what is missing now may be
    /// there when a job starts.
    pub fn check_program(&self) -> Option<ConfigProblem> {
        let program = self.program.display();
        let reason = match std::fs::metadata(&self.program) {
            Err(error) => format!("wanted a program, got `{program}`: {error}"),
            Ok(found) if !found.is_file() => format!("wanted a program, got `{program}`, which is no file"),
            Ok(found) if found.permissions().mode() & ANY_MAY_EXECUTE == 0 => {
                format!("wanted a program, got `{program}`, which nobody may execute")
            }
            Ok(_) => return None,
        };
        Some(ConfigProblem::new("program", reason))
    }
}

/// The bits of a file's mode that let somebody execute it.
const ANY_MAY_EXECUTE: u32 = 0o111;

/// The names of environment variables that the scheduler sets itself begin with this.
pub(crate) const RESERVED_PREFIX: &str = "HORIZONS_";

impl LocalSchedulerConfig {
    /// Lists everything that cannot work; looks at no file.
    pub fn check(&self) -> Vec<ConfigProblem> {
        let mut problems = Vec::new();
        for (key, duration) in
            [("sample_interval", self.sample_interval), ("poll_interval", self.poll_interval)]
        {
            if duration.is_zero() {
                problems.push(ConfigProblem::new(key, "wanted more than zero, got 0"));
            }
        }
        if !self.shim_program.is_absolute() {
            problems.push(ConfigProblem::new(
                "shim_program",
                format!("wanted an absolute path, got `{}`", self.shim_program.display()),
            ));
        }
        for (name, agent) in &self.agents {
            problems.extend(agent.check().into_iter().map(|problem| ConfigProblem {
                key: format!("agents.{name}.{}", problem.key),
                reason: problem.reason,
            }));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_that_cannot_be_started_is_named() {
        let agent = |program: &str| AgentConfig {
            program: PathBuf::from(program),
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            time_limit: Duration::from_secs(1),
            memory_limit_bytes: None,
            address_space_limit_bytes: None,
            max_slots: None,
            output_limit_bytes: None,
            output_overflow: Overflow::End,
            work_limit_bytes: None,
            run_as: None,
        };
        let reason = |program: &str| agent(program).check_program().map(|problem| problem.reason);

        assert_eq!(reason("/bin/sh"), None);
        assert!(
            reason("/no/such/program")
                .unwrap()
                .starts_with("wanted a program, got `/no/such/program`: No such")
        );
        assert_eq!(reason("/etc").unwrap(), "wanted a program, got `/etc`, which is no file");
        assert_eq!(
            reason("/etc/passwd").unwrap(),
            "wanted a program, got `/etc/passwd`, which nobody may execute"
        );
    }

    #[test]
    fn agent_config_with_many_problems_names_each_key() {
        let agent = AgentConfig {
            program: PathBuf::from("relative"),
            arguments: vec!["fine".to_owned(), "{nope}".to_owned()],
            environment: BTreeMap::from([
                ("A=B".to_owned(), String::new()),
                ("HORIZONS_JOB_ID".to_owned(), String::new()),
            ]),
            time_limit: Duration::ZERO,
            memory_limit_bytes: Some(0),
            address_space_limit_bytes: Some(1),
            max_slots: Some(0),
            output_limit_bytes: Some(0),
            output_overflow: Overflow::End,
            work_limit_bytes: Some(0),
            run_as: None,
        };

        let keys: Vec<String> = agent.check().into_iter().map(|problem| problem.key).collect();

        assert_eq!(
            keys,
            [
                "program",
                "arguments[1]",
                "environment.A=B",
                "environment.HORIZONS_JOB_ID",
                "time_limit",
                "memory_limit_bytes",
                "address_space_limit_bytes",
                "output_limit_bytes",
                "work_limit_bytes",
                "max_slots"
            ]
        );
    }
}
