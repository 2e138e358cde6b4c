//! A client for the QEMU Machine Protocol that copes with what monitors really do.
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), qmp::Error> {
//! use qmp::types::{BlockdevMirror, MirrorSyncMode};
//! use serde_json::json;
//!
//! let client = qmp::Client::connect_unix("/run/vm.qmp", qmp::Options::default()).await?;
//! println!("QEMU {}", client.greeting().version);
//!
//! let status = client.execute("query-status", ()).await?;          // by name
//! let mut job = client.job("copy");                                // before it starts
//! client.call(BlockdevMirror::new("src", "dst", MirrorSyncMode::Full).job_id("copy")).await?;
//! job.wait_ready().await?;
//! let (_, event) = client.execute("stop", ()).and_event("STOP").await?;
//! client.quit().await?;
//! # Ok(()) }
//! ```
//!
//! # The protocol on one page
//!
//! A monitor is a stream of JSON objects in both directions. QEMU starts with a *greeting*; the
//! client *negotiates*; then commands flow one way, replies and events the other:
//!
//! ```text
//! <- {"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": ""},
//!             "capabilities": ["oob"]}}
//! -> {"execute":"qmp_capabilities","arguments":{"enable":["oob"]},"id":"qxkvbhduwes"}
//! <- {"return": {}, "id": "qxkvbhduwes"}
//! -> {"execute":"stop","id":"kfz0"}
//! <- {"timestamp": {"seconds": 1700000000, "microseconds": 17}, "event": "STOP"}
//! <- {"return": {}, "id": "kfz0"}
//! -> {"execute":"eject","arguments":{"id":"cd"},"id":"kfz1"}
//! <- {"id": "kfz1", "error": {"class": "GenericError", "desc": "Device 'cd' not found"}}
//! ```
//!
//! - **A message ends where its braces balance.** QEMU sends CR LF after each line, with
//!   `pretty=on` many lines per message, and single messages of hundreds of kilobytes
//!   ([`frame`]).
//! - **One client at a time.** A second one can connect, and receives nothing until the first
//!   disconnects. That is why connecting has a deadline, and [`ConnectError`] a variant for
//!   silence.
//! - **Commands are executed one by one, in order.** A slow one holds up all that follow, even
//!   after its caller has stopped waiting. A timeout ends the call, not the command.
//! - **Out of band.** Where `oob` is offered and enabled, a few commands (`yank`, `migrate-pause`
//!   …) can be sent with `exec-oob` and are executed at once; their replies overtake others. QEMU
//!   reads nothing while 8 commands are queued, so this client keeps at most 7 in flight and lets
//!   the others wait on its own side ([`Options::in_band_limit`]).
//! - **Ids.** Replies carry the id of their command. A reply to the previous client may arrive on
//!   our connection, so ids differ between connections. QEMU reads one byte per system call, so ids
//!   are short: a command without one would be a little faster (on a busy machine up to a third),
//!   but then one unreadable reply or one extra error would shift all later replies to the wrong
//!   commands.
//! - **Events** arrive at any time: before the greeting, before or after the reply of the command
//!   that caused them. Some are rate-limited to one per second, and the last one wins. An event is
//!   a hint; a query returns the state ([`Job`] combines both).
//! - **Errors** have a class, almost always `GenericError`, and a description for people.
//!   Nothing else distinguishes errors, and descriptions change.
//! - **`quit`** may be answered, or the stream may end first ([`Client::quit`]).
//! - **File descriptors** travel with the bytes of a command (`getfd`, `add-fd`), over Unix
//!   sockets only, one at a time ([`Call::fd`]).
//! - **The guest agent** speaks the same protocol without greeting, ids, events or out-of-band
//!   execution, over a line that may still hold data from an earlier client ([`agent`]).
//! - **The schema** of commands, events and types is part of QEMU and can be queried ([`Schema`]).
//!
//! # What a program uses
//!
//! 1. [`Client`], connected in whichever way suits: [`connect_unix`](Client::connect_unix),
//!    [`wait_unix`](Client::wait_unix) for a QEMU that is starting, [`from_fd`](Client::from_fd) …
//! 2. [`Client::call`] for a command of [`types`], [`Client::execute`] for any other. Both make a
//!    [`Call`], which is sent when it is awaited; a deadline, a descriptor or out-of-band execution
//!    are set on it before.
//! 3. For events, [`Call::and_event`] for the one that the command causes, and
//!    [`Client::subscribe`] for all that match. Event data is typed as well ([`types::EventData`],
//!    [`types::TypedEvent`]).
//! 4. [`Client::job`] for block jobs and anything else that `query-jobs` lists.
//! 5. [`Client::quit`], and [`Error`], whose [`report`](Error::report) is meant for display.
//!
//! # Parts
//!
//! | layer | modules | needs |
//! |---|---|---|
//! | core, without I/O | [`frame`], [`message`], [`encode`], [`decode`], [`session`], [`schema`], [`matcher`], [`transcript`], [`redact`] | nothing |
//! | client | [`Client`], [`Options`], [`Call`], [`EventStream`], [`Job`]; behind them [`EventCache`], [`Listener`], [`blocking`], [`socket`] | feature `client`, tokio |
//! | all of QAPI | [`types`] | features `types-block`, `types-migration`, `types-system` |
//! | guest agent | [`agent`] | feature `agent` |
//! | tests | [`mock`] | feature `mock` |
//!
//! `client` and `types-block` are on by default. A client runs in a tokio runtime with I/O and time
//! enabled; one task per session reads and writes, independently of its callers. Dropping the last
//! [`Client`] of a session ends it.
//!
//! # What can be relied on
//!
//! - Dropping any future at any point leaves no partial line and does not affect other calls.
//! - When a stream ends, every pending wait fails at once, with the reason ([`Closed`]).
//! - A message that cannot be read is skipped and traced; if it was the reply to a call, that call
//!   fails. The session continues.
//! - The socket is always read. A subscriber that does not read loses events and gets their number
//!   ([`RecvError::Lagged`]); other subscribers are not affected.
//! - After the end of a session all clones of a client can continue in another
//!   ([`Client::resume`]). Nothing is repeated: a call that was cut off says whether QEMU may have
//!   executed it.
//! - A command that QEMU would reject without naming it is not sent ([`encode::EncodeError`]).
//!
//! The crate emits [`tracing`](https://docs.rs/tracing) events under the target `qmp`, every
//! message at level TRACE, and a span per call at level DEBUG with its command, id and latency.
//! Secrets are redacted in both, and in transcripts ([`redact`]).

#![forbid(unsafe_code)]
// The page above links to items of all features, whichever are enabled.
#![cfg_attr(
    not(all(
        feature = "agent",
        feature = "client",
        feature = "mock",
        feature = "types-system"
    )),
    allow(rustdoc::broken_intra_doc_links)
)]

pub mod command;
pub mod decode;
pub mod encode;
pub mod error;
pub mod frame;
pub mod matcher;
pub mod message;
pub mod redact;
pub mod schema;
pub mod session;
mod stack;
pub mod transcript;
#[cfg(feature = "types-job")]
pub mod types;

#[cfg(all(feature = "client", not(unix)))]
compile_error!("the feature `client` of qemu-qmp needs Unix sockets; the core builds everywhere");

#[cfg(feature = "agent")]
pub mod agent;
#[cfg(feature = "client")]
pub mod blocking;
#[cfg(feature = "client")]
mod client;
#[cfg(feature = "mock")]
pub mod mock;
#[cfg(feature = "client")]
pub mod socket;

pub use command::{Command, Empty};
#[cfg(feature = "client")]
pub use error::JobError;
pub use error::{Closed, CommandError, ConnectError, Error, ReplyError};
pub use matcher::Matcher;
pub use message::{ErrorClass, Event, Greeting, Timestamp, Version};
pub use schema::Schema;

#[cfg(feature = "client")]
pub use client::{
    Call, CallAndEvent, Client, EventCache, EventStream, Job, JobOutcome, JobProgress, Listener,
    Options, RecvError,
};

/// The example of the README, compiled.
#[cfg(all(doctest, feature = "client", feature = "types-block"))]
#[doc = include_str!("../README.md")]
struct Readme;
