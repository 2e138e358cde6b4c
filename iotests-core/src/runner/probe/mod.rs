//! What QEMU's programs can do: probed once, then cached by path, size and modification time, user
//! and kernel.

mod ask;
mod cache;
mod fuse;
mod show;

pub(crate) use cache::{Cache, Kept, KnownVersions};
pub(crate) use show::show;

use std::path::PathBuf;

use imgtools::probe::Support;
use tempfile::TempDir;

use super::error::{RunError, io as io_error};
use super::sets::ToolSet;
use crate::case::{Capabilities, Feature};

/// What a set can do, also as a file for case processes.
#[derive(Debug)]
pub(crate) struct Known {
    /// What the set can do.
    pub(crate) capabilities: Capabilities,
    /// The same as a file.
    pub(crate) file: PathBuf,
    /// The temporary folder with that file if it is not in the cache.
    pub(crate) spare: Option<TempDir>,
}

/// Probes a set of programs, or takes the cached result if nothing has changed. `note` gets
/// progress messages, and warnings about programs and the cache.
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
        "probing the programs of the set `{}`",
        set.name
    )));
    let (mut capabilities, schemas) = ask::ask(set);
    for problem in &capabilities.problems {
        note(Note::Warning(problem.clone()));
    }
    let temporary = temporary(&capabilities);
    let kept = match &temporary {
        None => cache.put(set, &mut capabilities, &schemas),
        Some(_) => Ok(PathBuf::new()),
    };
    let (file, spare) = match kept {
        Ok(file) if temporary.is_none() => (file, None),
        kept => {
            let why = temporary.unwrap_or_else(|| match kept {
                Err(error) => error.to_string(),
                Ok(_) => String::new(),
            });
            note(Note::Warning(format!(
                "the results are not cached, so the next run probes again: {why}"
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

/// A failure that may be temporary, so that the result must not be cached: a broken program, or a
/// feature test that ended because of a full disk, a killed process or the like.
fn temporary(capabilities: &Capabilities) -> Option<String> {
    if let Some(broken) = capabilities.broken.values().next() {
        return Some(format!("{}: {}", broken.path.display(), broken.why));
    }
    let failed = |(feature, support): (&Feature, &Support)| {
        let reason = support.reason().filter(|reason| is_temporary(reason))?;
        Some(format!("{} could not be tried: {reason}", feature.name()))
    };
    capabilities.features.iter().find_map(failed)
}

/// Whether a failure is due to the circumstances rather than the program.
fn is_temporary(reason: &str) -> bool {
    const TEMPORARY: [&str; 11] = [
        "no space left",
        "quota exceeded",
        "cannot allocate memory",
        "out of memory",
        "temporarily unavailable",
        "too many open files",
        "file too large",
        "input/output error",
        "was killed by signal",
        "within",
        "in time",
    ];
    let reason = reason.to_lowercase();
    TEMPORARY.iter().any(|moment| reason.contains(moment))
}

/// A message for the user about a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Note {
    /// Something that takes a moment.
    Progress(String),
    /// Something that is wrong.
    Warning(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Broken;
    use imgtools::tools::ToolKind;

    #[test]
    fn temporary_failures_are_not_facts_about_the_program() {
        let with = |reason: &str| {
            let mut capabilities = Capabilities::default();
            let no = Support::No(reason.to_owned());
            capabilities.features.insert(Feature::Luks, no);
            temporary(&capabilities)
        };
        assert_eq!(with("Unsupported cipher algorithm 'aes-256'"), None);
        assert_eq!(with("it is not compiled in"), None);
        let full = with("Could not write: No space left on device").unwrap();
        assert!(full.starts_with("LUKS could not be tried"), "{full}");
        assert!(with("qemu-storage-daemon was killed by signal 9 (SIGKILL)").is_some());
        let mut broken = Capabilities::default();
        broken.broken.insert(ToolKind::Img, Broken::default());
        assert!(temporary(&broken).is_some());
    }
}
