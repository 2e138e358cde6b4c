//! Finds the scripts of a tree, by the rules of upstream's `check`.

use std::fs;
use std::path::{Path, PathBuf};

use super::facts::Facts;
use super::{Language, Script};

/// The folder of the tests below the root of a source or build tree.
const BELOW_ROOT: &str = "tests/qemu-iotests";
/// The first line by which `check` recognises a Python script.
const PYTHON: &str = "#!/usr/bin/env python3";

/// Why there are no scripts.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The path is neither a tree nor the folder of its tests.
    #[error(
        "find scripts in {}: there is neither a test such as `001` nor `{BELOW_ROOT}` with one; name the source tree of QEMU, its \
         `{BELOW_ROOT}`, or a build folder that links to it", .0.display()
    )]
    NoScripts(PathBuf),
    /// A file or folder cannot be read.
    #[error("read {}: {source}", path.display())]
    Read {
        /// The path.
        path: PathBuf,
        /// The error.
        source: std::io::Error,
    },
    /// The given interpreter does not work.
    #[error("use the Python {}: {why}", path.display())]
    Python {
        /// The path.
        path: PathBuf,
        /// The result of trying it.
        why: String,
    },
    /// Two files define a test with this name.
    #[error("understand {}: there is a test of this name beside the numbered ones as well; rename one", .0.display())]
    Twice(PathBuf),
    /// A line of `group.local` names no test.
    #[error("understand {}: there is no test `{name}`", path.display())]
    UnknownTest {
        /// The file.
        path: PathBuf,
        /// The first word of the line.
        name: String,
    },
}

/// The scripts of a tree, each with its declarations, sorted by name.
pub(crate) fn scripts(given: &Path) -> Result<Vec<(Script, Facts)>, TreeError> {
    let folder = folder(given)?;
    let mut found: Vec<(Script, Facts)> = Vec::new();
    for (name, path) in files(&folder)? {
        // They are sorted by name.
        if found.last().is_some_and(|(last, _)| last.name == name) {
            return Err(TreeError::Twice(path));
        }
        let read = |source| TreeError::Read {
            path: path.clone(),
            source,
        };
        // Invalid UTF-8 in a comment must not hide a test.
        let bytes = fs::read(&path).map_err(read)?;
        let text = String::from_utf8_lossy(&bytes);
        let first = text.lines().next().unwrap_or_default().trim_end();
        let language = match first {
            PYTHON => Language::Python,
            _ => Language::Shell,
        };
        let script = Script {
            name,
            path: path.clone(),
            folder: folder.clone(),
            language,
        };
        found.push((script, Facts::read(&text, language)));
    }
    add_local_groups(&folder.join("group.local"), &mut found)?;
    Ok(found)
}

/// The folder of the scripts: in a build folder, `check` is a link to the one in the sources.
fn folder(given: &Path) -> Result<PathBuf, TreeError> {
    let given = std::path::absolute(given).unwrap_or_else(|_| given.to_owned());
    for place in [given.clone(), given.join(BELOW_ROOT)] {
        let linked = fs::canonicalize(place.join("check")).ok();
        let linked = linked.and_then(|check| check.parent().map(Path::to_owned));
        for folder in [Some(place), linked].into_iter().flatten() {
            if files(&folder).is_ok_and(|files| !files.is_empty()) {
                return Ok(fs::canonicalize(&folder).unwrap_or(folder));
            }
        }
    }
    // Where the folder itself cannot be read, that is the reason.
    fs::read_dir(&given).map_err(|source| TreeError::Read {
        path: given.clone(),
        source,
    })?;
    Err(TreeError::NoScripts(given))
}

/// Finds numbered tests, and those below `tests` that have a reference.
fn files(folder: &Path) -> Result<Vec<(String, PathBuf)>, TreeError> {
    let is_number = |name: &str| name.len() == 3 && name.bytes().all(|byte| byte.is_ascii_digit());
    let mut found: Vec<(String, PathBuf)> = names(folder)?
        .into_iter()
        .filter(|name| is_number(name))
        .map(|name| (name.clone(), folder.join(name)))
        .collect();
    let named = folder.join("tests");
    if named.is_dir() {
        for name in names(&named)? {
            let path = named.join(&name);
            if !name.ends_with(".out") && named.join(format!("{name}.out")).is_file() {
                found.push((name, path));
            }
        }
    }
    found.retain(|(_, path)| path.is_file());
    found.sort();
    Ok(found)
}

/// The names in a folder, without those that are not UTF-8 or contain control characters, which
/// cannot be tests.
fn names(folder: &Path) -> Result<Vec<String>, TreeError> {
    let read = |source| TreeError::Read {
        path: folder.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(read)? {
        names.extend(entry.map_err(read)?.file_name().into_string());
    }
    names.retain(|name: &String| !name.contains(char::is_control));
    Ok(names)
}

/// Reads `group.local`: each line has a test and additional groups for it.
fn add_local_groups(path: &Path, found: &mut [(Script, Facts)]) -> Result<(), TreeError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            let path = path.to_owned();
            return Err(TreeError::Read { path, source });
        }
    };
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(word) = words.next().filter(|word| !word.starts_with('#')) else {
            continue;
        };
        let name = match word.parse::<u32>() {
            Ok(number) => format!("{number:03}"),
            Err(_) => word.to_owned(),
        };
        let test = found.iter_mut().find(|(script, _)| script.name == name);
        let Some((_, facts)) = test else {
            return Err(TreeError::UnknownTest {
                path: path.to_owned(),
                name: word.to_owned(),
            });
        };
        facts.groups.extend(words.map(str::to_owned));
    }
    Ok(())
}
