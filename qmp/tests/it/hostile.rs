//! Peers that disconnect at any byte, and daemons that are killed at any step.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use qmp::mock::Monitor;
use qmp::types::{
    BlockdevAdd, BlockdevMirror, BlockdevOptions, BlockdevOptionsNull, BlockdevOptionsVariant,
    MirrorSyncMode, QueryNamedBlockNodes,
};
use qmp::{Client, Closed, ConnectError, Error, JobOutcome, Options};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};

use crate::calls::echo;
use crate::peer::GREETING;
use crate::qemu::{self, Qemu};

/// A server that sends a limited number of bytes and disconnects.
struct Server {
    stream: DuplexStream,
    left: usize,
    said: usize,
    /// The ranges of its messages in its output.
    messages: Vec<Range<usize>>,
}

impl Server {
    /// Sends a message; `None` when it has disconnected.
    async fn say(&mut self, message: &str) -> Option<()> {
        let length = message.trim_end().len();
        self.messages.push(self.said..self.said + length);
        self.said += message.len();
        let some = message.len().min(self.left);
        self.left -= some;
        let _ = self.stream.write_all(&message.as_bytes()[..some]).await;
        (self.left > 0).then_some(())
    }

    /// The next command; `None` when there is none.
    async fn command(&mut self) -> Option<Value> {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            line.push(self.stream.read_u8().await.ok()?);
        }
        let line = line.strip_prefix(b"\xFF").unwrap_or(&line);
        Some(serde_json::from_slice(line).expect("a command"))
    }

    async fn monitor(&mut self) -> Option<()> {
        self.say(GREETING).await?;
        loop {
            let command = self.command().await?;
            let reply = json!({"return": {}, "id": command["id"]}).to_string() + "\r\n";
            if command["execute"] == "stop" {
                self.say("{\"event\": \"STOP\"}\r\n").await?;
            }
            self.say(&reply).await?;
        }
    }

    async fn agent(&mut self) -> Option<()> {
        loop {
            let command = self.command().await?;
            let number = &command["arguments"]["id"];
            let reply = match command["execute"].as_str()? {
                "guest-sync-delimited" => json!({"return": number}),
                _ => json!({"return": {}}),
            };
            self.say(&(reply.to_string() + "\n")).await?;
        }
    }
}

/// Why the session ended that the error is about.
fn cause(error: Error) -> Closed {
    match error {
        Error::Closed { cause, .. } => cause,
        Error::Connect(error) => match *error {
            ConnectError::Closed { cause, .. } => cause,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

async fn talk(stream: DuplexStream, is_agent: bool) -> Result<(), Error> {
    let options = Options::default();
    let options = if is_agent {
        options.guest_agent()
    } else {
        options
    };
    let client = Client::from_stream(stream, options).await?;
    client.execute("first", ()).await?;
    if !is_agent {
        client.execute("stop", ()).and_event("STOP").await?;
    }
    client.execute("last", ()).await?;
    Ok(())
}

/// Every wait ends with the stream, and the error says whether it ended inside a message.
#[tokio::test(start_paused = true)]
async fn a_peer_that_leaves_after_any_byte_is_noticed_at_once() {
    let started = tokio::time::Instant::now();
    for is_agent in [false, true] {
        let mut succeeded = false;
        for bytes in 0.. {
            let (ours, theirs) = tokio::io::duplex(4096);
            let mut server = Server {
                stream: theirs,
                left: bytes,
                said: 0,
                messages: Vec::new(),
            };
            let serve = async {
                match is_agent {
                    false => server.monitor().await,
                    true => server.agent().await,
                };
                // It leaves.
                drop(server.stream);
                server.messages
            };
            let (outcome, messages) = tokio::join!(talk(ours, is_agent), serve);
            let cut = messages.iter().any(|m| m.start < bytes && bytes < m.end);
            match outcome {
                Ok(()) => {
                    succeeded = true;
                    assert!(!cut);
                    break;
                }
                Err(error) => match cause(error) {
                    Closed::Cut(_) => assert!(cut, "after {bytes} bytes"),
                    Closed::Eof => assert!(!cut, "after {bytes} bytes"),
                    other => panic!("after {bytes} bytes: {other:?}"),
                },
            }
        }
        assert!(succeeded);
    }
    // No deadline was needed.
    assert_eq!(started.elapsed(), Duration::ZERO);
}

/// A stream that a signal interrupts before everything it does, and that at last takes no byte more.
struct Odd {
    inner: DuplexStream,
    interrupted: bool,
    takes: usize,
    flushes: bool,
}

impl Odd {
    fn interrupt<T>(&mut self) -> Poll<io::Result<T>> {
        self.interrupted = true;
        Poll::Ready(Err(io::ErrorKind::Interrupted.into()))
    }
}

impl AsyncRead for Odd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.interrupted {
            return self.interrupt();
        }
        self.interrupted = false;
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Odd {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.interrupted {
            return self.interrupt();
        }
        self.interrupted = false;
        let some = bytes.len().min(self.takes);
        self.takes -= some;
        match some {
            0 => Poll::Ready(Ok(0)),
            some => Pin::new(&mut self.inner).poll_write(cx, &bytes[..some]),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.flushes {
            true => Pin::new(&mut self.inner).poll_flush(cx),
            false => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_stream_that_is_interrupted_works_and_one_that_takes_nothing_more_ends() {
    let (ours, theirs) = tokio::io::duplex(4096);
    let _control = echo().spawn(theirs);
    let stream = Odd {
        inner: ours,
        interrupted: false,
        takes: 1000,
        flushes: true,
    };
    let client = Client::from_stream(stream, Options::default()).await;
    let client = client.unwrap();
    let text = json!({"text": "x".repeat(100)});
    let mut served = 0;
    let error = loop {
        match client.execute("echo", text.clone()).await {
            Ok(same) => assert_eq!(same, text),
            Err(error) => break error,
        }
        served += 1;
    };
    assert_eq!(served, 5);
    assert!(matches!(error, Error::Closed { sent: false, .. }));
    match cause(error) {
        Closed::Io(error) => assert_eq!(error.kind(), io::ErrorKind::WriteZero),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_cannot_be_flushed_ends_its_session() {
    let (inner, theirs) = tokio::io::duplex(4096);
    let _control = Monitor::new().spawn(theirs);
    let stream = Odd {
        inner,
        interrupted: false,
        takes: 1000,
        flushes: false,
    };
    let error = Client::from_stream(stream, Options::default()).await;
    match cause(error.unwrap_err().into()) {
        Closed::Io(error) => assert_eq!(error.kind(), io::ErrorKind::BrokenPipe),
        other => panic!("{other:?}"),
    }
}

/// Adds two nodes and mirrors one to the other; at `kill` the daemon dies.
async fn mirror(qemu: &mut Qemu, client: &Client, kill: usize) -> Result<(), Error> {
    let mut step = 0;
    let mut at_step = || {
        if step == kill {
            qemu.child.kill().expect("a signal");
            qemu.child.wait().expect("its end");
        }
        step += 1;
    };
    at_step();
    for name in ["source", "target"] {
        let null = BlockdevOptionsNull::new().size(64_i64 << 20);
        let driver = BlockdevOptionsVariant::NullCo(Box::new(null));
        let node = BlockdevOptions::new(driver).node_name(name);
        client.call(BlockdevAdd(node)).await?;
        at_step();
    }
    let mut job = client.job("copy");
    let start = BlockdevMirror::new("source", "target", MirrorSyncMode::Full).job_id("copy");
    client.call(start).await?;
    at_step();
    let mut progress = job.progress(Duration::ZERO);
    progress.next().await?;
    at_step();
    progress.next().await?;
    drop(progress);
    at_step();
    job.wait_ready().await?;
    at_step();
    job.complete().await?;
    at_step();
    assert_eq!(job.wait_end().await?, JobOutcome::Completed);
    client.quit().await
}

#[tokio::test]
async fn a_daemon_that_is_killed_at_any_step_is_noticed_and_another_one_gone_on_with() {
    let Some(program) = qemu::all("qemu-storage-daemon").pop() else {
        return;
    };
    let mut qemu = Qemu::storage_daemon(&program);
    let client = qemu.client().await;
    let limit = Duration::from_secs(60);
    let mut kills = 0;
    loop {
        let job = client.job("copy");
        let outcome = tokio::time::timeout(limit, mirror(&mut qemu, &client, kills)).await;
        match outcome.expect("it hangs") {
            Ok(()) => break,
            Err(error) => assert!(error.is_closed(), "killed at step {kills}: {error:?}"),
        }
        qemu = Qemu::storage_daemon(&program);
        client.resume(qemu.client().await);
        // Of what the last one did nothing is left.
        assert!(client.call(QueryNamedBlockNodes::new()).await.unwrap().is_empty());
        assert!({ job }.info().await.unwrap().is_none());
        kills += 1;
    }
    assert_eq!(kills, 8);
}
