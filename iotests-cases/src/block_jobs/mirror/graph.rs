//! What a mirror makes of the nodes and bitmaps around its source.

use iotests_core::prelude::*;

use super::null;

/// When the source is read-only, so is the copy that takes its place.
#[case]
async fn a_read_only_source_stays_read_only(t: &mut Test) -> CaseResult {
    let content = Content::nothing().numbered(0x20, clusters(2..9));
    let source = t.image("source").size(MIB).content(&content);
    let source = source.create().await?;
    let file = source.file_bytes()?;
    let copy = t.image("copy").size(MIB).create().await?;
    let vm = t.host().blockdev(source.node().read_only(true));
    let vm = vm.blockdev(&copy).launch().await?;
    let mut job = vm.mirror("source").to("copy").start().await?;
    job.wait_ready().await?;
    vm.assert_read_only(&[("source", true), ("copy", false)]).await?;
    job.complete().await?;
    vm.assert_read_only(&[("source", true), ("copy", true)]).await?;
    vm.shutdown().await?;
    file.assert_unchanged()?;
    copy.assert_reads(&content).await
}

/// A bitmap of the source records what the guest writes before and while its disk is mirrored.
#[case(formats = [QCOW2, RAW])]
async fn a_bitmap_of_the_source_stays_as_it_is(t: &mut Test) -> CaseResult {
    let source = t.image("source").size(MIB).fill(0x11).create().await?;
    let copy = t.image("copy").size(MIB).create().await?;
    let vm = t.host().disk(&source).blockdev(&copy).launch().await?;
    vm.bitmap("source", "b0").add().await?;
    vm.disk("source").write(0x22, clusters(1..2)).await?;
    let mut job = vm.mirror("source").to("copy").start().await?;
    job.wait_ready().await?;
    vm.disk("source").write(0x33, clusters(4..6)).await?;
    check!(job.cancel().await?.outcome == Outcome::Completed);
    check!(vm.bitmap("source", "b0").await?.count == 3 * CLUSTER);
    vm.shutdown().await?;
    source.assert_same_as(&copy).await
}

/// A filter below the source can be replaced by the copy.
#[case(
    upstream = "041::TestReplaces::test_replace_filter", formats = [RAW],
    needs = [Driver("copy-on-read"), Driver("null-co")]
)]
async fn a_filter_is_replaced(t: &mut Test) -> CaseResult {
    let filter = |name: &str, file: Node| Node::new("copy-on-read").node_name(name).file(file);
    let chain = filter("filter0", filter("filter1", null("source", MIB)));
    let vm = t.host().disk(chain).blockdev(null("target", MIB));
    let vm = vm.launch().await?;
    let job = vm.mirror("filter0").to("target").set("replaces", "filter1");
    job.start().await?.complete().await?;
    vm.assert_block_path("filter0", "/file", "target").await?;
    vm.disk("filter0").assert_node("filter0").await?;
    vm.assert_no_nodes(&["filter1", "source"]).await?;
    vm.shutdown().await?;
    Ok(())
}

/// A disk `source -> backing` of two halves, and a target that records the same backing image.
struct Halves {
    backing: Image,
    source: Image,
    target: Image,
}

const LOWER: Content = Content::of(&[(1, 0..512 * KIB)]);
const UPPER: Content = Content::of(&[(2, 512 * KIB..MIB)]);

impl Halves {
    async fn create(t: &Test) -> CaseResult<Halves> {
        let backing = t.image("backing").size(MIB).content(&LOWER).create().await?;
        let source = t.image("source").backing(&backing).content(&UPPER);
        let source = source.create().await?;
        let target = t.image("target").backing(&backing).create().await?;
        Ok(Halves {
            backing,
            source,
            target,
        })
    }

    async fn assert_top_copied(&self) -> CaseResult {
        self.target.assert_layer(&UPPER).await?;
        self.target.assert_backing(&self.backing).await?;
        self.target.assert_reads(UPPER.over(&LOWER)).await?;
        self.source.assert_layer(&UPPER).await?;
        self.backing.assert_reads(&LOWER).await
    }
}

/// A mirror of the top layer looks through a filter above it for what that layer is.
#[case(upstream = "041::TestFilters::test_cor", needs = [Driver("copy-on-read")])]
async fn the_top_layer_is_that_below_a_filter(t: &mut Test) -> CaseResult {
    let images = Halves::create(t).await?;
    let filter = Node::new("copy-on-read").node_name("filter");
    let filter = filter.file(&images.source);
    let vm = t.host().blockdev(filter).blockdev(images.target.node().no_backing());
    let vm = vm.launch().await?;
    let job = vm.mirror("filter").to("target").sync("top").start().await?;
    job.complete().await?;
    vm.assert_no_jobs().await?;
    vm.shutdown().await?;
    images.assert_top_copied().await
}

rows! {
    NAMES: Option<&str>;
    "without-a-name" => None, upstream = "test_implicit_mirror_filter";
    "with-a-name" => Some("mirror-filter"), upstream = "test_explicit_mirror_filter";
}

/// The node of a mirror shows above its source when it was given a name, and not otherwise.
#[case(upstream = "041::TestFilters::{name}", host = System, rows = NAMES)]
async fn the_node_of_a_mirror_shows(t: &mut Test, name: &Option<&'static str>) -> CaseResult {
    let images = Halves::create(t).await?;
    let vm = t.host().disk(Disk::of(&images.source).scsi());
    let vm = vm.blockdev(images.target.node().no_backing()).launch().await?;
    let mut job = vm.mirror("source").to("target").sync("top");
    if let Some(name) = *name {
        job = job.set("filter-node-name", name);
    }
    let job = job.start().await?;

    let blocks = vm.cmd("query-block", ()).await?;
    let inserted = blocks.at("[0]/inserted")?;
    inserted.assert("node-name", name.unwrap_or("source"))?;
    if name.is_none() {
        let layers =
            json!({"filename": images.source, "backing-image": {"filename": images.backing}});
        inserted.at("image")?.assert_includes(&layers)?;
    }
    job.complete().await?;

    vm.disk("source").assert_node("target").await?;
    vm.assert_no_jobs().await?;
    vm.shutdown().await?;
    images.assert_top_copied().await
}
