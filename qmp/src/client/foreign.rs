//! User code that runs inside a session: a panic in it must not end the session.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls user code; a panic is returned as its message.
pub(crate) fn call<R>(code: impl FnOnce() -> R) -> Result<R, String> {
    // Unwind safety: after a panic the code is not called again.
    catch_unwind(AssertUnwindSafe(code)).map_err(|panic| message(&*panic))
}

fn message(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a message".to_owned()
    }
}
