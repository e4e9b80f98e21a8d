//! The port's calls, carried out on the folders.
//!
//! Promises that each is safe to repeat and to run beside any other, in any order. Knows nothing of threads.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use horizons_actors::event::TaccSystem;
use horizons_actors::ids::{AttemptId, SchedulerJobId};
use horizons_actors::parameters::Parameters;
use horizons_actors::ports::scheduler::{AttemptReport, AttemptSample, AttemptSpec, SchedulerError};
use nix::unistd::{AccessFlags, access};
use uuid::Uuid;

use super::folder::{
    self, ATTEMPT_FILE, AttemptFile, CANCEL_FILE, FolderError, LOCK_FILE, Launch, PARAMETERS_FILE,
    PREPARED_CANCEL_FILE, SchedulerLock, Standing, TOMBSTONE_FILE, Tombstone, TombstoneCause, WORK_FOLDER,
    folder_name,
};
use super::removal::remove_folder;
use super::watcher::Notice;
use super::{Shared, cgroup, millis};
use crate::faults;

/// Folders under construction begin with this.
const NEW_PREFIX: &str = ".new-";
/// Folders under removal begin with this.
const TRASH_PREFIX: &str = ".trash-";
/// The permissions of folders: parameters and results belong to the one who runs Horizons.
const FOLDER_MODE: u32 = 0o700;

impl From<FolderError> for SchedulerError {
    fn from(error: FolderError) -> Self {
        SchedulerError::Unavailable(error.to_string())
    }
}

fn refused(field: &'static str, reason: impl Into<String>) -> SchedulerError {
    SchedulerError::Refused { field, reason: reason.into() }
}

/// What a folder of attempts held when it was taken up.
#[derive(Debug)]
pub(super) struct Found {
    /// Attempts that have not ended.
    pub(super) live: Vec<AttemptFile>,
    pub(super) next_order: u64,
}

/// Creates the folder of attempts where it is missing and gives its absolute path.
pub(super) fn prepare(attempts_folder: &Path) -> Result<PathBuf, FolderError> {
    DirBuilder::new()
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(attempts_folder)
        .map_err(FolderError::io("create", attempts_folder))?;
    let absolute = fs::canonicalize(attempts_folder).map_err(FolderError::io("find", attempts_folder))?;
    folder::sync_folder(&absolute)?;
    Ok(absolute)
}

/// Reads the folder of attempts and removes what a crash left half made or half removed.
pub(super) fn take_up(attempts_folder: &Path) -> Result<Found, FolderError> {
    let mut found = Found { live: Vec::new(), next_order: 0 };
    let entries = fs::read_dir(attempts_folder).map_err(FolderError::io("read", attempts_folder))?;
    for entry in entries {
        let entry = entry.map_err(FolderError::io("read", attempts_folder))?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if name.starts_with(NEW_PREFIX) || name.starts_with(TRASH_PREFIX) {
            if let Err(error) = remove_folder(&path) {
                tracing::warn!(path = %path.display(), %error, "removing a left-over folder failed");
            }
            continue;
        }
        match folder::read_standing(&path) {
            Ok(Some((attempt, standing))) => {
                found.next_order = found.next_order.max(attempt.order.saturating_add(1));
                if !matches!(standing, Standing::Ended { .. }) {
                    found.live.push(attempt);
                }
            }
            Ok(None) => tracing::warn!(path = %path.display(), "a folder among the attempts is none"),
            Err(error) => tracing::error!(%error, "an attempt cannot be read and is left alone"),
        }
    }
    Ok(found)
}

/// Decides what an attempt runs, or why it is refused.
pub(super) fn launch_of(shared: &Shared, spec: &AttemptSpec) -> Result<Launch, SchedulerError> {
    if spec.tacc_system != TaccSystem::Local {
        let got = spec.tacc_system.name();
        return Err(refused("tacc_system", format!("wanted `local`, got `{got}`")));
    }
    let Some(agent) = shared.agents.get(&spec.agent) else {
        let known: Vec<String> = shared.agents.keys().map(|name| format!("`{name}`")).collect();
        return Err(refused("agent", format!("wanted one of {}, got `{}`", known.join(", "), spec.agent)));
    };
    let config = &agent.config;
    let is_file = fs::metadata(&config.program).is_ok_and(|metadata| metadata.is_file());
    if !is_file || access(&config.program, AccessFlags::X_OK).is_err() {
        let got = config.program.display();
        return Err(refused(
            "agent",
            format!("wanted an executable program for `{}`, got `{got}`", spec.agent),
        ));
    }
    let parameters_file = shared.folder_of(&spec.id).join(PARAMETERS_FILE);
    let mut arguments = Vec::with_capacity(agent.arguments.len());
    for template in &agent.arguments {
        let argument = template.render(spec, &parameters_file);
        arguments.push(argument.map_err(|error| refused(error.field, error.reason))?);
    }
    Ok(Launch {
        agent: spec.agent.clone(),
        program: config.program.clone(),
        arguments,
        environment: config.environment.clone(),
        time_limit_ms: millis(config.time_limit),
        kill_grace_ms: millis(shared.config.kill_grace),
        sample_interval_ms: millis(shared.config.sample_interval),
        memory_limit_bytes: config.memory_limit_bytes,
        address_space_limit_bytes: config.address_space_limit_bytes,
        output_limit_bytes: config.output_limit_bytes,
        output_overflow: config.output_overflow,
        work_limit_bytes: config.work_limit_bytes,
        control_group: None,
        run_as: config.run_as.clone(),
        ballast: shared.config.ballast.clone(),
    })
}

pub(super) fn submit(shared: &Shared, spec: &AttemptSpec) -> Result<AttemptReport, SchedulerError> {
    if let Some((attempt, standing)) = look_up(shared, &spec.id)? {
        // The call before this one may have failed, or died, between the folder's rename and its sync, or
        // before the watcher was told.
        folder::sync_folder(&shared.attempts_folder)?;
        if !matches!(standing, Standing::Ended { .. }) {
            shared.tell_watcher(Notice::Accepted(Box::new(attempt)));
        }
    } else {
        let launch = launch_of(shared, spec)?;
        let mut attempt = new_attempt(shared, &spec.id, Some(launch));
        if let (Some(launch), Some(base)) = (attempt.launch.as_mut(), &shared.control_group) {
            launch.control_group = Some(cgroup::of_attempt(base, attempt.key));
        }
        if create(shared, &attempt, &spec.parameters, None)? {
            faults::hit("scheduler-after-accept");
            shared.tell_watcher(Notice::Accepted(Box::new(attempt)));
        }
    }
    find(shared, &spec.id)?
        .ok_or_else(|| SchedulerError::Unavailable("the attempt was cleaned away meanwhile".to_owned()))
}

fn new_attempt(shared: &Shared, id: &AttemptId, launch: Option<Launch>) -> AttemptFile {
    AttemptFile {
        id: id.clone(),
        key: Uuid::new_v4(),
        order: shared.next_order.fetch_add(1, Ordering::SeqCst),
        queued_at: shared.clock.now(),
        launch,
    }
}

/// Makes an attempt's folder appear, whole and durable; tells whether it was not there before.
fn create(
    shared: &Shared,
    attempt: &AttemptFile,
    parameters: &Parameters,
    tombstone: Option<Tombstone>,
) -> Result<bool, FolderError> {
    let name = folder_name(&attempt.id);
    let path = shared.attempts_folder.join(&name);
    let new = shared.attempts_folder.join(format!("{NEW_PREFIX}{name}-{}", attempt.key));
    let appeared = fill(&new, attempt, parameters, tombstone).and_then(|()| match fs::rename(&new, &path) {
        Ok(()) => folder::sync_folder(&shared.attempts_folder).map(|()| true),
        Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {
            Ok(false)
        }
        Err(error) => Err(FolderError::io("create", &path)(error)),
    });
    if !matches!(appeared, Ok(true))
        && new.exists()
        && let Err(error) = remove_folder(&new)
    {
        tracing::warn!(path = %new.display(), %error, "removing a half-made folder failed");
    }
    appeared
}

fn fill(
    new: &Path,
    attempt: &AttemptFile,
    parameters: &Parameters,
    tombstone: Option<Tombstone>,
) -> Result<(), FolderError> {
    for path in [new.to_owned(), new.join(WORK_FOLDER)] {
        DirBuilder::new().mode(FOLDER_MODE).create(&path).map_err(FolderError::io("create", &path))?;
    }
    folder::create_synced(&new.join(LOCK_FILE), b"")?;
    folder::create_synced(&new.join(PREPARED_CANCEL_FILE), b"")?;
    let path = new.join(PARAMETERS_FILE);
    folder::create_synced(&path, parameters.to_json().as_bytes())?;
    if let Some(tombstone) = tombstone {
        let path = new.join(TOMBSTONE_FILE);
        folder::create_synced(&path, &folder::to_json(&path, &tombstone)?)?;
    }
    let path = new.join(ATTEMPT_FILE);
    folder::create_synced(&path, &folder::to_json(&path, attempt)?)?;
    folder::sync_folder(new)
}

/// Reads how an attempt stands, and makes sure that the folder is this attempt's.
fn look_up(shared: &Shared, id: &AttemptId) -> Result<Option<(AttemptFile, Standing)>, SchedulerError> {
    let path = shared.folder_of(id);
    let found = folder::read_standing(&path)?;
    if let Some((attempt, _)) = found.as_ref().filter(|(attempt, _)| attempt.id != *id) {
        let text = format!("`{}` belongs to `{}`, not to `{id}`", path.display(), attempt.id);
        return Err(SchedulerError::Unavailable(text));
    }
    Ok(found)
}

pub(super) fn find(shared: &Shared, id: &AttemptId) -> Result<Option<AttemptReport>, SchedulerError> {
    let Some((attempt, standing)) = look_up(shared, id)? else { return Ok(None) };
    let name = folder_name(id);
    let (started_at, end) = match standing {
        Standing::Queued => (None, None),
        Standing::Claimed { started, .. } => (started.map(|started| started.started_at), None),
        Standing::Ended { started_at, end } => (started_at, Some(end)),
    };
    let index = shared.samples_of(&name);
    let samples =
        index.lock().unwrap_or_else(PoisonError::into_inner).count(&shared.attempts_folder.join(&name))?;
    let scheduler_job_id = SchedulerJobId::parse(&name)
        .map_err(|error| SchedulerError::Unavailable(format!("`{name}` is no name for a job: {error}")))?;
    Ok(Some(AttemptReport { scheduler_job_id, queued_at: attempt.queued_at, started_at, end, samples }))
}

pub(super) fn samples(
    shared: &Shared,
    id: &AttemptId,
    from: u64,
    limit: usize,
) -> Result<Vec<AttemptSample>, SchedulerError> {
    if look_up(shared, id)?.is_none() {
        return Ok(Vec::new());
    }
    let index = shared.samples_of(&folder_name(id));
    let mut index = index.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(index.read(&shared.folder_of(id), from, limit)?)
}

/// Makes the wish to cancel durable; the watcher and the shim carry it out.
///
/// An attempt that is unknown is remembered as cancelled, so that a submit that comes later starts nothing.
pub(super) fn cancel(shared: &Shared, id: &AttemptId) -> Result<(), SchedulerError> {
    if look_up(shared, id)?.is_none() {
        let attempt = new_attempt(shared, id, None);
        let tombstone = Tombstone { at: attempt.queued_at, cause: TombstoneCause::Cancelled };
        if create(shared, &attempt, &Parameters::default(), Some(tombstone))? {
            shared.changes.notify_one();
            return Ok(());
        }
    }
    match look_up(shared, id)? {
        None | Some((_, Standing::Ended { .. })) => Ok(()),
        Some((_, Standing::Queued | Standing::Claimed { .. })) => {
            let path = shared.folder_of(id);
            match wish_to_cancel(&path) {
                Ok(()) => {}
                Err(error) if error.is_missing() => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            folder::sync_folder(&path)?;
            shared.tell_watcher(Notice::Cancelled(id.clone()));
            Ok(())
        }
    }
}

/// Makes the wish appear. The file is there already by another name: a full disk may have no room for a new one.
fn wish_to_cancel(folder: &Path) -> Result<(), FolderError> {
    let path = folder.join(CANCEL_FILE);
    match fs::rename(folder.join(PREPARED_CANCEL_FILE), &path) {
        Ok(()) => return Ok(()),
        // Made by an older version, or cancelled before.
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(FolderError::io("write", &path)(error)),
    }
    match folder::create_synced(&path, b"") {
        Err(FolderError::Io { source, .. }) if source.kind() == ErrorKind::AlreadyExists => Ok(()),
        written => written,
    }
}

pub(super) fn clean(shared: &Shared, id: &AttemptId) -> Result<(), SchedulerError> {
    let name = folder_name(id);
    match look_up(shared, id)? {
        None => {
            shared.forget_samples_of(&name);
            return remove_trash_of(shared, &name);
        }
        Some((_, Standing::Ended { .. })) => {}
        Some(_) => return Err(SchedulerError::Unavailable(format!("attempt `{id}` has not ended yet"))),
    }
    let path = shared.folder_of(id);
    let Some(_lock) = SchedulerLock::try_take(&path)? else {
        return Err(SchedulerError::Unavailable(format!("attempt `{id}` is still being wound up")));
    };
    let trash = shared.attempts_folder.join(format!("{TRASH_PREFIX}{name}-{}", Uuid::new_v4()));
    fs::rename(&path, &trash).map_err(FolderError::io("remove", &path))?;
    folder::sync_folder(&shared.attempts_folder)?;
    shared.forget_samples_of(&name);
    remove_folder(&trash).map_err(FolderError::io("remove", &trash))?;
    Ok(())
}

/// Removes what an earlier try to clean left of an attempt.
fn remove_trash_of(shared: &Shared, name: &str) -> Result<(), SchedulerError> {
    let prefix = format!("{TRASH_PREFIX}{name}-");
    let entries =
        fs::read_dir(&shared.attempts_folder).map_err(FolderError::io("read", &shared.attempts_folder))?;
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)) {
        remove_folder(&entry.path()).map_err(FolderError::io("remove", &entry.path()))?;
    }
    Ok(())
}

/// Gives the environment of a shim.
pub(super) fn shim_environment(shared: &Shared) -> BTreeMap<String, std::ffi::OsString> {
    let mut environment = BTreeMap::new();
    let inherited = super::INHERITED_VARIABLES.iter().copied();
    let inherited = inherited.chain(cfg!(feature = "fail-points").then_some(faults::VARIABLE));
    for name in inherited {
        if let Some(value) = std::env::var_os(name) {
            environment.insert(name.to_owned(), value);
        }
    }
    for (name, value) in &shared.config.shim_environment {
        environment.insert(name.clone(), value.into());
    }
    environment
}
