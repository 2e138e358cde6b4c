//! Room for recursion: serde descends once per nesting level, and QMP nests up to 1024 levels.
//!
//! `query-block` nests `backing-image` once per layer of a chain, so deep values are real data, and
//! a thread's usual 2 MiB are not enough for them in a debug build. Deep values are rare; they are
//! handled on a short-lived thread with a stack of the right size. The crate for this, `stacker`,
//! takes longer to build than all of this one without types, and needs a C compiler for each
//! target.

use std::thread;

/// Up to this depth the caller's own stack suffices.
const SHALLOW: usize = 48;

/// Stack for one nesting level. Measured: below 8 KiB for `Value`, 20 KiB for derived types, in a
/// debug build. It is address space; only what is touched becomes memory.
const PER_LEVEL: usize = 64 << 10;

/// Runs `work`, which recurses about `depth` times, on a large enough stack.
pub(crate) fn with_room<R: Send>(
    depth: usize,
    work: impl FnOnce() -> R + Send,
) -> std::io::Result<R> {
    if depth <= SHALLOW {
        return Ok(work());
    }
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name("qmp-deep".into())
            .stack_size((depth + SHALLOW) * PER_LEVEL)
            .spawn_scoped(scope, work)?;
        match worker.join() {
            Ok(result) => Ok(result),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
