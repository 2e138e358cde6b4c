//! Options that can be changed, and have their defaults again when they are left out.

use imgtools::qcow2::{self, Mapping};

use super::*;

struct Options {
    change: fn(Node) -> Node,
    /// What `query-named-block-nodes` says then.
    shows: fn() -> Value,
}

rows! {
    OPTIONS: Options { change, shows };
    "read-only" => |node| node.read_only(true), || json!({"ro": true});
    "cache" => |node| node.set("cache.no-flush", true),
        || json!({"cache": {"writeback": true, "direct": false, "no-flush": true}});
    "detect-zeroes" => |node| node.set("detect-zeroes", "on"), || json!({"detect_zeroes": "on"});
    "detect-zeroes-and-unmap" =>
        |node| node.set("detect-zeroes", "unmap").set("discard", "unmap"),
        || json!({"detect_zeroes": "unmap"});
    "cache-sizes-of-qcow2" =>
        |node| node.set("l2-cache-size", 4 * MIB).set("l2-cache-entry-size", 32 * KIB)
            .set("refcount-cache-size", 4 * MIB),
        || json!({});
    "discards-of-qcow2" => |node| node.set("pass-discard-request", true), || json!({});
    "several-at-once" =>
        |node| node.read_only(true).set("detect-zeroes", "on").set("cache.no-flush", true),
        || json!({"ro": true, "detect_zeroes": "on", "cache": {"no-flush": true}});
}

/// An option is changed, of its own node only, and reset, twice in a row.
#[case(upstream = "245::TestBlockdevReopen::test_reopen", rows = OPTIONS)]
async fn are_changed_and_reset(t: &mut Test, options: &Options) -> CaseResult {
    let images = Images::create(t).await?;
    let node = alone(&images.top).without("file.cache");
    let node = node.backing(alone(&images.base));
    let vm = t.host().blockdev(&node).launch().await?;
    let before = vm.state().await?;
    let base = vm.node("base").await?;
    let data = chain(&["top", "base"]);

    for _ in 0..2 {
        vm.reopen("top", options.change).await?;
        let shows = (options.shows)();
        vm.node("top").await?.assert_includes(&shows)?;
        // Those below take over what they do not have themselves.
        let base_shows = match shows.get("cache") {
            Some(cache) => json!({"cache": cache}),
            None => json!({"cache": base["cache"]}),
        };
        let file_shows = match shows.get("ro") {
            Some(read_only) => json!({"ro": read_only, "cache": base_shows["cache"]}),
            None => base_shows.clone(),
        };
        vm.node("top-file").await?.assert_includes(&file_shows)?;
        let base_now = vm.node("base").await?;
        base_now.assert_includes(&base_shows)?;
        base_now.assert("detect_zeroes", "off")?;
        base_now.assert("ro", true)?;
        vm.node("top").assert_reads(&data).await?;
        vm.reopen_all([&node]).await?;
        vm.assert_unchanged_since(&before).await?;
    }
    // Here it can be written again.
    vm.node("top").write(0x11, clusters(0..1)).await?;
    vm.shutdown().await?;
    images.base.assert_layer(own("base")).await?;
    images.top.assert_layer(own("top").written(0x11, clusters(0..1))).await?;
    images.top.assert_clean().await
}

/// An option of the file below can be changed and reset as well, though it shows nowhere.
#[case(upstream = "245::TestBlockdevReopen::test_reset_default_values")]
async fn of_the_file_are_changed_and_reset(t: &mut Test) -> CaseResult {
    let images = Images::create(t).await?;
    let node = alone(&images.base).set("file.x-check-cache-dropped", true);
    let vm = t.host().disk(Disk::of(&node)).launch().await?;
    let before = vm.state().await?;
    let changed = node.clone().set("file.x-check-cache-dropped", false);
    let reset = node.clone().without("file.x-check-cache-dropped");
    for node in [&changed, &reset, &node] {
        vm.reopen_all([node]).await?;
        vm.assert_unchanged_since(&before).await?;
        vm.disk("base").assert_reads(own("base")).await?;
    }
    vm.shutdown().await?;
    images.assert_layers().await
}

/// Zeroes that are written are stored as zero clusters only while zero detection is on.
#[case(upstream = "245::TestBlockdevReopen::test_reopen")]
async fn take_effect_on_zeroes(t: &mut Test) -> CaseResult {
    let images = Images::create(t).await?;
    let node = alone(&images.base);
    let vm = t.host().disk(Disk::of(&node)).launch().await?;
    let write = async |cluster: u64| {
        let command = format!("write -P 0 {}k 64k", cluster * 64);
        vm.disk("base").io(&command).await.map(drop)
    };

    write(0).await?;
    vm.reopen("base", |node| node.set("detect-zeroes", "on")).await?;
    write(1).await?;
    vm.reopen("base", |node| {
        node.set("detect-zeroes", "unmap").set("discard", "unmap")
    })
    .await?;
    write(2).await?;
    vm.reopen_all([&node]).await?;
    write(3).await?;

    vm.shutdown().await?;
    let file = qcow2::Image::open(&**images.base.file())?;
    let kinds = (0..4).map(|cluster| {
        Ok(match file.lookup(cluster * CLUSTER)? {
            Mapping::Data { .. } => "data",
            Mapping::Zero { host: Some(_) } => "zeroes",
            Mapping::Zero { host: None } => "discarded",
            _ => "something else",
        })
    });
    check!(kinds.collect::<CaseResult<Vec<_>>>()? == ["data", "zeroes", "discarded", "data"]);
    images.base.assert_reads(own("base").zeroes(clusters(0..4))).await?;
    images.base.assert_clean().await
}

const READ_ONLY: &str = "Cannot export read-only node as writable";

/// A node with a writer cannot become read-only, and a read-only node cannot get a writer.
#[case]
async fn do_not_take_away_what_is_used(t: &mut Test) -> CaseResult {
    let images = Images::create(t).await?;
    let vm = t.host().disk(Disk::of(alone(&images.other))).blockdev(alone(&images.base));
    let vm = vm.launch().await?;
    let why = either("cannot support read-write users", "Block node is read-only");
    vm.disk("other").io("aio_write -P 0x11 1920k 64k").await?;
    vm.reopen("other", |node| node.read_only(true)).refused(why).await?;

    vm.reopen("base", |node| node.read_only(true)).await?;
    vm.export("base").writable().expect_error(READ_ONLY).await?;
    vm.reopen("base", |node| node.read_only(false)).await?;
    let export = vm.export("base").writable().await?;
    export.write_all(&[(0x12, clusters(0..1))]).await?;
    let why = "cannot support read-write users";
    vm.reopen("base", |node| node.read_only(true)).refused(why).await?;
    export.write_all(&[(0x13, clusters(1..2))]).await?;
    export.remove().await?;
    vm.reopen("base", |node| node.read_only(true)).await?;
    vm.assert_read_only(&[("base", true), ("base-file", true), ("other", false)]).await?;

    vm.shutdown().await?;
    let base = own("base").written(0x12, clusters(0..1)).written(0x13, clusters(1..2));
    images.base.assert_layer(base).await?;
    images.other.assert_layer(own("other").written(0x11, clusters(30..31))).await
}

/// What there is from this offset on.
fn from(content: &Content, offset: u64) -> Content {
    let extents = content.extents().into_iter();
    let extents = extents.filter(|(_, range)| range.end > offset);
    extents.fold(Content::nothing(), |content, (byte, range)| {
        content.written(byte, range.start.saturating_sub(offset)..range.end - offset)
    })
}

/// A raw node is moved within its file: it reads and writes there, and has the size of the rest.
#[case(upstream = "245::TestBlockdevReopen::test_reopen_raw")]
async fn move_a_raw_node_in_its_file(t: &mut Test) -> CaseResult {
    let image = |first| Content::nothing().numbered(first, clusters(0..32));
    let disk = t.image("disk").format(RAW).size(32 * CLUSTER).content(image(0x20));
    let disk = disk.create().await?;
    let node = disk.node();
    let vm = t.host().blockdev(&node).launch().await?;
    let mut file = image(0x20);
    for (at, byte) in [(16, 0x91), (5, 0x92), (0, 0x93), (31, 0x94)] {
        vm.reopen_all([node.clone().set("offset", at * CLUSTER)]).await?;
        let shown = vm.node("disk");
        check!(shown.size().await? == (32 - at) * CLUSTER);
        shown.assert_reads(from(&file, at * CLUSTER)).await?;
        shown.write(byte, clusters(0..1)).await?;
        file = file.written(byte, clusters(at..at + 1));
        // Only a part of that.
        let part = node.clone().set("offset", at * CLUSTER).set("size", CLUSTER);
        vm.reopen_all([&part]).await?;
        check!(shown.size().await? == CLUSTER);
        shown.assert_reads(from(&file, at * CLUSTER).cut(CLUSTER)).await?;
    }
    vm.reopen_all([&node]).await?;
    vm.node("disk").assert_reads(&file).await?;
    let beyond = node.clone().set("offset", 33 * CLUSTER);
    vm.reopen_all([&beyond]).refused("Offset (2162688) cannot be greater").await?;
    vm.node("disk").assert_reads(&file).await?;
    vm.shutdown().await?;
    disk.assert_reads(file).await
}
