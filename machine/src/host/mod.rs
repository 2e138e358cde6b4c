//! What the monitor is asked for without guest devices: the human monitor, I/O on a node, the
//! block graph.
//!
//! All of it are methods of [`Machine`](crate::Machine). What both kinds of process share of QMP
//! is in [`qmp`]; a storage daemon has no HMP, no block backends with names of their own (so a job
//! needs an explicit id), and no guest.

mod graph;
mod hmp;
mod io;

pub use graph::{BlockGraph, NoSuchPath};
pub use hmp::HmpError;
pub use io::{IoError, IoTarget};
pub use qmp::types::{XDbgBlockGraphEdge as GraphEdge, XDbgBlockGraphNode as GraphNode};
