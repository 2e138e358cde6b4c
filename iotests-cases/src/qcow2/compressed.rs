//! Compressed writes.

use super::*;

/// Clusters of each state: nothing, zeroes, zeroes in a part, data that was zeroed, discarded, is there, was zeroed
/// in its place, or is compressed.
const STATES: u64 = 8;
const BEFORE: [&str; 8] = [
    "write -z 64k 64k",
    "write -z 136k 16k",
    "write -P 0x21 192k 256k",
    "write -z -u 192k 64k",
    "discard 256k 64k",
    "write -z 384k 64k",
    "write -c -P 0x22 448k 64k",
    "flush",
];

/// A compressed write is done where a cluster has no place in the file, whether it reads as zeroes or shows what is
/// below; where it has one, it is refused and nothing changes. What is written to a part of it afterwards leaves the
/// rest.
#[case(
    host = Host::None, rows = KINDS, unsupported_imgopts = ["preallocation"],
    excluded = [exclude(&["data-file"], "it has no compressed data")],
)]
async fn take_the_place_of_zeroes(t: &mut Test, kind: &Kind) -> CaseResult {
    let (base, disk) = kind.create(t, &Content::nothing()).await?;
    disk.io(BEFORE).await?;
    let mut expected = disk.bytes().await?;
    let before = places(&disk)?;
    let each = before.len() / (SIZE / CLUSTER) as usize;
    let mut done = 0;
    let mut session = disk.session().await?;
    for (byte, (cluster, places)) in
        (0x31..).zip(before.chunks(each).take(STATES as usize).enumerate())
    {
        let start = cluster * CLUSTER as usize;
        let write = format!("write -c -P {byte} {start} {CLUSTER}");
        if places.iter().all(Option::is_none) {
            session.run(write.as_str()).await?;
            expected[start..start + CLUSTER as usize].fill(byte);
            done += 1;
        } else {
            session.expect_error(write.as_str(), "Input/output error").await?;
        }
    }
    session.close().await?;
    check!((1..STATES).contains(&done), "{done} were done");
    check!(disk.bytes().await? == expected);
    disk.assert_clean().await?;

    for start in (0..STATES as usize).map(|cluster| cluster * CLUSTER as usize) {
        let (written, zeroed) = (start + 4096, start + 32768);
        disk.io([
            format!("write -P 0x41 {written} 2k"),
            format!("write -z {zeroed} 1k"),
        ])
        .await?;
        expected[written..written + 2048].fill(0x41);
        expected[zeroed..zeroed + 1024].fill(0);
    }
    check!(disk.bytes().await? == expected);
    disk.assert_clean().await?;
    base.assert_fill(0x11).await
}
