//! Starting the agent: limits, environment, descriptors.
//!
//! Promises that the agent leads a process group of its own, sees only the environment that was declared, and
//! inherits nothing but the attempt's lock and its output files.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use horizons_actors::clock::{Clock, SystemClock, Timestamp};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, setrlimit};

use super::{ShimError, append_to, log};
use crate::scheduler::local::INHERITED_VARIABLES;
use crate::scheduler::local::cgroup::Group;
use crate::scheduler::local::folder::{
    self, AGENT_FILE, AttemptFile, Launch, MARKER_VARIABLE, STDERR_FILE, STDOUT_FILE, StartedAgent,
    WORK_FOLDER,
};
use crate::scheduler::local::process::ProcessIdentity;
use crate::scheduler::local::run_as;

/// The agent's process, just started; it is waited for by pid, with all other descendants.
#[derive(Debug, Clone, Copy)]
pub(super) struct RunningAgent {
    pub(super) pid: i32,
    pub(super) started_at: Timestamp,
    pub(super) started: Instant,
}

/// Processor seconds an attempt may use beyond its time limit on every core, before the kernel ends it.
const CPU_LIMIT_MARGIN_SECONDS: u64 = 60;

/// Sets limits on this process, which the agent inherits.
///
/// The processor limit is the last resort for an agent whose shim died: while the shim lives, the time limit
/// comes first.
fn limit_resources(launch: &Launch) -> Result<(), ShimError> {
    let set = |resource, limit| setrlimit(resource, limit, limit);
    set(Resource::RLIMIT_CORE, 0).map_err(ShimError::system("set the limit of core files"))?;
    let cores =
        std::thread::available_parallelism().map_or(1, |cores| u64::try_from(cores.get()).unwrap_or(1));
    let cpu_seconds =
        (launch.time_limit_ms / 1000).saturating_mul(cores).saturating_add(CPU_LIMIT_MARGIN_SECONDS);
    if let Err(error) = set(Resource::RLIMIT_CPU, cpu_seconds) {
        // A lower limit of the machine stays in force, which serves the same end.
        log(&format!("failed to set the limit of processor time: {error}"));
    }
    if let Some(bytes) = launch.address_space_limit_bytes {
        set(Resource::RLIMIT_AS, bytes).map_err(ShimError::system("set the limit of address space"))?;
    }
    Ok(())
}

/// Starts the agent and writes down who it is.
///
/// *Errors*: when the program cannot be started; then nothing runs.
pub(super) fn start(
    folder: &Path,
    attempt: &AttemptFile,
    launch: &Launch,
    lock: &File,
) -> Result<RunningAgent, StartError> {
    limit_resources(launch)?;
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.arguments)
        .env_clear()
        .current_dir(folder.join(WORK_FOLDER))
        .stdin(Stdio::null())
        .stdout(append_to(folder, STDOUT_FILE)?)
        .stderr(append_to(folder, STDERR_FILE)?)
        .process_group(0);
    for name in INHERITED_VARIABLES {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
        .envs(&launch.environment)
        .env(MARKER_VARIABLE, attempt.key.to_string())
        .env("HORIZONS_JOB_ID", attempt.id.job_id.as_str())
        .env("HORIZONS_ATTEMPT", attempt.id.attempt.to_string());
    if let Some(run_as) = &launch.run_as {
        run_as::give(folder, run_as).map_err(StartError::RunAs)?;
        command.uid(run_as.uid).gid(run_as.gid).env("HOME", &run_as.home);
    }
    let group = enter_group(launch);
    set_inherited(lock, FdFlag::empty())?;
    let spawned = command.spawn();
    leave_group(group.as_ref());
    set_inherited(lock, FdFlag::FD_CLOEXEC)?;
    let child = spawned
        .map_err(|source| StartError::Spawn { program: launch.program.display().to_string(), source })?;
    let pid = i32::try_from(child.id()).map_err(|_| StartError::Pid(child.id()))?;
    let running = RunningAgent { pid, started_at: SystemClock.now(), started: Instant::now() };
    write_down(folder, running);
    Ok(running)
}

/// Enters the control group that the agent is to be started in. Without it the agent runs all the same, and is found
/// by its other marks.
fn enter_group(launch: &Launch) -> Option<Group> {
    let path = launch.control_group.as_deref()?;
    let entered = Group::make(path).and_then(|group| group.enter().map(|()| group));
    entered.inspect_err(|error| log(&format!("the agent has no control group: {error}"))).ok()
}

/// Leaves it again: what is in it is the agent's alone.
fn leave_group(group: Option<&Group>) {
    if let Some(Err(error)) = group.map(Group::leave) {
        log(&format!("failed to leave the agent's control group: {error}"));
    }
}

/// Writes down who the agent is; without it the scheduler still finds the agent by its lock and environment.
fn write_down(folder: &Path, running: RunningAgent) {
    // A zombie still has its identity: the child is not waited for yet.
    let Some(agent) = ProcessIdentity::of(running.pid) else { return };
    if let Err(error) =
        folder::write_whole(folder, AGENT_FILE, &StartedAgent { agent, started_at: running.started_at })
    {
        log(&error.to_string());
    }
}

fn set_inherited(lock: &File, flags: FdFlag) -> Result<(), ShimError> {
    fcntl(lock, FcntlArg::F_SETFD(flags)).map_err(ShimError::system("pass on the attempt's lock"))?;
    Ok(())
}

/// Tells why the agent could not be started.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error(transparent)]
    Shim(#[from] ShimError),
    #[error(transparent)]
    Folder(#[from] folder::FolderError),
    #[error("failed to start `{program}`: {source}")]
    Spawn { program: String, source: std::io::Error },
    #[error("failed to give the agent's files to its user: {0}")]
    RunAs(std::io::Error),
    #[error("failed to start: wanted a pid below 2^31, got {0}")]
    Pid(u32),
}
