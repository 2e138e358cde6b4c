//! The stack of the case's own thread, taken without a debugger, even while the thread spins.
//!
//! A signal is sent to the thread; its handler walks the stack and stores the addresses, and the
//! requesting thread resolves them to names. The handler neither allocates nor locks.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Rarely used, and harmless: it reports urgent data on a socket.
const ASK: Signal = Signal::SIGURG;

/// The maximum numbers of frames that are stored and shown.
const DEPTH: usize = 192;
const SHOWN: usize = 24;

static FRAMES: [AtomicUsize; DEPTH] = [const { AtomicUsize::new(0) }; DEPTH];
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// The write end of the pipe through which the handler signals that it is done.
static DONE: AtomicI32 = AtomicI32::new(-1);
static CASE: OnceLock<CaseThread> = OnceLock::new();

struct CaseThread {
    thread: Pthread,
    answer: OwnedFd,
    /// Kept open for the handler.
    _done: OwnedFd,
}

/// Makes the calling thread the one whose stack [`of_case`] returns. Once per process; if it fails,
/// explanations lack a stack.
pub(super) fn prepare() {
    if CASE.get().is_some() {
        return;
    }
    let flags = nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK;
    let Ok((answer, done)) = nix::unistd::pipe2(flags) else {
        return;
    };
    DONE.store(done.as_raw_fd(), Ordering::SeqCst);
    let handler = SigHandler::Handler(walk);
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: `walk` does only what a signal handler may do: atomics, write(2), and the unwinder,
    // which neither allocates nor takes a lock here (the C library finds unwind tables without
    // one).
    if unsafe { sigaction(ASK, &action) }.is_ok() {
        let thread = pthread_self();
        let case = CaseThread {
            thread,
            answer,
            _done: done,
        };
        // If another thread was first, it stays the one.
        let _ = CASE.set(case);
    }
}

extern "C" fn walk(_: i32) {
    let mut count = 0;
    // SAFETY: not synchronised with other walks, but there are none: one thread asks, and one
    // walks.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            if let Some(slot) = FRAMES.get(count) {
                slot.store(frame.ip().addr(), Ordering::Relaxed);
                count += 1;
            }
            count < DEPTH
        });
    }
    COUNT.store(count, Ordering::Release);
    let done = DONE.load(Ordering::Relaxed);
    if done >= 0 {
        // SAFETY: the descriptor is held open by `CASE` for as long as the process lives.
        let done = unsafe { BorrowedFd::borrow_raw(done) };
        // A full pipe already contains an answer.
        let _ = nix::unistd::write(done, &[0]);
    }
}

/// The stack of the case's thread, innermost first: `function at file:line`, without the frames of
/// the runtime. Empty if the thread does not answer `within` this time.
pub(super) fn of_case(within: Duration) -> Vec<String> {
    let Some(case) = CASE.get() else {
        return Vec::new();
    };
    let mut old = [0; 64];
    while matches!(nix::unistd::read(&case.answer, &mut old), Ok(count) if count > 0) {}
    if pthread_kill(case.thread, ASK).is_err() {
        return Vec::new();
    }
    let mut fds = [PollFd::new(
        std::os::fd::AsFd::as_fd(&case.answer),
        PollFlags::POLLIN,
    )];
    let timeout = PollTimeout::try_from(within).unwrap_or(PollTimeout::MAX);
    if !poll(&mut fds, timeout).is_ok_and(|ready| ready > 0) {
        return Vec::new();
    }
    let count = COUNT.load(Ordering::Acquire).min(DEPTH);
    let addresses = FRAMES[..count].iter();
    let all: Vec<Vec<String>> = addresses.map(|slot| names(slot.load(Ordering::Relaxed))).collect();
    let is_walk = |names: &Vec<String>| names.iter().any(|name| name.contains("stack::walk"));
    // Below the walk is the signal trampoline, and below that the interrupted function.
    let below = all.iter().rposition(is_walk).map_or(0, |walk| walk + 2);
    let mut frames: Vec<String> = all.into_iter().skip(below).flatten().collect();
    frames.retain(|frame| !is_runtime(frame));
    frames.truncate(SHOWN);
    frames
}

/// The functions at one address; several if calls were inlined.
fn names(address: usize) -> Vec<String> {
    let mut names = Vec::new();
    // A return address on the stack points to the instruction after the call.
    let call = std::ptr::without_provenance_mut(address.saturating_sub(1));
    backtrace::resolve(call, |symbol| {
        let Some(name) = symbol.name() else { return };
        // `{:#}` omits the hash.
        let name = format!("{name:#}");
        names.push(match (symbol.filename(), symbol.lineno()) {
            (Some(file), Some(line)) => format!("{name} at {}:{line}", file.display()),
            _ => name,
        });
    });
    names
}

/// Whether a frame belongs to code built with the case, not to a library.
pub(super) fn is_own(frame: &str) -> bool {
    let file = frame.rsplit_once(" at ").map(|(_, file)| file);
    const LIBRARIES: [&str; 4] = ["/rustc/", "/registry/src/", "sysdeps/", "/library/std/"];
    file.is_some_and(|file| {
        !file.starts_with("./") && !LIBRARIES.iter().any(|library| file.contains(library))
    })
}

/// Uninformative frames: signal trampolines, futures that poll futures, the start of the program.
fn is_runtime(frame: &str) -> bool {
    const NOTHING: [&str; 12] = [
        "core::",
        "<core::",
        "std::",
        "<std::",
        "alloc::",
        "<alloc::",
        "tokio::",
        "<tokio::",
        "__restore_rt",
        "__libc_start",
        "_start",
        "backtrace::",
    ];
    NOTHING.iter().any(|start| frame.starts_with(start)) || frame.contains("::{{vtable}}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    static STOP: AtomicBool = AtomicBool::new(false);

    #[inline(never)]
    fn spins_until_it_is_told() {
        while !STOP.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn the_stack_of_a_thread_that_spins_names_its_function_and_it_goes_on() {
        let (ready, started) = std::sync::mpsc::channel();
        let spinning = std::thread::spawn(move || {
            prepare();
            ready.send(()).unwrap();
            spins_until_it_is_told();
        });
        started.recv().unwrap();
        let mut stack = of_case(Duration::from_secs(60));
        // The thread may not be there yet.
        while !stack.iter().any(|frame| frame.contains("spins_until")) {
            stack = of_case(Duration::from_secs(60));
        }
        let own = stack.iter().find(|frame| is_own(frame));
        assert!(own.unwrap().contains("spins_until"), "{stack:?}");
        STOP.store(true, Ordering::Relaxed);
        spinning.join().unwrap();
    }
}
