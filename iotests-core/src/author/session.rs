//! An interactive qemu-io on an image: several commands in one process.

use imgtools::io::{IoCommand, IoDefaults, QemuIo, Session};
use imgtools::tools::ToolKind;

use super::action::Action;
use super::expect::ErrorText;
use super::failure::Failure;
use super::image::Image;
use super::tool::ToolCall;

/// A qemu-io that waits for commands. [`IoSession::close`] ends it; dropping the value kills it.
pub struct IoSession {
    session: Session,
    // Keeps the file for as long as it is open.
    _image: Option<Image>,
    name: String,
}

impl Image {
    /// Opens it in an interactive qemu-io, with the cache and aio mode of the run and its own
    /// format. If qemu-io does not start, the case fails and shows its output.
    #[track_caller]
    pub fn session(&self) -> Action<'_, IoSession> {
        self.open_session(Vec::new())
    }

    /// The same with more arguments for qemu-io, such as `--read-only`.
    #[track_caller]
    pub fn session_with(&self, arguments: &[&str]) -> Action<'_, IoSession> {
        self.open_session(arguments.iter().map(|argument| (*argument).to_owned()).collect())
    }

    #[track_caller]
    fn open_session(&self, arguments: Vec<String>) -> Action<'_, IoSession> {
        Action::new(format!("qemu-io on {self} to start"), async move {
            let shared = self.shared();
            let defaults = IoDefaults {
                format: Some(shared.spec.format.to_string()),
                cache: Some(shared.spec.cache.to_string()),
                aio: Some(shared.spec.aio.to_string()),
                misalign: false,
            };
            let tool = QemuIo::new(shared.tool(ToolKind::Io)?).defaults(defaults);
            let open = tool.open(self.spec()?);
            let open = arguments.into_iter().fold(open, |open, argument| open.arg(argument));
            Ok(IoSession {
                session: open.session().await?,
                _image: Some(self.clone()),
                name: self.to_string(),
            })
        })
    }
}

impl ToolCall {
    /// Starts an interactive qemu-io with these arguments, for something that is not an image of
    /// the case, such as an export of a machine.
    pub fn session(self) -> Action<'static, IoSession> {
        Action::at(self.place(), "qemu-io to start", async move {
            let open = QemuIo::new(self.io_tool()?).open_nothing();
            let arguments = self.plain_arguments()?;
            let name = arguments.last().map(|name| name.display().to_string());
            let open = arguments.into_iter().fold(open, |open, argument| open.arg(argument));
            Ok(IoSession {
                session: open.session().await?,
                _image: None,
                name: name.unwrap_or_default(),
            })
        })
    }
}

impl IoSession {
    /// Runs a command, which must succeed, and returns what it printed.
    #[track_caller]
    pub fn run(&mut self, command: impl Into<IoCommand>) -> Action<'_, String> {
        let command = command.into();
        Action::new(
            format!("a command of qemu-io on {}", self.name),
            async move {
                let reply = self.session.run(command).await?.check()?;
                Ok(reply.stdout)
            },
        )
    }

    /// Runs a command, which must fail and print this in a line.
    #[track_caller]
    pub fn expect_error(
        &mut self,
        command: impl Into<IoCommand>,
        text: impl Into<ErrorText>,
    ) -> Action<'_, ()> {
        let (command, text) = (command.into(), text.into());
        Action::new(
            format!("a command of qemu-io on {}", self.name),
            async move {
                let reply = self.session.run(command).await?;
                let printed = format!("{}{}", reply.stdout, reply.stderr);
                if !reply.is_success() && text.allows_a_line(&printed) {
                    return Ok(());
                }
                Err(Failure::new(format!(
                    "`{}` should have failed with {text}; it printed: {printed}",
                    reply.command
                )))
            },
        )
    }

    /// Ends it cleanly.
    #[track_caller]
    pub fn close(self) -> Action<'static, ()> {
        Action::new("qemu-io to end", async move {
            // The exit status covers commands that failed earlier, which were checked at the time.
            self.session.quit().await?;
            Ok(())
        })
    }
}
