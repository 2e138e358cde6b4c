//! The name of a backing file that a job writes into a header.

use iotests_core::prelude::*;

defaults! {
    formats = [QCOW2], groups = [QUICK, BACKING], unsupported_imgopts = ["data_file", "encrypt"],
}

rows! {
    /// Both take out `mid`, so that `top` gets `base` as its backing file.
    JOBS: fn(&Machine) -> JobBuilder;
    "stream" => |vm| vm.stream("top").base("base");
    "commit" => |vm| vm.commit("top").top("mid").base("base");
}

rows! {
    /// Which layers have a filter over their files.
    FILTERED: &[&str];
    "without-filters" => &[];
    "of-a-filtered-base" => &["base"];
    "over-a-filtered-layer" => &["low"];
    "over-filtered-layers" => &["base", "low"];
}

/// See docs/qemu-findings.md.
const BOTH: KnownBug = known(
    "a name with options for a backing node is recorded, while that image has a name for it in its header",
    "Can't specify 'file' and 'filename' options at the same time",
    ALWAYS,
)
.only(&[&["over-a-filtered-layer", "*"], &["over-filtered-layers", "*"]]);

/// Whatever is below the base, its recorded name opens what was there, also by those who know only the file on top.
#[case(rows = (FILTERED, JOBS), needs = [Driver("blkdebug")], known_bugs = [BOTH])]
async fn opens_all_below(
    t: &mut Test,
    filtered: &&[&str],
    job: &fn(&Machine) -> JobBuilder,
) -> CaseResult {
    let low = t.image("low").size(MIB).write(0x11, clusters(0..4)).create().await?;
    let base = t.image("base").backing(&low).write(0x22, clusters(1..4)).create().await?;
    let mid = t.image("mid").backing(&base).write(0x33, clusters(2..4)).create().await?;
    let top = t.image("top").backing(&mid).write(0x44, clusters(3..4)).create().await?;
    let node = |image: &Image| match filtered.contains(&image.name()) {
        true => image.node().file(Node::new("blkdebug").child("image", image.protocol_node())),
        false => image.node(),
    };
    let layers = [&base, &mid, &top].into_iter();
    let disk = layers.fold(node(&low), |below, image| node(image).backing(below));
    let vm = t.host().disk(disk).launch().await?;
    job(&vm).start().await?.wait().await?;
    vm.assert_chain("top -> base -> low").await?;
    vm.shutdown().await?;
    top.assert_reads(&[
        (0x11, clusters(0..1)),
        (0x22, clusters(1..2)),
        (0x33, clusters(2..3)),
        (0x44, clusters(3..4)),
    ])
    .await
}
