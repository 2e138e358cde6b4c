//! The server side: a monitor for tests, with the semantics of QEMU's own, and a replay of recorded
//! sessions.
//!
//! [`Monitor`] negotiates, queues and suspends as QEMU does (`monitor/qmp.c`): one command at a
//! time, reading stopped after each without out-of-band execution and at the eighth queued one with
//! it, so a client that sends too much really gets stuck. The test defines what commands do:
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
//! let asked = monitor.next_request().await.expect("it was executed");
//! assert_eq!(asked.name, "query-name");
//!
//! let mut stops = client.subscribe("STOP");
//! monitor.event(qmp::Event::new("STOP"));
//! assert!(stops.recv().await.is_ok());
//! # Ok(()) }
//! ```

mod monitor;
mod replay;
mod serve;
mod socket;
mod throttle;

pub use monitor::{Answer, Control, Monitor, Request};
pub use replay::{Replay, ReplayError};
