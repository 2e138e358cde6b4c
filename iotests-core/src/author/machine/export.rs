//! The NBD server of a machine, and exports of its nodes.
//!
//! A process has one NBD server. It is started on first use: by the case for an export, or by the
//! harness for the disks of a storage daemon. A case can choose another address with
//! [`Machine::nbd_server`]; the disks then move there.

use std::fmt;
use std::future::IntoFuture;
use std::panic::Location;
use std::path::Path;
use std::sync::Arc;

use imgtools::image::FileName;
use qmp::types::{
    BlockExportAdd, BlockExportDel, BlockExportOptions, BlockExportRemoveMode, NbdServerStart,
    NbdServerStop, QueryBlockExports, SocketAddressLegacy, UnixSocketAddress,
    UnixSocketAddressWrapper,
};
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;

use super::disk::GUEST;
use super::{Machine, Monitor, Node, Target, guest};
use crate::author::action::Action;
use crate::author::expect::ErrorText;
use crate::author::failure::{CaseResult, Failure};
use crate::author::files::TestFile;
use crate::author::image::ImageOpener;
use crate::author::shared::Shared;
use crate::author::storage::{Request, Storage};
use crate::author::tls::Tls;
use crate::author::tool::ToolCall;
use crate::case::Format;

/// The NBD server of a machine, if it runs.
#[derive(Clone, Default)]
pub(super) struct NbdServerOf(Arc<Mutex<Option<Listening>>>);

/// Where an NBD server listens.
#[derive(Clone, Debug)]
struct Listening {
    /// `SocketAddress` in QEMU's `qapi/sockets.json`, in its flat form.
    address: Value,
    /// Removed with the last clone.
    socket: Option<Arc<TestFile>>,
    /// Its own credentials, which it also requires of its clients.
    tls: Option<Tls>,
}

impl Listening {
    fn at(address: Value) -> Self {
        Listening {
            address,
            socket: None,
            tls: None,
        }
    }

    fn unix(socket: TestFile) -> Self {
        let address = json!({"type": "unix", "path": socket});
        Listening {
            socket: Some(Arc::new(socket)),
            ..Listening::at(address)
        }
    }

    /// The address in the form of `nbd-server-start` (`SocketAddressLegacy`).
    fn legacy(&self) -> Value {
        let mut data = self.address.clone();
        let kind = data.as_object_mut().and_then(|data| data.shift_remove("type"));
        json!({"type": kind, "data": data})
    }

    fn uri(&self, export: &str) -> String {
        match &self.socket {
            Some(socket) => nbd::Uri::unix(&***socket, export).to_string(),
            None => {
                let text = |key: &str| self.address[key].as_str().unwrap_or_default();
                let port = text("port").parse().unwrap_or_default();
                nbd::Uri::tcp(text("host"), port, export).to_string()
            }
        }
    }

    fn node(&self, export: &str) -> Node {
        let node = Node::new("nbd").set("server", &self.address);
        node.set("export", export)
    }

    /// Connects our own client to an export.
    async fn client(&self, export: &str, shared: &Shared) -> CaseResult<nbd::Client> {
        // Only the case's own deadline applies: a request may be slow on purpose.
        let limit = shared.wait_limit();
        let mut deadlines = nbd::client::Deadlines::default();
        for deadline in [
            &mut deadlines.connect,
            &mut deadlines.handshake,
            &mut deadlines.request,
        ] {
            *deadline = limit;
        }
        let mut client = nbd::Client::builder().deadlines(deadlines);
        if let Some(tls) = &self.tls {
            client = client.tls(tls.for_our_client()?);
        }
        Ok(client.connect_uri(&self.uri(export).parse()?).await?)
    }

    /// Adds an export to the arguments of a QEMU tool.
    fn named(&self, export: &str, call: ToolCall) -> CaseResult<ToolCall> {
        let Some(tls) = &self.tls else {
            return Ok(call.args(["-f", "raw", &self.uri(export)]));
        };
        let mut node = self.node(export).set("tls-creds", "tls0");
        if self.socket.is_some() {
            // There is no host name to check against the certificate.
            node = node.set("tls-hostname", "localhost");
        }
        let options = Node::new("raw").file(node).image_opts()?;
        let object = tls.client("tls0").to_string();
        Ok(call.args(["--object", &object, "--image-opts", &options]))
    }
}

impl NbdServerOf {
    /// Where the server listens, after starting it if necessary.
    async fn listening(&self, machine: &Machine) -> CaseResult<Listening> {
        let mut state = self.0.lock().await;
        if let Some(listening) = &*state {
            return Ok(listening.clone());
        }
        let shared = &machine.monitor.shared;
        let number = shared.next_number();
        let socket = shared.directories.socket(&format!("nbd{number}"))?;
        let address = UnixSocketAddressWrapper::new(UnixSocketAddress::new(socket.as_str()));
        let start = NbdServerStart::new(SocketAddressLegacy::Unix(Box::new(address)));
        machine.monitor.query(start).await?;
        let listening = Listening::unix(socket);
        machine.export_disks().await?;
        Ok(state.insert(listening).clone())
    }

    /// Adds an export for the harness's own use.
    pub(super) async fn add(&self, machine: &Machine, export: BlockExportOptions) -> CaseResult {
        self.listening(machine).await?;
        machine.monitor.query(BlockExportAdd(export)).await?;
        Ok(())
    }

    /// Removes an export, and waits until it is gone.
    pub(super) async fn remove(&self, machine: &Machine, id: &str) -> CaseResult {
        let monitor = &machine.monitor;
        let gone = qmp::Matcher::event("BLOCK_EXPORT_DELETED").data(json!({"id": id}));
        let mut events = monitor.client.subscribe(gone);
        let remove = BlockExportDel::new(id).mode(BlockExportRemoveMode::Hard);
        monitor.query(remove).await?;
        let limit = monitor.shared.wait_limit();
        match tokio::time::timeout(limit, events.recv()).await {
            Ok(event) => drop(event?),
            Err(_) => return Err(Failure::new(format!("export {id} was not deleted in time"))),
        }
        // The case did not cause this event.
        let gone = qmp::Matcher::event("BLOCK_EXPORT_DELETED").data(json!({"id": id}));
        monitor.events.take_all(gone);
        Ok(())
    }

    /// Connects our own client to an export, for the harness's own use.
    pub(super) async fn client(&self, machine: &Machine, export: &str) -> CaseResult<nbd::Client> {
        let listening = self.listening(machine).await?;
        listening.client(export, &machine.monitor.shared).await
    }

    /// Adds an export to the arguments of a QEMU tool.
    pub(super) async fn named(
        &self,
        machine: &Machine,
        export: &str,
        call: ToolCall,
    ) -> CaseResult<ToolCall> {
        self.listening(machine).await?.named(export, call)
    }
}

impl Machine {
    /// Exports the disks again, after the server was restarted.
    async fn export_disks(&self) -> CaseResult {
        for export in self.disks.exports() {
            self.monitor.query(BlockExportAdd(export)).await?;
        }
        Ok(())
    }

    /// The machine's NBD server at an address that the case chooses.
    #[track_caller]
    pub fn nbd_server(&self) -> NbdSetup<'_> {
        NbdSetup {
            machine: self,
            address: Address::Unix(None),
            tls: None,
            arguments: Map::new(),
            place: Location::caller(),
        }
    }

    /// An export of a node or a disk, over NBD by default.
    #[track_caller]
    pub fn export(&self, of: impl Into<Target>) -> ExportBuilder<'_> {
        ExportBuilder {
            machine: self,
            of: of.into(),
            id: None,
            nbd: true,
            arguments: [("type".to_owned(), "nbd".into())].into_iter().collect(),
            place: Location::caller(),
        }
    }

    /// Removes an export, whether or not it has clients, and waits until it is gone.
    #[track_caller]
    pub fn remove_export(&self, id: &str) -> Action<'_, ()> {
        let id = id.to_owned();
        Action::new(format!("the export {id} to go"), async move {
            let gone = qmp::Matcher::event("BLOCK_EXPORT_DELETED").data(json!({"id": id}));
            // An earlier export may have had the same name.
            self.take_events(gone.clone());
            let remove = BlockExportDel::new(id).mode(BlockExportRemoveMode::Hard);
            self.monitor.send(remove).await?;
            self.event(gone).await?;
            Ok(())
        })
    }

    /// The ids of the case's exports, without those that represent disks.
    #[track_caller]
    pub fn exports(&self) -> Action<'_, Vec<String>> {
        Action::new("the list of exports", async move {
            let exports = self.monitor.query(QueryBlockExports::new()).await?;
            let ids = exports.into_iter().map(|export| export.id);
            Ok(ids.filter(|id| !id.starts_with(GUEST)).collect())
        })
    }
}

/// The NBD server of a machine, to start.
#[must_use = "a server is started by start()"]
pub struct NbdSetup<'m> {
    machine: &'m Machine,
    address: Address,
    tls: Option<Tls>,
    arguments: Map<String, Value>,
    place: &'static Location<'static>,
}

enum Address {
    Unix(Option<TestFile>),
    /// On any free port.
    Tcp(String),
    /// In QEMU's own form.
    Other(Value),
}

impl<'m> NbdSetup<'m> {
    /// Listens on this UNIX socket, instead of its own.
    pub fn unix(mut self, socket: TestFile) -> Self {
        self.address = Address::Unix(Some(socket));
        self
    }

    /// Listens on a free TCP port of this host: `127.0.0.1`, `::1`.
    pub fn tcp(mut self, host: &str) -> Self {
        self.address = Address::Tcp(host.to_owned());
        self
    }

    /// Listens on any address (`SocketAddress` in QEMU's `qapi/sockets.json`).
    pub fn address(mut self, address: Value) -> Self {
        self.address = Address::Other(address);
        self
    }

    /// Serves only clients that authenticate with these credentials.
    pub fn tls(mut self, tls: &Tls) -> Self {
        self.tls = Some(tls.clone());
        self
    }

    /// Sets any other argument of `nbd-server-start`: `max-connections` …
    pub fn set(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.arguments.insert(name.to_owned(), value.into());
        self
    }

    /// Starts it. The harness's own exports move to it.
    pub fn start(self) -> Action<'m, MachineNbd> {
        Action::at(self.place, "the NBD server of a machine", async move {
            let machine = self.machine;
            let mut state = machine.nbd.0.lock().await;
            if state.take().is_some() {
                machine.monitor.query(NbdServerStop::new()).await?;
                let disk = qmp::Matcher::event("BLOCK_EXPORT_DELETED")
                    .when(|event| event.text("id").is_some_and(|id| id.starts_with(GUEST)));
                machine.monitor.events.take_all(disk);
            }
            let mut arguments = self.arguments;
            let shared = &machine.monitor.shared;
            if let Some(tls) = &self.tls {
                let id = format!("tls{}", shared.next_number());
                machine.monitor.ask("object-add", tls.server(&id)).await?;
                arguments.insert("tls-creds".to_owned(), id.into());
            }
            let listening = match self.address {
                Address::Tcp(host) => start_on_a_port(machine, &arguments, &host).await?,
                Address::Unix(Some(socket)) => {
                    start(machine, &arguments, Listening::unix(socket)).await??
                }
                Address::Unix(None) => {
                    let name = format!("nbd{}", shared.next_number());
                    let socket = shared.directories.socket(&name)?;
                    start(machine, &arguments, Listening::unix(socket)).await??
                }
                Address::Other(address) => {
                    start(machine, &arguments, Listening::at(address)).await??
                }
            };
            let tls = self.tls;
            let listening = Listening { tls, ..listening };
            machine.export_disks().await?;
            *state = Some(listening.clone());
            Ok(MachineNbd {
                monitor: machine.monitor.clone(),
                state: machine.nbd.clone(),
                listening,
            })
        })
    }
}

async fn start(
    machine: &Machine,
    arguments: &Map<String, Value>,
    listening: Listening,
) -> CaseResult<Result<Listening, qmp::CommandError>> {
    let mut arguments = arguments.clone();
    arguments.insert("addr".to_owned(), listening.legacy());
    let started = machine.cmd("nbd-server-start", arguments).outcome().await?;
    Ok(started.map(|_| listening))
}

/// QEMU does not report the port that it picks, so one is picked here; if it is in use, the next
/// one is tried.
async fn start_on_a_port(
    machine: &Machine,
    arguments: &Map<String, Value>,
    host: &str,
) -> CaseResult<Listening> {
    const PORTS: std::ops::Range<u16> = 32768..60000;
    loop {
        let port = fastrand::u16(PORTS).to_string();
        let address = json!({"type": "inet", "host": host, "port": port});
        match start(machine, arguments, Listening::at(address)).await? {
            Ok(listening) => return Ok(listening),
            Err(error) if error.desc.contains("Address already in use") => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The running NBD server of a machine. It ends with the machine, or with [`MachineNbd::stop`].
pub struct MachineNbd {
    monitor: Monitor,
    state: NbdServerOf,
    listening: Listening,
}

impl MachineNbd {
    /// The URI of an export.
    #[must_use]
    pub fn uri(&self, export: &str) -> String {
        self.listening.uri(export)
    }

    /// Its UNIX socket, if it listens on one.
    #[must_use]
    pub fn socket(&self) -> Option<&TestFile> {
        self.listening.socket.as_deref()
    }

    /// A client of an export, as a node for another machine.
    #[must_use]
    pub fn node(&self, export: &str) -> Node {
        self.listening.node(export)
    }

    /// Stops it and all its exports.
    #[track_caller]
    pub fn stop(&self) -> Action<'_, ()> {
        Action::new("the NBD server of a machine to stop", async move {
            self.state.0.lock().await.take();
            self.monitor.cmd("nbd-server-stop", ()).await?;
            Ok(())
        })
    }
}

/// An export to create. Awaiting it creates it.
#[must_use = "an export is made when this is awaited"]
pub struct ExportBuilder<'m> {
    machine: &'m Machine,
    of: Target,
    id: Option<String>,
    nbd: bool,
    arguments: Map<String, Value>,
    place: &'static Location<'static>,
}

impl<'m> ExportBuilder<'m> {
    /// Sets its id; the default is its name.
    pub fn id(mut self, id: &str) -> Self {
        self.id = Some(id.to_owned());
        self
    }

    /// Sets its name for clients; the default is the name of its node.
    pub fn name(self, name: &str) -> Self {
        self.set("name", name)
    }

    /// Allows clients to write to it.
    pub fn writable(self) -> Self {
        self.set("writable", true)
    }

    /// Exposes a dirty bitmap of the node, or of a node below it, to clients
    /// (`qemu:dirty-bitmap:NAME`). May be repeated.
    pub fn bitmap(mut self, name: &str) -> Self {
        let bitmaps = self.arguments.entry("bitmaps").or_insert_with(|| json!([]));
        if let Some(bitmaps) = bitmaps.as_array_mut() {
            bitmaps.push(name.into());
        }
        self
    }

    /// Runs it in this iothread.
    pub fn iothread(self, id: &str) -> Self {
        self.set("iothread", id)
    }

    /// Exports over FUSE instead: this file, which must exist, becomes the disk.
    pub fn fuse(self, file: &TestFile) -> Self {
        let mountpoint = file.as_str().to_owned();
        self.kind("fuse").set("mountpoint", mountpoint)
    }

    /// Exports over vhost-user-blk instead, on this UNIX socket.
    pub fn vhost_user_blk(self, socket: &TestFile) -> Self {
        let address = json!({"type": "unix", "path": socket});
        self.kind("vhost-user-blk").set("addr", address)
    }

    /// Sets any other type.
    pub fn kind(mut self, kind: &str) -> Self {
        self.nbd = kind == "nbd";
        self.set("type", kind)
    }

    /// Sets any argument of `block-export-add`.
    pub fn set(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.arguments.insert(name.to_owned(), value.into());
        self
    }

    /// Creating it must fail with this text.
    pub fn expect_error(self, text: impl Into<ErrorText>) -> Action<'m, ()> {
        let (place, text) = (self.place, text.into());
        Action::at(place, "an export to be refused", async move {
            let machine = self.machine;
            let (arguments, _) = self.prepare().await?;
            let add = machine.cmd("block-export-add", arguments);
            add.expect_error(text).await
        })
    }

    /// The arguments, and the address of the server that will serve it.
    async fn prepare(mut self) -> CaseResult<(Map<String, Value>, Option<Listening>)> {
        let listening = match self.nbd {
            true => Some(self.machine.nbd.listening(self.machine).await?),
            false => None,
        };
        let node = self.machine.resolve(&self.of).await?;
        let name = self.arguments.get("name").and_then(Value::as_str);
        let id = self.id.as_deref().or(name).unwrap_or(&node).to_owned();
        self.arguments.insert("id".to_owned(), id.into());
        self.arguments.insert("node-name".to_owned(), node.into());
        Ok((self.arguments, listening))
    }
}

impl<'m> IntoFuture for ExportBuilder<'m> {
    type Output = CaseResult<Export>;
    type IntoFuture = Action<'m, Export>;

    fn into_future(self) -> Self::IntoFuture {
        Action::at(self.place, "an export", async move {
            let machine = self.machine;
            let (arguments, listening) = self.prepare().await?;
            let text = |key: &str| arguments.get(key).and_then(Value::as_str);
            let id = text("id").unwrap_or_default().to_owned();
            let name = text("name").or(text("node-name")).unwrap_or_default();
            let name = name.to_owned();
            let writable = arguments.get("writable") == Some(&Value::Bool(true));
            let mountpoint = text("mountpoint").map(str::to_owned);
            machine.cmd("block-export-add", &arguments).await?;
            Ok(Export {
                monitor: machine.monitor.clone(),
                id,
                name,
                writable,
                listening,
                mountpoint,
            })
        })
    }
}

/// An export of a machine. It exists until it is removed or its machine ends.
pub struct Export {
    monitor: Monitor,
    id: String,
    name: String,
    writable: bool,
    listening: Option<Listening>,
    /// Its file, if over FUSE.
    mountpoint: Option<String>,
}

/// Over NBD, our own client reads and writes it, where it can; otherwise a tool does.
impl Storage for Export {
    #[track_caller]
    fn size(&self) -> Action<'_, u64> {
        Action::new(format!("the size of the export {self}"), async move {
            if self.listening.is_none() {
                return self.open().await?.size().await;
            }
            let client = self.client().await?;
            let size = client.export().size;
            client.disconnect().await?;
            Ok(size)
        })
    }

    #[track_caller]
    fn request_all(&self, requests: Vec<Request>) -> Action<'_, ()> {
        let first = requests.first().map(Request::to_string).unwrap_or_default();
        Action::new(format!("\"{first}\" on the export {self}"), async move {
            if self.listening.is_some() && !requests.is_empty() {
                let client = self.client().await?;
                let sent = guest::try_send(client, &requests, self.monitor.shared.spec.cache).await;
                if sent.map_err(|failure| failure.context(format!("failed to use {self}")))? {
                    return Ok(());
                }
            }
            self.io_all(requests.iter().map(Request::to_string).collect()).await?;
            Ok(())
        })
    }

    #[track_caller]
    fn io_all(&self, commands: Vec<String>) -> Action<'_, String> {
        let first = commands.first().map(String::as_str).unwrap_or_default();
        Action::new(format!("\"{first}\" on the export {self}"), async move {
            if commands.is_empty() {
                // Without commands, qemu-io would be interactive.
                return Ok(String::new());
            }
            Ok(self.open().await?.io(commands).await?.combined_text())
        })
    }
}

impl fmt::Display for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

impl Export {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its name for clients.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URI with which tools open it.
    ///
    /// # Errors
    /// If it is not an NBD export.
    #[track_caller]
    pub fn uri(&self) -> CaseResult<String> {
        Ok(self.listening()?.uri(&self.name))
    }

    /// Opens it as an image, for everything that images support: checks, tools, use as a backing
    /// image, another machine ([`Image::node`](crate::author::Image::node)). The node has the name
    /// of the export. Over NBD or FUSE.
    #[track_caller]
    pub fn open(&self) -> ImageOpener {
        let file = match (&self.mountpoint, self.listening()) {
            (Some(path), _) => Ok(Path::new(path).into()),
            (None, Ok(Listening { tls: Some(_), .. })) => Err(Failure::new(format!(
                "the export {self} is served over TLS: open its node() in a machine, or its client()"
            ))),
            (None, listening) => listening.map(|one| FileName::from(one.uri(&self.name))),
        };
        let opener = ImageOpener::new(&self.monitor.shared, file);
        let opener = opener.format(Format::Raw).node_name(&self.name);
        match self.writable {
            true => opener,
            false => opener.read_only(),
        }
    }

    /// A client of it, as a node for another machine.
    ///
    /// # Errors
    /// If it is not an NBD export.
    #[track_caller]
    pub fn node(&self) -> CaseResult<Node> {
        Ok(self.listening()?.node(&self.name))
    }

    #[track_caller]
    fn listening(&self) -> CaseResult<&Listening> {
        let not = || Failure::new(format!("the export {} is not served over NBD", self.id));
        self.listening.as_ref().ok_or_else(not)
    }

    /// Connects our own client to it.
    #[track_caller]
    pub fn client(&self) -> Action<'_, nbd::Client> {
        Action::new(format!("a client of the export {}", self.id), async move {
            let listening = self.listening()?;
            listening.client(&self.name, &self.monitor.shared).await
        })
    }

    /// Removes it, whether or not it has clients, and waits until it is gone.
    #[track_caller]
    pub fn remove(self) -> Action<'static, ()> {
        self.removed(BlockExportRemoveMode::Hard)
    }

    /// Removes it, which QEMU allows only if it has no client, and waits until it is gone.
    #[track_caller]
    pub fn remove_unused(self) -> Action<'static, ()> {
        self.removed(BlockExportRemoveMode::Safe)
    }

    #[track_caller]
    fn removed(self, mode: BlockExportRemoveMode) -> Action<'static, ()> {
        Action::new(format!("the export {} to go", self.id), async move {
            let monitor = &self.monitor;
            let gone = qmp::Matcher::event("BLOCK_EXPORT_DELETED").data(json!({"id": self.id}));
            // An earlier export may have had the same id.
            monitor.events.take_all(gone.clone());
            let remove = BlockExportDel::new(&self.id).mode(mode);
            monitor.send(remove).await?;
            let events = monitor.events.with_deadline(monitor.shared.wait_limit());
            events.wait(gone).await?;
            Ok(())
        })
    }
}
