//! Run directories: one per run, locked while it lives. Those of dead runs are cleaned up by later
//! runs.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

use super::error::{RunError, io as io_error};
use super::mounts;

/// How many finished runs with failed instances are kept.
const KEPT_RUNS: usize = 10;

/// The prefix of run directories; the time in milliseconds follows.
const RUN: &str = "run-";
/// The prefix of socket directories.
const SOCKETS_OF_RUN: &str = "iot-";

/// The file that marks a run directory: the user may have other things in the scratch folder.
const LOCK: &str = "iotests.lock";
const SOCKETS: &str = "sockets";
const FINISHED: &str = "finished";

/// The directory of a running run. Supervisors share its lock, so that it is free only when no
/// process of the run is left.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    sockets: PathBuf,
    _lock: Flock<File>,
}

/// The directories of one attempt at one instance.
#[derive(Debug, Clone)]
pub(crate) struct InstanceDir {
    /// For specs, standard output and error.
    pub(crate) path: PathBuf,
    /// The case's working directory.
    pub(crate) test: PathBuf,
    /// The same directory by a path that is harmless in an option, a URI or a log line.
    pub(crate) given: PathBuf,
    /// A short path for sockets.
    pub(crate) sockets: PathBuf,
}

impl RunDir {
    /// Cleans up after dead runs, then creates a directory for this one.
    pub(crate) fn create(scratch: &Path) -> Result<Self, RunError> {
        fs::create_dir_all(scratch).map_err(io_error("create the scratch folder", scratch))?;
        // Until it is locked, a new directory looks dead, so this lock is held while creating and
        // cleaning. It is per user: runs clean up only after their own user, and nobody may write
        // to another user's file in a folder like /tmp.
        let guard_path = scratch.join(format!(".iotests-{}.lock", geteuid()));
        let guard =
            open_lock(&guard_path).map_err(io_error("write to the scratch folder", &guard_path))?;
        let _guard = Flock::lock(guard, FlockArg::LockExclusive)
            .map_err(|(_, error)| io_error("lock the scratch folder", scratch)(error.into()))?;
        clean_dead(scratch);

        let started = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis();
        // Unique, because two runs can start in the same millisecond, and even in the same process.
        let path = tempfile::Builder::new()
            .prefix(&format!("{RUN}{started}-"))
            .tempdir_in(scratch)
            .map_err(io_error("create a run directory in", scratch))?
            .keep();
        let lock_path = path.join(LOCK);
        open_lock(&lock_path).map_err(io_error("create the lock", &lock_path))?;
        let lock = hold(&path).map_err(io_error("lock", &lock_path))?;
        let sockets = tempfile::Builder::new()
            .prefix(SOCKETS_OF_RUN)
            .tempdir_in(short_temp_dir())
            .map_err(|error| {
                // Not the library's error: it names a file that was never created.
                let plain = fs::metadata(short_temp_dir()).err();
                let plain = plain.unwrap_or_else(|| error.kind().into());
                let doing = match short_temp_dir() == std::env::temp_dir() {
                    true => "create a folder for sockets in the temporary folder (TMPDIR)",
                    false => "create a folder for sockets in",
                };
                io_error(doing, short_temp_dir())(plain)
            })?
            .keep();
        let note = path.join(SOCKETS);
        fs::write(&note, sockets.as_os_str().as_encoded_bytes())
            .map_err(io_error("write", &note))?;
        Ok(Self {
            path,
            sockets,
            _lock: lock,
        })
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Creates the directories of an instance; `number` is unique in the run. An upstream script
    /// gets a path without any character that it may stumble over.
    pub(crate) fn instance(
        &self,
        number: usize,
        name: &str,
        is_script: bool,
    ) -> Result<InstanceDir, RunError> {
        let path = self.path.join(format!("{number}-{}", file_name(name)));
        let mut directories = InstanceDir {
            test: path.join("test"),
            given: path.join("test"),
            path,
            sockets: self.sockets.join(number.to_string()),
        };
        let is_usable =
            is_harmless(&directories.test, LONGEST) && (!is_script || is_plain(&directories.test));
        if !is_usable {
            directories.given = self.sockets.join(format!("{number}-test"));
            std::os::unix::fs::symlink(&directories.test, &directories.given)
                .map_err(io_error("create the link", &directories.given))?;
        }
        for folder in [&directories.path, &directories.test, &directories.sockets] {
            fs::create_dir(folder).map_err(io_error("create the directory", folder))?;
        }
        Ok(directories)
    }

    /// Ends the run: removes the directory, unless it has kept instances; then it stays until newer
    /// runs displace it.
    pub(crate) fn finish(self) {
        // Errors are ignored: the next run tries again.
        let _ = remove_tree(&self.sockets);
        let is_instance = |entry: fs::DirEntry| entry.path().is_dir();
        let mut entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        if entries.any(is_instance) {
            let _ = fs::write(self.path.join(FINISHED), "");
        } else {
            let _ = remove_tree(&self.path);
        }
    }
}

impl InstanceDir {
    /// Removes the sockets and, unless `keep`, everything else.
    pub(crate) fn remove(&self, keep: bool) {
        let _ = remove_tree(&self.sockets);
        if self.given != self.test {
            let _ = fs::remove_file(&self.given);
        }
        if keep {
            // The user should see plain files, and be able to remove them.
            let _ = mounts::detach_below(&self.path);
        } else {
            let _ = remove_tree(&self.path);
        }
    }
}

/// Shares the lock of a run that is alive: while anybody has it, nobody cleans up after the run.
pub(crate) fn hold(run: &Path) -> io::Result<Flock<File>> {
    Flock::lock(File::open(run.join(LOCK))?, FlockArg::LockSharedNonblock)
        .map_err(|(_, error)| error.into())
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).open(path)
}

/// The temporary folder for sockets. Their paths are limited to 107 bytes, so a long TMPDIR is no
/// use. Neither is one with special characters of URIs: QEMU 10.0 decodes `socket=` in a URI twice.
fn short_temp_dir() -> PathBuf {
    let folder = std::env::temp_dir();
    match is_harmless(&folder, 40) {
        true => folder,
        false => PathBuf::from("/tmp"),
    }
}

/// The longest path of a test directory: QEMU limits file names to 1023 bytes, and some contain the
/// path three times.
const LONGEST: usize = 200;

/// Whether a path is harmless wherever a case may have to use it.
fn is_harmless(path: &Path, longest: usize) -> bool {
    let harmful = |c: char| c.is_control() || "%&#?".contains(c);
    path.as_os_str().len() <= longest && path.to_str().is_some_and(|text| !text.contains(harmful))
}

/// Whether all scripts can cope with a path: two upstream scripts skip themselves if there is a dot
/// or space in it.
fn is_plain(path: &Path) -> bool {
    let text = path.to_str();
    text.is_some_and(|text| text.chars().all(|c| c == '/' || is_plain_in_name(c)))
}

fn is_plain_in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_-".contains(c)
}

/// A readable file name for an instance, without any character that a script may stumble over.
fn file_name(name: &str) -> String {
    let mut text: String =
        name.chars().map(|c| if is_plain_in_name(c) { c } else { '-' }).collect();
    // Long names are cut at the front, since the end is more specific.
    let excess = text.len().saturating_sub(80);
    text.drain(..excess);
    text
}

/// Removes what dead runs left, and the oldest kept directories of finished runs.
fn clean_dead(scratch: &Path) {
    let mut finished = Vec::new();
    for entry in fs::read_dir(scratch).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_ours =
            entry.metadata().is_ok_and(|data| data.is_dir() && data.uid() == geteuid().as_raw());
        if !is_ours || !is_name_of_run(&entry.file_name()) {
            continue;
        }
        let lock = match OpenOptions::new().write(true).open(path.join(LOCK)) {
            Ok(lock) => lock,
            Err(error) => {
                if error.kind() == io::ErrorKind::NotFound {
                    // A run that died before creating its lock left an empty directory. If it is
                    // not empty, it is not ours, and this fails.
                    let _ = fs::remove_dir(&path);
                }
                continue;
            }
        };
        if Flock::lock(lock, FlockArg::LockExclusiveNonblock).is_err() {
            continue;
        }
        if let Some(sockets) = sockets_of(&path) {
            let _ = remove_tree(&sockets);
        }
        if path.join(FINISHED).exists() {
            finished.push(path);
        } else {
            let _ = remove_tree(&path);
        }
    }
    // Names start with the time.
    finished.sort();
    let excess = finished.len().saturating_sub(KEPT_RUNS);
    for path in &finished[..excess] {
        let _ = remove_tree(path);
    }
}

/// Whether this is a name as given by [`RunDir::create`].
fn is_name_of_run(name: &OsStr) -> bool {
    let parts = name.to_str().and_then(|name| name.strip_prefix(RUN)?.split_once('-'));
    parts
        .is_some_and(|(time, _)| !time.is_empty() && time.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The socket directory that a run noted; `None` if the note names anything else.
fn sockets_of(run: &Path) -> Option<PathBuf> {
    let sockets = PathBuf::from(fs::read_to_string(run.join(SOCKETS)).ok()?);
    let name = sockets.file_name()?.to_str()?;
    name.starts_with(SOCKETS_OF_RUN).then_some(sockets)
}

/// Removes a folder, even if a case made parts of it read-only or left something mounted.
fn remove_tree(path: &Path) -> io::Result<()> {
    mounts::detach_below(path)?;
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            make_writable(path);
            fs::remove_dir_all(path)
        }
        result => result,
    }
}

fn make_writable(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_writable(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_run_is_removed_with_its_sockets_and_a_living_one_is_not() {
        let scratch = tempfile::tempdir().unwrap();
        let alive = RunDir::create(scratch.path()).unwrap();
        let dead = scratch.path().join("run-1-1");
        let sockets = scratch.path().join("iot-of-the-dead");
        fs::create_dir_all(dead.join("1-case/test")).unwrap();
        fs::create_dir(&sockets).unwrap();
        fs::write(dead.join(LOCK), "").unwrap();
        fs::write(dead.join(SOCKETS), sockets.as_os_str().as_encoded_bytes()).unwrap();
        let next = RunDir::create(scratch.path()).unwrap();
        assert!(!dead.exists() && !sockets.exists());
        assert!(alive.path().exists() && next.path().exists() && alive.path() != next.path());
        alive.finish();
        next.finish();
    }

    #[test]
    fn a_run_without_its_runner_is_alive_while_a_supervisor_holds_its_lock() {
        let scratch = tempfile::tempdir().unwrap();
        let run = RunDir::create(scratch.path()).unwrap();
        let path = run.path().to_owned();
        let supervisor = hold(&path).unwrap();
        drop(run);
        RunDir::create(scratch.path()).unwrap().finish();
        assert!(path.exists());
        drop(supervisor);
        RunDir::create(scratch.path()).unwrap().finish();
        assert!(!path.exists());
        assert_eq!(hold(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn folders_that_no_run_created_are_left_alone_whatever_their_names() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        // The user's own folders, some with names similar to ours.
        for folder in ["run-results", "run-", "run-2024-06", "runs"] {
            fs::create_dir(path(folder)).unwrap();
            fs::write(path(folder).join("data"), "precious").unwrap();
        }
        fs::create_dir(path("run-results/lock")).unwrap();
        // A run that died at its very start.
        fs::create_dir(path("run-17-x")).unwrap();
        // A dead run whose note names a folder that no run creates.
        fs::create_dir(path("run-18-x")).unwrap();
        fs::write(path("run-18-x").join(LOCK), "").unwrap();
        let other = path("runs").display().to_string();
        fs::write(path("run-18-x").join(SOCKETS), other).unwrap();
        RunDir::create(scratch.path()).unwrap().finish();
        for folder in ["run-results", "run-", "run-2024-06", "runs"] {
            assert!(path(folder).join("data").exists(), "{folder}");
        }
        assert!(!path("run-17-x").exists() && !path("run-18-x").exists());
    }

    #[test]
    fn only_the_newest_finished_runs_are_kept() {
        let scratch = tempfile::tempdir().unwrap();
        for number in 100..100 + KEPT_RUNS + 2 {
            let path = scratch.path().join(format!("run-{number}-1"));
            fs::create_dir(&path).unwrap();
            fs::write(path.join(LOCK), "").unwrap();
            fs::write(path.join(FINISHED), "").unwrap();
        }
        RunDir::create(scratch.path()).unwrap().finish();
        let left = fs::read_dir(scratch.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().is_dir())
            .count();
        assert_eq!(left, KEPT_RUNS);
        assert!(!scratch.path().join("run-100-1").exists());
    }

    #[test]
    fn a_finished_run_removes_its_sockets_and_keeps_kept_instances() {
        let scratch = tempfile::tempdir().unwrap();
        let run = RunDir::create(scratch.path()).unwrap();
        let instance = run.instance(1, "a::b/c@qcow2", false).unwrap();
        assert!(instance.path.ends_with("1-a--b-c-qcow2"), "{instance:?}");
        assert!(instance.sockets.as_os_str().len() < 60, "{instance:?}");
        instance.remove(true);
        let (path, sockets) = (run.path.clone(), run.sockets.clone());
        run.finish();
        assert!(path.join("1-a--b-c-qcow2/test").exists() && !sockets.exists());
    }

    #[test]
    fn folder_names_have_only_plain_characters() {
        let scratch = tempfile::tempdir().unwrap();
        let mut places = vec![(scratch.path().to_owned(), "a::b/c=1,d.e@raw.nbd.none#2")];
        places.push((scratch.path().join("100%"), "a@raw"));
        for (place, name) in places {
            let run = RunDir::create(&place).unwrap();
            let instance = run.instance(1, name, false).unwrap();
            for path in [&instance.given, &instance.sockets] {
                let own = path.strip_prefix(scratch.path());
                let own = own.or_else(|_| path.strip_prefix(short_temp_dir())).unwrap();
                assert!(is_plain(own), "{own:?}");
            }
            run.finish();
        }
    }

    #[test]
    fn a_case_gets_a_harmless_path_even_in_an_odd_folder() {
        let scratch = tempfile::tempdir().unwrap();
        let long = "d".repeat(250);
        for name in ["a\nb", "a%20b", "a&b", "a#b", "a?b", long.as_str()] {
            let odd = scratch.path().join(name);
            let run = RunDir::create(&odd).unwrap();
            let instance = run.instance(1, "a@raw", false).unwrap();
            assert!(is_harmless(&instance.given, 60), "{:?}", instance.given);
            fs::write(instance.given.join("image"), "x").unwrap();
            assert!(instance.test.join("image").exists());
            instance.remove(true);
            assert!(!instance.given.exists() && instance.test.join("image").exists());
            run.finish();
        }
        // Spaces, commas and quotes are passed on, to find programs that cannot cope with them.
        let odd = scratch.path().join("a, \"b\" 'c'");
        let run = RunDir::create(&odd).unwrap();
        let instance = run.instance(1, "a@raw", false).unwrap();
        assert_eq!(instance.given, instance.test);
        run.finish();
    }

    #[test]
    fn a_script_gets_a_plain_path_even_in_an_odd_folder() {
        let scratch = tempfile::tempdir_in("/tmp").unwrap();
        for name in [".cache", "a b", "a,b"] {
            let odd = scratch.path().join(name);
            let run = RunDir::create(&odd).unwrap();
            let instance = run.instance(1, "a@raw", true).unwrap();
            assert!(is_plain(&instance.given), "{:?}", instance.given);
            fs::write(instance.given.join("image"), "x").unwrap();
            instance.remove(true);
            assert!(instance.test.join("image").exists());
            run.finish();
        }
    }

    #[test]
    fn a_read_only_folder_is_removed() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("a");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("file"), "").unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o500)).unwrap();
        remove_tree(&folder).unwrap();
        assert!(!folder.exists());
    }
}
