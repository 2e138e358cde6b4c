//! Where the harness keeps its files: caches, records, run directories, provisioned prefixes.

use std::env;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::getuid;

use super::error::{RunError, io as io_error};

/// The folders of one user or one build.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    root: PathBuf,
    /// The root's parent is writable by other users.
    is_shared: bool,
    /// The workspace that the cases were built from, if known.
    sources: Option<PathBuf>,
}

impl Places {
    /// `--build-dir`, else cargo's target folder if this program is in one, else the user's cache
    /// folder, else a private temporary folder.
    pub(crate) fn new(build_dir: Option<&Path>) -> Self {
        let program = env::current_exe().unwrap_or_default();
        let own = build_dir.map(Path::to_path_buf).or_else(|| target_of(&program));
        let variable = |name| env::var_os(name).filter(|folder| !folder.is_empty());
        let cache = || {
            let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
            let cache = cache.or_else(|| Some(Path::new(&variable("HOME")?).join(".cache")));
            Some(cache?.join("qemu-iotests"))
        };
        let (root, is_shared) = match own.or_else(cache) {
            Some(root) => (root, false),
            None => (
                env::temp_dir().join(format!("qemu-iotests-{}", getuid())),
                true,
            ),
        };
        let sources =
            env::var_os("IOTESTS_SOURCE_DIR").map(PathBuf::from).filter(|folder| folder.is_dir());
        Self {
            // Absolute, because cases run in their own folders.
            root: std::path::absolute(&root).unwrap_or(root),
            is_shared,
            sources,
        }
    }

    /// Refuses folders in which cases or probes could not work.
    pub(crate) fn check(&self) -> Result<(), RunError> {
        check_utf8("the build folder", &self.root)?;
        check_utf8("the temporary folder (TMPDIR)", &env::temp_dir())?;
        match self.is_shared {
            true => create_private(&self.root),
            false => Ok(()),
        }
    }

    /// Whether this path is in the build folder.
    pub(crate) fn have(&self, path: &Path) -> bool {
        path.starts_with(&self.root)
    }

    /// The cache of probe results.
    pub(crate) fn probes(&self) -> PathBuf {
        self.own().join("probes")
    }

    /// The checksums of QEMU's programs.
    pub(crate) fn sums(&self) -> PathBuf {
        self.own().join("sums.json")
    }

    /// Times and verdicts of earlier runs.
    pub(crate) fn records(&self) -> PathBuf {
        self.own().join("records.json")
    }

    /// The records of earlier runs.
    pub(crate) fn recordings(&self) -> PathBuf {
        self.own().join("records")
    }

    /// Where goldens of a case in this source file wait for review: beside the accepted ones, or in
    /// a separate folder if there is no workspace.
    pub(crate) fn goldens(&self, file: &str) -> PathBuf {
        let sources = self.sources.as_ref().zip(file.split_once("/src/"));
        match sources {
            Some((root, (member, _))) => root.join(member).join("src"),
            None => self.own().join("pending-goldens"),
        }
    }

    /// Where Python keeps compiled code of upstream's scripts.
    pub(crate) fn bytecode(&self) -> PathBuf {
        self.own().join("bytecode")
    }

    /// Where run directories are created without `--scratch`.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.own().join("runs")
    }

    /// The provisioned prefixes, one folder each.
    pub(crate) fn prefixes(&self) -> PathBuf {
        self.root.join("qemu")
    }

    /// The folder of everything that is not a prefix.
    pub(crate) fn own(&self) -> PathBuf {
        self.root.join("iotests")
    }
}

/// Creates the folder, or checks that an existing one is private: programs in it are run.
fn create_private(folder: &Path) -> Result<(), RunError> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(source) if source.kind() != ErrorKind::AlreadyExists => {
            return Err(io_error("create the build folder", folder)(source));
        }
        _ => {}
    }
    let found = fs::symlink_metadata(folder).map_err(io_error("read the build folder", folder))?;
    if found.is_dir() && found.uid() == getuid().as_raw() && found.mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(RunError::Io {
        doing: "use the build folder",
        path: folder.to_owned(),
        source: io::Error::new(
            ErrorKind::PermissionDenied,
            "it must be private to this user (mode 0700), because programs in it are run and its parent is writable by others",
        ),
    })
}

/// Cargo's target folder, if the program is where cargo puts it: `debug/`, or `TRIPLE/debug/`.
fn target_of(program: &Path) -> Option<PathBuf> {
    let folders = program.ancestors().skip(2).take(2);
    let is_target = |folder: &&Path| {
        let tag = std::fs::read_to_string(folder.join("CACHEDIR.TAG"));
        tag.is_ok_and(|text| text.contains("created by cargo"))
    };
    folders.into_iter().find(is_target).map(Path::to_path_buf)
}

/// Refuses paths that are not UTF-8: QMP and the case's spec are JSON and cannot carry them.
pub(crate) fn check_utf8(what: &str, path: &Path) -> Result<(), RunError> {
    match path.to_str() {
        Some(_) => Ok(()),
        None => Err(RunError::Usage(format!(
            "{what} {path:?} has a name that is not UTF-8, which QMP cannot carry; choose another one"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_folder_in_a_shared_place_must_be_private() {
        let folder = tempfile::tempdir().unwrap();
        let mine = folder.path().join("mine");
        create_private(&mine).unwrap();
        assert_eq!(fs::metadata(&mine).unwrap().mode() & 0o777, 0o700);
        create_private(&mine).unwrap();
        symlink(&mine, folder.path().join("link")).unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let open = folder.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        for name in ["link", "file", "open"] {
            let why = create_private(&folder.path().join(name)).unwrap_err().to_string();
            assert!(why.contains("private to this user"), "{name}: {why}");
        }
        // Created first by another user.
        if getuid().is_root() {
            std::os::unix::fs::chown(&mine, Some(12345), None).unwrap();
            assert!(create_private(&mine).is_err());
        }
    }
}
