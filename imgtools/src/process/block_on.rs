//! Blocking on a future without a runtime. None of ours needs one.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future of this crate to completion on this thread.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    loop_on(future, || {
        thread::park();
        None
    })
}

/// The same, but no longer than this.
pub(super) fn block_on_at_most<T>(time: Duration, future: impl Future<Output = T>) -> Option<T> {
    let begin = Instant::now();
    loop_on(async { Some(future.await) }, || {
        let left = time.saturating_sub(begin.elapsed());
        thread::park_timeout(left);
        left.is_zero().then_some(None)
    })
}

/// Polls a future after each `wait`, until it or `wait` has a value.
fn loop_on<T>(future: impl Future<Output = T>, mut wait: impl FnMut() -> Option<T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => {
                if let Some(value) = wait() {
                    return value;
                }
            }
        }
    }
}
