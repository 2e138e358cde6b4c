//! The supervisor: the stage between the runner and a case process, which proves that nothing is left.
//!
//! The supervisor is a sub-reaper: every orphan below it, whatever `setsid` and double forks it did, becomes its child. When the case
//! has ended it waits until the kernel says ECHILD. What was still alive then is a leak: named, killed and reported.
//! It never outlives the runner: the control pipe on its stdin ends with the runner, and it then kills all that is below it.

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
pub(crate) use protocol::{Order, SUPERVISE, SuperviseSpec};
pub(crate) use reaper::{kill_children_of_self, send};
pub(crate) use stage::{STARVED_AT_MOST, main};
