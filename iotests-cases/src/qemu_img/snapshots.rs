//! Snapshots within images of formats that have none of their own.

use iotests_core::prelude::*;

defaults! { protocols = [FILE], groups = [QUICK, SNAPSHOT] }

const SIZE: u64 = 8 * MIB;

/// What qemu-img is to do, and what it says instead.
struct Verb {
    option: &'static str,
    error: &'static str,
}

rows! {
    VERBS: Verb { option, error };
    "taken" => "-c", "Could not create snapshot 'then'";
    "gone-back-to" => "-a",
        "Could not apply snapshot 'then': Block driver does not support snapshots";
    "deleted" => "-d", "Could not delete snapshot 'then': snapshot not found";
}

/// In a file, an image of such a format has no snapshots: qemu-img says so, and leaves the file as it was.
#[case(formats = [RAW, VMDK, VDI, VHDX, VPC, PARALLELS, QED, QCOW], rows = VERBS)]
async fn cannot_be(t: &mut Test, verb: &Verb) -> CaseResult {
    let disk = t.image("disk").size(SIZE).write(0x11, 0..MIB).create().await?;
    let file = disk.file_bytes()?;
    let call = [
        "snapshot",
        "--image-opts",
        verb.option,
        "then",
        &disk.image_opts(),
    ];
    t.qemu_img(call).expect_error(verb.error).await?;
    file.assert_unchanged()?;
    let list = ["snapshot", "--image-opts", "-l", &disk.image_opts()];
    check!(t.qemu_img(list).text().await?.trim().is_empty());
    disk.assert_clean().await
}

/// In a qcow2 image that stands for the file, such an image has the snapshots of that one, and those that are not
/// there leave it as it is. (An image of Parallels would go back to a time when it was in use.)
#[case(formats = [RAW, VMDK, VDI, VHDX, VPC, QED, QCOW])]
async fn are_those_of_the_file_below(t: &mut Test) -> CaseResult {
    let inner = t.image("inner").size(SIZE).write(0x11, 0..2 * MIB).create().await?;
    let outer = t.image("outer").format(QCOW2).reserve().await?;
    let convert = [
        "convert",
        "-f",
        "raw",
        "-O",
        "qcow2",
        inner.filename(),
        outer.filename(),
    ];
    t.qemu_img(convert).await?;
    let node = Node::new(t.format().name()).child("file", outer.node());
    let options = node.image_opts()?;
    let snapshot = |verb, name| t.qemu_img(["snapshot", "--image-opts", verb, name, &options]);
    let disk = t.open(node.filename()).format(t.format()).await?;
    snapshot("-c", "then").await?;
    // Where there are data: a qcow2 image is not a file that grows.
    disk.write(0x22, MIB / 2..MIB).await?;
    snapshot("-c", "later").await?;
    let then = Content::of(&[(0x11, 0..2 * MIB)]);
    let later = then.clone().written(0x22, MIB / 2..MIB);
    snapshot("-a", "never").expect_error("Could not apply snapshot 'never'").await?;
    disk.assert_reads(&later).await?;
    for (name, held) in [("then", then), ("later", later)] {
        snapshot("-a", name).await?;
        disk.assert_reads(held).await?;
        snapshot("-d", name).await?;
    }
    snapshot("-d", "then").expect_error("Could not delete snapshot 'then'").await?;
    outer.assert_clean().await
}

/// An image whose data are in another file cannot have any, since that file would not go back with it.
#[case(formats = [QCOW2], unsupported_imgopts = ["data_file", "compat"])]
async fn cannot_be_where_the_data_are_elsewhere(t: &mut Test) -> CaseResult {
    let data = t.file("data")?;
    let disk = t.image("disk").size(SIZE).option("data_file", data.as_str());
    let disk = disk.write(0x11, 0..MIB).create().await?;
    let file = disk.file_bytes()?;
    disk.snapshot("then").expect_error("Could not create snapshot 'then'").await?;
    file.assert_unchanged()?;
    disk.assert_reads(&[(0x11, 0..MIB)]).await?;
    disk.assert_clean().await
}
