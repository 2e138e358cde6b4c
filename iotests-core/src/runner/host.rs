//! Facts about the machine that may explain how a run went.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};
use serde::{Deserialize, Serialize};

use super::mounts;

/// Facts about a machine that may explain how a run went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostInfo {
    /// How many processors this process may use.
    pub processors: usize,
    /// Total memory in bytes; 0 if unknown.
    pub memory: u64,
    /// The user's name, or else the number.
    pub user: String,
    /// The type and mount point of the file system with the instances' directories.
    pub file_system: String,
    /// The directory for temporary files.
    pub temporary: PathBuf,
    /// Environment variables that affect the run.
    pub variables: BTreeMap<String, String>,
}

impl HostInfo {
    /// This machine, with the file system of this folder.
    pub(crate) fn here(folder: &Path) -> Self {
        let id = Uid::effective();
        let user = User::from_uid(id).ok().flatten();
        Self {
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory: meminfo("MemTotal:").map_or(0, |kib| kib.saturating_mul(1024)),
            user: user.map_or_else(|| id.to_string(), |user| user.name),
            file_system: mounts::file_system(folder).unwrap_or_default(),
            temporary: env::temp_dir(),
            variables: variables(),
        }
    }
}

/// A value from `/proc/meminfo` in KiB; `None` if missing.
pub(super) fn meminfo(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// The variables that the harness or QEMU's programs read. None of them is a secret.
fn variables() -> BTreeMap<String, String> {
    let read = |name: &str| {
        let qemu = name.starts_with("QEMU_") || name.starts_with("QSD_");
        let own = name.starts_with("IOTESTS_") && name != super::CALLED_AS;
        qemu || own || ["MALLOC_PERTURB_", "PYTHON", "CI"].contains(&name)
    };
    env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| read(name))
        .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
        .collect()
}
