//! One command in flight: what to send, how long to wait, and which event ends it.

use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tracing::field::Empty;
use tracing::{Instrument, debug, debug_span};

use super::events::RecvError;
use super::handle::Client;
use super::shared::{OnWay, Outcome, Shared};
use crate::command::Command;
use crate::decode;
use crate::encode::{self, Arguments, EncodeError};
use crate::error::{Closed, CommandError, Error, ReplyError};
use crate::matcher::Matcher;
use crate::message::Event;
use crate::session::{CallId, Failure, Request, Returned, Undecodable};

/// How long a peer must be silent after a command that it answers only on failure.
const SILENCE: Duration = Duration::from_secs(2);

/// The return value of a command that returns nothing.
fn nothing() -> Returned {
    Returned {
        raw: serde_json::value::RawValue::from_string("{}".to_owned()).unwrap_or_default(),
        depth: 1,
    }
}

/// A command that is sent when this is awaited.
///
/// Dropping the future is safe at any point: a command that was not sent never will be; one that
/// was sent is executed, and its reply is discarded. A line is always written whole. But QEMU drops
/// its queued commands when the session ends, so keep the last [`Client`] until every command that
/// must be executed is answered.
///
/// # Errors
/// Awaiting it gives [`Error::Encode`], [`Error::Command`], [`Error::Reply`], [`Error::Closed`] or
/// [`Error::Timeout`]. After a timeout the session continues; but without out-of-band execution
/// QEMU executes commands one at a time, so the next one waits for this one to finish.
#[derive(Debug)]
#[must_use = "a command is only sent when it is awaited"]
pub struct Call<R = Value> {
    client: Client,
    name: String,
    arguments: Result<Arguments, EncodeError>,
    oob: bool,
    allow_oob: bool,
    answers: bool,
    /// For a command that is only answered on failure: whether all of it was written.
    unanswered: Option<Arc<AtomicBool>>,
    fd: Option<OwnedFd>,
    deadline: Option<Duration>,
    returns: PhantomData<fn() -> R>,
}

impl<R: DeserializeOwned + Send + 'static> Call<R> {
    pub(crate) fn new(
        client: &Client,
        name: &str,
        arguments: Result<Arguments, EncodeError>,
    ) -> Self {
        Self {
            client: client.clone(),
            name: name.to_owned(),
            arguments,
            oob: false,
            allow_oob: true,
            answers: true,
            unanswered: None,
            fd: None,
            deadline: client.deadline(),
            returns: PhantomData,
        }
    }

    /// A typed command, with the properties that its type declares.
    pub(crate) fn typed<C: Command<Return = R>>(client: &Client, command: &C) -> Self {
        if C::DEPRECATED || C::UNSTABLE {
            debug!(
                target: "qmp", command = C::NAME, deprecated = C::DEPRECATED, unstable = C::UNSTABLE,
                "a command that may change or go"
            );
        }
        let arguments = match (client.stable_only(), C::DEPRECATED, C::UNSTABLE) {
            (true, true, _) => Err(EncodeError::Deprecated),
            (true, _, true) => Err(EncodeError::Unstable),
            _ => encode::arguments(command),
        };
        Self {
            allow_oob: C::ALLOW_OOB,
            answers: C::ANSWERS,
            ..Self::new(client, C::NAME, arguments)
        }
    }

    /// Limits the time from the first poll to the reply.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Lifts the limit that [`Options::call_deadline`](crate::Options::call_deadline) sets.
    pub fn no_deadline(mut self) -> Self {
        self.deadline = None;
        self
    }

    /// Executes the command out of band: at once, whatever QEMU's main loop is doing. QEMU refuses
    /// this for most commands, and for all where out-of-band execution is not enabled.
    pub fn oob(mut self) -> Self {
        self.oob = true;
        self
    }

    /// Sends a file descriptor with the command, as `getfd` and `add-fd` require. It is closed on
    /// this side whether or not it was sent.
    ///
    /// A command that fails before it has taken the descriptor, such as one that does not exist,
    /// leaves it in QEMU: the next `getfd` or `add-fd` without a descriptor of its own gets it.
    pub fn fd(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.fd = Some(fd.into());
        self
    }

    /// Takes the returned value as JSON text, without decoding it.
    ///
    /// # Errors
    /// As for awaiting the call.
    pub async fn raw(self) -> Result<Box<RawValue>, Error> {
        self.returned().await.map(|returned| returned.raw)
    }

    /// Sends the command and waits for its return value, if it has one.
    async fn returned(self) -> Result<Returned, Error> {
        if self.answers {
            return self.run(None).await.map(|(returned, _)| returned);
        }
        self.unless_refused(SILENCE).await?;
        Ok(nothing())
    }

    /// Sends a command that is answered only on failure, such as the guest agent's `guest-shutdown`
    /// and `guest-suspend-ram`. It has succeeded if the peer reports success, stays silent for this
    /// long, or disconnects.
    ///
    /// # Errors
    /// When the peer refuses, or when the session ends or the deadline passes before all of the
    /// command was written.
    pub async fn unless_refused(mut self, silence: Duration) -> Result<(), Error> {
        if let Some(cause) = self.client.closed_cause() {
            return Err(Error::closed(format!("execute {}", self.name), cause));
        }
        let written = Arc::new(AtomicBool::new(false));
        self.unanswered = Some(Arc::clone(&written));
        self.deadline = Some(silence);
        match self.run(None).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_farewell() => Ok(()),
            Err(Error::Timeout { .. }) if written.load(Ordering::Relaxed) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Also waits for an event that the command causes, whether it arrives before or after the
    /// reply.
    ///
    /// An event that has arrived, or begun to arrive, when the command is written does not count:
    /// the subscription begins with the last byte of the command, after everything in the kernel's
    /// buffer was read. (For a stream given to [`Client::from_stream`], after everything that the
    /// stream itself has ready.) An older event that is still inside QEMU looks like the command's
    /// own, so match on an id where there is one. The deadline covers command and event together.
    /// If the command fails, no event is waited for.
    pub fn and_event(self, matcher: impl Into<Matcher>) -> CallAndEvent<R> {
        CallAndEvent {
            call: self,
            matcher: matcher.into(),
        }
    }

    /// Sends the command; returns its return value and the event that was waited for.
    async fn run(self, wait: Option<Matcher>) -> Result<(Returned, Option<Arc<Event>>), Error> {
        let Self {
            client,
            name,
            arguments,
            oob,
            allow_oob,
            unanswered,
            fd,
            deadline,
            ..
        } = self;
        let arguments = match arguments {
            _ if oob && !allow_oob => Err(EncodeError::NotOutOfBand),
            arguments => arguments,
        };
        let arguments = arguments.map_err(|source| Error::Encode {
            command: name.clone(),
            source,
        })?;
        let task = || format!("execute {name}");
        let span = debug_span!(
            target: "qmp", "call", command = name, id = Empty, latency = Empty
        );
        let work = within(deadline, task, async {
            let shared = client.shared();
            let mut events =
                wait.map(|matcher| (matcher.to_string(), shared.subscribe(matcher, false)));
            let request = Request {
                name: name.clone(),
                arguments,
                oob,
                answers: unanswered.is_none(),
                fd,
            };
            let on_way = OnWay {
                span: span.clone(),
                queue: events.as_ref().map(|(_, events)| Arc::clone(events.queue())),
                written: unanswered,
            };
            let waiting =
                Waiting::submit(&shared, request, on_way).map_err(|source| Error::Encode {
                    command: name.clone(),
                    source,
                })?;
            let returned = waiting.outcome(&name).await?;
            let Some((wanted, events)) = &mut events else {
                return Ok((returned, None));
            };
            loop {
                match events.recv().await {
                    Ok(event) => return Ok((returned, Some(event))),
                    // The first event of a queue is never lost, and one is enough.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed(cause)) => {
                        return Err(Error::Closed {
                            task: format!("see {wanted} after {name}"),
                            cause,
                            sent: true,
                        });
                    }
                    Err(end) => return Err(end.into_error(format!("see {wanted} after {name}"))),
                }
            }
        });
        work.instrument(span.clone()).await
    }
}

/// The future of a call.
type Running<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

impl<R: DeserializeOwned + Send + 'static> IntoFuture for Call<R> {
    type Output = Result<R, Error>;
    type IntoFuture = Running<R>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let name = self.name.clone();
            let returned = self.returned().await?;
            decode_return(&name, &returned)
        })
    }
}

/// A command and an event that it causes; see [`Call::and_event`].
#[derive(Debug)]
#[must_use = "a command is only sent when it is awaited"]
pub struct CallAndEvent<R = Value> {
    call: Call<R>,
    matcher: Matcher,
}

impl<R: DeserializeOwned + Send + 'static> CallAndEvent<R> {
    /// Limits the time from the first poll to the event.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.call = self.call.deadline(deadline);
        self
    }
}

impl<R: DeserializeOwned + Send + 'static> IntoFuture for CallAndEvent<R> {
    type Output = Result<(R, Arc<Event>), Error>;
    type IntoFuture = Running<(R, Arc<Event>)>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let name = self.call.name.clone();
            match self.call.run(Some(self.matcher)).await? {
                (returned, Some(event)) => Ok((decode_return(&name, &returned)?, event)),
                (_, None) => Err(Error::closed(format!("execute {name}"), Closed::Local)),
            }
        })
    }
}

fn decode_return<R: DeserializeOwned + Send>(
    command: &str,
    returned: &Returned,
) -> Result<R, Error> {
    decode::from_return_of_depth(&returned.raw, returned.depth).map_err(|source| Error::Reply {
        command: command.to_owned(),
        source: Box::new(ReplyError::Decode {
            source,
            raw: returned.raw.get().to_owned(),
        }),
    })
}

/// A submitted call; dropping it abandons the call in the session.
struct Waiting<'a> {
    shared: &'a Shared,
    call: Option<CallId>,
    outcome: oneshot::Receiver<Outcome>,
}

impl<'a> Waiting<'a> {
    fn submit(shared: &'a Shared, request: Request, on_way: OnWay) -> Result<Self, EncodeError> {
        let (call, outcome) = shared.submit(request, on_way)?;
        Ok(Self {
            shared,
            call,
            outcome,
        })
    }

    async fn outcome(mut self, command: &str) -> Result<Returned, Error> {
        let outcome = (&mut self.outcome).await;
        self.call = None;
        match outcome {
            Ok(Outcome::Returned(returned)) => Ok(returned),
            Ok(Outcome::Failed {
                id,
                failure: Failure::Error { error, raw },
            }) => Err(CommandError {
                command: command.to_owned(),
                id,
                class: error.class,
                desc: error.desc,
                raw,
            }
            .into()),
            Ok(Outcome::Failed {
                failure: Failure::Undecodable { source, text },
                ..
            }) => {
                let source = match source {
                    Undecodable::Frame(error) => ReplyError::Frame(error),
                    Undecodable::Decode(source) => ReplyError::Decode { source, raw: text },
                };
                Err(Error::Reply {
                    command: command.to_owned(),
                    source: Box::new(source),
                })
            }
            Ok(Outcome::Unsendable) => Err(Error::Encode {
                command: command.to_owned(),
                source: EncodeError::NoDescriptors,
            }),
            Ok(Outcome::Closed { cause, sent }) => Err(Error::Closed {
                task: format!("execute {command}"),
                cause,
                sent,
            }),
            // The state that held the sender is gone, and with it the command's outcome.
            Err(_) => Err(Error::Closed {
                task: format!("execute {command}"),
                cause: Closed::Local,
                sent: true,
            }),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(call) = self.call {
            self.shared.abandon(call);
        }
    }
}

/// Runs `work` within a deadline, if there is one.
pub(crate) async fn within<T>(
    deadline: Option<Duration>,
    task: impl Fn() -> String,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let Some(after) = deadline else {
        return work.await;
    };
    match tokio::time::timeout(after, work).await {
        Ok(result) => result,
        Err(_) => Err(Error::Timeout {
            task: task(),
            after,
        }),
    }
}
