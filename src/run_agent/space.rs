//! Counting and limiting what an attempt takes on the disk.
//!
//! Promises that output beyond its limit is cut or ends the attempt, within a tick or two of the writer, and that
//! the work folder is walked in small steps, never through a link, and never for more than a small part of the
//! time. What a fast writer adds between two looks comes on top of a limit.

use std::fs::{self, File, ReadDir};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{OUTPUT_FILE_MODE, log};
use crate::disk::AttemptSpace;
use crate::scheduler::local::folder::{
    Ending, FolderError, Launch, Overflow, SPACE_FILE, STDERR_FILE, STDOUT_FILE, WORK_FOLDER,
};
use crate::scheduler::local::output::KEPT_SUFFIX;
use crate::scheduler::local::space;

/// Entries of the work folder that one step looks at.
const STEP_ENTRIES: usize = 2_000;

/// Between two walks there is at least this, and so many times what the last one took.
const WALK_PAUSE: Duration = Duration::from_secs(1);
const WALK_SHARE: u32 = 20;

/// Each of the two outputs, and what is kept of each, may take this part of the limit when it is cut.
const CUT_PARTS: u64 = 4;

/// What an attempt takes, and whether that is too much.
#[derive(Debug)]
pub(super) struct Space {
    outputs: [Output; 2],
    work: Walk,
    counted: AttemptSpace,
    written: Option<AttemptSpace>,
    path: PathBuf,
    file: File,
    output_limit_bytes: Option<u64>,
    overflow: Overflow,
    work_limit_bytes: Option<u64>,
}

impl Space {
    /// Opens what is looked at; before the agent runs, because nothing may fail for want of a file then.
    pub(super) fn open(folder: &Path, launch: &Launch) -> Result<Self, FolderError> {
        let path = folder.join(SPACE_FILE);
        let file = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .mode(OUTPUT_FILE_MODE)
            .open(&path)
            .map_err(FolderError::io("open", &path))?;
        let counted = AttemptSpace::default();
        if let Err(error) = space::write(counted, &path, &file) {
            log(&error.to_string());
        }
        Ok(Self {
            outputs: [Output::open(folder, STDOUT_FILE)?, Output::open(folder, STDERR_FILE)?],
            work: Walk::new(folder.join(WORK_FOLDER)),
            counted,
            written: Some(counted),
            path,
            file,
            output_limit_bytes: launch.output_limit_bytes,
            overflow: launch.output_overflow,
            work_limit_bytes: launch.work_limit_bytes,
        })
    }

    /// Looks at the output and walks on; gives a reason to end the attempt.
    pub(super) fn look(&mut self, now: Instant) -> Option<Ending> {
        let ending = self.look_at_output().or_else(|| self.walk_on(now));
        self.write_down();
        ending
    }

    /// Counts all of it, at the end.
    pub(super) fn finish(&mut self) {
        self.counted.output_bytes = self.outputs.iter().map(Output::bytes).sum();
        // A walk of a huge folder is not worth waiting for: the last whole one counts.
        if let Some(bytes) = self.work.step(Instant::now()) {
            self.counted.work_bytes = bytes;
        }
        self.write_down();
    }

    fn look_at_output(&mut self) -> Option<Ending> {
        self.counted.output_bytes = self.outputs.iter().map(Output::bytes).sum();
        let limit_bytes = self.output_limit_bytes?;
        match self.overflow {
            Overflow::End => {
                let used_bytes = self.counted.output_bytes;
                (used_bytes > limit_bytes).then_some(Ending::OutputLimit { limit_bytes, used_bytes })
            }
            Overflow::Rotate => {
                for output in &mut self.outputs {
                    output.cut(limit_bytes / CUT_PARTS);
                }
                None
            }
        }
    }

    fn walk_on(&mut self, now: Instant) -> Option<Ending> {
        let used_bytes = self.work.step(now)?;
        self.counted.work_bytes = used_bytes;
        let limit_bytes = self.work_limit_bytes?;
        (used_bytes > limit_bytes).then_some(Ending::WorkLimit { limit_bytes, used_bytes })
    }

    fn write_down(&mut self) {
        if self.written == Some(self.counted) {
            return;
        }
        match space::write(self.counted, &self.path, &self.file) {
            Ok(()) => self.written = Some(self.counted),
            // The file has its place, so this is no full disk; the next look tries again.
            Err(error) => log(&error.to_string()),
        }
    }
}

/// Standard output or standard error.
#[derive(Debug)]
struct Output {
    file: File,
    kept_path: PathBuf,
    kept_bytes: u64,
}

impl Output {
    fn open(folder: &Path, name: &str) -> Result<Self, FolderError> {
        let path = folder.join(name);
        let file = File::options()
            .create(true)
            .read(true)
            .append(true)
            .mode(OUTPUT_FILE_MODE)
            .open(&path)
            .map_err(FolderError::io("open", &path))?;
        Ok(Self { file, kept_path: folder.join(format!("{name}{KEPT_SUFFIX}")), kept_bytes: 0 })
    }

    fn own_bytes(&self) -> u64 {
        // An open file can always be asked; were it not so, nothing would be limited, as before.
        self.file.metadata().map_or(0, |metadata| metadata.len())
    }

    fn bytes(&self) -> u64 {
        self.own_bytes().saturating_add(self.kept_bytes)
    }

    /// Cuts the file to nothing once it is too long, and keeps its last part beside it.
    ///
    /// The agent goes on writing at the new end, because it appends. What it writes between the last look and the cut
    /// is lost, as is what does not fit the part that is kept.
    fn cut(&mut self, most_bytes: u64) {
        let length = self.own_bytes();
        if length <= most_bytes {
            return;
        }
        self.kept_bytes = match self.keep(length, most_bytes) {
            Ok(bytes) => bytes,
            Err(error) => {
                // On a full disk this is what makes room.
                log(&format!("failed to keep the last part of the output: {error}"));
                fs::metadata(&self.kept_path).map_or(0, |metadata| metadata.len())
            }
        };
        if let Err(error) = self.file.set_len(0) {
            log(&format!("failed to cut the output: {error}"));
        }
    }

    fn keep(&mut self, length: u64, most_bytes: u64) -> io::Result<u64> {
        self.file.seek(SeekFrom::Start(length.saturating_sub(most_bytes)))?;
        let mut kept = File::options()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(OUTPUT_FILE_MODE)
            .open(&self.kept_path)?;
        io::copy(&mut io::Read::take(&mut self.file, most_bytes), &mut kept)
    }
}

/// A walk through a folder that adds up what is in it, a few entries at a time.
#[derive(Debug)]
struct Walk {
    root: PathBuf,
    /// What is still to be listed.
    open: Vec<PathBuf>,
    /// What is being listed.
    listing: Option<ReadDir>,
    bytes: u64,
    is_under_way: bool,
    took: Duration,
    next_at: Option<Instant>,
}

impl Walk {
    const fn new(root: PathBuf) -> Self {
        Self {
            root,
            open: Vec::new(),
            listing: None,
            bytes: 0,
            is_under_way: false,
            took: Duration::ZERO,
            next_at: None,
        }
    }

    /// Walks on for a step; gives the sum at the walk's end.
    fn step(&mut self, now: Instant) -> Option<u64> {
        if !self.is_under_way {
            if self.next_at.is_some_and(|at| now < at) {
                return None;
            }
            self.open = vec![self.root.clone()];
            self.bytes = 0;
            self.took = Duration::ZERO;
            self.is_under_way = true;
        }
        let began_at = Instant::now();
        let is_done = self.list_some();
        self.took += began_at.elapsed();
        if !is_done {
            return None;
        }
        self.is_under_way = false;
        self.next_at = Some(Instant::now() + WALK_PAUSE.max(self.took * WALK_SHARE));
        Some(self.bytes)
    }

    /// Looks at some entries; tells whether none are left. What comes and goes meanwhile is missed or counted once.
    fn list_some(&mut self) -> bool {
        let mut left = STEP_ENTRIES;
        loop {
            let Some(listing) = self.listing.as_mut() else {
                let Some(folder) = self.open.pop() else { return true };
                // A folder that is gone or cannot be read counts as empty.
                self.listing = fs::read_dir(folder).ok();
                continue;
            };
            if left == 0 {
                return false;
            }
            left -= 1;
            match listing.next() {
                None | Some(Err(_)) => self.listing = None,
                Some(Ok(entry)) => {
                    // Of the entry itself: a link is not followed.
                    let Ok(metadata) = entry.metadata() else { continue };
                    // Of a file with several names each has its share.
                    self.bytes += metadata.blocks() * BLOCK_BYTES / metadata.nlink().max(1);
                    if metadata.is_dir() {
                        self.open.push(entry.path());
                    }
                }
            }
        }
    }
}

/// The unit of `st_blocks`.
const BLOCK_BYTES: u64 = 512;

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn walk_counts_a_tree_in_steps_and_follows_no_link() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("large"), vec![1; 1 << 20]).unwrap();
        symlink(outside.path(), folder.path().join("link")).unwrap();
        fs::create_dir_all(folder.path().join("a/b/c")).unwrap();
        fs::write(folder.path().join("a/b/c/file"), vec![1; 64 << 10]).unwrap();
        fs::hard_link(folder.path().join("a/b/c/file"), folder.path().join("again")).unwrap();
        for number in 0..STEP_ENTRIES {
            fs::write(folder.path().join(number.to_string()), "").unwrap();
        }
        let mut walk = Walk::new(folder.path().to_owned());

        let now = Instant::now();
        let first = walk.step(now);
        let bytes = walk.step(now).unwrap();

        assert_eq!(first, None);
        assert!((64 << 10..512 << 10).contains(&bytes), "{bytes}");
        assert_eq!(walk.step(now), None, "the next walk comes later");
    }

    #[test]
    fn output_that_is_cut_keeps_its_last_part_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut agent = super::super::append_to(folder.path(), STDOUT_FILE).unwrap();
        let mut output = Output::open(folder.path(), STDOUT_FILE).unwrap();

        agent.write_all(b"0123456789").unwrap();
        output.cut(10);
        let untouched = output.bytes();
        agent.write_all(b"abcde").unwrap();
        output.cut(10);
        agent.write_all(b"next").unwrap();

        assert_eq!(untouched, 10);
        assert_eq!(fs::read(folder.path().join("stdout.1")).unwrap(), b"56789abcde");
        assert_eq!(fs::read(folder.path().join("stdout")).unwrap(), b"next");
        assert_eq!(output.bytes(), 14);
    }
}
