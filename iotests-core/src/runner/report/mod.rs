//! Reports, made from a record for people and programs. The terminal shows events as they happen;
//! the other reports are made from a complete or truncated record.

mod cause;
mod failure;
mod html;
mod junit;
mod palette;
mod story;
mod summary;
mod tap;
mod terminal;
pub(crate) mod text;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write, stdout};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

pub(crate) use failure::full_text;
pub(crate) use palette::Palette;
pub(crate) use story::Story;
pub(crate) use summary::{Ways, remedies};
pub(crate) use tap::{Tap, Version as TapVersion};
pub(crate) use terminal::Terminal;

use crate::runner::event::{RunEvent, Summary};

/// Shows a run as it happens.
pub(crate) trait Show {
    /// Shows one event.
    fn event(&mut self, event: &RunEvent) -> io::Result<()>;

    /// Asks how to continue with a case that has stopped at a step.
    fn stopped(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Shows the progress of the run, on request.
    fn status(&mut self, _: &Summary) -> io::Result<()> {
        Ok(())
    }
}

/// Shows nothing, because a report goes to standard output when the run ends.
#[derive(Debug)]
pub(crate) struct Silent;

impl Show for Silent {
    fn event(&mut self, _: &RunEvent) -> io::Result<()> {
        Ok(())
    }
}

/// Whether this path stands for standard output.
pub(crate) fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Creates a file that is written during the run.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    match is_stdout(path) {
        true => Ok(File::from(stdout().as_fd().try_clone_to_owned()?)),
        false => File::create(path),
    }
}

/// The kind of a report in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// JUnit, for CI systems.
    Junit,
    /// TAP.
    Tap(TapVersion),
    /// An HTML page.
    Html,
}

impl Kind {
    /// Writes the report. Links in it are relative to the folder `beside`.
    fn write(self, story: &Story, beside: &Path, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Junit => junit::junit(story).serialize(out).map_err(io::Error::other),
            Self::Tap(version) => tap::write(story, version, out),
            Self::Html => html::write(story, beside, out),
        }
    }
}

/// Checks before a run that a report can be written to this path.
pub(crate) fn check(path: &Path) -> io::Result<()> {
    match is_replaceable(path) && !is_stdout(path) {
        true => beside(path).map(drop),
        false => Ok(()),
    }
}

/// Writes a report. An earlier one is replaced only when the new one is complete.
pub(crate) fn write(kind: Kind, path: &Path, story: &Story) -> io::Result<()> {
    let written = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let beside = written.parent().unwrap_or(Path::new("/"));
    if is_stdout(path) || !is_replaceable(path) {
        let file = match is_stdout(path) {
            true => create(path)?,
            false => fs::OpenOptions::new().write(true).open(path)?,
        };
        let mut out = BufWriter::new(file);
        return kind.write(story, beside, &mut out).and_then(|()| out.flush());
    }
    let mut out = BufWriter::new(self::beside(path)?);
    kind.write(story, beside, &mut out)?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.persist(fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()))?;
    Ok(())
}

/// Whether it is a file or does not exist, and not a pipe or terminal, which must be written to.
fn is_replaceable(path: &Path) -> bool {
    fs::metadata(path).map_or(true, |data| data.is_file())
}

fn beside(path: &Path) -> io::Result<tempfile::NamedTempFile> {
    // Follow links, to replace their target.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    tempfile::Builder::new()
        .prefix(".iotests-report-")
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(folder.unwrap_or(Path::new(".")))
}
