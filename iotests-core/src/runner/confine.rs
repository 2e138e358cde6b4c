//! Keeps a case in its directories: a write elsewhere is refused by the kernel, so that it fails at the line that tries.

use std::path::Path;

use landlock::{
    ABI, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    path_beneath_rules,
};

use crate::wire::{CaseSpec, GoldenMode};

/// Linux 6.2 knows all kinds of writing; an older kernel enforces those it knows, one before 5.13 none.
const KINDS: ABI = ABI::V3;

/// Where upstream's `QEMUMachine` keeps its files by default.
const OF_SCRIPTS: &str = "/var/tmp";

/// Devices and processes are no files that could be left behind.
const ALWAYS: [&str; 2] = ["/dev", "/proc"];

/// Confines this process, and all that it starts, to the directories of its spec.
pub(super) fn confine(spec: &CaseSpec) -> Result<(), RulesetError> {
    let mut writable: Vec<&Path> = vec![&spec.test_dir, &spec.sock_dir];
    writable.extend(ALWAYS.map(Path::new));
    if let Some(script) = &spec.script {
        writable.extend([script.bytecode.as_path(), Path::new(OF_SCRIPTS)]);
    }
    if spec.goldens == GoldenMode::Pending {
        writable.push(&spec.goldens_dir);
    }
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_write(KINDS))?
        .create()?
        .add_rules(path_beneath_rules(writable, AccessFs::from_write(KINDS)))?
        .restrict_self()?;
    Ok(())
}
