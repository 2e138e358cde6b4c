// The meaning of a peer's bytes does not depend on how they arrive: all at once, in pieces, or
// through vectored reads from a socket.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as Blocking;
use std::sync::{Arc, Mutex};

use nbd::client::{Deadlines, Reply, RequestError};
use nbd::proto::chunk::{Error, Hole};
use nbd::proto::client::Command;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};

use super::*;

/// Bytes asked for by the two reads: more than an intake's buffer, and more than twice that.
const READS: [u64; 2] = [12 << 10, 40 << 10];

/// The first byte is the mode and the side, the next four are how long the pieces are, and the rest
/// says what the peer says: messages that are almost right, which a few bytes stand for. Returns how many
/// requests succeeded, or how many bytes a server said.
pub(in super::super) fn pieces(data: &[u8]) -> usize {
    let Some(([first, lengths @ ..], script)) = data.split_first_chunk::<5>() else {
        return 0;
    };
    let modes = &Mode::ALL[usize::from(first & 0x80) >> 6..];
    let mode = modes[usize::from(first & 0x7f) % modes.len()];
    let lengths = lengths.map(|len| match len {
        0..128 => usize::from(len) + 1,
        128.. => (usize::from(len) - 127) * 200,
    });
    if first & 0x80 == 0 {
        let (handshake, replies) = (server_handshake_of(mode), replies(mode, script));
        client_hears_the_same(&handshake, &replies, &lengths)
    } else {
        let mut bytes = client_handshake_of(mode);
        bytes.extend(requests(mode, script));
        server_hears_the_same(mode, &bytes, lengths.to_vec())
    }
}

/// A script, by steps of two bytes; one of them takes bytes as they are.
fn messages(script: &[u8], mut message: impl FnMut(u8, u8) -> Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut script = script.iter().copied();
    while let Some(step) = script.next() {
        let argument = script.next().unwrap_or(0);
        match step % 8 {
            0 => out.extend(script.by_ref().take(argument.into())),
            _ => out.extend(message(step, argument)),
        }
    }
    out
}

/// What a server says in transmission. The requests are those of [`commands`], their cookies 1 to 5.
fn replies(mode: Mode, script: &[u8]) -> Vec<u8> {
    // Where the next chunk of each read belongs.
    let mut at = [0, 0];
    messages(script, |step, argument| {
        let (done, fine) = (step & 0x80 != 0, u64::from(argument & 0x0f));
        let read = usize::from(argument >> 7);
        let first = READS[0] * read as u64;
        let (cookie, kind, body) = match step % 8 {
            1..=3 => {
                let len = match step % 8 {
                    1 => READS[read].saturating_sub(at[read]),
                    2 => u64::from(argument & 0x7f) << 6,
                    _ => u64::from(argument & 0x7f) + 1,
                };
                let offset = first + at[read];
                at[read] += len;
                let data = vec![argument; len as usize];
                let body = [offset.to_be_bytes().to_vec(), data].concat();
                (read as u64 + 1, ChunkType::OFFSET_DATA, body)
            }
            4 => {
                let (offset, len) = (first + at[read], u32::from(argument & 0x7f) << 5);
                at[read] += u64::from(len);
                let hole = Hole { offset, len };
                (read as u64 + 1, ChunkType::OFFSET_HOLE, hole.encode())
            }
            5 => {
                let wide = mode == Mode::Extended;
                let len = 1 << (argument % 32);
                let status = Status {
                    context: 1,
                    extents: vec![Extent { len, status: 1 }; usize::from(argument >> 5)],
                };
                let kind = match wide {
                    true => ChunkType::BLOCK_STATUS_EXT,
                    false => ChunkType::BLOCK_STATUS,
                };
                (4, kind, status.encode(wide))
            }
            6 => {
                let error = Error {
                    errno: Errno(argument.into()),
                    message: "m".repeat(argument.into()),
                    offset: None,
                };
                (fine, ChunkType::ERROR, error.encode())
            }
            _ => (fine, ChunkType::NONE, Vec::new()),
        };
        let flags = match done {
            true => ChunkFlags::DONE,
            false => ChunkFlags::empty(),
        };
        let len = body.len() as u64;
        match mode {
            Mode::Extended => {
                let offset = [0, 0, READS[0], 512, 0, 0][usize::min(cookie as usize, 5)];
                let header = ReplyHeader::Extended {
                    flags,
                    kind,
                    cookie,
                    offset,
                    len,
                };
                [header.encode(), body].concat()
            }
            Mode::Structured => {
                let header = ReplyHeader::Structured {
                    flags,
                    kind,
                    cookie,
                    len: len as u32,
                };
                [header.encode(), body].concat()
            }
            _ => {
                let error = Errno(if step % 8 == 6 { argument.into() } else { 0 });
                let data = match kind {
                    ChunkType::OFFSET_DATA => &body[8..],
                    _ => &[],
                };
                [&ReplyHeader::Simple { error, cookie }.encode()[..], data].concat()
            }
        }
    })
}

/// What a client says in transmission.
fn requests(mode: Mode, script: &[u8]) -> Vec<u8> {
    let style = mode.header_style();
    let mut cookie = 0;
    messages(script, |step, argument| {
        cookie += 1;
        let flags = u16::from(step >> 4) & if step & 8 == 0 { 0 } else { !0 };
        let len = match step % 8 {
            1 => u64::from(argument) * 100,
            2 => u64::from(argument) << 12,
            _ => u64::from(argument) + 1,
        };
        let extended = match style {
            HeaderStyle::Extended => CommandFlags::PAYLOAD_LEN,
            HeaderStyle::Compact => CommandFlags::empty(),
        };
        let (command, own) = match step % 8 {
            1 | 3 => (CommandType::WRITE, extended),
            2 | 4 => (CommandType::READ, CommandFlags::empty()),
            5 => (CommandType::BLOCK_STATUS, CommandFlags::empty()),
            6 => (CommandType::FLUSH, CommandFlags::empty()),
            _ => (CommandType(u16::from(step >> 4)), CommandFlags::empty()),
        };
        let request = Request {
            flags: own | CommandFlags::from_bits_retain(flags << 1),
            command,
            cookie,
            offset: u64::from(argument) << 9,
            len: if command == CommandType::FLUSH {
                0
            } else {
                len
            },
        };
        let mut out = request.encode(style);
        if command == CommandType::WRITE {
            out.resize(out.len() + len as usize, argument);
        }
        out
    })
}

fn commands<B: AsRef<[u8]> + From<Vec<u8>>>() -> [Command<B>; 5] {
    [
        Command::read(0, READS[0]).into_buffer(vec![9; 512]),
        Command::read(READS[0], READS[1]).into_buffer(vec![9; 1 << 16]),
        Command::write(512, B::from(vec![1; 512])),
        Command::block_status(0, 1 << 20),
        Command::flush(),
    ]
}

/// A client without a tight deadline, for busy machines: its peers' scripts are finite.
fn patient() -> ClientBuilder {
    let hour = std::time::Duration::from_secs(3600);
    builder().deadlines(Deadlines {
        connect: hour,
        handshake: hour,
        request: hour,
    })
}

/// What a caller sees, except for the name of the stream.
fn learnt(result: Result<Reply, RequestError>) -> Result<Reply, Vec<String>> {
    result.map_err(|error| {
        let mut all = Vec::new();
        let mut next: Option<&dyn std::error::Error> = Some(&error);
        while let Some(error) = next {
            all.push(error.to_string().replace("a stream", "a socket"));
            next = error.source();
        }
        all
    })
}

async fn all_of(client: &Client) -> [Result<Reply, Vec<String>>; 5] {
    let [a, b, c, d, e] = commands().map(|command| client.submit(command));
    let (a, b, c, d, e) = tokio::join!(a, b, c, d, e);
    [a, b, c, d, e].map(learnt)
}

fn split<'a>(mut bytes: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut all = Vec::new();
    for len in lengths.iter().cycle() {
        if bytes.is_empty() {
            break;
        }
        let (piece, rest) = bytes.split_at(bytes.len().min(*len));
        all.push(piece);
        bytes = rest;
    }
    all
}

fn client_hears_the_same(handshake: &[u8], replies: &[u8], lengths: &[usize]) -> usize {
    let at_once = run(async {
        let script = Script::answering(handshake, replies);
        let client = patient().connect_stream(script).await;
        all_of(&client.expect("the handshake is in order")).await
    });
    let in_pieces = run(async {
        // A client that is gone is no reason to end, as it is where nobody says anything about it.
        let _pipes = signal(SignalKind::pipe()).unwrap();
        let (mut server, ours) = UnixStream::pair().unwrap();
        let talk = async {
            for piece in split(handshake, lengths) {
                server.write_all(piece).await.unwrap();
            }
            let mut heard = Vec::new();
            while !has_request(&heard) && server.read_buf(&mut heard).await.unwrap() > 0 {}
            for piece in split(replies, lengths) {
                // The client may be done with it.
                let _ = server.write_all(piece).await;
                tokio::task::yield_now().await;
            }
            // What the client still has to say is no reason to break the connection.
            let _ = server.shutdown().await;
        };
        let ours = OwnedFd::from(ours.into_std().unwrap());
        let ask = async {
            let client = patient().connect_fd(ours).await;
            all_of(&client.expect("the handshake is in order")).await
        };
        tokio::join!(talk, ask).1
    });
    assert_eq!(in_pieces, at_once, "a socket, in pieces");
    let (mut server, ours) = Blocking::pair().unwrap();
    let blocking = std::thread::scope(|scope| {
        let talk = scope.spawn(move || {
            for piece in split(handshake, lengths) {
                server.write_all(piece).unwrap();
            }
            let (mut heard, mut room) = (Vec::new(), [0; 4096]);
            while !has_request(&heard) {
                match server.read(&mut room).unwrap() {
                    0 => return,
                    n => heard.extend(&room[..n]),
                }
            }
            for piece in split(replies, lengths) {
                // The client may be done with it.
                let _ = server.write_all(piece);
                std::thread::yield_now();
            }
            let _ = server.shutdown(std::net::Shutdown::Write);
            // It stays open for what the client still has to say.
            let _ = std::io::copy(&mut server, &mut std::io::sink());
        });
        let client = patient().connect_fd_blocking(ours.into());
        let mut client = client.expect("the handshake is in order");
        let tickets = commands().map(|command| client.submit(command));
        let learnt = tickets.map(|ticket| learnt(ticket.and_then(|ticket| client.wait(ticket))));
        drop(client);
        // A scope does not wait for what a thread does at its very end, and that looks like a leak.
        talk.join().expect("the peer says what it has to");
        learnt
    });
    assert_eq!(blocking, at_once, "a socket that is waited for");
    at_once.iter().filter(|result| result.is_ok()).count()
}

/// A peer that sends everything in pieces, and keeps what it receives.
struct Pieces {
    script: Script,
    lengths: std::iter::Cycle<std::vec::IntoIter<usize>>,
    waits: bool,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.waits = !self.waits;
        if self.waits {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let len = self.lengths.next().unwrap_or(usize::MAX);
        let mut room = buf.take(len);
        let read = Pin::new(&mut self.script).poll_read(cx, &mut room);
        let n = room.filled().len();
        buf.advance(n);
        read
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.heard.lock().unwrap().extend(buf);
        Poll::Ready(Ok(buf.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn server_hears_the_same(mode: Mode, bytes: &[u8], lengths: Vec<usize>) -> usize {
    let said = |lengths: Vec<usize>| {
        let heard = Arc::default();
        let peer = Pieces {
            script: Script::new(bytes.to_vec()),
            lengths: lengths.into_iter().cycle(),
            waits: false,
            heard: Arc::clone(&heard),
        };
        run(async {
            // One after the other, so that the replies are always in the same order.
            let server = server(mode).in_flight(1).detached().unwrap();
            let _ = server.serve(peer).await;
        });
        std::mem::take(&mut *heard.lock().unwrap())
    };
    let at_once = said(vec![usize::MAX]);
    assert_eq!(said(lengths), at_once, "in pieces");
    at_once.len()
}
