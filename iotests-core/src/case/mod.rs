//! What a case is: its declaration, its needs and its place in the matrix.
//!
//! ```
//! use iotests_core::prelude::*;
//!
//! defaults! { formats = [QCOW2, RAW], groups = [RW] }
//!
//! rows! {
//!     SIZES: u64;
//!     "small" => MIB;
//!     "large" => GIB, needs = [Driver("throttle")];
//! }
//!
//! /// An image can be created.
//! #[case(rows = SIZES, groups = [QUICK], budget = secs(30))]
//! async fn image_is_created(t: &mut Test, size: &u64) -> CaseResult {
//!     t.step("create");
//!     t.image("disk").size(*size).create().await?;
//!     Ok(())
//! }
//! ```
//!
//! A module and its submodules (`defaults!`), a case (`#[case(…)]`) and a row (`rows!`) are
//! declared with the same keys, those of [`Declaration`], all optional; [`Meta`] is the merged
//! result for one row. Lists accumulate from the outside in, single values replace outer ones. The
//! names in [`names`] are in scope there. [`Registry`] holds all cases of a program, and refuses to
//! start if a declaration is wrong.
//!
//! A family declares `rows = TABLE`, or `rows = (TABLE, TABLE)` for every combination; its function
//! takes a reference to the value of a row of each table, and every combination is a separate
//! instance.

pub use linkme;

mod axes;
mod capabilities;
mod check;
mod declaration;
mod instance;
mod known_bug;
mod meta;
pub mod names;
mod registry;
mod requirement;
mod skip;
mod upstream;
mod version;

pub use axes::{Aio, Backend, Cache, Format, Formats, Guest, Host, Os, Protocol, UnknownName};
pub use capabilities::{Broken, Capabilities, DriverUse, Feature, HostFacts, ToolFacts};
pub use check::Problems;
pub use declaration::{Declaration, Exclusion, Group, ModuleDefaults, Row, RowMeta, Table};
pub use imgtools::probe::Support;
pub use imgtools::tools::{Tool, ToolKind, Version};
pub use instance::{Instance, Point};
pub use known_bug::{
    ExpectedBug, Fix, Judgement, Known, KnownBug, Quarantine, judge_failure, judge_pass,
};
pub use meta::{DEFAULT_BUDGET, Meta, Origin};
pub use registry::{Body, CASES, Case, CaseFuture, DEFAULTS, Registered, Registry};
pub use requirement::Requirement;
pub use skip::{Remedy, Skip};
pub use upstream::UPSTREAM;
pub use version::{FixedIn, VersionRange};
