//! The supervisor: the process between the runner and a case process, which proves that the case
//! left no processes behind.
//!
//! It is a sub-reaper: every orphan below it, despite any `setsid` or double fork, becomes its
//! child. When the case has ended, it waits until the kernel returns ECHILD. Processes that are
//! still alive are leaks: they are killed and reported. It never outlives the runner: the control
//! pipe on its stdin closes with the runner, and then it kills everything below it.

mod evidence;
mod fork;
mod process_table;
mod protocol;
mod reaper;
mod stage;
mod starvation;

pub(crate) use evidence::{stacks, state_name};
pub(crate) use process_table::{Process, is_stopped};
pub use protocol::{End, Leak, Seen, SupervisorReport};
pub(crate) use protocol::{Order, REPORT, SUPERVISE, SuperviseSpec};
pub(crate) use reaper::{kill_children_of_self, send};
pub(crate) use stage::{STARVED_AT_MOST, main};
