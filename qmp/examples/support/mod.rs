//! Starts a QEMU program whose monitor is one end of a socket pair: no path, and no race.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

/// A child that is killed and reaped when it is dropped.
pub(crate) struct Qemu(pub(crate) Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        // It has exited already if all went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts `program` with its monitor on descriptor 0 and `stdout` as descriptor 1.
pub(crate) fn start(
    program: &str,
    args: &[&str],
    stdout: Stdio,
) -> std::io::Result<(Qemu, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(program);
    if program.contains("system") {
        command.args(["-machine", "none", "-nodefaults", "-display", "none"]);
        command.args([
            "-chardev",
            "socket,id=monitor,fd=0",
            "-mon",
            "monitor,mode=control",
        ]);
    } else {
        command.args([
            "--chardev",
            "socket,id=monitor,fd=0",
            "--monitor",
            "chardev=monitor",
        ]);
    }
    let child = command.args(args).stdin(OwnedFd::from(theirs)).stdout(stdout).spawn()?;
    Ok((Qemu(child), ours))
}
