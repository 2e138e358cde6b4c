//! A real qemu-nbd, managed without races.
//!
//! [`QemuNbd`] describes one; [`QemuNbd::serve`] starts it by socket activation: we bind and
//! listen, qemu-nbd inherits the socket. The address is therefore known before it runs, nothing has
//! to be polled, no port can be taken in between, and the exit status is that of our own child.
//!
//! A server is *ready* when its greeting has arrived. Not when its socket exists, and not when
//! `connect` succeeds: qemu-nbd listens before it opens the image.

mod builder;
mod error;
mod forked;
mod image;
mod listing;
mod pid_file;
mod ready;
mod server;
mod socket;

pub use builder::{Listen, QemuNbd};
pub use error::QemuNbdError;
pub use forked::{Forked, ForkedQemuNbd};
pub use image::Image;
pub use listing::{QemuListedExport, QemuListing};
pub use server::{QemuNbdServer, QemuNbdTemplate};
