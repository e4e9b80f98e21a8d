//! Reading what attempts write, also while they write it.
//!
//! Promises at most the bytes that were asked for, and never to follow a link or to wait for a pipe that an agent put
//! in a file's place.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use bytes::Bytes;
use horizons_actors::ports::output::{OutputCursor, OutputError, OutputPage, OutputQuery};
use nix::fcntl::OFlag;

/// What is kept of older output stands beside the file, under its name and this.
pub(crate) const KEPT_SUFFIX: &str = ".1";

/// A file and its length when it was opened.
struct Part {
    file: File,
    length: u64,
}

/// Reads part of an output from an attempt's folder.
pub(super) fn read(folder: &Path, query: &OutputQuery) -> Result<OutputPage, OutputError> {
    let name = query.stream.name();
    let away = |error: io::Error| OutputError::Unavailable(format!("failed to read `{name}`: {error}"));
    // First what is appended to: a cut between the two opens then shows in the one that is opened later.
    let current = open(&folder.join(name)).map_err(away)?;
    let kept = open(&folder.join(format!("{name}{KEPT_SUFFIX}"))).map_err(away)?;
    let Some(current) = current else { return Err(OutputError::Missing(query.attempt.clone())) };
    let start = match (query.cursor, &kept) {
        (None, Some(_)) => OutputCursor::Kept(0),
        (None, None) => OutputCursor::Current(0),
        (Some(cursor), _) => cursor,
    };
    let (start, was_cut) = match (start, &kept) {
        (OutputCursor::Kept(offset), Some(kept)) if offset <= kept.length => (start, false),
        (OutputCursor::Current(offset), _) if offset <= current.length => (start, false),
        // What stood there was given up.
        (OutputCursor::Kept(_) | OutputCursor::Current(_), _) => (OutputCursor::Current(0), true),
    };
    let (content, next, has_more) = match (start, kept) {
        (OutputCursor::Kept(offset), Some(kept)) => {
            let (content, end, is_whole) = take(kept, offset, query.limit_bytes).map_err(away)?;
            match is_whole {
                true => (content, OutputCursor::Current(0), current.length > 0),
                false => (content, OutputCursor::Kept(end), true),
            }
        }
        (OutputCursor::Kept(offset) | OutputCursor::Current(offset), _) => {
            let (content, end, is_whole) = take(current, offset, query.limit_bytes).map_err(away)?;
            (content, OutputCursor::Current(end), !is_whole)
        }
    };
    Ok(OutputPage { content, next, has_more, was_cut })
}

/// Opens a file; none where it is missing.
fn open(path: &Path) -> io::Result<Option<Part>> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    Ok(Some(Part { file, length: found.len() }))
}

/// Reads from an offset; gives where the next read begins and whether that is the end as it was when it was opened.
fn take(mut part: Part, offset: u64, limit: usize) -> io::Result<(Bytes, u64, bool)> {
    part.file.seek(SeekFrom::Start(offset))?;
    let mut content = Vec::new();
    let limit = u64::try_from(limit).unwrap_or(u64::MAX);
    part.file.take(limit).read_to_end(&mut content)?;
    let end = offset.saturating_add(content.len() as u64);
    Ok((content.into(), end, end >= part.length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use horizons_actors::ids::{Attempt, AttemptId, JobId};
    use horizons_actors::ports::output::OutputStream;

    fn query(cursor: Option<OutputCursor>, limit_bytes: usize) -> OutputQuery {
        let attempt = AttemptId { job_id: JobId::parse("j-1").unwrap(), attempt: Attempt(1) };
        OutputQuery { attempt, stream: OutputStream::Stdout, cursor, limit_bytes }
    }

    fn text(page: &OutputPage) -> &str {
        std::str::from_utf8(&page.content).unwrap()
    }

    #[test]
    fn output_comes_in_parts_and_goes_on_where_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("stdout"), "hello").unwrap();

        let first = read(folder.path(), &query(None, 3)).unwrap();
        let second = read(folder.path(), &query(Some(first.next), 3)).unwrap();
        let third = read(folder.path(), &query(Some(second.next), 3)).unwrap();

        assert_eq!((text(&first), first.has_more), ("hel", true));
        assert_eq!((text(&second), second.has_more), ("lo", false));
        assert_eq!((text(&third), third.has_more, third.was_cut), ("", false, false));
    }

    #[test]
    fn output_kept_from_before_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("stdout.1"), "old").unwrap();
        std::fs::write(folder.path().join("stdout"), "new").unwrap();

        let first = read(folder.path(), &query(None, 100)).unwrap();
        let second = read(folder.path(), &query(Some(first.next), 100)).unwrap();

        assert_eq!((text(&first), first.has_more), ("old", true));
        assert_eq!((text(&second), second.has_more), ("new", false));
    }

    #[test]
    fn output_cut_under_its_reader_says_so_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("stdout"), "abc").unwrap();

        let page = read(folder.path(), &query(Some(OutputCursor::Current(9)), 100)).unwrap();
        let kept = read(folder.path(), &query(Some(OutputCursor::Kept(1)), 100)).unwrap();

        assert_eq!((text(&page), page.was_cut), ("abc", true));
        assert_eq!((text(&kept), kept.was_cut), ("abc", true));
    }

    #[test]
    fn output_that_is_missing_or_no_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let missing = read(folder.path(), &query(None, 1)).unwrap_err();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("stdout")).unwrap();

        let link = read(folder.path(), &query(None, 1)).unwrap_err();

        assert!(matches!(missing, OutputError::Missing(_)), "{missing}");
        assert!(matches!(link, OutputError::Unavailable(_)), "{link}");
    }
}
