//! The capabilities of one set of QEMU programs and of this computer, against which requirements
//! are checked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::OnceLock;

use imgtools::probe::Support;
use imgtools::tools::{ToolKind, Version};
use qmp::schema::Schema;
use serde::{Deserialize, Serialize};

use super::axes::Backend;
use super::skip::Skip;

/// A feature that may be compiled in but that only a trial shows to work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Feature {
    /// LUKS images can be created.
    Luks,
    /// qcow2 with `compression_type=zstd` can be created.
    Zstd,
    /// `aio=io_uring` opens a file.
    IoUring,
    /// A storage daemon exports a node over FUSE.
    Fuse,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Luks, Self::Zstd, Self::IoUring, Self::Fuse];

    /// Its name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Luks => "LUKS",
            Self::Zstd => "zstd",
            Self::IoUring => "io_uring",
            Self::Fuse => "FUSE",
        }
    }
}

/// What is known about one program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolFacts {
    /// Its path.
    pub path: PathBuf,
    /// Its version, if it could be read.
    pub version: Option<Version>,
}

/// A program that is present but does not work.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// Its path.
    pub path: PathBuf,
    /// The result of trying it, in one line.
    pub why: String,
    /// The same in full, with the command, its status and its output.
    pub message: String,
}

/// The capabilities of a program that hosts the block layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// What probing it found.
    pub facts: machine::probe::Capabilities,
    /// The file with the QMP schema, which is large and rarely needed.
    pub schema_file: Option<PathBuf>,
}

/// What a program may do with a block driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DriverUse {
    /// It lacks the driver.
    No,
    /// It has the driver, but its build does not whitelist it (`--block-drv-rw-whitelist`).
    NotListed,
    /// Reading only (`--block-drv-ro-whitelist`).
    Read,
    /// Reading and writing.
    Write,
}

/// The capabilities of one set of QEMU programs.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Capabilities {
    /// The programs that are present.
    pub tools: BTreeMap<ToolKind, ToolFacts>,
    /// Formats and drivers that qemu-img can open.
    pub readable: BTreeSet<String>,
    /// Formats that qemu-img can create and write.
    pub writable: BTreeSet<String>,
    /// The hosts that are present and could be probed.
    pub hosts: BTreeMap<Backend, HostFacts>,
    /// The features that were tried.
    pub features: BTreeMap<Feature, Support>,
    /// Programs that are present but do not work, with the result of trying them.
    #[serde(default)]
    pub broken: BTreeMap<ToolKind, Broken>,
    /// Programs that are present but could not be probed, and why.
    pub problems: Vec<String>,
    /// Schemas read from [`HostFacts::schema_file`] on demand.
    #[serde(skip)]
    schemas: Schemas,
}

/// One lazily read schema per backend.
type Schemas = [OnceLock<Option<Schema>>; Backend::ALL.len()];

impl Capabilities {
    /// The facts about a host, if it is present.
    pub fn host(&self, backend: Backend) -> Option<&machine::probe::Capabilities> {
        self.hosts.get(&backend).map(|host| &host.facts)
    }

    /// Why a program that is not among the tools cannot be used: it is missing, or it does not
    /// work.
    pub fn missing(&self, tool: ToolKind) -> Skip {
        match self.broken.get(&tool) {
            Some(broken) => Skip::BrokenTool {
                tool,
                path: broken.path.clone(),
                why: broken.why.clone(),
            },
            None => Skip::NoTool { tool },
        }
    }

    /// The version that matters to a case: that of the program that hosts its block layer, or of
    /// qemu-img for a case that uses only tools. In a mixed set they differ.
    pub fn version(&self, backend: Option<Backend>) -> Option<Version> {
        self.version_of(backend.map_or(ToolKind::Img, Backend::tool))
    }

    /// The version of one program.
    pub fn version_of(&self, tool: ToolKind) -> Option<Version> {
        self.tools.get(&tool)?.version
    }

    /// How a program may use a block driver: a build can be limited to a whitelist of drivers, some
    /// of them only for reading.
    pub fn driver(&self, driver: &str, backend: Option<Backend>) -> Result<DriverUse, Skip> {
        let Some(backend) = backend else {
            return Ok(match self.readable.contains(driver) {
                true => DriverUse::Write,
                false => DriverUse::No,
            });
        };
        let host = self.host(backend).ok_or_else(|| self.missing(backend.tool()))?;
        if !host.has_driver(driver) {
            return Ok(DriverUse::No);
        }
        let listed = |list: &[String]| list.iter().any(|one| one == driver);
        Ok(match &host.formats {
            Some(formats) if listed(&formats.read_write) => DriverUse::Write,
            Some(formats) if listed(&formats.read_only) => DriverUse::Read,
            Some(_) => DriverUse::NotListed,
            // A storage daemon does not report its list; qemu-img of the same build has the same
            // one.
            None if self.is_one_build(backend.tool(), ToolKind::Img)
                && !self.readable.is_empty()
                && !self.readable.contains(driver) =>
            {
                DriverUse::NotListed
            }
            None => DriverUse::Write,
        })
    }

    fn is_one_build(&self, one: ToolKind, other: ToolKind) -> bool {
        let version = self.version_of(one);
        version.is_some() && version == self.version_of(other)
    }

    /// The QMP schema of a host, read from its file on first use.
    pub fn schema(&self, backend: Backend) -> Option<&Schema> {
        let index = Backend::ALL.iter().position(|other| *other == backend)?;
        let read = || {
            let text = std::fs::read(self.hosts.get(&backend)?.schema_file.as_ref()?).ok()?;
            Schema::parse(&serde_json::from_slice(&text).ok()?).ok()
        };
        self.schemas.get(index)?.get_or_init(read).as_ref()
    }

    /// Whether the QMP schema of a host has `path`; `false` if the schema is unknown.
    pub fn schema_has(&self, backend: Backend, path: &str) -> bool {
        self.schema(backend).is_some_and(|schema| schema.has(path))
    }
}
