//! The user's code that runs inside of a session: a panic in it must not end the session.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls the user's code; a panic is its message.
pub(crate) fn call<R>(code: impl FnOnce() -> R) -> Result<R, String> {
    // What it has left half-done is its own: it is not called again.
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
