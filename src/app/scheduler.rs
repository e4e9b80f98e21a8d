//! From the configuration to the scheduler, and the shim's entry.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use horizons_actors::clock::Clock;
use horizons_actors::ports::output::AttemptOutput;
use horizons_actors::ports::scheduler::Scheduler;

use super::output::OutputElsewhere;
use super::{ATTEMPTS, attempts_folder};
use crate::config::{Agent, AgentProblem, Config, OutputOverflow, SchedulerKind};
use crate::disk::DiskState;
use crate::exit::{Exit, Failure};
use crate::private::{self, Access};
use crate::scheduler::elsewhere::ElsewhereScheduler;
use crate::scheduler::local::run_as::RunAs;
use crate::scheduler::local::{AgentConfig, LocalScheduler, LocalSchedulerConfig, Overflow, Troubles};

/// The configured scheduler, and who reads what its attempts write.
pub(super) struct StartedScheduler {
    pub(super) scheduler: Arc<dyn Scheduler>,
    pub(super) output: Arc<dyn AttemptOutput>,
}

/// Starts the configured scheduler.
pub(super) fn start(
    config: &Config,
    clock: Arc<dyn Clock>,
    disk: Arc<DiskState>,
    troubles: Arc<Troubles>,
) -> Result<StartedScheduler, Failure> {
    match config.scheduler.kind {
        SchedulerKind::Local => {
            let local = start_local(config, clock, disk, troubles)?;
            Ok(StartedScheduler { scheduler: Arc::clone(&local) as _, output: local })
        }
        SchedulerKind::Elsewhere => {
            let agents = config.agents.iter().map(|(name, agent)| (name.clone(), agent.arguments.clone()));
            let scheduler =
                ElsewhereScheduler::new(agents).map_err(|error| Failure::new(Exit::Config, &error))?;
            Ok(StartedScheduler {
                scheduler: Arc::new(scheduler),
                output: Arc::new(OutputElsewhere::new(config)),
            })
        }
    }
}

fn start_local(
    config: &Config,
    clock: Arc<dyn Clock>,
    disk: Arc<DiskState>,
    troubles: Arc<Troubles>,
) -> Result<Arc<LocalScheduler>, Failure> {
    let shim_program = std::env::current_exe().map_err(|error| Failure::new(Exit::Failed, &error))?;
    // Attempts outlive this process, and with it the working folder that a relative path is meant in.
    let folder =
        std::path::absolute(attempts_folder(config)).map_err(|error| Failure::new(Exit::Store, &error))?;
    let wrong = config.agents.iter().find_map(|(name, agent)| Some((name, check_run_as(agent)?)));
    if let Some((name, problem)) = wrong {
        let text = format!("`agents.{name}.{}`: {}", problem.field, problem.detail);
        return Err(Failure::text(Exit::Config, text));
    }
    for (name, agent) in &config.agents {
        if let Some(problem) = check_program(agent) {
            tracing::warn!(agent = %name, error = problem.detail, "jobs of an agent cannot start");
        }
    }
    private::make_or_adopt_folder(&config.store.folder, Access::Owner, ATTEMPTS)
        .and_then(|()| private::make_folder(&folder, Access::Owner))
        .map_err(|error| Failure::new(Exit::Store, &error))?;
    let agents = config.agents.iter().map(|(name, agent)| (name.clone(), agent_config(agent)));
    let local = LocalSchedulerConfig {
        attempts_folder: folder,
        slots: u32::try_from(config.scheduler.slots).unwrap_or(u32::MAX),
        sample_interval: config.scheduler.sample_interval,
        kill_grace: config.scheduler.kill_grace,
        poll_interval: config.scheduler.poll_interval,
        shim_program,
        shim_environment: BTreeMap::new(),
        ballast: Some(super::disk::ballast(config)?),
        disk,
        troubles,
        agents: agents.collect(),
    };
    if let Some(warning) = readers_of_the_data_folder(config) {
        tracing::warn!("{warning}");
    }
    let scheduler = LocalScheduler::start(local, clock).map_err(|error| Failure::new(Exit::Store, &error))?;
    Ok(Arc::new(scheduler))
}

fn agent_config(agent: &Agent) -> AgentConfig {
    AgentConfig {
        program: PathBuf::from(&agent.program),
        arguments: agent.arguments.clone(),
        environment: agent.environment.clone(),
        time_limit: agent.time_limit,
        memory_limit_bytes: Some(agent.memory_limit_bytes),
        address_space_limit_bytes: None,
        max_slots: agent.slot_limit,
        output_limit_bytes: Some(agent.output_limit_bytes),
        output_overflow: match agent.output_overflow {
            OutputOverflow::End => Overflow::End,
            OutputOverflow::Rotate => Overflow::Rotate,
        },
        work_limit_bytes: Some(agent.work_limit_bytes),
        // One that is not known was reported when the configuration was checked.
        run_as: agent.run_as.as_deref().and_then(|text| RunAs::parse(text).ok()),
    }
}

/// Checks an agent by the local scheduler's rules.
pub fn check_agent(agent: &Agent) -> Vec<AgentProblem> {
    let problems = agent_config(agent).check();
    problems.into_iter().map(|problem| AgentProblem { field: problem.key, detail: problem.reason }).collect()
}

/// Names the agents that can read the data folder, which is everything that the server knows; none where every agent
/// runs as a user of its own.
pub fn readers_of_the_data_folder(config: &Config) -> Option<String> {
    let readers: Vec<String> = config
        .agents
        .iter()
        .filter(|(_, agent)| agent.run_as.is_none())
        .map(|(name, _)| format!("`{name}`"))
        .collect();
    if readers.is_empty() || config.scheduler.kind == SchedulerKind::Elsewhere {
        return None;
    }
    Some(format!(
        "agents that run as the user of `serve` can read the data folder: {}; set `run_as`",
        readers.join(", ")
    ))
}

/// Looks whether an agent's program can be started on this machine, and as who it is to run.
pub fn check_program(agent: &Agent) -> Option<AgentProblem> {
    match agent_config(agent).check_program() {
        Some(problem) => Some(AgentProblem { field: problem.key, detail: problem.reason }),
        None => check_run_as(agent),
    }
}

/// Looks whether this process may run an agent as who it is to run.
fn check_run_as(agent: &Agent) -> Option<AgentProblem> {
    let text = agent.run_as.as_deref()?;
    let problem = RunAs::parse(text).and_then(|_| RunAs::check_rights()).err()?;
    Some(AgentProblem { field: "run_as".to_owned(), detail: problem.to_string() })
}

/// Runs one attempt under the shim: the hidden command `run-agent FOLDER`.
pub fn run_agent(arguments: Vec<OsString>) -> Result<Exit, Failure> {
    match arguments.as_slice() {
        // The shim has exit codes of its own, which tell the scheduler how it ended.
        [folder] => signal_hook::low_level::exit(i32::from(crate::run_agent::run(Path::new(folder)))),
        _ => Err(Failure::text(Exit::Usage, "wanted one argument: the attempt's folder")),
    }
}
