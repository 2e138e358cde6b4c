//! qemu-io: command lists that run to completion, and interactive sessions.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use imgtools::io::{IoCommand, QemuIo};
//! use imgtools::tools::{Finder, ToolKind};
//!
//! let io = QemuIo::new(Finder::new().find(ToolKind::Io)?);
//! io.open("disk.qcow2")
//!     .command(IoCommand::write(0, 65536).pattern(0x11))
//!     .command(IoCommand::read(0, 65536).pattern(0x11))
//!     .run()
//!     .await?;
//!
//! let mut session = io.open("disk.qcow2").session().await?;
//! session.run("aio_write 0 64k").await?;
//! let done = session.aio_flush().await?.check()?;
//! assert_eq!(done.transfers()[0].bytes, 65536);
//! session.quit().await?;
//! # Ok(())
//! # }
//! ```

mod command;
mod error;
mod qemu_io;
mod report;
mod session;

pub use command::{IoCommand, LineError, MAX_LINE};
pub use error::IoError;
pub use qemu_io::{IoDefaults, Open, QemuIo};
pub use report::{Mismatch, Transfer, Verb, failures, mismatches, transfers};
pub use session::{Reply, Session};
