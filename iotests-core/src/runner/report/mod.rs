//! Reports: each says what a record holds to a person or a machine. The terminal follows it as it grows; the others are functions of a
//! whole one, and of one that was cut.

mod failure;
mod html;
mod junit;
mod palette;
mod story;
mod summary;
mod tap;
mod terminal;
pub(crate) mod text;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

pub(crate) use failure::whole_text;
pub(crate) use palette::Palette;
pub(crate) use story::Story;
pub(crate) use summary::Ways;
pub(crate) use terminal::Terminal;

/// A report that is a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// JUnit, for CI systems.
    Junit,
    /// TAP 14.
    Tap,
    /// A page for a browser.
    Html,
}

impl Kind {
    /// The report on these records.
    pub(crate) fn of(self, story: &Story) -> io::Result<Vec<u8>> {
        match self {
            Self::Junit => {
                let mut text = Vec::new();
                let report = junit::junit(story);
                report.serialize(&mut text).map_err(io::Error::other)?;
                Ok(text)
            }
            Self::Tap => Ok(tap::tap(story).into_bytes()),
            Self::Html => Ok(html::html(story).into_bytes()),
        }
    }
}

/// Whether a report could be written there: it is better known before a run than after it.
pub(crate) fn check(path: &Path) -> io::Result<()> {
    match is_replaceable(path) {
        true => beside(path).map(drop),
        false => Ok(()),
    }
}

/// Puts a report in the place of the one before, which stays as it is until the new one is whole.
pub(crate) fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    if !is_replaceable(path) {
        return fs::OpenOptions::new()
            .write(true)
            .open(path)?
            .write_all(text);
    }
    let mut file = beside(path)?;
    file.write_all(text)?;
    file.persist(fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()))?;
    Ok(())
}

/// Whether it is a file, or nothing yet: a pipe or a terminal is written to.
fn is_replaceable(path: &Path) -> bool {
    fs::metadata(path).map_or(true, |data| data.is_file())
}

fn beside(path: &Path) -> io::Result<tempfile::NamedTempFile> {
    // Through a link, it is the file behind it that is replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    tempfile::Builder::new()
        .prefix(".iotests-report-")
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(folder.unwrap_or(Path::new(".")))
}
