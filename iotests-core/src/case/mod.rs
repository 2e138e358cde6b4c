//! What a case is: the registering attribute, its typed metadata, its needs and its place in the matrix.
//!
//! ```
//! use iotests_core::prelude::*;
//!
//! /// An image can be created.
//! #[case(upstream = "001", formats = [QCOW2, RAW], groups = [AUTO, QUICK], needs = [Driver("throttle")])]
//! async fn image_is_created(t: &mut Test) -> CaseResult {
//!     t.step("create");
//!     Ok(())
//! }
//! ```
//!
//! The attribute only registers: `key = value` becomes `Meta::new().key(value)`, see [`Meta`] for the keys and [`names`] for the names that are
//! in scope there. A family gives `rows = TABLE`, a `&[Row<T>]`; its function takes `(&mut Test, &T)` and every [`Row`] is an instance of its own.

pub use linkme;

mod axes;
mod capabilities;
mod instance;
mod meta;
pub mod names;
mod registry;
mod requirement;
mod row;
mod skip;
mod version;

pub use axes::{Aio, Backend, Cache, Format, Formats, Guest, Host, Protocol, UnknownName};
pub use capabilities::{Broken, Capabilities, Feature, HostFacts, ToolFacts};
pub use imgtools::probe::Support;
pub use imgtools::tools::{Tool, ToolKind, Version};
pub use instance::Instance;
pub use meta::{DEFAULT_BUDGET, ExpectedFailure, Fix, Group, Meta, Quarantine};
pub use registry::{Body, CASES, Case, CaseFuture};
pub use requirement::Requirement;
pub use row::{Row, RowMeta, row_metas};
pub use skip::{Remedy, Skip};
pub use version::VersionRange;
