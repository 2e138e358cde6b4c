//! A disk `top -> base`, and where it is mirrored to.

use std::ops::Range;

use iotests_core::author::MachineBuilder;
use iotests_core::prelude::*;

use super::HELD;

/// A command, and the size of the disk.
pub(super) struct Onto {
    pub(super) command: &'static str,
    pub(super) size: u64,
}

rows! {
    pub(super) ONTO: Onto { command, size };
    "drive" => "drive-mirror", MIB, upstream = "TestSingleDrive";
    "drive-empty" => "drive-mirror", 0, upstream = "TestSingleDriveZeroLength";
    "drive-unaligned" => "drive-mirror", 1025 * KIB, upstream = "TestSingleDriveUnalignedLength";
    "blockdev" => "blockdev-mirror", MIB, upstream = "TestSingleBlockdev";
    "blockdev-empty" => "blockdev-mirror", 0, upstream = "TestSingleBlockdevZeroLength";
    "blockdev-unaligned" => "blockdev-mirror", 1025 * KIB,
        upstream = "TestSingleBlockdevUnalignedLength";
}

rows! {
    /// Those whose target is a node.
    pub(super) NODES: Onto { command: "blockdev-mirror", size };
    "full" => MIB, upstream = "TestSingleBlockdev";
    "empty" => 0, upstream = "TestSingleBlockdevZeroLength";
    "unaligned" => 1025 * KIB, upstream = "TestSingleBlockdevUnalignedLength";
}

/// The size of the first request of a mirror.
pub(super) const CHUNK: u64 = CLUSTER;

/// What the guest writes while the mirror is ready: into a hole, and zeroes over data.
const WRITTEN: (u8, Range<u64>) = (0x77, clusters(12..13));
const ZEROED: Range<u64> = clusters(6..7);

/// The images of a mirror.
pub(super) struct Pair {
    pub(super) base: Image,
    pub(super) top: Image,
    pub(super) copy: Image,
    /// Whether the copy exists and records the base, or is made by the mirror.
    is_node: bool,
    contents: [Content; 2],
    files: [FileBytes; 2],
    pub(super) size: u64,
}

impl Pair {
    pub(super) async fn create(t: &Test, onto: &Onto) -> CaseResult<Pair> {
        let contents = [
            Content::nothing().numbered(0x20, clusters(0..10)),
            Content::nothing()
                .numbered(0x60, clusters(4..8))
                .zeroes(clusters(8..9))
                .numbered(0x60, 15 * CLUSTER..onto.size.max(MIB)),
        ];
        let contents = contents.map(|content| content.cut(onto.size));
        let base = t.image("base").format(RAW).size(onto.size);
        let base = base.content(&contents[0]).create().await?;
        let top = t.image("top").backing(&base).content(&contents[1]);
        let top = top.create().await?;
        let is_node = onto.command == "blockdev-mirror";
        let copy = t.image("copy");
        let copy = match is_node {
            true => copy.backing(&base).create().await?,
            false => copy.size(onto.size).reserve().await?,
        };
        Ok(Pair {
            files: [base.file_bytes()?, top.file_bytes()?],
            size: onto.size,
            base,
            top,
            copy,
            is_node,
            contents,
        })
    }

    /// A machine with the disk, and with the node of the copy if it has one already.
    pub(super) async fn launch(&self, t: &Test) -> CaseResult<Machine> {
        self.launch_on(t.host()).await
    }

    pub(super) async fn launch_on(&self, host: MachineBuilder) -> CaseResult<Machine> {
        let vm = host.disk(&self.top).launch().await?;
        if self.is_node {
            let base = self.base.node().node_name("copy-base").read_only(true);
            vm.add_node(self.copy.node().backing(base)).await?;
        }
        Ok(vm)
    }

    /// The whole disk to the copy.
    pub(super) fn mirror(&self, vm: &Machine) -> JobBuilder {
        if self.is_node {
            return vm.mirror("top").to("copy");
        }
        vm.drive_mirror("top", &self.copy)
    }

    /// A mirror that stays in its middle; one without work is ready all the same.
    pub(super) async fn held(&self, vm: &Machine) -> CaseResult<Job> {
        let job = self.mirror(vm).speed(HELD).set("buf-size", CHUNK);
        job.start().await
    }

    /// The guest writes, which a mirror that is ready must follow.
    pub(super) async fn write(&self, vm: &Machine) -> CaseResult {
        let writes = Content::nothing().written(WRITTEN.0, WRITTEN.1);
        let writes = writes.zeroes(ZEROED).cut(self.size);
        vm.disk("top").write_all(writes).await
    }

    /// What the disk held at first.
    pub(super) fn before(&self) -> Content {
        self.contents[1].over(&self.contents[0])
    }

    /// What the disk holds when the guest has written.
    pub(super) fn written(&self) -> Content {
        self.with_writes(self.before())
    }

    fn with_writes(&self, content: Content) -> Content {
        let content = content.written(WRITTEN.0, WRITTEN.1).zeroes(ZEROED);
        content.cut(self.size)
    }

    /// The guest is on the copy, which has all that it wrote; the disk it was on is beside it.
    pub(super) async fn assert_moved(&self, vm: &Machine) -> CaseResult {
        vm.assert_no_jobs().await?;
        vm.disk("top").assert_node("copy").await?;
        vm.assert_chain(if self.is_node {
            "copy -> copy-base"
        } else {
            "copy"
        })
        .await?;
        vm.assert_chain("top -> base").await?;
        vm.assert_read_only(&[("copy", false), ("top", false), ("base", true)]).await?;
        check!(vm.node("copy").size().await? == self.size);
        vm.disk("top").assert_reads(self.written()).await
    }

    /// The copy is a whole one, and the disk has what the guest wrote and nothing else.
    pub(super) async fn assert_copied(&self, written: bool) -> CaseResult {
        let (all, own) = match written {
            true => (self.written(), self.with_writes(self.contents[1].clone())),
            false => (self.before(), self.contents[1].clone()),
        };
        self.copy.assert_reads(all).await?;
        self.copy.assert_clean().await?;
        check!(self.copy.size().await? == self.size);
        match self.is_node {
            true => drop(self.copy.assert_backing(&self.base).await?),
            false => self.copy.header().await?.assert_absent("backing-filename")?,
        }
        self.top.assert_layer(own).await?;
        self.top.assert_clean().await?;
        self.files[0].assert_unchanged()
    }

    /// The copy has some of the data, and the disk all of it.
    pub(super) async fn assert_half_copied(&self) -> CaseResult {
        let nothing = match self.is_node {
            true => self.contents[0].clone(),
            false => Content::nothing(),
        };
        self.copy.assert_reads_either(self.before(), nothing).await?;
        self.copy.assert_clean().await?;
        self.assert_source_unchanged()
    }

    /// The files of the disk are as they were.
    pub(super) fn assert_source_unchanged(&self) -> CaseResult {
        self.files.iter().try_for_each(FileBytes::assert_unchanged)
    }
}
