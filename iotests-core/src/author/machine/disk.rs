//! Disks, as a guest sees them.
//!
//! On an emulator a disk is a guest device, on a storage daemon an export whose only client is the
//! harness. Either is attached to a node of the block graph, keeps it in use, and follows when a
//! job moves it to another node. A case names the disk and need not know which of the two it is.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use machine::args::Device;
use qmp::types::{
    BlockExportOptions, BlockExportOptionsNbd, BlockInfo, BlockLatencyHistogramSet, DeviceDel,
    QomSet, QueryBlock, QueryBlockExports,
};
use serde_json::{Value, json};

use super::node::{Child, Node};
use super::{Access, Cmd, Machine, Monitor, Target};
use crate::author::action::Action;
use crate::author::failure::{CaseResult, Failure};
use crate::author::image::Image;
use crate::case::{Backend, Cache};

/// QEMU's messages if nothing can be plugged, "No 'PCI' bus found for device '…'", or unplugged.
const FIXED: [&str; 2] = ["bus found for device", "does not support hotplugging"];

/// A disk to attach, at launch or to a running machine.
#[derive(Clone, Debug)]
#[must_use = "a disk is attached by disk() of a machine's builder, or by plug()"]
pub struct DiskBuilder {
    id: String,
    /// The node that it is attached to.
    node: String,
    /// The options of that node, unless it already exists.
    options: Option<Node>,
    pub(super) image: Option<Image>,
    interface: String,
    iothread: Option<String>,
    read_only: bool,
    properties: Vec<(String, Value)>,
}

/// The bus that connects the disks of an emulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    /// QEMU's default bus for the device: PCI on most targets.
    Default,
    /// The fixed slots of virtio-mmio.
    Mmio,
}

impl Disk<'_> {
    /// A disk on this image, on a node with these options, or on the node with this name. The disk
    /// is named after its node.
    pub fn of(on: impl Into<DiskBuilder>) -> DiskBuilder {
        on.into()
    }
}

impl From<&Image> for DiskBuilder {
    fn from(image: &Image) -> Self {
        DiskBuilder {
            image: Some(image.clone()),
            ..DiskBuilder::from(image.node())
        }
    }
}

impl From<Node> for DiskBuilder {
    fn from(node: Node) -> Self {
        let name = node.name().unwrap_or_default().to_owned();
        let read_only = node.get("read-only") == Some(&Value::Bool(true));
        DiskBuilder {
            options: Some(node),
            read_only,
            ..DiskBuilder::from(name.as_str())
        }
    }
}

impl From<&Node> for DiskBuilder {
    fn from(node: &Node) -> Self {
        node.clone().into()
    }
}

impl From<&str> for DiskBuilder {
    fn from(name: &str) -> Self {
        DiskBuilder {
            id: name.to_owned(),
            node: name.to_owned(),
            options: None,
            image: None,
            interface: "virtio-blk".to_owned(),
            iothread: None,
            read_only: false,
            properties: Vec::new(),
        }
    }
}

impl DiskBuilder {
    /// Sets a name different from its node's.
    pub fn id(mut self, id: &str) -> Self {
        id.clone_into(&mut self.id);
        self
    }

    /// Uses a SCSI disk with its own controller on an emulator.
    pub fn scsi(self) -> Self {
        self.interface("scsi-hd")
    }

    /// Uses an IDE disk on an emulator.
    pub fn ide(self) -> Self {
        self.interface("ide-hd")
    }

    /// Uses a device of this driver on an emulator; the default is `virtio-blk`.
    pub fn interface(mut self, driver: &str) -> Self {
        driver.clone_into(&mut self.interface);
        self
    }

    /// Runs it in this iothread, which is an object of the machine. Without a guest that drives it,
    /// only a [SCSI disk](Self::scsi) takes its node there.
    pub fn iothread(mut self, id: &str) -> Self {
        self.iothread = Some(id.to_owned());
        self
    }

    /// Makes it read-only.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        if let Some(node) = self.options.take() {
            self.options = Some(node.read_only(true));
        }
        self
    }

    /// Allows requests to be held with [`hold`](super::Access::hold); emulators only.
    pub fn with_breakpoints(mut self) -> Self {
        if let Some(node) = self.options.take() {
            let file = node.get("file").cloned().unwrap_or_default();
            let blkdebug = Node::new("blkdebug").set("image", file);
            self.options = Some(node.set("file", blkdebug));
        }
        self
    }

    /// Sets any property of the device; no effect on a storage daemon.
    pub fn property(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.properties.push((name.to_owned(), value.into()));
        self
    }

    /// The node to create for it.
    pub(super) fn node(&self) -> Option<&Node> {
        self.options.as_ref()
    }

    fn needs_controller(&self) -> bool {
        self.interface.starts_with("scsi-")
    }

    /// Whether [`Transport::Mmio`] offers everything that it needs; versions differ in whether
    /// iothreads work there.
    pub(super) fn fits_mmio(&self) -> bool {
        self.iothread.is_none() && (self.interface == "virtio-blk" || self.needs_controller())
    }

    /// Its devices on an emulator, in the order in which they are plugged.
    pub(super) fn devices(&self, cache: Cache, transport: Transport) -> Vec<Device> {
        let device = |driver: &str| match transport {
            Transport::Mmio if driver.starts_with("virtio-") => {
                Device::new(format!("{driver}-device"))
            }
            _ => Device::new(driver),
        };
        let mut devices = Vec::new();
        let mut disk = device(&self.interface).id(&self.id).drive(&self.node);
        if matches!(cache, Cache::Writethrough | Cache::Directsync) {
            disk = disk.set("write-cache", "off");
        }
        let mut controller = device("virtio-scsi").id(self.controller());
        if let Some(iothread) = &self.iothread {
            match self.needs_controller() {
                true => controller = controller.set("iothread", iothread.as_str()),
                false => disk = disk.set("iothread", iothread.as_str()),
            }
        }
        if self.needs_controller() {
            disk = disk.set("bus", format!("{}.0", self.controller()));
            devices.push(controller);
        }
        let properties = self.properties.iter();
        devices.push(properties.fold(disk, |disk, (name, value)| disk.set(name, value.clone())));
        devices
    }

    fn controller(&self) -> String {
        format!("{}-bus", self.id)
    }

    /// Its export on a storage daemon.
    fn export(&self) -> BlockExportOptions {
        let export = nbd_export(export_id(&self.id), &self.node, !self.read_only);
        match &self.iothread {
            Some(iothread) => export.iothread(iothread.as_str()),
            None => export,
        }
    }

    pub(super) fn attached(&self, backend: Backend, transport: Transport) -> Attached {
        Attached {
            id: self.id.clone(),
            way: match backend {
                Backend::System => Way::Device {
                    proxied: transport == Transport::Default
                        && self.interface.starts_with("virtio-"),
                },
                Backend::Qsd => Way::Export(self.export()),
            },
        }
    }
}

/// An export for the harness's own use, named by its id.
pub(super) fn nbd_export(id: String, node: &str, writable: bool) -> BlockExportOptions {
    let nbd = BlockExportOptionsNbd::new().name(id.as_str());
    BlockExportOptions::new(id, node, nbd).writable(writable)
}

/// The id and name of the export that represents a guest's device.
fn export_id(disk: &str) -> String {
    format!("{GUEST}{disk}")
}

/// The prefix of the ids of exports that represent guests' devices.
pub(super) const GUEST: &str = "guest-";

/// The disks that a machine has.
#[derive(Default)]
pub(super) struct Disks(Mutex<Vec<Attached>>);

/// A disk, and how a guest accesses it.
#[derive(Clone, Debug)]
pub(super) struct Attached {
    pub(super) id: String,
    pub(super) way: Way,
}

#[derive(Clone, Debug)]
pub(super) enum Way {
    /// A guest device with the name of the disk.
    Device {
        /// Whether it is a proxy that connects the device with the drive to its bus.
        proxied: bool,
    },
    /// A drive (`-drive`) with this name.
    Drive(String),
    /// An export, created with these arguments.
    Export(BlockExportOptions),
}

impl Attached {
    /// Whether the block device with this name, owned by this guest device, is this disk.
    fn is(&self, device: Option<&str>, qdev: Option<&str>) -> bool {
        match &self.way {
            Way::Drive(name) => device == Some(name),
            // An export is not a block device.
            Way::Export(_) => false,
            // A device with an id is named by the id, a part of a device by its path.
            Way::Device { .. } => qdev == Some(&self.id) || qdev == Some(&qom_path(self)),
        }
    }

    /// The guest device's name in HMP and QMP.
    pub(super) fn qdev(&self) -> Option<String> {
        match self.way {
            Way::Device { proxied: true } => Some(format!("{}/virtio-backend", self.id)),
            Way::Device { proxied: false } => Some(self.id.clone()),
            Way::Drive(_) | Way::Export(_) => None,
        }
    }
}

impl Disks {
    fn list(&self) -> std::sync::MutexGuard<'_, Vec<Attached>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, disk: Attached) {
        self.list().push(disk);
    }

    pub(super) fn find(&self, id: &str) -> Option<Attached> {
        let is_it = |disk: &&Attached| match &disk.way {
            Way::Drive(name) => disk.id == id || name == id,
            _ => disk.id == id,
        };
        self.list().iter().find(is_it).cloned()
    }

    fn remove(&self, id: &str) {
        self.list().retain(|disk| disk.id != id);
    }

    /// The arguments of all exports that represent disks.
    pub(super) fn exports(&self) -> Vec<BlockExportOptions> {
        let export = |disk: &Attached| match &disk.way {
            Way::Export(export) => Some(export.clone()),
            _ => None,
        };
        self.list().iter().filter_map(export).collect()
    }

    fn moved(&self, id: &str, node: &str) {
        if let Some(disk) = self.list().iter_mut().find(|disk| disk.id == id)
            && let Way::Export(export) = &mut disk.way
        {
            node.clone_into(&mut export.node_name);
        }
    }

    /// The disk, which must exist.
    fn attached(&self, monitor: &Monitor, id: &str) -> CaseResult<Attached> {
        self.find(id).ok_or_else(|| {
            let (name, disks) = (&monitor.name, self.names());
            Failure::new(format!("{name} has no disk {id}; its disks: {disks}"))
        })
    }

    /// The node to which a disk is currently attached.
    pub(super) async fn node_of(&self, monitor: &Monitor, id: &str) -> CaseResult<String> {
        let disk = self.attached(monitor, id)?;
        let (node, all) = match &disk.way {
            Way::Export(_) => {
                let all = monitor.query(QueryBlockExports::new()).await?;
                let own = all.iter().find(|one| one.id == export_id(&disk.id));
                (own.map(|own| own.node_name.clone()), json!(all))
            }
            _ => {
                let all = monitor.query(QueryBlock::new()).await?;
                let is_it = |one: &&BlockInfo| disk.is(Some(&one.device), one.qdev.as_deref());
                let inserted = all.iter().find(is_it).and_then(|one| one.inserted.as_ref());
                (inserted.and_then(|it| it.node_name.clone()), json!(all))
            }
        };
        node.ok_or_else(|| Failure::new(format!("the disk {id} is not attached to a node: {all}")))
    }

    fn names(&self) -> String {
        let list = self.list();
        let names: Vec<&str> = list.iter().map(|disk| disk.id.as_str()).collect();
        match names.is_empty() {
            true => "none".to_owned(),
            false => names.join(", "),
        }
    }
}

/// A disk of a running machine, read and written as by the guest: see [`Access`].
#[derive(Clone)]
pub struct Disk<'m> {
    access: Access<'m>,
}

impl Machine {
    /// The disk with this name or image. On an emulator, also a drive by its name, or (for I/O
    /// only) any device by its id or path.
    #[must_use]
    pub fn disk(&self, id: impl Into<Target>) -> Disk<'_> {
        let (Target::Disk(id) | Target::Node(id)) = id.into();
        Disk {
            access: Access::new(self, Target::Disk(id)),
        }
    }

    /// Attaches a disk to the running machine.
    #[track_caller]
    pub fn plug(&self, disk: impl Into<DiskBuilder>) -> Action<'_, Disk<'_>> {
        let disk = disk.into();
        Action::new(format!("the disk {} to be plugged", disk.id), async move {
            if let Some(node) = disk.node() {
                self.add_node(node).await?;
            }
            if self.backend() == Backend::System {
                for device in disk.devices(self.monitor.shared.spec.cache, Transport::Default) {
                    let added = self.cmd("device_add", device.to_value()).await;
                    added.map_err(or_hotplug)?;
                }
            }
            self.attach(disk.attached(self.backend(), Transport::Default)).await?;
            Ok(self.disk(disk.id.as_str()))
        })
    }

    /// Registers the disk; on a storage daemon also exports it.
    pub(super) async fn attach(&self, disk: Attached) -> CaseResult {
        if self.disks.find(&disk.id).is_some() {
            return Err(Failure::new(format!("there are two disks {}", disk.id)));
        }
        if let Way::Export(export) = &disk.way {
            self.nbd.add(self, export.clone()).await?;
        }
        self.disks.add(disk);
        Ok(())
    }

    /// The disk, which must exist.
    pub(super) fn attached(&self, id: &str) -> CaseResult<Attached> {
        self.disks.attached(&self.monitor, id)
    }

    /// What `query-blockstats` reports about a disk.
    pub(super) async fn stats_of(&self, id: &str) -> CaseResult<Value> {
        let disk = self.attached(id)?;
        let (nodes, node) = match &disk.way {
            Way::Export(_) => (true, Some(self.node_of(id).await?)),
            _ => (false, None),
        };
        let query = json!({"query-nodes": nodes});
        let all = self.monitor.ask("query-blockstats", query).await?;
        let is_it = |one: &&Value| match &node {
            Some(node) => one["node-name"] == node.as_str(),
            None => disk.is(one["device"].as_str(), one["qdev"].as_str()),
        };
        let found = all.as_array().into_iter().flatten().find(is_it);
        let none = || Failure::new(format!("there are no statistics of the disk {id}: {all}"));
        found.cloned().ok_or_else(none)
    }

    /// The node to which a disk is currently attached.
    pub(super) async fn node_of(&self, id: &str) -> CaseResult<String> {
        self.disks.node_of(&self.monitor, id).await
    }
}

/// Adds advice to the error if nothing can be plugged or unplugged.
fn or_hotplug(error: impl Into<Failure>) -> Failure {
    let error = error.into();
    match FIXED.iter().any(|text| error.to_string().contains(text)) {
        true => error.context("disks come and go only on a machine with `.hotplug()`"),
        false => error,
    }
}

fn qom_path(disk: &Attached) -> String {
    let qdev = disk.qdev().unwrap_or_default();
    format!("/machine/peripheral/{qdev}")
}

impl<'m> Disk<'m> {
    /// Its name, which is the id of its device on an emulator.
    #[must_use]
    pub fn id(&self) -> &str {
        self.access.name()
    }

    /// The QOM path of its device, or of the part of the device that has the drive; emulators only.
    ///
    /// # Errors
    /// If it has no such device.
    #[track_caller]
    pub fn qom_path(&self) -> CaseResult<String> {
        let disk = self.machine().attached(self.id())?;
        match disk.way {
            Way::Device { .. } => Ok(qom_path(&disk)),
            _ => Err(Failure::new(format!(
                "the disk {self} is not a guest device"
            ))),
        }
    }

    /// The node to which it is currently attached.
    #[track_caller]
    pub fn node(&self) -> Action<'_, String> {
        Action::new(
            format!("the node of {self}"),
            self.machine().node_of(self.id()),
        )
    }

    /// Asserts that it is attached to this node.
    #[track_caller]
    pub fn assert_node(&self, node: impl Into<Target>) -> Action<'_, ()> {
        let node = node.into().to_string();
        Action::new(format!("the node of {self}"), async move {
            match self.machine().node_of(self.id()).await? {
                found if found == node => Ok(()),
                found => Err(Failure::new(format!(
                    "the disk {self} is attached to node {found}, expected {node}"
                ))),
            }
        })
    }

    /// Attaches it to another node, as `qom-set` of a device's `drive` does. A storage daemon has
    /// no such command; there the disk is exported anew, so for a moment neither node is in use.
    #[track_caller]
    pub fn move_to(&self, node: impl Into<Target>) -> Action<'_, ()> {
        let node = node.into().to_string();
        Action::new(format!("{self} to move to {node}"), async move {
            let (machine, id) = (self.machine(), self.id());
            let disk = machine.attached(id)?;
            match disk.way {
                Way::Device { .. } => {
                    let path = qom_path(&disk);
                    let drive = QomSet::new(path, "drive", node);
                    machine.monitor.send(drive).await?;
                }
                Way::Export(mut export) => {
                    machine.nbd.remove(machine, &export_id(id)).await?;
                    node.clone_into(&mut export.node_name);
                    machine.nbd.add(machine, export).await?;
                    machine.disks.moved(id, &node);
                }
                Way::Drive(_) => {
                    let why = "a drive of -drive cannot be moved to another node";
                    return Err(Failure::new(format!("{id}: {why}")));
                }
            }
            Ok(())
        })
    }

    /// Unplugs it, and waits until it is gone. Its node stays, unless it belongs to a `-drive`.
    #[track_caller]
    pub fn unplug(self) -> Action<'m, ()> {
        let (machine, id) = (self.machine(), self.id().to_owned());
        Action::new(format!("the disk {id} to be unplugged"), async move {
            let disk = machine.attached(&id)?;
            match disk.way {
                Way::Export(_) => machine.nbd.remove(machine, &export_id(&id)).await?,
                Way::Device { proxied } => {
                    let gone = qmp::Matcher::event("DEVICE_DELETED").data(json!({"device": id}));
                    let deleted = machine.monitor.send(DeviceDel::new(&id)).await;
                    deleted.map_err(or_hotplug)?;
                    if proxied {
                        // The guest would have to cooperate, but there is none; a reset completes
                        // the unplug anyway.
                        machine.cmd("system_reset", ()).await?;
                    }
                    machine.event(gone).await?;
                }
                Way::Drive(_) => {
                    return Err(Failure::new(format!(
                        "the disk {id} is a drive without an id"
                    )));
                }
            }
            machine.disks.remove(&id);
            Ok(())
        })
    }
}

impl<'m> std::ops::Deref for Disk<'m> {
    type Target = Access<'m>;

    fn deref(&self) -> &Access<'m> {
        &self.access
    }
}

impl fmt::Display for Disk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

impl From<&Disk<'_>> for Target {
    fn from(disk: &Disk<'_>) -> Self {
        Target::Disk(disk.id().to_owned())
    }
}

impl From<&Disk<'_>> for Child {
    /// The node with the same name, on which the disk was created.
    fn from(disk: &Disk<'_>) -> Self {
        Child::from(disk.id())
    }
}

impl Disk<'_> {
    /// What `query-blockstats` reports about it, or about its node on a storage daemon.
    #[track_caller]
    pub fn stats(&self) -> Action<'_, Value> {
        Action::new(format!("the statistics of {self}"), async move {
            self.machine().stats_of(self.id()).await
        })
    }

    /// Starts counting the latencies of its requests in these intervals, in nanoseconds
    /// (`block-latency-histogram-set`); emulators only.
    ///
    /// # Errors
    /// If it is not a guest device.
    #[track_caller]
    pub fn latency_histogram(&self, boundaries: &[u64]) -> CaseResult<Cmd> {
        let set = BlockLatencyHistogramSet::new(self.qom_path()?).boundaries(boundaries);
        Ok(self.machine().monitor.send(set))
    }
}
