//! Files and folders, with errors that name them.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use imgtools::process::Command;

use super::apt;
use super::error::ProvisionError;

/// Copying a file takes a moment; this allows for a loaded machine.
const COPY: Duration = Duration::from_secs(60);

/// The UTF-8 names in a folder, sorted; none if it cannot be read.
pub(super) fn file_names(folder: &Path) -> Vec<String> {
    let Ok(listing) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<String> =
        listing.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

pub(super) fn create_dir(path: &Path) -> Result<(), ProvisionError> {
    fs::create_dir_all(path).map_err(file("create", path))
}

/// Removes a folder and its contents, if it exists.
pub(super) fn remove_dir(path: &Path) -> Result<(), ProvisionError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Writes a file atomically.
pub(super) fn write(path: &Path, data: &[u8]) -> Result<(), ProvisionError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut made = tempfile::NamedTempFile::new_in(folder).map_err(file("create", path))?;
    std::io::Write::write_all(&mut made, data).map_err(file("write", path))?;
    made.persist(path).map_err(|error| file("write", path)(error.error))?;
    Ok(())
}

/// Writes a program from another process. If our process had it open for writing, a child started
/// by another thread at that moment could inherit the descriptor, and while it is open the program
/// cannot be executed ("Text file busy").
pub(super) fn install(path: &Path, data: impl Into<Vec<u8>>) -> Result<(), ProvisionError> {
    let command = Command::new("install").args(["-m", "755", "/dev/stdin"]).arg(path);
    apt::run("write a program", command.stdin_data(data).deadline(COPY)).map(drop)
}

pub(super) fn file(
    verb: &'static str,
    path: &(impl AsRef<OsStr> + ?Sized),
) -> impl FnOnce(std::io::Error) -> ProvisionError {
    let path = PathBuf::from(path);
    move |source| ProvisionError::File { verb, path, source }
}
