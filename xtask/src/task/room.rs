//! Checks for free disk space before anything is built: a disk that fills up halfway causes
//! confusing failures.

use std::path::Path;

use crate::cargo::XtaskError;

const GIB: f64 = (1u64 << 30) as f64;

/// The size of the target folder after a whole gate, with and without the files for incremental
/// builds, plus space for the scratch folders of the cases, in GiB.
const NEEDED: f64 = 16.0;
const NEEDED_ONCE: f64 = 8.0;

/// Refuses a target folder that cannot hold what the gate builds.
pub(crate) fn check(target: &Path) -> Result<(), XtaskError> {
    let once = std::env::var_os("CARGO_INCREMENTAL").is_some_and(|it| it == "0");
    let needed = if once { NEEDED_ONCE } else { NEEDED };
    // Part of it may exist already.
    judge(target, free(target)?, needed - held(target))
}

fn judge(target: &Path, free: f64, needed: f64) -> Result<(), XtaskError> {
    if free >= needed {
        return Ok(());
    }
    Err(XtaskError::Room {
        path: target.to_path_buf(),
        free,
        missing: needed - free,
    })
}

/// The space available to the user there, in GiB.
fn free(path: &Path) -> Result<f64, XtaskError> {
    let there = path.ancestors().find(|it| it.exists()).unwrap_or(path);
    let failed = XtaskError::file("find the room at", there);
    let stat = rustix::fs::statvfs(there).map_err(|source| failed(source.into()))?;
    Ok(stat.f_bavail as f64 * stat.f_frsize as f64 / GIB)
}

/// The size of a folder's contents, in GiB; unreadable files are not counted.
fn held(folder: &Path) -> f64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(it) if it.is_dir() => held(&entry.path()),
        Ok(it) => std::os::unix::fs::MetadataExt::blocks(&it) as f64 * 512.0 / GIB,
        Err(_) => 0.0,
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_refused_with_what_is_missing() {
        let target = Path::new("/some/target");
        assert!(judge(target, 8.0, 8.0).is_ok());
        let error = judge(target, 0.5, 8.0).unwrap_err().to_string();
        let said = ["0.5 GiB are free", "/some/target", "7.5 GiB more"];
        assert!(said.iter().all(|it| error.contains(it)), "{error}");
    }

    #[test]
    fn what_is_built_already_needs_no_room_again() {
        let target = tempfile::tempdir().unwrap();
        assert!(held(target.path()) < 0.0001);
        std::fs::create_dir(target.path().join("deep")).unwrap();
        std::fs::write(target.path().join("deep/file"), vec![1; 4 << 20]).unwrap();
        let held = held(target.path()) * 256.0;
        assert!((0.9..1.5).contains(&held), "{held} times 4 MiB");
    }

    #[test]
    fn a_folder_that_is_not_there_yet_has_the_room_of_its_parent() {
        let parent = tempfile::tempdir().unwrap();
        let (there, not_yet) = (free(parent.path()), free(&parent.path().join("a/b")));
        let (there, not_yet) = (there.unwrap(), not_yet.unwrap());
        assert!((there - not_yet).abs() < 1.0, "{there} and {not_yet}");
    }
}
