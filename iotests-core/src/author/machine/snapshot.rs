//! Snapshots of disks: overlays, internal ones, and a view of a disk as it was.

use serde_json::{Value, json};

use super::{Cmd, Disk, Machine, Node, Target};
use crate::author::action::Action;
use crate::author::failure::CaseResult;
use crate::author::files::TestFile;

impl Machine {
    /// Puts a node on top of another one (`blockdev-snapshot`): those who use `node` use `overlay`
    /// from now on.
    #[track_caller]
    pub fn snapshot(&self, node: impl Into<Target>, overlay: impl Into<Target>) -> Cmd {
        let (node, overlay) = (node.into().to_string(), overlay.into().to_string());
        self.cmd(
            "blockdev-snapshot",
            json!({"node": node, "overlay": overlay}),
        )
    }

    /// Makes an overlay of this format in a file, as a node of this name, and puts it on top of a node
    /// (`blockdev-snapshot-sync`).
    #[track_caller]
    pub fn snapshot_sync(
        &self,
        node: impl Into<Target>,
        file: &TestFile,
        format: &str,
        overlay: &str,
    ) -> Cmd {
        let arguments = json!({
            "node-name": node.into().to_string(), "snapshot-file": file, "format": format,
            "snapshot-node-name": overlay,
        });
        self.cmd("blockdev-snapshot-sync", arguments)
    }

    /// Makes a snapshot of this name inside the image of a disk or node.
    #[track_caller]
    pub fn internal_snapshot(&self, node: impl Into<Target>, name: &str) -> Cmd {
        let arguments = json!({"device": node.into().to_string(), "name": name});
        self.cmd("blockdev-snapshot-internal-sync", arguments)
    }

    /// Deletes a snapshot of this name inside the image of a disk or node.
    #[track_caller]
    pub fn delete_internal_snapshot(&self, node: impl Into<Target>, name: &str) -> Cmd {
        let arguments = json!({"device": node.into().to_string(), "name": name});
        self.cmd("blockdev-snapshot-delete-internal-sync", arguments)
    }

    /// Keeps a disk as it is now, while the guest goes on: with a filter below the disk that copies
    /// what is overwritten to a file (`copy-before-write`), and a node that reads from both
    /// (`snapshot-access`). The disk must not be written to meanwhile.
    #[track_caller]
    pub fn freeze(&self, disk: impl Into<Target>) -> Action<'_, Frozen<'_>> {
        let disk = self.disk(disk);
        Action::new(format!("{disk} to be frozen"), async move {
            let shared = &self.monitor.shared;
            let number = shared.next_number();
            let name = |part: &str| format!("{part}{number}");
            let copies = shared.directories.file(&name("frozen"))?;
            let (node, size) = (disk.node().await?, disk.size().await?);
            imgtools::raw::create_sparse(&*copies, size)?;
            let target = Node::new("file").set("filename", &copies);
            let filter = Node::new("copy-before-write")
                .node_name(&name("copy"))
                .file(node.as_str())
                .child("target", target.node_name(&name("copies")));
            self.add_node(filter).await?;
            disk.move_to(name("copy")).await?;
            let access = Node::new("snapshot-access").node_name(&name("frozen"));
            self.add_node(access.file(name("copy").as_str())).await?;
            Ok(Frozen {
                disk,
                below: node,
                node: name("frozen"),
                filter: name("copy"),
                _copies: copies,
            })
        })
    }
}

/// A disk as it was, on a node that can be exported or backed up.
#[must_use = "a frozen disk is there to be read"]
pub struct Frozen<'m> {
    disk: Disk<'m>,
    /// What the disk stood on.
    below: String,
    node: String,
    filter: String,
    _copies: TestFile,
}

impl<'m> Frozen<'m> {
    /// The node with the disk as it was.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Gives it up: the disk stands on its own node again. Nobody may use the frozen one.
    #[track_caller]
    pub fn thaw(self) -> Action<'m, ()> {
        Action::new(format!("{} to be thawed", self.disk), async move {
            let machine = self.disk.machine();
            machine.remove_node(&self.node).await?;
            self.disk.move_to(&self.below).await?;
            machine.remove_node(&self.filter).await?;
            Ok(())
        })
    }
}

impl From<&Frozen<'_>> for Target {
    fn from(frozen: &Frozen<'_>) -> Self {
        Target::Node(frozen.node.clone())
    }
}

impl Disk<'_> {
    /// What `query-blockstats` says of it, or of its node on a storage daemon.
    #[track_caller]
    pub fn stats(&self) -> Action<'_, Value> {
        Action::new(format!("the statistics of {self}"), async move {
            self.machine().stats_of(self.id()).await
        })
    }

    /// Counts the latencies of its requests in these intervals, in nanoseconds
    /// (`block-latency-histogram-set`); emulators only.
    ///
    /// # Errors
    /// When it is no guest device.
    #[track_caller]
    pub fn latency_histogram(&self, boundaries: &[u64]) -> CaseResult<Cmd> {
        let arguments = json!({"id": self.qom_path()?, "boundaries": boundaries});
        Ok(self.machine().cmd("block-latency-histogram-set", arguments))
    }
}

impl Machine {
    /// Reports the first write to a node at or behind this place (`BLOCK_WRITE_THRESHOLD`).
    #[track_caller]
    pub fn write_threshold(&self, node: impl Into<Target>, bytes: u64) -> Cmd {
        let node = node.into().to_string();
        let arguments = json!({"node-name": node, "write-threshold": bytes});
        self.cmd("block-set-write-threshold", arguments)
    }

    /// Changes the limits of a throttle group (`ThrottleLimits` in QEMU's `qapi/block-core.json`).
    #[track_caller]
    pub fn set_throttle_limits(&self, group: &str, limits: Value) -> Cmd {
        let path = format!("/objects/{group}");
        let arguments = json!({"path": path, "property": "limits", "value": limits});
        self.cmd("qom-set", arguments)
    }
}
