//! The qemu-nbd servers of a case.

use std::panic::Location;
use std::path::Path;
use std::sync::Arc;

use imgtools::image::FileName;
use imgtools::tools::ToolKind;
use nbd::qemu_nbd::QemuNbdTemplate;
use nbd::{QemuNbd, QemuNbdServer};
use serde_json::{Value, json};

use super::action::Action;
use super::death::Found;
use super::failure::{CaseResult, Failure};
use super::files::TestFile;
use super::image::Image;
use super::machine::Node;
use super::shared::Shared;
use super::test::Test;
use super::tls::Tls;
use crate::case::Format;

/// What a qemu-nbd serves.
#[derive(Clone)]
pub enum NbdSource {
    /// An image of the case, in its own format.
    Image(Image),
    /// A file, a URI or a `json:` name. Its format is probed unless it is given.
    Name(FileName),
}

impl From<&Image> for NbdSource {
    fn from(image: &Image) -> Self {
        NbdSource::Image(image.clone())
    }
}

impl From<&Node> for NbdSource {
    /// Serves what a block node with these options provides.
    fn from(node: &Node) -> Self {
        NbdSource::Name(node.clone().without("node-name").filename().into())
    }
}

impl From<&Path> for NbdSource {
    fn from(path: &Path) -> Self {
        NbdSource::Name(path.into())
    }
}

impl From<&TestFile> for NbdSource {
    fn from(file: &TestFile) -> Self {
        NbdSource::Name(Path::new(file.as_str()).into())
    }
}

impl From<&str> for NbdSource {
    /// Serves a name that QEMU interprets.
    fn from(name: &str) -> Self {
        NbdSource::Name(name.into())
    }
}

impl From<String> for NbdSource {
    fn from(name: String) -> Self {
        NbdSource::Name(name.into())
    }
}

/// A qemu-nbd to start.
#[must_use = "a server is started by start()"]
pub struct NbdServerBuilder {
    shared: Arc<Shared>,
    source: NbdSource,
    export: String,
    socket: Option<TestFile>,
    tcp: bool,
    format: Option<Format>,
    tls: Option<Tls>,
    hold_address: bool,
    arguments: Vec<String>,
    place: &'static Location<'static>,
}

impl Test {
    /// A qemu-nbd that serves this on a UNIX socket, to any number of clients: an image, a file
    /// that the case did not create, a URI, a node, a `json:` name.
    #[track_caller]
    pub fn nbd_server(&self, source: impl Into<NbdSource>) -> NbdServerBuilder {
        NbdServerBuilder {
            shared: self.shared.clone(),
            source: source.into(),
            export: String::new(),
            socket: None,
            tcp: false,
            format: None,
            tls: None,
            hold_address: false,
            arguments: Vec::new(),
            place: Location::caller(),
        }
    }
}

impl NbdServerBuilder {
    /// Names the export; by default it has no name.
    pub fn export(mut self, name: &str) -> Self {
        name.clone_into(&mut self.export);
        self
    }

    /// Refuses writes.
    pub fn read_only(self) -> Self {
        self.arg("--read-only")
    }

    /// Exposes a dirty bitmap of the image. May be repeated.
    pub fn bitmap(self, name: &str) -> Self {
        self.arg(&format!("--bitmap={name}"))
    }

    /// Listens on a free port of 127.0.0.1 instead of a UNIX socket.
    pub fn tcp(mut self) -> Self {
        self.tcp = true;
        self
    }

    /// Listens on this UNIX socket instead of one of its own.
    pub fn unix(mut self, socket: TestFile) -> Self {
        self.socket = Some(socket);
        self
    }

    /// Serves the raw bytes of the image's file, not its decoded content.
    pub fn raw(self) -> Self {
        self.format(Format::Raw)
    }

    /// Serves it as an image of this format, whatever its real format.
    pub fn format(mut self, format: Format) -> Self {
        self.format = Some(format);
        self
    }

    /// Serves only clients that authenticate with these credentials.
    pub fn tls(mut self, tls: &Tls) -> Self {
        self.tls = Some(tls.clone());
        self
    }

    /// Keeps listening after it was stopped: a client that connects in between waits for the next
    /// server, or is disconnected by [`StoppedNbdServer::hang_up`]. By default such clients are
    /// refused.
    pub fn hold_address(mut self) -> Self {
        self.hold_address = true;
        self
    }

    /// Adds any other argument.
    pub fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Starts it, and waits until it greets clients.
    pub fn start(self) -> Action<'static, NbdServer> {
        Action::at(self.place, "an NBD server to start", self.launch())
    }

    async fn launch(self) -> CaseResult<NbdServer> {
        let shared = self.shared;
        let socket = match self.socket {
            Some(socket) => socket,
            None => shared.directories.socket(&format!("nbd{}", shared.next_number()))?,
        };
        let mut server = QemuNbd::new(shared.tool(ToolKind::Nbd)?).timeout(shared.wait_limit());
        server = server.export_name(&self.export).args(&self.arguments);
        if self.hold_address {
            server = server.hold_address();
        }
        if let Some(tls) = &self.tls {
            let object = tls.server("tls0").to_string();
            server = server.object(object).tls_creds("tls0");
        }
        if let Some(format) = self.format {
            server = server.format(format.name());
        }
        // The file must exist until the server is ready.
        let mut secret = None;
        let target = match &self.source {
            NbdSource::Name(name) => name.to_string(),
            NbdSource::Image(image) if self.format.is_some() => image.file().as_str().to_owned(),
            NbdSource::Image(image) if image.is_encrypted() => {
                let key = shared.key()?;
                server = server.secret(key.value()).image_opts();
                server = server.object(key.object().as_os_str());
                secret = Some(key);
                image.image_opts()
            }
            NbdSource::Image(image) => {
                if !image.says_format() {
                    server = server.format(image.format().name());
                }
                image.filename().to_owned()
            }
        };
        shared.narrate(|| "Start NBD server".into());
        let target = nbd::qemu_nbd::Image::verbatim(target);
        let server = match self.tcp {
            true => server.serve_tcp(target).await?,
            false => server.serve_unix(target, &*socket).await?,
        };
        drop(secret);
        Ok(NbdServer {
            shared,
            source: self.source,
            server: Some(server),
            socket: Some(socket),
        })
    }
}

/// A running qemu-nbd. It is ended when the value is dropped; if it ends earlier, the case fails.
pub struct NbdServer {
    shared: Arc<Shared>,
    // Keeps the image for as long as it is served.
    source: NbdSource,
    server: Option<QemuNbdServer>,
    socket: Option<TestFile>,
}

/// A stopped qemu-nbd, which can be started again at the same address.
pub struct StoppedNbdServer {
    shared: Arc<Shared>,
    source: NbdSource,
    template: QemuNbdTemplate,
    socket: Option<TestFile>,
}

impl NbdServer {
    /// The URI that a client opens.
    #[must_use]
    pub fn uri(&self) -> String {
        self.server.as_ref().map(|server| server.uri().to_string()).unwrap_or_default()
    }

    /// The UNIX socket.
    #[must_use]
    pub fn socket(&self) -> Option<&TestFile> {
        self.socket.as_ref()
    }

    /// A client of it, as a node for a machine.
    #[must_use]
    pub fn node(&self) -> Node {
        let Some(server) = &self.server else {
            return Node::from(Value::Null);
        };
        let address = match server.address() {
            nbd::uri::Address::Tcp { host, port } => {
                json!({"type": "inet", "host": host, "port": port.to_string()})
            }
            _ => json!({"type": "unix", "path": self.socket}),
        };
        let export = server.uri().export;
        Node::from(json!({"driver": "nbd", "server": address, "export": export}))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(QemuNbdServer::pid)
    }

    /// Stops it cleanly.
    #[track_caller]
    pub fn stop(self) -> Action<'static, StoppedNbdServer> {
        self.end(false)
    }

    /// Kills it, simulating a crash.
    #[track_caller]
    pub fn kill(self) -> Action<'static, StoppedNbdServer> {
        self.end(true)
    }

    #[track_caller]
    fn end(mut self, kill: bool) -> Action<'static, StoppedNbdServer> {
        Action::new("an NBD server to end", async move {
            let Some(server) = self.server.take() else {
                return Err(Failure::new("the NBD server has ended already"));
            };
            let template = server.template();
            note_death(&self.shared, &server, "the NBD server");
            self.shared.narrate(|| "Kill NBD server".into());
            match kill {
                true => drop(server.kill().await?),
                false => drop(server.stop().await?.check()?),
            }
            Ok(StoppedNbdServer {
                shared: self.shared.clone(),
                source: self.source.clone(),
                template,
                socket: self.socket.take(),
            })
        })
    }
}

impl StoppedNbdServer {
    /// Waits until a client connects to the address of the stopped server, and disconnects it.
    /// Needs [`NbdServerBuilder::hold_address`].
    #[track_caller]
    pub fn hang_up(&self) -> Action<'_, ()> {
        Action::new("a client to look for its NBD server", async move {
            Ok(self.template.hang_up().await?)
        })
    }

    /// Starts it again at the same address.
    #[track_caller]
    pub fn start(self) -> Action<'static, NbdServer> {
        Action::new("an NBD server to start again", async move {
            let StoppedNbdServer {
                shared,
                source,
                template,
                socket,
            } = self;
            shared.narrate(|| "Start NBD server".into());
            let server = Some(template.start().await?);
            Ok(NbdServer {
                shared,
                source,
                server,
                socket,
            })
        })
    }
}

/// Reports a qemu-nbd that has ended by itself.
pub(crate) fn note_death(shared: &Shared, server: &QemuNbdServer, name: &str) {
    if let Some(status) = server.child().ended() {
        let found = Found {
            name,
            status,
            command: server.child().command(),
            printed: &server.output().combined_text(),
            core: None,
        };
        shared.death(found.death(shared));
    }
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        let Some(server) = self.server.take() else {
            return;
        };
        note_death(&self.shared, &server, "the NBD server");
        self.shared.narrate(|| "Kill NBD server".into());
    }
}
