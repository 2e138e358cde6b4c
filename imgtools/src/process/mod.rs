//! Running processes: the only place in the harness that starts any.
//!
//! A [`Command`] is run to completion (`run`), or started and kept (`spawn`, a [`Child`]). In both
//! cases a dedicated thread supervises the process: it starts it, drains both pipes, feeds its
//! input, enforces the deadline, and reaps it. So a process never blocks on a full pipe, deadlines
//! hold whatever the caller does, the parent-death signal refers to *our* death and not to that of
//! some worker thread, and everything works with and without an async runtime.
//!
//! ```
//! # use imgtools::process::{Command, Status};
//! # use std::time::Duration;
//! let output = Command::new("sh")
//!     .args(["-c", "echo out; echo err >&2; exit 3"])
//!     .deadline(Duration::from_secs(60))
//!     .run_blocking()?;
//! assert_eq!(output.status, Status::Exited(3));
//! assert_eq!((&*output.stdout_text(), &*output.stderr_text()), ("out\n", "err\n"));
//! let error = output.check().unwrap_err();
//! assert!(error.to_string().contains("exited with status 3"));
//! # Ok::<(), imgtools::process::ProcessError>(())
//! ```

mod block_on;
mod capture;
mod child;
mod command;
mod command_line;
mod dying;
mod echo;
mod error;
#[allow(unsafe_code)]
mod exec;
mod output;
mod shared;
mod signal;
mod status;
mod time;
mod watcher;

#[cfg(any(feature = "img", feature = "io"))]
pub(crate) use block_on::block_on;
pub use capture::{Captured, Stream};
pub use child::{Child, View};
pub use command::{Command, DEFAULT_CAP, DEFAULT_GRACE};
pub use command_line::{CommandLine, REDACTED};
pub use error::ProcessError;
pub use output::Output;
#[cfg(feature = "io")]
pub(crate) use output::end_of;
pub use signal::Signal;
pub use status::{Convention, Status, VALGRIND_ERROR};
pub(crate) use time::Time;
