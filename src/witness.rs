//! A file in the data folder that says what this process thinks about in a trial (design D6).
//!
//! Promises that the file tells the truth about a process that was killed at any instant, whatever it was doing, as
//! each change is one write that the kernel has taken when it returns. Nothing is synced: after a loss of power the
//! file may be old, and then the worst is one death that is charged or not. Who has no folder to write to works
//! without: then a process that dies within a trial's two notes is charged.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use horizons_actors::ids::ProcessId;
use horizons_actors::ports::witness::Witness;
use horizons_actors::trial::Thought;
use uuid::Uuid;

use crate::life::{Life, life_of};
use crate::private::{self, Access};

/// The folder of the files, one of each process, within the data folder.
const FOLDER: &str = "trials";

/// The number of the process, with blanks behind it, and the end of the line.
const PID_BYTES: usize = 16;

/// The length of what follows: a thought as JSON. Zero is none.
const LENGTH_BYTES: usize = 4;

/// A length that no thought has: the file tells nothing.
const UNKNOWN: u32 = u32::MAX;

/// What the file takes from the start, so that a full disk does not refuse most thoughts.
const FILE_BYTES: usize = 4096;

/// The file of this process; it is removed when the process ends in order.
#[derive(Debug)]
pub struct FileWitness {
    path: PathBuf,
    file: File,
}

impl FileWitness {
    /// Makes the file of a process.
    ///
    /// *Errors*: what making a file in the folder met.
    pub fn start(data: &Path, process: ProcessId) -> io::Result<Self> {
        let folder = data.join(FOLDER);
        private::make_folder(&folder, Access::Owner)?;
        let path = folder.join(process.0.to_string());
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let mut head = format!("{:<width$}\n", std::process::id(), width = PID_BYTES - 1).into_bytes();
        head.resize(FILE_BYTES, 0);
        file.write_all(&head)?;
        Ok(Self { path, file })
    }

    /// Writes behind the number of the process. A note that cannot be written must not leave an older one that
    /// says something else.
    fn write(&self, bytes: &[u8]) {
        let at = PID_BYTES as u64;
        if let Err(error) = self.file.write_all_at(bytes, at) {
            tracing::warn!(%error, "failed to note what is thought about in a trial");
            if self.file.write_all_at(&UNKNOWN.to_le_bytes(), at).is_err() {
                let _gone = std::fs::remove_file(&self.path);
            }
        }
    }
}

impl Witness for FileWitness {
    fn begins(&self, thought: &Thought) {
        // What cannot be written down is unknown; a reader finds fewer bytes than that.
        let text = serde_json::to_vec(thought).unwrap_or_default();
        let length = u32::try_from(text.len()).ok().filter(|length| *length > 0).unwrap_or(UNKNOWN);
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(text);
        self.write(&bytes);
    }

    fn ends(&self) {
        self.write(&[0; LENGTH_BYTES]);
    }
}

impl Drop for FileWitness {
    fn drop(&mut self) {
        // What is left says that nothing was thought about, and is cleared away at the next start.
        let _left = std::fs::remove_file(&self.path);
    }
}

/// What a process that is gone left behind.
#[derive(Debug)]
pub struct Left {
    path: PathBuf,
    /// The process.
    pub process: ProcessId,
    /// What it was thinking about; none when it was not.
    pub seen: Option<Thought>,
}

impl Left {
    /// Removes the file: what it says was carried out.
    pub fn forget(self) {
        let removed = std::fs::remove_file(&self.path);
        // Another process that starts now may have done the same.
        if let Err(error) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, file = %self.path.display(), "failed to remove what a process left behind");
        }
    }
}

/// Lists what processes that are gone left in a data folder. Files that tell nothing are left alone.
///
/// *Errors*: what reading the folder met.
pub fn left_behind(data: &Path) -> io::Result<Vec<Left>> {
    let entries = match std::fs::read_dir(data.join(FOLDER)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut left = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(process) = name.and_then(|name| Uuid::parse_str(name).ok()) else { continue };
        match parse(&std::fs::read(&path)?) {
            Some((pid, _)) if is_running(pid) => {}
            Some((_, seen)) => left.push(Left { path, process: ProcessId(process), seen }),
            // Another process may just be making it.
            None => {}
        }
    }
    Ok(left)
}

/// Reads the number of the process, and what it was thinking about; none when the file does not tell.
fn parse(bytes: &[u8]) -> Option<(u32, Option<Thought>)> {
    let (pid, rest) = bytes.split_at_checked(PID_BYTES)?;
    let pid = std::str::from_utf8(pid).ok()?.trim().parse().ok()?;
    let (length, rest) = rest.split_first_chunk::<LENGTH_BYTES>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let seen = match length {
        0 => None,
        length => Some(serde_json::from_slice(rest.get(..length)?).ok()?),
    };
    Some((pid, seen))
}

/// Tells whether another process of this number may run here. One that has our own number is gone: in a
/// container all have the same.
fn is_running(pid: u32) -> bool {
    pid != std::process::id() && life_of(pid) != Life::Gone
}

#[cfg(test)]
mod tests {
    use horizons_actors::effect::TimerId;
    use horizons_actors::ids::Offset;
    use horizons_actors::testkit::contract::sample::jobs_lane;
    use horizons_actors::trial::TrialSubject;

    use super::*;

    fn process(number: u128) -> ProcessId {
        ProcessId(Uuid::from_u128(number))
    }

    fn thought(subject: TrialSubject) -> Thought {
        Thought { lane: jobs_lane(3), subject }
    }

    /// Lists what was left behind, and leaves it.
    fn seen(folder: &Path) -> Vec<(ProcessId, Option<Thought>)> {
        left_behind(folder).unwrap().into_iter().map(|left| (left.process, left.seen)).collect()
    }

    #[test]
    fn witness_of_a_process_that_was_killed_tells_its_last_thought_whole() {
        let folder = tempfile::tempdir().unwrap();
        let witness = FileWitness::start(folder.path(), process(1)).unwrap();
        let timer = TimerId { kind: "clean".to_owned(), key: "job \"\u{1f52d}\"".repeat(100) };
        let subjects = [
            TrialSubject::Timer(timer),
            TrialSubject::Log(Offset(u64::MAX)),
            TrialSubject::Parked(Offset(0)),
        ];

        assert_eq!(seen(folder.path()), [(process(1), None)]);
        for subject in subjects {
            witness.begins(&thought(subject.clone()));
            assert_eq!(seen(folder.path()), [(process(1), Some(thought(subject)))]);
            witness.ends();
            assert_eq!(seen(folder.path()), [(process(1), None)]);
        }
        drop(witness);
        assert_eq!(seen(folder.path()), []);
    }

    #[test]
    fn left_behind_is_there_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let witness = FileWitness::start(folder.path(), process(1)).unwrap();
        witness.begins(&thought(TrialSubject::Log(Offset(7))));

        left_behind(folder.path()).unwrap().into_iter().for_each(Left::forget);

        assert_eq!(seen(folder.path()), []);
    }

    #[test]
    fn left_behind_other_files_and_living_processes_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(seen(folder.path()), [], "a folder without any");
        let files = folder.path().join(FOLDER);
        std::fs::create_dir(&files).unwrap();
        let alive = files.join(process(1).0.to_string());
        // The first process of the machine lives as long as we do.
        std::fs::write(&alive, b"1              \n\0\0\0\0").unwrap();
        let notes = files.join("notes.txt");
        std::fs::write(&notes, "an operator's").unwrap();
        let broken: Vec<PathBuf> = [&b""[..], b"x              \n\0\0\0\0", b"77             \n\x05\0\0\0{}"]
            .into_iter()
            .zip(2..)
            .map(|(bytes, number)| {
                let path = files.join(process(number).0.to_string());
                std::fs::write(&path, bytes).unwrap();
                path
            })
            .collect();

        assert_eq!(seen(folder.path()), []);
        assert!(alive.exists() && notes.exists() && broken.iter().all(|path| path.exists()));
    }
}
