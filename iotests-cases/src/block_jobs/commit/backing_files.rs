//! Commits in chains whose files name their backing files in other ways.

use std::path::{Path, PathBuf};

use iotests_core::prelude::*;

use super::chain::{Chain, Layer, Size};
use super::refusals::Refusal;
use super::refused::assert_no_such_device;

/// A chain in three folders, each overlay naming its backing file from its own folder.
async fn relative_chain(t: &Test) -> CaseResult<Chain> {
    let contents = Chain::contents(2 * MIB);
    let [of_base, of_mid, of_top] = &contents;
    let base = t.image("base").folder("dir1").format(RAW).size(2 * MIB);
    let base = base.content(of_base).create().await?;
    let mid = t.image("mid").folder("dir2").backing_as(&base, RELATIVE[0]);
    let mid = mid.content(of_mid).create().await?;
    let top = t.image("top").folder("dir2/dir3");
    let top = top.backing_as(&mid, RELATIVE[1]).content(of_top);
    Chain::of([base, mid, top.create().await?], contents).await
}

/// The names of base and mid, as the overlays know them.
const RELATIVE: [&str; 2] = ["../dir1/base", "../mid"];

/// A machine that finds the chain by the names in the files.
async fn launch(t: &Test, chain: &Chain) -> CaseResult<Machine> {
    let node = chain.top.node().without("backing");
    t.host().disk(node).launch().await
}

/// The files of the chain below a node are these, by whatever names.
async fn assert_files(vm: &Machine, images: &[&Image]) -> CaseResult {
    let mut files = Vec::new();
    let node = vm.node_and_layers("top").await?;
    let mut layer = &node["image"];
    while let Some(name) = layer["filename"].as_str() {
        files.push(resolved(name)?);
        layer = &layer["backing-image"];
    }
    let expected: CaseResult<Vec<PathBuf>> =
        images.iter().map(|i| resolved(i.filename())).collect();
    check!(files == expected?);
    Ok(())
}

fn resolved(name: impl AsRef<Path>) -> CaseResult<PathBuf> {
    let name = name.as_ref();
    std::fs::canonicalize(name).context(format!("resolving {}", name.display()))
}

rows! {
    COMMITS: Layer;
    "mid" => Layer::Mid, upstream = "040::TestRelativePaths::test_commit";
    "active" => Layer::Top, upstream = "040::TestRelativePaths::test_top_is_active";
}

/// A commit finds its layers by the relative names that the overlays have for them, and the new name
/// in a header leads to the base.
#[case(rows = COMMITS)]
async fn may_be_relative(t: &mut Test, from: &Layer) -> CaseResult {
    let chain = relative_chain(t).await?;
    let vm = launch(t, &chain).await?;
    let all = chain.merged(Layer::Top, Layer::Base);
    let job = vm.commit("top").set("base", RELATIVE[0]);
    if *from == Layer::Top {
        let job = job.set("top", chain.top.filename()).start().await?;
        job.complete().await?;
        assert_files(&vm, &[&chain.top, &chain.mid, &chain.base]).await?;
    } else {
        job.set("top", RELATIVE[1]).start().await?.wait().await?;
        assert_files(&vm, &[&chain.top, &chain.base]).await?;
    }
    vm.assert_no_jobs().await?;
    vm.disk("top").assert_reads(&all).await?;
    vm.shutdown().await?;

    chain.base.assert_layer(chain.merged(*from, Layer::Base)).await?;
    chain.mid.assert_layer(chain.content(Layer::Mid)).await?;
    chain.top.assert_layer(chain.content(Layer::Top)).await?;
    chain.top.assert_reads(all).await?;
    let info = chain.top.info().json().await?;
    if *from == Layer::Top {
        return info.assert("backing-filename", RELATIVE[1]);
    }
    info.assert("backing-filename-format", RAW.name())?;
    let named = info.at("full-backing-filename")?.as_str().unwrap_or_default();
    check!(resolved(named)? == resolved(chain.base.filename())?);
    Ok(())
}

rows! {
    REFUSALS: Refusal { arguments, text };
    "top-is-base" => &[("top", "{mid}"), ("base", "{mid}")],
        "Can't find '{mid}' in the backing chain", upstream = "test_top_same_base";
    "unknown-top" => &[("top", "badfile"), ("base", "{base}")],
        "Top image file badfile not found", upstream = "test_top_invalid";
    "unknown-base" => &[("top", "{mid}"), ("base", "badfile")],
        "Can't find 'badfile' in the backing chain", upstream = "test_base_invalid";
    "reversed" => &[("top", "{base}"), ("base", "{mid}")],
        "Can't find '{mid}' in the backing chain", upstream = "test_top_and_base_reversed";
}

/// A commit between layers that are not a chain is refused, also by relative names, and changes nothing.
#[case(upstream = "040::TestRelativePaths::{refusal}", rows = REFUSALS)]
async fn are_refused_by_relative_names(t: &mut Test, refusal: &Refusal) -> CaseResult {
    let chain = relative_chain(t).await?;
    let vm = launch(t, &chain).await?;
    let names = [RELATIVE[0], RELATIVE[1], chain.top.filename()];
    refusal.assert(vm.commit("top"), names).await?;
    assert_files(&vm, &[&chain.top, &chain.mid, &chain.base]).await?;
    vm.shutdown().await?;
    chain.assert_files_unchanged()
}

/// A commit of a device that does not exist is refused, also where the layers have relative names.
#[case(upstream = "040::TestRelativePaths::test_device_not_found")]
async fn need_a_device(t: &mut Test) -> CaseResult {
    let chain = relative_chain(t).await?;
    let vm = launch(t, &chain).await?;
    assert_no_such_device(&vm, RELATIVE[1]).await?;
    assert_files(&vm, &[&chain.top, &chain.mid, &chain.base]).await?;
    vm.shutdown().await?;
    chain.assert_files_unchanged()
}

/// An overlay that is itself read-only is reopened for its new header, and is read-only again.
#[case(upstream = "040::TestReopenOverlay::test_reopen_overlay")]
async fn are_renamed_in_a_read_only_overlay(t: &mut Test) -> CaseResult {
    let below = Content::nothing().numbered(0x20, clusters(0..16));
    let data = Content::nothing().numbered(0x60, clusters(0..2));
    let img0 = t.image("img0").format(RAW).size(MIB).content(&below);
    let img0 = img0.create().await?;
    let img1 = t.image("img1").backing(&img0).content(&data);
    let img1 = img1.create().await?;
    let img2 = t.image("img2").backing(&img1).create().await?;
    let img3 = t.image("img3").backing(&img2).create().await?;
    let vm = t.host().disk(&img3).launch().await?;

    let job = vm.commit("img3");
    let job = job.set("top", img1.filename()).set("base", img0.filename());
    job.start().await?.wait().await?;
    vm.assert_no_jobs().await?;
    vm.assert_chain("img3 -> img2 -> img0").await?;
    vm.assert_read_only(&[("img3", false), ("img2", true), ("img0", true)]).await?;
    vm.shutdown().await?;

    img2.assert_backing(&img0).await?;
    img3.assert_backing(&img2).await?;
    img1.assert_layer(&data).await?;
    for overlay in [&img2, &img3] {
        overlay.assert_clean().await?;
        overlay.assert_empty().await?;
    }
    img3.assert_same_as(&img0).await?;
    img0.assert_layer(data.over(&below)).await
}

/// When a layer goes that several overlays have in common, each of them gets the base instead, in its
/// node and in its header, whether it is read-only or not.
#[case]
async fn are_renamed_in_every_overlay(t: &mut Test) -> CaseResult {
    let chain = Chain::create(t, Size::Full).await?;
    let mut overlays = Vec::new();
    for name in ["second", "third"] {
        overlays.push(t.image(name).backing(&chain.mid).create().await?);
    }
    let mut vm = t.host().blockdev(chain.top.node());
    for (number, overlay) in overlays.iter().enumerate() {
        let node = overlay.node().backing("mid");
        vm = vm.blockdev(node.read_only(number == 0));
    }
    let vm = vm.launch().await?;

    let job = vm.commit("top").top(&chain.mid).base(&chain.base);
    job.start().await?.wait().await?;
    vm.assert_no_jobs().await?;
    for line in ["top -> base", "second -> base", "third -> base"] {
        vm.assert_chain(line).await?;
    }
    let read_only = [("top", false), ("second", true), ("third", false)];
    vm.assert_read_only(&read_only).await?;
    vm.shutdown().await?;
    chain.assert_headers(Layer::Base).await?;
    for overlay in &overlays {
        overlay.assert_backing(&chain.base).await?;
        overlay.assert_clean().await?;
        let below = chain.merged(Layer::Mid, Layer::Base);
        overlay.assert_reads(below).await?;
    }
    Ok(())
}

rows! {
    MASKS: Option<bool>;
    "default" => None;
    "masked" => Some(true), needs = [Schema("block-commit/arg-type/backing-mask-protocol")];
}

/// Of a base without a format, the header names the protocol as its format, or `raw` where that is
/// asked for.
#[case(formats = [QCOW2], rows = MASKS)]
async fn may_have_no_format(t: &mut Test, mask: &Option<bool>) -> CaseResult {
    let chain = Chain::create(t, Size::Full).await?;
    let base = chain.base.protocol_node().node_name("base");
    let top = chain.top.node().set("backing.backing", "base");
    let vm = t.host().blockdev(base).blockdev(top).launch().await?;
    let mut job = vm.commit("top").top(&chain.mid).base(&chain.base);
    if let Some(mask) = mask {
        job = job.set("backing-mask-protocol", *mask);
    }
    job.start().await?.wait().await?;
    vm.assert_chain("top -> base").await?;
    vm.shutdown().await?;
    let format = if *mask == Some(true) { "raw" } else { "file" };
    let header = chain.top.header().await?;
    header.assert("backing-filename", chain.base.filename())?;
    header.assert("backing-filename-format", format)?;
    chain.base.assert_layer(chain.merged(Layer::Mid, Layer::Base)).await
}

rows! {
    BASES: bool;
    "recorded" => false, upstream = "040::TestCommitWithOverriddenBacking::test_commit_to_a";
    "in-use" => true, upstream = "040::TestCommitWithOverriddenBacking::test_commit_to_b";
}

/// An overlay that was opened with another backing file than it records can be committed to that one
/// only.
#[case(rows = BASES)]
async fn may_be_overridden(t: &mut Test, in_use: &bool) -> CaseResult {
    let content = |first, range| Content::nothing().numbered(first, clusters(range));
    let contents = [
        content(0x20, 0..8),
        content(0x40, 0..8),
        content(0x60, 4..12),
    ];
    let image = |name, number: usize| t.image(name).size(MIB).content(&contents[number]);
    let recorded = image("recorded", 0).create().await?;
    let other = image("other", 1).create().await?;
    let top = image("top", 2).backing(&recorded).create().await?;
    let node = top.node().backing(&other);
    let vm = t.host().blockdev(node).launch().await?;

    let mut committed = contents[1].clone();
    if *in_use {
        let job = vm.commit("top").set("base", other.filename());
        job.start().await?.complete().await?;
        committed = contents[2].over(&contents[1]);
    } else {
        let job = vm.commit("top").set("base", recorded.filename());
        job.refused(recorded.filename()).await?;
    }
    vm.assert_no_jobs().await?;
    vm.assert_chain("top -> other").await?;
    vm.shutdown().await?;
    recorded.assert_layer(&contents[0]).await?;
    other.assert_layer(committed).await?;
    top.assert_layer(&contents[2]).await?;
    top.assert_backing(&recorded).await?;
    Ok(())
}
