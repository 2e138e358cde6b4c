//! The task that reads replies and puts each piece where it belongs.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BufMut;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt, BufReader};

use super::connection::{Pending, Shared};
use super::error::ConnectionError;
use crate::proto::chunk::{self, Hole, Status};
use crate::proto::{Body, Outcome, ReplyHeader, Violation};

/// What a reply brought.
#[derive(Debug, Default)]
pub(super) struct Reply {
    /// Data of a read, from the request's offset on.
    pub(super) data: Vec<u8>,
    /// Status of each context.
    pub(super) statuses: Vec<Status>,
}

impl Reply {
    /// Fills this buffer, whose old content is dropped.
    pub(super) fn new(mut buffer: Vec<u8>) -> Reply {
        buffer.clear();
        Reply {
            data: buffer,
            statuses: Vec::new(),
        }
    }
}

/// Small enough that a large payload is not copied through it, large enough for many headers.
const BUFFER: usize = 4096;

/// How often to look for input before going to sleep: about as long as it takes to be woken. With
/// one thread the benchmark is faster with 32 than with 16, 4 or none; with several it hardly
/// matters.
const LOOKS: usize = 32;

type Rx = BufReader<Box<dyn AsyncRead + Send + Unpin>>;

/// Reads until the connection is over.
pub(super) async fn read(rx: Box<dyn AsyncRead + Send + Unpin>, shared: Arc<Shared>) {
    let mut rx = BufReader::with_capacity(BUFFER, rx);
    loop {
        if let Err(error) = read_one(&mut rx, &shared).await {
            shared.die(error);
            return;
        }
    }
}

async fn read_one(rx: &mut Rx, shared: &Shared) -> Result<(), ConnectionError> {
    let mut bytes = [0; ReplyHeader::MAX_LEN];
    // The end of the stream is in order between two messages only.
    let first = input(|cx| {
        Pin::new(&mut *rx)
            .poll_fill_buf(cx)
            .map_ok(<[u8]>::is_empty)
    })
    .await;
    if first.map_err(ConnectionError::Io)? {
        return Err(match shared.unfinished() {
            Some(cookie) => Violation::Unfinished { cookie }.into(),
            None => ConnectionError::Closed,
        });
    }
    exact(rx, &mut bytes[..ReplyHeader::MIN_LEN]).await?;
    let len = ReplyHeader::len_from_magic(&bytes).map_err(Violation::from)?;
    exact(rx, &mut bytes[ReplyHeader::MIN_LEN..len]).await?;
    let header = ReplyHeader::decode(&bytes[..len]).map_err(Violation::from)?;
    let cookie = header.cookie();
    let mut pending = shared.take(cookie).map_err(|was| match was {
        true => Violation::DuplicateReply { cookie },
        false => Violation::UnknownCookie { cookie },
    })?;
    shared.count_in(len as u64);
    match chunk(rx, shared, &header, &mut pending).await {
        Ok(None) => {
            pending.started = true;
            shared.put_back(cookie, pending);
            Ok(())
        }
        Ok(Some(outcome)) => {
            let reply = match outcome {
                Outcome::Done => Ok(pending.reply),
                Outcome::Failed(error) => Err(error),
            };
            // A caller that gave up does not listen any more.
            let _ = pending.done.send(Ok(reply));
            Ok(())
        }
        Err(error) => {
            // Its caller must learn the reason like all the others.
            shared.put_back(cookie, pending);
            Err(error)
        }
    }
}

async fn chunk(
    rx: &mut Rx,
    shared: &Shared,
    header: &ReplyHeader,
    pending: &mut Pending,
) -> Result<Option<Outcome>, ConnectionError> {
    let check = &mut pending.check;
    let reply = &mut pending.reply;
    let body = check.header(header)?;
    match body {
        Body::Nothing => {}
        Body::Simple { len } => {
            place(rx, &mut reply.data, 0, len).await?;
            shared.count_in(len);
        }
        Body::Data { len } => {
            let mut offset = [0; 8];
            exact(rx, &mut offset).await?;
            let at = check.content(u64::from_be_bytes(offset), len)?;
            place(rx, &mut reply.data, at, len).await?;
            shared.count_in(len + chunk::DATA_PREFIX);
        }
        Body::Hole => {
            let mut bytes = [0; chunk::HOLE_LEN as usize];
            exact(rx, &mut bytes).await?;
            let hole = Hole::decode(&bytes).map_err(Violation::from)?;
            let at = check.hole(hole)?;
            zero(&mut reply.data, at, u64::from(hole.len));
            shared.count_in(chunk::HOLE_LEN);
        }
        Body::Status { wide, len } => {
            let bytes = take(rx, len).await?;
            let status = Status::decode(&bytes, wide).map_err(Violation::from)?;
            check.status(&status)?;
            reply.statuses.push(status);
            shared.count_in(len);
        }
        Body::Error {
            with_offset,
            known,
            len,
        } => {
            let bytes = take(rx, len).await?;
            let error =
                chunk::Error::decode(&bytes, with_offset, known).map_err(Violation::from)?;
            check.error(error)?;
            shared.count_in(len);
        }
    }
    Ok(check.finish()?)
}

/// Reads data to a place in the buffer, which grows only as far as the request allows.
async fn place(rx: &mut Rx, data: &mut Vec<u8>, at: u64, len: u64) -> Result<(), ConnectionError> {
    let (at, len) = (at as usize, len as usize);
    if at != data.len() {
        if data.len() < at + len {
            data.resize(at + len, 0);
        }
        return exact(rx, &mut data[at..at + len]).await;
    }
    // In order, which is the rule: no zeroes are written only to be overwritten.
    data.reserve_exact(len);
    let mut left = len;
    while left > 0 {
        let mut room = (&mut *data).limit(left);
        let read = input(|cx| pin!(rx.read_buf(&mut room)).poll(cx)).await;
        match read.map_err(ConnectionError::Io)? {
            0 => return Err(ConnectionError::Io(io::ErrorKind::UnexpectedEof.into())),
            n => left -= n,
        }
    }
    Ok(())
}

/// Waits for input. What is missing of a payload follows within microseconds, and to fall asleep
/// and be woken takes longer: so all others get their turn a few times, and only then we sleep.
async fn input<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    for _ in 0..LOOKS {
        if let Poll::Ready(read) = poll_fn(|cx| Poll::Ready(poll(cx))).await {
            return read;
        }
        tokio::task::yield_now().await;
    }
    poll_fn(poll).await
}

fn zero(data: &mut Vec<u8>, at: u64, len: u64) {
    let (at, end) = (at as usize, (at + len) as usize);
    if data.len() < end {
        data.resize(end, 0);
    } else {
        data[at..end].fill(0);
    }
}

/// Reads a body whose length has been checked against its limit.
async fn take(rx: &mut Rx, len: u64) -> Result<Vec<u8>, ConnectionError> {
    let mut bytes = vec![0; len as usize];
    exact(rx, &mut bytes).await?;
    Ok(bytes)
}

async fn exact(rx: &mut Rx, bytes: &mut [u8]) -> Result<(), ConnectionError> {
    rx.read_exact(bytes)
        .await
        .map(drop)
        .map_err(ConnectionError::Io)
}
