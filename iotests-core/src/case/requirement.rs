//! What a case needs, as constant data, and the check of it against what is there.

use std::env;
use std::path::Path;

use imgtools::probe::Support;
use imgtools::tools::ToolKind;

use super::axes::Backend;
use super::capabilities::{Capabilities, Feature};
use super::skip::Skip;
use super::version::VersionRange;

/// Something that has to be there for a case to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    /// An emulator, whatever the host of the case is.
    System,
    /// A program of QEMU. qemu-img and qemu-io are always needed and need not be named.
    Tool(ToolKind),
    /// A block driver: of the host, else of qemu-img.
    Driver(&'static str),
    /// A format that qemu-img can create and write.
    WritableFormat(&'static str),
    /// A device of the emulator.
    Device(&'static str),
    /// A QMP command of the host.
    Command(&'static str),
    /// A path in the QMP schema of the host: `blockdev-add/arg-type/+qcow2/discard-no-unref`.
    Schema(&'static str),
    /// A range of versions. Last resort: where a capability tells, name it instead.
    Version(VersionRange),
    /// Working LUKS.
    Luks,
    /// Working quorum.
    Quorum,
    /// Working zstd compression.
    Zstd,
    /// Working io_uring.
    IoUring,
    /// Working FUSE exports, which need `/dev/fuse` and the right to mount.
    Fuse,
    /// An accelerator by trial launch: "qtest", "kvm", "tcg".
    Accelerator(&'static str),
    /// Root.
    Root,
    /// Any user but root.
    NotRoot,
    /// An operating system as `std::env::consts::OS` names it.
    Platform(&'static str),
    /// A program that is not QEMU's, on PATH.
    Program(&'static str),
    /// All of these.
    AllOf(&'static [Requirement]),
    /// At least one of these.
    AnyOf(&'static [Requirement]),
    /// This must not hold.
    Not(&'static Requirement),
}

impl Requirement {
    /// Whether it holds for an instance on `backend`, else why not.
    pub fn check(&self, capabilities: &Capabilities, backend: Option<Backend>) -> Result<(), Skip> {
        let holds = |condition: bool, skip: Skip| if condition { Ok(()) } else { Err(skip) };
        match *self {
            Self::System => Self::Tool(ToolKind::System).check(capabilities, backend),
            Self::Tool(tool) => holds(
                capabilities.tools.contains_key(&tool),
                capabilities.lacking(tool),
            ),
            Self::Driver(driver) => driver_there(driver, capabilities, backend),
            Self::WritableFormat(format) => holds(
                capabilities.writable.contains(format),
                Skip::NotWritable {
                    format: format.to_owned(),
                },
            ),
            Self::Device(device) => {
                let host = capabilities
                    .host(Backend::System)
                    .ok_or_else(|| capabilities.lacking(ToolKind::System))?;
                holds(
                    host.has_device(device),
                    Skip::NoDevice {
                        device: device.to_owned(),
                    },
                )
            }
            Self::Command(command) => {
                let backend = backend.unwrap_or(Backend::Qsd);
                let host = capabilities
                    .host(backend)
                    .ok_or_else(|| capabilities.lacking(backend.tool()))?;
                holds(
                    host.has_command(command),
                    Skip::NoCommand {
                        command: command.to_owned(),
                        backend,
                    },
                )
            }
            Self::Schema(path) => {
                let backend = backend.unwrap_or(Backend::Qsd);
                holds(
                    capabilities.schema_has(backend, path),
                    Skip::NoSchema {
                        path: path.to_owned(),
                        backend,
                    },
                )
            }
            Self::Version(range) => {
                let found = capabilities.version(backend);
                holds(
                    found.is_some_and(|version| range.contains(version)),
                    Skip::Version {
                        needed: range.to_string(),
                        found,
                    },
                )
            }
            Self::Luks => works(Feature::Luks, capabilities),
            Self::Quorum => works(Feature::Quorum, capabilities),
            Self::Zstd => works(Feature::Zstd, capabilities),
            Self::IoUring => works(Feature::IoUring, capabilities),
            Self::Fuse => works(Feature::Fuse, capabilities),
            Self::Accelerator(name) => {
                let host = capabilities
                    .host(Backend::System)
                    .ok_or_else(|| capabilities.lacking(ToolKind::System))?;
                holds(
                    host.usable_accelerators()
                        .iter()
                        .any(|known| known.to_string() == name),
                    Skip::Accelerator {
                        needed: name.to_owned(),
                    },
                )
            }
            Self::Root => holds(is_root(), Skip::Root),
            Self::NotRoot => holds(!is_root(), Skip::NotRoot),
            Self::Platform(os) => holds(
                env::consts::OS == os,
                Skip::Platform {
                    needed: os.to_owned(),
                },
            ),
            Self::Program(program) => holds(
                on_path(program),
                Skip::NoProgram {
                    program: program.to_owned(),
                },
            ),
            Self::AllOf(all) => all
                .iter()
                .try_for_each(|one| one.check(capabilities, backend)),
            Self::AnyOf(any) => {
                let mut reasons = Vec::new();
                for one in any {
                    match one.check(capabilities, backend) {
                        Ok(()) => return Ok(()),
                        Err(reason) => reasons.push(reason),
                    }
                }
                Err(Skip::NoneOf { reasons })
            }
            Self::Not(inner) => match inner.check(capabilities, backend) {
                Ok(()) => Err(Skip::Unwanted {
                    what: format!("{inner:?}"),
                }),
                Err(_) => Ok(()),
            },
        }
    }
}

/// A host answers for its own drivers; without one, qemu-img's list does.
fn driver_there(
    driver: &str,
    capabilities: &Capabilities,
    backend: Option<Backend>,
) -> Result<(), Skip> {
    let (there, asked) = match backend {
        Some(backend) => {
            let host = capabilities
                .host(backend)
                .ok_or_else(|| capabilities.lacking(backend.tool()))?;
            (host.has_driver(driver), backend.tool())
        }
        None => (capabilities.readable.contains(driver), ToolKind::Img),
    };
    if there {
        Ok(())
    } else {
        Err(Skip::NoDriver {
            driver: driver.to_owned(),
            asked: asked.to_string(),
        })
    }
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
    use crate::case::{HostFacts, ToolFacts};

    fn capabilities() -> Capabilities {
        let mut capabilities = Capabilities::default();
        let version = "7.2.22".parse().ok();
        for kind in [ToolKind::Img, ToolKind::StorageDaemon] {
            let facts = ToolFacts {
                version,
                ..ToolFacts::default()
            };
            capabilities.tools.insert(kind, facts);
        }
        capabilities
            .readable
            .extend(["qcow2", "raw", "bochs"].map(str::to_owned));
        capabilities
            .writable
            .extend(["qcow2", "raw"].map(str::to_owned));
        let facts = serde_json::from_value(serde_json::json!({
            "program": "storage-daemon", "version": {"major": 7, "minor": 2, "micro": 22}, "package": "",
            "target": null, "accelerators": [], "machines": [], "devices": [], "formats": null,
            "drivers": ["throttle"], "commands": ["block-export-add"], "objects": [], "exports": [],
        }));
        let host = HostFacts {
            facts: facts.unwrap(),
            schema_file: None,
        };
        capabilities.hosts.insert(Backend::Qsd, host);
        capabilities
            .features
            .insert(Feature::Luks, Support::No("no TLS".to_owned()));
        capabilities.features.insert(Feature::Zstd, Support::Yes);
        capabilities
    }

    fn check(requirement: Requirement, backend: Option<Backend>) -> Result<(), String> {
        requirement
            .check(&capabilities(), backend)
            .map_err(|skip| skip.to_string())
    }

    #[test]
    fn a_driver_is_asked_of_the_host_and_without_one_of_qemu_img() {
        assert_eq!(
            check(Requirement::Driver("throttle"), Some(Backend::Qsd)),
            Ok(())
        );
        let asked = check(Requirement::Driver("throttle"), None).unwrap_err();
        assert_eq!(asked, "qemu-img has no block driver `throttle`");
        assert_eq!(check(Requirement::Driver("bochs"), None), Ok(()));
        let absent = check(Requirement::Driver("throttle"), Some(Backend::System)).unwrap_err();
        assert_eq!(absent, "needs an emulator (qemu-system-*)");
    }

    #[test]
    fn a_feature_that_does_not_work_repeats_the_tools_own_message() {
        assert_eq!(
            check(Requirement::Luks, None).unwrap_err(),
            "LUKS does not work here: no TLS"
        );
        assert_eq!(check(Requirement::Zstd, None), Ok(()));
        assert_eq!(
            check(Requirement::Quorum, None).unwrap_err(),
            "quorum does not work here: it could not be tried"
        );
    }

    #[test]
    fn versions_commands_and_combinations_are_checked() {
        let old = Requirement::Version(VersionRange::since(9, 1));
        assert_eq!(
            check(old, None).unwrap_err(),
            "needs QEMU 9.1 or later, this is 7.2.22"
        );
        assert_eq!(
            check(Requirement::Command("block-export-add"), Some(Backend::Qsd)),
            Ok(())
        );
        assert!(check(Requirement::Command("getfd"), Some(Backend::Qsd)).is_err());
        assert_eq!(
            check(
                Requirement::AnyOf(&[Requirement::Luks, Requirement::Zstd]),
                None
            ),
            Ok(())
        );
        assert!(
            check(
                Requirement::AnyOf(&[Requirement::Luks, Requirement::System]),
                None
            )
            .is_err()
        );
        assert!(
            check(
                Requirement::AllOf(&[Requirement::Zstd, Requirement::Luks]),
                None
            )
            .is_err()
        );
        assert_eq!(check(Requirement::Not(&Requirement::Luks), None), Ok(()));
        assert!(check(Requirement::Not(&Requirement::Zstd), None).is_err());
    }

    #[test]
    fn a_program_is_looked_for_on_the_path() {
        assert_eq!(check(Requirement::Program("sh"), None), Ok(()));
        assert!(check(Requirement::Program("no-such-program-anywhere"), None).is_err());
    }

    #[test]
    fn exactly_one_of_root_and_not_root_holds() {
        assert_ne!(
            check(Requirement::Root, None).is_ok(),
            check(Requirement::NotRoot, None).is_ok()
        );
    }
}
