//! What an NBD server tells of the allocation of an image.

use iotests_core::prelude::*;
use nbd::proto::BaseAllocation;

/// A client sees over qemu-nbd which half of an image has data.
#[case(upstream = ["209"], formats = [QCOW2], groups = [RW, QUICK], needs = [Tool(ToolKind::Nbd)])]
async fn qemu_nbd_tells_data_from_holes(t: &mut Test) -> CaseResult {
    let disk = t
        .image("disk")
        .size(MIB)
        .write(0xcd, 0..512 * KIB)
        .create()
        .await?;
    let server = t.nbd_server(&disk).export("exp").start().await?;
    assert_first_half_has_data(t, &server.uri()).await
}

/// A client sees over the NBD server of a machine which half of an image has data.
#[case(upstream = ["209"], formats = [QCOW2], groups = [RW, QUICK, EXPORT], host = Host::Any)]
async fn a_machine_tells_data_from_holes(t: &mut Test) -> CaseResult {
    let disk = t
        .image("disk")
        .size(MIB)
        .write(0xcd, 0..512 * KIB)
        .create()
        .await?;
    let vm = t.host().drive(&disk).launch().await?;
    let server = vm.start_nbd_server().await?;
    vm.export("exp", &disk, json!({"type": "nbd"})).await?;
    assert_first_half_has_data(t, &server.uri("disk")).await?;
    vm.shutdown().await?;
    Ok(())
}

/// Clusters of zeroes take no place in the file, and so are holes to a client like any other.
#[case(formats = [QCOW2], groups = [RW, QUICK], needs = [Tool(ToolKind::Nbd)])]
async fn written_zeroes_are_holes(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(MIB).fill(0xcd).create().await?;
    t.qemu_io(["-c", "write -z -u 256k 512k", disk.filename()])
        .await?;
    let server = t.nbd_server(&disk).export("exp").start().await?;
    let client = nbd::Client::builder().context("base:allocation");
    let client = client.connect_uri(&server.uri().parse()?).await?;
    let told = client.map("base:allocation", 0..MIB).await?;
    let told: Vec<_> = told
        .iter()
        .map(|piece| (piece.offset..piece.end(), piece.base()))
        .collect();
    let hole = BaseAllocation::HOLE | BaseAllocation::ZERO;
    let (first, second) = (256 * KIB, 768 * KIB);
    let data = BaseAllocation::empty();
    assert_eq!(
        told,
        [(0..first, data), (first..second, hole), (second..MIB, data)]
    );
    client.disconnect().await?;
    Ok(())
}

/// Says so to `qemu-img map`, whose text is the golden, and to a client that asks for itself.
async fn assert_first_half_has_data(t: &Test, uri: &str) -> CaseResult {
    let map = t
        .qemu_img(["map", "-f", "raw", "--output=json", uri])
        .json()
        .await?;
    for extent in map.as_array().into_iter().flatten() {
        // What newer versions tell besides is not under test.
        let told = [
            "start", "length", "depth", "present", "zero", "data", "offset",
        ];
        let told: Value = told
            .into_iter()
            .map(|key| (key, extent[key].clone()))
            .collect();
        t.log(Entry::from(told).ordered());
    }
    let client = nbd::Client::builder().context("base:allocation");
    let client = client.connect_uri(&uri.parse()?).await?;
    let told = client.map("base:allocation", 0..MIB).await?;
    let told: Vec<_> = told
        .iter()
        .map(|piece| (piece.offset..piece.end(), piece.base()))
        .collect();
    let hole = BaseAllocation::HOLE | BaseAllocation::ZERO;
    let half = 512 * KIB;
    assert_eq!(
        told,
        [(0..half, BaseAllocation::empty()), (half..MIB, hole)]
    );
    client.disconnect().await?;
    t.golden()
}
