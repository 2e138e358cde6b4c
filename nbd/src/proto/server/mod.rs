//! The server's side of a conversation, without I/O.
//!
//! [`Server`] consumes bytes (`space` and `filled`, or `receive`), asks its owner for what it does
//! not know (the exports, the result of a request), and produces messages to be sent, in order.
//! Requests are handed out as they arrive, many at once; replies are sent in the order in which
//! they are given. What a client must not do is refused here, with the error that proto.md
//! specifies: a request that is handed out is within the export, and its payload is complete.
//!
//! A server for one client, with a disk in memory:
//!
//! ```
//! use std::io::{Read, Write};
//!
//! use nbd::proto::server::{Answer, Config, Description, Event, Piece, Server};
//! use nbd::proto::{CommandType, Errno};
//!
//! fn serve(mut stream: impl Read + Write, disk: &mut [u8]) -> std::io::Result<()> {
//!     let mut server: Server<Vec<u8>> = Server::new(Config::default());
//!     loop {
//!         while let Some(event) = server.event() {
//!             match event {
//!                 Event::List => server.list([("disk".to_owned(), "in memory".to_owned())]),
//!                 Event::Describe { export: name, .. } => {
//!                     let size = disk.len() as u64;
//!                     let known = name == "disk";
//!                     server.describe(known.then(|| Description { name, size, ..Description::default() }));
//!                 }
//!                 Event::Request(incoming) => {
//!                     let start = incoming.request.offset as usize;
//!                     let range = start..start + incoming.effect_len as usize;
//!                     let answer = match incoming.command() {
//!                         CommandType::READ => Answer::Data(vec![Piece::Data(disk[range].to_vec())]),
//!                         CommandType::WRITE => {
//!                             disk[range].copy_from_slice(&incoming.payload);
//!                             Answer::Done
//!                         }
//!                         _ => Answer::fail(Errno::ENOTSUP, "reads and writes only"),
//!                     };
//!                     server.reply(incoming.id, answer);
//!                 }
//!                 Event::Closed(_) => return stream.write_all(&server.transmit()),
//!                 // Of TLS, which is off, and of what was negotiated.
//!                 _ => {}
//!             }
//!         }
//!         stream.write_all(&server.transmit())?;
//!         match stream.read(server.space())? {
//!             0 => server.end_of_stream(),
//!             n => server.filled(n),
//!         }
//!     }
//! }
//! # #[cfg(feature = "client")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
//! # let serving = std::thread::spawn(move || serve(theirs, &mut [7; 1024]));
//! # let mut client = nbd::Client::builder().export("disk").connect_fd_blocking(ours.into())?;
//! # client.write(512, vec![9; 256])?;
//! # assert_eq!(client.read(0, 1024)?, [[7; 512], [[9; 256], [7; 256]].concat().try_into().unwrap()].concat());
//! # client.disconnect()?;
//! # serving.join().unwrap()?;
//! # Ok(()) }
//! # #[cfg(not(feature = "client"))]
//! # fn main() {}
//! ```
//!
//! | state | what it waits for | what ends it |
//! |---|---|---|
//! | client flags | four bytes | options |
//! | option | header and data of an option | an answer, an export, `ABORT` |
//! | asking | [`Server::list`], [`Server::describe`] or [`Server::proceed`] | the answer |
//! | upgrade | the driver: TLS now, then [`Server::tls_started`] | options |
//! | request | the header of a request | `DISC`, or its payload |
//! | room | replies to be sent: enough is in flight | [`Server::sent`] |
//! | payload | the payload of a request | the next request |
//! | ended | replies to requests in flight | |

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
