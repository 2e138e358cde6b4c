//! The cache of probe results: one file for each set of programs.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use imgtools::tools::{ToolKind, Version};
use nix::unistd::AccessFlags;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Known;
use crate::case::{Backend, Capabilities};
use crate::runner::error::{RunError, io as io_error};
use crate::runner::keep::replace;
use crate::runner::sets::ToolSet;

/// The version of the file format.
const FORMAT: u32 = 5;

/// The number of sets whose results are kept.
const KEPT: usize = 32;

/// Devices that affect what works: accelerators and FUSE exports.
const DEVICES: [&str; 2] = ["/dev/kvm", "/dev/fuse"];

/// The versions of programs, by kind and path.
pub(crate) type KnownVersions = BTreeMap<(ToolKind, PathBuf), Version>;

/// A cache folder.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    folder: PathBuf,
    surroundings: Surroundings,
}

/// What results depend on besides the programs: user, kernel and accessible devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Surroundings {
    user: u32,
    kernel: String,
    devices: Vec<String>,
}

impl Surroundings {
    /// The surroundings of this process.
    fn here() -> Self {
        let kernel = nix::sys::utsname::uname().map(|name| {
            [name.release(), name.version()]
                .map(|part| part.to_string_lossy().into_owned())
                .join(" ")
        });
        let open_to_us = |device: &&str| {
            let way = AccessFlags::R_OK | AccessFlags::W_OK;
            nix::unistd::eaccess(*device, way).is_ok()
        };
        Self {
            user: nix::unistd::geteuid().as_raw(),
            kernel: kernel.unwrap_or_default(),
            devices: DEVICES.into_iter().filter(open_to_us).map(str::to_owned).collect(),
        }
    }
}

/// What the cache has for a set.
#[derive(Debug)]
pub(crate) enum Kept {
    /// A result that is up to date.
    Valid(Box<Known>),
    /// Nothing, or an outdated result.
    Nothing,
    /// A file that cannot be parsed.
    Corrupt(String),
}

/// A program's file at the time it was probed, and its options.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Stamp {
    path: PathBuf,
    size: u64,
    modified: u128,
    options: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Content {
    format: u32,
    surroundings: Surroundings,
    stamps: BTreeMap<ToolKind, Stamp>,
}

#[derive(Default, Serialize, Deserialize)]
struct Versions {
    known: Vec<(ToolKind, Stamp, Version)>,
}

impl Cache {
    /// The cache in this folder.
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            surroundings: Surroundings::here(),
        }
    }

    /// The versions of programs that have not changed since they were probed.
    ///
    /// A file that cannot be parsed is ignored: the second value says why, and
    /// [`Self::keep_versions`] replaces it.
    pub(crate) fn versions(&self) -> (KnownVersions, Option<String>) {
        let (known, warning) = match self.read_versions() {
            Ok(versions) => (versions.known, None),
            Err(why) => (Vec::new(), Some(ignored(&self.versions_file(), &why))),
        };
        let unchanged = known
            .into_iter()
            .filter(|(_, old, _)| stamp(&old.path, &old.options).as_ref() == Some(old));
        let known = unchanged.map(|(kind, old, version)| ((kind, old.path), version)).collect();
        (known, warning)
    }

    fn read_versions(&self) -> io::Result<Versions> {
        match fs::read(self.versions_file()) {
            Ok(text) => Ok(serde_json::from_slice(&text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Versions::default()),
            Err(error) => Err(error),
        }
    }

    fn versions_file(&self) -> PathBuf {
        self.folder.join("versions.json")
    }

    /// The result for a set.
    pub(crate) fn get(&self, set: &ToolSet) -> Kept {
        let stamps = stamps(set);
        let [content_file, capabilities_file] = self.files(&stamps);
        let text = match fs::read(&content_file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Kept::Nothing,
            Err(error) => return corrupt(&content_file, &error),
        };
        let content: Content = match serde_json::from_slice(&text) {
            Ok(content) => content,
            Err(error) => return corrupt(&content_file, &error),
        };
        let is_current = content.format == FORMAT
            && content.surroundings == self.surroundings
            && content.stamps == stamps;
        if !is_current {
            return Kept::Nothing;
        }
        let read = || -> io::Result<Capabilities> {
            Ok(serde_json::from_slice(&fs::read(&capabilities_file)?)?)
        };
        let capabilities = match read() {
            Ok(capabilities) => capabilities,
            Err(error) => return corrupt(&capabilities_file, &error),
        };
        // Cases read the schemas on demand, when it is too late to probe again.
        for schema in capabilities.hosts.values().filter_map(|host| host.schema_file.as_ref()) {
            let read = || io::Result::Ok(serde_json::from_slice::<IgnoredAny>(&fs::read(schema)?)?);
            if let Err(error) = read() {
                return corrupt(schema, &error);
            }
        }
        Kept::Valid(Box::new(Known {
            capabilities,
            file: capabilities_file,
            spare: None,
        }))
    }

    /// Stores a result, and returns the file with the capabilities.
    pub(crate) fn put(
        &self,
        set: &ToolSet,
        capabilities: &mut Capabilities,
        schemas: &BTreeMap<Backend, Value>,
    ) -> Result<PathBuf, RunError> {
        fs::create_dir_all(&self.folder)
            .map_err(io_error("create the folder of the probes", &self.folder))?;
        let stamps = stamps(set);
        let [content_file, file] = self.files(&stamps);
        for (backend, schema) in schemas {
            let schema_file = file.with_extension(format!("{backend}.schema.json"));
            write(&schema_file, schema)?;
            if let Some(host) = capabilities.hosts.get_mut(backend) {
                host.schema_file = Some(schema_file);
            }
        }
        write(&file, capabilities)?;
        self.keep_versions(set)?;
        // Last, because its presence makes the others valid.
        write(
            &content_file,
            &Content {
                format: FORMAT,
                surroundings: self.surroundings.clone(),
                stamps,
            },
        )?;
        self.tidy();
        Ok(file)
    }

    /// Removes results for programs that are gone, and the oldest results beyond [`KEPT`].
    fn tidy(&self) {
        let mut kept: Vec<(SystemTime, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let content =
                fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Content>(&text).ok());
            let Some(content) = content else { continue };
            if content.stamps.values().all(|stamp| stamp.path.exists()) {
                let modified = entry.metadata().and_then(|data| data.modified());
                kept.push((modified.unwrap_or(SystemTime::UNIX_EPOCH), path));
            } else {
                self.remove(&path);
            }
        }
        kept.sort();
        let excess = kept.len().saturating_sub(KEPT);
        kept[..excess].iter().for_each(|(_, path)| self.remove(path));
    }

    /// Removes all files of a set. The content file goes first because it makes the others valid;
    /// their names start with its stem.
    fn remove(&self, content_file: &Path) {
        let _ = fs::remove_file(content_file);
        let stem = content_file.file_stem().unwrap_or_default();
        let prefix = format!("{}.", stem.to_string_lossy());
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Stores the versions of a set's programs.
    pub(crate) fn keep_versions(&self, set: &ToolSet) -> Result<(), RunError> {
        let mut versions = self.read_versions().unwrap_or_default();
        versions.known.retain(|(kind, old, _)| {
            old.path.exists() && set.tools.get(kind).is_none_or(|tool| tool.path != old.path)
        });
        for (kind, tool) in &set.tools {
            if let (Some(version), Some(stamp)) = (tool.version, stamp(&tool.path, &[])) {
                versions.known.push((*kind, stamp, version));
            }
        }
        write(&self.versions_file(), &versions)
    }

    /// The content file and the capabilities file of a set.
    fn files(&self, stamps: &BTreeMap<ToolKind, Stamp>) -> [PathBuf; 2] {
        let mut hasher = DefaultHasher::new();
        // Users who share a build folder have separate files, as they may not replace each other's.
        self.surroundings.user.hash(&mut hasher);
        // Only paths and options, so that a new build replaces the result of the old one.
        for (kind, stamp) in stamps {
            (kind, &stamp.path, &stamp.options).hash(&mut hasher);
        }
        let name = format!("{:016x}", hasher.finish());
        [
            self.folder.join(format!("{name}.json")),
            self.folder.join(format!("{name}.capabilities.json")),
        ]
    }
}

/// If two runs write the same file, either result is fine.
fn write(path: &Path, value: &impl Serialize) -> Result<(), RunError> {
    replace(path, value).map_err(io_error("write the probe cache", path))
}

fn corrupt(path: &Path, why: &dyn std::fmt::Display) -> Kept {
    Kept::Corrupt(ignored(path, why))
}

fn ignored(path: &Path, why: &dyn std::fmt::Display) -> String {
    format!("the probe cache {} is ignored: {why}", path.display())
}

fn stamps(set: &ToolSet) -> BTreeMap<ToolKind, Stamp> {
    set.tools
        .iter()
        .filter_map(|(kind, tool)| Some((*kind, stamp(&tool.path, &tool.options)?)))
        .collect()
}

fn stamp(path: &Path, options: &[String]) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    let modified =
        metadata.modified().ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_nanos();
    Some(Stamp {
        path: path.to_owned(),
        size: metadata.len(),
        modified,
        options: options.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use imgtools::tools::Tool;

    use super::*;
    use crate::case::{HostFacts, ToolFacts};

    fn set(folder: &Path) -> ToolSet {
        let path = folder.join("qemu-img");
        fs::write(&path, "a program").unwrap();
        let tool = Tool {
            version: "7.2.22".parse().ok(),
            ..Tool::new(ToolKind::Img, path)
        };
        ToolSet {
            name: "host".to_owned(),
            tools: [(ToolKind::Img, tool)].into(),
        }
    }

    fn capabilities() -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.tools.insert(ToolKind::Img, ToolFacts::default());
        capabilities
    }

    #[test]
    fn a_result_is_kept_until_the_program_changes() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("probes"));
        let set = set(folder.path());
        assert!(matches!(cache.get(&set), Kept::Nothing));
        cache.put(&set, &mut capabilities(), &BTreeMap::new()).unwrap();
        assert!(
            matches!(cache.get(&set), Kept::Valid(known) if known.capabilities.tools.len() == 1)
        );
        assert_eq!(cache.versions().0.len(), 1);
        fs::write(&set.tools[&ToolKind::Img].path, "another program").unwrap();
        assert!(matches!(cache.get(&set), Kept::Nothing));
        assert_eq!(cache.versions().0.len(), 0);
    }

    #[test]
    fn programs_are_probed_again_for_another_user_kernel_or_device() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("probes"));
        let set = set(folder.path());
        cache.put(&set, &mut capabilities(), &BTreeMap::new()).unwrap();
        let is_kept = |change: fn(&mut Surroundings)| {
            let mut other = cache.clone();
            change(&mut other.surroundings);
            matches!(other.get(&set), Kept::Valid(_))
        };
        assert!(is_kept(|_| ()));
        assert!(!is_kept(|here| here.user += 1));
        assert!(!is_kept(|here| here.kernel.push('+')));
        assert!(!is_kept(|here| here.devices.push("/dev/other".to_owned())));
    }

    #[test]
    fn results_for_missing_programs_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("probes"));
        let sets = ["a", "b"].map(|name| {
            let folder = folder.path().join(name);
            fs::create_dir(&folder).unwrap();
            set(&folder)
        });
        let put = |set| cache.put(set, &mut capabilities(), &BTreeMap::new()).unwrap();
        sets.iter().for_each(|set| drop(put(set)));
        let gone = cache.files(&stamps(&sets[0]));
        assert!(gone.iter().all(|file| file.exists()));
        fs::remove_file(&sets[0].tools[&ToolKind::Img].path).unwrap();
        put(&sets[1]);
        assert!(!gone.iter().any(|file| file.exists()));
        assert!(matches!(cache.get(&sets[1]), Kept::Valid(_)));
    }

    #[test]
    fn other_options_are_another_set() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("probes"));
        let mut set = set(folder.path());
        cache.put(&set, &mut capabilities(), &BTreeMap::new()).unwrap();
        let tool = set.tools.remove(&ToolKind::Img).unwrap().with_option("-x");
        set.tools.insert(ToolKind::Img, tool);
        assert!(matches!(cache.get(&set), Kept::Nothing));
    }

    #[test]
    fn a_corrupt_schema_is_reported_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("probes"));
        let set = set(folder.path());
        let mut capabilities = capabilities();
        let facts = serde_json::from_value(serde_json::json!({
            "program": "storage-daemon", "version": {"major": 7, "minor": 2, "micro": 0}, "package": "",
            "target": null, "accelerators": [], "machines": [], "devices": [], "formats": null,
            "drivers": [], "commands": [], "objects": [], "exports": [],
        }));
        let host = HostFacts {
            facts: facts.unwrap(),
            schema_file: None,
        };
        capabilities.hosts.insert(Backend::Qsd, host);
        let schemas = [(Backend::Qsd, Value::Array(Vec::new()))].into();
        cache.put(&set, &mut capabilities, &schemas).unwrap();
        assert!(matches!(cache.get(&set), Kept::Valid(_)));
        let schema = capabilities.hosts[&Backend::Qsd].schema_file.clone();
        fs::write(schema.unwrap(), "[{").unwrap();
        assert!(matches!(cache.get(&set), Kept::Corrupt(why) if why.contains("schema.json")));
        cache.put(&set, &mut capabilities, &schemas).unwrap();
        assert!(matches!(cache.get(&set), Kept::Valid(_)));
    }

    #[test]
    fn a_corrupt_file_is_reported_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("probes"));
        let set = set(folder.path());
        cache.put(&set, &mut capabilities(), &BTreeMap::new()).unwrap();
        for file in cache.files(&stamps(&set)) {
            fs::write(&file, "{\"broken").unwrap();
            assert!(matches!(cache.get(&set), Kept::Corrupt(why) if why.contains("ignored")));
            cache.put(&set, &mut capabilities(), &BTreeMap::new()).unwrap();
            assert!(matches!(cache.get(&set), Kept::Valid(_)));
        }
    }
}
