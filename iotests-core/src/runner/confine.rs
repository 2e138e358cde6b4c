//! Confines a case to its directories: the kernel refuses writes elsewhere, so that the case fails
//! at the very line.

use std::path::Path;

use landlock::{
    ABI, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    path_beneath_rules,
};

use crate::wire::{CaseSpec, GoldenMode};

/// Linux 6.2 can restrict all kinds of writing, an older kernel only some, and none before 5.13.
const KINDS: ABI = ABI::V3;

/// Where upstream's `QEMUMachine` keeps its files by default.
const SCRIPTS_TEMP: &str = "/var/tmp";

/// Writing here leaves no files behind.
const ALWAYS: [&str; 2] = ["/dev", "/proc"];

/// Confines this process, and all that it starts, to the directories of its spec.
pub(super) fn confine(spec: &CaseSpec) -> Result<(), RulesetError> {
    let mut writable: Vec<&Path> = vec![&spec.test_dir, &spec.sock_dir];
    writable.extend(ALWAYS.map(Path::new));
    if let Some(script) = &spec.script {
        writable.extend([script.bytecode.as_path(), Path::new(SCRIPTS_TEMP)]);
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
