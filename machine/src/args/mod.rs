//! Typed command line arguments, quoted the way QEMU unquotes them.
//!
//! Two syntaxes exist. Key-value lists ([`Options`](imgtools::image::Options)) separate members by
//! commas, so a comma inside a value is doubled. JSON ([`Blockdev`], [`Object`]) needs no such care and
//! keeps types; it is used wherever all supported versions (6.2 and later) accept it.
//!
//! A path names that file, whatever it is called and byte for byte. JSON is UTF-8: where a path has to
//! go into it and is none, that is an error ([`PathError`]).

mod blockdev;
mod chardev;
mod device;
mod drive;
mod export;
mod incoming;
mod netdev;
mod object;
mod path;

pub use blockdev::{Blockdev, flatten};
pub use chardev::Chardev;
pub use device::Device;
pub use drive::Drive;
pub use export::{Export, NbdServer};
pub use incoming::Incoming;
pub use netdev::Netdev;
pub use object::Object;
pub use path::PathError;
