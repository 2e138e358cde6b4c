//! Commands, events and types of QAPI, typed by hand for what block-layer work needs.
//!
//! Nothing here is closed: enumerations keep values that they do not know (`Other`), structures
//! keep members that they do not know (`extra`), and any member can be added with `set`. So one
//! build of this crate works with QEMU versions before and after those that it was checked
//! against. [`check`](check()) holds all of it against the schema of a running QEMU.
//!
//! Names are QAPI's, in Rust's spelling. A member called `type` in QAPI is called `kind` here.
//! Required members are the parameters of `new`, optional ones have a method each:
//!
//! ```
//! use qmp::types::{BlockCommit, MirrorSyncMode, BlockdevMirror};
//!
//! let commit = BlockCommit::new("top").job_id("job0").speed(1024 * 1024);
//! let mirror = BlockdevMirror::new("src", "dst", MirrorSyncMode::Full).set("new-option", true);
//! # let json = serde_json::to_value(&commit).unwrap();
//! # assert_eq!(json["job-id"], "job0");
//! # assert_eq!(serde_json::to_value(&mirror).unwrap()["new-option"], true);
//! ```

#[macro_use]
mod macros;

mod bitmap;
mod block;
mod blockjob;
mod check;
mod device;
mod enums;
mod event;
mod export;
mod io;
mod job;
mod machine;
mod migration;
mod monitor;
mod shape;
mod snapshot;

pub use bitmap::*;
pub use block::*;
pub use blockjob::*;
pub use check::{Mismatch, check};
pub use device::*;
pub use enums::*;
pub use event::*;
pub use export::*;
pub use io::*;
pub use job::*;
pub use machine::*;
pub use migration::*;
pub use monitor::*;
pub use shape::{
    CommandInfo, Describe, EnumInfo, EventInfo, MemberInfo, ObjectInfo, Shape, ValueInfo,
};
pub use snapshot::*;

/// All typed commands.
pub fn commands() -> impl Iterator<Item = &'static CommandInfo> {
    let modules: [&[CommandInfo]; 10] = [
        bitmap::COMMANDS,
        block::COMMANDS,
        blockjob::COMMANDS,
        device::COMMANDS,
        export::COMMANDS,
        io::COMMANDS,
        job::COMMANDS,
        machine::COMMANDS,
        migration::COMMANDS,
        monitor::COMMANDS,
    ];
    modules.into_iter().flatten().chain(snapshot::COMMANDS)
}

/// All typed events.
pub fn events() -> impl Iterator<Item = &'static EventInfo> {
    event::EVENTS.iter()
}
