//! Images: every format and protocol, chains, secrets, odd directories.

use imgtools::qcow2;
use iotests_core::author::KEY_ID;
use iotests_core::author::assert::AssertJson;
use iotests_core::case::{Feature, Format, Support};
use iotests_core::prelude::*;
use iotests_core::wire::CaseEvent;
use serde_json::json;

use super::bench::{Bench, case, sets};

#[test]
fn an_image_is_made_written_read_resized_and_checked_in_every_format() {
    for set in sets() {
        for format in [QCOW2, RAW, QED, VDI, VMDK, VPC, VHDX, PARALLELS, QCOW, LUKS] {
            let bench = Bench::new(&set).format(format);
            let run = bench.run(case!(|t| {
                let image = t.image("disk").size(4 * MIB).fill(0x11).create().await?;
                image.write(0x22, 64 * KIB..128 * KIB).await?;
                image.assert_pattern(0x11, 0..64 * KIB).await?;
                image.assert_pattern(0x22, 64 * KIB..128 * KIB).await?;
                image.assert_clean().await?;
                let wrong = image.assert_pattern(0x33, 0..MIB).await.unwrap_err();
                assert!(
                    wrong.message().contains("TEST_DIR/disk does not hold 0x33"),
                    "{wrong}"
                );
                image.info().json().await?.assert("format", t.format().name())?;
                if image.size().await? != 4 * MIB {
                    // Virtual PC rounds to cylinders.
                    assert_eq!(t.format(), VPC);
                }
            }));
            run.assert_passed();
        }
    }
}

/// An image that cannot even be opened holds none of the patterns.
#[test]
fn patterns_that_cannot_be_read_are_not_there() {
    for set in sets() {
        let run = Bench::new(&set).run(case!(|t| {
            let disk = t.image("disk").size(MIB).fill(1).create().await?;
            disk.assert_patterns(&[(1, 0..KIB), (1, KIB..MIB)]).await?;
            let wrong = disk.assert_patterns(&[(1, 0..KIB), (2, KIB..MIB)]).await;
            let wrong = wrong.unwrap_err();
            assert!(wrong.message().contains("0x02 in 1024..1048576"), "{wrong}");
            std::fs::write(disk.file(), "no longer qcow2")?;
            let wrong = disk.assert_patterns(&[(1, 0..KIB)]).await.unwrap_err();
            assert!(wrong.message().contains("not in qcow2 format"), "{wrong}");
            let wrong = disk.assert_pattern(1, 0..KIB).await.unwrap_err();
            assert!(wrong.message().contains("not in qcow2 format"), "{wrong}");
        }));
        run.assert_passed();
    }
}

/// What is made by default is seen in the files: keys that cost few iterations (QEMU's own default is
/// millions), and grains that can be zeroed, for which VMDK has a version of its own.
#[test]
fn the_default_options_of_luks_and_vmdk_and_those_of_the_run_reach_the_files() {
    let vmdk_version = |t: &Test, image: &Image| {
        let bytes = std::fs::read(image.file()).unwrap();
        assert_eq!((t.format(), &bytes[..4]), (VMDK, b"KDMV".as_slice()));
        u32::from_le_bytes(bytes[4..8].try_into().unwrap())
    };
    for set in sets() {
        let run = Bench::new(&set).format(LUKS).run(case!(|t| {
            let info = t.image("disk").size(MIB).create().await?.info().json().await?;
            let iterations = info.at("format-specific/data/slots[0]/iters")?.as_u64();
            assert!(iterations.is_some_and(|it| it < 100_000), "{info:#}");
        }));
        run.assert_passed();
        let mut bench = Bench::new(&set).format(VMDK);
        for (imgopts, version) in [("adapter_type=ide", 2), ("zeroed_grain=off", 1)] {
            bench.spec.imgopts = vec![imgopts.to_owned()];
            let run = bench.run(case!(|t| {
                let disk = t.image("disk").size(MIB).create().await?;
                assert_eq!(vmdk_version(t, &disk), version, "{imgopts}");
            }));
            run.assert_passed();
        }
    }
}

#[test]
fn the_contents_of_an_image_are_written_in_the_order_they_were_asked_for() {
    for set in sets() {
        let run = Bench::new(&set).format(RAW).run(case!(|t| {
            let disk = t.image("disk").size(MIB).fill(0x11).sector_markers();
            let disk = disk.write(0x22, 0..KIB).create().await?;
            let bytes = disk.bytes().await?;
            assert_eq!(bytes[..1024], [0x22; 1024]);
            assert_eq!(bytes[1024..1028], [0, 0, 0, 2]);
            assert_eq!(bytes[bytes.len() - 4..], [0, 0, 7, 0xff]);
        }));
        run.assert_passed();
    }
}

#[test]
fn a_chain_knows_its_layers_and_a_clone_keeps_the_file() {
    for set in sets() {
        let bench = Bench::new(&set);
        let run = bench.run(case!(|t| {
            let base = t.image("base").size(MIB).fill(0x11).create().await?;
            let top = t.image("top").backing(&base).write(0x22, 0..64 * KIB).create().await?;
            assert_eq!(top.size().await?, MIB);
            drop(base);
            top.assert_pattern(0x11, 64 * KIB..MIB).await?;
            top.info().json().await?.assert("backing-filename-format", "qcow2")?;
            let path = top.file().to_path_buf();
            drop(top);
            assert!(!path.exists());
            let again = t.image("top").format(RAW).size(MIB).sector_markers().create().await?;
            let bytes = std::fs::read(again.file())?;
            assert_eq!(bytes[512 * 7..512 * 7 + 4], [0, 0, 0, 7]);
            assert_eq!(bytes[512 * 8 - 4..512 * 8], [0, 0, 0, 7]);
            let twice = t.image("top").size(MIB).create().await.unwrap_err();
            assert!(twice.message().contains("names must differ"));
        }));
        run.assert_passed();
    }
}

#[test]
fn images_are_compared_by_content_and_the_difference_is_told() {
    for set in sets() {
        let run = Bench::new(&set).run(case!(|t| {
            let one = t.image("one").size(MIB).fill(1).create().await?;
            let two = t
                .image("two")
                .format(RAW)
                .size(MIB)
                .fill(1)
                .create()
                .await?;
            one.assert_same_as(&two).await?;
            two.write(2, 4096..8192).await?;
            assert!(!one.compare(&two).await?.is_same());
            let failure = one.assert_same_as(&two).await.unwrap_err();
            assert_eq!(
                failure.message(),
                "TEST_DIR/one and TEST_DIR/two differ from byte 0x1000 on, expected the same content"
            );
            let locked = t
                .image("locked")
                .size(MIB)
                .encrypted()
                .fill(1)
                .create()
                .await?;
            locked.assert_same_as(&one).await?;
        }));
        run.assert_passed();
    }
}

/// The options of the run go to images of its format only; those of the call win.
#[test]
fn options_of_the_run_apply_to_images_of_its_format_only() {
    for set in sets() {
        let mut bench = Bench::new(&set);
        bench.spec.imgopts = vec!["cluster_size=512,lazy_refcounts=on".to_owned()];
        let run = bench.run(case!(|t| {
            let image = t.image("a").size(MIB).create().await?;
            image.info().json().await?.assert("cluster-size", 512)?;
            let image = t.image("b").size(MIB).option("cluster_size", 1024).create().await?;
            let info = image.info().json().await?;
            info.assert("cluster-size", 1024)?;
            info.assert("format-specific/data/lazy-refcounts", true)?;
            t.image("c").format(RAW).size(MIB).create().await?;
        }));
        run.assert_passed();
    }
}

/// Directories with spaces, commas, quotes and the format's name work, for tools and machines.
#[test]
fn odd_directory_names_work() {
    for set in sets() {
        for backend in set.backends() {
            let bench = Bench::in_directory(&set, "a b,c\"d' qcow2 é%20").backend(backend);
            let run = bench.run(case!(|t| {
                let base = t.image("base").size(MIB).fill(1).create().await?;
                let top = t.image("top").backing(&base).create().await?;
                let vm = t.host().drive(&top).launch().await?;
                vm.assert_chain("top -> base").await?;
                vm.shutdown().await?;
                let server = t.nbd_server(&top).read_only().start().await?;
                let map =
                    t.qemu_img(["map", "-f", "raw", "--output=json", &server.uri()]).json().await?;
                map.assert("[0]/length", MIB)?;
                top.assert_same_as(&base).await?;
            }));
            run.assert_passed();
        }
    }
}

#[test]
fn a_directory_that_cannot_work_is_refused_with_the_reason() {
    for set in sets() {
        let mut bench = Bench::new(&set);
        bench.spec.test_dir = "relative".into();
        let run = bench.run(case!(|t| {
            t.image("a").size(MIB).create().await?;
        }));
        assert!(run.failure().message.contains("not absolute"));
    }
}

/// H31: sockets stay short, however deep the test directory.
#[test]
fn a_test_directory_300_bytes_deep_works_with_sockets() {
    for set in sets() {
        for backend in set.backends() {
            let deep = format!("{}/{}", "d".repeat(150), "e".repeat(150));
            let run = Bench::in_directory(&set, &deep).backend(backend).run(case!(|t| {
                let disk = t.image("disk").size(MIB).create().await?;
                let vm = t.host().drive(&disk).launch().await?;
                let nbd = vm.nbd_server().start().await?;
                assert!(nbd.socket().unwrap().as_str().len() <= 107);
                vm.shutdown().await?;
                let server = t.nbd_server(&disk).start().await?;
                assert!(server.uri().len() < 160);
            }));
            run.assert_passed();
        }
    }
}

#[test]
fn an_image_over_nbd_is_used_like_a_file() {
    let formats = [Format::Raw, QCOW2];
    let sets = sets();
    let points = sets.iter().flat_map(|set| formats.map(|format| (set, format)));
    for (set, format) in points {
        let mut bench = Bench::new(set).format(format);
        bench.spec.protocol = Protocol::Nbd;
        let run = bench.run(case!(|t| {
            let disk = t.image("disk").size(MIB).fill(5).create().await?;
            assert!(
                disk.filename().starts_with("nbd+unix:"),
                "{}",
                disk.filename()
            );
            disk.assert_fill(5).await?;
            disk.info().json().await?.assert("virtual-size", MIB)?;
            assert_eq!(json!(disk), json!(disk.filename()));
        }));
        run.assert_passed();
    }
}

#[test]
fn an_image_over_fuse_is_used_like_a_file() {
    for set in sets() {
        let mut bench = Bench::new(&set).format(QCOW2);
        bench.spec.protocol = Protocol::Fuse;
        let without = bench.run(case!(|t| {
            t.image("disk").size(MIB).create().await?;
        }));
        let Some(CaseEvent::Skipped { reason }) = without.events.last() else {
            panic!("expected a skip: {without:?}");
        };
        assert!(reason.to_string().starts_with("FUSE does not work here"));
        let mut device = std::fs::File::options();
        if !set.tools.contains_key(&ToolKind::StorageDaemon)
            || device.read(true).write(true).open("/dev/fuse").is_err()
        {
            println!("skipped: FUSE, there is no /dev/fuse or no storage daemon");
            continue;
        }
        let bench = bench.capabilities(|capabilities| {
            capabilities.features.insert(Feature::Fuse, Support::Yes);
        });
        let run = bench.run(case!(|t| {
            let base = t.image("base").size(MIB).fill(5).create().await?;
            assert!(base.filename().ends_with("/base.fuse"));
            let top = t.image("top").backing(&base).create().await?;
            top.assert_fill(5).await?;
            top.write(6, 0..KIB).await?;
            top.assert_clean().await?;
            base.assert_fill(5).await?;
        }));
        if let Some(CaseEvent::Failed(report)) = run.events.last()
            && report.message.to_lowercase().contains("mount")
        {
            println!("skipped: FUSE, mounting is forbidden: {}", report.message);
            continue;
        }
        run.assert_passed();
        // What begins with a dot is evidence, which the runner keeps or removes.
        let names = std::fs::read_dir(&bench.spec.test_dir).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let left: Vec<_> = names.filter(|name| !name.starts_with('.')).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// What is read here from a file is what qemu-img reads from it.
#[test]
fn a_layer_is_read_as_qemu_reads_it() {
    const OPTIONS: &[&[(&str, &str)]] = &[
        &[],
        &[("compat", "0.10"), ("cluster_size", "512")],
        &[("preallocation", "metadata")],
        &[("extended_l2", "on")],
        &[("data_file", "other"), ("data_file_raw", "off")],
    ];
    for set in sets() {
        for format in [QCOW2, QED, RAW] {
            let run = Bench::new(&set).format(format).run(case!(|t| {
                let base = t.image("base").size(MIB).fill(0x11).create().await?;
                for (number, options) in OPTIONS.iter().enumerate() {
                    let mut image = t.image(&format!("disk{number}")).size(MIB);
                    if format == QCOW2 {
                        for (name, value) in *options {
                            image = image.option(
                                name,
                                value.replace("other", &format!("{}-data", base.filename())),
                            );
                        }
                    }
                    if format != RAW && number == 0 {
                        image = image.backing(&base);
                    }
                    let image = image.create().await?;
                    let writes = [(0x22, 0..64 * KIB), (0x33, 96 * KIB..97 * KIB)];
                    image.write_all(&writes).await?;
                    image.io(["write -z 512k 64k", "discard 0 4k"]).await?;
                    let layer = image.own_layer().await?;
                    let copy = t.image(&format!("copy{number}")).format(RAW).size(MIB);
                    let copy = copy.reserve().await?;
                    image.convert(&copy).await?;
                    let all = copy.bytes().await?;
                    assert!(image.bytes().await? == all, "{options:?}");
                    let mut own = Content::nothing();
                    for range in &layer.present {
                        let mut at = range.start;
                        let part = &all[range.start as usize..range.end as usize];
                        for run in part.chunk_by(|a, b| a == b) {
                            let end = at + run.len() as u64;
                            (own, at) = (own.written(run[0], at..end), end);
                        }
                    }
                    image.assert_layer(own).await?;
                    let map = image.own_map().json().await?;
                    let present = |at: u64| layer.present.iter().any(|range| range.contains(&at));
                    for extent in map.as_array().into_iter().flatten() {
                        let number = |key: &str| extent[key].as_u64().unwrap();
                        for at in (number("start")..number("start") + number("length")).step_by(512)
                        {
                            assert_eq!(
                                present(at),
                                extent["present"] == true,
                                "{options:?} at {at}"
                            );
                        }
                    }
                    let (info, header) = (image.info().json().await?, image.header().await?);
                    for key in [
                        "virtual-size",
                        "backing-filename",
                        "backing-filename-format",
                    ] {
                        assert_eq!(header.get(key), info.get(key), "{options:?}");
                    }
                    let failure = image.assert_empty().await.unwrap_err();
                    assert!(failure.message().contains("has something at"), "{failure}");
                    if format != QCOW2 {
                        break;
                    }
                }
                t.image("empty").size(MIB).format(QCOW2).create().await?.assert_empty().await?;
            }));
            run.assert_passed();
        }
    }
}

#[test]
fn keys_that_are_made_here_open_images_in_qemu() {
    for set in sets() {
        for format in [QCOW2, LUKS] {
            let run = Bench::new(&set).format(format).run(case!(|t| {
                let keys = [(3, "another".to_owned()), (7, "the last".to_owned())];
                let image = t.image("disk").size(MIB).keys(&keys).fill(0x11).create().await?;
                image.assert_fill(0x11).await?;
                image.assert_clean().await?;
                let info = image.info().json().await?;
                let luks = match t.format() {
                    Format::Qcow2 => info.at("format-specific/data/encrypt")?,
                    _ => info.at("format-specific/data")?,
                };
                for slot in 0..8 {
                    luks.assert(&format!("slots[{slot}]/active"), [0, 3, 7].contains(&slot))?;
                }
                let open = |password: &str| {
                    t.qemu_io([
                        "--image-opts",
                        &image.image_opts(),
                        "-c",
                        "read -P 0x11 0 1M",
                    ])
                    .secret(KEY_ID, password)
                };
                open("another").await?;
                open("the last").await?;
                open("a wrong one")
                    .expect_error("Invalid password, cannot unlock any keyslot")
                    .await?;
            }));
            run.assert_passed();
        }
    }
}

/// Plain images, with which most cases begin, are made, read and checked here; for others, and for what
/// is found to be wrong, there is qemu-img.
#[test]
fn plain_images_take_no_process_of_a_tool() {
    const CLEAN: &str =
        r#"{"image-end-offset": 0, "check-errors": 0, "filename": "x", "format": "qcow2"}"#;
    for set in sets() {
        let mut bench = Bench::new(&set);
        let path = bench.spec.test_dir.join("qemu-img");
        // It has an opinion, and can do nothing.
        let text = format!("#!/bin/sh\ncase $1 in check) echo '{CLEAN}';; *) exit 1;; esac\n");
        crate::script::write(&path, &text);
        for (kind, path) in [(ToolKind::Img, path), (ToolKind::Io, "/bin/false".into())] {
            let tool = imgtools::tools::Tool::new(kind, path);
            bench.spec.tools.insert(kind, tool);
        }
        let run = bench.run(case!(|t| {
            let base = t.image("base").format(RAW).size(MIB).fill(5).create().await?;
            let top = t.image("top").backing(&base).write(6, 0..KIB);
            let top = top.content(&[(0, 2 * CLUSTER..3 * CLUSTER)]).create().await?;
            top.assert_backing(&base).await?;
            let content = Content::of(&[(5, 0..MIB), (6, 0..KIB), (0, 2 * CLUSTER..3 * CLUSTER)]);
            top.assert_reads(&content).await?;
            top.assert_clean().await?;

            // An overlay is as large as what is below it now, in whole sectors.
            let file = std::fs::File::options().write(true).open(base.file())?;
            file.set_len(2 * MIB + 1)?;
            let over = t.image("over").backing(&base).create().await?;
            check!(over.size().await? == 2 * MIB + 512);
            let above = t.image("above").backing(&over).create().await?;
            check!(above.size().await? == 2 * MIB + 512);

            // The first cluster, used twice by its refcount.
            let counts = qcow2::Image::open(top.file())?.refcount_position(0)?;
            qcow2::poke(top.file(), counts.unwrap().0, &[0, 2])?;
            let problem = top.assert_clean().await.unwrap_err();
            let expected = "TEST_DIR/top is not clean, though qemu-img says so: \
                            the cluster at 0x0 has the refcount 2 and is used 1 times";
            assert_eq!(problem.message(), expected);

            let old = t.image("old").size(MIB).option("compat", "0.10");
            assert!(old.create().await.unwrap_err().message().contains("create"));
            let long = t.image("long").size(MIB).write(1, 0..2 * MIB);
            assert!(long.create().await.is_err());
        }));
        run.assert_passed();
    }
}
