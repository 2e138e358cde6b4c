//! Another node below: another file, or a filter above it.

use imgtools::qcow2::{self, Mapping};

use super::*;

const DISK: u64 = 16 * CLUSTER;

fn numbered(first: u8) -> Content {
    Content::nothing().numbered(first, 0..DISK)
}

/// A node is moved to another file and back. Each file has what was written while it was in use.
#[case(upstream = "245::TestBlockdevReopen::test_replace_file")]
async fn are_replaced(t: &mut Test) -> CaseResult {
    let image = |name: &str| t.image(name).format(RAW).size(DISK);
    let one = image("one").content(numbered(0x20)).create().await?;
    let two = image("two").content(numbered(0x80)).create().await?;
    let file = |image: &Image| image.protocol_node().node_name(image.name());
    let disk = Node::new("raw").node_name("disk").file("one");
    let vm = t.host().blockdev(file(&one)).blockdev(file(&two)).disk(Disk::of(disk));
    let vm = vm.launch().await?;
    let mut held = [numbered(0x20), numbered(0x80)];
    for (turn, name) in ["two", "one", "two", "one"].into_iter().enumerate() {
        let (written, cluster) = (0xd0 + turn as u8, turn as u64 * 3);
        let at = clusters(cluster..cluster + 1);
        let command = format!("aio_write -P {written} {} {CLUSTER}", at.start);
        vm.disk("disk").io(&command).await?;
        let [current, next] = &mut held;
        *current = std::mem::take(current).written(written, at);
        vm.reopen("disk", |node| node.file(name)).await?;
        vm.assert_block_path("disk", "/file", name).await?;
        vm.disk("disk").assert_reads(&*next).await?;
        held.swap(0, 1);
    }
    let there = vm.node("one").await?;
    let unknown = vm.reopen("disk", |node| node.file("three"));
    unknown.refused("Cannot find device='' nor node-name='three'").await?;
    check!(vm.node("one").await? == there);
    vm.shutdown().await?;
    one.assert_reads(&held[0]).await?;
    two.assert_reads(&held[1]).await
}

rows! {
    /// The driver of the two nodes. A qcow2 node does not read its header again: it can only get a
    /// file of the same structure.
    DRIVERS: Format;
    "qcow2" => QCOW2, upstream = "test_swap_files";
    "raw" => RAW;
}

/// Two disks exchange their files: not one after the other, but at once, and back again.
#[case(upstream = "245::TestBlockdevReopen::{format}", rows = DRIVERS)]
async fn are_exchanged(t: &mut Test, format: &Format) -> CaseResult {
    let image = |name: &str| t.image(name).format(*format).size(DISK);
    let one = image("one").content(numbered(0x20)).create().await?;
    let two = image("two").content(numbered(0x80)).create().await?;
    let node = |image: &Image| alone_of(image, *format);
    let vm = t.host().disk(Disk::of(node(&one))).disk(Disk::of(node(&two))).launch().await?;
    if *format == QCOW2 {
        for (disk, file) in [("one", "two-file"), ("two", "one-file")] {
            let why = format!("Permission conflict on node '{file}'");
            vm.reopen(disk, |node| node.file(file)).refused(why).await?;
        }
    }

    let mut held = [numbered(0x20), numbered(0x80)];
    for (turn, files) in [["two-file", "one-file"], ["one-file", "two-file"]].iter().enumerate() {
        for (disk, held) in ["one", "two"].into_iter().zip(&mut held) {
            let (byte, at) = (0xd0 + turn as u8, clusters(turn as u64..turn as u64 + 1));
            let command = format!("aio_write -P {byte} {} {CLUSTER}", at.start);
            vm.disk(disk).io(&command).await?;
            *held = std::mem::take(held).written(byte, at);
        }
        let [first, second] = *files;
        vm.reopen_all([node(&one).file(first), node(&two).file(second)]).await?;
        held.swap(0, 1);
        vm.assert_block_path("one", "/file", first).await?;
        vm.assert_block_path("two", "/file", second).await?;
        vm.disk("one").assert_reads(&held[0]).await?;
        vm.disk("two").assert_reads(&held[1]).await?;
    }
    vm.shutdown().await?;
    for (image, held) in [&one, &two].into_iter().zip(held) {
        image.assert_reads(held).await?;
        if *format == QCOW2 {
            image.assert_clean().await?;
        }
    }
    Ok(())
}

fn alone_of(image: &Image, format: Format) -> Node {
    match format {
        Format::Qcow2 => alone(image).without("backing"),
        _ => image.node().set("file.node-name", format!("{}-file", image.name())),
    }
}

/// A throttle filter is inserted above the file and taken out; what is written through it is not lost, on an
/// emulator also by requests that wait in it until it goes.
#[case(
    upstream = "245::TestBlockdevReopen::test_insert_throttle_filter", needs = [Driver("throttle")]
)]
async fn get_a_throttle_filter(t: &mut Test) -> CaseResult {
    let images = Images::create(t).await?;
    let vm = t.host().throttle_group("group", json!({"iops-write": 10}));
    let vm = vm.disk(Disk::of(alone(&images.other))).launch().await?;
    let before = vm.state().await?;
    let mut held = own("other");
    for turn in 0..2 {
        let limit = Node::throttle("group", "other-file").node_name("limit");
        vm.add_node(limit).await?;
        vm.reopen("other", |node| node.file("limit")).await?;
        vm.assert_block_path("other", "/file", "limit").await?;
        vm.assert_block_path("other", "/file/file", "other-file").await?;
        vm.remove_node("limit").refused("Block device limit is in use").await?;
        // One in a tenth of a second is let through, unless the filter goes.
        for at in 0..4 {
            let (byte, cluster) = (0xd0 + at as u8, 26 + turn * 4 + at);
            let command = format!("aio_write -P {byte} {}k 64k", cluster * 64);
            vm.disk("other").io(&command).await?;
            held = held.written(byte, clusters(cluster..cluster + 1));
        }
        vm.reopen("other", |node| node.file("other-file")).await?;
        vm.remove_node("limit").await?;
        vm.disk("other").assert_reads(&held).await?;
        vm.assert_same_graph_as(&before).await?;
    }
    vm.shutdown().await?;
    images.other.assert_layer(held).await?;
    images.other.assert_clean().await
}

/// A throttle filter goes from one group to another, which is then in use, and back.
#[case(upstream = "245::TestBlockdevReopen::test_misc_drivers", needs = [Driver("throttle")])]
async fn change_their_throttle_group(t: &mut Test) -> CaseResult {
    let images = Images::create(t).await?;
    let vm = t.host().throttle_group("one", json!({"iops-total": 1000}));
    let vm = vm.throttle_group("two", json!({"iops-total": 2000}));
    let limit = Node::throttle("one", alone(&images.base)).node_name("limit");
    let vm = vm.disk(Disk::of(&limit)).hotplug().launch().await?;
    let delete = |group: &str| vm.cmd("object-del", json!({ "id": group }));
    let unknown = vm.reopen("limit", |node| node.set("throttle-group", "three"));
    unknown.refused("Throttle group 'three' does not exist").await?;
    vm.reopen_all([&limit]).await?;
    vm.reopen_all([limit.clone().file("base")]).await?;
    for group in ["two", "one", "two"] {
        vm.disk("limit").io("aio_write -P 0x11 0 64k").await?;
        vm.reopen_all([limit.clone().set("throttle-group", group)]).await?;
        let (used, referenced) = (
            format!("object '{group}' is in use, can not be deleted"),
            format!("Cannot delete throttle group '{group}' with active references"),
        );
        delete(group).refused(either(used, referenced)).await?;
    }
    delete("one").await?;
    let held = own("base").written(0x11, clusters(0..1));
    vm.disk("limit").assert_reads(&held).await?;
    vm.disk("limit").unplug().await?;
    vm.remove_node("limit").await?;
    delete("two").await?;
    vm.shutdown().await?;
    images.base.assert_layer(held).await
}

/// A filter that compresses is inserted and taken out: what is written meanwhile is compressed, and
/// nothing else.
#[case(
    upstream = "245::TestBlockdevReopen::test_insert_compress_filter", needs = [Driver("compress")]
)]
async fn get_a_compress_filter(t: &mut Test) -> CaseResult {
    let image = t.image("disk").size(DISK).create().await?;
    let node = Node::new("raw").node_name("guest").file(alone(&image).without("backing"));
    let vm = t.host().disk(Disk::of(&node)).launch().await?;
    let filter = Node::new("compress").node_name("compress").file("disk");
    vm.add_node(filter).await?;
    let mut held = Content::nothing();
    for (cluster, below) in [(0, "disk"), (1, "compress"), (2, "disk"), (3, "compress")] {
        vm.reopen_all([node.clone().file(below)]).await?;
        vm.assert_block_path("guest", "/file", below).await?;
        let (byte, at) = (0xa0 + cluster as u8, clusters(cluster..cluster + 1));
        vm.disk("guest").write(byte, at.clone()).await?;
        held = held.written(byte, at);
        vm.disk("guest").assert_reads(&held).await?;
    }
    vm.shutdown().await?;
    let file = qcow2::Image::open(&**image.file())?;
    for cluster in 0..4 {
        let mapping = file.lookup(cluster * CLUSTER)?;
        let compressed = matches!(mapping, Mapping::Compressed { .. });
        check!(
            compressed == (cluster % 2 == 1),
            "cluster {cluster}: {mapping:?}"
        );
    }
    image.assert_reads(held).await?;
    image.assert_clean().await
}

/// An image of another format is moved to a node above its file, to another one and back, and has all that was
/// written meanwhile; a driver that cannot do that refuses it.
#[case(formats = [VMDK, VDI, VHDX, VPC, PARALLELS, QED, QCOW])]
async fn are_replaced_below_each_format(t: &mut Test) -> CaseResult {
    let step = 3 * MIB;
    let image = t.image("disk").size(8 * step).write(0x11, 0..MIB).create().await?;
    let file = image.protocol_node().node_name("file");
    let vm = t.host().blockdev(file).disk(Disk::of(image.node().file("file")));
    let vm = vm.launch().await?;
    let mut held = Content::nothing().written(0x11, 0..MIB);
    let mut below = "file";
    for (turn, next) in (0..).zip(["first", "second", "file", "third"]) {
        // Into what is new, and over what is there.
        let start = turn * step + MIB;
        for (byte, at) in [(0x30, start..start + CLUSTER), (0x40, 4096..8192)] {
            let byte = byte + turn as u8;
            vm.disk("disk").write(byte, at.clone()).await?;
            held = held.written(byte, at);
        }
        if next != "file" {
            // Now, because it does not see how the file grows below it.
            vm.add_node(Node::new("raw").node_name(next).file("file")).await?;
        }
        let reopened = vm.reopen("disk", |node| node.file(next));
        if t.format() == PARALLELS {
            reopened.refused("does not support reopening files").await?;
        } else {
            reopened.await?;
            below = next;
        }
        vm.assert_block_path("disk", "/file", below).await?;
        vm.disk("disk").assert_reads(&held).await?;
    }
    let end = 7 * step..7 * step + CLUSTER;
    vm.disk("disk").write(0x55, end.clone()).await?;
    vm.shutdown().await?;
    image.assert_reads(held.written(0x55, end)).await?;
    image.assert_clean().await
}
