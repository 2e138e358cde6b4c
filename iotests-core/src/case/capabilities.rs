//! What one set of QEMU programs, and this computer, can do: what requirements are checked against.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::OnceLock;

use imgtools::probe::Support;
use imgtools::tools::{ToolKind, Version};
use qmp::schema::Schema;
use serde::{Deserialize, Serialize};

use super::axes::Backend;
use super::skip::Skip;

/// Something that is compiled in but has to be tried to be known to work.
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

    /// The name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Luks => "LUKS",
            Self::Zstd => "zstd",
            Self::IoUring => "io_uring",
            Self::Fuse => "FUSE",
        }
    }
}

/// What is known of one program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolFacts {
    /// Where it is.
    pub path: PathBuf,
    /// The version, if it could be read.
    pub version: Option<Version>,
}

/// A program that is there but does not work.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// Where it is.
    pub path: PathBuf,
    /// What came of trying it, in one line.
    pub why: String,
    /// The same in full, with the command, its status and its words.
    pub message: String,
}

/// What a process that hosts the block layer can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// What it said when it was asked.
    pub facts: machine::probe::Capabilities,
    /// Where the QMP schema is kept: big, and rarely needed.
    pub schema_file: Option<PathBuf>,
}

/// What a program may do with a block driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DriverUse {
    /// It does not have it.
    No,
    /// It has it, but its build may not use it (`--block-drv-rw-whitelist`).
    NotListed,
    /// Read only (`--block-drv-ro-whitelist`).
    Read,
    /// Read and write.
    Write,
}

/// What one set of QEMU programs can do.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Capabilities {
    /// The programs that are there.
    pub tools: BTreeMap<ToolKind, ToolFacts>,
    /// Formats and drivers that qemu-img can open.
    pub readable: BTreeSet<String>,
    /// Formats that qemu-img can create and write.
    pub writable: BTreeSet<String>,
    /// The hosts that are there and answered.
    pub hosts: BTreeMap<Backend, HostFacts>,
    /// What was tried.
    pub features: BTreeMap<Feature, Support>,
    /// Programs that are there but do not work, with what came of trying.
    #[serde(default)]
    pub broken: BTreeMap<ToolKind, Broken>,
    /// What is there but could not be asked, and why.
    pub problems: Vec<String>,
    /// Schemas that were read from [`HostFacts::schema_file`] on demand.
    #[serde(skip)]
    schemas: Schemas,
}

/// One lazily read schema for each backend.
type Schemas = [OnceLock<Option<Schema>>; Backend::ALL.len()];

impl Capabilities {
    /// The facts of a host, when it is there.
    pub fn host(&self, backend: Backend) -> Option<&machine::probe::Capabilities> {
        self.hosts.get(&backend).map(|host| &host.facts)
    }

    /// Why a program cannot be used that is not among the tools: it is not there, or it does not work.
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

    /// The version that matters to a case: of the program that hosts its block layer, and of
    /// qemu-img for a case of tools alone. In a mixed set they differ.
    pub fn version(&self, backend: Option<Backend>) -> Option<Version> {
        self.version_of(backend.map_or(ToolKind::Img, Backend::tool))
    }

    /// The version of one program.
    pub fn version_of(&self, tool: ToolKind) -> Option<Version> {
        self.tools.get(&tool)?.version
    }

    /// Whether a program has a block driver, and may use it: a build can be limited to a list of
    /// drivers, some of them for reading only.
    pub fn driver(&self, driver: &str, backend: Option<Backend>) -> Result<DriverUse, Skip> {
        let Some(backend) = backend else {
            return Ok(match self.readable.contains(driver) {
                true => DriverUse::Write,
                false => DriverUse::No,
            });
        };
        let host = self
            .host(backend)
            .ok_or_else(|| self.missing(backend.tool()))?;
        if !host.has_driver(driver) {
            return Ok(DriverUse::No);
        }
        let listed = |list: &[String]| list.iter().any(|one| one == driver);
        Ok(match &host.formats {
            Some(formats) if listed(&formats.read_write) => DriverUse::Write,
            Some(formats) if listed(&formats.read_only) => DriverUse::Read,
            Some(_) => DriverUse::NotListed,
            // A storage daemon does not show its list; that of qemu-img of the same build is the same.
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

    /// The QMP schema of a host, read from its file the first time.
    pub fn schema(&self, backend: Backend) -> Option<&Schema> {
        let index = Backend::ALL.iter().position(|other| *other == backend)?;
        let read = || {
            let text = std::fs::read(self.hosts.get(&backend)?.schema_file.as_ref()?).ok()?;
            Schema::parse(&serde_json::from_slice(&text).ok()?).ok()
        };
        self.schemas.get(index)?.get_or_init(read).as_ref()
    }

    /// Whether the QMP schema of a host has `path`; `false` when the schema is not known.
    pub fn schema_has(&self, backend: Backend, path: &str) -> bool {
        self.schema(backend).is_some_and(|schema| schema.has(path))
    }
}
