//! The other side: a monitor for tests, with the semantics of QEMU's own, and a replay of
//! recorded sessions.
//!
//! [`Monitor`] negotiates, queues and suspends as QEMU does (`monitor/qmp.c`): one command at a
//! time, reading stopped after each without out-of-band execution and at the eighth queued one
//! with it, so a client that sends too much really gets stuck. What commands do is up to the test:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), qmp::Error> {
//! use qmp::mock::{Answer, Monitor};
//! use serde_json::json;
//!
//! let (ours, theirs) = tokio::io::duplex(4096);
//! let monitor = Monitor::new()
//!     .on("query-name", |_| Answer::value(json!({"name": "vm0"})))
//!     .spawn(theirs);
//! let client = qmp::Client::from_stream(ours, qmp::Options::default()).await?;
//! assert_eq!(client.execute("query-name", ()).await?, json!({"name": "vm0"}));
//! monitor.event(qmp::Event::new("STOP"));
//! client.events().wait("STOP").await?;
//! # Ok(()) }
//! ```

mod monitor;
mod replay;
mod serve;
mod throttle;

pub use monitor::{Answer, Control, Monitor, Request};
pub use replay::{Replay, ReplayError};
