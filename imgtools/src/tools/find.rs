//! Searching for a program, and reporting where it was searched for on failure.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Access;

use super::{Tool, ToolKind, Version};
use crate::process::ProcessError;

/// Deadline for printing a version: far more than any program needs.
const VERSION_DEADLINE: Duration = Duration::from_secs(60);

/// Part of the copyright notice that all QEMU programs print with their version.
const DEVELOPERS: &str = "the QEMU Project developers";

/// Where Red Hat's packages install their only emulator, for the native architecture.
const LIBEXEC: &str = "/usr/libexec/qemu-kvm";

/// Finds QEMU's programs: as given by a flag, else by the environment (`QEMU_IMG_PROG` …), else in
/// the build folder, in `PATH` (the emulator also at Red Hat's location), and in the provisioned
/// prefixes; the first match wins.
///
/// Flags and the environment are binding: if the file they name is unusable, that is an error, and
/// the search stops.
#[derive(Clone, Debug, Default)]
pub struct Finder {
    flags: BTreeMap<ToolKind, PathBuf>,
    build_dir: Option<PathBuf>,
    prefixes: Vec<PathBuf>,
    arch: Option<String>,
    environment: Option<BTreeMap<OsString, OsString>>,
    known: BTreeMap<(ToolKind, PathBuf), Version>,
}

/// A place that was searched.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// Given by a flag.
    Flag,
    /// Given by this environment variable.
    Environment(&'static str),
    /// In the build folder.
    BuildDir,
    /// In a folder of `PATH`.
    Path,
    /// `/usr/libexec/qemu-kvm`, which is not in `PATH` but belongs to the same packages.
    Libexec,
    /// In a provisioned prefix.
    Prefix,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Flag => f.write_str("flag"),
            Place::Environment(variable) => f.write_str(variable),
            Place::BuildDir => f.write_str("build folder"),
            Place::Path => f.write_str("PATH"),
            Place::Libexec => f.write_str("libexec"),
            Place::Prefix => f.write_str("prefix"),
        }
    }
}

/// What was wrong with a file.
#[derive(Debug)]
#[non_exhaustive]
pub enum Problem {
    /// It does not exist.
    Missing,
    /// It is not a program that we can execute.
    NotExecutable,
    /// It runs, but is not this program of QEMU. Holds its version output.
    NotQemu(String),
    /// Asking for its version failed.
    Broken(ProcessError),
}

/// One file that was examined.
#[derive(Debug)]
#[non_exhaustive]
pub struct Looked {
    /// The place it belongs to.
    pub place: Place,
    /// The file.
    pub path: PathBuf,
    /// Why it was rejected.
    pub problem: Problem,
}

impl fmt::Display for Looked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ", self.place, self.path.display())?;
        match &self.problem {
            Problem::Missing => f.write_str("does not exist"),
            Problem::NotExecutable => f.write_str("is not an executable file"),
            Problem::NotQemu(said) => write!(f, "is not this program of QEMU; it says `{said}`"),
            Problem::Broken(error) => {
                write!(f, "does not run: {error}")?;
                match std::error::Error::source(error) {
                    Some(why) => write!(f, ": {why}"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// A program was not found.
#[derive(Debug, thiserror::Error)]
#[error("failed to find {kind}{}", list(looked))]
#[non_exhaustive]
pub struct FindError {
    /// Which one.
    pub kind: ToolKind,
    /// The files that were examined, in order.
    pub looked: Vec<Looked>,
}

fn list(looked: &[Looked]) -> String {
    match looked {
        [] => ": there was nowhere to look (PATH is empty)".to_owned(),
        looked => looked.iter().map(|looked| format!("\n  {looked}")).collect(),
    }
}

impl Finder {
    /// A search in the environment and `PATH`.
    pub fn new() -> Finder {
        Finder::default()
    }

    /// Uses this file, given by a command-line flag.
    pub fn flag(mut self, kind: ToolKind, path: impl Into<PathBuf>) -> Finder {
        self.flags.insert(kind, path.into());
        self
    }

    /// Searches QEMU's build folder.
    pub fn build_dir(mut self, folder: impl Into<PathBuf>) -> Finder {
        self.build_dir = Some(folder.into());
        self
    }

    /// Searches `PREFIX/bin` last; can be repeated.
    pub fn prefix(mut self, prefix: impl Into<PathBuf>) -> Finder {
        self.prefixes.push(prefix.into());
        self
    }

    /// The architecture of the emulator, by QEMU's name for it (default: this machine's).
    pub fn arch(mut self, arch: impl Into<String>) -> Finder {
        self.arch = Some(arch.into());
        self
    }

    /// Uses these variables instead of our environment.
    pub fn environment<K: Into<OsString>, V: Into<OsString>>(
        mut self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Finder {
        let variables = variables.into_iter().map(|(key, value)| (key.into(), value.into()));
        self.environment = Some(variables.collect());
        self
    }

    /// Known versions, to skip running the files: the caller guarantees that they have not changed.
    pub fn known_versions(mut self, versions: BTreeMap<(ToolKind, PathBuf), Version>) -> Finder {
        self.known = versions;
        self
    }

    /// Finds a program, asks it for its version, and adds the options from its environment variable
    /// (split as in a shell). Blocks while the program runs: milliseconds.
    pub fn find(&self, kind: ToolKind) -> Result<Tool, FindError> {
        let mut looked = Vec::new();
        for (place, path) in self.candidates(kind) {
            let is_order = matches!(place, Place::Flag | Place::Environment(_));
            match self.look(kind, &path) {
                Ok(tool) => return Ok(tool),
                Err(problem) => looked.push(Looked {
                    place,
                    path,
                    problem,
                }),
            }
            if is_order {
                break;
            }
        }
        Err(FindError { kind, looked })
    }

    fn variable(&self, name: &str) -> Option<OsString> {
        let value = match &self.environment {
            Some(variables) => variables.get(OsStr::new(name)).cloned(),
            None => std::env::var_os(name),
        };
        value.filter(|value| !value.is_empty())
    }

    /// The candidate files, best first.
    fn candidates(&self, kind: ToolKind) -> Vec<(Place, PathBuf)> {
        let mut found = Vec::new();
        if let Some(path) = self.flags.get(&kind) {
            found.push((Place::Flag, path.clone()));
        }
        if let Some(path) = self.variable(kind.program_variable()) {
            found.push((Place::Environment(kind.program_variable()), path.into()));
        }
        let name = self.name(kind);
        let mut add = |place, folder: &Path| found.push((place, folder.join(&name)));
        if let Some(folder) = &self.build_dir {
            add(Place::BuildDir, folder);
            if kind == ToolKind::StorageDaemon {
                add(Place::BuildDir, &folder.join("storage-daemon"));
            }
        }
        let path = self.variable("PATH");
        for folder in std::env::split_paths(path.as_deref().unwrap_or_default()) {
            // An empty entry would mean the current directory, which is never intended.
            if !folder.as_os_str().is_empty() {
                add(Place::Path, &folder);
            }
        }
        // A search that excludes PATH excludes the system's programs.
        if kind == ToolKind::System && path.is_some() && self.architecture() == native_arch() {
            found.push((Place::Libexec, LIBEXEC.into()));
        }
        let prefixes = self.prefixes.iter();
        found.extend(prefixes.map(|prefix| (Place::Prefix, prefix.join("bin").join(&name))));
        found
    }

    fn architecture(&self) -> &str {
        self.arch.as_deref().unwrap_or(native_arch())
    }

    fn name(&self, kind: ToolKind) -> String {
        match kind {
            ToolKind::System => format!("{}-{}", kind.name(), self.architecture()),
            _ => kind.name().to_owned(),
        }
    }

    fn look(&self, kind: ToolKind, path: &Path) -> Result<Tool, Problem> {
        let metadata = std::fs::metadata(path).map_err(|_| Problem::Missing)?;
        let executable = metadata.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok();
        if !executable {
            return Err(Problem::NotExecutable);
        }
        // A path without a slash would be searched for in PATH again.
        let path = if path.components().count() == 1 {
            &Path::new(".").join(path)
        } else {
            path
        };
        let mut tool = Tool::new(kind, path);
        tool.version = self.known.get(&(kind, path.to_owned())).copied();
        if tool.version.is_none() {
            tool.version = Some(Self::ask(&tool)?);
        }
        if let Some(options) = self.variable(kind.options_variable()) {
            let options = options.to_string_lossy();
            // An unterminated quote is split at white space, as the old harness does.
            tool.options = shlex::split(&options)
                .unwrap_or_else(|| options.split_whitespace().map(str::to_owned).collect());
        }
        Ok(tool)
    }

    fn ask(tool: &Tool) -> Result<Version, Problem> {
        let asked = tool.command().arg("--version").deadline(VERSION_DEADLINE);
        let output = asked.run_blocking().map_err(Problem::Broken)?;
        let banner = output.stdout_text();
        let name = tool.path.file_name().unwrap_or_default().display();
        let renamed = match tool.kind {
            // Any program prints its own name; QEMU's copyright follows further down.
            _ if !banner.contains(DEVELOPERS) => None,
            ToolKind::Io => Some(format!("{name} version")),
            ToolKind::Nbd => Some(name.to_string()),
            ToolKind::Img | ToolKind::StorageDaemon | ToolKind::System => None,
        };
        let names: Vec<&str> =
            [tool.kind.banner_name()].into_iter().chain(renamed.as_deref()).collect();
        if let Some(version) = Version::from_banner(&banner, &names) {
            return Ok(version);
        }
        let said = banner.lines().next().unwrap_or_default().to_owned();
        Err(match output.check() {
            Ok(_) => Problem::NotQemu(said),
            Err(error) => Problem::Broken(error),
        })
    }
}

/// This machine's architecture, by QEMU's name for it.
fn native_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86" => "i386",
        "powerpc64" => "ppc64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_emulator_of_red_hat_is_part_of_the_system_and_of_the_native_architecture() {
        let finder = Finder::new().prefix("/prefix");
        let system = finder.clone().environment([("PATH", "/bin")]);
        let places = |finder: &Finder, kind| -> Vec<Place> {
            let found = finder.candidates(kind).into_iter();
            found.map(|(place, _)| place).collect()
        };
        let with = [Place::Path, Place::Libexec, Place::Prefix];
        let without = [Place::Path, Place::Prefix];
        assert_eq!(places(&system, ToolKind::System), with);
        let native = system.clone().arch(native_arch());
        assert_eq!(places(&native, ToolKind::System), with);
        let foreign = system.clone().arch("alpha");
        assert_eq!(places(&foreign, ToolKind::System), without);
        assert_eq!(places(&system, ToolKind::Img), without);
        // All programs of a prefix's set come from the prefix.
        let prefix = finder.environment([("PATH", "")]);
        assert_eq!(places(&prefix, ToolKind::System), [Place::Prefix]);
    }
}
