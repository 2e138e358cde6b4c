//! The client: one request at a time, interrupts collected beside.

use super::codec::{self, Irq, Line, LineError, Request, Width};
use std::collections::VecDeque;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

/// A reply longer than this is no reply of a test's scale; it bounds what a broken peer
/// can make us allocate. `read` answers with two digits a byte, so 16 MiB of memory fit.
const MAX_LINE: usize = 33 << 20;

/// Why a qtest request failed.
#[derive(Debug, thiserror::Error)]
pub enum QtestError {
    /// The accelerator has no virtual clock that can be moved.
    #[error(
        "failed to move the virtual clock: {request:?} is known only under -accel qtest, this machine answers {reply:?}"
    )]
    NoVirtualClock {
        /// The line sent.
        request: String,
        /// QEMU's words.
        reply: String,
    },
    /// QEMU refused the request.
    #[error("failed to do the qtest request {request:?}: {reply}")]
    Refused {
        /// The line sent.
        request: String,
        /// QEMU's words.
        reply: String,
    },
    /// The reply lacks the value that this request returns.
    #[error("failed to read the reply to {request:?}: {values:?}")]
    BadReply {
        /// The line sent.
        request: String,
        /// The values of the reply.
        values: Vec<String>,
    },
    /// A line outside the protocol.
    #[error("failed to read the reply to {request:?}")]
    BadLine {
        /// The line sent.
        request: String,
        /// The line received.
        source: LineError,
    },
    /// A request that cannot be one line.
    #[error("failed to send the qtest request {request:?}: it holds a newline")]
    Newline {
        /// The request.
        request: String,
    },
    /// QEMU closed the socket.
    #[error("failed to get a reply to {request:?}: QEMU closed the qtest socket")]
    Closed {
        /// The line sent.
        request: String,
    },
    /// No reply within the deadline.
    #[error("failed to get a reply to {request:?} within {deadline:?}")]
    TimedOut {
        /// The line sent.
        request: String,
        /// The budget.
        deadline: Duration,
    },
    /// The socket failed.
    #[error("failed to talk qtest for {request:?}")]
    Io {
        /// The line sent.
        request: String,
        /// The cause.
        source: std::io::Error,
    },
}

/// A connection to a machine's qtest socket.
///
/// Calls queue up; dropping a call's future at any point leaves the connection usable: what
/// was not sent yet is sent before the next request, and the reply nobody waits for is dropped.
#[derive(Debug)]
pub struct Qtest {
    deadline: Duration,
    io: Mutex<Connection>,
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    /// Bytes of `incoming` known to hold no newline.
    scanned: usize,
    /// Replies still to come for requests whose callers went away.
    owed: usize,
    irqs: VecDeque<Irq>,
}

impl Qtest {
    /// Uses one end of a connected socket; each request has this deadline.
    ///
    /// # Errors
    /// If the socket cannot be registered with the running tokio runtime.
    pub fn new(stream: StdUnixStream, deadline: Duration) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        let stream = UnixStream::from_std(stream)?;
        let connection = Connection {
            stream,
            outgoing: Vec::new(),
            incoming: Vec::new(),
            scanned: 0,
            owed: 0,
            irqs: VecDeque::new(),
        };
        Ok(Self {
            deadline,
            io: Mutex::new(connection),
        })
    }

    /// Sends one request and returns the values of its reply.
    ///
    /// # Errors
    /// See [`QtestError`].
    pub async fn request(&self, request: &Request) -> Result<Vec<String>, QtestError> {
        let text = request.to_string();
        if text.contains('\n') {
            return Err(QtestError::Newline { request: text });
        }
        let exchange = async { self.io.lock().await.exchange(&text).await };
        match tokio::time::timeout(self.deadline, exchange).await {
            Err(_) => Err(QtestError::TimedOut {
                request: text,
                deadline: self.deadline,
            }),
            Ok(Err(QtestError::Refused {
                request: line,
                reply,
            })) if request.moves_clock() && reply.contains("Unknown command") => {
                Err(QtestError::NoVirtualClock {
                    request: line,
                    reply,
                })
            }
            Ok(result) => result,
        }
    }

    async fn value(&self, request: Request) -> Result<u64, QtestError> {
        let values = self.request(&request).await?;
        match values.first().and_then(|word| codec::number(word)) {
            Some(value) => Ok(value),
            None => Err(QtestError::BadReply {
                request: request.to_string(),
                values,
            }),
        }
    }

    /// Moves the virtual clock on by so many nanoseconds; returns the new time.
    ///
    /// # Errors
    /// [`QtestError::NoVirtualClock`] unless the machine runs under `-accel qtest`.
    pub async fn clock_step(&self, nanoseconds: u64) -> Result<u64, QtestError> {
        self.value(Request::ClockStep(Some(nanoseconds))).await
    }

    /// Moves the virtual clock to the next timer; returns the new time.
    ///
    /// # Errors
    /// As [`Qtest::clock_step`], and if no timer is set.
    pub async fn clock_step_to_deadline(&self) -> Result<u64, QtestError> {
        self.value(Request::ClockStep(None)).await
    }

    /// Moves the virtual clock to this time; a time in the past changes nothing.
    ///
    /// # Errors
    /// As [`Qtest::clock_step`].
    pub async fn clock_set(&self, nanoseconds: u64) -> Result<u64, QtestError> {
        self.value(Request::ClockSet(nanoseconds)).await
    }

    /// Reads an I/O port.
    ///
    /// # Errors
    /// See [`QtestError`].
    pub async fn port_in(&self, width: Width, port: u64) -> Result<u64, QtestError> {
        self.value(Request::In(width, port)).await
    }

    /// Writes an I/O port.
    ///
    /// # Errors
    /// See [`QtestError`].
    pub async fn port_out(&self, width: Width, port: u64, value: u64) -> Result<(), QtestError> {
        self.request(&Request::Out(width, port, value))
            .await
            .map(drop)
    }

    /// Reads one value from guest memory.
    ///
    /// # Errors
    /// See [`QtestError`].
    pub async fn read(&self, width: Width, address: u64) -> Result<u64, QtestError> {
        self.value(Request::Read(width, address)).await
    }

    /// Writes one value to guest memory.
    ///
    /// # Errors
    /// See [`QtestError`].
    pub async fn write(&self, width: Width, address: u64, value: u64) -> Result<(), QtestError> {
        self.request(&Request::Write(width, address, value))
            .await
            .map(drop)
    }

    /// Reads a range of guest memory.
    ///
    /// # Errors
    /// See [`QtestError`].
    pub async fn read_bytes(&self, address: u64, length: usize) -> Result<Vec<u8>, QtestError> {
        let request = Request::ReadBytes(address, length);
        let values = self.request(&request).await?;
        match values.first().and_then(|word| codec::bytes(word)) {
            Some(data) if data.len() == length => Ok(data),
            _ => Err(QtestError::BadReply {
                request: request.to_string(),
                values,
            }),
        }
    }

    /// Writes a range of guest memory.
    ///
    /// # Errors
    /// See [`QtestError`].
    pub async fn write_bytes(&self, address: u64, data: &[u8]) -> Result<(), QtestError> {
        self.request(&Request::WriteBytes(address, data.to_vec()))
            .await
            .map(drop)
    }

    /// Takes the interrupt changes received so far. They arrive before the reply to the
    /// request that caused them.
    pub async fn take_irqs(&self) -> Vec<Irq> {
        self.io.lock().await.irqs.drain(..).collect()
    }
}

impl Connection {
    async fn exchange(&mut self, request: &str) -> Result<Vec<String>, QtestError> {
        let io = |source| QtestError::Io {
            request: request.to_owned(),
            source,
        };
        self.outgoing.extend_from_slice(request.as_bytes());
        self.outgoing.push(b'\n');
        // Counted before the first await: from here on QEMU will answer, whether or not
        // this future lives to see it.
        let mut to_skip = self.owed;
        self.owed += 1;
        while !self.outgoing.is_empty() {
            // `write` is cancel safe: dropped, it wrote nothing.
            let n = self.stream.write(&self.outgoing).await.map_err(io)?;
            self.outgoing.drain(..n);
        }
        loop {
            let answer = self.next_reply(request).await?;
            self.owed -= 1;
            if to_skip == 0 {
                return answer;
            }
            to_skip -= 1;
        }
    }

    /// Reads until a reply; the outer error is the connection's, the inner one QEMU's.
    async fn next_reply(
        &mut self,
        request: &str,
    ) -> Result<Result<Vec<String>, QtestError>, QtestError> {
        let request = request.to_owned();
        loop {
            while let Some(line) = self.take_line() {
                match Line::parse(&line) {
                    Ok(Line::Irq(irq)) => self.irqs.push_back(irq),
                    Ok(Line::Ok(values)) => return Ok(Ok(values)),
                    Ok(Line::Fail(reply)) => {
                        return Ok(Err(QtestError::Refused { request, reply }));
                    }
                    Err(source) => return Ok(Err(QtestError::BadLine { request, source })),
                }
            }
            if self.incoming.len() > MAX_LINE {
                let source = std::io::Error::other("the reply is longer than 33 MiB");
                return Err(QtestError::Io { request, source });
            }
            match self.stream.read_buf(&mut self.incoming).await {
                Ok(0) => return Err(QtestError::Closed { request }),
                Ok(_) => {}
                Err(source) => return Err(QtestError::Io { request, source }),
            }
        }
    }

    fn take_line(&mut self) -> Option<String> {
        let Some(end) = self.incoming[self.scanned..]
            .iter()
            .position(|b| *b == b'\n')
        else {
            self.scanned = self.incoming.len();
            return None;
        };
        let rest = self.incoming.split_off(self.scanned + end + 1);
        let line = std::mem::replace(&mut self.incoming, rest);
        self.scanned = 0;
        Some(String::from_utf8_lossy(&line).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncBufReadExt, BufReader};

    /// A peer that answers the lines it reads by the given function.
    fn peer(answer: impl Fn(&str) -> String + Send + 'static) -> Qtest {
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let theirs = UnixStream::from_std(theirs).unwrap();
        tokio::spawn(async move {
            let (read, mut write) = theirs.into_split();
            let mut lines = BufReader::new(read).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if write.write_all(answer(&line).as_bytes()).await.is_err() {
                    return;
                }
            }
        });
        Qtest::new(ours, Duration::from_secs(20)).unwrap()
    }

    #[tokio::test]
    async fn interrupts_before_a_reply_are_kept_beside_it() {
        let qtest = peer(|_| "IRQ raise 4\nIRQ lower 4\nOK 100\n".to_owned());
        assert_eq!(qtest.clock_step(100).await.unwrap(), 100);
        let irqs = qtest.take_irqs().await;
        assert_eq!(
            irqs.iter()
                .map(|i| (i.number, i.raised))
                .collect::<Vec<_>>(),
            [(4, true), (4, false)]
        );
        assert!(qtest.take_irqs().await.is_empty());
    }

    #[tokio::test]
    async fn a_clock_command_without_qtest_accelerator_says_so() {
        let qtest = peer(|line| format!("FAIL Unknown command '{line}'\n"));
        let error = qtest.clock_step(1).await.unwrap_err();
        assert!(
            matches!(error, QtestError::NoVirtualClock { .. }),
            "{error}"
        );
        let error = qtest.read(Width::Byte, 0).await.unwrap_err();
        assert!(matches!(error, QtestError::Refused { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_cancelled_request_does_not_shift_later_replies() {
        let qtest = peer(|line| format!("OK {}\n", line.rsplit(' ').next().unwrap()));
        for polls in 0..6 {
            {
                let mut call = Box::pin(qtest.clock_step(77));
                // Polled so many times, then dropped wherever it is.
                for _ in 0..polls {
                    tokio::select! { biased; _ = &mut call => break, () = tokio::task::yield_now() => {} }
                }
            }
            assert_eq!(qtest.clock_step(5).await.unwrap(), 5, "after {polls} polls");
        }
    }

    #[tokio::test]
    async fn a_reply_without_its_value_is_an_error() {
        let qtest = peer(|_| "OK\n".to_owned());
        assert!(matches!(
            qtest.port_in(Width::Byte, 1).await,
            Err(QtestError::BadReply { .. })
        ));
        assert!(matches!(
            qtest.read_bytes(0, 2).await,
            Err(QtestError::BadReply { .. })
        ));
    }

    #[tokio::test]
    async fn a_newline_in_a_request_is_refused_before_it_is_sent() {
        let qtest = peer(|_| "OK 1\n".to_owned());
        let error = qtest
            .request(&Request::Raw("a\nb".into()))
            .await
            .unwrap_err();
        assert!(matches!(error, QtestError::Newline { .. }));
        assert_eq!(qtest.clock_set(1).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_closed_socket_ends_the_request() {
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        drop(theirs);
        let qtest = Qtest::new(ours, Duration::from_secs(20)).unwrap();
        let error = qtest.clock_step(1).await.unwrap_err();
        assert!(
            matches!(error, QtestError::Closed { .. } | QtestError::Io { .. }),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_silent_machine_meets_the_deadline() {
        let (ours, _theirs) = StdUnixStream::pair().unwrap();
        let qtest = Qtest::new(ours, Duration::from_millis(10)).unwrap();
        assert!(matches!(
            qtest.clock_step(1).await,
            Err(QtestError::TimedOut { .. })
        ));
    }
}
