//! All of QAPI: commands, events and types, generated from its definitions in the versions that the
//! README names.
//!
//! Nothing here is closed: enumerations keep values that they do not know (`Other`), objects keep
//! members that they do not know (`extra`), unions keep variants that they do not know (`Other`),
//! and any member can be added with `set`, to a union through the object of its variant. So one
//! build of this crate works with QEMU versions before and after those.
//!
//! Names are QAPI's in Rust's spelling. A member called `type` in QAPI is called `kind` here; a
//! command or event whose name a type has already ends in `Command` or `Event`. What a value must
//! have are the parameters of its `new`, or, of more than three, the fields of a structure that
//! `new` takes; what it may have are methods:
//!
#![cfg_attr(feature = "types-block", doc = "```")]
#![cfg_attr(not(feature = "types-block"), doc = "```ignore")]
//! use qmp::types::{BlockdevAdd, BlockdevMirror, BlockdevOptions, MirrorSyncMode};
//! use qmp::types::{BlockdevOptionsFile, BlockdevOptionsQcow2};
//!
//! let file = BlockdevOptions::new(BlockdevOptionsFile::new("/srv/disk.qcow2"));
//! let disk = BlockdevOptions::new(BlockdevOptionsQcow2::new(file)).node_name("disk");
//! let add = BlockdevAdd(disk);
//! let mirror = BlockdevMirror::new("disk", "copy", MirrorSyncMode::Full)
//!     .job_id("job0")
//!     .set("of-the-next-version", true);
//! # let json = serde_json::to_value(&add).unwrap();
//! # assert_eq!(json["file"]["filename"], "/srv/disk.qcow2");
//! # assert_eq!(json["node-name"], "disk");
//! # assert_eq!(serde_json::to_value(&mirror).unwrap()["of-the-next-version"], true);
//! ```
//!
//! A member that only some versions have, or only some builds, is optional here, whatever it is
//! there; its documentation says which.
//!
//! | feature | brings |
//! |---|---|
//! | `types-job`, a part of all others and of `client` | jobs |
//! | `types-block` | block nodes, block jobs, exports, bitmaps, transactions, objects, hot-plug, run states, machine types, the monitor itself |
//! | `types-migration` | migration |
//! | `types-system` | everything else: the parts of a machine, its devices, network, character devices, displays |

#[allow(unused_imports, clippy::enum_variant_names, clippy::large_enum_variant)]
mod areas;
#[allow(
    dead_code,
    unused_imports,
    reason = "each area uses a part of it, and areas are features"
)]
pub(crate) mod prelude;

pub use areas::*;

use serde::de::DeserializeOwned;

use crate::decode::DecodeError;
use crate::message::Event;

/// The typed data of one event.
pub trait EventData: DeserializeOwned {
    /// The event's name.
    const NAME: &'static str;

    /// Gives an event's data this type; `None` if it is another event.
    ///
    /// # Errors
    /// When the data does not have the known form.
    fn from_event(event: &Event) -> Option<Result<Self, DecodeError>> {
        (event.name == Self::NAME).then(|| prelude::data(event))
    }
}
