//! What the programs of QEMU can do: asked once, kept by path, size and time of change, for this user on this kernel.

mod ask;
mod cache;
mod fuse;
mod show;

pub(crate) use cache::{Cache, Kept, KnownVersions};
pub(crate) use show::show;

use std::path::PathBuf;

use tempfile::TempDir;

use super::error::{RunError, io as io_error};
use super::sets::ToolSet;
use crate::case::Capabilities;

/// What is known of a set, and where a case process reads it.
#[derive(Debug)]
pub(crate) struct Known {
    /// What the set can do.
    pub(crate) capabilities: Capabilities,
    /// The same as a file.
    pub(crate) file: PathBuf,
    /// Where that file is when the cache cannot be written: it goes with the run.
    pub(crate) spare: Option<TempDir>,
}

/// Asks a set of programs, or the cache if nothing has changed since. `note` is told what takes time, and what is wrong with the cache.
pub(crate) fn probe(
    set: &ToolSet,
    cache: &Cache,
    again: bool,
    note: &mut dyn FnMut(Note),
) -> Result<Known, RunError> {
    let kept = if again { Kept::Nothing } else { cache.get(set) };
    match kept {
        Kept::Valid(known) => return Ok(*known),
        Kept::Corrupt(why) => note(Note::Warning(why)),
        Kept::Nothing => {}
    }
    note(Note::Progress(format!(
        "asking the programs of the set `{}` what they can do",
        set.name
    )));
    let (mut capabilities, schemas) = ask::ask(set);
    for problem in &capabilities.problems {
        note(Note::Warning(problem.clone()));
    }
    let (file, spare) = match cache.put(set, &mut capabilities, &schemas) {
        Ok(file) => (file, None),
        Err(error) => {
            note(Note::Warning(format!(
                "the next run asks again, for the answers are not kept: {error}"
            )));
            let spare = tempfile::Builder::new()
                .prefix("iot-probes-")
                .tempdir()
                .map_err(io_error("create a folder in", std::env::temp_dir()))?;
            let file = Cache::new(spare.path().to_owned()).put(set, &mut capabilities, &schemas)?;
            (file, Some(spare))
        }
    };
    Ok(Known {
        capabilities,
        file,
        spare,
    })
}

/// What a probe has to tell a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Note {
    /// It takes a moment.
    Progress(String),
    /// Something is not as it should be.
    Warning(String),
}
