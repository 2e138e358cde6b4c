//! qemu-system-*.

use super::common::{Builder, Common, Kind, Specific};
use crate::accel::{Accel, Mode, Plan, idle_rom};
use crate::args::{Device, Drive, Incoming, Netdev};
use crate::program::Program;
use imgtools::image::Options;
use imgtools::tools::Tool;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

/// An emulator: without default devices, network or display.
///
/// ```no_run
/// # async fn example(tool: imgtools::tools::Tool) -> Result<(), Box<dyn std::error::Error>> {
/// use machine::Qemu;
/// use machine::accel::Accel;
/// use machine::args::{Blockdev, Device};
/// let vm = Qemu::builder(tool)
///     .accel(Accel::Tcg)
///     .paused(true)
///     .blockdev(&Blockdev::new("null-co").node("n"))
///     .device(&Device::new("virtio-blk").drive("n"))
///     .launch()
///     .await?;
/// vm.shutdown().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Qemu {
    machine: Option<String>,
    accels: Vec<Accel>,
    mode: Option<ModeRequest>,
    paused: bool,
    board_needed: bool,
    firmware: Option<PathBuf>,
    console: bool,
    qtest: bool,
}

/// A mode, with the binary's probed capabilities.
#[derive(Debug, Clone)]
struct ModeRequest {
    mode: Mode,
    usable: Vec<Accel>,
    target: String,
}

impl Qemu {
    /// Begins a builder for this binary.
    #[must_use]
    pub fn builder(tool: Tool) -> Builder<Qemu> {
        Builder::new(tool, Qemu::default())
    }

    fn plan(&self, common: &Common) -> Result<Option<Plan>, crate::LaunchError> {
        let Some(request) = &self.mode else {
            return Ok(None);
        };
        // The caller's choice takes precedence, so the plan has to suit it.
        let machine = self.machine.as_deref();
        let has_board = machine.is_some_and(|m| m.split(',').next() != Some("none"));
        let chosen = match self.accels.iter().find(|a| request.usable.contains(a)) {
            Some(taken) => std::slice::from_ref(taken),
            // None will work; let QEMU report that.
            None if !self.accels.is_empty() => &self.accels[..1],
            None => &request.usable,
        };
        // Raw arguments count as well, from the user for all machines or from the caller.
        let options = common.tool.options.iter().map(AsRef::as_ref);
        let mut words = options.chain(common.args.iter().map(OsString::as_os_str));
        let names_one = words.any(|word| word == "-device" || word == "-machine" || word == "-M");
        let board = self.board_needed || has_board || names_one;
        let plan = request.mode.plan(chosen, &request.target, board);
        plan.map(Some).map_err(crate::LaunchError::Mode)
    }
}

impl Builder<Qemu> {
    /// Sets the machine type, with options if any: `q35`, `pc,usb=off`.
    #[must_use]
    pub fn machine(mut self, machine: impl Into<String>) -> Self {
        self.own.machine = Some(machine.into());
        self
    }

    /// Adds an accelerator; QEMU takes the first one that works.
    #[must_use]
    pub fn accel(mut self, accel: Accel) -> Self {
        self.own.accels.push(accel);
        self
    }

    /// Chooses accelerator, `-S`, firmware and, if it does not matter, the machine type, so that
    /// the guest is in this mode. An explicitly given accelerator or machine type is kept, and the
    /// rest is chosen to suit it.
    ///
    /// `usable` are the accelerators that work here, best first, and `target` is the emulated
    /// architecture, such as `x86_64`; both come from a probe:
    /// [`usable_accelerators`](crate::probe::Capabilities::usable_accelerators) and
    /// [`target`](crate::probe::Capabilities::target).
    #[must_use]
    pub fn mode(mut self, mode: Mode, usable: &[Accel], target: &str) -> Self {
        self.own.mode = Some(ModeRequest {
            mode,
            usable: usable.to_vec(),
            target: target.to_owned(),
        });
        self
    }

    /// Sets the size of the guest's memory, in bytes (`-m`). QEMU's default is 128 MiB.
    #[must_use]
    pub fn memory(self, bytes: u64) -> Self {
        self.option("m", format!("{bytes}B"))
    }

    /// Sets the number of CPUs (`-smp`).
    #[must_use]
    pub fn cpus(self, count: u32) -> Self {
        self.option("smp", count.to_string())
    }

    /// Sets the CPU model, with features if any (`-cpu`): `host`, `qemu64,+avx`.
    #[must_use]
    pub fn cpu(self, model: impl Into<OsString>) -> Self {
        self.option("cpu", model)
    }

    /// Boots a Linux kernel directly, with this command line (`-kernel`, `-append`).
    #[must_use]
    pub fn kernel(mut self, image: impl Into<PathBuf>, command_line: &str) -> Self {
        self.own.board_needed = true;
        self.option("kernel", image.into()).option("append", command_line)
    }

    /// Sets the initial ramdisk of a [`kernel`](Self::kernel) (`-initrd`).
    #[must_use]
    pub fn initrd(self, image: impl Into<PathBuf>) -> Self {
        self.option("initrd", image.into())
    }

    /// Adds a network backend for a guest device (`-netdev`).
    #[must_use]
    pub fn netdev(self, netdev: &Netdev) -> Self {
        self.option("netdev", netdev.as_os_str())
    }

    /// Declares that guest devices will be plugged in later, which needs a machine type with a
    /// board. Otherwise a machine that starts without devices, in a [`mode`](Self::mode) that runs
    /// no guest code, has none.
    #[must_use]
    pub fn needs_board(mut self) -> Self {
        self.own.board_needed = true;
        self
    }

    /// Whether the CPUs wait for `cont` (`-S`).
    #[must_use]
    pub fn paused(mut self, paused: bool) -> Self {
        self.own.paused = paused;
        self
    }

    /// Replaces the firmware.
    #[must_use]
    pub fn firmware(mut self, image: impl Into<PathBuf>) -> Self {
        self.own.firmware = Some(image.into());
        self
    }

    /// Gives the guest a serial console; see [`Machine::console`](crate::Machine::console).
    #[must_use]
    pub fn console(mut self) -> Self {
        self.own.console = true;
        self.own.board_needed = true;
        self
    }

    /// Opens a qtest socket; see [`Machine::qtest`](crate::Machine::qtest). Under accelerators
    /// other than qtest it has no clock commands.
    #[must_use]
    pub fn qtest(mut self) -> Self {
        self.own.qtest = true;
        self
    }

    /// Adds a guest device.
    #[must_use]
    pub fn device(mut self, device: &Device) -> Self {
        self.own.board_needed = true;
        self.option("device", device.to_string())
    }

    /// Adds a drive.
    #[must_use]
    pub fn drive(mut self, drive: &Drive) -> Self {
        self.own.board_needed |= drive.has_guest_device();
        self.option("drive", drive.as_os_str())
    }

    /// Waits for an incoming migration.
    #[must_use]
    pub fn incoming(mut self, from: &Incoming) -> Self {
        let uri = match from {
            Incoming::Defer => OsString::from("defer"),
            Incoming::Unix(path) => {
                let mut uri = OsString::from("unix:");
                uri.push(self.socket_path(path));
                uri
            }
            Incoming::Fd(fd) => format!("fd:{}", self.inherit(Arc::clone(fd))).into(),
            Incoming::Exec(command) => format!("exec:{command}").into(),
            Incoming::Uri(uri) => uri.into(),
        };
        self.option("incoming", uri)
    }

    /// Puts a descriptor into an fd set (`-add-fd`), which `/dev/fdset/SET` names.
    #[must_use]
    pub fn add_fd(mut self, set: u32, fd: impl Into<Arc<OwnedFd>>, opaque: Option<&str>) -> Self {
        let number = self.inherit(fd);
        let options = Options::new().set("fd", number).set("set", set);
        let options = opaque.into_iter().fold(options, |o, text| o.set("opaque", text));
        self.option("add-fd", options)
    }
}

impl Kind for Qemu {}

impl Specific for Qemu {
    const PROGRAM: Program = Program::Emulator;
    const DASH: &'static str = "-";
    const MONITOR_OPTION: &'static str = "mon";

    fn base_args(&self, common: &mut Common) -> Result<Vec<OsString>, crate::LaunchError> {
        let plan = self.plan(common)?;
        let plan = plan.as_ref();
        let mut args: Vec<OsString> =
            ["-nodefaults", "-display", "none"].map(OsString::from).to_vec();
        let machine = self.machine.as_deref().or(plan.and_then(|p| p.machine));
        args.extend(machine.iter().flat_map(|m| ["-machine".into(), (*m).into()]));
        let planned = plan.map(|p| p.accel.clone());
        let accels = if self.accels.is_empty() {
            planned.as_slice()
        } else {
            &self.accels
        };
        args.extend(accels.iter().flat_map(|a| ["-accel".into(), a.name().into()]));
        if self.paused || plan.is_some_and(|p| p.paused) {
            args.push("-S".into());
        }
        let firmware = match &self.firmware {
            Some(image) => Some(image.clone()),
            None if plan.is_some_and(|p| p.idle_rom) => common.pass_bytes("idle-rom", &idle_rom()),
            None => None,
        };
        args.extend(firmware.iter().flat_map(|image| ["-bios".into(), image.into()]));
        Ok(args)
    }

    fn sockets(&self) -> (bool, bool) {
        (self.console, self.qtest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use imgtools::tools::ToolKind;

    fn line(mut builder: Builder<Qemu>) -> String {
        let args = builder.own.base_args(&mut builder.common).unwrap();
        let words: Vec<_> = args.iter().map(|a| a.to_string_lossy()).collect();
        words.join(" ")
    }

    fn qemu() -> Builder<Qemu> {
        Qemu::builder(Tool::new(ToolKind::System, "qemu"))
    }

    #[test]
    fn a_mode_suits_the_accelerator_that_was_chosen() {
        let usable = [Accel::Qtest, Accel::Tcg];
        let stopped = || qemu().mode(Mode::Stopped, &usable, "x86_64");
        assert!(line(stopped()).ends_with("-accel qtest"));
        // Under qtest nothing runs anyway; under this accelerator it would.
        assert!(line(stopped().accel(Accel::Tcg)).ends_with("-accel tcg -S"));
        // QEMU takes the first one that works.
        let both = stopped().accel(Accel::Kvm).accel(Accel::Qtest);
        assert!(line(both).ends_with("-accel kvm -accel qtest"));
        let both = stopped().accel(Accel::Tcg).accel(Accel::Qtest);
        assert!(line(both).ends_with("-accel tcg -accel qtest -S"));
        assert!(line(stopped().accel(Accel::Kvm)).ends_with("-accel kvm -S"));
        let clock = qemu().mode(Mode::VirtualClock, &usable, "x86_64").accel(Accel::Tcg);
        let mut common = clock.common.clone();
        assert!(clock.own.base_args(&mut common).is_err());
    }

    #[test]
    fn a_machine_without_a_board_is_idle_on_every_target() {
        let idle = || qemu().mode(Mode::RunningIdle, &[Accel::Tcg], "aarch64");
        assert!(line(idle()).contains("-machine none"));
        assert!(line(idle().machine("none")).contains("-machine none"));
        let stopped = || qemu().mode(Mode::Stopped, &[Accel::Tcg], "x86_64");
        assert!(line(stopped()).contains("-machine none"));
        for words in [["-device", "nvdimm"], ["-machine", "q35"], ["-M", "pc"]] {
            assert!(!line(stopped().args(words)).contains("-machine none"));
        }
        assert!(!line(stopped().needs_board()).contains("-machine"));
        let mut board = idle().machine("virt");
        assert!(board.own.base_args(&mut board.common).is_err());
    }

    #[test]
    fn common_parts_of_a_machine_have_words_of_their_own() {
        let net = Netdev::user("net0").set("hostfwd", "tcp::2222-:22");
        let builder = qemu()
            .memory(512 << 20)
            .cpus(2)
            .cpu("max")
            .kernel("/boot/vmlinuz", "console=ttyS0 quiet")
            .initrd("/boot/initrd,1")
            .netdev(&net);
        let words: Vec<_> = builder.common.args.iter().map(|a| a.to_string_lossy()).collect();
        assert_eq!(
            words.join(" "),
            "-m 536870912B -smp 2 -cpu max -kernel /boot/vmlinuz -append console=ttyS0 quiet \
             -initrd /boot/initrd,1 -netdev user,id=net0,hostfwd=tcp::2222-:22"
        );
    }
}
