//! Streams that are not sockets: those that accept more than they pass on, as TLS does.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use nbd::Client;
use nbd::client::Pattern;
use nbd::proto::CommandType as C;
use nbd::server::backend::MemoryBackend;
use nbd::server::journal::Closed;
use nbd::server::plan::{Action, FaultPlan, On, Rule};
use nbd::server::{Event, Export, Server};
use tokio::io::{AsyncWrite, DuplexStream, Join, ReadHalf, WriteHalf, join, split};

use crate::support::{MIB, block_on};

const TIMEOUT: Duration = Duration::from_secs(60);

/// Takes whatever is written, and sends it when flushed, in pieces, with a pause after each.
struct Collects {
    stream: WriteHalf<DuplexStream>,
    taken: Vec<u8>,
    paused: bool,
}

impl Collects {
    const PIECE: usize = 4096;

    /// A stream that writes like this.
    fn over(stream: DuplexStream) -> Join<ReadHalf<DuplexStream>, Collects> {
        let (reader, stream) = split(stream);
        let (taken, paused) = (Vec::new(), false);
        let writer = Collects {
            stream,
            taken,
            paused,
        };
        join(reader, writer)
    }
}

impl AsyncWrite for Collects {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.taken.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.taken.is_empty() {
            return Poll::Ready(Ok(()));
        }
        this.paused = !this.paused;
        if this.paused {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let piece = &this.taken[..this.taken.len().min(Self::PIECE)];
        match Pin::new(&mut this.stream).poll_write(cx, piece) {
            Poll::Ready(Ok(n)) => drop(this.taken.drain(..n)),
            other => return other.map_ok(drop),
        }
        self.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.as_mut().poll_flush(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.stream).poll_shutdown(cx),
            other => other,
        }
    }
}

#[test]
fn a_stream_is_flushed_until_everything_is_gone() {
    block_on(async {
        let export = Export::new(MemoryBackend::new(MIB));
        let server = Server::builder().export(export).detached().unwrap();
        let (ours, theirs) = tokio::io::duplex(1 << 14);
        server.serve(Collects::over(theirs));
        let work = async {
            let builder = Client::builder();
            let client = builder.connect_stream(Collects::over(ours)).await.unwrap();
            client.write(0, vec![9; MIB as usize]).await.unwrap();
            let found = client.verify(0..MIB, Pattern::Byte(9)).await.unwrap();
            assert_eq!(found, None);
            client.disconnect().await.unwrap();
        };
        let done = tokio::time::timeout(TIMEOUT, work).await;
        done.expect("something stayed in a stream");
        server.finish().await.unwrap();
    });
}

#[test]
fn a_close_by_plan_comes_after_what_is_still_in_the_stream() {
    block_on(async {
        let close = Rule::new(On::reply(C::READ), Action::CLOSE).after();
        let export = Export::new(MemoryBackend::new(MIB));
        let server = Server::builder().export(export);
        let server = server.plan(FaultPlan::new().rule(close)).detached().unwrap();
        let (ours, theirs) = tokio::io::duplex(1 << 14);
        server.serve(Collects::over(theirs));
        let client = Client::builder().connect_stream(ours).await.unwrap();
        let read = tokio::time::timeout(TIMEOUT, client.read(0, MIB)).await;
        assert_eq!(read.unwrap().unwrap().len(), MIB as usize);
        server.finish().await.unwrap();
    });
}

#[test]
fn a_reply_that_is_sent_byte_by_byte_leaves_the_connection_as_it_was() {
    block_on(async {
        // A reply without data, which costs something all the same.
        let dribble = Rule::new(On::reply(C::WRITE), Action::Dribble);
        let export = Export::new(MemoryBackend::new(MIB));
        let server = Server::builder().export(export);
        let server = server.plan(FaultPlan::new().rule(dribble)).detached().unwrap();
        let (ours, theirs) = tokio::io::duplex(1 << 14);
        server.serve(theirs);
        let client = Client::builder().connect_stream(ours).await.unwrap();
        client.write(0, vec![9; 512]).await.unwrap();
        assert_eq!(client.read(0, 512).await.unwrap(), [9; 512]);
        client.disconnect().await.unwrap();
        let journal = server.finish().await.unwrap();
        let polite = |e: &nbd::server::Entry| e.event == Event::Closed(Closed::Goodbye);
        assert_eq!(journal.count(polite), 1, "{}", journal.to_json_lines());
    });
}

#[test]
fn a_request_that_is_made_while_the_connection_dies_ends() {
    block_on(async {
        for round in 0..4000 {
            let export = Export::new(MemoryBackend::new(MIB));
            let server = Server::builder().export(export).detached().unwrap();
            let (ours, theirs) = tokio::io::duplex(1 << 14);
            let serving = server.serve(theirs);
            let client = Client::builder().connect_stream(ours).await.unwrap();
            let mut callers = tokio::task::JoinSet::new();
            for _ in 0..4 {
                let client = client.clone();
                // The next request follows on the heels of the one that failed.
                callers.spawn(async move {
                    while client.read(0, 512).await.is_ok() {}
                    client.read(0, 512).await.unwrap_err();
                });
            }
            serving.abort();
            let ended = tokio::time::timeout(TIMEOUT, callers.join_all()).await;
            ended.unwrap_or_else(|_| panic!("round {round}: a caller waits for nobody"));
        }
    });
}
