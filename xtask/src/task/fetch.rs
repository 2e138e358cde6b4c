//! A command that runs beside the steps of the gate: it waits for the network while they compute.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Seek, Write};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cargo::{self, XtaskError};

/// A command that is started now and awaited later. Its output is kept until then, so that it does
/// not mix with that of the steps. If dropped before, it is ended.
#[derive(Default)]
pub(super) struct Fetch(RefCell<Option<Running>>);

struct Running {
    command: String,
    child: Child,
    printed: File,
}

impl Fetch {
    /// Starts the command.
    pub(super) fn begin(&self, mut command: Command) -> Result<(), XtaskError> {
        let name = cargo::display(&command);
        let mut start = || {
            let printed = tempfile::tempfile()?;
            let (out, err) = (printed.try_clone()?, printed.try_clone()?);
            command.stdin(Stdio::null()).stdout(out).stderr(err);
            Ok((command.spawn()?, printed))
        };
        let (child, printed) = start().map_err(|source| XtaskError::Start {
            program: name.clone(),
            source,
        })?;
        *self.0.borrow_mut() = Some(Running {
            command: name,
            child,
            printed,
        });
        Ok(())
    }

    /// Waits for the started command and passes on its output; `None` if none was started.
    pub(super) fn end(&self, out: &mut dyn Write) -> Option<Result<(), XtaskError>> {
        let mut running = self.0.borrow_mut().take()?;
        let ended = running.child.wait();
        let copied = running.printed.rewind().and_then(|()| {
            std::io::copy(&mut running.printed, out)?;
            out.flush()
        });
        let start = |source| XtaskError::Start {
            program: running.command.clone(),
            source,
        };
        Some(match (ended, copied) {
            (Err(source), _) | (Ok(_), Err(source)) => Err(start(source)),
            (Ok(status), Ok(())) if status.success() => Ok(()),
            (Ok(status), Ok(())) => Err(XtaskError::Failed {
                command: running.command.clone(),
                status,
            }),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its process id may be reused as soon as it has been waited for.
        if let Ok(None) = self.child.try_wait() {
            // SIGTERM, because it may have to end its own children.
            let _ = kill(
                Pid::from_raw(self.child.id().cast_signed()),
                Signal::SIGTERM,
            );
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_command_beside_the_steps_is_waited_for_and_judged() {
        let fetch = Fetch::default();
        let mut out = Vec::new();
        assert!(fetch.end(&mut out).is_none());
        fetch.begin(shell("echo here; echo there >&2")).unwrap();
        fetch.end(&mut out).unwrap().unwrap();
        assert_eq!(out, b"here\nthere\n");
        fetch.begin(shell("exit 3")).unwrap();
        let error = fetch.end(&mut out).unwrap().unwrap_err().to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        let error = fetch.begin(Command::new("/nowhere/x")).unwrap_err();
        assert!(matches!(error, XtaskError::Start { .. }), "{error}");
        assert!(fetch.end(&mut out).is_none());
    }

    #[test]
    fn nobody_waits_for_it_and_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let fetch = Fetch::default();
        let mut command = shell("exec cat \"$0\"");
        command.arg(&fifo);
        fetch.begin(command).unwrap();
        let pid = fetch.0.borrow().as_ref().unwrap().child.id();
        drop(fetch);
        let gone = kill(Pid::from_raw(pid.cast_signed()), None);
        assert_eq!(gone, Err(nix::errno::Errno::ESRCH));
    }
}
