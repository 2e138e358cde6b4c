//! Whether the formats of a run know the options that all its images are to be created with.

use std::collections::BTreeSet;
use std::time::Duration;

use imgtools::tools::{Tool, ToolKind};

use super::error::RunError;
use super::instance::SetFiles;
use super::plan::Planned;

/// How long qemu-img may take to print its help: far more than it needs.
const DEADLINE: Duration = Duration::from_secs(60);

/// Refuses an option that a format of the run does not know: one error instead of one in each case.
/// Values are left to qemu-img, which may need more than the option to judge them.
pub(super) fn check(
    imgopts: &[String],
    planned: &[Planned],
    sets: &[SetFiles],
) -> Result<(), RunError> {
    if imgopts.is_empty() {
        return Ok(());
    }
    if let Some(bare) = imgopts.iter().find(|option| !option.contains('=')) {
        return Err(RunError::Usage(format!(
            "`--imgopts {bare}`: an option is NAME=VALUE"
        )));
    }
    let runnable = planned.iter().filter(|one| one.skip.is_none());
    let pairs: BTreeSet<_> = runnable.map(|one| (one.set, one.instance.format)).collect();
    for (set, format) in pairs {
        let Some(img) = sets.get(set).and_then(|set| set.tools.get(&ToolKind::Img)) else {
            continue;
        };
        let known = known(img, format.name());
        let name = |option: &String| option.split('=').next().unwrap_or_default().to_owned();
        // Where the list cannot be had, the cases find out.
        let unknown = imgopts.iter().map(name).find(|name| !known.contains(name));
        if let (Some(unknown), false) = (unknown, known.is_empty()) {
            return Err(RunError::Usage(format!(
                "`--imgopts {unknown}=…`: {} knows no such option of the format {format}; it knows {}",
                img.path.display(),
                known.into_iter().collect::<Vec<_>>().join(", ")
            )));
        }
    }
    Ok(())
}

/// The names in `qemu-img create -f FORMAT -o help FILE`: lines `  NAME=<TYPE> - DESCRIPTION`. The
/// file is not created; without its name the options of the protocol below are left out.
fn known(img: &Tool, format: &str) -> BTreeSet<String> {
    let command = img.command().deadline(DEADLINE);
    let command = command.args(["create", "-f", format, "-o", "help", "image"]);
    let Ok(output) = command.run_blocking() else {
        return BTreeSet::new();
    };
    output
        .stdout_text()
        .lines()
        .filter(|line| line.starts_with(' '))
        .filter_map(|line| Some(line.trim().split_once("=<")?.0.to_owned()))
        .collect()
}
