//! Files that explain why an attempt did not pass: collected before it is judged, named in its
//! report.
//!
//! An attempt's directory has `test/` with the images as they were, and `evidence/` with the
//! monitor traffic, the output of the machines, the log and its diff from the golden, the
//! diagnosis, and stacks from core dumps.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use imgtools::process::Command;

use super::report::full_text;
use super::rundir::InstanceDir;
use super::supervise::End;
use super::verdict::{Attempt, Evidence};
use crate::author::files::DROPPED;
use crate::wire::CaseSpec;

/// The most disk space an attempt may keep; the biggest files are removed first.
const CAP: u64 = 1 << 30;

/// The most files named in a report.
const NAMED: usize = 60;

/// How long the debugger may take to read a core, before scaling.
const DEBUGGER: Duration = Duration::from_secs(60);

/// Collects what the case left, before anything is removed: puts dropped files back, and reads
/// cores.
pub(crate) fn take(directories: &InstanceDir, spec: &CaseSpec, attempt: &mut Attempt) {
    put_back(&directories.test);
    let folder = directories.path.join("evidence");
    // If it cannot be moved, it is still there in its old place.
    let _ = fs::rename(directories.test.join(EVIDENCE), &folder);
    for death in &mut attempt.deaths {
        let core = death.core.clone().filter(|core| core.is_file());
        let core = core.or_else(|| core_in(&directories.test));
        if let Some(core) = core {
            let time = DEBUGGER.mul_f64(spec.scale);
            death.backtrace = stacks(Path::new(&death.program), &core, time);
            death.core = Some(core);
        }
    }
    let own = own_stacks(directories, spec, attempt);
    if !own.is_empty() && fs::create_dir_all(&folder).is_ok() {
        let _ = fs::write(folder.join("backtrace.case"), own);
    }
}

/// The stacks of the case process itself, if it dumped core.
fn own_stacks(directories: &InstanceDir, spec: &CaseSpec, attempt: &Attempt) -> String {
    let crashed = matches!(attempt.end, Some(End::Signaled { core: true, .. }));
    let core = crashed.then(|| core_in(&directories.test)).flatten();
    match (core, std::env::current_exe()) {
        (Some(core), Ok(program)) => stacks(&program, &core, DEBUGGER.mul_f64(spec.scale)),
        _ => String::new(),
    }
}

/// Writes the report's parts to files in full, enforces the cap, and lists the files in the
/// attempt.
pub(crate) fn keep(directories: &InstanceDir, attempt: &mut Attempt) {
    let folder = directories.path.join("evidence");
    let write = |name: &str, text: &str| {
        if !text.is_empty() {
            let _ = fs::write(folder.join(name), text);
        }
    };
    let _ = fs::create_dir_all(&folder);
    if let Some(hang) = &attempt.hang {
        let mut text = format!("{}\n{}\n", hang.headline, hang.cause);
        for machine in &hang.machines {
            text += &format!(
                "\n{} {}\n$ {}\n",
                machine.name, machine.status, machine.command_line
            );
            for finding in &machine.diagnosis {
                text += &format!(
                    "\n{} of {}:\n{}\n",
                    finding.title, machine.name, finding.text
                );
            }
        }
        for finding in &hang.evidence {
            text += &format!("\n{}:\n{}\n", finding.title, finding.text);
        }
        write("diagnosis", &text);
    }
    for death in &attempt.deaths {
        write("backtrace", &death.backtrace);
    }
    if let Some(failure) = &attempt.failure {
        write("log.diff", failure.diff.as_deref().unwrap_or_default());
        if failure.diff.is_some() {
            write("log.found", failure.found.as_deref().unwrap_or_default());
        }
    }
    write("report", &full_text(attempt));
    let files = below_cap(files(&directories.path), CAP);
    attempt.kept = Some(directories.path.clone());
    attempt.evidence = files
        .into_iter()
        .take(NAMED)
        .filter_map(|file| {
            let path = file.path.strip_prefix(&directories.path).ok()?;
            // The specs of its processes are of no interest.
            if path.extension().is_some_and(|end| end == "json") && path.components().count() == 1 {
                return None;
            }
            Some(Evidence {
                path: path.display().to_string(),
                bytes: file.bytes,
            })
        })
        .collect();
}

/// The folder in the case's directory where the case process puts its evidence.
const EVIDENCE: &str = ".evidence";

/// Moves the files that the case dropped back to their places, newest first. An older file whose
/// name is taken stays where it is.
fn put_back(test: &Path) {
    let dropped = test.join(DROPPED);
    let mut folders: Vec<PathBuf> = fs::read_dir(&dropped)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    let number = |folder: &PathBuf| {
        let name = folder.file_name()?.to_str()?;
        name.parse::<u64>().ok()
    };
    folders.sort_by_key(|folder| std::cmp::Reverse(number(folder)));
    for folder in folders {
        for file in files(&folder) {
            let Ok(path) = file.path.strip_prefix(&folder) else {
                continue;
            };
            let back = test.join(path);
            if back.symlink_metadata().is_err()
                && let Some(parent) = back.parent()
                && fs::create_dir_all(parent).is_ok()
            {
                let _ = fs::rename(&file.path, &back);
            }
        }
        // Removes it only if it is empty.
        let _ = fs::remove_dir(folder);
    }
    let _ = fs::remove_dir(dropped);
}

/// The newest core in a folder, named as the kernel does by default.
fn core_in(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    entries
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name == "core" || name.starts_with("core.")
        })
        .max_by_key(|entry| entry.metadata().and_then(|data| data.modified()).ok())
        .map(|entry| entry.path())
}

/// The stacks of all threads in a core, starting with the one that died. Empty if there is no
/// debugger or it cannot read the core.
fn stacks(program: &Path, core: &Path, time: Duration) -> String {
    let gdb = Command::new("gdb")
        .args(["-nx", "-batch", "-iex", "set debuginfod enabled off"])
        .args([
            "-ex",
            "set pagination off",
            "-ex",
            "thread apply all -ascending backtrace 24",
        ])
        .arg(program)
        .arg(core);
    let Ok(output) = gdb.deadline(time).run_blocking() else {
        return String::new();
    };
    let text = output.stdout_text();
    // The output before this is about symbols and the threads' names.
    match text.find("\nThread ") {
        Some(start) => text[start..].trim().to_owned(),
        None => String::new(),
    }
}

struct Kept {
    path: PathBuf,
    /// Its size.
    bytes: u64,
    /// The disk space it takes, which is less if it has holes.
    allocated: u64,
}

/// The files below a folder, in the order of their names.
fn files(folder: &Path) -> Vec<Kept> {
    let mut found = Vec::new();
    let mut entries: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let Ok(data) = entry.metadata() else { continue };
        if data.is_dir() {
            found.extend(files(&entry.path()));
        } else if data.is_file() {
            found.push(Kept {
                path: entry.path(),
                bytes: data.len(),
                allocated: data.blocks() * 512,
            });
        }
    }
    found
}

/// Removes the biggest files until the rest fits into the cap.
fn below_cap(mut files: Vec<Kept>, cap: u64) -> Vec<Kept> {
    let mut total: u64 = files.iter().map(|file| file.allocated).sum();
    while total > cap {
        let biggest = (0..files.len()).max_by_key(|index| files[*index].allocated);
        let Some(file) = biggest.map(|index| files.remove(index)) else {
            break;
        };
        total -= file.allocated;
        let note = format!("{} bytes, too large on disk to be kept\n", file.bytes);
        let name = file.path.file_name().unwrap_or_default().to_string_lossy();
        let _ = fs::remove_file(&file.path);
        let _ = fs::write(file.path.with_file_name(format!("{name}.left-out")), note);
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_files_are_put_back_and_the_newest_of_a_name_wins() {
        let test = tempfile::tempdir().unwrap();
        let path = |name: &str| test.path().join(name);
        for (file, text) in [
            (".dropped/1/a", "old"),
            (".dropped/2/a", "new"),
            (".dropped/10/deep/b", "b"),
            (".dropped/11/c", "gone"),
            ("c", "there"),
        ] {
            fs::create_dir_all(path(file).parent().unwrap()).unwrap();
            fs::write(path(file), text).unwrap();
        }
        put_back(test.path());
        let read = |name: &str| fs::read_to_string(path(name)).unwrap();
        assert_eq!(
            (read("a"), read("deep/b"), read("c")),
            ("new".into(), "b".into(), "there".into())
        );
        assert_eq!(read(".dropped/1/a"), "old");
        assert!(!path(".dropped/2").exists());
    }

    #[test]
    fn the_biggest_files_are_removed_beyond_the_cap() {
        let folder = tempfile::tempdir().unwrap();
        for (name, kib) in [("small", 16), ("big", 512), ("middle", 64)] {
            fs::write(folder.path().join(name), vec![1; kib << 10]).unwrap();
        }
        let left = below_cap(files(folder.path()), 128 << 10);
        let names: Vec<_> = left.iter().map(|file| file.path.file_name().unwrap()).collect();
        assert_eq!(names, ["middle", "small"]);
        assert!(!folder.path().join("big").exists());
        assert!(folder.path().join("big.left-out").exists());
    }

    #[test]
    fn a_core_is_found_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(core_in(folder.path()), None);
        fs::write(folder.path().join("corelist"), "").unwrap();
        fs::write(folder.path().join("core.17"), "").unwrap();
        assert_eq!(core_in(folder.path()), Some(folder.path().join("core.17")));
    }
}
