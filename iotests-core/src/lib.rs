//! The QEMU block-layer test harness: what a case is written with, and what runs it.
//!
//! Two sides and the line between them:
//! - the *author side* ([`author`]): [`Test`](author::Test) and what a case does with it;
//! - the *runner side* ([`runner`]): registry, plan, processes, events, reports;
//! - between them only data: [`case`], what a case declares, and [`wire`], what crosses the process boundary.
//!
//! Upstream's own scripts ([`script`]) are cases as well, whose body is another program.

// `#[case]` names this crate by its outside name, inside of it as well.
extern crate self as iotests_core;

pub mod author;
pub mod case;
pub mod prelude;
pub mod provision;
pub mod runner;
pub mod script;
pub mod wire;
