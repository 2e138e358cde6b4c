//! The client: one request at a time, with interrupts collected on the side.

use super::codec::{self, Irq, Line, LineError, Request, Width};
use std::collections::VecDeque;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

/// Longer replies are not needed by tests; this bounds what a broken peer can make us allocate.
/// `read` answers with two digits a byte, so 16 MiB of memory fit.
const MAX_LINE: usize = 33 << 20;

/// How many interrupt changes are kept for [`Qtest::take_irqs`].
const MAX_IRQS: usize = 1 << 16;

/// How much of a request is shown in an error.
const MAX_SHOWN: usize = 200;

/// A request as errors show it: the whole line, unless it carries much data.
fn shown(line: &str) -> String {
    let mut cut = line.len().min(MAX_SHOWN);
    while !line.is_char_boundary(cut) {
        cut -= 1;
    }
    match line.len() - cut {
        0 => line.to_owned(),
        more => format!("{}… ({more} bytes more)", &line[..cut]),
    }
}

/// Why a qtest request failed. Errors show the beginning of a long request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QtestError {
    /// The accelerator has no virtual clock that can be moved.
    #[error(
        "failed to move the virtual clock: {request:?} is known only under -accel qtest, this machine answers {reply:?}"
    )]
    NoVirtualClock {
        /// The line sent.
        request: String,
        /// QEMU's error message.
        reply: String,
    },
    /// QEMU refused the request.
    #[error("failed to do the qtest request {request:?}: {reply}")]
    Refused {
        /// The line sent.
        request: String,
        /// QEMU's error message.
        reply: String,
    },
    /// The reply is missing the value that this request returns.
    #[error("failed to read the reply to {request:?}: {:?} is not what it returns", values.join(" "))]
    BadReply {
        /// The line sent.
        request: String,
        /// The values of the reply.
        values: Vec<String>,
    },
    /// A line outside the protocol. Replies can no longer be matched to requests, so every later
    /// request fails with [`QtestError::OutOfStep`].
    #[error("failed to read the reply to {request:?}")]
    BadLine {
        /// The line sent.
        request: String,
        /// The line received.
        source: LineError,
    },
    /// An earlier line was outside the protocol.
    #[error(
        "failed to send the qtest request {request:?}: an earlier line from QEMU was no reply ({line:?})"
    )]
    OutOfStep {
        /// The request, which was not sent.
        request: String,
        /// The line.
        line: String,
    },
    /// A request that is not a single line.
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
/// Calls queue up; dropping a call's future at any point leaves the connection usable: an unsent
/// rest is sent before the next request, and the abandoned reply is dropped.
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
    /// Bytes of `incoming` already consumed as lines.
    taken: usize,
    /// Bytes of `incoming` already searched for a newline.
    scanned: usize,
    /// Replies outstanding for abandoned requests.
    owed: usize,
    /// A line that was not a reply, after which replies cannot be matched to requests.
    stray: Option<String>,
    irqs: VecDeque<Irq>,
}

/// QEMU's answer to a request.
type Answer = Result<Vec<String>, QtestError>;

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
            taken: 0,
            scanned: 0,
            owed: 0,
            stray: None,
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
            let request = shown(&text);
            return Err(QtestError::Newline { request });
        }
        let exchange = async { self.io.lock().await.exchange(&text).await };
        match tokio::time::timeout(self.deadline, exchange).await {
            Err(_) => Err(QtestError::TimedOut {
                request: shown(&text),
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
                request: shown(&request.to_string()),
                values,
            }),
        }
    }

    /// Advances the virtual clock by this many nanoseconds; returns the new time.
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
        self.request(&Request::Out(width, port, value)).await.map(drop)
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
        self.request(&Request::Write(width, address, value)).await.map(drop)
    }

    /// Reads a range of guest memory.
    ///
    /// # Errors
    /// See [`QtestError`].
    pub async fn read_bytes(&self, address: u64, length: usize) -> Result<Vec<u8>, QtestError> {
        if length == 0 {
            // QEMU aborts on a read of length zero (qtest_process_command).
            return Ok(Vec::new());
        }
        let request = Request::ReadBytes(address, length);
        let values = self.request(&request).await?;
        match values.first().and_then(|word| codec::bytes(word)) {
            Some(data) if data.len() == length => Ok(data),
            _ => Err(QtestError::BadReply {
                request: shown(&request.to_string()),
                values,
            }),
        }
    }

    /// Writes a range of guest memory.
    ///
    /// # Errors
    /// See [`QtestError`].
    pub async fn write_bytes(&self, address: u64, data: &[u8]) -> Result<(), QtestError> {
        if data.is_empty() {
            // QEMU refuses a write of length zero.
            return Ok(());
        }
        self.request(&Request::WriteBytes(address, data.to_vec())).await.map(drop)
    }

    /// Takes the interrupt changes received since the last call, the last 65536 of them. Those that
    /// a request caused arrive before its reply.
    ///
    /// Nothing is read between calls, and QEMU blocks while its socket is full. A guest running
    /// under interception needs this, or any request, every few hundred changes.
    pub async fn take_irqs(&self) -> Vec<Irq> {
        let mut io = self.io.lock().await;
        io.look();
        io.irqs.drain(..).collect()
    }
}

impl Connection {
    async fn exchange(&mut self, request: &str) -> Answer {
        if let Some(line) = &self.stray {
            return Err(QtestError::OutOfStep {
                request: shown(request),
                line: line.clone(),
            });
        }
        self.outgoing.extend_from_slice(request.as_bytes());
        self.outgoing.push(b'\n');
        // Counted before the first await: from here on QEMU will answer, even if this future is
        // dropped.
        self.owed += 1;
        let request = &shown(request);
        loop {
            while let Some(answer) = self.take_reply(request)? {
                // The last outstanding reply is the one to this request.
                if self.owed == 0 {
                    return answer;
                }
            }
            self.transfer(request).await?;
        }
    }

    /// Sends or receives something. Receiving does not wait until everything is sent: QEMU does not
    /// read while it has interrupts to send. Cancel-safe.
    async fn transfer(&mut self, request: &str) -> Result<(), QtestError> {
        let (mut read, mut write) = self.stream.split();
        let done = tokio::select! {
            read = read.read_buf(&mut self.incoming) => match read {
                Ok(0) => return Err(QtestError::Closed { request: request.to_owned() }),
                read => read.map(drop),
            },
            written = write.write(&self.outgoing), if !self.outgoing.is_empty() => {
                written.map(|count| drop(self.outgoing.drain(..count)))
            }
        };
        done.map_err(|source| QtestError::Io {
            request: request.to_owned(),
            source,
        })
    }

    /// Receives what is available, without waiting, and bypassing tokio, which may not have noticed
    /// it yet. A broken connection is reported by the next request.
    fn look(&mut self) {
        let mut chunk = [0; 4096];
        loop {
            // These replies belong to abandoned requests.
            while let Ok(Some(_)) = self.take_reply("") {}
            match rustix::io::read(&self.stream, &mut chunk) {
                Ok(count @ 1..) if self.incoming.len() <= MAX_LINE => {
                    self.incoming.extend_from_slice(&chunk[..count]);
                }
                _ => return,
            }
        }
    }

    /// The next reply among what was received; the outer error is the connection's, the inner
    /// one QEMU's. Interrupts before it are kept.
    fn take_reply(&mut self, request: &str) -> Result<Option<Answer>, QtestError> {
        while let Some(line) = self.take_line() {
            let answer = match Line::parse(&line) {
                Ok(Line::Irq(irq)) => {
                    if self.irqs.len() == MAX_IRQS {
                        self.irqs.pop_front();
                    }
                    self.irqs.push_back(irq);
                    continue;
                }
                Ok(Line::Ok(values)) => Ok(values),
                Ok(Line::Fail(reply)) => {
                    let request = request.to_owned();
                    Err(QtestError::Refused { request, reply })
                }
                Err(source) => {
                    self.stray = Some(shown(&source.0));
                    let request = request.to_owned();
                    return Err(QtestError::BadLine { request, source });
                }
            };
            self.owed = self.owed.saturating_sub(1);
            return Ok(Some(answer));
        }
        if self.incoming.len() > MAX_LINE {
            let source = std::io::Error::other("the reply is longer than 33 MiB");
            let request = request.to_owned();
            return Err(QtestError::Io { request, source });
        }
        Ok(None)
    }

    fn take_line(&mut self) -> Option<String> {
        let rest = &self.incoming[self.scanned..];
        let Some(length) = rest.iter().position(|b| *b == b'\n') else {
            self.incoming.drain(..self.taken);
            self.taken = 0;
            self.scanned = self.incoming.len();
            return None;
        };
        let end = self.scanned + length + 1;
        let line = String::from_utf8_lossy(&self.incoming[self.taken..end]).into_owned();
        (self.taken, self.scanned) = (end, end);
        Some(line)
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
            irqs.iter().map(|i| (i.number, i.raised)).collect::<Vec<_>>(),
            [(4, true), (4, false)]
        );
        assert!(qtest.take_irqs().await.is_empty());
    }

    #[tokio::test]
    async fn interrupts_are_seen_without_a_request() {
        let (ours, mut theirs) = StdUnixStream::pair().unwrap();
        let qtest = Qtest::new(ours, Duration::from_secs(20)).unwrap();
        let mut tell = |text: &str| std::io::Write::write_all(&mut theirs, text.as_bytes());
        tell("IRQ raise 1\nIRQ lo").unwrap();
        assert_eq!(qtest.take_irqs().await.len(), 1);
        tell("wer 1\n").unwrap();
        let irqs = qtest.take_irqs().await;
        assert_eq!((irqs.len(), irqs[0].raised), (1, false));
        drop(theirs);
        assert!(qtest.take_irqs().await.is_empty());
    }

    #[tokio::test]
    async fn interrupts_are_taken_while_a_request_is_sent_and_only_so_many_kept() {
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        let qtest = Qtest::new(ours, Duration::from_secs(20)).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let theirs = UnixStream::from_std(theirs).unwrap();
        // Reads nothing until all its messages are consumed, as QEMU does.
        let peer = async move {
            let (read, mut write) = theirs.into_split();
            for number in 0..MAX_IRQS + 5 {
                let line = format!("IRQ raise {number}\n");
                write.write_all(line.as_bytes()).await.unwrap();
            }
            let mut request = String::new();
            BufReader::new(read).read_line(&mut request).await.unwrap();
            write.write_all(b"OK\n").await.unwrap();
            request.len()
        };
        let data = vec![0; 1 << 20];
        let peer = tokio::spawn(peer);
        qtest.write_bytes(0, &data).await.unwrap();
        assert!(peer.await.unwrap() > 2 * data.len());
        let irqs = qtest.take_irqs().await;
        assert_eq!((irqs.len(), irqs[0].number), (MAX_IRQS, 5));
    }

    #[tokio::test]
    async fn a_clock_command_without_qtest_accelerator_says_so() {
        let qtest = peer(|line| format!("FAIL Unknown command '{line}'\n"));
        let error = qtest.clock_step(1).await.unwrap_err();
        assert!(
            matches!(error, QtestError::NoVirtualClock { .. }),
            "{error}"
        );
        let error = qtest.write_bytes(0, &[0; 4096]).await.unwrap_err();
        let QtestError::Refused { request, .. } = error else {
            panic!("{error}")
        };
        assert!(request.ends_with("(8011 bytes more)"), "{request}");
        let error = qtest.read(Width::Byte, 0).await.unwrap_err();
        assert!(matches!(error, QtestError::Refused { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_cancelled_request_does_not_shift_later_replies() {
        let qtest = peer(|line| format!("OK {}\n", line.rsplit(' ').next().unwrap()));
        for polls in 0..6 {
            {
                let mut call = Box::pin(qtest.clock_step(77));
                // Polled this many times, then dropped wherever it is.
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

    /// After it replies cannot be matched to requests, so none is returned.
    #[tokio::test]
    async fn after_a_line_that_is_no_reply_every_request_is_refused() {
        let qtest = peer(|_| "hello\nOK 1\n".to_owned());
        let error = qtest.clock_step(1).await.unwrap_err();
        assert!(matches!(error, QtestError::BadLine { .. }), "{error}");
        for _ in 0..2 {
            let error = qtest.clock_step(2).await.unwrap_err();
            let QtestError::OutOfStep { request, line } = &error else {
                panic!("{error}")
            };
            assert_eq!((&**request, &**line), ("clock_step 2", "hello"));
        }
    }

    #[tokio::test]
    async fn a_newline_in_a_request_is_refused_before_it_is_sent() {
        let qtest = peer(|_| "OK 1\n".to_owned());
        let error = qtest.request(&Request::Raw("a\nb".into())).await.unwrap_err();
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
