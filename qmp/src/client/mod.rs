//! The tokio client: transports, calls, events, jobs.
//!
//! A [`Client`] shares one [`Session`](crate::session::Session) with a task, the driver, which
//! alone touches the stream. Callers submit commands and wait for a reply; the driver always reads,
//! so neither a slow subscriber nor a dropped call stalls the stream.

mod cache;
mod call;
mod connect;
mod driver;
mod events;
mod foreign;
mod handle;
mod job;
mod listener;
mod options;
mod process;
mod progress;
mod record;
mod shared;
mod transport;

pub use cache::EventCache;
pub use call::{Call, CallAndEvent};
#[cfg(feature = "mock")]
pub(crate) use connect::FOREVER;
pub use events::{EventStream, RecvError};
pub use handle::Client;
pub use job::{Job, JobOutcome};
pub use listener::Listener;
pub use options::Options;
pub use progress::JobProgress;
