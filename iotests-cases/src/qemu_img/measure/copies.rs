//! How large a file a copy of an image needs, as `qemu-img measure` reports before there is one.

use iotests_core::prelude::*;

defaults! { formats = [QCOW2, RAW], protocols = [FILE], unsupported_imgopts = ["encrypt"] }

const TIB: u64 = 1 << 40;

rows! {
    /// For a few terabytes, the number of sectors needs more than 32 bits.
    SIZES: u64;
    "empty" => 0;
    "a-sector" => 512;
    "in-a-cluster" => MIB + 3 * KIB;
    "a-terabyte" => TIB;
    "two-terabytes" => 2 * TIB;
    "three-terabytes-and-a-sector" => 3 * TIB + 512;
}

/// A copy takes at most as much as was measured; with all of its clusters it would take those that it does not have in addition.
#[case(rows = SIZES)]
async fn as_large_as_the_copy(t: &mut Test, size: &u64) -> CaseResult {
    let mut disk = t.image("disk").size(*size);
    if *size >= MIB {
        disk = disk.write(0x11, CLUSTER..CLUSTER + 512);
        disk = disk.write(0x22, size - 512..*size);
    }
    let disk = disk.create().await?;
    let copy = t.image("copy").format(QCOW2).size(*size).reserve().await?;
    let measured = disk.measure().with(|call| call.output_format("qcow2"));
    let measured = measured.await?;
    disk.convert(&copy).await?;
    let length = std::fs::metadata(copy.file())?.len();
    check!(length <= measured.required, "the copy has {length} bytes");
    let spared = size.next_multiple_of(CLUSTER) - data(*size);
    check!(measured.fully_allocated - measured.required == spared);
    copy.assert_same_as(&disk).await
}

/// What is written to a disk of this size, to whole clusters.
fn data(size: u64) -> u64 {
    if size < MIB { 0 } else { 2 * CLUSTER }
}
