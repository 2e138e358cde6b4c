//! qemu-nbd servers of a case.

use std::panic::Location;
use std::sync::Arc;

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

/// A qemu-nbd to be started.
#[must_use = "a server is started by start()"]
pub struct NbdServerBuilder {
    shared: Arc<Shared>,
    image: Image,
    export: String,
    socket: Option<TestFile>,
    tcp: bool,
    raw: bool,
    hold_address: bool,
    arguments: Vec<String>,
    place: &'static Location<'static>,
}

impl Test {
    /// A qemu-nbd that serves this image on a UNIX socket, to any number of clients.
    #[track_caller]
    pub fn nbd_server(&self, image: &Image) -> NbdServerBuilder {
        NbdServerBuilder {
            shared: self.shared.clone(),
            image: image.clone(),
            export: String::new(),
            socket: None,
            tcp: false,
            raw: false,
            hold_address: false,
            arguments: Vec::new(),
            place: Location::caller(),
        }
    }
}

impl NbdServerBuilder {
    /// The name of the export; it has none otherwise.
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

    /// Serves the image's file as it is, not what the format makes of it.
    pub fn raw(mut self) -> Self {
        self.raw = true;
        self
    }

    /// Goes on listening when it was stopped: a client that comes meanwhile waits for the next
    /// server, or is hung up on ([`StoppedNbdServer::hang_up`]). Without it clients are refused.
    pub fn hold_address(mut self) -> Self {
        self.hold_address = true;
        self
    }

    /// Any other argument.
    pub fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Starts it and waits until it greets its clients.
    pub fn start(self) -> Action<'static, NbdServer> {
        Action::at(self.place, "an NBD server to start", self.launch())
    }

    async fn launch(self) -> CaseResult<NbdServer> {
        let shared = self.shared;
        let socket = match self.socket {
            Some(socket) => socket,
            None => shared
                .directories
                .socket(&format!("nbd{}", shared.next_number()))?,
        };
        let image = &self.image;
        let mut server = QemuNbd::new(shared.tool(ToolKind::Nbd)?).timeout(shared.patience());
        server = server.export_name(&self.export).args(&self.arguments);
        if self.hold_address {
            server = server.hold_address();
        }
        // Until it serves, its file is there.
        let mut secret = None;
        let target = if self.raw {
            server = server.format("raw");
            image.file().as_str().to_owned()
        } else if image.is_encrypted() {
            let key = shared.key()?;
            server = server.secret(key.value()).image_opts();
            server = server.object(key.object().as_os_str());
            secret = Some(key);
            image.image_opts()
        } else {
            server = server.format(image.format().name());
            image.filename().to_owned()
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
            image: self.image,
            server: Some(server),
            socket: Some(socket),
        })
    }
}

/// A running qemu-nbd. It ends with the value; that it ended before fails the case.
pub struct NbdServer {
    shared: Arc<Shared>,
    // Kept for as long as it is served.
    image: Image,
    server: Option<QemuNbdServer>,
    socket: Option<TestFile>,
}

/// A qemu-nbd that was ended, and can be started again at the same address.
pub struct StoppedNbdServer {
    shared: Arc<Shared>,
    image: Image,
    template: QemuNbdTemplate,
    socket: Option<TestFile>,
}

impl NbdServer {
    /// What a client opens.
    #[must_use]
    pub fn uri(&self) -> String {
        self.server
            .as_ref()
            .map(|server| server.uri().to_string())
            .unwrap_or_default()
    }

    /// The UNIX socket.
    #[must_use]
    pub fn socket(&self) -> Option<&TestFile> {
        self.socket.as_ref()
    }

    /// A client of it, as a node of a machine.
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

    /// Stops it in good order.
    #[track_caller]
    pub fn stop(self) -> Action<'static, StoppedNbdServer> {
        self.end(false)
    }

    /// Kills it, as a crash would.
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
                image: self.image.clone(),
                template,
                socket: self.socket.take(),
            })
        })
    }
}

impl StoppedNbdServer {
    /// Waits until a client connects where the server was, and hangs up on it. Needs
    /// [`NbdServerBuilder::hold_address`].
    #[track_caller]
    pub fn hang_up(&self) -> Action<'_, ()> {
        Action::new("a client to look for its NBD server", async move {
            Ok(self.template.hang_up().await?)
        })
    }

    /// Starts it again, at the same address.
    #[track_caller]
    pub fn start(self) -> Action<'static, NbdServer> {
        Action::new("an NBD server to start again", async move {
            let StoppedNbdServer {
                shared,
                image,
                template,
                socket,
            } = self;
            shared.narrate(|| "Start NBD server".into());
            let server = Some(template.start().await?);
            Ok(NbdServer {
                shared,
                image,
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
