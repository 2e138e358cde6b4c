//! The QEMU block-layer test harness: the API for writing cases, and the runner.
//!
//! Two sides, and the boundary between them:
//! - the *author side* ([`author`]): [`Test`](author::Test) and everything that a case uses;
//! - the *runner side* ([`runner`]): registry, plan, processes, events, reports;
//! - between them, only data: [`case`], what a case declares, and [`wire`], what crosses the
//!   process boundary.
//!
//! Upstream's own scripts ([`script`]) are also cases; their body is another program.

// `#[case]` refers to this crate by its external name, also inside the crate.
extern crate self as iotests_core;

pub mod author;
pub mod case;
pub mod prelude;
pub mod provision;
pub mod runner;
pub mod script;
pub mod wire;
