//! `iotests env CASE -- COMMAND`: runs a command in a case's directory, with its programs and
//! variables.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use nix::sys::prctl::set_child_subreaper;

use super::error::{RunError, io as io_error};
use super::instance::{InstanceJob, Runner};
use super::signals::Outlive;
use super::supervise::{Process, kill_children_of_self};
use super::wrap;
use crate::script;
use crate::wire::CaseSpec;

impl Runner {
    /// Runs a command, or else a shell, in the environment of an instance. It is neither confined
    /// nor watched. Processes it leaves behind are killed, because its directory is removed.
    pub(crate) fn surround(
        &self,
        job: &InstanceJob,
        command: &[OsString],
        outlive: Outlive,
    ) -> Result<ExitStatus, RunError> {
        let directories = self.directories(job)?;
        let spec = self.spec(job, &directories.given, &directories.sockets)?;
        let shell = || env::var_os("SHELL").unwrap_or_else(|| "sh".into());
        let (program, words) = match command.split_first() {
            Some((program, words)) => (program.clone(), words),
            None => (shell(), &[][..]),
        };
        let mut command = Command::new(&program);
        command.args(words).current_dir(&directories.test).envs(self.env(&spec));
        let variables = match &spec.script {
            Some(script) => script::variables(&spec, script),
            None => variables(&spec)?,
        };
        for (name, value) in variables {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        // This process inherits orphans.
        set_child_subreaper(true).map_err(|error| RunError::System {
            doing: "become a sub-reaper",
            source: error.into(),
        })?;
        let status = outlive.run(command);
        let left = end_all();
        if left > 0 {
            let what = match left {
                1 => "a process, which was".to_owned(),
                left => format!("{left} processes, which were"),
            };
            // Errors are ignored: if nobody reads it, there is nobody to tell.
            let _ = writeln!(io::stderr(), "note: the command left {what} killed");
        }
        directories.remove(spec.keep);
        if spec.keep {
            eprintln!("kept in: {}", directories.path.display());
        }
        status.map_err(io_error("run", PathBuf::from(program)))
    }
}

/// Kills everything below this process, and returns how many processes were alive.
fn end_all() -> usize {
    let below = || Process::descendants(std::process::id());
    let left = below().iter().filter(|one| !one.is_zombie()).count();
    // If a process forks while it is killed, the next turn finds its child.
    while !below().is_empty() {
        kill_children_of_self(|_| false);
    }
    left
}

/// The variables that QEMU's developers know from `check`, and PATH with the set's programs first.
fn variables(spec: &CaseSpec) -> Result<Vec<(&'static str, Option<OsString>)>, RunError> {
    let mut all: Vec<(&'static str, Option<OsString>)> = vec![
        ("IMGFMT", Some(spec.format.name().into())),
        ("IMGPROTO", Some(spec.protocol.name().into())),
        ("CACHEMODE", Some(spec.cache.name().into())),
        ("AIOMODE", Some(spec.aio.name().into())),
        ("TEST_DIR", Some(spec.test_dir.clone().into())),
        ("SOCK_DIR", Some(spec.sock_dir.clone().into())),
    ];
    if !spec.imgopts.is_empty() {
        all.push(("IMGOPTS", Some(spec.imgopts.join(",").into())));
    }
    let mut folders: BTreeSet<PathBuf> = BTreeSet::new();
    for (kind, tool) in &spec.tools {
        let program = match tool.wrapper.is_empty() {
            true => tool.path.clone(),
            false => wrap::as_program(tool, &spec.evidence_dir().join("bin"))?,
        };
        folders.extend(program.parent().map(Path::to_owned));
        all.push((kind.program_variable(), Some(program.into())));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(folders.into_iter().chain(env::split_paths(&path)));
    all.push(("PATH", path.ok()));
    Ok(all)
}
