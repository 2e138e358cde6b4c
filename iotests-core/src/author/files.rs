//! The directories of a case and the files in them, which are removed when dropped and print
//! redacted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Serialize, Serializer};

use crate::author::filter::{Filter, Hidden};

/// The longest path of a UNIX socket that the kernel accepts, without the final NUL.
const LONGEST_SOCKET_PATH: usize = 107;

/// The folder in the test directory for dropped files.
pub(crate) const DROPPED: &str = ".dropped";

/// Why a directory or a name cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It is not UTF-8; JSON and QMP are, so no daemon could be given such a path.
    #[error(
        "the directory {0:?} is not UTF-8, and QMP can carry no other names; choose another one"
    )]
    NotUtf8(PathBuf),
    /// It has a control character, which could end a line of a QEMU command or log.
    #[error("the directory {0:?} has a control character in its name; choose another one")]
    Control(PathBuf),
    /// It is relative, so it would depend on the working directory.
    #[error("the directory {} is not absolute", .0.display())]
    Relative(PathBuf),
    /// It leaves no room for the name of a socket.
    #[error(
        "the socket {} would have a path of {length} bytes, and the kernel allows {LONGEST_SOCKET_PATH}; choose a shorter socket directory",
        path.display()
    )]
    SocketTooLong {
        /// The path that is too long.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// The file is already in use in the same case, and its owner would remove it.
    #[error("there is a {0} in this case already; names must differ")]
    Taken(String),
    /// The path would be outside the directory.
    #[error("{0:?} is not the name of a file in a directory")]
    NotAName(String),
}

/// The two directories of a case: one for files, and one with a short path for sockets.
#[derive(Clone, Debug)]
pub struct Directories(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    test: String,
    sock: String,
    hidden: Vec<Hidden>,
    /// How many files of each name were dropped.
    dropped: Mutex<BTreeMap<String, u64>>,
    /// The paths that are in use.
    taken: Mutex<BTreeSet<String>>,
}

impl Inner {
    fn taken(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Directories {
    /// Checks that both directories can be used: absolute, UTF-8, no control characters. Spaces,
    /// commas, quotes and format names are allowed.
    ///
    /// # Errors
    /// Names the directory and what is wrong with it.
    pub fn new(test: &Path, sock: &Path) -> Result<Self, PathError> {
        let (test, sock) = (usable(test)?, usable(sock)?);
        let hidden = vec![
            Hidden::new(&test, "TEST_DIR"),
            Hidden::new(&sock, "SOCK_DIR"),
        ];
        Ok(Directories(Arc::new(Inner {
            test,
            sock,
            hidden,
            dropped: Mutex::default(),
            taken: Mutex::default(),
        })))
    }

    /// No directories: nothing is hidden, and no name resolves to an existing path.
    pub(crate) fn none() -> Self {
        let nowhere = "/dev/null".to_owned();
        Directories(Arc::new(Inner {
            test: nowhere.clone(),
            sock: nowhere,
            hidden: Vec::new(),
            dropped: Mutex::default(),
            taken: Mutex::default(),
        }))
    }

    /// Where a dropped file of the test directory is moved: to a folder that it shares with files
    /// of other names, which is created. `None` if there is no such file, or it is a directory or
    /// outside the test directory.
    fn aside(&self, path: &str) -> Option<PathBuf> {
        let below = path.strip_prefix(&self.0.test)?.strip_prefix('/')?;
        let data = std::fs::symlink_metadata(path).ok()?;
        if !data.is_file() {
            return None;
        }
        let mut dropped = self.0.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        let number = dropped.entry(below.to_owned()).or_default();
        let to = self.test().join(DROPPED).join(number.to_string()).join(below);
        *number += 1;
        std::fs::create_dir_all(to.parent()?).ok()?;
        Some(to)
    }

    /// The directory for files.
    #[must_use]
    pub fn test(&self) -> &Path {
        Path::new(&self.0.test)
    }

    /// The directory for sockets.
    #[must_use]
    pub fn sock(&self) -> &Path {
        Path::new(&self.0.sock)
    }

    /// The placeholders that hide both directories.
    #[must_use]
    pub fn hidden(&self) -> &[Hidden] {
        &self.0.hidden
    }

    /// Text with both directories hidden.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        Filter::TestFiles(self.0.hidden.clone()).text(text).into_owned()
    }

    /// A file in the test directory. It is removed when the value is dropped, if it exists then.
    ///
    /// # Errors
    /// If `name` is not a file name, or the file is already in use.
    pub fn file(&self, name: &str) -> Result<TestFile, PathError> {
        self.take(join(&self.0.test, name)?)
    }

    fn take(&self, path: String) -> Result<TestFile, PathError> {
        if !self.0.taken().insert(path.clone()) {
            return Err(PathError::Taken(self.redact(&path)));
        }
        let directories = self.clone();
        Ok(TestFile {
            directories,
            path,
            is_ours: true,
        })
    }

    /// A file anywhere, which stays when the value is dropped.
    pub(crate) fn elsewhere(&self, path: String) -> TestFile {
        let directories = self.clone();
        TestFile {
            directories,
            path,
            is_ours: false,
        }
    }

    /// A file in a folder below the test directory, such as `deep/deeper`; the folder is created.
    ///
    /// # Errors
    /// If `folder` leads out of the test directory, `name` is not a file name, or the file is
    /// already in use.
    pub fn file_in(&self, folder: &str, name: &str) -> Result<TestFile, PathError> {
        let mut path = self.0.test.clone();
        for part in folder.split('/') {
            path = join(&path, part)?;
        }
        // If this fails, opening the file will fail with the system's own reason.
        if let Err(error) = std::fs::create_dir_all(&path) {
            tracing::debug!(%path, %error, "a test folder cannot be made");
        }
        self.take(join(&path, name)?)
    }

    /// A socket in the socket directory. It is removed when the value is dropped, if it exists
    /// then.
    ///
    /// # Errors
    /// If `name` is not a file name, the file is already in use, or the path would be too long for
    /// the kernel.
    pub fn socket(&self, name: &str) -> Result<TestFile, PathError> {
        let path = join(&self.0.sock, name)?;
        if path.len() > LONGEST_SOCKET_PATH {
            let length = path.len();
            return Err(PathError::SocketTooLong {
                path: path.into(),
                length,
            });
        }
        self.take(path)
    }
}

fn usable(path: &Path) -> Result<String, PathError> {
    let text = path.to_str().ok_or_else(|| PathError::NotUtf8(path.to_owned()))?;
    if text.chars().any(char::is_control) {
        return Err(PathError::Control(path.to_owned()));
    }
    if !path.is_absolute() {
        return Err(PathError::Relative(path.to_owned()));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

fn join(directory: &str, name: &str) -> Result<String, PathError> {
    if name.is_empty() || name == "." || name == ".." || name.contains('/') {
        return Err(PathError::NotAName(name.to_owned()));
    }
    Ok(format!("{directory}/{name}"))
}

/// A path in one of the directories of a case. It owns the file there: the file, or an empty
/// directory, is removed with it. It displays as `TEST_DIR/name`; in JSON it is the real path.
pub struct TestFile {
    directories: Directories,
    path: String,
    /// A file that is not ours stays.
    is_ours: bool,
}

impl TestFile {
    /// The real path. It is UTF-8, because the directories are.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.path
    }

    /// The real path as the value of a QEMU option, with commas doubled.
    #[must_use]
    pub fn as_option(&self) -> String {
        self.path.replace(',', ",,")
    }
}

impl Deref for TestFile {
    type Target = Path;

    fn deref(&self) -> &Path {
        Path::new(&self.path)
    }
}

impl AsRef<Path> for TestFile {
    fn as_ref(&self) -> &Path {
        self
    }
}

impl AsRef<std::ffi::OsStr> for TestFile {
    fn as_ref(&self) -> &std::ffi::OsStr {
        self.path.as_ref()
    }
}

impl fmt::Display for TestFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.directories.redact(&self.path))
    }
}

impl fmt::Debug for TestFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for TestFile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.path)
    }
}

impl Drop for TestFile {
    /// A file of the test directory is moved aside, and the runner moves it back if the case does
    /// not pass: a failing case drops its images before anyone can look at them. A file that cannot
    /// be removed is left to the runner, which removes the whole directory.
    fn drop(&mut self) {
        if !self.is_ours {
            return;
        }
        let aside = self.directories.aside(&self.path);
        let gone = match &aside {
            Some(aside) => std::fs::rename(&self.path, aside),
            None => std::fs::remove_file(&self.path),
        };
        if let Err(error) = gone
            && error.kind() != std::io::ErrorKind::NotFound
            && std::fs::remove_dir(&self.path).is_err()
        {
            tracing::debug!(file = %self, %error, "a test file stays");
        }
        self.directories.0.taken().remove(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    fn directories() -> (tempfile::TempDir, Directories) {
        let temporary = tempfile::tempdir().unwrap();
        let (test, sock) = (
            temporary.path().join("test, \"a\" qcow2"),
            temporary.path().join("s"),
        );
        std::fs::create_dir_all(&test).unwrap();
        std::fs::create_dir_all(&sock).unwrap();
        let directories = Directories::new(&test, &sock).unwrap();
        (temporary, directories)
    }

    /// H41: files in a chosen directory are removed at the end of scope, even if one cannot be
    /// removed.
    #[test]
    fn test_files_are_removed_at_the_end_of_scope_even_when_one_removal_fails() {
        let (_temporary, directories) = directories();
        let (one, two) = (
            directories.file("one").unwrap(),
            directories.socket("two").unwrap(),
        );
        let full = directories.file("full").unwrap();
        let empty = directories.file("empty").unwrap();
        std::fs::create_dir(&empty).unwrap();
        std::fs::write(&one, "x").unwrap();
        std::fs::write(&two, "x").unwrap();
        std::fs::create_dir(&full).unwrap();
        std::fs::write(full.join("inside"), "x").unwrap();
        let paths = [one.to_path_buf(), two.to_path_buf(), empty.to_path_buf()];
        // The middle one cannot be removed: it is a directory with something in it.
        drop((one, full, two, empty));
        assert!(paths.iter().all(|path| !path.exists()));
    }

    #[test]
    fn dropped_files_share_a_folder_but_for_those_of_one_name() {
        let (_temporary, directories) = directories();
        for (name, text) in [("a", "old"), ("b", "other"), ("a", "new")] {
            let file = directories.file(name).unwrap();
            std::fs::write(&file, text).unwrap();
        }
        let read = |path: &str| {
            std::fs::read_to_string(directories.test().join(DROPPED).join(path)).unwrap()
        };
        assert_eq!(
            (read("0/a"), read("0/b"), read("1/a")),
            ("old".into(), "other".into(), "new".into())
        );
    }

    /// H41: a file has one owner at a time.
    #[test]
    fn two_of_one_name_are_refused_while_both_would_live() {
        let (_temporary, directories) = directories();
        let first = directories.file("a").unwrap();
        let in_folder = directories.file_in("b", "a").unwrap();
        let socket = directories.socket("a").unwrap();
        for second in [
            directories.file("a"),
            directories.file_in("b", "a"),
            directories.socket("a"),
        ] {
            let error = second.unwrap_err().to_string();
            assert!(
                error.ends_with("in this case already; names must differ"),
                "{error}"
            );
        }
        drop((first, in_folder, socket));
        directories.file("a").unwrap();
    }

    /// H42: sockets are in the socket directory, however deep the test directory is.
    #[test]
    fn sockets_lie_in_the_socket_directory() {
        let deep = format!("/{}", "d".repeat(300));
        let directories = Directories::new(Path::new(&deep), Path::new("/s")).unwrap();
        assert_eq!(directories.socket("nbd").unwrap().as_str(), "/s/nbd");
    }

    /// H31: a socket path is never longer than the kernel allows; the error says why.
    #[test]
    fn a_socket_path_that_is_too_long_is_refused_with_the_reason() {
        let sock = format!("/{}", "s".repeat(100));
        let directories = Directories::new(Path::new("/t"), Path::new(&sock)).unwrap();
        assert_eq!(
            directories.socket("12345").unwrap().as_str().len(),
            LONGEST_SOCKET_PATH
        );
        let error = directories.socket("123456").unwrap_err().to_string();
        assert!(
            error.contains("108 bytes") && error.contains("107"),
            "{error}"
        );
    }

    /// H03: both prefixes are hidden; JSON and the file system get the real path.
    #[test]
    fn paths_print_redacted_and_serialise_as_they_are() {
        let (_temporary, directories) = directories();
        let (image, socket) = (
            directories.file("a.img").unwrap(),
            directories.socket("nbd").unwrap(),
        );
        assert_eq!(format!("{image} {socket:?}"), "TEST_DIR/a.img SOCK_DIR/nbd");
        assert_eq!(serde_json::json!(image), serde_json::json!(image.as_str()));
        assert!(image.as_option().contains("test,, \"a\" qcow2/a.img"));
    }

    #[test]
    fn a_file_may_lie_in_a_folder_but_not_outside_the_test_directory() {
        let (_temporary, directories) = directories();
        let file = directories.file_in("deep/deeper", "a.img").unwrap();
        std::fs::write(&file, "x").unwrap();
        assert_eq!(file.to_string(), "TEST_DIR/deep/deeper/a.img");
        for folder in ["..", "a/../..", "/etc", ""] {
            assert!(directories.file_in(folder, "a.img").is_err(), "{folder}");
        }
    }

    #[test]
    fn directories_that_cannot_work_are_refused_with_a_reason() {
        let sock = Path::new("/s");
        let odd = std::ffi::OsStr::from_bytes(b"/t/\xff");
        assert!(matches!(
            Directories::new(Path::new(odd), sock),
            Err(PathError::NotUtf8(_))
        ));
        assert!(matches!(
            Directories::new(Path::new("/a\nb"), sock),
            Err(PathError::Control(_))
        ));
        assert!(matches!(
            Directories::new(Path::new("t"), sock),
            Err(PathError::Relative(_))
        ));
        let directories = Directories::new(Path::new("/t"), sock).unwrap();
        for name in ["", "..", "a/b", "."] {
            assert!(
                matches!(directories.file(name), Err(PathError::NotAName(_))),
                "{name}"
            );
        }
    }
}
