//! What a case process may ask about the processes below its supervisor.

pub(crate) use super::supervise::{Process, send, stacks};
