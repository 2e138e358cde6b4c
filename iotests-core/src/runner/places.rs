//! Where the harness keeps its own things: caches, records, run directories, provisioned prefixes.

use std::env;
use std::path::{Path, PathBuf};

use super::error::RunError;

/// The folders of one user or one build.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    root: PathBuf,
    /// The workspace the cases were built from, when that is known.
    sources: Option<PathBuf>,
}

impl Places {
    /// `--build-dir`, else cargo's target folder where this program lies in one, else the user's cache folder.
    pub(crate) fn new(build_dir: Option<&Path>) -> Self {
        let program = env::current_exe().unwrap_or_default();
        let own = build_dir
            .map(Path::to_path_buf)
            .or_else(|| target_of(&program));
        let root = own.unwrap_or_else(|| {
            let cache = env::var_os("XDG_CACHE_HOME")
                .filter(|folder| !folder.is_empty())
                .map(PathBuf::from);
            let cache =
                cache.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
            cache.unwrap_or_else(env::temp_dir).join("qemu-iotests")
        });
        // Cases run in folders of their own, where a relative path would mean something else.
        let sources = env::var_os("IOTESTS_SOURCE_DIR")
            .map(PathBuf::from)
            .filter(|folder| folder.is_dir());
        Self {
            root: std::path::absolute(&root).unwrap_or(root),
            sources,
        }
    }

    /// Refuses a folder below which no case, or no trial of what a program can do, could work.
    pub(crate) fn check(&self) -> Result<(), RunError> {
        check_utf8("the build folder", &self.root)?;
        check_utf8("the temporary folder (TMPDIR)", &env::temp_dir())
    }

    /// What the probes found.
    pub(crate) fn probes(&self) -> PathBuf {
        self.own().join("probes")
    }

    /// The sums of QEMU's programs.
    pub(crate) fn sums(&self) -> PathBuf {
        self.own().join("sums.json")
    }

    /// Times and verdicts of former runs.
    pub(crate) fn records(&self) -> PathBuf {
        self.own().join("records.json")
    }

    /// The records of former runs.
    pub(crate) fn recordings(&self) -> PathBuf {
        self.own().join("records")
    }

    /// Where goldens of a case in this source file wait for review: beside the accepted ones, or where there is no workspace, apart.
    pub(crate) fn goldens(&self, file: &str) -> PathBuf {
        let sources = self.sources.as_ref().zip(file.split_once("/src/"));
        match sources {
            Some((root, (member, _))) => root.join(member).join("src"),
            None => self.own().join("pending-goldens"),
        }
    }

    /// Where Python keeps what it has compiled of upstream's scripts.
    pub(crate) fn bytecode(&self) -> PathBuf {
        self.own().join("bytecode")
    }

    /// Where run directories are made when `--scratch` does not say.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.own().join("runs")
    }

    /// Where provisioned prefixes stand, one folder each.
    pub(crate) fn prefixes(&self) -> PathBuf {
        self.root.join("qemu")
    }

    /// The folder of all that is not a prefix.
    pub(crate) fn own(&self) -> PathBuf {
        self.root.join("iotests")
    }
}

/// Cargo's target folder, if the program lies where cargo puts programs: `debug/`, or `TRIPLE/debug/`.
fn target_of(program: &Path) -> Option<PathBuf> {
    let folders = program.ancestors().skip(2).take(2);
    let is_target = |folder: &&Path| {
        let tag = std::fs::read_to_string(folder.join("CACHEDIR.TAG"));
        tag.is_ok_and(|text| text.contains("created by cargo"))
    };
    folders.into_iter().find(is_target).map(Path::to_path_buf)
}

/// Everything below such a folder could be named neither in QMP nor in what a case receives, both of
/// which are JSON.
pub(crate) fn check_utf8(what: &str, path: &Path) -> Result<(), RunError> {
    match path.to_str() {
        Some(_) => Ok(()),
        None => Err(RunError::Usage(format!(
            "{what} {path:?} has a name that is not UTF-8, and QMP can carry no other; choose another one"
        ))),
    }
}
