//! Finds and detaches mounts below a folder: a killed daemon leaves dead FUSE mounts behind.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use imgtools::process::Command;
use nix::mount::{MntFlags, umount2};

/// The mounts of this process, in the order of mounting; see proc_pid_mountinfo(5).
const MOUNTS: &str = "/proc/self/mountinfo";

/// The field with the mount point.
const MOUNT_POINT: usize = 4;

/// The setuid programs of libfuse 3 and 2, with which users may unmount their own mounts.
const HELPERS: [&str; 2] = ["fusermount3", "fusermount"];

/// How long such a program may take. A lazy unmount does not wait for anything.
const HELPER_DEADLINE: Duration = Duration::from_secs(30);

/// Detaches everything mounted below this folder, so that the folder can be removed without
/// deleting files in mounted file systems.
///
/// # Errors
/// If something stays mounted. The folder must not be removed then.
pub(crate) fn detach_below(folder: &Path) -> io::Result<()> {
    // Only the folder itself is accessed: access to a dead mount below it would fail.
    let Ok(folder) = fs::canonicalize(folder) else {
        // Missing or inaccessible: then nothing of ours is mounted below it.
        return Ok(());
    };
    let points = mounted_below(&folder)?;
    if points.is_empty() {
        // The usual case, which needs no second look.
        return Ok(());
    }
    // In reverse order, since a mount may be on or in an earlier one.
    for point in points.iter().rev() {
        let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
        // The check below finds what is still mounted.
        let _ = umount2(point, flags).is_ok() || HELPERS.iter().any(|it| unmounts(it, point));
    }
    match mounted_below(&folder)?.first() {
        None => Ok(()),
        Some(point) => Err(io::Error::other(format!(
            "{} is still mounted",
            point.display()
        ))),
    }
}

fn mounted_below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read(MOUNTS) {
        Ok(table) => Ok(points_below(folder, &table)),
        // Without /proc there is no way to tell.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The type and mount point of the file system that has this path: `ext4 on /`.
pub(crate) fn file_system(path: &Path) -> Option<String> {
    let table = fs::read(MOUNTS).ok()?;
    file_system_in(&fs::canonicalize(path).ok()?, &table)
}

fn file_system_in(path: &Path, table: &[u8]) -> Option<String> {
    let lines = table.split(|byte| *byte == b'\n').filter_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let point = PathBuf::from(unescaped(fields.get(MOUNT_POINT)?));
        // A dash ends the list of optional fields.
        let dash = fields.iter().position(|field| *field == b"-")?;
        let kind = String::from_utf8_lossy(fields.get(dash + 1)?).into_owned();
        path.starts_with(&point).then_some((point, kind))
    });
    // Of several mounts on one point, the last hides the others; `max_by_key` returns the last.
    let (point, kind) = lines.max_by_key(|(point, _)| point.components().count())?;
    Some(format!("{kind} on {}", point.display()))
}

/// The mount points strictly below this folder.
fn points_below(folder: &Path, table: &[u8]) -> Vec<PathBuf> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(MOUNT_POINT))
        .map(|field| PathBuf::from(unescaped(field)))
        .filter(|point| point != folder && point.starts_with(folder))
        .collect()
}

/// Decodes separators, which the kernel writes as `\ooo` in octal.
fn unescaped(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let code = (first == b'\\')
            .then(|| std::str::from_utf8(after.get(..3)?).ok())
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(bytes)
}

/// Detaches the mount with this program, and returns whether that worked.
fn unmounts(helper: impl AsRef<OsStr>, point: &Path) -> bool {
    Command::new(helper)
        .args(["-u", "-z", "--"])
        .arg(point)
        .deadline(HELPER_DEADLINE)
        .run_blocking()
        .is_ok_and(|output| output.check().is_ok())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn mounts_are_found_strictly_below_a_folder_even_with_escaped_names() {
        let table = b"22 1 8:1 / / rw - ext4 /dev/sda rw\n\
            40 22 0:39 / /runs/run-1 rw - fuse /dev/fuse rw\n\
            41 22 0:40 / /runs/run-1/a\\040b\\134040/m rw shared:7 - fuse /dev/fuse rw\n\
            42 22 0:41 / /runs/run-1/\xff/m rw - fuse /dev/fuse rw\n\
            43 22 0:42 / /runs/run-10/m rw - fuse /dev/fuse rw\n";
        let found = points_below(Path::new("/runs/run-1"), table);
        let odd = OsStr::from_bytes(b"/runs/run-1/\xff/m");
        assert_eq!(found, [Path::new("/runs/run-1/a b\\040/m"), Path::new(odd)]);
    }

    #[test]
    fn a_helper_program_unmounts() {
        let folder = tempfile::tempdir().unwrap();
        let asked = folder.path().join("asked");
        let script = format!("printf '%s\\n' \"$@\" > '{}'", asked.display());
        let helper = folder.path().join("fusermount3");
        // Written by another process: see `tests/it/script.rs`.
        let write = "printf '#!/bin/sh\\n%s\\n' \"$2\" > \"$1\"; chmod 755 \"$1\"";
        let write = Command::new("sh").args(["-c", write, "sh"]).arg(&helper);
        write.arg(script).run_blocking().unwrap().check().unwrap();
        assert!(unmounts(&helper, Path::new("/run/m")));
        assert_eq!(fs::read_to_string(asked).unwrap(), "-u\n-z\n--\n/run/m\n");
        assert!(!unmounts("false", Path::new("/run/m")));
        assert!(!unmounts("no-such-program-anywhere", Path::new("/run/m")));
    }

    #[test]
    fn the_file_system_of_a_path_is_that_of_the_nearest_mount() {
        let table = b"21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
            22 21 0:5 / /tmp rw - tmpfs tmpfs rw\n\
            23 21 0:6 / /tmp/with\\040space rw,nosuid shared:7 master:1 - xfs /dev/sdb rw\n\
            24 21 0:7 / /tmp/with\\040space rw - btrfs /dev/sdc rw\n";
        let on = |path: &str| file_system_in(Path::new(path), table);
        assert_eq!(on("/home/x").as_deref(), Some("ext4 on /"));
        assert_eq!(on("/tmpfile").as_deref(), Some("ext4 on /"));
        assert_eq!(on("/tmp/a/b").as_deref(), Some("tmpfs on /tmp"));
        let spaced = on("/tmp/with space/a");
        assert_eq!(spaced.as_deref(), Some("btrfs on /tmp/with space"));
        assert_eq!(file_system_in(Path::new("/"), b""), None);
    }
}
