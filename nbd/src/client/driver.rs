//! The task of a connection: it moves bytes between a socket and the protocol's state machine, and
//! answers callers. It knows nothing of the protocol.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Sleep;

use super::connection::Shared;
use crate::proto::client::{Command, Reply, RequestError, Transmission};
use crate::socket::Socket;

/// What callers ask of a connection.
pub(super) enum Order {
    Submit {
        command: Command<Bytes>,
        deadline: Option<(Instant, Duration)>,
        done: oneshot::Sender<Result<Reply, RequestError>>,
    },
    Disconnect,
}

/// Slices that are written at once.
const SLICES: usize = 32;

/// The cost of waking up a thread.
const WAKE_UP: Duration = Duration::from_micros(20);

pub(super) struct Driver {
    pub(super) socket: Socket,
    pub(super) machine: Transmission<Bytes>,
    pub(super) orders: mpsc::UnboundedReceiver<Order>,
    pub(super) shared: Arc<Shared>,
    callers: HashMap<u64, oneshot::Sender<Result<Reply, RequestError>>>,
    timer: Option<Pin<Box<Sleep>>>,
    /// When it stops polling for the rest of a message and goes to sleep.
    looks_until: Option<Instant>,
    shut_down: bool,
}

impl Driver {
    pub(super) fn new(
        socket: Socket,
        machine: Transmission<Bytes>,
        orders: mpsc::UnboundedReceiver<Order>,
        shared: Arc<Shared>,
    ) -> Driver {
        Driver {
            socket,
            machine,
            orders,
            shared,
            callers: HashMap::new(),
            timer: None,
            looks_until: None,
            shut_down: false,
        }
    }

    /// Runs until the connection is dead, or its last handle is dropped.
    pub(super) async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
        if let Some(why) = self.machine.error() {
            self.shared.over.send_replace(Some(why));
        }
        // Drain the channel, including orders being sent right now: one left behind would keep its
        // caller waiting for as long as the channel exists.
        self.orders.close();
        while self.orders.recv().await.is_some() {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut busy = false;
            while let Poll::Ready(order) = self.orders.poll_recv(cx) {
                busy = true;
                match order {
                    Some(order) => self.take(order),
                    None => return Poll::Ready(()),
                }
            }
            busy |= self.poll_write(cx) | self.poll_read(cx) | self.poll_timer(cx);
            while let Some(notice) = self.machine.notice() {
                if let Some(caller) = self.callers.remove(&notice.cookie) {
                    // The caller may have dropped its future.
                    let _ = caller.send(notice.result);
                }
            }
            if self.machine.is_dead() {
                return Poll::Ready(());
            }
            if !busy {
                self.shared.count(&self.machine);
                return Poll::Pending;
            }
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Disconnect => self.machine.disconnect(),
            Order::Submit {
                command,
                deadline,
                done,
            } => match self.machine.submit(command, deadline) {
                Ok(cookie) => drop(self.callers.insert(cookie, done)),
                // The caller may have dropped its future.
                Err(error) => drop(done.send(Err(error))),
            },
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> bool {
        let mut busy = false;
        while self.machine.wants_to_send() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let n = self.machine.slices(&mut slices);
            let written = Pin::new(&mut self.socket).poll_write_vectored(cx, &slices[..n]);
            match written {
                Poll::Ready(Ok(n)) if n > 0 => self.machine.sent(n),
                Poll::Ready(Ok(_)) => self.fail(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Err(error)) => self.write_failed(error),
                Poll::Pending => return busy,
            }
            busy = true;
        }
        if self.socket.is_unflushed() {
            match Pin::new(&mut self.socket).poll_flush(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => self.write_failed(error),
                Poll::Pending => return busy,
            }
        }
        if self.machine.has_said_goodbye() && !self.shut_down {
            // The read side reports a failure.
            let ended = Pin::new(&mut self.socket).poll_shutdown(cx);
            self.shut_down = ended.is_ready();
        }
        busy
    }

    /// A server may have sent a final message before it closed, which is read first.
    fn write_failed(&mut self, error: io::Error) {
        match error.kind() {
            io::ErrorKind::BrokenPipe => {
                while !self.machine.is_dead() {
                    match self.socket.read_now(self.machine.space()) {
                        Ok(0) => self.machine.end_of_stream(),
                        Ok(n) => self.machine.filled(n),
                        Err(_) => break,
                    }
                }
                self.fail(error);
            }
            _ => self.fail(error),
        }
    }

    fn fail(&mut self, error: io::Error) {
        self.machine.io_failed(error);
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> bool {
        let mut read = self.socket.poll_read_both(cx, self.machine.spaces());
        if read.is_pending() && self.machine.is_receiving() {
            read = self.poll_soon(cx);
        }
        if read.is_ready() {
            self.looks_until = None;
        }
        match read {
            Poll::Ready(Ok(0)) => self.machine.end_of_stream(),
            Poll::Ready(Ok(n)) => self.machine.filled(n),
            Poll::Ready(Err(error)) => self.fail(error),
            Poll::Pending => return false,
        }
        true
    }

    /// Polls for the rest of a message, which a local peer is about to write, for as long as waking
    /// up a thread would take. Other tasks run meanwhile; the peer may be one of them.
    fn poll_soon(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if !self.socket.is_near() {
            return Poll::Pending;
        }
        match self.socket.read_now(self.machine.space()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let now = Instant::now();
                if now < *self.looks_until.get_or_insert(now + WAKE_UP) {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
            read => Poll::Ready(read),
        }
    }

    /// The timer is set for the earliest deadline, or for an earlier, obsolete one. All requests of
    /// a connection have the same timeout, so a later request never has an earlier deadline.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = self.machine.deadline() else {
            return false;
        };
        let at = tokio::time::Instant::from_std(deadline);
        let set = || Box::pin(tokio::time::sleep_until(at));
        let timer = self.timer.get_or_insert_with(set);
        if timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.timer = None;
        self.machine.timeout(tokio::time::Instant::now().into_std());
        true
    }
}
