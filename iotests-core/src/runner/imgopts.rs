//! Checks that the formats of a run support the options of `--imgopts`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use imgtools::tools::{Tool, ToolKind};

use super::error::RunError;
use super::instance::SetFiles;
use super::plan::Planned;
use crate::case::Skip;

/// How long qemu-img may take to print its help; generous.
const DEADLINE: Duration = Duration::from_secs(60);

/// Skips the instances of formats that lack an option. If all formats lack one, that is a single
/// error instead. Values are left to qemu-img, which may need more than the option to judge them.
pub(super) fn check(
    imgopts: &[String],
    planned: &mut [Planned],
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
    let name = |option: &String| option.split('=').next().unwrap_or_default().to_owned();
    let mut lacking: BTreeMap<_, (String, String)> = BTreeMap::new();
    for (set, format) in &pairs {
        let Some(img) = sets.get(*set).and_then(|set| set.tools.get(&ToolKind::Img)) else {
            continue;
        };
        let known = known(img, format.name());
        // If the list is not available, the cases will find out.
        let unknown = imgopts.iter().map(name).find(|name| !known.contains(name));
        if let (Some(unknown), false) = (unknown, known.is_empty()) {
            let why = format!(
                "`--imgopts {unknown}=…`: {} has no such option for the format {format}; known: {}",
                img.path.display(),
                known.into_iter().collect::<Vec<_>>().join(", ")
            );
            lacking.insert((*set, *format), (unknown, why));
        }
    }
    if lacking.len() == pairs.len()
        && let Some((_, why)) = lacking.values().next()
    {
        return Err(RunError::Usage(why.clone()));
    }
    for one in planned.iter_mut().filter(|one| one.skip.is_none()) {
        if let Some((option, _)) = lacking.get(&(one.set, one.instance.format)) {
            one.skip = Some(Skip::ImageOptions {
                option: option.clone(),
            });
        }
    }
    Ok(())
}

/// The option names listed by `qemu-img create -f FORMAT -o help FILE` in lines
/// `  NAME=<TYPE> - DESCRIPTION`. FILE is not created, but without it the options of the protocol
/// are missing.
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
