//! The shim that runs one attempt (design D20): `horizons run-agent FOLDER`.
//!
//! Promises that an attempt's agent is started at most once, that nothing the agent started outlives the
//! attempt while the shim lives, that exit code and resource use are on the disk before the attempt's lock
//! is given back, and that nothing which the server had open outlives the server in an attempt: all without
//! Horizons being alive. Does not survive its own death: then the scheduler ends the
//! agent and declares the attempt lost.

mod agent;
mod exit;
mod recorder;
mod space;
mod supervision;

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::RawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use horizons_actors::clock::{Clock, SystemClock};
use nix::errno::Errno;

use crate::faults;
use crate::scheduler::local::cgroup;
use crate::scheduler::local::folder::{
    self, AttemptFile, AttemptResult, CANCEL_FILE, CLAIM_FILE, Claim, Ending, FolderError, PreparedFile,
    RESULT_FILE, SAMPLES_FILE, TOMBSTONE_FILE,
};
use crate::scheduler::local::process::ProcessIdentity;
use space::Space;

/// The exit code when the attempt was run to its end, whatever its outcome.
pub const EXIT_RAN: u8 = 0;
/// The exit code when another process has the attempt's lock.
pub const EXIT_LOCKED: u8 = 10;
/// The exit code when the attempt was started before, has ended or is not to start.
pub const EXIT_NOT_MINE: u8 = 11;
/// The exit code when the shim could not do its work; `shim.log` says why.
pub const EXIT_FAILED: u8 = 12;

/// How long the result is tried to be written before the attempt is left to be declared lost.
const RESULT_WRITE_LIMIT: Duration = Duration::from_secs(60);

/// How long it is tried where only room is wanting: somebody has to make some.
const FULL_DISK_LIMIT: Duration = Duration::from_secs(86_400);

/// How long to wait between two tries to write the result.
const RESULT_WRITE_PAUSE: Duration = Duration::from_millis(500);

/// Tells why the shim could not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShimError {
    /// The attempt's folder could not be read or written.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The operating system refused a call about processes.
    #[error("failed to {operation}: {source}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: Errno,
    },
    /// Signals could not be caught or read.
    #[error("failed to catch signals: {source}")]
    Signals {
        /// Why.
        source: std::io::Error,
    },
    /// The folder does not say what to run.
    #[error("failed to read `{}`: wanted an attempt with a program to run", .0.display())]
    NothingToRun(PathBuf),
}

impl ShimError {
    pub(crate) fn system(operation: &'static str) -> impl FnOnce(Errno) -> Self {
        move |source| ShimError::System { operation, source }
    }
}

/// Runs the attempt of a folder to its end.
///
/// The caller gives a process with a single thread, nothing open and nothing else to do: it becomes the leader
/// of a session and the reaper of all its descendants. Answers the process's exit code.
pub fn run(attempt_folder: &Path) -> u8 {
    close_inherited();
    run_attempt(attempt_folder).unwrap_or_else(|error| {
        log(&format!("{error}"));
        EXIT_FAILED
    })
}

/// Writes a line to standard error, which the scheduler has led to `shim.log`.
fn log(text: &str) {
    // There is nobody left to tell if standard error is closed.
    let _ = writeln!(std::io::stderr(), "{} {text}", SystemClock.now());
}

fn run_attempt(attempt_folder: &Path) -> Result<u8, ShimError> {
    leave_session()?;
    let folder = fs::canonicalize(attempt_folder).map_err(FolderError::io("find", attempt_folder))?;
    let Some(lock) = folder::try_lock(&folder)? else { return Ok(EXIT_LOCKED) };
    faults::hit("shim-before-claim");
    // The lock is held from here to the end of the process: no tombstone appears any more. A wish to cancel may,
    // and is then found when the agent is looked at for the first time.
    for name in [TOMBSTONE_FILE, RESULT_FILE, CANCEL_FILE] {
        if folder::is_there(&folder.join(name))? {
            return Ok(EXIT_NOT_MINE);
        }
    }
    let attempt: AttemptFile = folder::read_json(&folder, folder::ATTEMPT_FILE)?
        .ok_or_else(|| ShimError::NothingToRun(folder.clone()))?;
    // Blocked before there is a claim: whoever reads it may send a signal at once.
    let signals = supervision::Signals::catch()?;
    if !claim(&folder)? {
        return Ok(EXIT_NOT_MINE);
    }
    faults::hit("shim-after-claim");
    let prepared = PreparedFile::take(&folder, RESULT_FILE);
    let result = run_claimed(&folder, &attempt, &lock, &signals)?;
    if let Some(group) = attempt.launch.as_ref().and_then(|launch| launch.control_group.as_deref())
        && (cgroup::holds_self(group) || !cgroup::kill_and_remove(group))
    {
        log("the agent's control group cannot be removed");
    }
    faults::hit("shim-after-agent-exit");
    write_result(&prepared, &result)?;
    Ok(EXIT_RAN)
}

/// The last descriptor of standard input, output and error.
const LAST_STANDARD_DESCRIPTOR: RawFd = 2;

/// Closes what came with the start: our own files are closed by `exec`, but whoever started the server may have
/// left others open (`flock FILE horizons serve`, a supervisor's sockets), which no attempt may keep.
fn close_inherited() {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return };
    // Listed first: closing must not hit the listing itself, which is closed when the list is whole.
    let open: Vec<RawFd> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > LAST_STANDARD_DESCRIPTOR) {
        // The listing's own is closed already, which is as good.
        let _ = nix::unistd::close(descriptor);
    }
}

/// Leaves the terminal and process group of whoever started the shim.
fn leave_session() -> Result<(), ShimError> {
    match nix::unistd::setsid() {
        // Refused to the leader of a group, which is as independent as is needed.
        Ok(_) | Err(Errno::EPERM) => Ok(()),
        Err(error) => Err(ShimError::system("start a session")(error)),
    }
}

/// Takes the one start that the attempt has; tells whether it was still there to take.
fn claim(folder: &Path) -> Result<bool, ShimError> {
    let path = folder.join(CLAIM_FILE);
    let own = i32::try_from(std::process::id()).ok().and_then(ProcessIdentity::of);
    let shim = own.ok_or(ShimError::System { operation: "identify this process", source: Errno::ESRCH })?;
    let content = folder::to_json(&path, &Claim { shim, claimed_at: SystemClock.now() })?;
    match folder::create_synced(&path, &content) {
        Ok(()) => {}
        Err(FolderError::Io { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {
            return Ok(false);
        }
        Err(error) => return Err(error.into()),
    }
    folder::sync_folder(folder)?;
    Ok(true)
}

fn run_claimed(
    folder: &Path,
    attempt: &AttemptFile,
    lock: &File,
    signals: &supervision::Signals,
) -> Result<AttemptResult, ShimError> {
    let launch = attempt.launch.as_ref().ok_or_else(|| ShimError::NothingToRun(folder.to_owned()))?;
    nix::sys::prctl::set_child_subreaper(true)
        .map_err(ShimError::system("become the reaper of descendants"))?;
    // Opened first: once the agent runs, nothing may fail for want of a file.
    let samples = append_to(folder, SAMPLES_FILE)?;
    let space = Space::open(folder, launch)?;
    match agent::start(folder, attempt, launch, lock) {
        Ok(started) => supervision::supervise(folder, launch, started, (samples, space), signals),
        Err(error) => Ok(AttemptResult {
            started_at: None,
            ended_at: SystemClock.now(),
            ending: Ending::StartFailed { reason: error.to_string() },
            totals: None,
        }),
    }
}

fn write_result(prepared: &PreparedFile, result: &AttemptResult) -> Result<(), ShimError> {
    let began_at = Instant::now();
    loop {
        match prepared.write(result) {
            Ok(()) => return Ok(()),
            // A folder that was removed does not come back.
            Err(error) if error.is_missing() => return Err(error.into()),
            Err(error) => {
                let limit = if error.is_disk_full() { FULL_DISK_LIMIT } else { RESULT_WRITE_LIMIT };
                if began_at.elapsed() >= limit {
                    return Err(error.into());
                }
                log(&format!("{error}; trying again"));
            }
        }
        std::thread::park_timeout(RESULT_WRITE_PAUSE);
    }
}

/// Opens a file of the attempt for appending, readable by the owner and the group only.
pub(crate) fn append_to(folder: &Path, name: &str) -> Result<File, FolderError> {
    let path = folder.join(name);
    File::options()
        .create(true)
        .append(true)
        .mode(OUTPUT_FILE_MODE)
        .open(&path)
        .map_err(FolderError::io("open", &path))
}

/// The permissions of output files: jobs of different users may share the machine.
const OUTPUT_FILE_MODE: u32 = 0o640;
