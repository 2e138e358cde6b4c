//! What a case needs, as constant data, and the check against what is available.

use std::env;
use std::fmt;
use std::path::Path;

use imgtools::probe::Support;
use imgtools::tools::ToolKind;

use super::axes::{Backend, Format, Os, Protocol};
use super::capabilities::{Capabilities, DriverUse, Feature};
use super::instance::Point;
use super::skip::Skip;
use super::version::VersionRange;

/// Something that a case needs in order to run. Each requirement is checked against the program
/// that will use it: the host of the block layer, or qemu-img for a case that uses only tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    /// An emulator, whichever host the case uses.
    Emulator,
    /// A QEMU program. qemu-img and qemu-io are always needed and need not be named.
    Tool(ToolKind),
    /// A block driver usable for reading and writing.
    Driver(&'static str),
    /// A block driver usable for reading.
    ReadOnlyDriver(&'static str),
    /// A format that qemu-img can create, and that the host can write.
    WritableFormat(&'static str),
    /// A device of the emulator.
    Device(&'static str),
    /// A QMP command of the host, or of a storage daemon if the case has no host.
    Command(&'static str),
    /// A path in the QMP schema of the host: `blockdev-add/arg-type/+qcow2/discard-no-unref`.
    Schema(&'static str),
    /// A range of versions. A last resort: prefer a capability if one indicates the same.
    Version(VersionRange),
    /// A range of versions of this program.
    VersionOf(ToolKind, VersionRange),
    /// Working LUKS.
    Luks,
    /// Working zstd compression.
    Zstd,
    /// Working io_uring.
    IoUring,
    /// Working FUSE exports, which need `/dev/fuse` and permission to mount.
    Fuse,
    /// An accelerator that works in a trial launch: "qtest", "kvm", "tcg".
    Accelerator(&'static str),
    /// Running as root.
    Root,
    /// Running as any user except root.
    NotRoot,
    /// An operating system.
    Platform(Os),
    /// A program that is not part of QEMU, on PATH.
    Program(&'static str),
    /// This image format, for something that concerns only one of several.
    OnFormat(Format),
    /// This protocol, for something that concerns only one of several.
    OnProtocol(Protocol),
    /// This kind of host, for something that concerns only one of the two.
    OnBackend(Backend),
    /// All of these.
    AllOf(&'static [Requirement]),
    /// At least one of these.
    AnyOf(&'static [Requirement]),
    /// This must not hold.
    Not(&'static Requirement),
}

impl Requirement {
    /// Checks whether it holds at a point of the matrix; the error says why not.
    pub fn check(&self, capabilities: &Capabilities, point: &Point) -> Result<(), Skip> {
        let backend = point.backend;
        let emulator = || {
            capabilities.host(Backend::System).ok_or_else(|| capabilities.missing(ToolKind::System))
        };
        match *self {
            Self::Emulator => Self::Tool(ToolKind::System).check(capabilities, point),
            Self::Tool(tool) => holds(capabilities.tools.contains_key(&tool), || {
                capabilities.missing(tool)
            }),
            Self::Driver(driver) => may_use(driver, DriverUse::Write, capabilities, backend),
            Self::ReadOnlyDriver(driver) => may_use(driver, DriverUse::Read, capabilities, backend),
            Self::WritableFormat(format) => {
                holds(capabilities.writable.contains(format), || {
                    Skip::NotWritable {
                        format: format.to_owned(),
                    }
                })?;
                match backend {
                    Some(_) => may_use(format, DriverUse::Write, capabilities, backend),
                    None => Ok(()),
                }
            }
            Self::Device(device) => holds(emulator()?.has_device(device), || Skip::NoDevice {
                device: device.to_owned(),
            }),
            Self::Command(command) => {
                let backend = backend.unwrap_or(Backend::Qsd);
                let host = capabilities
                    .host(backend)
                    .ok_or_else(|| capabilities.missing(backend.tool()))?;
                holds(host.has_command(command), || Skip::NoCommand {
                    command: command.to_owned(),
                    backend,
                })
            }
            Self::Schema(path) => {
                let backend = backend.unwrap_or(Backend::Qsd);
                holds(capabilities.schema_has(backend, path), || Skip::NoSchema {
                    path: path.to_owned(),
                    backend,
                })
            }
            Self::Version(range) => {
                let tool = backend.map_or(ToolKind::Img, Backend::tool);
                Self::VersionOf(tool, range).check(capabilities, point)
            }
            Self::VersionOf(tool, range) => {
                let found = capabilities.version_of(tool);
                let is_in = found.is_some_and(|version| range.contains(version));
                holds(is_in, || Skip::Version {
                    of: tool,
                    needed: range.to_string(),
                    found,
                })
            }
            Self::Luks => {
                works(Feature::Luks, capabilities)?;
                match backend {
                    Some(_) => may_use("luks", DriverUse::Write, capabilities, backend),
                    None => Ok(()),
                }
            }
            Self::Zstd => {
                works(Feature::Zstd, capabilities)?;
                compiled_in(ZSTD, "zstd", capabilities, backend)
            }
            Self::IoUring => {
                works(Feature::IoUring, capabilities)?;
                compiled_in(IO_URING, "io_uring", capabilities, backend)
            }
            Self::Fuse => works(Feature::Fuse, capabilities),
            Self::Accelerator(name) => {
                let usable = emulator()?.usable_accelerators();
                let is_usable = usable.iter().any(|known| known.to_string() == name);
                holds(is_usable, || Skip::Accelerator {
                    needed: name.to_owned(),
                })
            }
            Self::Root => holds(is_root(), || Skip::Root),
            Self::NotRoot => holds(!is_root(), || Skip::NotRoot),
            Self::Platform(os) => holds(env::consts::OS == os.name(), || Skip::Platform {
                needed: os.to_string(),
            }),
            Self::Program(program) => holds(on_path(program), || Skip::NoProgram {
                program: program.to_owned(),
            }),
            Self::OnFormat(format) => at(point.format == format, "format", format.name()),
            Self::OnProtocol(protocol) => {
                at(point.protocol == protocol, "protocol", protocol.name())
            }
            Self::OnBackend(wanted) => at(backend == Some(wanted), "backend", wanted.name()),
            Self::AllOf(all) => all.iter().try_for_each(|one| one.check(capabilities, point)),
            Self::AnyOf(any) => {
                let mut reasons = Vec::new();
                for one in any {
                    match one.check(capabilities, point) {
                        Ok(()) => return Ok(()),
                        Err(reason) => reasons.push(reason),
                    }
                }
                Err(Skip::NoneOf { reasons })
            }
            Self::Not(inner) => match inner.check(capabilities, point) {
                Ok(()) => Err(Skip::Unwanted {
                    what: format!("{inner:?}"),
                }),
                Err(_) => Ok(()),
            },
        }
    }

    /// Visits it and everything nested in it.
    pub(crate) fn walk(&self, visit: &mut dyn FnMut(&Self)) {
        visit(self);
        match self {
            Self::AllOf(parts) | Self::AnyOf(parts) => {
                parts.iter().for_each(|part| part.walk(visit));
            }
            Self::Not(inner) => inner.walk(visit),
            _ => {}
        }
    }
}

/// What is needed, in readable form.
impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = |f: &mut fmt::Formatter<'_>, parts: &[Self], word: &str| {
            let parts: Vec<String> = parts.iter().map(Self::to_string).collect();
            write!(f, "({})", parts.join(word))
        };
        match self {
            Self::Emulator => write!(f, "emulator"),
            Self::Tool(tool) => write!(f, "{tool}"),
            Self::Driver(driver) => write!(f, "driver {driver}"),
            Self::ReadOnlyDriver(driver) => write!(f, "driver {driver} (reading)"),
            Self::WritableFormat(format) => write!(f, "writable format {format}"),
            Self::Device(device) => write!(f, "device {device}"),
            Self::Command(command) => write!(f, "command {command}"),
            Self::Schema(path) => write!(f, "schema {path}"),
            Self::Version(range) => write!(f, "version {range}"),
            Self::VersionOf(tool, range) => write!(f, "{tool} {range}"),
            Self::Luks => write!(f, "LUKS"),
            Self::Zstd => write!(f, "zstd"),
            Self::IoUring => write!(f, "io_uring"),
            Self::Fuse => write!(f, "FUSE"),
            Self::Accelerator(name) => write!(f, "accelerator {name}"),
            Self::Root => write!(f, "root"),
            Self::NotRoot => write!(f, "a user other than root"),
            Self::Platform(os) => write!(f, "{os}"),
            Self::Program(program) => write!(f, "program {program}"),
            Self::OnFormat(format) => write!(f, "format {format}"),
            Self::OnProtocol(protocol) => write!(f, "protocol {protocol}"),
            Self::OnBackend(backend) => write!(f, "backend {backend}"),
            Self::AllOf(parts) => all(f, parts, " and "),
            Self::AnyOf(parts) => all(f, parts, " or "),
            Self::Not(inner) => write!(f, "not {inner}"),
        }
    }
}

/// The schema path that shows zstd to be compiled in; since 5.1.
const ZSTD: &str = "blockdev-create/arg-type/options/+qcow2/compression-type/^zstd";
/// The schema path that shows io_uring to be compiled in; since 5.0.
const IO_URING: &str = "blockdev-add/arg-type/+file/aio/^io_uring";

fn holds(condition: bool, skip: impl FnOnce() -> Skip) -> Result<(), Skip> {
    if condition { Ok(()) } else { Err(skip()) }
}

fn at(is_there: bool, axis: &str, needed: &str) -> Result<(), Skip> {
    holds(is_there, || Skip::OtherPoint {
        axis: axis.to_owned(),
        needed: needed.to_owned(),
    })
}

/// Checks that the program that will use a driver has it, and that its build allows this use.
fn may_use(
    driver: &str,
    needed: DriverUse,
    capabilities: &Capabilities,
    backend: Option<Backend>,
) -> Result<(), Skip> {
    let found = capabilities.driver(driver, backend)?;
    let (driver, asked) = (
        driver.to_owned(),
        backend.map_or(ToolKind::Img, Backend::tool).to_string(),
    );
    match found {
        DriverUse::No => Err(Skip::NoDriver { driver, asked }),
        found if found >= needed => Ok(()),
        found => Err(Skip::Whitelist {
            driver,
            asked,
            read_only: found == DriverUse::Read,
        }),
    }
}

/// Checks that a feature that works with the tools is also compiled into the host, which may come
/// from another build.
fn compiled_in(
    path: &str,
    feature: &str,
    capabilities: &Capabilities,
    backend: Option<Backend>,
) -> Result<(), Skip> {
    let Some(backend) = backend else {
        return Ok(());
    };
    let schema = capabilities.schema(backend);
    holds(schema.is_none_or(|schema| schema.has(path)), || {
        Skip::Feature {
            feature: feature.to_owned(),
            why: format!("it is not compiled into {}", backend.tool()),
        }
    })
}

fn works(feature: Feature, capabilities: &Capabilities) -> Result<(), Skip> {
    let why = match capabilities.features.get(&feature) {
        Some(Support::Yes) => return Ok(()),
        Some(Support::No(why)) => why.clone(),
        None => "it could not be tried".to_owned(),
    };
    Err(Skip::Feature {
        feature: feature.name().to_owned(),
        why,
    })
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn on_path(program: &str) -> bool {
    let executable = |path: &Path| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|folder| executable(&folder.join(program))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Aio, Cache, HostFacts, ToolFacts};

    /// A daemon of this version.
    fn daemon(version: &str, drivers: &[&str]) -> HostFacts {
        host("storage-daemon", version, drivers, None)
    }

    fn host(
        program: &str,
        version: &str,
        drivers: &[&str],
        formats: Option<(&[&str], &[&str])>,
    ) -> HostFacts {
        let version: imgtools::tools::Version = version.parse().unwrap();
        let formats = formats.map(|(read_write, read_only)| {
            serde_json::json!({"read_write": read_write, "read_only": read_only})
        });
        let facts = serde_json::from_value(serde_json::json!({
            "program": program, "version": version, "package": "", "target": null,
            "accelerators": [],
            "machines": [], "devices": [], "formats": formats, "drivers": drivers,
            "commands": ["block-export-add"], "objects": [], "exports": [],
        }));
        HostFacts {
            facts: facts.unwrap(),
            schema_file: None,
        }
    }

    fn tool(version: &str) -> ToolFacts {
        ToolFacts {
            version: version.parse().ok(),
            ..ToolFacts::default()
        }
    }

    fn capabilities() -> Capabilities {
        let mut capabilities = Capabilities::default();
        for kind in [ToolKind::Img, ToolKind::StorageDaemon] {
            capabilities.tools.insert(kind, tool("7.2.22"));
        }
        capabilities.readable = ["qcow2", "raw", "bochs", "throttle"].map(str::to_owned).into();
        capabilities.writable = ["qcow2", "raw"].map(str::to_owned).into();
        let daemon = daemon("7.2.22", &["throttle", "qcow2", "quorum"]);
        capabilities.hosts.insert(Backend::Qsd, daemon);
        capabilities.features.insert(Feature::Luks, Support::No("no TLS".to_owned()));
        capabilities.features.insert(Feature::Zstd, Support::Yes);
        capabilities
    }

    /// The same with an emulator whose build whitelists only these drivers.
    fn limited(read_write: &[&str], read_only: &[&str]) -> Capabilities {
        let mut capabilities = capabilities();
        let all = ["qcow2", "raw", "bochs", "throttle", "quorum", "luks"];
        let emulator = host("emulator", "7.2.22", &all, Some((read_write, read_only)));
        capabilities.tools.insert(ToolKind::System, tool("7.2.22"));
        capabilities.hosts.insert(Backend::System, emulator);
        capabilities
    }

    fn point(backend: Option<Backend>) -> Point {
        Point {
            format: Format::Qcow2,
            protocol: Protocol::File,
            cache: Cache::Writeback,
            aio: Aio::Threads,
            backend,
        }
    }

    fn check_with(
        capabilities: &Capabilities,
        requirement: Requirement,
        backend: Option<Backend>,
    ) -> Result<(), String> {
        requirement.check(capabilities, &point(backend)).map_err(|skip| skip.to_string())
    }

    fn check(requirement: Requirement, backend: Option<Backend>) -> Result<(), String> {
        check_with(&capabilities(), requirement, backend)
    }

    #[test]
    fn a_driver_is_asked_of_the_host_and_without_one_of_qemu_img() {
        let throttle = Requirement::Driver("throttle");
        assert_eq!(check(throttle, Some(Backend::Qsd)), Ok(()));
        assert_eq!(check(throttle, None), Ok(()));
        let asked = check(Requirement::Driver("blkdebug"), None).unwrap_err();
        assert_eq!(asked, "qemu-img has no block driver `blkdebug`");
        assert_eq!(check(Requirement::Driver("bochs"), None), Ok(()));
        let asked = check(Requirement::Driver("bochs"), Some(Backend::Qsd)).unwrap_err();
        assert_eq!(asked, "qemu-storage-daemon has no block driver `bochs`");
        let absent = check(throttle, Some(Backend::System)).unwrap_err();
        assert_eq!(absent, "needs an emulator (qemu-system-*)");
    }

    /// H43: the build's whitelists decide, not what is compiled in.
    #[test]
    fn what_a_build_may_not_use_is_missing() {
        let limited = limited(&["qcow2", "raw"], &["bochs", "quorum"]);
        let check = |requirement| check_with(&limited, requirement, Some(Backend::System));
        assert_eq!(check(Requirement::Driver("qcow2")), Ok(()));
        assert_eq!(check(Requirement::WritableFormat("qcow2")), Ok(()));
        assert_eq!(
            check(Requirement::Driver("throttle")).unwrap_err(),
            "qemu-system may not use the block driver `throttle` (whitelist)"
        );
        assert_eq!(
            check(Requirement::Driver("quorum")).unwrap_err(),
            "qemu-system may only read with the block driver `quorum` (whitelist)"
        );
        assert_eq!(check(Requirement::ReadOnlyDriver("bochs")), Ok(()));
        assert!(check(Requirement::ReadOnlyDriver("luks")).is_err());
        // Without a host, the tools use the drivers, and the emulator's lists do not apply to them.
        let throttle = Requirement::Driver("throttle");
        assert_eq!(check_with(&limited, throttle, None), Ok(()));
    }

    #[test]
    fn a_format_has_to_be_written_by_the_host_as_well() {
        let limited = limited(&["raw"], &["qcow2"]);
        let writable = Requirement::WritableFormat("qcow2");
        assert_eq!(check_with(&limited, writable, None), Ok(()));
        assert!(check_with(&limited, writable, Some(Backend::System)).is_err());
        assert_eq!(
            check(Requirement::WritableFormat("vmdk"), None).unwrap_err(),
            "qemu-img cannot create vmdk images"
        );
    }

    /// A storage daemon does not report its build's lists, but qemu-img does.
    #[test]
    fn a_daemon_may_use_what_qemu_img_of_the_same_build_may() {
        let quorum = Requirement::Driver("quorum");
        let refused = check(quorum, Some(Backend::Qsd)).unwrap_err();
        assert!(refused.contains("may not use"), "{refused}");
        let mut mixed = capabilities();
        mixed.tools.insert(ToolKind::Img, tool("10.0.2"));
        assert_eq!(check_with(&mixed, quorum, Some(Backend::Qsd)), Ok(()));
    }

    #[test]
    fn a_feature_that_does_not_work_repeats_the_tools_own_message() {
        assert_eq!(
            check(Requirement::Luks, None).unwrap_err(),
            "LUKS does not work here: no TLS"
        );
        assert_eq!(check(Requirement::Zstd, None), Ok(()));
        assert_eq!(
            check(Requirement::IoUring, None).unwrap_err(),
            "io_uring does not work here: it could not be tried"
        );
    }

    #[test]
    fn luks_has_to_be_in_the_host_as_well() {
        let mut limited = limited(&["qcow2"], &[]);
        limited.features.insert(Feature::Luks, Support::Yes);
        assert_eq!(check_with(&limited, Requirement::Luks, None), Ok(()));
        assert!(check_with(&limited, Requirement::Luks, Some(Backend::System)).is_err());
    }

    #[test]
    fn a_version_is_that_of_the_program_that_uses_it() {
        let old = Requirement::Version(VersionRange::since(9, 1));
        assert_eq!(
            check(old, None).unwrap_err(),
            "needs qemu-img 9.1 or later, this is 7.2.22"
        );
        let mut mixed = capabilities();
        mixed.tools.insert(ToolKind::Img, tool("10.0.2"));
        assert_eq!(check_with(&mixed, old, None), Ok(()));
        assert_eq!(
            check_with(&mixed, old, Some(Backend::Qsd)).unwrap_err(),
            "needs qemu-storage-daemon 9.1 or later, this is 7.2.22"
        );
        let img = Requirement::VersionOf(ToolKind::Img, VersionRange::since(9, 1));
        assert_eq!(check_with(&mixed, img, Some(Backend::Qsd)), Ok(()));
    }

    #[test]
    fn commands_and_combinations_are_checked() {
        assert_eq!(
            check(Requirement::Command("block-export-add"), Some(Backend::Qsd)),
            Ok(())
        );
        assert!(check(Requirement::Command("getfd"), Some(Backend::Qsd)).is_err());
        let either = Requirement::AnyOf(&[Requirement::Luks, Requirement::Zstd]);
        assert_eq!(check(either, None), Ok(()));
        let neither = Requirement::AnyOf(&[Requirement::Luks, Requirement::Emulator]);
        assert!(check(neither, None).is_err());
        let both = Requirement::AllOf(&[Requirement::Zstd, Requirement::Luks]);
        assert!(check(both, None).is_err());
        assert_eq!(check(Requirement::Not(&Requirement::Luks), None), Ok(()));
        assert!(check(Requirement::Not(&Requirement::Zstd), None).is_err());
    }

    #[test]
    fn a_point_of_the_matrix_can_be_needed() {
        assert_eq!(check(Requirement::OnFormat(Format::Qcow2), None), Ok(()));
        assert_eq!(
            check(Requirement::OnFormat(Format::Raw), None).unwrap_err(),
            "only with format raw"
        );
        assert_eq!(check(Requirement::OnProtocol(Protocol::File), None), Ok(()));
        assert!(check(Requirement::OnProtocol(Protocol::Nbd), None).is_err());
        let daemon = Requirement::OnBackend(Backend::Qsd);
        assert_eq!(check(daemon, Some(Backend::Qsd)), Ok(()));
        assert!(check(daemon, None).is_err());
    }

    #[test]
    fn exactly_one_operating_system_is_this_one() {
        let holds = |os: &&Os| check(Requirement::Platform(**os), None).is_ok();
        let here: Vec<&Os> = Os::ALL.iter().filter(holds).collect();
        assert_eq!(here.len(), 1, "{here:?}");
        assert_eq!(here[0].name(), env::consts::OS);
        let elsewhere = Os::ALL.iter().find(|os| !holds(os)).unwrap();
        assert_eq!(
            check(Requirement::Platform(*elsewhere), None).unwrap_err(),
            format!("runs on {elsewhere} only")
        );
    }

    #[test]
    fn a_program_is_looked_for_on_the_path() {
        assert_eq!(check(Requirement::Program("sh"), None), Ok(()));
        assert!(check(Requirement::Program("no-such-program-anywhere"), None).is_err());
    }

    /// H46: a case that relies on permissions is skipped for root, with that reason.
    #[test]
    fn exactly_one_of_root_and_not_root_holds() {
        let skips = [Requirement::Root, Requirement::NotRoot].map(|need| check(need, None).err());
        let expected = match is_root() {
            true => [None, Some(Skip::NotRoot)],
            false => [Some(Skip::Root), None],
        };
        assert_eq!(
            skips,
            expected.map(|skip| skip.map(|skip| skip.to_string()))
        );
    }
}
