//! Configuring a qemu-nbd: what to serve, and how.

use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use imgtools::process::{Command, Convention, Output};
use imgtools::tools::Tool;

use super::error::QemuNbdError;
use super::forked::{self, Forked};
use super::image::Image;
use super::listing::QemuListing;
use super::server::QemuNbdServer;
use crate::uri::{Address, Uri};

/// Passes file descriptor 3 as systemd would. `LISTEN_PID` must be the server's own PID, which is
/// known only after the fork; the shell execs the server.
const ACTIVATION: [&str; 4] = [
    // By absolute path, to avoid a search through a long PATH.
    "/bin/sh",
    "-c",
    r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$@""#,
    "socket-activation",
];
const FIRST_FD: i32 = 3;

/// Where a server listens, and which side creates the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// We create the unix socket and pass it on.
    Unix(PathBuf),
    /// We listen on this host and port (0: any) and pass the socket on.
    Tcp(String, u16),
    /// qemu-nbd creates the unix socket (`-k`); for tests of that.
    OwnUnix(PathBuf),
    /// qemu-nbd binds the port (`-b`, `-p`); for tests of that.
    OwnTcp(String, u16),
}

impl Listen {
    /// Whether we create the socket.
    pub fn is_activation(&self) -> bool {
        matches!(self, Listen::Unix(_) | Listen::Tcp(..))
    }

    pub(super) fn address(&self) -> Address {
        match self {
            Listen::Unix(path) | Listen::OwnUnix(path) => Address::Unix(path.clone()),
            Listen::Tcp(host, port) | Listen::OwnTcp(host, port) => Address::Tcp {
                host: host.clone(),
                port: *port,
            },
        }
    }
}

/// A qemu-nbd to start. Clones share nothing, so one can be kept as a template.
///
/// By default it keeps running when a client disconnects, and accepts any number of them
/// (`-t -e 0`).
///
/// ```no_run
/// # async fn f(tool: imgtools::tools::Tool) -> Result<(), Box<dyn std::error::Error>> {
/// let server = nbd::QemuNbd::new(tool)
///     .format("qcow2")
///     .bitmap("b0")
///     .serve_unix("disk.qcow2", "/tmp/nbd.sock")
///     .await?;
/// println!("{}", server.uri());
/// server.stop().await?.check()?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct QemuNbd {
    tool: Tool,
    args: Vec<OsString>,
    secrets: Vec<String>,
    persistent: bool,
    shared: u32,
    export: Option<String>,
    tls: bool,
    directory: Option<PathBuf>,
    pub(super) hold_address: bool,
    pub(super) ready_within: Duration,
    pub(super) stop_within: Duration,
}

impl QemuNbd {
    /// Prepares to run this program.
    pub fn new(tool: Tool) -> QemuNbd {
        QemuNbd {
            tool,
            args: Vec::new(),
            secrets: Vec::new(),
            persistent: true,
            shared: 0,
            export: None,
            tls: false,
            directory: None,
            hold_address: false,
            ready_within: Duration::from_secs(30),
            stop_within: Duration::from_secs(30),
        }
    }

    /// Format of the image (`-f`). Without it qemu-nbd probes, and warns about raw images.
    pub fn format(self, format: impl AsRef<OsStr>) -> Self {
        self.arg("-f").arg(format)
    }

    /// Interprets the image as `--image-opts`.
    pub fn image_opts(self) -> Self {
        self.arg("--image-opts")
    }

    /// Name of the export (`-x`). Without it the export is the default one, with no name.
    pub fn export_name(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.export = Some(name.clone());
        self.arg("-x").arg(name)
    }

    /// Description of the export (`-D`).
    pub fn description(self, text: impl AsRef<OsStr>) -> Self {
        self.arg("-D").arg(text)
    }

    /// Refuses writes (`-r`).
    pub fn read_only(self) -> Self {
        self.arg("-r")
    }

    /// Exposes a dirty bitmap (`-B`). Can be repeated.
    pub fn bitmap(self, name: impl AsRef<OsStr>) -> Self {
        self.arg("-B").arg(name)
    }

    /// Exposes the allocation depth (`-A`).
    pub fn allocation_depth(self) -> Self {
        self.arg("-A")
    }

    /// Serves an internal snapshot (`-l`): a name or id, or `snapshot.name=…`.
    pub fn load_snapshot(self, which: impl AsRef<OsStr>) -> Self {
        self.arg("-l").arg(which)
    }

    /// Keeps writes in a temporary file (`-s`).
    pub fn temporary_snapshot(self) -> Self {
        self.arg("-s")
    }

    /// Defines an object (`--object`).
    pub fn object(self, definition: impl AsRef<OsStr>) -> Self {
        self.arg("--object").arg(definition)
    }

    /// Uses these TLS credentials (`--tls-creds`).
    pub fn tls_creds(mut self, id: impl AsRef<OsStr>) -> Self {
        self.tls = true;
        self.arg("--tls-creds").arg(id)
    }

    /// Cache mode (`--cache`).
    pub fn cache(self, mode: impl AsRef<OsStr>) -> Self {
        self.arg("--cache").arg(mode)
    }

    /// Asynchronous I/O mode (`--aio`).
    pub fn aio(self, mode: impl AsRef<OsStr>) -> Self {
        self.arg("--aio").arg(mode)
    }

    /// Maximum number of clients (`-e`); 0 means no limit.
    pub fn shared(mut self, clients: u32) -> Self {
        self.shared = clients;
        self
    }

    /// Exits when the last client disconnects, which is qemu-nbd's own default.
    pub fn until_last_client(mut self) -> Self {
        self.persistent = false;
        self
    }

    /// Any other argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Other arguments.
    pub fn args(self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        args.into_iter().fold(self, QemuNbd::arg)
    }

    /// A text to redact in errors and logs.
    pub fn secret(mut self, text: impl Into<String>) -> Self {
        self.secrets.push(text.into());
        self
    }

    /// Runs it in this directory.
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Keeps the socket listening after the server has exited, for as long as the server value or a
    /// template of it ([`QemuNbdServer::template`]) lives: a client that connects meanwhile waits
    /// for the next server, or is hung up on
    /// ([`QemuNbdTemplate::hang_up`](super::QemuNbdTemplate::hang_up)). Without this, clients are
    /// refused. It has no effect where qemu-nbd creates the socket.
    ///
    /// Not for a server that limits its clients ([`QemuNbd::shared`]) or exits with the last: a
    /// waiting client is served before our own readiness probe.
    pub fn hold_address(mut self) -> Self {
        self.hold_address = true;
        self
    }

    /// Timeout for becoming ready, and for stopping (default 30 s each).
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.ready_within = limit;
        self.stop_within = limit;
        self
    }

    /// Serves an image on a unix socket that we create, which must not exist yet.
    pub async fn serve_unix(
        self,
        image: impl Into<Image>,
        socket: impl Into<PathBuf>,
    ) -> Result<QemuNbdServer, QemuNbdError> {
        self.serve(image, Listen::Unix(socket.into())).await
    }

    /// Serves an image on a free port of 127.0.0.1.
    pub async fn serve_tcp(self, image: impl Into<Image>) -> Result<QemuNbdServer, QemuNbdError> {
        self.serve(image, Listen::Tcp("127.0.0.1".into(), 0)).await
    }

    /// Serves an image and returns when the greeting has arrived.
    pub async fn serve(
        self,
        image: impl Into<Image>,
        listen: Listen,
    ) -> Result<QemuNbdServer, QemuNbdError> {
        let image = image.into();
        QemuNbdServer::start(self, image, listen, None).await
    }

    /// Runs a server for exactly as long as `with` runs; then it is stopped, and must exit cleanly.
    pub async fn run<T, F: Future<Output = T>>(
        self,
        image: impl Into<Image>,
        socket: impl Into<PathBuf>,
        with: impl FnOnce(Uri) -> F,
    ) -> Result<T, QemuNbdError> {
        let server = self.serve_unix(image, socket).await?;
        let result = with(server.uri()).await;
        server.stop().await?.check()?;
        Ok(result)
    }

    /// Starts it with `--fork`, for tests of that.
    pub async fn fork(
        self,
        image: impl Into<Image>,
        socket: impl AsRef<Path>,
    ) -> Result<Forked, QemuNbdError> {
        forked::start(&self, image.into().as_os_str(), socket.as_ref()).await
    }

    /// Runs it to completion with only the options set here, without `--persistent` and `--shared`;
    /// for tests of its errors.
    pub async fn run_bare(self) -> Result<Output, QemuNbdError> {
        let command = self.base().args(&self.args).deadline(self.ready_within);
        Ok(command.run().await?)
    }

    /// What `qemu-nbd --list` prints about a server; see [`crate::list`] for our own view.
    pub async fn list(&self, address: &Address) -> Result<QemuListing, QemuNbdError> {
        QemuListing::parse(&self.list_output(address).await?.check()?.stdout_text())
    }

    /// Runs `qemu-nbd --list` and returns its output, even on failure.
    pub async fn list_output(&self, address: &Address) -> Result<Output, QemuNbdError> {
        let command = self.base().arg("--list").args(address_args(address)).args(&self.args);
        Ok(command.deadline(self.ready_within).run().await?)
    }

    fn base(&self) -> Command {
        let mut command = self.tool.command().grace(self.stop_within);
        for secret in &self.secrets {
            command = command.secret(secret);
        }
        match &self.directory {
            Some(directory) => command.current_dir(directory),
            None => command,
        }
    }

    /// Everything but where to listen.
    pub(super) fn command(&self, image: &OsStr) -> Command {
        let mut command = self.base();
        if self.persistent {
            command = command.arg("-t");
        }
        command.arg("-e").arg(self.shared.to_string()).args(&self.args).arg("--").arg(image)
    }

    /// Makes an activated server inherit this socket.
    pub(super) fn activated(&self, image: &OsStr, socket: std::os::fd::OwnedFd) -> Command {
        // The shell is replaced by the server, so the status is the server's.
        let valgrind = self.tool.wrapper.first().is_some_and(|w| w.ends_with("valgrind"));
        let convention = if valgrind {
            Convention::Valgrind
        } else {
            Convention::Direct
        };
        self.command(image).wrapper(ACTIVATION).convention(convention).fd(socket, FIRST_FD)
    }

    /// Makes the server create its own socket.
    pub(super) fn unactivated(&self, image: &OsStr, address: &Address, pid_file: &Path) -> Command {
        let mut this = self.clone();
        let mut args = address_args(address);
        args.extend(["--pid-file".into(), pid_file.as_os_str().to_owned()]);
        args.append(&mut this.args);
        this.args = args;
        this.command(image)
    }

    pub(super) fn uri(&self, address: Address) -> Uri {
        let mut uri = Uri::at(address, self.export.clone().unwrap_or_default());
        uri.tls = self.tls;
        uri
    }
}

/// `-k`, or `-b` and `-p`.
fn address_args(address: &Address) -> Vec<OsString> {
    match address {
        Address::Unix(path) => vec!["-k".into(), path.as_os_str().to_owned()],
        Address::Tcp { host, port } => {
            vec![
                "-b".into(),
                host.into(),
                "-p".into(),
                port.to_string().into(),
            ]
        }
        // qemu-nbd has no option for these; it reports its own error about the name.
        Address::Abstract(_) | Address::Vsock { .. } => {
            vec!["-k".into(), address.to_string().into()]
        }
    }
}
