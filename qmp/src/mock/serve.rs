//! The task behind a mock monitor: reading, queueing, suspending and answering like QEMU.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use super::monitor::{Answer, Monitor, Order, Record, Request, Step};
use super::socket::Received;
use super::throttle::Throttle;
use crate::frame::Framer;
use crate::message::{ErrorClass, ErrorObject};

/// QEMU's `QMP_REQ_QUEUE_LEN_MAX`: reading stops when this many commands are queued.
const QUEUE: usize = 8;

/// An in-band entry of the queue; parse errors are answered in order, too.
enum Queued {
    Request(Request),
    Unparsable(String),
}

pub(super) struct Server<S> {
    config: Monitor,
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    inbox: mpsc::UnboundedReceiver<Order>,
    record: Arc<Mutex<Record>>,
    executed: mpsc::UnboundedSender<Request>,
    received: Received,
    framer: Framer,
    throttle: Throttle,
    out: Vec<u8>,
    queue: VecDeque<Queued>,
    negotiated: bool,
    oob: bool,
    blocked: bool,
    closing: bool,
}

impl<S: AsyncRead + AsyncWrite + Send + 'static> Server<S> {
    pub(super) fn new(
        config: Monitor,
        stream: S,
        inbox: mpsc::UnboundedReceiver<Order>,
        (record, executed): (Arc<Mutex<Record>>, mpsc::UnboundedSender<Request>),
        received: Received,
    ) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self {
            throttle: Throttle::new(config.throttle.clone()),
            reader,
            writer,
            inbox,
            record,
            executed,
            received,
            framer: Framer::default(),
            out: Vec::new(),
            queue: VecDeque::new(),
            negotiated: config.agent,
            oob: false,
            blocked: false,
            closing: false,
            config,
        }
    }

    /// Serves until the client disconnects or the connection is closed.
    pub(super) async fn run(mut self) -> io::Result<()> {
        let mut buffer = vec![0; 16 << 10];
        let before = std::mem::take(&mut self.config.before_greeting);
        self.out.extend_from_slice(&before);
        if let Some(greeting) = self.config.greeting.clone() {
            self.say(&json!({ "QMP": greeting }));
        }
        loop {
            self.work().await?;
            self.flush().await?;
            if self.closing {
                return self.writer.shutdown().await;
            }
            let period_end = self.throttle.next_end();
            let reads = !self.is_suspended();
            tokio::select! {
                biased;
                order = self.inbox.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return Ok(()),
                },
                () = sleep_until(period_end) => {
                    for event in self.throttle.release() {
                        self.say(&event);
                    }
                }
                read = self.reader.read(&mut buffer), if reads => match read? {
                    0 => return Ok(()),
                    count => self.framer.push(&buffer[..count]),
                },
            }
        }
    }

    /// Whether reading has stopped: after each command without `oob`, at the eighth with it.
    fn is_suspended(&self) -> bool {
        self.queue.len() >= if self.oob { QUEUE } else { 1 }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Event(event) => self.event(event),
            Order::Raw(bytes) => self.out.extend_from_slice(&bytes),
            Order::Block => self.blocked = true,
            Order::Unblock => self.blocked = false,
            Order::Close => self.closing = true,
        }
    }

    /// Processes what was read and executes what is queued, as far as both are allowed.
    async fn work(&mut self) -> io::Result<()> {
        loop {
            let mut progress = false;
            while !self.is_suspended() && !self.closing {
                let Some(frame) = self.framer.next_frame() else {
                    break;
                };
                let parsed = match frame {
                    Ok(frame) => parse(frame.bytes),
                    Err(error) => Err(format!("JSON parse error, {}", error.kind)),
                };
                self.accept(parsed).await?;
                progress = true;
            }
            if !self.blocked
                && !self.closing
                && let Some(next) = self.queue.pop_front()
            {
                self.execute(next).await?;
                progress = true;
            }
            if !progress {
                return Ok(());
            }
        }
    }

    async fn accept(&mut self, parsed: Result<Value, String>) -> io::Result<()> {
        let value = match parsed {
            Ok(value) => value,
            Err(desc) => {
                self.enqueue(Queued::Unparsable(desc));
                return Ok(());
            }
        };
        if self.config.agent && value.get("id").is_some() {
            let desc = "QMP input object member 'id' is unexpected";
            self.fail(ErrorObject::new(ErrorClass::GenericError, desc), None);
            return Ok(());
        }
        let id = value.get("id").cloned();
        match to_request(value) {
            Ok(request) if request.oob => self.out_of_band(request).await,
            Ok(request) => {
                self.enqueue(Queued::Request(request));
                Ok(())
            }
            Err(desc) => {
                self.fail(
                    ErrorObject::new(ErrorClass::GenericError, desc),
                    id.as_ref(),
                );
                Ok(())
            }
        }
    }

    fn enqueue(&mut self, entry: Queued) {
        self.queue.push_back(entry);
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.most_queued = record.most_queued.max(self.queue.len());
    }

    async fn out_of_band(&mut self, request: Request) -> io::Result<()> {
        if !self.oob {
            let desc = "QMP input member 'exec-oob' is unexpected";
            let error = ErrorObject::new(ErrorClass::GenericError, desc);
            self.fail(error, request.id.as_ref());
            return Ok(());
        }
        if !self.config.allow_oob.contains(&request.name) {
            let desc = format!("The command {} does not support OOB", request.name);
            self.fail(
                ErrorObject::new(ErrorClass::GenericError, desc),
                request.id.as_ref(),
            );
            return Ok(());
        }
        let answer = self.answer(&request);
        self.perform(answer, request.id.as_ref()).await
    }

    async fn execute(&mut self, entry: Queued) -> io::Result<()> {
        let mut request = match entry {
            Queued::Request(request) => request,
            Queued::Unparsable(desc) => {
                self.fail(ErrorObject::new(ErrorClass::GenericError, desc), None);
                return Ok(());
            }
        };
        if request.name == "qmp_capabilities" {
            self.negotiate(&request);
            return Ok(());
        }
        if !self.negotiated {
            let desc = "Expecting capabilities negotiation with 'qmp_capabilities'";
            let error = ErrorObject::new(ErrorClass::CommandNotFound, desc);
            self.fail(error, request.id.as_ref());
            return Ok(());
        }
        if self.config.agent && request.name == "guest-sync-delimited" {
            self.out.push(0xFF);
            let number = request.arguments.get("id").cloned();
            self.reply("return", number.unwrap_or_default(), None);
            return Ok(());
        }
        if matches!(request.name.as_str(), "getfd" | "add-fd") {
            request.fd = self.received.take().map(Arc::new);
        }
        let answer = self.answer(&request);
        self.perform(answer, request.id.as_ref()).await
    }

    fn negotiate(&mut self, request: &Request) {
        let id = request.id.as_ref();
        if self.negotiated {
            let desc = "Capabilities negotiation is already complete, command ignored";
            self.fail(ErrorObject::new(ErrorClass::CommandNotFound, desc), id);
            return;
        }
        let enable = match request.arguments.get("enable").and_then(Value::as_array) {
            Some(list) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            None => Vec::new(),
        };
        let offered = self.config.greeting.as_ref().map_or(&[][..], |g| &g.capabilities[..]);
        if let Some(name) = enable.iter().find(|name| !offered.contains(*name)) {
            let desc = format!("Capability {name} not available");
            self.fail(ErrorObject::new(ErrorClass::GenericError, desc), id);
            return;
        }
        self.negotiated = true;
        self.oob = enable.iter().any(|name| name == "oob");
        let before = std::mem::take(&mut self.config.before_negotiated);
        self.out.extend_from_slice(&before);
        self.reply("return", Value::Object(Map::new()), id);
    }

    fn answer(&self, request: &Request) -> Answer {
        self.record
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .requests
            .push(request.clone());
        // Nothing may be waiting for it any more.
        let _ = self.executed.send(request.clone());
        let handler = self.config.handlers.get(&request.name).or(self.config.fallback.as_ref());
        match handler {
            Some(handler) => handler(request),
            None if request.name == "quit" => Answer::empty().close(),
            None => {
                let desc = format!("The command {} has not been found", request.name);
                let error = ErrorObject::new(ErrorClass::CommandNotFound, desc);
                Answer {
                    steps: vec![Step::Error(error)],
                }
            }
        }
    }

    async fn perform(&mut self, answer: Answer, id: Option<&Value>) -> io::Result<()> {
        for step in answer.steps {
            match step {
                Step::Return(value) => self.reply("return", value, id),
                Step::Error(error) => self.fail(error, id),
                Step::Event(event) => self.event(event),
                Step::Raw(bytes) => self.out.extend_from_slice(&bytes),
                Step::Flush => self.flush().await?,
                Step::Close => self.closing = true,
            }
        }
        Ok(())
    }

    fn event(&mut self, event: crate::message::Event) {
        // Before negotiation QEMU sends no events to this client.
        if self.negotiated
            && let Some(event) = self.throttle.pass(event)
        {
            self.say(&event);
        }
    }

    fn fail(&mut self, error: ErrorObject, id: Option<&Value>) {
        self.reply("error", json!(error), id);
    }

    fn reply(&mut self, member: &str, value: Value, id: Option<&Value>) {
        let mut reply = Map::from_iter([(member.to_owned(), value)]);
        if let Some(id) = id {
            reply.insert("id".into(), id.clone());
        }
        self.say(&reply);
    }

    /// Queues a message as QEMU prints it: ASCII only, CR LF.
    fn say(&mut self, message: &impl Serialize) {
        let text = if self.config.pretty {
            serde_json::to_string_pretty(message)
        } else {
            serde_json::to_string(message)
        };
        // Values built in this module always serialize.
        let Ok(text) = text else { return };
        for c in text.chars() {
            match c {
                '\n' => self.out.extend_from_slice(b"\r\n"),
                c if c.is_ascii() => self.out.push(c as u8),
                c => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
                    }
                }
            }
        }
        self.out.extend_from_slice(b"\r\n");
    }

    async fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.writer.write_all(&self.out).await?;
            self.writer.flush().await?;
            self.out.clear();
        }
        Ok(())
    }
}

async fn sleep_until(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn parse(bytes: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("JSON parse error, {error}"))
}

/// Checks a command's envelope (`qmp_dispatch_check_obj` in `qapi/qmp-dispatch.c`).
fn to_request(value: Value) -> Result<Request, String> {
    let Value::Object(members) = value else {
        return Err("QMP input must be a JSON object".into());
    };
    let mut request = Request {
        name: String::new(),
        arguments: Map::new(),
        id: None,
        oob: false,
        fd: None,
    };
    let mut named = false;
    for (member, value) in members {
        match (member.as_str(), value) {
            ("execute" | "exec-oob", Value::String(name)) => {
                if named {
                    return Err(format!(
                        "QMP input member '{member}' clashes with the other one"
                    ));
                }
                named = true;
                request.oob = member == "exec-oob";
                request.name = name;
            }
            ("execute" | "exec-oob", _) => {
                return Err(format!("QMP input member '{member}' must be a string"));
            }
            ("arguments", Value::Object(arguments)) => request.arguments = arguments,
            ("arguments", _) => {
                return Err("QMP input member 'arguments' must be an object".into());
            }
            ("id", id) => request.id = Some(id),
            _ => return Err(format!("QMP input member '{member}' is unexpected")),
        }
    }
    if named {
        Ok(request)
    } else {
        Err("QMP input lacks member 'execute'".into())
    }
}
