//! Starting the case as a copy of the supervisor: executing the same program once more would cost as much again as a fifth of what an
//! empty case takes, most of it page faults.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe2, setpgid};

use super::protocol::SuperviseSpec;
use crate::runner::case_process;
use crate::wire::EVENT_FD;

/// Starts the case, in a process group of its own, with its output in its files. Where it is to stop at each step, a byte to the second
/// value lets it go on.
pub(super) fn start(spec: &SuperviseSpec) -> io::Result<(Pid, Option<OwnedFd>)> {
    let files = (
        File::open("/dev/null")?,
        File::create(&spec.stdout)?,
        File::create(&spec.stderr)?,
    );
    let (stopped, go) = match spec.step {
        true => {
            let (stopped, go) = pipe2(OFlag::O_CLOEXEC)?;
            (Some(stopped), Some(go))
        }
        false => (None, None),
    };
    let supervisor = std::process::id();
    // SAFETY: a supervisor has one thread, so that its copy finds no lock held by another one.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            // Both do it: whoever is first. It may also have ended already.
            let _ = setpgid(child, child);
            // The runner sees the end of the case's events when nobody holds this pipe any more.
            let _ = nix::unistd::close(EVENT_FD);
            Ok((child, go))
        }
        ForkResult::Child => {
            let redirected = setpgid(Pid::from_raw(0), Pid::from_raw(0))
                .and_then(|()| dup2_stdin(&files.0))
                .and_then(|()| dup2_stdout(&files.1))
                .and_then(|()| dup2_stderr(&files.2));
            drop((files, go));
            // Here and not where the supervisor is executed: what makes the C library overwrite the memory of QEMU when it is freed would
            // hold for the case as well, and take half of its time.
            for (name, value) in &spec.env {
                // SAFETY: this process has one thread, as its supervisor.
                unsafe { std::env::set_var(name, value) };
            }
            let status = match redirected {
                Ok(()) => case_process::main(&spec.case_spec, supervisor, stopped),
                Err(_) => 1,
            };
            std::process::exit(status)
        }
    }
}
