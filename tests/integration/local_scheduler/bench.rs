//! What the tests of the local scheduler share: a temporary folder, agents, waiting for conditions.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use horizons::scheduler::local::{AgentConfig, LocalScheduler, LocalSchedulerConfig, Overflow};
use horizons_actors::clock::SystemClock;
use horizons_actors::event::TaccSystem;
use horizons_actors::ids::{AgentName, Attempt, AttemptId, CorrelationId, DatasetId, JobId, UserId};
use horizons_actors::parameters::Parameters;
use horizons_actors::ports::Reply;
use horizons_actors::ports::scheduler::{
    AttemptEnd, AttemptExit, AttemptReport, AttemptSpec, Scheduler, SchedulerError,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longer than anything takes on a loaded machine; a test that waits so long has failed.
const WAIT_LIMIT: Duration = Duration::from_secs(60);

pub(super) struct Bench {
    pub(super) folder: TempDir,
    pub(super) config: LocalSchedulerConfig,
}

impl Bench {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = LocalSchedulerConfig {
            attempts_folder: folder.path().join("attempts"),
            slots: 4,
            sample_interval: Duration::from_millis(50),
            kill_grace: Duration::from_millis(300),
            poll_interval: Duration::from_millis(20),
            shim_program: PathBuf::from(env!("CARGO_BIN_EXE_horizons")),
            shim_environment: BTreeMap::new(),
            ballast: None,
            disk: Arc::default(),
            troubles: Arc::default(),
            agents: BTreeMap::new(),
        };
        Self { folder, config }
    }

    /// Adds an agent that runs a shell script; `$1` is the data set, `$NOTES` a folder for what it leaves.
    pub(super) fn agent(mut self, name: &str, script: &str) -> Self {
        let notes = self.notes();
        fs::create_dir_all(&notes).unwrap();
        let agent = AgentConfig {
            program: PathBuf::from("/bin/sh"),
            arguments: vec![
                "-c".to_owned(),
                script.replace('{', "{{").replace('}', "}}"),
                "agent".to_owned(),
                "{dataset_id}".to_owned(),
            ],
            environment: BTreeMap::from([("NOTES".to_owned(), notes.to_str().unwrap().to_owned())]),
            time_limit: Duration::from_secs(120),
            memory_limit_bytes: None,
            address_space_limit_bytes: None,
            max_slots: None,
            output_limit_bytes: None,
            output_overflow: Overflow::End,
            work_limit_bytes: None,
            run_as: None,
        };
        self.config.agents.insert(AgentName::parse(name).unwrap(), agent);
        self
    }

    pub(super) fn agent_mut(&mut self, name: &str) -> &mut AgentConfig {
        self.config.agents.get_mut(&AgentName::parse(name).unwrap()).unwrap()
    }

    pub(super) fn slots(mut self, slots: u32) -> Self {
        self.config.slots = slots;
        self
    }

    pub(super) fn start(&self) -> LocalScheduler {
        LocalScheduler::start(self.config.clone(), Arc::new(SystemClock)).unwrap()
    }

    pub(super) fn notes(&self) -> PathBuf {
        self.folder.path().join("notes")
    }

    /// Reads what agents wrote into a file of the notes.
    pub(super) fn note(&self, name: &str) -> String {
        fs::read_to_string(self.notes().join(name)).unwrap_or_default()
    }

    pub(super) fn wait_for_note(&self, name: &str) {
        wait_for(name, || self.note(name).ends_with('\n'));
    }

    /// Gives the only attempt's folder.
    pub(super) fn attempt_folder(&self) -> PathBuf {
        let all: Vec<_> =
            fs::read_dir(&self.config.attempts_folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(all.len(), 1, "{all:?}");
        all.into_iter().next().unwrap()
    }

    /// Starts a shim by hand.
    pub(super) fn shim(&self, attempt_folder: &Path) -> Child {
        self.shim_command(attempt_folder).spawn().unwrap()
    }

    pub(super) fn shim_command(&self, attempt_folder: &Path) -> Command {
        let mut command = Command::new(&self.config.shim_program);
        command.arg("run-agent").arg(attempt_folder).stdin(Stdio::null()).stderr(Stdio::null());
        command
    }
}

pub(super) fn id(job: &str) -> AttemptId {
    AttemptId { job_id: JobId::parse(job).unwrap(), attempt: Attempt(1) }
}

pub(super) fn spec(job: &str, agent: &str) -> AttemptSpec {
    AttemptSpec {
        id: id(job),
        agent: AgentName::parse(agent).unwrap(),
        dataset_id: DatasetId::parse("dataset 1").unwrap(),
        parameters: Parameters::default(),
        tacc_system: TaccSystem::Local,
        user_id: UserId::parse("ada").unwrap(),
        correlation_id: CorrelationId::parse("00000000-0000-4000-8000-000000000000").unwrap(),
    }
}

/// Waits for the answer of a port.
pub(super) fn answer<T>(reply: Reply<T, SchedulerError>) -> Result<T, SchedulerError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(reply)
}

pub(super) fn submit(scheduler: &LocalScheduler, spec: AttemptSpec) -> AttemptReport {
    answer(scheduler.submit(spec)).unwrap()
}

pub(super) fn find(scheduler: &LocalScheduler, job: &str) -> AttemptReport {
    answer(scheduler.find(id(job))).unwrap().unwrap()
}

/// Waits until an attempt has ended.
pub(super) fn end(scheduler: &LocalScheduler, job: &str) -> AttemptEnd {
    wait_for(job, || find(scheduler, job).end.is_some());
    find(scheduler, job).end.unwrap()
}

pub(super) fn error_code(end: &AttemptEnd) -> &str {
    match &end.exit {
        AttemptExit::Failed { error_code, .. } => error_code,
        AttemptExit::Completed => "completed",
        AttemptExit::Cancelled => "cancelled",
    }
}

/// Waits for a condition, with a limit.
pub(super) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let give_up_at = Instant::now() + WAIT_LIMIT;
    while !condition() {
        assert!(Instant::now() < give_up_at, "waited too long for `{what}`");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

pub(super) fn wait_for_exit(child: &mut Child) -> ExitStatus {
    wait_for("a child's exit", || child.try_wait().unwrap().is_some());
    child.wait().unwrap()
}

/// Lists the living processes of an attempt, whatever they did to hide.
pub(super) fn processes_of(attempt_folder: &Path) -> Vec<i32> {
    let attempt: Value =
        serde_json::from_slice(&fs::read(attempt_folder.join("attempt.json")).unwrap()).unwrap();
    let marker = format!("HORIZONS_ATTEMPT_KEY={}", attempt["key"].as_str().unwrap());
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| is_alive(*pid))
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|all| all.split(|byte| *byte == 0).any(|one| one == marker.as_bytes()))
        })
        .collect()
}

pub(super) fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, tail)| !tail.starts_with(['Z', 'X'])))
}

pub(super) fn kill(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

/// Reads a number out of a file of the attempt, for instance the shim's pid.
pub(super) fn pid_in(attempt_folder: &Path, file: &str, part: &str) -> i32 {
    let value: Value = serde_json::from_slice(&fs::read(attempt_folder.join(file)).unwrap()).unwrap();
    i32::try_from(value[part]["pid"].as_i64().unwrap()).unwrap()
}

/// Leaves a claim as a shim that died right after it does.
pub(super) fn leave_claim_of(attempt_folder: &Path, pid: i32) {
    let claim = json!({
        "shim": {"pid": pid, "start_ticks": 1, "boot_id": boot_id()},
        "claimed_at": "2026-01-01T00:00:00.000000Z",
    });
    fs::write(attempt_folder.join("claim.json"), claim.to_string()).unwrap();
}

pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned()
}
