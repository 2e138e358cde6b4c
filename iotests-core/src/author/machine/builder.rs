//! The configuration with which a machine is started.

use std::os::fd::OwnedFd;
use std::panic::Location;
use std::sync::Arc;

use machine::accel::{Accel, Mode};
use machine::args;
use machine::probe::MachineType;
use machine::{Builder, LaunchError, Qemu, StorageDaemon};
use serde_json::{Value, json};

use super::disk::{Attached, DiskBuilder, Transport, Way};
use super::node::Node;
use super::running::{self, Machine};
use crate::author::action::Action;
use crate::author::death::Found;
use crate::author::expect::ErrorText;
use crate::author::failure::{CaseResult, Failure};
use crate::author::image::{Image, KEY, KEY_ID};
use crate::author::origin::Origin;
use crate::author::shared::Shared;
use crate::author::test::Test;
use crate::case::{Backend, Guest};

/// A board that starts quickly, without devices that only a guest would miss; setting up a PC takes
/// longer than everything else in a start. Its bus for disks has a fixed number of slots, without
/// hotplug.
const LIGHT_BOARD: &str = "microvm,acpi=off,isa-serial=off,pcie=off,pic=off,pit=off,rtc=off";
const LIGHT_SLOTS: usize = 8;

/// How many unread events are kept before the oldest are dropped.
const EVENTS: usize = 8192;

/// A machine that can be launched any number of times.
#[derive(Clone)]
#[must_use = "a machine is started by launch()"]
pub struct MachineBuilder {
    shared: Arc<Shared>,
    backend: Option<Backend>,
    name: String,
    parts: Vec<Part>,
    tolerated: Vec<String>,
}

#[derive(Clone)]
enum Part {
    Disk(DiskBuilder),
    Drive(Drive),
    Node(Node),
    Object(Value),
    Device(String),
    Incoming(String),
    Fd(u32, Arc<OwnedFd>),
    Arguments(Vec<String>),
    Board(String),
    Hotplug,
    /// The id and the value.
    Secret(String, String),
}

impl Test {
    /// A machine of the instance's backend: an emulator or a storage daemon.
    pub fn host(&self) -> MachineBuilder {
        self.machine(self.backend())
    }

    /// An emulator.
    pub fn vm(&self) -> MachineBuilder {
        self.machine(Some(Backend::System))
    }

    /// A storage daemon.
    pub fn qsd(&self) -> MachineBuilder {
        self.machine(Some(Backend::Qsd))
    }

    fn machine(&self, backend: Option<Backend>) -> MachineBuilder {
        MachineBuilder {
            shared: self.shared.clone(),
            backend,
            name: backend
                .map_or("host", |b| if b == Backend::System { "vm" } else { "qsd" })
                .to_owned(),
            parts: Vec::new(),
            tolerated: Vec::new(),
        }
    }
}

/// A drive of a machine, which a guest would see as a disk.
///
/// On an emulator it is a `-drive`: a block backend `drive0`, `drive1`, … with its guest device. On
/// a storage daemon it is a block node. On both, the image's node has the name of the image.
#[derive(Clone)]
pub struct Drive {
    image: Option<Image>,
    /// Its content, if that is not an image of the case.
    file: Option<String>,
    interface: String,
    options: Vec<(String, String)>,
    breakpoints: bool,
}

impl Drive {
    /// A drive that contains this image.
    #[must_use]
    pub fn of(image: &Image) -> Self {
        Drive {
            image: Some(image.clone()),
            file: None,
            interface: "virtio".to_owned(),
            options: Vec::new(),
            breakpoints: false,
        }
    }

    /// A drive with anything else that `file=` accepts: a path, a URI, a `json:` name,
    /// `/dev/fdset/1`. Its format is set only by [`Drive::option`].
    #[must_use]
    pub fn file(name: &str) -> Self {
        Drive {
            image: None,
            file: Some(name.to_owned()),
            interface: "virtio".to_owned(),
            options: Vec::new(),
            breakpoints: false,
        }
    }

    /// A CD-ROM drive without a medium.
    #[must_use]
    pub fn empty() -> Self {
        let cdrom = ("media".to_owned(), "cdrom".to_owned());
        Drive {
            image: None,
            file: None,
            interface: "ide".to_owned(),
            options: vec![cdrom],
            breakpoints: false,
        }
    }

    /// Sets the guest's interface: `virtio` (default for [`Drive::of`]), `ide` (default for
    /// [`Drive::empty`]), `scsi`, …, or `none` for no guest device.
    #[must_use]
    pub fn interface(mut self, interface: &str) -> Self {
        interface.clone_into(&mut self.interface);
        self
    }

    /// Allows requests to be held with [`hold`](super::Access::hold); emulators only.
    #[must_use]
    pub fn with_breakpoints(mut self) -> Self {
        self.breakpoints = true;
        self
    }

    /// Sets any other option of `-drive`; emulators only.
    #[must_use]
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.options.push((name.to_owned(), value.to_owned()));
        self
    }

    fn has_own_key(&self) -> bool {
        self.options.iter().any(|(name, _)| name.ends_with("key-secret"))
    }

    /// The argument of `-drive`.
    fn to_args(&self, number: usize, shared: &Shared) -> args::Drive {
        let mut drive = args::Drive::new().interface(&self.interface).id(format!("drive{number}"));
        let own = |name: &str| self.options.iter().any(|(own, _)| own == name);
        if let Some(file) = &self.file {
            drive = drive.file(file);
        }
        if let Some(image) = &self.image {
            let blkdebug = if self.breakpoints { "blkdebug::" } else { "" };
            drive = drive.file(format!("{blkdebug}{}", image.filename()));
            for (name, value) in [
                ("cache", shared.spec.cache.name()),
                ("aio", shared.spec.aio.name()),
                ("format", image.format().name()),
            ] {
                if !own(name) {
                    drive = drive.set(name, value);
                }
            }
            let mut layer = Some(image);
            let mut prefix = String::new();
            while let Some(image) = layer {
                drive = drive.set(&format!("{prefix}node-name"), image.name());
                if let Some(key) = image.key_option().filter(|_| !self.has_own_key()) {
                    drive = drive.set(&format!("{prefix}{key}"), KEY_ID);
                }
                prefix.push_str("backing.");
                layer = image.backing();
            }
        }
        self.options.iter().fold(drive, |drive, (name, value)| drive.set(name, value))
    }
}

impl From<&Image> for Drive {
    fn from(image: &Image) -> Self {
        Drive::of(image)
    }
}

impl MachineBuilder {
    /// Sets its name in reports and the log, for cases with several machines.
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Adds a disk on this image, with its whole backing chain, on a node with these options, or on
    /// another node of the machine.
    pub fn disk(mut self, disk: impl Into<DiskBuilder>) -> Self {
        let disk = disk.into();
        if disk.image.as_ref().is_some_and(Image::needs_key) {
            self = self.key();
        }
        self.parts.push(Part::Disk(disk));
        self
    }

    /// Adds a drive (`-drive`), with the image's whole backing chain. It is a disk with the name of
    /// the image. For cases about `-drive`; other cases should use [`MachineBuilder::disk`].
    pub fn drive(mut self, drive: impl Into<Drive>) -> Self {
        let drive = drive.into();
        if drive.image.as_ref().is_some_and(Image::needs_key) && !drive.has_own_key() {
            self = self.key();
        }
        self.parts.push(Part::Drive(drive));
        self
    }

    /// Adds a block node, with the options of `blockdev-add`.
    pub fn blockdev(mut self, node: impl Into<Node>) -> Self {
        self.parts.push(Part::Node(node.into()));
        self
    }

    /// Adds an object, with the arguments of `object-add`.
    pub fn object(mut self, object: Value) -> Self {
        self.parts.push(Part::Object(object));
        self
    }

    /// Adds an iothread.
    pub fn iothread(self, id: &str) -> Self {
        self.object(json!({"qom-type": "iothread", "id": id}))
    }

    /// Adds a throttle group with these limits (`ThrottleLimits` in QEMU's `qapi/block-core.json`),
    /// for [`Node::throttle`].
    pub fn throttle_group(self, id: &str, limits: Value) -> Self {
        self.object(json!({"qom-type": "throttle-group", "id": id, "limits": limits}))
    }

    /// Adds a descriptor to an fd set, named `/dev/fdset/SET`, before the machine starts
    /// (`-add-fd`); emulators only.
    pub fn add_fd(mut self, set: u32, fd: impl Into<OwnedFd>) -> Self {
        self.parts.push(Part::Fd(set, Arc::new(fd.into())));
        self
    }

    /// Adds a guest device, in the syntax of `-device`; emulators only.
    pub fn device(mut self, device: &str) -> Self {
        self.parts.push(Part::Device(device.to_owned()));
        self
    }

    /// Makes it wait for a migration, with the URI of `-incoming`; emulators only.
    pub fn incoming(mut self, from: &str) -> Self {
        self.parts.push(Part::Incoming(from.to_owned()));
        self
    }

    /// Sets the machine type; emulators only.
    pub fn board(mut self, machine: &str) -> Self {
        self.parts.push(Part::Board(machine.to_owned()));
        self
    }

    /// Allows disks to be [plugged](Machine::plug) or [unplugged](super::Disk::unplug) later.
    /// Otherwise an emulator may get a board without hotplug.
    pub fn hotplug(mut self) -> Self {
        self.parts.push(Part::Hotplug);
        self
    }

    /// Adds the key of encrypted images, with the id [`KEY_ID`]. A drive with such an image adds it
    /// by itself.
    pub fn key(self) -> Self {
        let is_key = |part: &Part| matches!(part, Part::Secret(id, _) if id == KEY_ID);
        match self.parts.iter().any(is_key) {
            true => self,
            false => self.secret(KEY_ID, KEY),
        }
    }

    /// Adds a secret with this id. Its value appears on no command line and in no report.
    pub fn secret(mut self, id: &str, value: &str) -> Self {
        let secret = Part::Secret(id.to_owned(), value.to_owned());
        self.parts.push(secret);
        self
    }

    /// Adds any other arguments.
    pub fn args<S: Into<String>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.parts.push(Part::Arguments(
            arguments.into_iter().map(Into::into).collect(),
        ));
        self
    }

    /// Tolerates lines that contain this text. Any other line on stderr, and any failed qemu-io
    /// command, fails the case when the machine ends. The text must not be blank, because that
    /// would tolerate everything.
    pub fn tolerate(mut self, text: &str) -> Self {
        self.tolerated.push(text.to_owned());
        self
    }

    /// Starts it and waits until its monitor answers.
    #[track_caller]
    pub fn launch(&self) -> Action<'_, Machine> {
        let place = Location::caller();
        Action::at(place, format!("{} to start", self.name), async move {
            let machine = match self.start().await? {
                Ok(machine) => machine,
                Err(error) => {
                    self.note_death(&error);
                    return Err(error.into());
                }
            };
            running::adopt(
                &self.shared,
                self.backend()?,
                machine,
                self.tolerated.clone(),
                &self.nodes(),
                self.disks()?,
                Origin::of(place.into()),
            )
            .await
        })
    }

    /// Starts it; it must fail and print this in a line. Returns its output.
    #[track_caller]
    pub fn expect_launch_error(&self, text: impl Into<ErrorText>) -> Action<'_, String> {
        let text = text.into();
        Action::at(
            Location::caller(),
            format!("{} to refuse to start", self.name),
            async move {
                match self.start().await? {
                    Ok(_) => Err(Failure::new(format!(
                        "{} should have refused to start",
                        self.name
                    ))),
                    Err(error) => {
                        self.note_death(&error);
                        let printed = error.output().map(|output| output.combined_text());
                        match printed {
                            Some(printed) if text.allows_a_line(&printed) => Ok(printed),
                            _ => Err(Failure::from(error).context(format!("expected {text}"))),
                        }
                    }
                }
            },
        )
    }

    /// Records a death if a signal ended it while it started.
    fn note_death(&self, error: &LaunchError) {
        if let LaunchError::Exited { output, .. } = error
            && output.status.signal().is_some()
        {
            let found = Found {
                name: &self.name,
                status: output.status,
                command: &output.command,
                printed: &output.combined_text(),
                core: None,
            };
            self.shared.death(found.death(&self.shared));
        }
    }

    /// The nodes that it has from the start.
    fn nodes(&self) -> Vec<Node> {
        let node = |part: &Part| match part {
            Part::Node(node) => Some(node.clone()),
            Part::Disk(disk) => disk.node().cloned(),
            _ => None,
        };
        self.parts.iter().filter_map(node).collect()
    }

    /// The disks that it has from the start.
    fn disks(&self) -> CaseResult<Vec<Attached>> {
        let (backend, transport) = (self.backend()?, self.transport());
        let (mut disks, mut drives) = (Vec::new(), 0);
        for part in &self.parts {
            match part {
                Part::Disk(disk) => disks.push(disk.attached(backend, transport)),
                Part::Drive(drive) => {
                    if let Some(image) = &drive.image {
                        disks.push(match backend {
                            Backend::System => Attached {
                                id: image.name().to_owned(),
                                way: Way::Drive(format!("drive{drives}")),
                            },
                            Backend::Qsd => DiskBuilder::from(image).attached(backend, transport),
                        });
                    }
                    drives += 1;
                }
                _ => {}
            }
        }
        Ok(disks)
    }

    fn backend(&self) -> CaseResult<Backend> {
        self.backend.ok_or_else(|| {
            Failure::new("the case declares no host, so it has no machine of either kind")
        })
    }

    async fn start(&self) -> CaseResult<Result<machine::Machine, LaunchError>> {
        if self.tolerated.iter().any(|text| text.trim().is_empty()) {
            let name = &self.name;
            return Err(Failure::new(format!(
                "{name} tolerates an empty text, which is every line: say which ones it may print"
            )));
        }
        match self.backend()? {
            Backend::System => Ok(self.emulator()?.launch().await),
            Backend::Qsd => Ok(self.storage_daemon()?.launch().await),
        }
    }

    fn emulator(&self) -> CaseResult<Builder<Qemu>> {
        let shared = &self.shared;
        let tool = shared.tool(Backend::System.tool())?;
        let (accelerators, target) = emulator_facts(shared);
        let transport = self.transport();
        let mut builder = Qemu::builder(tool)
            .name(&self.name)
            .deadlines(self.shared.deadlines())
            .print(shared.spec.print)
            .on_drop(running::on_drop(shared))
            .findings_are_errors(true)
            .record(shared.transcript_file(&self.name))
            .cache_events(EVENTS)
            .mode(mode(shared.spec.guest), &accelerators, &target);
        if let Some(board) = self.default_board() {
            builder = builder.machine(board);
        }
        if shared.spec.guest == Guest::VirtualClock {
            builder = builder.qtest();
        }
        let mut drives = 0;
        for part in &self.parts {
            builder = match part {
                Part::Drive(drive) => {
                    drives += 1;
                    builder.drive(&drive.to_args(drives - 1, shared))
                }
                Part::Disk(disk) => {
                    let nodes = disk.node().map_or(Ok(Vec::new()), Node::to_blockdevs)?;
                    let builder = nodes.iter().fold(builder, Builder::blockdev);
                    let devices = disk.devices(shared.spec.cache, transport);
                    devices.iter().fold(builder, Builder::device)
                }
                Part::Node(node) => node.to_blockdevs()?.iter().fold(builder, Builder::blockdev),
                Part::Object(object) => builder.args(["-object", &object.to_string()]),
                Part::Device(device) => builder.needs_board().args(["-device", device]),
                Part::Incoming(from) => builder.args(["-incoming", from]),
                Part::Fd(set, fd) => builder.add_fd(*set, fd.clone(), None),
                Part::Arguments(arguments) => builder.args(arguments),
                Part::Board(board) => builder.machine(board),
                Part::Hotplug => builder.needs_board(),
                Part::Secret(id, value) => builder.secret(id, value),
            };
        }
        Ok(builder)
    }

    /// The machine type, unless it is irrelevant or QEMU's default.
    fn default_board(&self) -> Option<&'static str> {
        if self.chooses_machine() || (self.runs_no_guest() && !self.parts.iter().any(has_device)) {
            return None;
        }
        match self.transport() {
            Transport::Mmio => Some(LIGHT_BOARD),
            Transport::Default => board_of(self.machine_types()),
        }
    }

    /// The bus that connects its disks. It is irrelevant to the block layer, so it is the one that
    /// starts fastest.
    fn transport(&self) -> Transport {
        let takes = |part: &Part| match part {
            Part::Disk(disk) => disk.fits_mmio(),
            // The arguments may contain a device.
            Part::Arguments(_) => false,
            part => !has_device(part),
        };
        let disks = self.parts.iter().filter(|part| has_device(part)).count();
        let has_light = |it: &MachineType| it.name == "microvm";
        let fits = (1..=LIGHT_SLOTS).contains(&disks) && self.parts.iter().all(takes);
        match fits
            && self.runs_no_guest()
            && !self.chooses_machine()
            && self.machine_types().iter().any(has_light)
        {
            true => Transport::Mmio,
            false => Transport::Default,
        }
    }

    fn runs_no_guest(&self) -> bool {
        matches!(self.shared.spec.guest, Guest::Stopped | Guest::RunningIdle)
    }

    /// Whether the case, or the user for all emulators, has chosen a machine type.
    fn chooses_machine(&self) -> bool {
        let tool = self.shared.tool(Backend::System.tool()).ok();
        let mut options = tool.iter().flat_map(|tool| &tool.options);
        self.parts.iter().any(|part| matches!(part, Part::Board(_)))
            || options.any(|word| word == "-machine" || word == "-M")
    }

    fn machine_types(&self) -> &[MachineType] {
        let facts = self.shared.capabilities().ok();
        let host = facts.and_then(|facts| facts.host(Backend::System));
        host.map_or(&[], |host| &host.machines)
    }

    fn storage_daemon(&self) -> CaseResult<Builder<StorageDaemon>> {
        let shared = &self.shared;
        let tool = shared.tool(Backend::Qsd.tool())?;
        let mut builder = StorageDaemon::builder(tool)
            .name(&self.name)
            .deadlines(self.shared.deadlines())
            .print(shared.spec.print)
            .on_drop(running::on_drop(shared))
            .findings_are_errors(true)
            .record(shared.transcript_file(&self.name))
            .cache_events(EVENTS);
        for part in &self.parts {
            builder = match part {
                Part::Drive(Drive {
                    image: Some(image),
                    options,
                    ..
                }) if options.is_empty() => {
                    let nodes = image.node().to_blockdevs()?;
                    nodes.iter().fold(builder, Builder::blockdev)
                }
                Part::Disk(disk) => {
                    let nodes = disk.node().map_or(Ok(Vec::new()), Node::to_blockdevs)?;
                    nodes.iter().fold(builder, Builder::blockdev)
                }
                Part::Node(node) => node.to_blockdevs()?.iter().fold(builder, Builder::blockdev),
                Part::Object(object) => builder.args(["--object", &object.to_string()]),
                Part::Arguments(arguments) => builder.args(arguments),
                Part::Secret(id, value) => builder.secret(id, value),
                Part::Drive(_) => {
                    return Err(only_emulator(
                        "empty drives, options of drives, breakpoints",
                    ));
                }
                Part::Device(_) => return Err(only_emulator("guest devices")),
                Part::Incoming(_) => return Err(only_emulator("incoming migrations")),
                Part::Fd(..) => return Err(only_emulator("fd sets")),
                Part::Board(_) => return Err(only_emulator("machine types")),
                // A storage daemon can add exports at any time.
                Part::Hotplug => builder,
            };
        }
        Ok(builder)
    }
}

/// Whether an emulator needs a bus for this.
fn has_device(part: &Part) -> bool {
    match part {
        Part::Disk(_) | Part::Device(_) | Part::Hotplug => true,
        Part::Drive(drive) => drive.interface != "none",
        _ => false,
    }
}

/// The best of these machine types for a guest with disks, unless QEMU has a default.
fn board_of(machines: &[MachineType]) -> Option<&'static str> {
    // In order: boards designed for virtual machines, then whatever is available.
    const BOARDS: [&str; 7] = [
        "virt",
        "r2d",
        "or1k-sim",
        "mega2560",
        "tricore_testboard",
        "gdbsim-r5f562n8",
        "none",
    ];
    if machines.iter().any(|machine| machine.default) {
        return None;
    }
    let is = |board: &&str| {
        let called = |machine: &MachineType| {
            machine.name == *board || machine.alias.as_deref() == Some(board)
        };
        machines.iter().any(called)
    };
    BOARDS.into_iter().find(is)
}

fn only_emulator(what: &str) -> Failure {
    Failure::new(format!(
        "a storage daemon has no {what}: the case must declare Host::System"
    ))
}

fn mode(guest: Guest) -> Mode {
    match guest {
        Guest::Stopped => Mode::Stopped,
        Guest::RunningIdle => Mode::RunningIdle,
        Guest::Native => Mode::Native,
        Guest::VirtualClock => Mode::VirtualClock,
    }
}

/// What planning a launch requires, from the runner's probing: the accelerators that work, best
/// first, and the emulated architecture.
fn emulator_facts(shared: &Shared) -> (Vec<Accel>, String) {
    let facts = shared.capabilities().ok();
    match facts.and_then(|c| c.host(Backend::System)) {
        Some(facts) => (
            facts.usable_accelerators(),
            facts.target.clone().unwrap_or_default(),
        ),
        None => {
            let names = shared.spec.accelerators.iter().cloned();
            (names.map(Accel::from).collect(), String::new())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_without_a_default_board_gets_one_with_room_for_disks() {
        let machine = |name: &str, alias: Option<&str>, default| {
            let mut machine = MachineType::new(name);
            machine.alias = alias.map(str::to_owned);
            machine.default = default;
            machine
        };
        let none = machine("none", None, false);
        let arm = machine("virt-10.0", Some("virt"), false);
        let tiny = machine("akita", None, false);
        assert_eq!(board_of(&[none.clone(), tiny.clone(), arm]), Some("virt"));
        assert_eq!(board_of(&[none.clone(), tiny]), Some("none"));
        let pc = machine("pc-i440fx-10.0", Some("pc"), true);
        assert_eq!(board_of(&[none, pc]), None);
        assert_eq!(board_of(&[]), None, "nobody has asked");
    }
}
