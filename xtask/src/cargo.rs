//! Runs cargo, and finds its folders.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Why a task failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum XtaskError {
    /// A program could not be started at all.
    #[error("failed to start `{program}`")]
    Start {
        /// The program, as called.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A program ran and failed; its own output has been shown.
    #[error("`{command}` ended with {status}")]
    Failed {
        /// The command line.
        command: String,
        /// Its exit status.
        status: std::process::ExitStatus,
    },
    /// Tests failed.
    #[error("{source}; {summary}")]
    Tests {
        /// How the command ended.
        source: Box<XtaskError>,
        /// Which tests were skipped, and which failed.
        summary: String,
    },
    /// This program does not understand the output of `cargo metadata`.
    #[error("failed to read `cargo metadata`: {0}")]
    Metadata(String),
    /// This program does not understand the output of `cargo build`.
    #[error("failed to read what `cargo build` says: {0}")]
    Build(String),
    /// The typed layer could not be generated.
    #[error("failed to generate the typed layer: {0}")]
    Codegen(String),
    /// No bug was measured.
    #[error(transparent)]
    Sharpness(#[from] crate::task::sharpness::SharpnessError),
    /// A file could not be read or written.
    #[error("failed to {verb} {path}", path = path.display())]
    File {
        /// "read" or "write".
        verb: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A package would contain too much or too little.
    #[error("failed to find the package of {library} clean: {problems}")]
    Package {
        /// Which library.
        library: &'static str,
        /// What is wrong with it.
        problems: String,
    },
    /// Examples need programs that are missing.
    #[error("failed to run these examples: {0}")]
    Examples(String),
    /// The file system of the target folder is too full to build in.
    #[error(
        "failed to find room for what is built: {free:.1} GiB are free at {path}, {missing:.1} GiB more are needed. Delete what is old, \
         or set CARGO_TARGET_DIR to another disk; with CARGO_INCREMENTAL=0 half is enough",
        path = path.display()
    )]
    Room {
        /// The target folder.
        path: PathBuf,
        /// The free space, in GiB.
        free: f64,
        /// The missing space, in GiB.
        missing: f64,
    },
    /// No step of the gate matches.
    #[error("failed to find a step whose name contains {text:?}; the steps are\n  {names}")]
    NoStep {
        /// The requested text.
        text: String,
        /// The existing steps, one per line.
        names: String,
    },
    /// A data file has a line that cannot be used.
    #[error("failed to use {path}: {why}", path = path.display())]
    Data {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl XtaskError {
    /// A closure that turns an I/O error into one that names this file; `verb` is the operation.
    pub(crate) fn file(
        verb: &'static str,
        path: &Path,
    ) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { verb, path, source }
    }
}

/// The workspace root: where this runs, not where it was compiled, because clones may share one
/// target folder. Cargo sets it in a variable; if this program is started directly, it is found
/// upward from the current folder.
pub(crate) fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    root_of(manifest, std::env::current_dir().ok())
}

fn root_of(manifest: Option<PathBuf>, current: Option<PathBuf>) -> PathBuf {
    let is_ours = |folder: &&Path| folder.join("xtask").join("Cargo.toml").is_file();
    let below = [manifest, current].into_iter().flatten();
    let found = below
        .filter_map(|folder| folder.ancestors().find(is_ours).map(Path::to_path_buf))
        .next();
    found.unwrap_or_else(|| {
        let compiled = Path::new(env!("CARGO_MANIFEST_DIR"));
        compiled.parent().unwrap_or(compiled).to_path_buf()
    })
}

/// The cargo that runs us, called in the workspace's root.
pub(crate) fn cargo<I, S>(args: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

/// Runs `command` with our own output; a non-zero exit status is an error.
pub(crate) fn check(command: &mut Command) -> Result<(), XtaskError> {
    let status = command.status().map_err(|source| start_error(command, source))?;
    if status.success() {
        return Ok(());
    }
    Err(XtaskError::Failed {
        command: display(command),
        status,
    })
}

/// Runs `command` and returns its stdout; a non-zero exit status is an error.
pub(crate) fn read(command: &mut Command) -> Result<Vec<u8>, XtaskError> {
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|source| start_error(command, source))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(XtaskError::Failed {
        command: display(command),
        status: output.status,
    })
}

/// `cargo metadata` of the members, without external dependencies.
pub(crate) fn metadata() -> Result<serde_json::Value, XtaskError> {
    metadata_with(&["--no-deps"])
}

/// `cargo metadata` with these options in addition to the usual ones.
pub(crate) fn metadata_with(options: &[&str]) -> Result<serde_json::Value, XtaskError> {
    let usual = ["metadata", "--format-version=1", "--offline"];
    let text = read(cargo(usual).args(options))?;
    serde_json::from_slice(&text).map_err(|e| XtaskError::Metadata(e.to_string()))
}

/// The folder cargo builds into.
pub(crate) fn target_dir() -> Result<PathBuf, XtaskError> {
    metadata()?["target_directory"]
        .as_str()
        .map(PathBuf::from)
        .ok_or_else(|| XtaskError::Metadata("no target_directory".to_owned()))
}

/// The command line of `command`, for display.
pub(crate) fn display(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    command.get_args().fold(name, |line, arg| {
        format!("{line} {}", arg.to_string_lossy())
    })
}

fn start_error(command: &Command, source: std::io::Error) -> XtaskError {
    XtaskError::Start {
        program: display(command),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two clones that share a target folder share one program of this name.
    #[test]
    fn the_workspace_is_the_one_where_this_runs() {
        let place = tempfile::tempdir().unwrap();
        let clone = place.path().join("clone");
        let xtask = clone.join("xtask");
        std::fs::create_dir_all(xtask.join("src")).unwrap();
        std::fs::write(xtask.join("Cargo.toml"), "").unwrap();
        assert_eq!(root_of(Some(xtask.clone()), None), clone);
        assert_eq!(root_of(None, Some(xtask.join("src"))), clone);
        let elsewhere = place.path().to_owned();
        assert_eq!(root_of(Some(elsewhere.clone()), Some(xtask)), clone);
        let compiled = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
        assert_eq!(Some(root_of(None, Some(elsewhere)).as_path()), compiled);
    }
}
