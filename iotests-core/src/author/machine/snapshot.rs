//! Snapshots of disks: overlays, internal snapshots, and point-in-time views.

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
    /// Puts a node on top of another one (`blockdev-snapshot`): the users of `node` use `overlay`
    /// from now on.
    #[track_caller]
    pub fn snapshot(&self, node: impl Into<Target>, overlay: impl Into<Target>) -> Cmd {
        let (node, overlay) = (node.into().to_string(), overlay.into().to_string());
        self.monitor.send(BlockdevSnapshotCommand::new(node, overlay))
    }

    /// Creates an overlay of this format in a file, as a node with this name, and puts it on top of
    /// a node (`blockdev-snapshot-sync`).
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

    /// Creates an internal snapshot with this name in the image of a disk or node.
    #[track_caller]
    pub fn internal_snapshot(&self, node: impl Into<Target>, name: &str) -> Cmd {
        let device = node.into().to_string();
        let snapshot = BlockdevSnapshotInternalSync::new(device, name);
        self.monitor.send(snapshot)
    }

    /// Deletes the internal snapshot with this name from the image of a disk or node.
    #[track_caller]
    pub fn delete_internal_snapshot(&self, node: impl Into<Target>, name: &str) -> Cmd {
        let device = node.into().to_string();
        let delete = BlockdevSnapshotDeleteInternalSync::new(device).name(name);
        self.monitor.send(delete)
    }

    /// Preserves the current state of a disk while the guest continues: data is copied to a file
    /// before it is overwritten, and a node shows the disk as it was. Awaiting it returns that
    /// node.
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

/// How the old data of a frozen disk is preserved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keeper {
    /// A filter below the disk (`copy-before-write`) copies it to a file, and a node combines that
    /// file with the disk (`snapshot-access`). Since 7.0.
    #[default]
    Access,
    /// The same filter copies it to an overlay of the disk, from which it is read.
    Filter,
    /// A backup that copies only the old data (`sync` is `none`) to an overlay of the disk.
    Backup,
}

/// A disk to freeze. Awaiting it freezes the disk.
#[must_use = "a disk is frozen when this is awaited"]
pub struct Freeze<'m> {
    disk: Disk<'m>,
    keeper: Keeper,
    bitmap: Option<String>,
    place: &'static Location<'static>,
}

impl<'m> Freeze<'m> {
    /// Preserves the data in another way than [`Keeper::Access`].
    pub fn by(mut self, keeper: Keeper) -> Self {
        self.keeper = keeper;
        self
    }

    /// Preserves only what is dirty in this bitmap of the disk's node; not for [`Keeper::Backup`].
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
            // The reader may discard what it has read.
            let access = access.set("discard", "unmap");
            machine.add_node(access.file(name("filter").as_str())).await?;
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

/// A point-in-time view of a disk, on a node that can be exported or backed up.
#[must_use = "a frozen disk is there to be read"]
pub struct Frozen<'m> {
    disk: Disk<'m>,
    /// The node to which the disk was attached.
    below: String,
    node: String,
    copies: String,
    filter: Option<String>,
    job: Option<Job>,
    _file: TestFile,
}

impl<'m> Frozen<'m> {
    /// The node that shows the disk as it was.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Ends it: attaches the disk to its own node again, and removes everything that was created
    /// for the view, which must not be in use.
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
