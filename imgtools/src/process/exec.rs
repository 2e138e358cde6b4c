//! Starting the process: what must be done between fork and exec. The only unsafe code of the crate.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process;

use nix::sys::signal::Signal;

/// The file descriptors that a child gets beside its three standard ones, each with its number there.
#[derive(Debug, Default)]
pub(super) struct FdMap {
    moves: Vec<(OwnedFd, RawFd)>,
    /// Occupies the numbers until the child is started, see [`FdMap::prepare`].
    placeholders: Vec<OwnedFd>,
}

impl FdMap {
    pub(super) fn push(&mut self, fd: OwnedFd, number: RawFd) {
        self.moves.push((fd, number));
    }

    /// Makes the moves in the child free of conflicts, whatever the numbers.
    ///
    /// The sources go above all targets, so that no move overwrites the source of another. The
    /// targets are occupied, so that the pipe on which [`process::Command`] reports a failed exec,
    /// which is opened later, cannot get such a number and be overwritten in the child.
    fn prepare(&mut self) -> io::Result<()> {
        let Some(above) = self.moves.iter().map(|(_, number)| number + 1).max() else {
            return Ok(());
        };
        for (fd, _) in &mut self.moves {
            *fd = rustix::io::fcntl_dupfd_cloexec(&*fd, above)?;
        }
        for (fd, number) in &self.moves {
            let placeholder = rustix::io::fcntl_dupfd_cloexec(fd, *number)?;
            // Another number means that this one is in use: occupied as well.
            if placeholder.as_raw_fd() == *number {
                self.placeholders.push(placeholder);
            }
        }
        Ok(())
    }
}

/// Starts the child with these descriptors. With `die_with_thread` the kernel kills it when the
/// calling *thread* ends, so the caller must be the thread that waits for it.
pub(super) fn spawn(
    command: &mut process::Command,
    mut fds: FdMap,
    die_with_thread: bool,
) -> io::Result<process::Child> {
    fds.prepare()?;
    let parent = nix::unistd::getpid();
    let moves: Vec<(RawFd, RawFd)> = fds
        .moves
        .iter()
        .map(|(fd, number)| (fd.as_raw_fd(), *number))
        .collect();
    let in_child = move || {
        if die_with_thread {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // Had the parent died before the line above, no signal would ever come.
            if nix::unistd::getppid() != parent {
                return Err(nix::errno::Errno::ESRCH.into());
            }
        }
        close_all_on_exec();
        for &(source, target) in &moves {
            // SAFETY: `source` is open: `fds` outlives the fork. `target` is not owned by
            // anything that runs in the child before exec. ManuallyDrop keeps both open, and
            // the copy has no close-on-exec flag.
            let (source, mut target) = unsafe {
                (
                    ManuallyDrop::new(OwnedFd::from_raw_fd(source)),
                    ManuallyDrop::new(OwnedFd::from_raw_fd(target)),
                )
            };
            rustix::io::dup2(&*source, &mut target)?;
        }
        Ok(())
    };
    // SAFETY: the closure runs in the child between fork and exec. It makes system calls (prctl,
    // getppid, close_range, dup2) only; it neither allocates nor takes locks.
    unsafe { command.pre_exec(in_child) };
    let child = command.spawn();
    drop(fds);
    child
}

/// Also what we were started with ourselves, or a careless library opened, goes no further: a stray
/// descriptor keeps image locks and pipes alive.
fn close_all_on_exec() {
    // SAFETY: sets a flag on descriptors and touches no memory. Linux before 5.11 does not know it
    // and refuses; then all is as with any other way to start a process.
    unsafe {
        nix::libc::syscall(
            nix::libc::SYS_close_range,
            3u32,
            u32::MAX,
            nix::libc::CLOSE_RANGE_CLOEXEC,
        );
    }
}
