//! Dirty bitmaps that migrate under other names (`block-bitmap-mapping`). The upstream test is 300.

use iotests_core::author::{Cmd, MachineBuilder};
use iotests_core::prelude::*;

use crate::json::items;

defaults! {
    formats = [QCOW2], protocols = [FILE], groups = [BITMAP, MIGRATION, QUICK], host = System,
    guest = RunningIdle,
    needs = [Driver("null-co"), Schema("migrate-set-parameters/arg-type/block-bitmap-mapping")],
}

const SIZE: u64 = 256 * MIB;

/// A machine with these nodes. No image is behind them: a bitmap only records.
fn machine(t: &Test, name: &str, nodes: &[&str]) -> MachineBuilder {
    let nodes = nodes.iter().map(|name| Node::new("null-co").node_name(name).set("size", SIZE));
    nodes.fold(t.vm().name(name), MachineBuilder::blockdev)
}

/// Where guests come from.
async fn source(t: &Test, nodes: &[&str]) -> CaseResult<Machine> {
    machine(t, "source", nodes).launch().await
}

/// Where they go. It may print this, and has to wait.
async fn target(t: &Test, nodes: &[&str], says: &str) -> CaseResult<Machine> {
    let machine = machine(t, "target", nodes).incoming("defer");
    let machine = if says.is_empty() {
        machine
    } else {
        machine.tolerate(says)
    };
    machine.launch().await
}

/// Ends a target, which must have printed this, or nothing if it is empty.
async fn end(target: Machine, says: &str) -> CaseResult {
    let printed = target.shutdown().await?;
    check!(printed.contains(says), "expected \"{says}\" in: {printed}");
    Ok(())
}

/// Adds a bitmap in which some megabytes are dirty; bitmaps of the same node that were added before
/// record them as well. One with an odd number does not record any more.
async fn add_bitmap(vm: &Machine, (node, bitmap): (&str, &str), number: u64) -> CaseResult {
    let added = vm.bitmap(node, bitmap);
    added.add().granularity((64 * KIB) << number).await?;
    for megabyte in [3 * number, 3 * number + 2, 100 + 7 * number] {
        let range = megabyte * MIB..(megabyte + 1) * MIB;
        vm.node(node).zero(range).await?;
    }
    if number % 2 == 1 {
        added.disable().await?;
    }
    Ok(())
}

/// Everything about a bitmap that has to arrive, of which something has to be dirty.
async fn facts(vm: &Machine, (node, bitmap): (&str, &str)) -> CaseResult<Value> {
    let info = vm.bitmap(node, bitmap).await?;
    check!(info.count > 0);
    Ok(json!({
        "count": info.count, "granularity": info.granularity, "recording": info.recording,
        "persistent": info.persistent, "inconsistent": info.inconsistent, "busy": info.busy,
        "sha256": vm.bitmap(node, bitmap).sha256().await?,
    }))
}

/// The node has just these bitmaps.
async fn assert_bitmaps(vm: &Machine, node: &str, names: &[&str]) -> CaseResult {
    let mut found: Vec<_> = vm.bitmaps(node).await?.into_iter().map(|one| one.name).collect();
    found.sort_unstable();
    check!(found == names, "the bitmaps of {node}");
    Ok(())
}

/// A bitmap that records does so for the guest that has arrived, and one that does not does not.
async fn assert_goes_on(vm: &Machine, (node, bitmap): (&str, &str)) -> CaseResult {
    let before = vm.bitmap(node, bitmap).await?;
    vm.node(node).zero(200 * MIB..201 * MIB).await?;
    let after = vm.bitmap(node, bitmap).await?.count;
    check!(after == before.count + if before.recording { MIB } else { 0 });
    vm.bitmap(node, bitmap).clear().await?;
    check!(vm.bitmap(node, bitmap).await?.count == 0);
    Ok(())
}

fn mapping(node: &str, alias: &str, bitmaps: &[(&str, &str)]) -> Value {
    let bitmap = |(name, alias): &(&str, &str)| json!({"name": name, "alias": alias});
    let bitmaps: Vec<Value> = bitmaps.iter().map(bitmap).collect();
    json!({"node-name": node, "alias": alias, "bitmaps": bitmaps})
}

/// What the node and its bitmap are called on either side.
struct Names {
    source: (&'static str, &'static str),
    target: (&'static str, &'static str),
    /// The names of bitmaps are this many times as long.
    length: usize,
}

rows! {
    NAMES: Names { source, target, length };
    "the-same-names" => ("node0", "bmap0"), ("node0", "bmap0"), 1, upstream = "TestAliasMigration";
    "another-node" => ("node-src", "bmap0"), ("node-dst", "bmap0"), 1,
        upstream = "TestNodeAliasMigration";
    "another-bitmap" => ("node0", "bmap-src"), ("node0", "bmap-dst"), 1,
        upstream = "TestBitmapAliasMigration";
    "other-names" => ("node-src", "bmap-src"), ("node-dst", "bmap-dst"), 1,
        upstream = "TestFullAliasMigration";
    "long-names" => ("node0", "a"), ("node0", "b"), 512, upstream = "TestLongBitmapNames";
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mapped {
    Nowhere,
    AtTheSource,
    AtTheTarget,
    AtBothEnds,
}
use Mapped::{AtBothEnds, AtTheSource, AtTheTarget, Nowhere};

rows! {
    MAPPED: Mapped;
    "mapped-nowhere" => Nowhere, upstream = "test_migration_without_alias";
    "mapped-at-the-source" => AtTheSource, upstream = "test_alias_on_src_migration";
    "mapped-at-the-target" => AtTheTarget, upstream = "test_alias_on_dst_migration";
    "mapped-at-both-ends" => AtBothEnds, upstream = "test_alias_on_both_migration";
}

const LONG: &str = "a long name cannot be sent: see keeps_a_bitmap_whose_name_is_too_long";

/// A bitmap arrives where the aliases lead, and is dropped where nothing has that alias.
#[case(
    upstream = "300::{names}::{mapped}", rows = (NAMES, MAPPED),
    excluded = [
        exclude(&["long-names", "mapped-nowhere"], LONG),
        exclude(&["long-names", "mapped-at-the-source"], LONG),
        exclude(&["long-names", "mapped-at-the-target"], LONG),
    ]
)]
async fn leads_a_bitmap_from(t: &mut Test, names: &Names, mapped: &Mapped) -> CaseResult {
    let (from, to) = (
        names.source.1.repeat(names.length),
        names.target.1.repeat(names.length),
    );
    let (from, to) = (
        (names.source.0, from.as_str()),
        (names.target.0, to.as_str()),
    );
    let one = |(node, bitmap), (node_alias, alias)| {
        json!([mapping(node, node_alias, &[(bitmap, alias)])])
    };
    let alias = ("node-alias", "bmap-alias");
    let (at_source, at_target) = match mapped {
        Nowhere => (None, None),
        AtTheSource => (Some(one(from, to)), None),
        AtTheTarget => (None, Some(one(to, from))),
        AtBothEnds => (Some(one(from, alias)), Some(one(to, alias))),
    };
    let lost = *mapped == Nowhere && from.0 != to.0;
    let says = if lost {
        "Cannot find device='node-src' nor node-name='node-src'"
    } else {
        ""
    };
    let source = source(t, &[from.0]).await?;
    let target = target(t, &[to.0], says).await?;
    add_bitmap(&source, from, 0).await?;
    let sent = facts(&source, from).await?;

    t.migrate(&source, &target).bitmaps(at_source, at_target).await?;

    if lost {
        assert_bitmaps(&target, to.0, &[]).await?;
    } else {
        // Without a mapping it comes with its own name.
        let arrived = (to.0, if *mapped == Nowhere { from.1 } else { to.1 });
        assert_bitmaps(&target, to.0, &[arrived.1]).await?;
        check!(facts(&target, arrived).await? == sent);
        assert_goes_on(&target, arrived).await?;
    }
    source.shutdown().await?;
    end(target, says).await
}

struct TooLong {
    length: usize,
    mapped: Mapped,
}

rows! {
    TOO_LONG: TooLong { length, mapped };
    "256-bytes" => 256, Nowhere,
        upstream = "TestBlockBitmapMappingErrors::test_bitmap_name_too_long";
    "512-bytes" => 512, Nowhere, upstream = "TestLongBitmapNames::test_migration_without_alias";
    "512-bytes-mapped-at-the-target" => 512, AtTheTarget,
        upstream = "TestLongBitmapNames::test_alias_on_dst_migration";
    "512-bytes-mapped-at-the-source" => 512, AtTheSource,
        upstream = "TestLongBitmapNames::test_alias_on_src_migration";
}

/// What a target prints whose migration ends in the middle of a bitmap; which of it depends on the version.
const CUT_SHORT: [&str; 4] = [
    "Unable to read node alias string",
    "error while loading state for instance 0x0 of device 'dirty-bitmap'",
    "check_section_footer: Read section footer failed",
    "load of migration failed",
];

/// The target of a migration that fails.
async fn cut_short(t: &Test) -> CaseResult<Machine> {
    let vm = machine(t, "gone", &["node0"]).incoming("defer");
    CUT_SHORT.into_iter().fold(vm, MachineBuilder::tolerate).launch().await
}

/// The bitmaps of the source cannot be sent, so its guest stays, and the target is gone.
async fn assert_kept(t: &Test, source: &Machine, gone: Machine, says: String) -> CaseResult {
    let migration = t.migrate(source, &gone).capability("dirty-bitmaps");
    migration.expect_failure(says).await?;
    gone.wait_exit_status(1).await?;
    source.wait_run_state("running").await
}

/// A bitmap whose name is too long to be sent keeps its guest from leaving, and both go on; under a
/// short name it is sent.
#[case(upstream = "300::{long}", rows = TOO_LONG)]
async fn keeps_a_bitmap_whose_name_is_too_long(t: &mut Test, long: &TooLong) -> CaseResult {
    let (name, other) = ("a".repeat(long.length), "b".repeat(long.length));
    let [bitmap, second] = [("node0", name.as_str()), ("node0", "second")];
    let source = source(t, &["node0"]).await?;
    add_bitmap(&source, bitmap, 0).await?;
    add_bitmap(&source, second, 1).await?;
    let sent = [facts(&source, bitmap).await?, facts(&source, second).await?];

    let gone = cut_short(t).await?;
    let mapped = match long.mapped {
        AtTheSource => Some((&source, &name, &other)),
        AtTheTarget => Some((&gone, &other, &name)),
        _ => None,
    };
    if let Some((vm, name, alias)) = mapped {
        let says = format!("The bitmap alias '{alias}' is longer than 255 bytes");
        let mapping = json!([mapping("node0", "node0", &[(name, alias)])]);
        set_mapping(vm, &mapping).refused(says).await?;
    }
    let says = format!("Cannot migrate bitmap '{name}' on node 'node0': Name is longer than 255");
    assert_kept(t, &source, gone, says).await?;
    check!([facts(&source, bitmap).await?, facts(&source, second).await?] == sent);

    // As long as may be.
    let short = "s".repeat(255);
    let at_source = json!([mapping(
        "node0",
        &short,
        &[(&name, &short), ("second", "x")]
    )]);
    let at_target = json!([mapping(
        "node0",
        &short,
        &[(&other, &short), ("third", "x")]
    )]);
    let target = target(t, &["node0"], "").await?;
    t.migrate(&source, &target).bitmaps(at_source, at_target).await?;
    check!(facts(&target, ("node0", &other)).await? == sent[0]);
    check!(facts(&target, ("node0", "third")).await? == sent[1]);
    source.shutdown().await?;
    end(target, "").await
}

/// A bitmap of a node whose name QEMU has generated keeps its guest from leaving, because that name means nothing elsewhere; with an
/// alias, it is sent.
#[case]
async fn keeps_a_bitmap_whose_node_has_a_generated_name(t: &mut Test) -> CaseResult {
    let unnamed = Node::new("null-co").set("size", SIZE);
    let top = Node::new("raw").node_name("top").file(unnamed);
    let source = t.vm().name("source").blockdev(top).launch().await?;
    let nodes = source.cmd("query-named-block-nodes", ()).await?;
    let mut names = items(&nodes, "")?.iter().filter_map(|node| node["node-name"].as_str());
    let generated = names.find(|name| name.starts_with('#'));
    let generated = generated.ok_or_else(|| Failure::new("no node has a generated name"))?;
    let bitmap = (generated, "bmap0");
    add_bitmap(&source, bitmap, 0).await?;
    let sent = facts(&source, bitmap).await?;

    let gone = cut_short(t).await?;
    let says = format!("in a node with auto-generated name '{generated}' can't be migrated");
    assert_kept(t, &source, gone, says).await?;
    check!(facts(&source, bitmap).await? == sent);

    let target = target(t, &["node0"], "").await?;
    let mapped = json!([mapping(generated, "node0", &[("bmap0", "bmap0")])]);
    t.migrate(&source, &target).bitmaps(Some(mapped), None).await?;
    check!(facts(&target, ("node0", "bmap0")).await? == sent);
    source.shutdown().await?;
    end(target, "").await
}

fn set_mapping(vm: &Machine, mapping: &Value) -> Cmd {
    vm.cmd(
        "migrate-set-parameters",
        json!({"block-bitmap-mapping": mapping}),
    )
}

struct Wrong {
    mapping: fn() -> Value,
    says: fn() -> String,
}

rows! {
    WRONG: Wrong { mapping, says };
    "a-node-alias-twice" => || json!([
            mapping("node0", "alias", &[("bmap0", "alias0")]),
            mapping("node1", "alias", &[("bmap1", "alias1")]),
        ]),
        || "The node alias 'alias' is used twice".into(),
        upstream = "test_non_injective_node_mapping";
    "a-bitmap-alias-twice" =>
        || json!([mapping("node0", "alias0", &[("bmap0", "alias"), ("bmap1", "alias")])]),
        || "The bitmap alias 'alias0'/'alias' is used twice".into(),
        upstream = "test_non_injective_bitmap_mapping";
    "a-node-twice" => || json!([
            mapping("node0", "alias0", &[("bmap0", "alias0")]),
            mapping("node0", "alias1", &[("bmap0", "alias0")]),
        ]),
        || "The node name 'node0' is mapped twice".into(), upstream = "test_ambiguous_node_mapping";
    "a-bitmap-twice" =>
        || json!([mapping("node0", "alias0", &[("bmap0", "alias0"), ("bmap0", "alias1")])]),
        || "The bitmap 'node0'/'bmap0' is mapped twice".into(),
        upstream = "test_ambiguous_bitmap_mapping";
    "a-malformed-node-alias" => || json!([mapping("node0", "123-foo", &[])]),
        || "The node alias '123-foo' is not well-formed".into(),
        upstream = "test_non_wellformed_node_alias";
    "a-long-node-alias" => || json!([mapping("node0", &"a".repeat(256), &[])]),
        || format!("The node alias '{}' is longer than 255 bytes", "a".repeat(256)),
        upstream = "test_node_alias_too_long";
    "a-long-bitmap-alias" => || json!([mapping("node0", "node0", &[("bmap0", &"a".repeat(256))])]),
        || format!("The bitmap alias '{}' is longer than 255 bytes", "a".repeat(256)),
        upstream = "test_bitmap_alias_too_long";
    "a-long-bitmap-name" => || json!([mapping("node0", "node0", &[(&"a".repeat(1024), "bmap0")])]),
        || format!("The bitmap name '{}' is longer than 1023 bytes", "a".repeat(1024)),
        upstream = "test_aliased_bitmap_name_too_long";
    "a-long-node-name" => || json!([mapping(&"a".repeat(32), "node0", &[("bmap0", "bmap0")])]),
        || format!("The node name '{}' is longer than 31 bytes", "a".repeat(32)),
        upstream = "test_node_name_too_long";
    "an-error-behind-what-is-right" => || json!([
            mapping("node0", "node0", &[("bmap0", "bmap0")]), mapping("node1", "x", &[("b", "")]),
            mapping("node1", "y", &[]),
        ]),
        || "The node name 'node1' is mapped twice".into();
}

/// An invalid mapping is refused at either end, and the previous one stays in effect: it is shown, and the
/// guest migrates with it.
#[case(upstream = "300::TestBlockBitmapMappingErrors::{wrong}", rows = WRONG)]
async fn stays_as_it_was(t: &mut Test, wrong: &Wrong) -> CaseResult {
    let source = source(t, &["node0"]).await?;
    let target = target(t, &["node0"], "").await?;
    add_bitmap(&source, ("node0", "bmap0"), 0).await?;
    let sent = facts(&source, ("node0", "bmap0")).await?;
    let good = json!([mapping("node0", "on-the-way", &[("bmap0", "alias")])]);
    let text = "block-bitmap-mapping:\n  'node0' -> 'on-the-way'\n    'bmap0' -> 'alias'\n";

    for vm in [&source, &target] {
        set_mapping(vm, &good).await?;
        let says = format!(
            "Invalid mapping given for block-bitmap-mapping: {}",
            (wrong.says)()
        );
        set_mapping(vm, &(wrong.mapping)()).refused(exactly(says)).await?;
        let now = vm.cmd("query-migrate-parameters", ()).await?;
        now.assert("block-bitmap-mapping", good.clone())?;
        let shown = vm.hmp("info migrate_parameters").await?;
        check!(shown.contains(text), "{shown}");
    }
    t.migrate(&source, &target).capability("dirty-bitmaps").await?;

    check!(facts(&target, ("node0", "bmap0")).await? == sent);
    source.shutdown().await?;
    end(target, "").await
}

struct Left {
    /// The mappings at the source and at the target.
    mappings: fn() -> [Option<Value>; 2],
    says: &'static str,
}

rows! {
    LEFT: Left { mappings, says };
    "no-node-at-the-source" => || [Some(json!([])), None], "",
        upstream = "test_migratee_node_is_not_mapped_on_src";
    "no-node-at-the-target" => || [None, Some(json!([]))], "Unknown node alias 'node0'",
        upstream = "test_migratee_node_is_not_mapped_on_dst";
    "no-bitmap-at-the-source" => || [Some(json!([mapping("node0", "node0", &[])])), None], "",
        upstream = "test_migratee_bitmap_is_not_mapped_on_src";
    "no-bitmap-at-the-target" => || [None, Some(json!([mapping("node0", "node0", &[])]))],
        "Unknown bitmap alias 'bmap0' on node 'node0' (alias 'node0')",
        upstream = "test_migratee_bitmap_is_not_mapped_on_dst";
    "nothing-at-either-end" => || [Some(json!([])), Some(json!([]))], "",
        upstream = "test_unused_mapping_on_dst";
    "what-is-not-there" => || {
            let unknown = json!([mapping("node7", "node7", &[("x", "y")])]);
            [Some(unknown.clone()), Some(unknown)]
        }, "";
}

/// A bitmap that is not mapped stays behind; the guest goes without it, and its name is free at the target.
#[case(upstream = "300::TestBlockBitmapMappingErrors::{left}", rows = LEFT)]
async fn leaves_out(t: &mut Test, left: &Left) -> CaseResult {
    let bitmap = ("node0", "bmap0");
    let source = source(t, &["node0"]).await?;
    let target = target(t, &["node0"], left.says).await?;
    add_bitmap(&source, bitmap, 0).await?;
    let held = facts(&source, bitmap).await?;
    let [at_source, at_target] = (left.mappings)();

    t.migrate(&source, &target).bitmaps(at_source, at_target).await?;

    assert_bitmaps(&target, "node0", &[]).await?;
    check!(facts(&source, bitmap).await? == held);
    add_bitmap(&target, bitmap, 0).await?;
    assert_goes_on(&target, bitmap).await?;
    source.shutdown().await?;
    end(target, left.says).await
}

const NODES: [&str; 2] = ["node-a", "node-b"];

/// The other one of two names.
fn swapped(name: &str) -> &'static str {
    match name {
        "node-a" => "node-b",
        "node-b" => "node-a",
        "bmap-a" => "bmap-b",
        _ => "bmap-a",
    }
}

/// Two machines, of which the source has two bitmaps on each of two nodes.
async fn four_bitmaps(t: &Test) -> CaseResult<(Machine, Machine, Vec<Value>)> {
    let (source, target) = (source(t, &NODES).await?, target(t, &NODES, "").await?);
    let mut sent = Vec::new();
    for (number, bitmap) in FOUR.into_iter().enumerate() {
        add_bitmap(&source, bitmap, number as u64).await?;
    }
    for bitmap in FOUR {
        sent.push(facts(&source, bitmap).await?);
    }
    Ok((source, target, sent))
}

const FOUR: [(&str, &str); 4] = [
    ("node-a", "bmap-a"),
    ("node-b", "bmap-a"),
    ("node-a", "bmap-b"),
    ("node-b", "bmap-b"),
];

rows! {
    END: Mapped;
    "at-the-source" => AtTheSource, upstream = "src";
    "at-the-target" => AtTheTarget, upstream = "dst";
}

/// Bitmaps that swap their names and nodes all arrive, each with its own content.
#[case(upstream = "300::TestCrossAliasMigration::test_alias_on_{mapped}", rows = END)]
async fn exchanges_names(t: &mut Test, mapped: &Mapped) -> CaseResult {
    let (source, target, sent) = four_bitmaps(t).await?;
    let both = [("bmap-a", "bmap-b"), ("bmap-b", "bmap-a")];
    let cross = NODES.map(|node| mapping(node, swapped(node), &both));
    let cross = json!(cross);
    let (at_source, at_target) = match mapped {
        AtTheSource => (Some(cross), None),
        _ => (None, Some(cross)),
    };

    t.migrate(&source, &target).bitmaps(at_source, at_target).await?;

    for node in NODES {
        assert_bitmaps(&target, node, &["bmap-a", "bmap-b"]).await?;
    }
    for ((node, bitmap), sent) in FOUR.into_iter().zip(&sent) {
        let arrived = (swapped(node), swapped(bitmap));
        check!(&facts(&target, arrived).await? == sent, "{node} {bitmap}");
    }
    assert_goes_on(&target, ("node-b", "bmap-b")).await?;
    source.shutdown().await?;
    end(target, "").await
}

fn persistent(mut mapping: Value, on: bool) -> Value {
    mapping["bitmaps"][0]["transform"] = json!({ "persistent": on });
    mapping
}

const TRANSFORM: Requirement =
    Schema("migrate-set-parameters/arg-type/block-bitmap-mapping/bitmaps/transform");

/// One bitmap becomes persistent on its way, and nothing else of it or of the others changes.
#[case(
    upstream = "300::TestAliasTransformMigration::test_transform_on_{mapped}", rows = END,
    needs = [TRANSFORM]
)]
async fn makes_one_persistent(t: &mut Test, mapped: &Mapped) -> CaseResult {
    let (source, target, mut sent) = four_bitmaps(t).await?;
    let same = [("bmap-a", "bmap-a"), ("bmap-b", "bmap-b")];
    let [a, b] = NODES.map(|node| mapping(node, node, &same));
    let changed = json!([persistent(a, true), b]);
    let (at_source, at_target) = match mapped {
        AtTheSource => (Some(changed), None),
        _ => (None, Some(changed)),
    };

    t.migrate(&source, &target).bitmaps(at_source, at_target).await?;

    sent[0]["persistent"] = true.into();
    for (bitmap, sent) in FOUR.into_iter().zip(&sent) {
        check!(&facts(&target, bitmap).await? == sent, "{bitmap:?}");
    }
    source.shutdown().await?;
    end(target, "").await
}

rows! {
    MAPPED_AT: Mapped;
    "at-the-source" => AtTheSource;
    "at-the-target" => AtTheTarget;
}

rows! {
    PERSISTENT: bool;
    "persistent" => true;
    "temporary" => false;
}

/// A bitmap is stored in the image if it is persistent when it arrives, whatever it was at the source.
#[case(rows = (PERSISTENT, MAPPED_AT), needs = [TRANSFORM])]
async fn decides_what_is_stored(t: &mut Test, on: &bool, mapped: &Mapped) -> CaseResult {
    let content = Content::nothing().numbered(0x11, clusters(0..8));
    let disk = t.image("disk").size(8 * MIB).content(&content).create().await?;
    let source = t.vm().name("source").disk(&disk).launch().await?;
    let target = t.vm().name("target").disk(&disk).incoming("defer").launch().await?;
    let added = source.bitmap("disk", "sent").add();
    if *on {
        added.await?
    } else {
        added.persistent().await?
    };
    source.disk("disk").write(0x77, clusters(20..23)).await?;
    let sent = facts(&source, ("disk", "sent")).await?;
    let plain = mapping("disk", "disk", &[("sent", "alias")]);
    let (changed, plain) = (json!([persistent(plain.clone(), *on)]), json!([plain]));
    let back = mapping("disk", "disk", &[("kept", "alias")]);
    let (changed_back, back) = (json!([persistent(back.clone(), *on)]), json!([back]));
    let (at_source, at_target) = match mapped {
        AtTheSource => (changed, back),
        _ => (plain, changed_back),
    };

    t.migrate(&source, &target).bitmaps(at_source, at_target).await?;

    let mut expected = sent.clone();
    expected["persistent"] = (*on).into();
    check!(facts(&target, ("disk", "kept")).await? == expected);
    source.shutdown().await?;
    end(target, "").await?;
    let again = t.vm().disk(&disk).launch().await?;
    assert_bitmaps(&again, "disk", if *on { &["kept"] } else { &[] }).await?;
    if *on {
        check!(facts(&again, ("disk", "kept")).await? == expected);
    }
    again.shutdown().await?;
    disk.assert_layer(content.written(0x77, clusters(20..23))).await?;
    disk.assert_clean().await
}
