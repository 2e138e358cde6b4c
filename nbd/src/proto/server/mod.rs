//! The server's side of a conversation, without I/O.
//!
//! [`Server`] takes bytes (`space` and `filled`, or `receive`), asks its owner for what it does not
//! know (which exports there are, what a request yields), and gives messages to be sent, in order.
//! Requests are handed out as they come, many at once; their replies go out in the order in which
//! they are given. What a client must not do is refused here, with the error that proto.md names.
//!
//! | state | what it waits for | what ends it |
//! |---|---|---|
//! | client flags | four bytes | options |
//! | option | header and data of an option | an answer, an export, `ABORT` |
//! | asking | [`Server::list`], [`Server::describe`] or [`Server::proceed`] | the answer |
//! | upgrade | the driver: TLS now, then [`Server::tls_started`] | options |
//! | request | the header of a request | `DISC`, or its payload |
//! | room | replies to be sent: enough is under way | [`Server::sent`] |
//! | payload | the payload of a request | the next request |
//! | ended | replies to what is under way | |

mod layout;
mod negotiation;
mod reply;
mod requests;
mod types;

#[cfg(feature = "faults")]
pub use layout::{Edit, Field};
#[cfg(feature = "faults")]
pub(crate) use layout::{Layout, edit};
pub use negotiation::Server;
pub use reply::{Answer, Outgoing, Piece, Reply, ReplyKind};
#[cfg(feature = "faults")]
pub(crate) use reply::{Chunk, Message};
pub use types::{Advertised, Closed, Config, Description, Event, Failure, Incoming, TlsPolicy};
