//! The sources of QEMU and their build folder: changes files there, and restores them whatever
//! happens.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde::{Deserialize, Serialize};

use super::bugs::{Bug, Source};
use crate::cargo::XtaskError;

/// The folder, in the build folder, with copies of the files that are currently changed.
const UNDO: &str = "sharpness.undo";

/// Why a tree cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TreeError {
    /// The folder does not exist.
    #[error("failed to find the folder {path}", path = path.display())]
    NoFolder {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something in the sources has been changed.
    #[error("failed to find {path} clean: put aside what is changed in it\n{changes}", path = path.display())]
    NotClean {
        /// The sources.
        path: PathBuf,
        /// The message of git.
        changes: String,
    },
    /// Another run is changing these sources.
    #[error("failed to get {path} for ourselves: another run works in it", path = path.display())]
    InUse {
        /// The build folder.
        path: PathBuf,
    },
    /// The build folder has none of the programs.
    #[error("failed to find a program of QEMU in {path}: build it once", path = path.display())]
    NoPrograms {
        /// The build folder.
        path: PathBuf,
    },
    /// A patch cannot be applied, or a commit cannot be reverted.
    #[error("failed to {what}: {why}")]
    Change {
        /// "apply PATCH" or "take COMMIT out".
        what: String,
        /// The message of git.
        why: String,
    },
    /// git could not be started.
    #[error("failed to start git")]
    Git(#[source] io::Error),
    /// A file could not be copied, changed or restored.
    #[error("failed to keep or put back {path}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

pub(super) struct Tree {
    source: PathBuf,
    build: PathBuf,
    _lock: File,
}

/// What a bug changes. Equal changes share one build.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    what: String,
    patch: Vec<u8>,
    files: Vec<PathBuf>,
}

/// A change that is in the tree. Dropping it reverts the change.
#[must_use]
pub(super) struct Applied<'a> {
    tree: &'a Tree,
    restored: bool,
}

#[derive(Serialize, Deserialize)]
struct Undo {
    files: Vec<(PathBuf, bool)>,
}

impl Tree {
    /// Restores what a killed run has left, and then checks that everything is clean.
    pub(super) fn open(source: &Path, build: &Path) -> Result<Tree, TreeError> {
        let find = |path: &Path| {
            fs::canonicalize(path).map_err(|source| TreeError::NoFolder {
                path: path.to_owned(),
                source,
            })
        };
        let (source, build) = (find(source)?, find(build)?);
        let lock = build.join("sharpness.lock");
        let lock = File::create(&lock).map_err(at(&lock))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(TreeError::InUse { path: build }),
            Err(TryLockError::Error(source)) => {
                return Err(TreeError::File {
                    path: build,
                    source,
                });
            }
        }
        let tree = Tree {
            source,
            build,
            _lock: lock,
        };
        let left = tree.restore()?;
        if left > 0 {
            eprintln!("put back {left} files that a run before had changed");
        }
        tree.check_clean()?;
        Ok(tree)
    }

    pub(super) fn build(&self) -> &Path {
        &self.build
    }

    /// The programs in the folder, as build targets.
    pub(super) fn programs(&self) -> Result<Vec<String>, XtaskError> {
        let tools = ["qemu-img", "qemu-io", "qemu-nbd"];
        let daemon = "storage-daemon/qemu-storage-daemon";
        let mut programs = Vec::new();
        for entry in fs::read_dir(&self.build).map_err(XtaskError::file("read", &self.build))? {
            let entry = entry.map_err(XtaskError::file("read", &self.build))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let emulator = name.starts_with("qemu-system-") && !name.contains('.');
            if (emulator || tools.contains(&name.as_str())) && entry.path().is_file() {
                programs.push(name);
            }
        }
        if self.build.join(daemon).is_file() {
            programs.push(daemon.to_owned());
        }
        if programs.is_empty() {
            let path = self.build.clone();
            return Err(super::SharpnessError::Tree(TreeError::NoPrograms { path }).into());
        }
        programs.sort();
        Ok(programs)
    }

    fn git(&self, args: &[&str]) -> Result<Output, TreeError> {
        let mut git = Command::new("git");
        // A tree without its own repository must not be treated as part of an enclosing one.
        if let Some(parent) = self.source.parent() {
            git.env("GIT_CEILING_DIRECTORIES", parent);
        }
        let git = git.arg("-C").arg(&self.source).args(args);
        git.output().map_err(TreeError::Git)
    }

    fn check_clean(&self) -> Result<(), TreeError> {
        if !self.source.join(".git").exists() {
            return Ok(());
        }
        let status = ["status", "--porcelain", "--untracked-files=no"];
        let output = self.git(&[&status[..], &["--ignore-submodules=all"]].concat())?;
        let changes = said(&output);
        if output.status.success() && changes.is_empty() {
            return Ok(());
        }
        let path = self.source.clone();
        Err(TreeError::NotClean { path, changes })
    }

    /// What a bug changes, after checking that it can be applied.
    pub(super) fn change(&self, bug: &Bug) -> Result<Change, TreeError> {
        let (what, patch) = match &bug.source {
            Source::Patch(path) => {
                let patch = fs::read(path).map_err(at(path))?;
                (format!("apply {}", path.display()), patch)
            }
            Source::Revert(commit, files) => {
                let what = format!("take {commit} out");
                let before = format!("{commit}^");
                let mut args = vec!["diff", "--binary", "--no-renames", commit, &before, "--"];
                args.extend(files.iter().filter_map(|file| file.to_str()));
                let output = self.git(&args)?;
                if !output.status.success() {
                    let why = said(&output);
                    return Err(TreeError::Change { what, why });
                }
                (what, output.stdout)
            }
        };
        let refused = |why: String| TreeError::Change {
            what: what.clone(),
            why,
        };
        let kept = tempfile::NamedTempFile::new_in(&self.build).map_err(at(&self.build))?;
        fs::write(kept.path(), &patch).map_err(at(kept.path()))?;
        let name = kept.path().to_string_lossy();
        let check = self.git(&["apply", "--check", &name])?;
        if !check.status.success() {
            return Err(refused(said(&check)));
        }
        let numbers = self.git(&["apply", "--numstat", "-z", &name])?;
        let mut files = changed_files(&numbers.stdout);
        // For a renamed file, they contain only the new name.
        let text = String::from_utf8_lossy(&patch);
        let renamed = text.lines().filter_map(|line| line.strip_prefix("rename from "));
        files.extend(renamed.map(PathBuf::from));
        if files.is_empty() {
            return Err(refused("it changes no file".to_owned()));
        }
        Ok(Change { what, patch, files })
    }

    /// Applies a change, after copying the files that it changes.
    pub(super) fn apply(&self, change: &Change) -> Result<Applied<'_>, TreeError> {
        let undo = self.build.join(UNDO);
        let making = self.build.join("sharpness.undo.part");
        if making.exists() {
            fs::remove_dir_all(&making).map_err(at(&making))?;
        }
        fs::create_dir(&making).map_err(at(&making))?;
        let mut files = Vec::new();
        for (number, path) in change.files.iter().enumerate() {
            let from = self.source.join(path);
            let exists = from.exists();
            if exists {
                let to = making.join(number.to_string());
                fs::copy(&from, &to).map_err(at(&from))?;
                File::open(&to).and_then(|f| f.sync_all()).map_err(at(&to))?;
            }
            files.push((path.clone(), exists));
        }
        let list = making.join("files.json");
        let text = serde_json::to_string(&Undo { files }).map_err(io::Error::from);
        fs::write(&list, text.map_err(at(&list))?).map_err(at(&list))?;
        // From here on, this run or a later one can restore it.
        fs::rename(&making, &undo).map_err(at(&undo))?;
        let applied = Applied {
            tree: self,
            restored: false,
        };
        let patch = undo.join("patch");
        fs::write(&patch, &change.patch).map_err(at(&patch))?;
        let output = self.git(&["apply", &patch.to_string_lossy()])?;
        if !output.status.success() {
            let (what, why) = (change.what.clone(), said(&output));
            return Err(TreeError::Change { what, why });
        }
        Ok(applied)
    }

    /// Restores the changed files, and returns their number.
    fn restore(&self) -> Result<usize, TreeError> {
        let undo = self.build.join(UNDO);
        let list = undo.join("files.json");
        let text = match fs::read_to_string(&list) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(source) => return Err(TreeError::File { path: list, source }),
        };
        let read = serde_json::from_str(&text).map_err(io::Error::from);
        let Undo { files } = read.map_err(at(&list))?;
        for (number, (path, existed)) in files.iter().enumerate() {
            let to = self.source.join(path);
            let done = match existed {
                // A copy without the old modification time, so that it looks new to ninja.
                true => fs::copy(undo.join(number.to_string()), &to).map(|_| ()),
                false if to.exists() => fs::remove_file(&to),
                false => Ok(()),
            };
            done.map_err(at(&to))?;
        }
        fs::remove_dir_all(&undo).map_err(at(&undo))?;
        Ok(files.len())
    }
}

impl Applied<'_> {
    /// Restores everything.
    pub(super) fn restore(mut self) -> Result<(), TreeError> {
        self.restored = true;
        self.tree.restore().map(|_| ())
    }
}

impl Drop for Applied<'_> {
    fn drop(&mut self) {
        if self.restored {
            return;
        }
        if let Err(error) = self.tree.restore() {
            let undo = self.tree.build.join(UNDO);
            eprintln!(
                "error: {error}; the files as they were are in {}",
                undo.display()
            );
        }
    }
}

/// The files of `git apply --numstat -z`.
fn changed_files(numbers: &[u8]) -> Vec<PathBuf> {
    let entries = numbers.split(|byte| *byte == 0);
    let entries = entries.filter_map(|entry| std::str::from_utf8(entry).ok());
    let path = |entry: &str| entry.splitn(3, '\t').nth(2).map(PathBuf::from);
    entries.filter_map(path).collect()
}

fn said(output: &Output) -> String {
    let text = [&output.stderr[..], &output.stdout[..]].concat();
    String::from_utf8_lossy(&text).trim_end().to_owned()
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> TreeError + '_ {
    |source| TreeError::File {
        path: path.to_owned(),
        source,
    }
}
