//! Tries whether a storage daemon can export over FUSE: it may lack the driver, `/dev/fuse` may be
//! missing, or mounting may be forbidden.

use std::fs;
use std::path::Path;

use imgtools::probe::Support;
use imgtools::tools::Tool;
use machine::args::{Blockdev, Export};
use machine::{Deadlines, StorageDaemon};
use serde_json::json;

use crate::runner::error::chain;

/// The device through which processes serve file systems.
const DEVICE: &str = "/dev/fuse";

/// Tries an export of a small file.
pub(super) fn export_works(daemon: &Tool) -> Support {
    if !Path::new(DEVICE).exists() {
        return Support::No(format!("there is no {DEVICE}"));
    }
    match try_export(daemon) {
        Ok(()) => Support::Yes,
        Err(why) => Support::No(why),
    }
}

fn try_export(daemon: &Tool) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let (file, mount) = (folder.path().join("file"), folder.path().join("mount"));
    for path in [&file, &mount] {
        fs::write(path, [0; 512]).map_err(|error| error.to_string())?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let node = json!({"driver": "file", "node-name": "n", "filename": file});
    let node = Blockdev::try_from(node).map_err(|node| format!("{node} is no node"))?;
    let export = Export::new("fuse", "e", "n").set("mountpoint", json!(mount));
    runtime.block_on(async {
        let launched = StorageDaemon::builder(daemon.clone())
            .name("the trial of FUSE")
            .deadlines(Deadlines::default())
            .blockdev(&node)
            .export(&export)
            .launch()
            .await;
        match launched {
            Ok(machine) => machine.shutdown().await.map(drop).map_err(|error| chain(&error)),
            Err(error) => {
                let printed = error.output().map(|output| output.combined_text());
                let last = printed.as_deref().and_then(|text| text.trim().lines().last());
                Err(last.map_or_else(|| chain(&error), str::to_owned))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_cannot_export_is_reported_with_its_output() {
        // The last line that `cat` prints.
        let tool = Tool::new(imgtools::tools::ToolKind::StorageDaemon, "/bin/cat");
        let why = try_export(&tool).unwrap_err();
        assert!(why.contains("cat --help"), "{why}");
    }
}
