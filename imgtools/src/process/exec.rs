//! Starting the process: what must be done between fork and exec. The only unsafe code of the crate.

use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::libc;
use nix::sys::signal::Signal;

/// What the child says if a number that it is to take over is suddenly that of some channel. No system
/// call that it makes, and no exec, fails with this.
const TAKEN: i32 = libc::ENOTUNIQ;

/// How often a child may be started anew because of that. Other threads would have to let go of one of
/// the numbers at the wrong moment each time.
const TRIES: usize = 1000;

/// The file descriptors that a child gets beside its three standard ones, each with its number there.
///
/// [`process::Command`] opens a channel (a pipe or socket) by which the child reports a failed exec.
/// Were that to get a number that the child takes over, the failure would be lost. So the numbers that
/// are free are occupied before; and of those that others use, and may be giving back at this moment,
/// the child looks whether they are still what they were.
#[derive(Debug, Default)]
pub(super) struct FdMap {
    moves: Vec<(OwnedFd, RawFd)>,
    /// Occupies numbers until the child is started.
    placeholders: Vec<OwnedFd>,
}

/// A move in the child, and which channel its target may be.
struct Move {
    source: RawFd,
    target: RawFd,
    known: AtomicU64,
}

impl FdMap {
    pub(super) fn push(&mut self, fd: OwnedFd, number: RawFd) {
        self.moves.push((fd, number));
    }

    /// The moves, free of conflicts: the sources go above all targets, so that no move overwrites the
    /// source of another.
    fn lift(&mut self) -> io::Result<Arc<[Move]>> {
        // The standard streams are channels of our own.
        if self.moves.iter().any(|(_, number)| *number < 3) {
            return Err(nix::errno::Errno::EBADF.into());
        }
        let highest = self.moves.iter().map(|(_, number)| *number).max();
        let above = highest.unwrap_or_default().saturating_add(1);
        for (fd, _) in &mut self.moves {
            *fd = rustix::io::fcntl_dupfd_cloexec(&*fd, above)?;
        }
        let moves = self.moves.iter().map(|(fd, number)| Move {
            source: fd.as_raw_fd(),
            target: *number,
            known: AtomicU64::new(0),
        });
        Ok(moves.collect())
    }

    /// Occupies the targets that are free, and looks what the others are.
    fn occupy(&mut self, moves: &[Move]) -> io::Result<()> {
        for ((fd, number), entry) in self.moves.iter().zip(moves) {
            let placeholder = rustix::io::fcntl_dupfd_cloexec(fd, *number)?;
            // Another number means that this one is in use.
            if placeholder.as_raw_fd() == *number {
                self.placeholders.push(placeholder);
            }
            entry.known.store(channel_at(*number), Ordering::Relaxed);
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
    let moves = fds.lift()?;
    let moves_in_child = Arc::clone(&moves);
    let parent = nix::unistd::getpid();
    let in_child = move || {
        if die_with_thread {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // Had the parent died before the line above, no signal would ever come.
            if nix::unistd::getppid() != parent {
                return Err(nix::errno::Errno::ESRCH.into());
            }
        }
        let is_known = |entry: &Move| {
            let found = channel_at(entry.target);
            found == 0 || found == entry.known.load(Ordering::Relaxed)
        };
        if !moves_in_child.iter().all(is_known) {
            return Err(io::Error::from_raw_os_error(TAKEN));
        }
        close_all_on_exec();
        for entry in &*moves_in_child {
            // SAFETY: `source` is open: `fds` outlives the fork. `target` is not owned by
            // anything that runs in the child before exec. ManuallyDrop keeps both open, and
            // the copy has no close-on-exec flag.
            let (source, mut target) = unsafe {
                (
                    ManuallyDrop::new(OwnedFd::from_raw_fd(entry.source)),
                    ManuallyDrop::new(OwnedFd::from_raw_fd(entry.target)),
                )
            };
            rustix::io::dup2(&*source, &mut target)?;
        }
        Ok(())
    };
    // SAFETY: the closure runs in the child between fork and exec. It makes system calls (prctl,
    // getppid, fstat, close_range, dup2) only; it neither allocates nor takes locks.
    unsafe { command.pre_exec(in_child) };
    let mut tries = 1;
    loop {
        fds.occupy(&moves)?;
        match command.spawn() {
            Err(error) if error.raw_os_error() == Some(TAKEN) && tries < TRIES => tries += 1,
            started => return started,
        }
    }
}

/// Which pipe or socket has this number here; 0 if none has.
fn channel_at(number: RawFd) -> u64 {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: writes into `stat`, which has room for it, if the number is in use, else nothing.
    if unsafe { libc::fstat(number, stat.as_mut_ptr()) } != 0 {
        return 0;
    }
    // SAFETY: it was written.
    let stat = unsafe { stat.assume_init() };
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFIFO | libc::S_IFSOCK => stat.st_ino,
        _ => 0,
    }
}

/// Also what we were started with ourselves, or a careless library opened, goes no further: a stray
/// descriptor keeps image locks and pipes alive.
fn close_all_on_exec() {
    // SAFETY: sets a flag on descriptors and touches no memory. Linux before 5.11 does not know it
    // and refuses; then all is as with any other way to start a process.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3u32,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
    }
}
