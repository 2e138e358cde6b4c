//! What a case process may use to examine the processes below its supervisor.

pub(crate) use super::supervise::{Process, send, stacks};
