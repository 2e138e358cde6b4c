//! The data: serializable, comparable, without behaviour beyond look-ups.

use crate::accel::Accel;
use crate::program::Program;
use imgtools::tools::Version;
use serde::{Deserialize, Serialize};

/// Whether an accelerator works, found by launching it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AccelTrial {
    /// The accelerator.
    pub accel: Accel,
    /// QEMU's reason why it does not work; `None` if it does.
    pub refused: Option<String>,
}

/// A machine type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MachineType {
    /// Its full name, such as `pc-q35-7.2`.
    pub name: String,
    /// Its short name, such as `q35`.
    pub alias: Option<String>,
    /// Whether it is used when none is named.
    pub default: bool,
    /// Whether it is deprecated.
    pub deprecated: bool,
}

impl MachineType {
    /// A machine type with this name, and nothing else set.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            alias: None,
            default: false,
            deprecated: false,
        }
    }
}

/// A device that `-device` accepts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeviceType {
    /// Its name.
    pub name: String,
    /// The bus it plugs into.
    pub bus: Option<String>,
    /// Its short name, such as `virtio-blk`.
    pub alias: Option<String>,
}

/// The block drivers that the build allows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Formats {
    /// For reading and writing.
    pub read_write: Vec<String>,
    /// For reading at least.
    pub read_only: Vec<String>,
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Capabilities {
    /// The kind of program.
    pub program: Program,
    /// Its version; 50 and above as the last number in development.
    pub version: Version,
    /// What the packager added to the version.
    pub package: String,
    /// The emulated architecture, such as `x86_64`; emulators only.
    pub target: Option<String>,
    /// Accelerators that were tried; emulators only.
    pub accelerators: Vec<AccelTrial>,
    /// Machine types; emulators only.
    pub machines: Vec<MachineType>,
    /// Devices; emulators only.
    pub devices: Vec<DeviceType>,
    /// Block drivers as `-drive format=help` lists them: the build's whitelist. A storage
    /// daemon does not report its own; qemu-img of the same build has the same lists.
    pub formats: Option<Formats>,
    /// Drivers that the QMP schema knows for `blockdev-add`.
    pub drivers: Vec<String>,
    /// QMP commands.
    pub commands: Vec<String>,
    /// Types that `object-add` accepts.
    pub objects: Vec<String>,
    /// Export types that `block-export-add` accepts.
    pub exports: Vec<String>,
}

impl Capabilities {
    /// Accelerators that work, in the order of trial.
    #[must_use]
    pub fn usable_accelerators(&self) -> Vec<Accel> {
        let usable = self.accelerators.iter().filter(|t| t.refused.is_none());
        usable.map(|t| t.accel.clone()).collect()
    }

    /// Whether `-device` accepts this name or alias.
    #[must_use]
    pub fn has_device(&self, name: &str) -> bool {
        self.devices.iter().any(|d| d.name == name || d.alias.as_deref() == Some(name))
    }

    /// Whether `-machine` accepts this name or alias.
    #[must_use]
    pub fn has_machine(&self, name: &str) -> bool {
        self.machines.iter().any(|m| m.name == name || m.alias.as_deref() == Some(name))
    }

    /// The machine type used when none is named.
    #[must_use]
    pub fn default_machine(&self) -> Option<&MachineType> {
        self.machines.iter().find(|m| m.default)
    }

    /// Whether the QMP command exists.
    #[must_use]
    pub fn has_command(&self, name: &str) -> bool {
        self.commands.iter().any(|c| c == name)
    }

    /// Whether the block driver exists.
    #[must_use]
    pub fn has_driver(&self, name: &str) -> bool {
        self.drivers.iter().any(|d| d == name)
    }

    /// Whether images of this format can be written: by the whitelist if known, else by the schema.
    #[must_use]
    pub fn can_write(&self, format: &str) -> bool {
        match &self.formats {
            Some(formats) => formats.read_write.iter().any(|f| f == format),
            None => self.has_driver(format),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Capabilities {
        Capabilities {
            program: Program::Emulator,
            version: Version::new(7, 2, 22),
            package: String::new(),
            target: Some("x86_64".into()),
            accelerators: vec![
                AccelTrial {
                    accel: Accel::Qtest,
                    refused: Some("invalid accelerator".into()),
                },
                AccelTrial {
                    accel: Accel::Tcg,
                    refused: None,
                },
            ],
            machines: vec![MachineType {
                name: "pc-q35-7.2".into(),
                alias: Some("q35".into()),
                default: true,
                deprecated: false,
            }],
            devices: vec![DeviceType {
                name: "virtio-blk-pci".into(),
                bus: Some("PCI".into()),
                alias: Some("virtio-blk".into()),
            }],
            formats: Some(Formats {
                read_write: vec!["raw".into()],
                read_only: vec!["dmg".into(), "raw".into()],
            }),
            drivers: vec!["dmg".into(), "raw".into()],
            commands: vec!["quit".into()],
            objects: Vec::new(),
            exports: Vec::new(),
        }
    }

    #[test]
    fn look_ups_know_names_and_aliases() {
        let it = sample();
        assert_eq!(it.usable_accelerators(), [Accel::Tcg]);
        assert!(it.has_device("virtio-blk") && it.has_device("virtio-blk-pci"));
        assert!(it.has_machine("q35") && !it.has_machine("pc"));
        assert!(it.has_command("quit") && !it.has_command("stop"));
        assert_eq!(it.default_machine().unwrap().name, "pc-q35-7.2");
    }

    #[test]
    fn the_whitelist_counts_more_than_the_schema() {
        let mut it = sample();
        assert!(it.can_write("raw") && !it.can_write("dmg"));
        it.formats = None;
        assert!(it.can_write("dmg") && !it.can_write("qcow2"));
    }

    #[test]
    fn the_data_survives_a_cache() {
        let text = serde_json::to_string(&sample()).unwrap();
        assert_eq!(
            serde_json::from_str::<Capabilities>(&text).unwrap(),
            sample()
        );
    }
}
