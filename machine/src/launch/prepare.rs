//! Preparation before the process starts: sockets, descriptors, the command line.

use super::monitor::MonitorEnd;
use crate::args::Chardev;
use crate::builder::{Builder, Common, Kind, MONITOR_ID, Monitor, monitor_option};
use crate::error::LaunchError;
use crate::machine::Cleanup;
use crate::socket;
use imgtools::process::Command;
use std::ffi::OsString;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

/// Everything that has to exist before the process.
pub(super) struct Prepared {
    pub(super) command: Command,
    pub(super) monitor: MonitorEnd,
    pub(super) console: Option<UnixStream>,
    pub(super) qtest: Option<UnixStream>,
    pub(super) cleanup: Cleanup,
}

/// Creates sockets and descriptors, and assembles the command line: the base arguments of the kind
/// of process, then the sockets, then the caller's arguments.
pub(super) fn prepare<K: Kind>(builder: &Builder<K>) -> Result<Prepared, LaunchError> {
    let mut common = builder.common.clone();
    let args = builder.own.base_args(&mut common)?;
    if let Some(error) = &common.error {
        let (name, source) = (common.name.clone(), Arc::clone(error));
        return Err(LaunchError::Build { name, source });
    }
    let mut draft = Draft {
        common,
        args,
        cleanup: Cleanup::default(),
        dash: K::DASH,
    };
    let monitor = draft.monitor(K::MONITOR_OPTION)?;
    let (with_console, with_qtest) = builder.own.sockets();
    let console = with_console.then(|| draft.pair("console", "serial")).transpose()?;
    // The server looks up its character device under exactly this id.
    let qtest = with_qtest.then(|| draft.pair("qtest", "qtest")).transpose()?;
    if with_qtest {
        draft.args.extend(["-qtest-log", "none"].map(OsString::from));
    }
    let (command, cleanup) = draft.finish()?;
    Ok(Prepared {
        command,
        monitor,
        console,
        qtest,
        cleanup,
    })
}

/// A command line under construction.
struct Draft {
    common: Common,
    args: Vec<OsString>,
    cleanup: Cleanup,
    dash: &'static str,
}

impl Draft {
    fn failed(&self, what: &str) -> impl FnOnce(std::io::Error) -> LaunchError + use<> {
        let (name, what) = (self.common.name.clone(), what.to_owned());
        move |source| LaunchError::Descriptor { name, what, source }
    }

    /// Adds a character device and the option that uses it.
    fn chardev(&mut self, device: &Chardev, user: &str, value: String) {
        let dash = self.dash;
        self.args.extend([
            format!("{dash}chardev").into(),
            device.as_os_str().to_owned(),
            format!("{dash}{user}").into(),
            value.into(),
        ]);
    }

    /// Adds a character device whose other end is ours.
    fn pair(&mut self, id: &str, user: &str) -> Result<UnixStream, LaunchError> {
        let pair = UnixStream::pair().map_err(self.failed(&format!("the {id}'s socket pair")));
        let (ours, theirs) = pair?;
        let number = self.common.pass(Arc::new(theirs.into()));
        self.chardev(
            &Chardev::socket_fd(id, number),
            user,
            format!("chardev:{id}"),
        );
        Ok(ours)
    }

    /// Listens at the monitor's path, which is removed with the machine.
    fn listen(&mut self, path: &Path) -> Result<UnixListener, LaunchError> {
        let listener = socket::listen(path).map_err(self.failed("the monitor's socket"))?;
        self.cleanup.add(path.to_owned());
        Ok(listener)
    }

    fn monitor(&mut self, user: &str) -> Result<MonitorEnd, LaunchError> {
        let (end, device) = match self.common.monitor.clone() {
            Monitor::SocketPair => {
                let pair = UnixStream::pair().map_err(self.failed("the monitor's socket pair"));
                let (ours, theirs) = pair?;
                let number = self.common.pass(Arc::new(theirs.into()));
                (
                    MonitorEnd::Connected(ours),
                    Chardev::socket_fd(MONITOR_ID, number),
                )
            }
            Monitor::Listen(path) => {
                let listener = self.listen(&path)?;
                let number = self.common.pass(Arc::new(listener.into()));
                // QEMU gives the listener to the monitor's thread while the main loop may look at
                // it: a client in that moment is accepted by both, which hangs or crashes it. So it
                // takes us first.
                let device = Chardev::socket_fd(MONITOR_ID, number).flag("server", true);
                (MonitorEnd::ToConnect(path), device.flag("wait", true))
            }
            Monitor::Connect(path) => {
                let listener = self.listen(&path)?;
                // QEMU may run in another directory.
                let path = std::path::absolute(&path)
                    .map_err(self.failed("a name for the monitor's socket"))?;
                let name = if socket::fits(&path) {
                    path
                } else {
                    let short = socket::ShortPath::open(&path);
                    let short = short.map_err(self.failed("a name for the monitor's socket"))?;
                    socket::fd_path(self.common.pass(Arc::new(short.into_fd())))
                };
                let device = Chardev::connecting(MONITOR_ID, &name);
                (MonitorEnd::Listening(listener), device)
            }
        };
        let option = format!("{}chardev", self.dash);
        self.args.extend([option.into(), device.as_os_str().to_owned()]);
        let version = self.common.tool.version;
        self.args.extend(monitor_option(self.dash, user, version));
        Ok(end)
    }

    fn finish(mut self) -> Result<(Command, Cleanup), LaunchError> {
        self.args.append(&mut self.common.args);
        let common = &self.common;
        let command = common.tool.command().args(&self.args);
        let env = common.env.iter().map(|(key, value)| (key, value));
        let command = command.envs(env).until_exit().end_group();
        let mut command = command.echo(common.print);
        if let Some(dir) = &common.current_dir {
            command = command.current_dir(dir);
        }
        if let Some(wrapper) = &common.wrapper {
            command = command.wrapper(wrapper.words());
        }
        for (fd, number) in &common.fds {
            let copy = fd.try_clone();
            let copy = copy.map_err(self.failed("a copy of an inherited descriptor"))?;
            command = command.fd(copy, *number);
        }
        Ok((command, self.cleanup))
    }
}
