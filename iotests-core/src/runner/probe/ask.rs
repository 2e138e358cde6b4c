//! Probes one set of programs.

use std::collections::BTreeMap;
use std::time::Duration;

use imgtools::img::QemuImg;
use imgtools::io::QemuIo;
use imgtools::probe;
use imgtools::tools::{Tool, ToolKind};
use machine::Deadlines;
use serde_json::Value;

use super::fuse;
use crate::case::{Backend, Broken, Capabilities, Feature, Format, HostFacts, Support, ToolFacts};
use crate::runner::error::chain;
use crate::runner::sets::ToolSet;

/// How long one call may take; generous.
const DEADLINE: Duration = Duration::from_secs(60);

/// Probes every program of the set. The schemas are returned separately because they are big.
pub(super) fn ask(set: &ToolSet) -> (Capabilities, BTreeMap<Backend, Value>) {
    let mut capabilities = Capabilities::default();
    let mut schemas = BTreeMap::new();
    for (kind, tool) in &set.tools {
        capabilities.tools.insert(
            *kind,
            ToolFacts {
                path: tool.path.clone(),
                version: tool.version,
            },
        );
    }
    if let Some(img) = set.tools.get(&ToolKind::Img) {
        ask_img(img, &mut capabilities);
    }
    for backend in Backend::ALL {
        let Some(tool) = set.tools.get(&backend.tool()) else {
            continue;
        };
        match ask_host(tool) {
            Ok((facts, schema)) => {
                capabilities.hosts.insert(
                    *backend,
                    HostFacts {
                        facts,
                        schema_file: None,
                    },
                );
                schemas.insert(*backend, schema);
            }
            Err(why) => {
                broken(tool, &why, &mut capabilities);
            }
        }
    }
    ask_features(set, &mut capabilities);
    (capabilities, schemas)
}

/// Marks a program as unusable, so that cases that need it are skipped with the reason.
fn broken(tool: &Tool, why: &str, capabilities: &mut Capabilities) {
    capabilities.tools.remove(&tool.kind);
    capabilities.problems.push(format!("{} cannot be used: {why}", tool.path.display()));
    let lines: Vec<&str> = why.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let prefix = format!("failed to probe {}: ", tool.path.display());
    let first = lines.first().copied().unwrap_or_default();
    let broken = Broken {
        path: tool.path.clone(),
        why: first.strip_prefix(&prefix).unwrap_or(first).to_owned(),
        message: why.to_owned(),
    };
    capabilities.broken.insert(tool.kind, broken);
}

fn ask_host(tool: &Tool) -> Result<(machine::probe::Capabilities, Value), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let probed = runtime
        .block_on(machine::probe::probe(tool, Deadlines::default()))
        .map_err(|error| chain(&error))?;
    Ok((probed.capabilities, probed.schema))
}

fn ask_img(tool: &Tool, capabilities: &mut Capabilities) {
    let img = QemuImg::new(tool.clone()).deadline(DEADLINE);
    match probe::formats_blocking(&img) {
        Ok(formats) if formats.is_empty() => {
            let help = tool.command().arg("--help").deadline(DEADLINE);
            let why = match help.run_blocking().and_then(|output| output.check()) {
                Ok(_) => "its --help names no formats".to_owned(),
                Err(error) => chain(&error),
            };
            broken(tool, &why, capabilities);
            return;
        }
        Ok(formats) => capabilities.readable = formats,
        Err(error) => {
            let why = chain(&error);
            broken(tool, &why, capabilities);
            return;
        }
    }
    // The help lists the options of formats that can be created, and fails for others.
    let can_create = |format: &&Format| {
        let call =
            tool.command().args(["create", "-f", format.name(), "-o", "help"]).deadline(DEADLINE);
        call.run_blocking().is_ok_and(|output| output.status.is_success())
    };
    let formats = Format::ALL.iter().filter(|format| capabilities.readable.contains(format.name()));
    capabilities.writable =
        formats.filter(can_create).map(|format| format.name().to_owned()).collect();
}

/// Tries features that may not work even though they are compiled in.
fn ask_features(set: &ToolSet, capabilities: &mut Capabilities) {
    let img =
        set.tools.get(&ToolKind::Img).map(|tool| QemuImg::new(tool.clone()).deadline(DEADLINE));
    let io = set.tools.get(&ToolKind::Io).map(|tool| QemuIo::new(tool.clone()).deadline(DEADLINE));
    let no = |why: &str| Ok(Support::No(why.to_owned()));
    for feature in Feature::ALL {
        let tried = match (feature, &img, &io) {
            (Feature::Luks, Some(img), _) => probe::luks_blocking(img),
            (Feature::Zstd, Some(img), _) => probe::zstd_blocking(img),
            (Feature::IoUring, _, Some(io)) => probe::aio_blocking(io, "io_uring"),
            (Feature::Fuse, _, _) => match set.tools.get(&ToolKind::StorageDaemon) {
                Some(daemon) => Ok(fuse::export_works(daemon)),
                None => no("the tool to try it with is missing"),
            },
            (_, _, _) => no("the tool to try it with is missing"),
        };
        let support = tried.unwrap_or_else(|error| Support::No(chain(&error)));
        capabilities.features.insert(feature, support);
    }
}
