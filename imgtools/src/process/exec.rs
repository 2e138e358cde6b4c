//! Starting the process: what must be done between fork and exec. The only unsafe code of the crate.

use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FileType, Mode, OFlags, RawDir};
use rustix::io::{Errno, FdFlags};
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

/// The child's error if a number that it has to take over now belongs to some channel. None of its
/// system calls, nor exec, fails with this.
const TAKEN: Errno = Errno::NOTUNIQ;

/// How often starting a child is retried because of that. Other threads would have to release one
/// of the numbers at the wrong moment each time.
const TRIES: usize = 1000;

/// The file descriptors that a child gets in addition to its three standard ones, each with its
/// number there.
///
/// [`process::Command`] opens a channel (a pipe or socket) by which the child reports a failed
/// exec. If that got a number that the child takes over, the failure would be lost. So free numbers
/// are occupied first; for those in use by others, which may be released at this very moment, the
/// child verifies that they are unchanged.
#[derive(Debug, Default)]
pub(super) struct FdMap {
    moves: Vec<(OwnedFd, RawFd)>,
    /// Occupies numbers until the child is started.
    placeholders: Vec<OwnedFd>,
}

/// A move in the child, and the channel that its target may be.
struct Move {
    source: RawFd,
    target: RawFd,
    known: AtomicU64,
}

impl FdMap {
    pub(super) fn push(&mut self, fd: OwnedFd, number: RawFd) {
        self.moves.push((fd, number));
    }

    /// The moves, free of conflicts: the sources are moved above all targets, so that no move
    /// overwrites the source of another.
    fn lift(&mut self) -> io::Result<Arc<[Move]>> {
        // The standard streams are our own channels.
        if self.moves.iter().any(|(_, number)| *number < 3) {
            return Err(Errno::BADF.into());
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

    /// Occupies the free targets, and records what the others are.
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
    let parent = getpid();
    let in_child = move || {
        if die_with_thread {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // If the parent died before the line above, no signal would ever be sent.
            if getppid() != Some(parent) {
                return Err(Errno::SRCH.into());
            }
        }
        let is_known = |entry: &Move| {
            let found = channel_at(entry.target);
            found == 0 || found == entry.known.load(Ordering::Relaxed)
        };
        if !moves_in_child.iter().all(is_known) {
            return Err(TAKEN.into());
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
    // getppid, fstat, close_range, open, getdents64, fcntl, dup2) only, all with buffers on the
    // stack; it neither allocates nor takes locks.
    unsafe { command.pre_exec(in_child) };
    let mut tries = 1;
    loop {
        fds.occupy(&moves)?;
        match command.spawn() {
            Err(error) if error.raw_os_error() == Some(TAKEN.raw_os_error()) && tries < TRIES => {
                tries += 1
            }
            started => return started,
        }
    }
}

/// The pipe or socket with this number here; 0 if there is none.
fn channel_at(number: RawFd) -> u64 {
    // SAFETY: the descriptor is used for one system call, which fails if the number is not in use.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    match rustix::fs::fstat(fd) {
        Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
            FileType::Fifo | FileType::Socket => stat.st_ino,
            _ => 0,
        },
        Err(_) => 0,
    }
}

/// Also stops descriptors that we inherited, or that a careless library opened: a stray descriptor
/// keeps image locks and pipes alive.
fn close_all_on_exec() {
    // SAFETY: the call takes no memory. It only sets a flag on descriptors.
    let set = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if set != 0 {
        // Linux before 5.11, or a filter of system calls.
        close_each_on_exec();
    }
}

/// Sets the flag of each, one by one.
///
/// Without `/proc` this does nothing, as with any other way to start a process.
fn close_each_on_exec() {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(folder) = rustix::fs::open(c"/proc/self/fd", flags, Mode::empty()) else {
        return;
    };
    let mut buffer = [MaybeUninit::uninit(); 2048];
    let mut entries = RawDir::new(&folder, &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
        let name = entry.file_name().to_str().ok();
        if let Some(number) = name.and_then(|name| name.parse::<RawFd>().ok())
            && number > 2
        {
            // SAFETY: the descriptor is used for one system call, which sets a flag on it.
            let fd = unsafe { BorrowedFd::borrow_raw(number) };
            let _ = rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

    use super::*;

    /// Both are safe to call here: this process executes nothing that relies on the flag.
    #[test]
    fn descriptors_are_closed_on_exec_by_one_call_and_one_by_one() {
        for close in [close_all_on_exec, close_each_on_exec] {
            let stray = File::open("/dev/null").unwrap();
            fcntl_setfd(&stray, FdFlags::empty()).unwrap();
            close();
            assert_eq!(fcntl_getfd(&stray).unwrap(), FdFlags::CLOEXEC);
        }
    }
}
