//! What an attempt takes on the disk, as its shim last counted it.
//!
//! Promises a figure that is at most some seconds old while the attempt runs. The file keeps its size and place, so
//! that counting goes on when the disk is full.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use horizons_actors::ids::AttemptId;

use super::folder::{FolderError, SPACE_FILE, folder_name, to_json};
use crate::disk::AttemptSpace;

/// The size of the file: the counts and white space.
const FILE_BYTES: usize = 128;

/// Writes the counts over the last ones.
pub(crate) fn write(space: AttemptSpace, path: &Path, file: &File) -> Result<(), FolderError> {
    let mut content = to_json(path, &space)?;
    content.resize(content.len().max(FILE_BYTES), b' ');
    file.write_all_at(&content, 0).map_err(FolderError::io("write", path))
}

fn read(folder: &Path) -> Option<AttemptSpace> {
    // A file that is being written, or none at all: nothing is known now.
    serde_json::from_slice(&fs::read(folder.join(SPACE_FILE)).ok()?).ok()
}

/// Gives what an attempt takes; none when its folder is not here or nothing was counted yet.
pub fn of_attempt(attempts_folder: &Path, id: &AttemptId) -> Option<AttemptSpace> {
    read(&attempts_folder.join(folder_name(id)))
}

/// Gives what all attempts take whose folders are there.
pub fn of_all(attempts_folder: &Path) -> AttemptSpace {
    // Without the folder there are no attempts.
    let Ok(entries) = fs::read_dir(attempts_folder) else { return AttemptSpace::default() };
    let all = entries.flatten().filter_map(|entry| read(&entry.path()));
    all.fold(AttemptSpace::default(), |sum, one| AttemptSpace {
        output_bytes: sum.output_bytes.saturating_add(one.output_bytes),
        work_bytes: sum.work_bytes.saturating_add(one.work_bytes),
    })
}
