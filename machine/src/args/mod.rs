//! Typed command line arguments, quoted the way QEMU unquotes them.
//!
//! Two syntaxes exist. Key-value lists ([`Opts`]) separate members by commas, so a comma
//! inside a value is doubled. JSON ([`Blockdev`], [`Object`]) needs no such care and keeps
//! types; it is used wherever all supported versions (6.2 and later) accept it.

mod blockdev;
mod chardev;
mod device;
mod drive;
mod export;
mod incoming;
mod netdev;
mod object;
mod opts;

pub use blockdev::{Blockdev, flatten};
pub use chardev::Chardev;
pub use device::Device;
pub use drive::Drive;
pub use export::{Export, NbdServer};
pub use incoming::Incoming;
pub use netdev::Netdev;
pub use object::Object;
pub use opts::Opts;
