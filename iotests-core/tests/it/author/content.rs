//! What images and nodes hold, written and checked by one vocabulary; and that nothing has changed.

use iotests_core::prelude::*;

use super::bench::{Bench, case, hosts, sets};

const PATTERNS: Content = Content::of(&[
    (0x5d, 0..64 * KIB),
    (0xd5, MIB..MIB + 64 * KIB),
    (0, 3 * MIB..4 * MIB),
]);

/// Also where QEMU only sees it over another protocol, encrypted, or in a format that is not read here.
#[test]
fn content_is_written_and_read_back_in_every_format() {
    for set in sets() {
        for format in [QCOW2, RAW, QED, LUKS] {
            let run = Bench::new(&set).format(format).run(case!(|t| {
                // What is not written of LUKS is not zeroes.
                let disk = t.image("disk").size(4 * MIB).fill(0).content(&PATTERNS);
                let disk = disk.create().await?;
                disk.assert_reads(&PATTERNS).await?;
                let now = PATTERNS.written(0x33, 32 * KIB..96 * KIB);
                disk.write_all(&now).await?;
                disk.assert_reads(&now).await?;

                let failure = disk.assert_reads(&PATTERNS).await.unwrap_err();
                assert_eq!(
                    failure.message(),
                    "TEST_DIR/disk holds 0x33 in 0x8000..0x10000, expected 0x5d"
                );
                let both = failure.difference().unwrap();
                assert_eq!(
                    both.expected,
                    "0x5d in 0x8000..0x10000, 0x00 in 0x10000..0x18000"
                );
                assert_eq!(
                    both.found,
                    "0x33 in 0x8000..0x10000, 0x33 in 0x10000..0x18000"
                );
                let longer = Content::nothing().written(1, 4 * MIB..4 * MIB + 1);
                let failure = disk.assert_reads(longer).await.unwrap_err();
                assert_eq!(
                    failure.message(),
                    "TEST_DIR/disk has 4194304 bytes, expected 4194305 at least"
                );
            }));
            run.assert_passed();
        }
    }
}

#[test]
fn a_layer_is_checked_by_what_it_has_itself() {
    for set in sets() {
        for format in [QCOW2, QED] {
            let run = Bench::new(&set).format(format).run(case!(|t| {
                let base = t.image("base").size(4 * MIB).content(&PATTERNS);
                let base = base.create().await?;
                let top = t.image("top").backing(&base).create().await?;
                top.assert_layer(Content::nothing()).await?;
                let own = Content::nothing().zeroes(clusters(0..1));
                let own = own.written(7, clusters(4..6));
                top.write_all(&own).await?;
                top.assert_layer(&own).await?;
                top.assert_reads(own.over(&PATTERNS)).await?;
                top.assert_backing(&base).await?;

                let hole = own.clone().hole(clusters(0..1));
                let failure = top.assert_layer(&hole).await.unwrap_err();
                assert_eq!(
                    failure.message(),
                    "TEST_DIR/top has 0x0..0x10000 allocated, expected not that"
                );
                let more = own.clone().zeroes(clusters(9..10));
                let failure = top.assert_layer(&more).await.unwrap_err();
                assert_eq!(
                    failure.message(),
                    "TEST_DIR/top has no allocation in 0x90000..0xa0000, expected one"
                );
                let other = own.clone().written(8, clusters(5..6));
                let failure = top.assert_layer(&other).await.unwrap_err();
                let text = "TEST_DIR/top holds 0x07 in 0x50000..0x60000, expected 0x08";
                assert!(failure.to_string().contains(text), "{failure}");

                top.assert_reads_either(hole.over(&PATTERNS), own.over(&PATTERNS)).await?;
                let failure = top.assert_reads_either(&PATTERNS, &other).await.unwrap_err();
                assert!(failure.message().contains("0x07 in 0x50000"), "{failure}");
                let failure = top.assert_backing(&top).await.unwrap_err();
                assert!(failure.to_string().contains("/base"), "{failure}");
            }));
            run.assert_passed();
        }
    }
}

#[test]
fn a_node_of_a_machine_is_written_and_read_as_an_image_is() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let disk = t.image("disk").size(4 * MIB).content(&PATTERNS);
            let disk = disk.create().await?;
            let vm = t.host().drive(&disk).launch().await?;
            let node = vm.disk(&disk);
            node.assert_reads(&PATTERNS).await?;
            let now = PATTERNS.written(0x33, 96 * KIB + 512..2 * MIB);
            node.write_all(&now).await?;
            node.assert_reads(&now).await?;
            assert_eq!(node.size().await?, 4 * MIB);

            // Where it is, to the byte, also in a range in which few bytes are wrong.
            vm.disk(&disk).write(0x44, MIB + 3 * KIB..MIB + 4 * KIB).await?;
            let failure = node.assert_reads(&now).await.unwrap_err();
            assert!(
                failure.message().contains("holds 0x44 in 0x100c00..0x101000, expected 0x33"),
                "{failure}"
            );
            vm.shutdown().await?;
            disk.assert_reads(now.written(0x44, MIB + 3 * KIB..MIB + 4 * KIB)).await?;
        }));
        run.assert_passed();
    }
}

#[test]
fn a_command_that_is_refused_must_say_why_and_change_nothing() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let disk = t.image("disk").size(MIB).create().await?;
            let vm = t.host().drive(&disk).launch().await?;
            let before = vm.state().await?;
            let nonsense = json!({"driver": "nonsense", "node-name": "a"});
            vm.cmd("blockdev-add", &nonsense).refused("nonsense").await?;
            vm.commit("elsewhere").refused_class("DeviceNotFound", "elsewhere").await?;
            vm.add_node(nonsense.clone()).refused("nonsense").await?;
            vm.assert_unchanged_since(&before).await?;
            vm.assert_read_only(&[("disk", false)]).await?;
            vm.assert_no_nodes(&["a"]).await?;

            let refused = vm.cmd("blockdev-add", &nonsense).refused("").await;
            assert!(refused.unwrap_err().message().contains("does not say with which text"));
            let other = vm.cmd("blockdev-add", &nonsense).refused("something else").await;
            let text = other.unwrap_err().message().to_owned();
            assert!(text.ends_with("expected \"something else\""), "{text}");

            // A change that is not refused fails this one.
            let done = vm.add_node(json!({"driver": "null-co", "node-name": "b"}));
            assert!(done.refused("nonsense").await.is_err());
            vm.remove_node("b").await?;

            let null = json!({"driver": "null-co", "node-name": "a"});
            vm.cmd("blockdev-add", &null).await?;
            let text = vm.assert_unchanged_since(&before).await.unwrap_err().to_string();
            assert!(
                text.contains("query-named-block-nodes shows a change"),
                "{text}"
            );
            let graph = vm.assert_same_graph_as(&before).await.unwrap_err().to_string();
            assert!(graph.contains("x-debug-query-block-graph"), "{graph}");
            assert!(vm.assert_no_nodes(&["a"]).await.is_err());
            assert!(vm.assert_read_only(&[("a", true)]).await.is_err());
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}

#[test]
fn a_file_that_was_touched_is_seen() {
    for set in sets() {
        let run = Bench::new(&set).run(case!(|t| {
            let disk = t.image("disk").size(MIB).create().await?;
            let before = disk.file_bytes()?;
            before.assert_unchanged()?;
            std::fs::write(disk.file(), b"QFI\xfb\0")?;
            let shorter = before.assert_unchanged().unwrap_err();
            let text = "the file TEST_DIR/disk has 5 bytes, expected ";
            assert!(shorter.message().starts_with(text), "{shorter}");
            std::fs::write(disk.file(), b"QFI\xfc")?;
            let other = before.assert_unchanged().unwrap_err();
            assert_eq!(
                other.message(),
                "the file TEST_DIR/disk holds 0xfc at 0x3, expected 0xfb as before"
            );
            let raw = t.image("raw").format(Format::Raw).size(MIB).create().await?;
            imgtools::raw::fill(raw.file(), 512 * KIB..576 * KIB, 7)?;
            let before = raw.file_bytes()?;
            imgtools::raw::fill(raw.file(), 0..64 * KIB, 0)?;
            before.assert_unchanged()?;
            imgtools::raw::fill(raw.file(), 513 * KIB..514 * KIB, 8)?;
            let behind_a_hole = before.assert_unchanged().unwrap_err();
            assert_eq!(
                behind_a_hole.message(),
                "the file TEST_DIR/raw holds 0x08 at 0x80400, expected 0x07 as before"
            );
            imgtools::raw::fill(raw.file(), 513 * KIB..514 * KIB, 7)?;
            std::fs::File::options().write(true).open(raw.file())?.set_len(2 * MIB)?;
            let longer = before.assert_unchanged().unwrap_err();
            assert_eq!(
                longer.message(),
                "the file TEST_DIR/raw has 2097152 bytes, expected 1048576 as before"
            );
        }));
        run.assert_passed();
    }
}
