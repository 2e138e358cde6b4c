//! What the system makes of an export over FUSE, which is a file to it.

use imgtools::raw;

use super::*;

const NO_ZEROES: KnownBug = known(
    "a hole that is punched into a FUSE export is a discard, which need not leave zeroes (1703eb1c27)",
    "holds 0x11 in 0x20000..",
    ALWAYS,
)
.fixed_in(["8.0"]);

/// A hole that is punched into the file reads as zeroes from then on, in the file and in the image, and all around it stays.
#[case(formats = [QCOW2, RAW], needs = [Fuse], unconfined = true, known_bugs = [NO_ZEROES])]
async fn has_zeroes_where_a_hole_is_punched(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(SIZE).fill(0x11).create().await?;
    let vm = t.host().blockdev(&disk).launch().await?;
    let file = t.file("export")?;
    std::fs::write(&file, "")?;
    let export = vm.export("disk").writable().fuse(&file).await?;

    raw::punch_hole(&file, clusters(2..5))?;

    let all = Content::nothing().written(0x11, 0..SIZE);
    let expected = all.zeroes(clusters(2..5));
    export.assert_reads(&expected).await?;
    export.remove().await?;
    vm.shutdown().await?;
    disk.assert_reads(&expected).await
}
