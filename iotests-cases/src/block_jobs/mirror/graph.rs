//! Mirrors of nodes that nobody uses, to others than the source, and through filters.

use iotests_core::prelude::*;

fn null(name: &str) -> Value {
    json!({"driver": "null-co", "node-name": name, "size": MIB})
}

/// A machine with a source that nobody uses and two targets, one of them read-only.
async fn orphans(t: &Test) -> CaseResult<Machine> {
    let read_only = Node::from(null("dest-ro")).read_only(true);
    let vm = t.host().blockdev(null("src")).blockdev(null("dest"));
    let vm = vm.tolerate("Permission conflict on node 'dest'");
    vm.blockdev(read_only).launch().await
}

/// A node that no drive has gives the job no name.
#[case(upstream = "041::TestOrphanedSource::test_no_job_id", formats = [RAW])]
async fn a_node_needs_a_name_for_its_job(t: &mut Test) -> CaseResult {
    let vm = orphans(t).await?;
    let arguments = json!({"device": "src", "target": "dest", "sync": "full"});
    let nameless = vm.cmd("blockdev-mirror", arguments.clone());
    nameless.refused("Invalid job ID ''").await?;
    let named = vm.job("blockdev-mirror", arguments).id("");
    named.refused("Invalid job ID ''").await?;
    vm.shutdown().await?;
    Ok(())
}

/// A node that nobody uses can be mirrored, and is given up for nobody.
#[case(upstream = "041::TestOrphanedSource::test_success", formats = [RAW])]
async fn a_node_of_nobody_is_mirrored(t: &mut Test) -> CaseResult {
    let vm = orphans(t).await?;
    let before = vm.state().await?;
    vm.mirror("src")
        .to("dest")
        .start()
        .await?
        .complete()
        .await?;
    vm.assert_unchanged_since(&before).await?;
    vm.shutdown().await?;
    Ok(())
}

/// A target that cannot be written to is refused.
#[case(upstream = "041::TestOrphanedSource::test_failing_permissions", formats = [RAW])]
async fn a_read_only_target_is_refused(t: &mut Test) -> CaseResult {
    let vm = orphans(t).await?;
    let job = vm.mirror("src").to("dest-ro");
    job.refused("Block node is read-only").await?;
    vm.shutdown().await?;
    Ok(())
}

/// When the source's users do not get along with those of the target, a mirror fails when it completes,
/// and everything is as before but for its own node, which is gone.
#[case(
    upstream = "041::TestOrphanedSource::test_failing_permission_in_complete", formats = [RAW],
    needs = [Driver("blkdebug")]
)]
async fn users_that_do_not_get_along_stay_where_they_are(t: &mut Test) -> CaseResult {
    let vm = orphans(t).await?;
    // The mirror does not mind that, for its target is not consistent.
    let user = |name: &str, on: &str| json!({"driver": "blkdebug", "node-name": name, "image": on});
    let mut on_target = user("dest-perm", "dest");
    on_target["unshare-child-perms"] = json!(["consistent-read"]);
    vm.add_node(on_target).await?;
    let job = vm.mirror("src").to("dest");
    let mut job = job.set("filter-node-name", "mirror-filter").start().await?;
    let mut on_source = user("src-perm", "src");
    on_source["take-child-perms"] = json!(["consistent-read"]);
    vm.add_node(on_source).await?;
    job.wait_ready().await?;
    job.complete()
        .expect_error("Operation not permitted")
        .await?;

    vm.assert_no_jobs().await?;
    vm.assert_no_nodes(&["mirror-filter"]).await?;
    for (user, used) in [("src-perm", "src"), ("dest-perm", "dest")] {
        vm.assert_block_path(user, "/image", used).await?;
    }
    vm.shutdown().await?;
    Ok(())
}

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
    vm.assert_read_only(&[("source", true), ("copy", false)])
        .await?;
    job.complete().await?;
    vm.assert_read_only(&[("source", true), ("copy", true)])
        .await?;
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
    needs = [Driver("copy-on-read")]
)]
async fn a_filter_is_replaced(t: &mut Test) -> CaseResult {
    let filter = |name: &str, file: Node| Node::new("copy-on-read").node_name(name).file(file);
    let chain = filter("filter0", filter("filter1", Node::from(null("source"))));
    let vm = t.host().disk(chain).blockdev(null("target"));
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
        let backing = t
            .image("backing")
            .size(MIB)
            .content(&LOWER)
            .create()
            .await?;
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
    let vm = t
        .host()
        .blockdev(filter)
        .blockdev(images.target.node().no_backing());
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
    let vm = vm
        .blockdev(images.target.node().no_backing())
        .launch()
        .await?;
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

/// While its disk is mirrored, an image stays locked against other processes, so that the machine still
/// has it when the mirror is cancelled.
#[case(
    upstream = "mirror-top-perms::TestMirrorTopPerms::test_cancel", formats = [RAW], host = System
)]
async fn nobody_else_gets_the_image(t: &mut Test) -> CaseResult {
    let source = t.image("source").size(MIB).fill(0x11).create().await?;
    let vm = t
        .host()
        .disk(&source)
        .blockdev(null("null"))
        .launch()
        .await?;
    let mut job = vm.mirror("source").to("null").start().await?;
    job.wait_ready().await?;

    let file = source.protocol_node().node_name("other");
    let other = Disk::of(file).property("share-rw", true);
    let other = t.vm().name("other").disk(other);
    other
        .expect_launch_error("Is another process using the image")
        .await?;
    check!(job.cancel().await?.outcome == Outcome::Completed);

    vm.disk("source").assert_node("source").await?;
    vm.disk("source").write(0x22, 0..CLUSTER).await?;
    vm.shutdown().await?;
    source.assert_pattern(0x22, 0..CLUSTER).await?;
    source.assert_pattern(0x11, CLUSTER..MIB).await
}
