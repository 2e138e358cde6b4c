//! Monitor operations that need no guest devices: the human monitor, I/O on a node, the block
//! graph.
//!
//! All are methods of [`Machine`](crate::Machine). QMP common to both kinds of process is in
//! [`qmp`]; a storage daemon has no HMP, no named block backends (so a job needs an explicit id),
//! and no guest.

mod graph;
mod hmp;
mod io;

pub use graph::{BlockGraph, NoSuchPath};
pub use hmp::HmpError;
pub use io::{IoError, IoTarget};
pub use qmp::types::{XDbgBlockGraphEdge as GraphEdge, XDbgBlockGraphNode as GraphNode};
