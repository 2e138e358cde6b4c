//! Sets of QEMU programs that belong together, normally of one version.
//!
//! The set `host` comes from flags, the environment, a build folder and PATH, in this order. Each
//! provisioned prefix is another set. A case never mixes sets: an emulator is always used with the
//! qemu-img of its set.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use imgtools::tools::{FindError, Finder, Place, Problem, Tool, ToolKind};

use super::cli::ToolArgs;
use super::error::RunError;
use super::event::{SetInfo, ToolInfo};
use super::places::check_utf8;
use super::probe::KnownVersions;
use super::sums::Sums;
use crate::provision;

/// The name of the host's set.
pub(crate) const HOST: &str = "host";

/// A set of QEMU programs.
#[derive(Debug, Clone)]
pub(crate) struct ToolSet {
    /// `host`, or the name of a prefix.
    pub(crate) name: String,
    /// The programs found.
    pub(crate) tools: BTreeMap<ToolKind, Tool>,
}

impl ToolSet {
    /// What reports show about it.
    pub(crate) fn info(&self, sums: &mut Sums) -> SetInfo {
        let mut tool = |tool: &Tool| ToolInfo {
            sha256: sums.of(&tool.path),
            path: tool.path.clone(),
            version: tool
                .version
                .map_or_else(|| "unknown".to_owned(), |version| version.to_string()),
        };
        SetInfo {
            name: self.name.clone(),
            tools: self.tools.iter().map(|(kind, one)| (*kind, tool(one))).collect(),
        }
    }

    /// A warning if its programs have different versions.
    pub(crate) fn mixed(&self) -> Option<String> {
        let mut versions: BTreeMap<_, Vec<&str>> = BTreeMap::new();
        for (kind, tool) in &self.tools {
            versions.entry(tool.version).or_default().push(kind.name());
        }
        if versions.len() < 2 {
            return None;
        }
        let parts = versions.iter().map(|(version, kinds)| {
            let version =
                version.map_or_else(|| "unknown".to_owned(), |version| version.to_string());
            format!("{} {version}", kinds.join(", "))
        });
        Some(format!(
            "the set `{}` mixes versions: {}",
            self.name,
            parts.collect::<Vec<_>>().join("; ")
        ))
    }
}

/// Finds all sets: `host`, which may be empty, then the provisioned prefixes, newest first. `known`
/// are versions that need not be queried; `warn` gets warnings.
pub(crate) fn find(
    args: &ToolArgs,
    prefixes: &Path,
    known: &KnownVersions,
    warn: &mut dyn FnMut(&str),
) -> Result<Vec<ToolSet>, RunError> {
    let mut sets = vec![host(args, known, warn)?];
    for prefix in provision::installed(prefixes).into_iter().rev() {
        let finder = Finder::new()
            .environment(options_only())
            .known_versions(known.clone())
            .prefix(&prefix.path);
        let tools = ToolKind::ALL
            .iter()
            .filter_map(|kind| Some((*kind, finder.find(*kind).ok()?)))
            .collect();
        sets.push(ToolSet {
            name: prefix.name,
            tools,
        });
    }
    for set in &mut sets {
        let mut unusable = Vec::new();
        set.tools.retain(|_, tool| {
            // Absolute, because cases run in other directories.
            if let Ok(path) = std::path::absolute(&tool.path) {
                tool.path = path;
            }
            let checked = check_utf8("the program", &tool.path);
            checked.map_err(|error| unusable.push(error)).is_ok()
        });
        // An unusable program is an error if the user asked for it, else it is left out.
        let ordered = |kind| args.qemu_build.is_some() || is_named(kind, args);
        let is_requested = set.name == HOST && ToolKind::ALL.iter().any(|kind| ordered(*kind));
        for error in unusable {
            if is_requested {
                return Err(error);
            }
            warn(&error.to_string());
        }
    }
    sets.retain(|set| set.name == HOST || !set.tools.is_empty());
    Ok(sets)
}

/// Finds the host's set. A broken program is an error if the user named it, else it counts as
/// missing.
fn host(
    args: &ToolArgs,
    known: &KnownVersions,
    warn: &mut dyn FnMut(&str),
) -> Result<ToolSet, RunError> {
    let flags = flags(args);
    let mut finder = Finder::new().known_versions(known.clone());
    for (kind, path) in flags {
        if let Some(path) = path {
            finder = finder.flag(
                kind,
                std::path::absolute(path).unwrap_or_else(|_| path.clone()),
            );
        }
    }
    if let Some(folder) = &args.qemu_build {
        if !folder.is_dir() {
            return Err(RunError::Usage(format!(
                "--qemu-build {}: there is no such folder",
                folder.display()
            )));
        }
        finder = finder.build_dir(std::path::absolute(folder).unwrap_or_else(|_| folder.clone()));
    } else if let Some(beside) = flags
        .iter()
        .find_map(|(kind, flag)| named(*kind, flag.as_ref())?.parent().map(Path::to_path_buf))
    {
        // If a program is named, the others in its folder belong to it.
        finder = finder.build_dir(std::path::absolute(&beside).unwrap_or(beside));
    }
    let mut tools = BTreeMap::new();
    for kind in ToolKind::ALL {
        let found = warn_if_slow(warn, kind, || finder.find(kind));
        match found {
            Ok(tool) => {
                tools.insert(kind, tool);
            }
            Err(error) if is_requested(&error) => {
                let text = format!("{kind}: {}", looked(&error, "; "));
                return Err(RunError::NamedTool(text));
            }
            Err(error) => broken_in_path(&error, warn),
        }
    }
    if let Some(folder) = &args.qemu_build {
        check_build(args, folder, known, &tools, warn)?;
    }
    Ok(ToolSet {
        name: HOST.to_owned(),
        tools,
    })
}

/// The time after which to warn about a slow program.
const LONG: Duration = Duration::from_secs(3);

/// Runs `ask`, and warns if it takes long: a program may hang when asked for its version.
fn warn_if_slow<T: Send>(
    warn: &mut dyn FnMut(&str),
    kind: ToolKind,
    ask: impl FnOnce() -> T + Send,
) -> T {
    let (done, answer) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            // Cannot fail: this function waits for the answer.
            let _ = done.send(ask());
        });
        match answer.recv_timeout(LONG) {
            Ok(found) => Some(found),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                warn(&format!(
                    "{kind} is slow to report its version; waiting up to a minute"
                ));
                answer.recv().ok()
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
        }
    })
    .unwrap_or_else(|| unreachable!("a panic of that thread is one of the scope"))
}

fn flags(args: &ToolArgs) -> [(ToolKind, &Option<PathBuf>); 5] {
    [
        (ToolKind::System, &args.qemu),
        (ToolKind::Img, &args.qemu_img),
        (ToolKind::Io, &args.qemu_io),
        (ToolKind::Nbd, &args.qemu_nbd),
        (ToolKind::StorageDaemon, &args.qsd),
    ]
}

/// The file that a flag or the environment names.
fn named(kind: ToolKind, flag: Option<&PathBuf>) -> Option<PathBuf> {
    flag.cloned().or_else(|| {
        env::var_os(kind.program_variable())
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    })
}

/// Whether the user named this program of the host's set.
pub(crate) fn is_named(kind: ToolKind, args: &ToolArgs) -> bool {
    let flag = flags(args).into_iter().find(|(other, _)| *other == kind);
    named(kind, flag.and_then(|(_, flag)| flag.as_ref())).is_some()
}

/// Checks the build folder: it is an error if it has no program at all, and a warning if one is
/// taken from elsewhere.
fn check_build(
    args: &ToolArgs,
    folder: &Path,
    known: &KnownVersions,
    tools: &BTreeMap<ToolKind, Tool>,
    warn: &mut dyn FnMut(&str),
) -> Result<(), RunError> {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    let finder = Finder::new()
        .environment(options_only())
        .known_versions(known.clone())
        .build_dir(absolute);
    let mut absent = Vec::new();
    for kind in ToolKind::ALL {
        if let Err(mut error) = finder.find(kind) {
            error.looked.retain(|one| one.place == Place::BuildDir);
            absent.push(error);
        }
    }
    if absent.len() == ToolKind::ALL.len() {
        let reasons: Vec<String> = absent.iter().map(|one| looked(one, "\n  ")).collect();
        return Err(RunError::NoQemu(format!(
            "there is none in --qemu-build {}\n  {}",
            folder.display(),
            reasons.join("\n  ")
        )));
    }
    for error in absent {
        let other = tools.get(&error.kind);
        if let (Some(tool), false) = (other, is_named(error.kind, args)) {
            broken_in_path(&error, warn);
            warn(&format!(
                "{} is not in --qemu-build {}: {} is used",
                error.kind,
                folder.display(),
                tool.path.display()
            ));
        }
    }
    Ok(())
}

/// Where a program was looked for, and what was wrong there.
fn looked(error: &FindError, between: &str) -> String {
    let all: Vec<String> = error.looked.iter().map(ToString::to_string).collect();
    all.join(between)
}

fn is_requested(error: &FindError) -> bool {
    error
        .looked
        .iter()
        .any(|looked| matches!(looked.place, Place::Flag | Place::Environment(_)))
}

/// Warns about programs that exist but do not work.
fn broken_in_path(error: &FindError, warn: &mut dyn FnMut(&str)) {
    for looked in error.looked.iter().filter(|looked| !matches!(looked.problem, Problem::Missing)) {
        warn(&looked.to_string());
    }
}

/// The variables for other sets than the host's: `*_OPTIONS`, but not `*_PROG` and PATH.
fn options_only() -> Vec<(String, std::ffi::OsString)> {
    let options = ToolKind::ALL.iter().map(|kind| kind.options_variable());
    options.filter_map(|name| Some((name.to_owned(), env::var_os(name)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_different_versions_is_named_as_such() {
        let tool = |kind, version: &str| Tool {
            version: version.parse().ok(),
            ..Tool::new(kind, "/x")
        };
        let mut set = ToolSet {
            name: HOST.to_owned(),
            tools: BTreeMap::new(),
        };
        set.tools.insert(ToolKind::Img, tool(ToolKind::Img, "10.0.2"));
        assert_eq!(set.mixed(), None);
        set.tools.insert(ToolKind::System, tool(ToolKind::System, "7.2.22"));
        assert_eq!(
            set.mixed().unwrap(),
            "the set `host` mixes versions: qemu-system 7.2.22; qemu-img 10.0.2"
        );
    }
}
