//! Reading an attempt's samples, also while they are written.
//!
//! Promises that a torn line is never taken for a sample and never hides the lines after it, and that each byte
//! of the file is counted once however often it is asked for.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;

use horizons_actors::ports::scheduler::AttemptSample;

use super::folder::{FolderError, SAMPLES_FILE};

/// Samples between two remembered places in the file: the most that a read skips in vain.
const SAMPLES_PER_BOOKMARK: u64 = 128;

/// What is known of one attempt's samples file.
#[derive(Debug, Default)]
pub(crate) struct SampleIndex {
    counted_bytes: u64,
    count: u64,
    /// Where the sample with the index `position × SAMPLES_PER_BOOKMARK` begins.
    bookmarks: Vec<u64>,
}

impl SampleIndex {
    /// Counts the samples that have been written since the last call.
    pub(crate) fn count(&mut self, folder: &Path) -> Result<u64, FolderError> {
        let mut from = self.counted_bytes;
        self.counted_bytes = for_each_line(folder, from, |line, length| {
            if parse(line).is_some() {
                if self.count.is_multiple_of(SAMPLES_PER_BOOKMARK) {
                    self.bookmarks.push(from);
                }
                self.count += 1;
            }
            from += length;
            true
        })?;
        Ok(self.count)
    }

    /// Gives samples from an index on, at most `limit`.
    pub(crate) fn read(
        &mut self,
        folder: &Path,
        from: u64,
        limit: usize,
    ) -> Result<Vec<AttemptSample>, FolderError> {
        let mut samples = Vec::new();
        if from >= self.count(folder)? || limit == 0 {
            return Ok(samples);
        }
        let bookmark = usize::try_from(from / SAMPLES_PER_BOOKMARK).unwrap_or(usize::MAX);
        let start = self.bookmarks.get(bookmark).copied().unwrap_or(0);
        for_each_line(folder, start, |line, _| {
            if let Some(sample) = parse(line).filter(|sample| sample.index >= from) {
                samples.push(sample);
            }
            samples.len() < limit
        })?;
        Ok(samples)
    }
}

fn parse(line: &[u8]) -> Option<AttemptSample> {
    serde_json::from_slice(line).ok()
}

/// Calls `each` with every whole line and its length, until it says no; gives where the next line begins.
fn for_each_line(
    folder: &Path,
    from: u64,
    mut each: impl FnMut(&[u8], u64) -> bool,
) -> Result<u64, FolderError> {
    let path = folder.join(SAMPLES_FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(from),
        Err(error) => return Err(FolderError::io("open", &path)(error)),
    };
    let mut reader = BufReader::new(file);
    reader.seek(SeekFrom::Start(from)).map_err(FolderError::io("read", &path))?;
    let mut position = from;
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line).map_err(FolderError::io("read", &path))?;
        if line.last() != Some(&b'\n') {
            return Ok(position);
        }
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        position += length;
        if !each(&line, length) {
            return Ok(position);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use horizons_actors::clock::Timestamp;

    use super::*;

    fn line(index: u64) -> String {
        let sample = AttemptSample {
            index,
            taken_at: Timestamp::from_millis(0),
            cpu_usage_percent: 1.0,
            memory_usage_mb: 2.0,
            io_operations: 3,
            execution_time_seconds: 4.0,
        };
        serde_json::to_string(&sample).unwrap() + "\n"
    }

    fn append(folder: &Path, text: &str) {
        let mut file = File::options().create(true).append(true).open(folder.join(SAMPLES_FILE)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn indexes(samples: &[AttemptSample]) -> Vec<u64> {
        samples.iter().map(|sample| sample.index).collect()
    }

    #[test]
    fn samples_with_torn_last_line_give_the_whole_ones_and_later_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let mut index = SampleIndex::default();
        let second = line(1);
        let (begin, end) = second.split_at(20);
        append(folder.path(), &(line(0) + begin));

        let torn = index.read(folder.path(), 0, 10).unwrap();
        append(folder.path(), &(end.to_owned() + &line(2)));
        let whole = index.read(folder.path(), 0, 10).unwrap();

        assert_eq!(indexes(&torn), [0]);
        assert_eq!(indexes(&whole), [0, 1, 2]);
        assert_eq!(index.count(folder.path()).unwrap(), 3);
    }

    #[test]
    fn samples_with_garbage_between_lines_skip_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut index = SampleIndex::default();
        append(folder.path(), &format!("{}{{\"index\":1,\"ta\n\u{0}\n{}", line(0), line(1)));

        let samples = index.read(folder.path(), 0, 10).unwrap();

        assert_eq!(indexes(&samples), [0, 1]);
    }

    #[test]
    fn samples_beyond_a_bookmark_are_read_from_there_and_limited() {
        let folder = tempfile::tempdir().unwrap();
        let mut index = SampleIndex::default();
        append(folder.path(), &(0..1000).map(line).collect::<String>());

        assert_eq!(index.count(folder.path()).unwrap(), 1000);
        assert_eq!(indexes(&index.read(folder.path(), 255, 3).unwrap()), [255, 256, 257]);
        assert_eq!(indexes(&index.read(folder.path(), 256, 1).unwrap()), [256]);
        assert_eq!(indexes(&index.read(folder.path(), 998, 10).unwrap()), [998, 999]);
        assert!(index.read(folder.path(), 1000, 10).unwrap().is_empty());
    }

    #[test]
    fn samples_without_a_file_are_none() {
        let folder = tempfile::tempdir().unwrap();

        assert_eq!(SampleIndex::default().count(folder.path()).unwrap(), 0);
    }
}
