//! Ending what is left of an attempt whose shim is dead, on threads of its own.
//!
//! Promises that neither a process that cannot be killed nor a read that hangs holds up other attempts: the watcher
//! only asks how a burial stands, and each further try of one comes later than the one before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use horizons_actors::ids::AttemptId;
use nix::sys::signal::Signal;

use super::cgroup;
use super::folder::{self, AttemptFile, FolderError, SchedulerLock, StartedAgent};
use super::process::{self, Membership, ProcessStat};
use crate::periodic;

/// Burials that may be under way at once; one that hangs keeps its place.
const BURIALS_MAX: usize = 8;

/// The pause after a try that found something left; doubled with every further one.
const PAUSE: Duration = Duration::from_millis(10);

/// The longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// From so many tries in vain on, some seconds, it is said aloud.
const TRIES_QUIET: u32 = 8;

/// A burial that has not answered for so long hangs.
const HANGS_AFTER: Duration = Duration::from_secs(10);

/// The attempts that cannot be ended, each with what is in the way; shared with whoever shows them.
#[derive(Debug, Default)]
pub struct Troubles(Mutex<BTreeMap<AttemptId, String>>);

impl Troubles {
    /// Gives all of them.
    pub fn all(&self) -> BTreeMap<AttemptId, String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes what is in the way of an attempt's end now, if anything.
    pub(super) fn note(&self, id: &AttemptId, trouble: Option<&str>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match trouble {
            Some(trouble) if all.get(id).is_none_or(|known| known != trouble) => {
                all.insert(id.clone(), trouble.to_owned());
            }
            Some(_) => {}
            None => drop(all.remove(id)),
        }
    }
}

/// How many burials are under way.
#[derive(Debug, Clone, Default)]
pub(super) struct Burials(Arc<AtomicUsize>);

/// A place among the burials under way, given back when dropped.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Burials {
    fn take(&self) -> Option<Place> {
        let taken = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |under_way| {
            (under_way < BURIALS_MAX).then_some(under_way + 1)
        });
        taken.is_ok().then(|| Place(Arc::clone(&self.0)))
    }
}

/// What a try found.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing is left; the lock is held until the attempt was declared lost.
    Nothing(SchedulerLock),
    /// Something is left, in words.
    Left(String),
    Failed(FolderError),
}

/// The burial of one attempt, over all tries.
#[derive(Debug, Default)]
pub(super) struct Burial {
    under_way: Option<(Instant, Receiver<Found>)>,
    tries: u32,
    not_before: Option<Instant>,
    /// What is in the way, once it is worth saying.
    trouble: Option<String>,
}

/// How a burial stands.
pub(super) enum Progress {
    /// Nothing is left of the attempt.
    Done(SchedulerLock),
    /// A try is under way or will be.
    Waiting,
    /// What was found is expected to be gone at once.
    Soon,
    Failed(FolderError),
}

impl Burial {
    /// Tells what is in the way, if that has lasted.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Looks how it stands, and begins the next try when it is due.
    pub(super) fn go_on(
        &mut self,
        burials: &Burials,
        attempt: &AttemptFile,
        folder: &Path,
        started: Option<&StartedAgent>,
        done: impl FnOnce() + Send + 'static,
    ) -> Progress {
        if let Some((since, found)) = &self.under_way {
            return match found.try_recv() {
                Ok(Found::Nothing(lock)) => {
                    self.under_way = None;
                    Progress::Done(lock)
                }
                Ok(Found::Left(what)) => {
                    self.under_way = None;
                    self.put_off(attempt, what)
                }
                Ok(Found::Failed(error)) => {
                    self.under_way = None;
                    self.put_off(attempt, error.to_string());
                    Progress::Failed(error)
                }
                // Its end wakes whoever asks.
                Err(TryRecvError::Empty) if since.elapsed() < HANGS_AFTER => Progress::Waiting,
                Err(TryRecvError::Empty) => {
                    self.tell(attempt, "looking at its processes hangs".to_owned());
                    Progress::Waiting
                }
                Err(TryRecvError::Disconnected) => {
                    self.under_way = None;
                    self.put_off(attempt, "looking at its processes panicked".to_owned())
                }
            };
        }
        if self.not_before.is_some_and(|at| Instant::now() < at) {
            return Progress::Waiting;
        }
        let Some(place) = burials.take() else { return Progress::Waiting };
        let (answer, found) = sync_channel(1);
        let target = Target {
            marker: attempt.marker(),
            folder: folder.to_owned(),
            started: started.cloned(),
            group: attempt.launch.as_ref().and_then(|launch| launch.control_group.clone()),
        };
        // A look at a process may hang; the attempt tells that.
        let thread = periodic::once("scheduler-burial", "processes to go", move || {
            let found = target.look().unwrap_or_else(Found::Failed);
            drop(place);
            // The scheduler may have been dropped; the next one begins anew.
            let _ = answer.send(found);
            done();
        });
        match thread {
            Ok(()) => {
                self.under_way = Some((Instant::now(), found));
                Progress::Waiting
            }
            Err(error) => self.put_off(attempt, format!("no thread can be started: {error}")),
        }
    }

    fn put_off(&mut self, attempt: &AttemptFile, what: String) -> Progress {
        self.tries = self.tries.saturating_add(1);
        let pause = PAUSE.saturating_mul(1_u32.checked_shl(self.tries).unwrap_or(u32::MAX)).min(PAUSE_MAX);
        self.not_before = Some(Instant::now() + pause);
        if self.tries >= TRIES_QUIET {
            self.tell(attempt, what);
        }
        if self.tries == 1 { Progress::Soon } else { Progress::Waiting }
    }

    /// Says what is in the way, once for each.
    fn tell(&mut self, attempt: &AttemptFile, what: String) {
        if self.trouble.as_ref() != Some(&what) {
            tracing::warn!(
                job.id = %attempt.id.job_id,
                attempt = attempt.id.attempt.0,
                reason = what,
                "a lost attempt cannot be ended yet"
            );
        }
        self.trouble = Some(what);
    }
}

/// What a try needs to know.
struct Target {
    marker: String,
    folder: PathBuf,
    started: Option<StartedAgent>,
    group: Option<PathBuf>,
}

impl Target {
    /// Kills what is left, takes the lock and looks once more.
    fn look(&self) -> Result<Found, FolderError> {
        let leader = self.started.as_ref().map(|started| &started.agent);
        if let Some(group) = &self.group
            && !cgroup::kill_and_remove(group)
        {
            return Ok(Found::Left(format!("processes in `{}` cannot be killed", group.display())));
        }
        let lock = folder::lock_identity(&self.folder);
        if let Some(left) = kill_members(Membership { marker: &self.marker, lock, leader }) {
            // What was killed takes a moment to go, and may have started more.
            return Ok(Found::Left(left));
        }
        let Some(lock) = SchedulerLock::try_take(&self.folder)? else {
            return Ok(Found::Left("a process that cannot be seen holds its lock".to_owned()));
        };
        // Once more, for a process without the lock that was born while the first list was read.
        let left = kill_members(Membership { marker: &self.marker, lock: None, leader });
        Ok(left.map_or(Found::Nothing(lock), Found::Left))
    }
}

/// Kills the living processes of an attempt, and says which there were; none when there was none.
fn kill_members(of: Membership<'_>) -> Option<String> {
    let left = match process::members(of) {
        Ok(left) => left,
        Err(error) => return Some(format!("processes cannot be listed: {error}")),
    };
    for stat in &left {
        stat.signal(Signal::SIGKILL);
    }
    (!left.is_empty()).then(|| in_words(&left))
}

/// Processes that are named; the rest is counted.
const NAMED_MAX: usize = 3;

fn in_words(left: &[ProcessStat]) -> String {
    let named: Vec<String> =
        left.iter().take(NAMED_MAX).map(|stat| format!("{} ({})", stat.pid, stat.state_in_words())).collect();
    let more = match left.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("process {}{more} is still there after SIGKILL", named.join(", "))
}

#[cfg(test)]
mod tests {
    use horizons_actors::clock::Timestamp;
    use horizons_actors::ids::{Attempt, JobId};
    use uuid::Uuid;

    use super::*;

    fn attempt() -> AttemptFile {
        AttemptFile {
            id: AttemptId { job_id: JobId::parse("job").unwrap(), attempt: Attempt(1) },
            key: Uuid::new_v4(),
            order: 0,
            queued_at: Timestamp::from_millis(0),
            launch: None,
        }
    }

    #[test]
    fn burial_in_vain_is_tried_ever_later_and_says_why_once_it_lasts() {
        let (mut burial, attempt) = (Burial::default(), attempt());
        let mut pauses = Vec::new();

        for _ in 0..20 {
            assert_eq!(burial.trouble().is_some(), burial.tries >= TRIES_QUIET);
            burial.put_off(&attempt, "process 7 (stuck in the kernel)".to_owned());
            pauses.push(burial.not_before.unwrap().saturating_duration_since(Instant::now()));
        }

        assert!(pauses.is_sorted_by(|a, b| *b + Duration::from_millis(5) >= *a), "{pauses:?}");
        assert!(pauses[0] <= PAUSE * 2 && pauses[19] > PAUSE_MAX / 2 && pauses[19] <= PAUSE_MAX);
        assert_eq!(burial.trouble(), Some("process 7 (stuck in the kernel)"));
    }

    #[test]
    fn burial_whose_look_hangs_is_told_and_waits_without_another() {
        let (mut burial, attempt) = (Burial::default(), attempt());
        let (_answer, found) = sync_channel(1);
        let since = Instant::now().checked_sub(HANGS_AFTER).unwrap();
        burial.under_way = Some((since, found));

        let progress = burial.go_on(&Burials::default(), &attempt, Path::new("/nowhere"), None, || {});

        assert!(matches!(progress, Progress::Waiting));
        assert_eq!(burial.trouble(), Some("looking at its processes hangs"));
    }

    #[test]
    fn burials_beyond_their_number_wait_for_a_place() {
        let burials = Burials::default();

        let places: Vec<_> = (0..BURIALS_MAX).map(|_| burials.take().unwrap()).collect();
        let refused = burials.take().is_none();
        drop(places);

        assert!(refused && burials.take().is_some());
    }
}
