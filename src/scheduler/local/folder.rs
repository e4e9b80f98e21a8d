//! The folder of an attempt: the truth about it, shared by the scheduler and the shim.
//!
//! Promises that each file appears whole or not at all and is on the disk before the writer goes on, except the
//! claim (whose mere existence counts) and the samples (whose last line may be torn). Whoever writes a claim, a
//! tombstone or a result holds the lock.
//!
//! *Shape*, in one folder for each attempt:
//!
//! | file | written by | says |
//! |---|---|---|
//! | `attempt.json` | scheduler, at submit | what to run, and its place in the queue |
//! | `parameters.json` | scheduler, at submit | the user's parameters |
//! | `lock` | nobody | held by the shim and by the agent's processes |
//! | `cancel` | scheduler | the attempt is to end; it is made at submit as `.cancel`, and appears by its name |
//! | `claim.json` | shim, created exclusively | this attempt has had its one start |
//! | `agent.json` | shim | the agent's process, and when it started |
//! | `samples.jsonl` | shim, appended | one sample a line |
//! | `result.json` | shim | how it ended; its room is taken before the agent starts |
//! | `space.json` | shim, written over | what the attempt takes on the disk |
//! | `tombstone.json` | scheduler | it was cancelled or lost; no shim starts it |
//! | `work/`, `stdout`, `stderr`, `shim.log` | agent, shim | the agent's files and output |

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use horizons_actors::clock::Timestamp;
use horizons_actors::ids::{AgentName, AttemptId};
use horizons_actors::orchestrator::FailureCode;
use horizons_actors::ports::scheduler::{AttemptEnd, AttemptExit, AttemptTotals};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::process::{FileIdentity, ProcessIdentity};
use super::run_as::RunAs;
use crate::disk::Ballast;

pub(crate) const ATTEMPT_FILE: &str = "attempt.json";
pub(crate) const PARAMETERS_FILE: &str = "parameters.json";
pub(crate) const LOCK_FILE: &str = "lock";
pub(crate) const CANCEL_FILE: &str = "cancel";
pub(crate) const PREPARED_CANCEL_FILE: &str = ".cancel";
pub(crate) const CLAIM_FILE: &str = "claim.json";
pub(crate) const AGENT_FILE: &str = "agent.json";
pub(crate) const SAMPLES_FILE: &str = "samples.jsonl";
pub(crate) const RESULT_FILE: &str = "result.json";
pub(crate) const TOMBSTONE_FILE: &str = "tombstone.json";
pub(crate) const SPACE_FILE: &str = "space.json";
pub(crate) const WORK_FOLDER: &str = "work";
pub(crate) const STDOUT_FILE: &str = "stdout";
pub(crate) const STDERR_FILE: &str = "stderr";
pub(crate) const SHIM_LOG_FILE: &str = "shim.log";

/// The permissions of an attempt's files but its output: agents of other users pass through its folder.
const FILE_MODE: u32 = 0o600;

/// The environment variable that marks every process of an attempt.
pub(crate) const MARKER_VARIABLE: &str = "HORIZONS_ATTEMPT_KEY";

/// Tells why a folder could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The operating system refused.
    #[error("failed to {operation} `{}`: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file does not hold what was written.
    #[error("failed to parse `{}`: {source}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        source: serde_json::Error,
    },
}

impl FolderError {
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| FolderError::Io { operation, path: path.to_owned(), source }
    }

    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, FolderError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Tells whether there was no room, on the disk or within a quota.
    pub(crate) fn is_disk_full(&self) -> bool {
        matches!(self, FolderError::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

/// What `attempt.json` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AttemptFile {
    #[serde(flatten)]
    pub(crate) id: AttemptId,
    /// Random; marks the attempt's processes.
    pub(crate) key: Uuid,
    /// The place in the queue.
    pub(crate) order: u64,
    pub(crate) queued_at: Timestamp,
    /// What to run; none when the attempt was cancelled before it was submitted.
    pub(crate) launch: Option<Launch>,
}

impl AttemptFile {
    /// Gives what marks the attempt's processes, as it stands in their environment.
    pub(crate) fn marker(&self) -> String {
        format!("{MARKER_VARIABLE}={}", self.key)
    }
}

/// What to run, fixed when the attempt is submitted: a later configuration does not change it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Launch {
    pub(crate) agent: AgentName,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) time_limit_ms: u64,
    pub(crate) kill_grace_ms: u64,
    pub(crate) sample_interval_ms: u64,
    pub(crate) memory_limit_bytes: Option<u64>,
    pub(crate) address_space_limit_bytes: Option<u64>,
    #[serde(default)]
    pub(crate) output_limit_bytes: Option<u64>,
    #[serde(default)]
    pub(crate) output_overflow: Overflow,
    #[serde(default)]
    pub(crate) work_limit_bytes: Option<u64>,
    /// The control group that the agent is started in.
    #[serde(default)]
    pub(crate) control_group: Option<PathBuf>,
    /// Who the agent runs as, where that is not the shim's user.
    #[serde(default)]
    pub(crate) run_as: Option<RunAs>,
    /// By what the shim tells that the disk is full.
    #[serde(default)]
    pub(crate) ballast: Option<Ballast>,
}

/// What happens to output beyond its limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// The attempt is ended.
    #[default]
    End,
    /// The oldest output is given up.
    Rotate,
}

/// What `claim.json` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Claim {
    pub(crate) shim: ProcessIdentity,
    pub(crate) claimed_at: Timestamp,
}

/// What `agent.json` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StartedAgent {
    pub(crate) agent: ProcessIdentity,
    pub(crate) started_at: Timestamp,
}

/// What `result.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct AttemptResult {
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) ended_at: Timestamp,
    pub(crate) ending: Ending,
    pub(crate) totals: Option<AttemptTotals>,
}

/// How an agent ended, or why it was ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Ending {
    Exited {
        code: i32,
    },
    Signalled {
        signal: String,
        #[serde(default)]
        core_dumped: bool,
    },
    TimeLimit {
        limit_ms: u64,
    },
    MemoryLimit {
        limit_bytes: u64,
        used_bytes: u64,
    },
    OutputLimit {
        limit_bytes: u64,
        used_bytes: u64,
    },
    WorkLimit {
        limit_bytes: u64,
        used_bytes: u64,
    },
    /// The shim itself was told to end.
    ShimStopped {
        signal: String,
    },
    StartFailed {
        reason: String,
    },
    Cancelled,
}

impl Ending {
    fn exit(&self) -> AttemptExit {
        let (error_code, error_message) = match self {
            Ending::Exited { code: 0 } => return AttemptExit::Completed,
            Ending::Cancelled => return AttemptExit::Cancelled,
            Ending::Exited { code } => (FailureCode::ExitCode, format!("agent ended with exit code {code}")),
            Ending::Signalled { signal, core_dumped } => {
                let core = if *core_dumped { " and left a core dump" } else { "" };
                (FailureCode::Signal, format!("agent was ended by {signal}{core}"))
            }
            Ending::ShimStopped { signal } => {
                (FailureCode::Signal, format!("the agent's supervisor was ended by {signal}"))
            }
            Ending::TimeLimit { limit_ms } => {
                (FailureCode::TimeLimit, format!("agent ran longer than {limit_ms} ms"))
            }
            Ending::MemoryLimit { limit_bytes, used_bytes } => (
                FailureCode::MemoryLimit,
                format!("agent used {used_bytes} bytes of memory, more than {limit_bytes}"),
            ),
            Ending::OutputLimit { limit_bytes, used_bytes } => (
                FailureCode::OutputLimit,
                format!("agent wrote {used_bytes} bytes of output, more than {limit_bytes}"),
            ),
            Ending::WorkLimit { limit_bytes, used_bytes } => (
                FailureCode::WorkLimit,
                format!("agent's work folder took {used_bytes} bytes, more than {limit_bytes}"),
            ),
            Ending::StartFailed { reason } => (FailureCode::StartFailed, reason.clone()),
        };
        AttemptExit::Failed { error_code: error_code.name().to_owned(), error_message }
    }
}

/// What `tombstone.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tombstone {
    pub(crate) at: Timestamp,
    pub(crate) cause: TombstoneCause,
}

/// Why no shim may start an attempt any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum TombstoneCause {
    Cancelled,
    Lost { reason: String },
    StartFailed { reason: String },
}

impl Tombstone {
    fn end(&self) -> AttemptEnd {
        let exit = match &self.cause {
            TombstoneCause::Cancelled => AttemptExit::Cancelled,
            TombstoneCause::Lost { reason } => AttemptExit::Failed {
                error_code: FailureCode::AttemptLost.name().to_owned(),
                error_message: reason.clone(),
            },
            TombstoneCause::StartFailed { reason } => AttemptExit::Failed {
                error_code: FailureCode::StartFailed.name().to_owned(),
                error_message: reason.clone(),
            },
        };
        AttemptEnd { ended_at: self.at, exit, totals: None }
    }
}

/// How an attempt stands, by its folder.
#[derive(Debug, Clone)]
pub(crate) enum Standing {
    Queued,
    /// Claimed; the claim is unreadable while its shim still writes it, or after it died doing so.
    Claimed {
        claim: Option<Claim>,
        started: Option<StartedAgent>,
    },
    Ended {
        started_at: Option<Timestamp>,
        end: AttemptEnd,
    },
}

/// How many characters of a job id stand in the folder's name, for people.
const NAME_HINT_CHARACTERS: usize = 40;

/// How many bytes of the job id's hash stand in the folder's name: enough that no two ever meet.
const NAME_HASH_BYTES: usize = 16;

/// Names an attempt's folder: safe for every id, different for different ids, also where case is ignored.
pub(crate) fn folder_name(id: &AttemptId) -> String {
    let hint: String = id
        .job_id
        .as_str()
        .chars()
        .take(NAME_HINT_CHARACTERS)
        .map(|character| if character.is_ascii_alphanumeric() { character } else { '_' })
        .collect();
    let hash: String = Sha256::digest(id.job_id.as_str())
        .iter()
        .take(NAME_HASH_BYTES)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{hint}-{hash}-{}", id.attempt)
}

/// Makes a folder's own entries durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), FolderError> {
    File::open(folder).and_then(|opened| opened.sync_all()).map_err(FolderError::io("sync", folder))
}

/// Creates a file that must not exist yet, with its content on the disk; the folder's entry is not synced.
pub(crate) fn create_synced(path: &Path, content: &[u8]) -> Result<(), FolderError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .map_err(FolderError::io("create", path))
}

/// Writes a file whole or not at all, durable when it returns. One writer at a time.
pub(crate) fn write_whole<T: Serialize>(folder: &Path, name: &str, value: &T) -> Result<(), FolderError> {
    let path = folder.join(name);
    let content = to_json(&path, value)?;
    let temporary = temporary_of(folder, name);
    File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(FILE_MODE)
        .open(&temporary)
        .and_then(|mut file| file.write_all(&content).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, &path))
        .map_err(FolderError::io("write", &path))?;
    sync_folder(folder)
}

fn temporary_of(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!(".{name}.new"))
}

/// A file that will be written whole or not at all, and has its room on the disk already.
///
/// *Shape*: what is written is followed by white space, which JSON allows.
#[derive(Debug)]
pub(crate) struct PreparedFile {
    folder: PathBuf,
    name: &'static str,
    /// None when there was no room for it.
    file: Option<File>,
}

/// The room that is taken: an ordinary result's, several times over.
const PREPARED_BYTES: usize = 4096;

impl PreparedFile {
    /// Takes the room. A disk that has none is no failure: it may get some until the file is written.
    pub(crate) fn take(folder: &Path, name: &'static str) -> Self {
        let file = File::options()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(temporary_of(folder, name))
            .and_then(|file| file.write_all_at(&[b' '; PREPARED_BYTES], 0).map(|()| file))
            .and_then(|file| file.sync_all().map(|()| file));
        Self { folder: folder.to_owned(), name, file: file.ok() }
    }

    /// Writes it, durable when it returns. May be tried again when it failed.
    pub(crate) fn write<T: Serialize>(&self, value: &T) -> Result<(), FolderError> {
        let Some(file) = &self.file else { return write_whole(&self.folder, self.name, value) };
        let path = self.folder.join(self.name);
        let content = to_json(&path, value)?;
        file.write_all_at(&content, 0)
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(temporary_of(&self.folder, self.name), &path))
            .map_err(FolderError::io("write", &path))?;
        sync_folder(&self.folder)
    }
}

/// Encodes a value for a file.
pub(crate) fn to_json<T: Serialize>(path: &Path, value: &T) -> Result<Vec<u8>, FolderError> {
    serde_json::to_vec(value).map_err(|source| FolderError::Corrupt { path: path.to_owned(), source })
}

/// Reads a file; none when it is not there.
pub(crate) fn read_json<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<Option<T>, FolderError> {
    let path = folder.join(name);
    match fs::read(&path) {
        Ok(content) => {
            serde_json::from_slice(&content).map(Some).map_err(|source| FolderError::Corrupt { path, source })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FolderError::io("read", &path)(error)),
    }
}

/// Reads how an attempt stands; none when it is unknown.
pub(crate) fn read_standing(folder: &Path) -> Result<Option<(AttemptFile, Standing)>, FolderError> {
    let Some(attempt) = read_json::<AttemptFile>(folder, ATTEMPT_FILE)? else { return Ok(None) };
    let started: Option<StartedAgent> = read_json(folder, AGENT_FILE)?;
    let started_at = started.as_ref().map(|started| started.started_at);
    if let Some(tombstone) = read_json::<Tombstone>(folder, TOMBSTONE_FILE)? {
        return Ok(Some((attempt, Standing::Ended { started_at, end: tombstone.end() })));
    }
    if let Some(result) = read_json::<AttemptResult>(folder, RESULT_FILE)? {
        let end = AttemptEnd { ended_at: result.ended_at, exit: result.ending.exit(), totals: result.totals };
        return Ok(Some((attempt, Standing::Ended { started_at: result.started_at, end })));
    }
    if is_there(&folder.join(CLAIM_FILE))? {
        let claim = read_json(folder, CLAIM_FILE).unwrap_or(None);
        return Ok(Some((attempt, Standing::Claimed { claim, started })));
    }
    // The folder may have been cleaned away between the first read and the last.
    let is_still_there = is_there(&folder.join(ATTEMPT_FILE))?;
    Ok(is_still_there.then_some((attempt, Standing::Queued)))
}

/// Tells whether a file is there.
pub(crate) fn is_there(path: &Path) -> Result<bool, FolderError> {
    path.try_exists().map_err(FolderError::io("look for", path))
}

/// Gives the identity of the lock file; none when the folder is gone.
pub(crate) fn lock_identity(folder: &Path) -> Option<FileIdentity> {
    fs::metadata(folder.join(LOCK_FILE)).ok().map(|metadata| FileIdentity::of(&metadata))
}

/// Takes an attempt's lock without waiting; none while another process has it.
///
/// The lock lives as long as any copy of the descriptor, in whatever process. A folder that was replaced since
/// the file was opened counts as held by another.
pub(crate) fn try_lock(folder: &Path) -> Result<Option<File>, FolderError> {
    let path = folder.join(LOCK_FILE);
    let file = File::open(&path).map_err(FolderError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(FolderError::io("lock", &path)(error)),
    }
    let held = file.metadata().map_err(FolderError::io("read", &path))?;
    let is_same = lock_identity(folder) == Some(FileIdentity::of(&held));
    Ok(is_same.then_some(file))
}

/// An attempt's lock in the scheduler's hands, given back when dropped.
#[derive(Debug)]
pub(crate) struct SchedulerLock(File);

impl SchedulerLock {
    pub(crate) fn try_take(folder: &Path) -> Result<Option<Self>, FolderError> {
        Ok(try_lock(folder)?.map(Self))
    }
}

impl Drop for SchedulerLock {
    fn drop(&mut self) {
        // Closing is not enough: a process that we are just starting may hold a copy until it execs. If this
        // fails, closing follows at once.
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use horizons_actors::ids::{Attempt, JobId};
    use proptest::prelude::*;

    use super::*;

    fn id(job: &str, attempt: u32) -> AttemptId {
        AttemptId { job_id: JobId::parse(job).unwrap(), attempt: Attempt(attempt) }
    }

    #[test]
    fn folder_name_of_a_hostile_id_is_one_plain_component() {
        for job in ["../../etc/passwd", "/", ".", "..", "a/b", "a\\b", "-rf", &"é".repeat(127)] {
            let name = folder_name(&id(job, 1));

            assert!(
                name.chars().all(|character| character.is_ascii_alphanumeric() || "_-".contains(character))
            );
            assert!(name.len() <= 255);
        }
    }

    #[test]
    fn folder_name_of_similar_ids_differs_without_case() {
        let names: std::collections::BTreeSet<String> =
            [id("a/b", 1), id("a_b", 1), id("A_b", 1), id("a_b", 11), id("a_b-1", 1), id("a_b", 2)]
                .iter()
                .map(|id| folder_name(id).to_lowercase())
                .collect();

        assert_eq!(names.len(), 6);
    }

    proptest! {
        #[test]
        fn folder_name_of_any_id_is_one_safe_component(job in "\\PC{1,60}", attempt in any::<u32>()) {
            let name = folder_name(&id(&job, attempt));

            prop_assert!(name.len() <= 255);
            prop_assert_eq!(Path::new(&name).components().count(), 1);
            prop_assert!(!name.starts_with('.'));
        }
    }

    #[test]
    fn prepared_file_is_written_whole_and_not_seen_before() {
        let folder = tempfile::tempdir().unwrap();
        let prepared = PreparedFile::take(folder.path(), RESULT_FILE);

        let before: Option<Vec<u32>> = read_json(folder.path(), RESULT_FILE).unwrap();
        prepared.write(&vec![1, 2, 3]).unwrap();

        assert_eq!(before, None);
        assert_eq!(read_json(folder.path(), RESULT_FILE).unwrap(), Some(vec![1, 2, 3]));
    }

    #[test]
    fn lock_held_by_one_is_refused_to_another_and_free_after() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(LOCK_FILE), b"").unwrap();

        let first = SchedulerLock::try_take(folder.path()).unwrap();
        assert!(first.is_some());
        assert!(SchedulerLock::try_take(folder.path()).unwrap().is_none());
        drop(first);

        assert!(SchedulerLock::try_take(folder.path()).unwrap().is_some());
    }
}
