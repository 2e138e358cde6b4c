//! Forks the case off the supervisor, without exec: executing the program again would make an empty
//! case take a fifth longer, mostly because of page faults.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe2, setpgid};

use super::protocol::SuperviseSpec;
use crate::runner::case_process;

/// Starts the case in its own process group, with its output redirected to files and its events
/// written to what is standard output here. If it stops at each step, a byte written to the second
/// value makes it continue.
pub(super) fn start(spec: &SuperviseSpec) -> io::Result<(Pid, Option<OwnedFd>)> {
    let files = (
        File::open("/dev/null")?,
        File::create(&spec.stdout)?,
        File::create(&spec.stderr)?,
    );
    // Close-on-exec, so that no child of the case holds it open.
    let events = io::stdout().as_fd().try_clone_to_owned()?;
    let (stopped, go) = match spec.step {
        true => {
            let (stopped, go) = pipe2(OFlag::O_CLOEXEC)?;
            (Some(stopped), Some(go))
        }
        false => (None, None),
    };
    let supervisor = std::process::id();
    // SAFETY: a supervisor has one thread, so no lock can be held by another in the child.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            // Parent and child both do this, because either may be first. The child may have ended.
            let _ = setpgid(child, child);
            Ok((child, go))
        }
        ForkResult::Child => {
            let redirected = setpgid(Pid::from_raw(0), Pid::from_raw(0))
                .and_then(|()| dup2_stdin(&files.0))
                .and_then(|()| dup2_stdout(&files.1))
                .and_then(|()| dup2_stderr(&files.2));
            drop((files, go));
            // Set only now, not for the supervisor's exec: MALLOC_PERTURB_ would affect the case
            // process itself and double its time.
            for (name, value) in &spec.env {
                // SAFETY: this process has one thread, like its supervisor.
                unsafe { std::env::set_var(name, value) };
            }
            let status = match redirected {
                Ok(()) => case_process::main(spec.case.clone(), supervisor, events, stopped),
                Err(_) => 1,
            };
            std::process::exit(status)
        }
    }
}
