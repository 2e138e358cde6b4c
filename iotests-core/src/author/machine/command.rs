//! QMP commands, checked unless the case expects an error.

use std::future::IntoFuture;
use std::os::fd::OwnedFd;
use std::panic::Location;

use serde::Serialize;
use serde_json::{Value, json};

use super::monitor::Monitor;
use crate::author::action::Action;
use crate::author::expect::ErrorText;
use crate::author::failure::{CaseResult, Difference, Failure};
use crate::author::log::Entry;

/// A QMP command. Awaiting it sends it and returns its result; an error fails the case.
#[must_use = "a command is sent when it is awaited"]
pub struct Cmd {
    monitor: Monitor,
    name: String,
    arguments: CaseResult<Value>,
    fd: Option<OwnedFd>,
    place: &'static Location<'static>,
}

impl Cmd {
    #[track_caller]
    pub(crate) fn new(monitor: &Monitor, name: &str, arguments: impl Serialize) -> Self {
        let arguments = serde_json::to_value(arguments).map_err(Failure::from);
        Cmd::at(Location::caller(), monitor, name, arguments)
    }

    pub(super) fn at(
        place: &'static Location<'static>,
        monitor: &Monitor,
        name: &str,
        arguments: CaseResult<Value>,
    ) -> Self {
        Cmd {
            monitor: monitor.clone(),
            name: name.to_owned(),
            arguments,
            fd: None,
            place,
        }
    }

    pub(crate) fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    pub(crate) fn place(&self) -> &'static Location<'static> {
        self.place
    }

    /// Sends a file descriptor with it.
    pub fn fd(mut self, fd: OwnedFd) -> Self {
        self.fd = Some(fd);
        self
    }

    /// Sends it; it must fail with this text and the class `GenericError`.
    pub fn expect_error(self, text: impl Into<ErrorText>) -> Action<'static, ()> {
        self.expect_error_class("GenericError", text)
    }

    /// Sends it; it must fail with this text and this class.
    pub fn expect_error_class(
        self,
        class: &str,
        text: impl Into<ErrorText>,
    ) -> Action<'static, ()> {
        let (class, text) = (class.to_owned(), text.into());
        let (place, name) = (self.place, self.name.clone());
        Action::at(place, format!("{name} to be refused"), async move {
            match self.send().await? {
                Ok(value) => Err(Failure::new(format!(
                    "{name} should have been refused with {text}, but it returned {value}"
                ))),
                Err(error) if error.class.as_str() == class => text.check(&name, &error.desc),
                Err(error) => Err(Failure::differs(
                    format!("{name} failed with an unexpected error class"),
                    Difference {
                        expected: format!("{class}: {text}"),
                        found: format!("{}: {}", error.class, error.desc),
                        diff: None,
                    },
                )),
            }
        })
    }

    /// Sends it, and returns an error reply as a value.
    pub fn outcome(self) -> Action<'static, Result<Value, qmp::CommandError>> {
        Action::at(self.place, self.name.clone(), self.send())
    }

    async fn send(self) -> CaseResult<Result<Value, qmp::CommandError>> {
        let Cmd {
            monitor,
            name,
            arguments,
            fd,
            ..
        } = self;
        let arguments = arguments?;
        let shared = &monitor.shared;
        shared.narrate(|| Entry::from(message(&name, &arguments)).ordered());
        let mut call = monitor.client.execute(&name, &arguments).deadline(shared.wait_limit());
        if let Some(fd) = fd {
            call = call.fd(fd);
        }
        let answer = match call.await {
            Ok(value) => Ok(value),
            Err(error) => match error.command() {
                Some(refused) => Err(refused.clone()),
                None => return Err(Failure::from(error).context(monitor.name.clone())),
            },
        };
        shared.narrate(|| match &answer {
            Ok(value) => Entry::from(json!({"return": value})),
            Err(error) => {
                Entry::from(json!({"error": {"class": error.class.as_str(), "desc": error.desc}}))
            }
        });
        Ok(answer)
    }
}

/// The command as sent over the wire, with sorted arguments.
fn message(name: &str, arguments: &Value) -> Value {
    let mut arguments = arguments.clone();
    arguments.sort_all_objects();
    match arguments {
        Value::Null => json!({"execute": name}),
        arguments => json!({"execute": name, "arguments": arguments}),
    }
}

impl IntoFuture for Cmd {
    type Output = CaseResult<Value>;
    type IntoFuture = Action<'static, Value>;

    fn into_future(self) -> Self::IntoFuture {
        let (place, name, machine) = (self.place, self.name.clone(), self.monitor.name.clone());
        Action::at(place, format!("{name} on {machine}"), async move {
            let (monitor, arguments) =
                (self.monitor.clone(), self.arguments.as_ref().ok().cloned());
            // The `driver` of `device_add` is a device.
            let arguments = arguments.filter(|_| name != "device_add");
            match self.send().await? {
                Ok(value) => Ok(value),
                Err(refused) => match arguments.and_then(|a| monitor.undeclared(&a)) {
                    Some(undeclared) => Err(Failure::new(undeclared)),
                    None => Err(refused.into()),
                },
            }
        })
    }
}
