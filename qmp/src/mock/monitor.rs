//! Configuring, controlling and inspecting a mock monitor.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::serve::Server;
use super::socket::{Received, Socket};
use crate::client::FOREVER;
use crate::message::{ErrorClass, ErrorObject, Event, Greeting, Version};

/// A command as a monitor receives it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Request {
    /// The command's name.
    pub name: String,
    /// Its arguments, empty if there are none.
    pub arguments: Map<String, Value>,
    /// Its id.
    pub id: Option<Value>,
    /// Whether it was sent with `exec-oob`.
    pub oob: bool,
    /// The descriptor that was sent with it, or left over from an earlier command: for `getfd` and
    /// `add-fd`, on a Unix socket ([`Monitor::spawn_unix`]).
    pub fd: Option<Arc<OwnedFd>>,
}

/// What a command does, in order. Everything up to an [`Answer::flush`] is written at once.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub(super) steps: Vec<Step>,
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Return(Value),
    Error(ErrorObject),
    Event(Event),
    Raw(Vec<u8>),
    Flush,
    Close,
}

impl Answer {
    /// Never answers.
    pub fn silence() -> Self {
        Self::default()
    }

    /// Returns a value.
    pub fn value(value: Value) -> Self {
        Self::silence().step(Step::Return(value))
    }

    /// Returns an empty object, as commands without a return value do.
    pub fn empty() -> Self {
        Self::value(Value::Object(Map::new()))
    }

    /// Fails with a `GenericError`.
    pub fn error(desc: impl Into<String>) -> Self {
        Self::silence().step(Step::Error(ErrorObject::new(
            ErrorClass::GenericError,
            desc,
        )))
    }

    /// Then sends an event.
    #[must_use]
    pub fn event(self, event: Event) -> Self {
        self.step(Step::Event(event))
    }

    /// Then sends these bytes, whatever they are.
    #[must_use]
    pub fn raw(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.step(Step::Raw(bytes.into()))
    }

    /// Then returns a value.
    #[must_use]
    pub fn then(self, value: Value) -> Self {
        self.step(Step::Return(value))
    }

    /// Then writes what is buffered, so that what follows arrives in a separate segment.
    #[must_use]
    pub fn flush(self) -> Self {
        self.step(Step::Flush)
    }

    /// Then closes the connection.
    #[must_use]
    pub fn close(self) -> Self {
        self.step(Step::Close)
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
}

pub(super) type Handler = Arc<dyn Fn(&Request) -> Answer + Send + Sync>;

/// A monitor to configure and then [`spawn`](Monitor::spawn) on a stream.
#[derive(Clone)]
pub struct Monitor {
    pub(super) greeting: Option<Greeting>,
    pub(super) agent: bool,
    pub(super) pretty: bool,
    pub(super) before_greeting: Vec<u8>,
    pub(super) before_negotiated: Vec<u8>,
    pub(super) handlers: HashMap<String, Handler>,
    pub(super) fallback: Option<Handler>,
    pub(super) allow_oob: HashSet<String>,
    pub(super) throttle: HashMap<String, Duration>,
}

impl Default for Monitor {
    fn default() -> Self {
        Self::new()
    }
}

impl Monitor {
    /// A monitor that offers `oob` and knows no commands but `qmp_capabilities` and `quit`.
    pub fn new() -> Self {
        let greeting = Greeting::new(Version::new(10, 0, 2), ["oob".to_owned()]);
        Self {
            greeting: Some(greeting),
            agent: false,
            pretty: false,
            before_greeting: Vec::new(),
            before_negotiated: Vec::new(),
            handlers: HashMap::new(),
            fallback: None,
            allow_oob: HashSet::new(),
            throttle: HashMap::new(),
        }
    }

    /// A guest agent, as strict as those before 4.0: it does not greet, knows
    /// `guest-sync-delimited`, rejects the member `id` and returns none.
    pub fn agent() -> Self {
        Self {
            agent: true,
            ..Self::new().silent()
        }
    }

    /// Greets with another version or other capabilities.
    #[must_use]
    pub fn greeting(mut self, greeting: Greeting) -> Self {
        self.greeting = Some(greeting);
        self
    }

    /// Does not greet, like a monitor that is serving another client.
    #[must_use]
    pub fn silent(mut self) -> Self {
        self.greeting = None;
        self
    }

    /// Does not offer out-of-band execution.
    #[must_use]
    pub fn without_oob(mut self) -> Self {
        if let Some(greeting) = &mut self.greeting {
            greeting.capabilities.clear();
        }
        self
    }

    /// Spreads messages over many lines, like `-mon pretty=on`.
    #[must_use]
    pub fn pretty(mut self) -> Self {
        self.pretty = true;
        self
    }

    /// Sends these bytes before the greeting: events, or replies to another client.
    #[must_use]
    pub fn before_greeting(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.before_greeting = bytes.into();
        self
    }

    /// Sends these bytes before the reply to `qmp_capabilities`.
    #[must_use]
    pub fn before_negotiated(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.before_negotiated = bytes.into();
        self
    }

    /// Sets what a command does.
    #[must_use]
    pub fn on(
        mut self,
        command: &str,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        self.handlers.insert(command.to_owned(), Arc::new(answer));
        self
    }

    /// Sets what all other commands do. Default: they fail with `CommandNotFound`.
    #[must_use]
    pub fn otherwise(
        mut self,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        self.fallback = Some(Arc::new(answer));
        self
    }

    /// Allows a command to be executed out of band.
    #[must_use]
    pub fn allow_oob(mut self, command: &str) -> Self {
        self.allow_oob.insert(command.to_owned());
        self
    }

    /// Sends at most one event of this name per period; of those in between, only the last.
    #[must_use]
    pub fn throttle(mut self, event: &str, period: Duration) -> Self {
        let period = period.min(FOREVER);
        self.throttle.insert(event.to_owned(), period);
        self
    }

    /// Serves one client on this stream, in a task of its own.
    pub fn spawn<S>(self, stream: S) -> Control
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        self.start(stream, Received::default())
    }

    /// Serves one client on this socket, in a task of its own, and receives the descriptors that it
    /// sends.
    pub fn spawn_unix(self, socket: UnixStream) -> Control {
        let received = Received::default();
        self.start(Socket::new(socket, received.clone()), received)
    }

    fn start<S>(self, stream: S, received: Received) -> Control
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (orders, inbox) = mpsc::unbounded_channel();
        let (executed, requests) = mpsc::unbounded_channel();
        let record = Arc::new(Mutex::new(Record::default()));
        let server = Server::new(
            self,
            stream,
            inbox,
            (Arc::clone(&record), executed),
            received,
        );
        let task = tokio::spawn(server.run());
        Control {
            orders,
            record,
            requests: tokio::sync::Mutex::new(requests),
            task: task.abort_handle(),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) requests: Vec<Request>,
    pub(super) most_queued: usize,
}

#[derive(Debug)]
pub(super) enum Order {
    Event(Event),
    Raw(Vec<u8>),
    Block,
    Unblock,
    Close,
}

/// Controls a running [`Monitor`]. Dropping it ends the monitor.
#[derive(Debug)]
pub struct Control {
    orders: mpsc::UnboundedSender<Order>,
    record: Arc<Mutex<Record>>,
    requests: tokio::sync::Mutex<mpsc::UnboundedReceiver<Request>>,
    task: tokio::task::AbortHandle,
}

impl Control {
    fn order(&self, order: Order) {
        // A monitor that has ended ignores this.
        let _ = self.orders.send(order);
    }

    /// Sends an event.
    pub fn event(&self, event: Event) {
        self.order(Order::Event(event));
    }

    /// Sends bytes, whatever they are.
    pub fn raw(&self, bytes: impl Into<Vec<u8>>) {
        self.order(Order::Raw(bytes.into()));
    }

    /// Blocks the main loop: in-band commands are queued and not executed.
    pub fn block(&self) {
        self.order(Order::Block);
    }

    /// Lets the main loop continue.
    pub fn unblock(&self) {
        self.order(Order::Unblock);
    }

    /// Closes the connection, after everything requested before.
    pub fn close(&self) {
        self.order(Order::Close);
    }

    /// The commands that were executed so far, in order, without `qmp_capabilities`.
    pub fn requests(&self) -> Vec<Request> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).requests.clone()
    }

    /// Waits for the next executed command and returns it; none once the monitor has ended and all
    /// were returned.
    pub async fn next_request(&self) -> Option<Request> {
        self.requests.lock().await.recv().await
    }

    /// The largest number of commands that were queued at one time.
    pub fn most_queued(&self) -> usize {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).most_queued
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
    }
}
