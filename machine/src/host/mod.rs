//! What both kinds of process can do with block nodes.
//!
//! A test that needs no guest device is written against [`BlockHost`] and runs on an emulator
//! or on a storage daemon. They differ in three things: a storage daemon has no HMP (so I/O on
//! a node goes another way, see [`NodeIo`]), no block backends with names of their own (so a
//! job needs an explicit id), and no guest.

mod block_host;
mod graph;
mod io;

pub use block_host::BlockHost;
pub use graph::{BlockGraph, GraphEdge, GraphNode, NoSuchPath};
pub use io::{IoError, IoTarget, NodeIo};

pub(crate) use io::hmp;
