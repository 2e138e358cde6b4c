//! Commits that run to their end.

use std::ops::Range;

use iotests_core::prelude::*;

use super::chain::{Chain, Layer, Size};

use Layer::{Base, Mid, Top};
use Size::{Full, Zero};

// A layer is looked for by the path of its file, which an export lacks.
defaults! { protocols = [FILE, FUSE] }

/// A commit by the layers that are named to the command.
struct Commit {
    /// What is committed; the active layer if left out.
    top: Option<Named>,
    /// Where to; the bottom of the chain if left out.
    base: Option<Named>,
}

/// A layer, named by the path of its file or by its node.
#[derive(Clone, Copy)]
enum Named {
    Path(Layer),
    Node(Layer),
}
use Named::{Node, Path};

rows! {
    pub(super) SIZES: Size;
    "full" => Full, upstream = "TestSingleDrive";
    "empty" => Zero, upstream = "TestActiveZeroLengthImage";
}

rows! {
    COMMITS: Commit { top, base };
    "mid-by-path" => Some(Path(Mid)), Some(Path(Base)), upstream = "test_commit";
    "mid-by-node" => Some(Node(Mid)), Some(Node(Base)), upstream = "test_commit_node";
    "mid-into-default" => Some(Node(Mid)), None;
    "active-by-path" => Some(Path(Top)), Some(Path(Base)), upstream = "test_top_is_active";
    "active-by-node" => Some(Node(Top)), Some(Node(Base));
    "active-by-default" => None, None, upstream = "test_top_is_default_active";
    "active-into-mid" => None, Some(Node(Mid));
}

impl Commit {
    fn job(&self, chain: &Chain, vm: &Machine) -> JobBuilder {
        let mut job = vm.commit("top");
        for (key, named) in [("top", self.top), ("base", self.base)] {
            job = match named {
                Some(Path(layer)) => job.set(key, chain.image(layer).filename()),
                Some(Node(layer)) => job.set(&format!("{key}-node"), chain.image(layer).name()),
                None => job,
            };
        }
        job
    }

    /// The layers that are committed: from this one down to that one.
    fn layers(&self) -> (Layer, Layer) {
        let layer = |named: Option<Named>| named.map(|(Path(layer) | Node(layer))| layer);
        (
            layer(self.top).unwrap_or(Top),
            layer(self.base).unwrap_or(Base),
        )
    }
}

/// A commit moves the data of upper layers down and takes them out of the chain, in which everything
/// reads as before.
#[case(upstream = "040::{size}::{row}", rows = (SIZES, COMMITS))]
async fn moves_the_data_down(t: &mut Test, size: &Size, row: &Commit) -> CaseResult {
    let chain = Chain::create(t, *size).await?;
    let vm = chain.launch(t).await?;
    let (top, base) = row.layers();

    let mut job = row.job(&chain, &vm).start().await?;
    let whose = json!({"type": "commit", "device": job.id()});
    let ended = if top == Top {
        job.wait_ready().await?;
        if *size == Full {
            let written = Content::nothing().written(WRITTEN, Chain::FREE);
            let disk = vm.disk("top");
            disk.write_all(written.zeroes(ZEROED)).await?;
        }
        job.complete().await?
    } else {
        job.wait().await?
    };
    ended.event.assert_includes(&json!({"event": "BLOCK_JOB_COMPLETED", "data": whose}))?;
    ended.event.assert_absent("data/error")?;

    assert_nodes(&chain, &vm, top, base).await?;
    vm.shutdown().await?;
    assert_files(&chain, top, base).await
}

rows! {
    GROWS: Layer;
    "mid" => Mid;
    "active" => Top;
}

/// A base that is smaller than what is committed into it grows, and holds what lay behind its end.
#[case(rows = GROWS)]
async fn grows_a_base_that_is_smaller(t: &mut Test, from: &Layer) -> CaseResult {
    let data = 1536 * KIB..2 * MIB;
    let base = t.image("base").format(RAW).size(MIB).fill(0x11);
    let base = base.create().await?;
    let mid = t.image("mid").backing(&base).size(2 * MIB);
    let mid = mid.write(0x22, data.clone()).create().await?;
    let top = t.image("top").backing(&mid).create().await?;
    let vm = t.host().disk(&top).launch().await?;

    let job = vm.commit("top").base(&base);
    if *from == Top {
        job.start().await?.complete().await?;
    } else {
        job.top(&mid).start().await?.wait().await?;
        vm.assert_chain("top -> base").await?;
        vm.assert_read_only(&[("top", false), ("base", true)]).await?;
    }

    vm.assert_no_jobs().await?;
    vm.shutdown().await?;
    let header = base.header().await?;
    header.assert("virtual-size", 2 * MIB)?;
    for image in [&base, &top] {
        let patterns = [(0x11, 0..MIB), (0, MIB..data.start), (0x22, data.clone())];
        image.assert_patterns(&patterns).await?;
    }
    Ok(())
}

/// When the active layer of a commit is read-only, so is the base that takes its place.
#[case]
async fn leaves_a_read_only_chain_read_only(t: &mut Test) -> CaseResult {
    let chain = Chain::create(t, Full).await?;
    let node = chain.top.node().read_only(true);
    let vm = t.host().blockdev(node).launch().await?;

    let job = vm.commit("top").start().await?;
    vm.assert_read_only(&[("top", true), ("mid", true), ("base", false)]).await?;
    job.complete().await?;

    vm.assert_no_jobs().await?;
    vm.assert_read_only(&[("top", true), ("mid", true), ("base", true)]).await?;
    vm.shutdown().await?;
    chain.assert_unchanged(&[Mid, Top])?;
    chain.base.assert_layer(chain.merged(Top, Base)).await
}

/// A layer below the active one that somebody writes to is committed like an active one, and the
/// writer goes on with the base.
#[case]
async fn follows_a_writer_of_a_lower_layer(t: &mut Test) -> CaseResult {
    let chain = Chain::create(t, Full).await?;
    let mid = chain.mid.node().read_only(false);
    let top = chain.top.node().read_only(true).backing("mid");
    let vm = t.host().blockdev(mid).blockdev(top).hotplug();
    let vm = vm.launch().await?;
    let writer = vm.plug(Disk::of("mid").id("writer")).await?;

    let job = vm.commit("top").top(&chain.mid).base(&chain.base);
    let mut job = job.start().await?;
    job.wait_ready().await?;
    writer.write(WRITTEN, Chain::FREE).await?;
    job.complete().await?;
    writer.assert_node("base").await?;
    vm.assert_chain("top -> base").await?;
    writer.write(WRITTEN + 1, 0..CLUSTER).await?;
    vm.shutdown().await?;
    let merged = chain.merged(Mid, Base).written(WRITTEN, Chain::FREE);
    let merged = merged.written(WRITTEN + 1, clusters(0..1));
    chain.base.assert_layer(merged).await
}

/// What a guest writes while a commit of the active layer is ready: it goes to both ends.
const WRITTEN: u8 = 0x77;

/// A cluster with data, to which the guest then writes zeroes.
const ZEROED: Range<u64> = clusters(10..11);

/// What the layers of the chain hold together, with what the guest wrote.
fn merged(chain: &Chain, top: Layer, base: Layer, active: bool) -> Content {
    let content = chain.merged(top, base);
    match active {
        true => content.written(WRITTEN, Chain::FREE).zeroes(ZEROED).cut(chain.size),
        false => content,
    }
}

/// The chain of the machine has no layer from `top` down to above `base`.
async fn assert_nodes(chain: &Chain, vm: &Machine, top: Layer, base: Layer) -> CaseResult {
    vm.assert_no_jobs().await?;
    let (active, name) = (top == Top, chain.image(base).name());
    let all = merged(chain, Top, Base, active);
    vm.disk("top").assert_reads(all).await?;
    vm.assert_read_only(&[(name, !active)]).await?;
    if !active {
        vm.disk("top").assert_node("top").await?;
        vm.assert_chain("top -> base").await?;
        return vm.assert_read_only(&[("top", false)]).await;
    }
    vm.disk("top").assert_node(name).await?;
    // They were made by the monitor, which keeps them.
    vm.assert_chain("top -> mid -> base").await
}

/// The base holds all that was committed, and nothing else changed but the header that names it.
async fn assert_files(chain: &Chain, top: Layer, base: Layer) -> CaseResult {
    let active = top == Top;
    for layer in [Base, Mid, Top] {
        let from = if layer == base { top } else { layer };
        let written = active && (layer == base || layer == Top);
        let own = merged(chain, from, layer, written);
        chain.image(layer).assert_layer(own).await?;
    }
    chain.assert_headers(if active { Mid } else { base }).await?;
    let guest = if active { base } else { Top };
    let all = merged(chain, Top, Base, active);
    chain.image(guest).assert_reads(all).await
}
