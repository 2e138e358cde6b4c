//! Snapshots of disks: overlays, internal ones, and a view of a disk as it was.

use std::future::IntoFuture;
use std::panic::Location;
use std::path::Path;

use qmp::types::{
    BlockdevSnapshotCommand, BlockdevSnapshotDeleteInternalSync, BlockdevSnapshotInternalSync,
    BlockdevSnapshotSyncCommand,
};
use serde_json::json;

use super::{Cmd, Disk, Job, Machine, Node, Outcome, Target};
use crate::author::action::Action;
use crate::author::failure::CaseResult;
use crate::author::files::TestFile;

impl Machine {
    /// Puts a node on top of another one (`blockdev-snapshot`): those who use `node` use `overlay`
    /// from now on.
    #[track_caller]
    pub fn snapshot(&self, node: impl Into<Target>, overlay: impl Into<Target>) -> Cmd {
        let (node, overlay) = (node.into().to_string(), overlay.into().to_string());
        self.monitor
            .send(BlockdevSnapshotCommand::new(node, overlay))
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
        let snapshot = BlockdevSnapshotSyncCommand::new(file.as_str())
            .node_name(node.into().to_string())
            .format(format)
            .snapshot_node_name(overlay);
        self.monitor.send(snapshot)
    }

    /// Makes a snapshot of this name inside the image of a disk or node.
    #[track_caller]
    pub fn internal_snapshot(&self, node: impl Into<Target>, name: &str) -> Cmd {
        let device = node.into().to_string();
        let snapshot = BlockdevSnapshotInternalSync::new(device, name);
        self.monitor.send(snapshot)
    }

    /// Deletes a snapshot of this name inside the image of a disk or node.
    #[track_caller]
    pub fn delete_internal_snapshot(&self, node: impl Into<Target>, name: &str) -> Cmd {
        let device = node.into().to_string();
        let delete = BlockdevSnapshotDeleteInternalSync::new(device).name(name);
        self.monitor.send(delete)
    }

    /// Keeps a disk as it is now, while the guest goes on: what is overwritten is copied to a file
    /// first, and a node shows the disk as it was. Awaited, it gives that node.
    #[track_caller]
    pub fn freeze(&self, disk: impl Into<Target>) -> Freeze<'_> {
        Freeze {
            disk: self.disk(disk),
            keeper: Keeper::default(),
            bitmap: None,
            place: Location::caller(),
        }
    }
}

/// What keeps the old data of a disk that is frozen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keeper {
    /// A filter below the disk (`copy-before-write`) copies it to a file, and a node reads from that
    /// and from the disk (`snapshot-access`). Since 7.0.
    #[default]
    Access,
    /// The same filter copies it to an overlay of the disk, which is read.
    Filter,
    /// A backup that copies nothing else (`sync` is `none`), to an overlay of the disk.
    Backup,
}

/// A disk to be frozen, when this is awaited.
#[must_use = "a disk is frozen when this is awaited"]
pub struct Freeze<'m> {
    disk: Disk<'m>,
    keeper: Keeper,
    bitmap: Option<String>,
    place: &'static Location<'static>,
}

impl<'m> Freeze<'m> {
    /// By something else than [`Keeper::Access`].
    pub fn by(mut self, keeper: Keeper) -> Self {
        self.keeper = keeper;
        self
    }

    /// Only what is dirty in this bitmap of the disk's node; not for [`Keeper::Backup`].
    pub fn bitmap(mut self, name: &str) -> Self {
        self.bitmap = Some(name.to_owned());
        self
    }

    async fn freeze(self) -> CaseResult<Frozen<'m>> {
        let (machine, disk) = (self.disk.machine(), self.disk);
        let shared = &machine.monitor.shared;
        let number = shared.next_number();
        let name = |part: &str| format!("{part}{number}");
        let copies = shared.directories.file(&name("copies"))?;
        let (below, size) = (disk.node().await?, disk.size().await?);
        let file = Node::new("file").set("filename", &copies);
        let node = match self.keeper {
            Keeper::Access => {
                imgtools::raw::create_sparse(&*copies, size)?;
                file
            }
            Keeper::Filter | Keeper::Backup => {
                let create = shared.img()?.create(Path::new(copies.as_str()));
                create.format("qcow2").size(size).run().await?;
                Node::new("qcow2").file(file).backing(below.as_str())
            }
        };
        machine.add_node(node.node_name(&name("copies"))).await?;
        let mut frozen = Frozen {
            node: name("copies"),
            copies: name("copies"),
            filter: None,
            job: None,
            disk,
            below,
            _file: copies,
        };
        if self.keeper == Keeper::Backup {
            let job = machine.backup(&frozen.disk).to(&frozen.copies).sync("none");
            frozen.job = Some(job.start().await?);
            return Ok(frozen);
        }
        let mut filter = Node::new("copy-before-write").node_name(&name("filter"));
        filter = filter.file(frozen.below.as_str());
        filter = filter.child("target", frozen.copies.as_str());
        if let Some(bitmap) = self.bitmap {
            filter = filter.set("bitmap", json!({"node": frozen.below, "name": bitmap}));
        }
        machine.add_node(filter).await?;
        frozen.disk.move_to(name("filter")).await?;
        if self.keeper == Keeper::Access {
            frozen.node = name("frozen");
            let access = Node::new("snapshot-access").node_name(&frozen.node);
            // Its reader may discard what it has read.
            let access = access.set("discard", "unmap");
            machine
                .add_node(access.file(name("filter").as_str()))
                .await?;
        }
        frozen.filter = Some(name("filter"));
        Ok(frozen)
    }
}

impl<'m> IntoFuture for Freeze<'m> {
    type Output = CaseResult<Frozen<'m>>;
    type IntoFuture = Action<'m, Frozen<'m>>;

    fn into_future(self) -> Self::IntoFuture {
        let what = format!("{} to be frozen", self.disk);
        Action::at(self.place, what, self.freeze())
    }
}

/// A disk as it was, on a node that can be exported or backed up.
#[must_use = "a frozen disk is there to be read"]
pub struct Frozen<'m> {
    disk: Disk<'m>,
    /// What the disk stood on.
    below: String,
    node: String,
    copies: String,
    filter: Option<String>,
    job: Option<Job>,
    _file: TestFile,
}

impl<'m> Frozen<'m> {
    /// The node with the disk as it was.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Gives it up: the disk stands on its own node again, and all that was made for this is gone.
    /// Nobody may use the frozen one.
    #[track_caller]
    pub fn thaw(self) -> Action<'m, ()> {
        Action::new(format!("{} to be thawed", self.disk), async move {
            let machine = self.disk.machine();
            if let Some(job) = self.job {
                let ended = job.cancel().await?;
                crate::check!(ended.outcome == Outcome::Cancelled);
            }
            if self.node != self.copies {
                machine.remove_node(&self.node).await?;
            }
            if let Some(filter) = &self.filter {
                self.disk.move_to(&self.below).await?;
                machine.remove_node(filter).await?;
            }
            machine.remove_node(&self.copies).await?;
            Ok(())
        })
    }
}

impl From<&Frozen<'_>> for Target {
    fn from(frozen: &Frozen<'_>) -> Self {
        Target::Node(frozen.node.clone())
    }
}
