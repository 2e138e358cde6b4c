//! The qcow2 reader against what QEMU writes and says, and against damage.

use std::cell::Cell;
use std::io::Read;

use imgtools::image::ImageSpec;
use imgtools::img::{BitmapAction, FormatSpecific};
use imgtools::io::IoCommand;
use imgtools::qcow2::{
    Builder, Contents, Extension, Image, Mapping, Qcow2Error, field, peek, poke,
};
use imgtools::raw;
use proptest::prelude::*;

use crate::support::{Folder, Tools, all_tools};

const MIB: u64 = 1 << 20;

fn create(tools: &Tools, folder: &Folder, name: &str, options: &str) -> (String, ImageSpec) {
    let path = folder.path(name);
    let create = tools.img.create(&path).format("qcow2").options(options);
    create.size(MIB).run_blocking().unwrap();
    (path.clone(), ImageSpec::file(path).format("qcow2"))
}

const VARIANTS: [&str; 8] = [
    "",
    "compat=0.10",
    "cluster_size=512",
    "cluster_size=2M",
    "refcount_bits=1",
    "refcount_bits=4,cluster_size=4k",
    "refcount_bits=64",
    "extended_l2=on",
];

/// A size, and where there are data and zeroes; all in pieces of 64 KiB.
type Pieces = (u64, &'static [u64], &'static [u64]);

#[test]
fn a_chain_is_read_as_qemu_reads_it() {
    const CHAINS: &[&[Pieces]] = &[
        &[(16, &[1, 2, 15], &[3])],
        &[(16, &[0, 2, 3, 15], &[4]), (16, &[3], &[2, 5])],
        &[(4, &[0, 3], &[]), (16, &[1], &[]), (16, &[], &[3])],
        &[(16, &[0, 3, 15], &[]), (4, &[1], &[]), (16, &[], &[0])],
        &[
            (16, &[9], &[]),
            (8, &[], &[]),
            (4, &[], &[]),
            (16, &[], &[]),
        ],
    ];
    const PIECE: u64 = 64 << 10;
    for tools in all_tools() {
        for (chain, bottom) in CHAINS
            .iter()
            .flat_map(|chain| [(chain, "raw"), (chain, "qcow2")])
            .filter(|(chain, bottom)| chain.len() > 1 || *bottom == "qcow2")
        {
            let folder = Folder::new();
            let mut below: Option<&str> = None;
            let names = ["a", "b", "c", "d"];
            for (number, ((pieces, writes, zeroes), name)) in chain.iter().zip(names).enumerate() {
                let format = if number == 0 { bottom } else { "qcow2" };
                let mut create = tools.img.create(folder.path(name)).format(format);
                if let Some(below) = below.replace(name) {
                    // A relative name is one beside the image.
                    create = create.backing(below, if number == 1 { bottom } else { "qcow2" });
                }
                create.size(pieces * PIECE).run_blocking().unwrap();
                let byte = number as u8 + 1;
                let write = |at: &u64| IoCommand::write(at * PIECE, PIECE).pattern(byte);
                let zero = |at: &u64| IoCommand::write_zeroes(at * PIECE, PIECE);
                let commands = writes.iter().map(write).chain(zeroes.iter().map(zero));
                let image = ImageSpec::file(folder.path(name)).format(format);
                let io = tools.io.open(&image).commands(commands.collect::<Vec<_>>());
                io.run_blocking().unwrap();
            }
            let top = folder.path(names[chain.len() - 1]);
            let (image, raw) = (ImageSpec::file(&top).format("qcow2"), folder.path("raw"));
            let convert = tools.img.convert(&image, &raw).output_format("raw");
            convert.run_blocking().unwrap();
            let mut contents = Image::open(&top).unwrap().contents().unwrap().unwrap();
            let expected = std::fs::read(&raw).unwrap();
            assert!(
                contents.to_vec().unwrap() == expected,
                "{chain:?} on {bottom}"
            );
            // Across the borders of clusters and of layers, to the end, and behind it.
            let mut piece = [0; 100_003];
            for part in expected.chunks(piece.len()) {
                contents.read_exact(&mut piece[..part.len()]).unwrap();
                assert!(piece[..part.len()] == *part, "{chain:?} on {bottom}");
            }
            assert_eq!(contents.read(&mut piece).unwrap(), 0);
            let end = contents.size();
            assert_eq!(contents.read_at(&mut piece, end - 5).unwrap(), 5);
            assert_eq!(piece[..5], expected[expected.len() - 5..]);
            assert_eq!(contents.read_at(&mut piece, end + 5).unwrap(), 0);
        }
    }
}

/// The bytes of contents, if they are read here.
fn bytes(contents: Result<Option<Contents>, Qcow2Error>) -> Result<Option<Vec<u8>>, Qcow2Error> {
    contents?.map(|contents| contents.to_vec()).transpose()
}

#[test]
fn a_chain_that_is_not_read_here_is_none() {
    let tools = &all_tools()[0];
    let folder = Folder::new();
    let overlay = |name: &str, backing: &str, format: &str| {
        let path = folder.path(name);
        let create = tools.img.create(&path).format("qcow2").unsafe_backing();
        create.backing(backing, format).size(MIB).run_blocking().unwrap();
        bytes(Image::open(path).unwrap().contents())
    };
    assert_eq!(overlay("own", "own", "qcow2").unwrap(), None, "a loop");
    let json = r#"json:{"driver":"null-co"}"#;
    assert_eq!(overlay("json", json, "raw").unwrap(), None);
    assert_eq!(overlay("nbd", "nbd:localhost:1", "raw").unwrap(), None);
    assert_eq!(overlay("vdi", "own", "vdi").unwrap(), None);
    let gone = overlay("gone", "nothing", "raw").unwrap_err().to_string();
    assert!(
        gone.contains("failed to open") && gone.contains("/nothing"),
        "{gone}"
    );
    std::fs::File::create(folder.path("large")).unwrap().set_len(1 << 40).unwrap();
    let visible = overlay("on-large", "large", "raw").unwrap();
    assert!(visible == Some(vec![0; MIB as usize]), "no more than that");
}

#[test]
fn the_mapping_of_every_cluster_is_the_one_that_qemu_reports() {
    for tools in all_tools() {
        for options in VARIANTS {
            let folder = Folder::new();
            let (path, image) = create(&tools, &folder, "x", options);
            let writes = [
                IoCommand::write(0, 4096).pattern(1),
                IoCommand::write(256 * 1024, 65536).pattern(2),
                IoCommand::write(MIB - 65536, 65536).pattern(3),
            ];
            tools.io.open(&image).commands(&writes).run_blocking().unwrap();
            let opened = Image::open(&path).unwrap();
            let cluster = opened.header().cluster_size();
            for extent in tools.img.map(&image).run_blocking().unwrap() {
                let Some(offset) = extent.offset else {
                    continue;
                };
                for guest in (extent.start..extent.end()).filter(|at| at % cluster == 0) {
                    let host = offset + (guest - extent.start);
                    let found = opened.lookup(guest).unwrap();
                    assert_eq!(
                        found,
                        Mapping::Data { host, copied: true },
                        "{options}: {guest}"
                    );
                    assert_eq!(opened.refcount(host).unwrap(), 1, "{options}: {guest}");
                }
            }
            // Everything that it reports exists.
            let Mapping::Data { host, .. } = opened.lookup(0).unwrap() else {
                panic!("{options}")
            };
            raw::verify_fill(&path, host..host + 4096.min(cluster), 1).unwrap();
            // In a clean image each cluster of the file is used once or, at its end, not at all.
            let refcounts = opened.refcounts().unwrap();
            for (index, count) in refcounts.iter().enumerate() {
                let host = index as u64 * cluster;
                assert_eq!(opened.refcount(host).unwrap(), *count, "{options}: {host}");
            }
            assert!(
                refcounts.iter().all(|count| *count <= 1),
                "{options}: {refcounts:?}"
            );
            assert!(
                refcounts.iter().filter(|count| **count == 1).count() >= 4,
                "{options}"
            );
        }
    }
}

#[test]
fn the_header_is_the_one_that_info_tells_of() {
    for tools in all_tools() {
        for options in VARIANTS {
            let folder = Folder::new();
            let (path, image) = create(&tools, &folder, "x", options);
            let info = tools.img.info(&image).run_blocking().unwrap();
            let Some(FormatSpecific::Qcow2(specific)) = &info.format_specific else {
                panic!()
            };
            let opened = Image::open(&path).unwrap();
            let header = opened.header();
            assert_eq!(header.size, info.virtual_size);
            assert_eq!(Some(header.cluster_size()), info.cluster_size);
            assert_eq!(1 << header.refcount_order, specific.refcount_bits);
            assert_eq!(
                header.version,
                if specific.compat == "0.10" { 2 } else { 3 }
            );
            assert_eq!(
                Some(header.has_extended_l2()),
                specific.extended_l2.or(Some(false))
            );
            assert!(!header.is_dirty() && !header.is_corrupt());
            assert_eq!(opened.backing_file().unwrap(), None);
        }
        let folder = Folder::new();
        let path = folder.path("x");
        let create = tools.img.create(&path).format("qcow2").option("compression_type", "zstd");
        create.backing("a,b", "raw").unsafe_backing().size(MIB).run_blocking().unwrap();
        let opened = Image::open(&path).unwrap();
        assert_eq!(opened.header().compression_type, 1);
        assert_eq!(opened.backing_file().unwrap().as_deref(), Some("a,b"));
        let extensions = opened.extensions().unwrap();
        let format = extensions.iter().find(|found| found.kind == Extension::BACKING_FORMAT);
        assert_eq!(format.unwrap().data, b"raw");
        assert!(extensions.iter().any(|found| found.kind == Extension::FEATURE_NAMES));
    }
}

#[test]
fn bitmaps_and_snapshots_are_read() {
    for tools in all_tools() {
        let folder = Folder::new();
        let (path, image) = create(&tools, &folder, "x", "");
        for (name, granularity) in [("first", 512), ("second", 65536)] {
            let bitmap = tools.img.bitmap(&image, name).granularity(granularity);
            bitmap.action(BitmapAction::Add).run_blocking().unwrap();
        }
        let disable = tools.img.bitmap(&image, "second").action(BitmapAction::Disable);
        disable.run_blocking().unwrap();
        tools.io.open(&image).command("write 0 4k").run_blocking().unwrap();
        tools.img.snapshot_create(&image, "a snapshot").run_blocking().unwrap();

        let opened = Image::open(&path).unwrap();
        let bitmaps = opened.bitmaps().unwrap();
        let found: Vec<_> = bitmaps
            .iter()
            .map(|bitmap| {
                (
                    &*bitmap.name,
                    bitmap.granularity_bits,
                    bitmap.is_auto(),
                    bitmap.is_in_use(),
                )
            })
            .collect();
        assert_eq!(
            found,
            [("first", 9, true, false), ("second", 16, false, false)]
        );
        let table = opened.bitmap_table(&bitmaps[0]).unwrap();
        let bits = table[0].offset().expect("the write was recorded");
        assert_eq!(
            peek(&path, bits, 2).unwrap(),
            [0xff, 0],
            "8 sectors of 512 bytes"
        );
        assert!(!table[0].is_all_ones());

        let snapshots = opened.snapshots().unwrap();
        let listed = tools.img.snapshots(&image).run_blocking().unwrap();
        assert_eq!((snapshots.len(), listed.len()), (1, 1));
        assert_eq!(
            (&snapshots[0].name, &snapshots[0].id),
            (&listed[0].name, &listed[0].id)
        );
        assert_eq!(i64::from(snapshots[0].date_sec), listed[0].date_sec);
        assert_eq!(
            (snapshots[0].disk_size, snapshots[0].vm_state_size),
            (Some(MIB), 0)
        );
        // What a snapshot shares is used twice.
        let Mapping::Data {
            host,
            copied: false,
        } = opened.lookup(0).unwrap()
        else {
            panic!()
        };
        assert_eq!(opened.refcount(host).unwrap(), 2);
    }
}

#[test]
fn zeroes_and_compressed_clusters_are_told_apart() {
    for tools in all_tools() {
        let folder = Folder::new();
        let (path, image) = create(&tools, &folder, "x", "");
        let write = [
            "write -c -P 1 0 64k",
            "write -z 64k 64k",
            "write -P 1 128k 64k",
            "write -z 128k 64k",
        ];
        tools.io.open(&image).commands(write).run_blocking().unwrap();
        let opened = Image::open(&path).unwrap();
        let Mapping::Compressed { host, sectors } = opened.lookup(0).unwrap() else {
            panic!()
        };
        assert!(host > 0 && sectors >= 1);
        assert_eq!(opened.lookup(65536).unwrap(), Mapping::Zero { host: None });
        assert!(matches!(
            opened.lookup(131072).unwrap(),
            Mapping::Zero { host: Some(_) } | Mapping::Zero { host: None }
        ));
        assert_eq!(opened.lookup(196608).unwrap(), Mapping::Unallocated);
        assert_eq!(opened.lookup(1 << 60).unwrap(), Mapping::Unallocated);
    }
}

#[test]
fn data_in_a_data_file_may_be_at_its_very_beginning() {
    for tools in all_tools() {
        let folder = Folder::new();
        let data = folder.path("data");
        let options = format!("data_file={data},data_file_raw=on");
        let (path, image) = create(&tools, &folder, "x", &options);
        let write = IoCommand::write(0, 128 * 1024).pattern(7);
        let open = tools.io.open(&image).command(write);
        open.run_blocking().unwrap();
        let opened = Image::open(&path).unwrap();
        assert!(opened.header().has_data_file());
        for guest in [0, 65536] {
            let expected = Mapping::Data {
                host: guest,
                copied: true,
            };
            assert_eq!(opened.lookup(guest).unwrap(), expected);
            raw::verify_fill(&data, guest..guest + 65536, 7).unwrap();
        }
    }
}

#[test]
fn what_is_said_in_a_huge_sparse_file_is_not_believed_either() {
    let Some(tools) = all_tools().pop() else {
        return;
    };
    let folder = Folder::new();
    let (path, image) = create(&tools, &folder, "x", "");
    let bitmap = tools.img.bitmap(&image, "b").action(BitmapAction::Add);
    bitmap.run_blocking().unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 42).unwrap();
    let hole = 1u64 << 30;
    let extensions = Image::open(&path).unwrap().extensions().unwrap();
    let bitmaps = extensions.iter().find(|extension| extension.kind == Extension::BITMAPS).unwrap();
    for (offset, bytes) in [
        (field::L1_SIZE, &[0xff; 4][..]),
        (field::REFCOUNT_TABLE_CLUSTERS, &[0, 0xff, 0xff, 0xff]),
        (field::NB_SNAPSHOTS, &[0xff; 4]),
        (field::SNAPSHOTS_OFFSET, &hole.to_be_bytes()),
        (bitmaps.offset, &[0xff; 4]),
        (bitmaps.offset + 8, &(1u64 << 40).to_be_bytes()),
    ] {
        poke(&path, offset, bytes).unwrap();
    }
    let opened = Image::open(&path).unwrap();
    let too_large = |error| matches!(error, Qcow2Error::TooLarge { .. });
    assert!(too_large(opened.l1_table().unwrap_err()));
    assert!(too_large(opened.refcount_table().unwrap_err()));
    let text = opened.snapshots().unwrap_err().to_string();
    assert!(text.ends_with("it has 4294967295 snapshots"), "{text}");
    let text = opened.bitmaps().unwrap_err().to_string();
    assert!(text.ends_with("it has 4294967295 bitmaps"), "{text}");
    // As many as may be, but each with the longest name.
    poke(&path, field::NB_SNAPSHOTS, &65536u32.to_be_bytes()).unwrap();
    for index in 0..1100 {
        let entry = hole + index * (40 + 0xffff + 1);
        poke(&path, entry + 14, &[0xff; 2]).unwrap();
    }
    let text = Image::open(&path).unwrap().snapshots().unwrap_err().to_string();
    assert!(text.ends_with("its snapshot table is too large"), "{text}");
    // Its directory is larger than any.
    poke(&path, bitmaps.offset, &1u32.to_be_bytes()).unwrap();
    assert!(too_large(opened.bitmaps().unwrap_err()));
}

#[test]
fn a_poked_feature_bit_is_what_qemu_then_sees() {
    for tools in all_tools() {
        let folder = Folder::new();
        let (path, image) = create(&tools, &folder, "x", "");
        poke(&path, field::INCOMPATIBLE_FEATURES, &2u64.to_be_bytes()).unwrap();
        assert!(Image::open(&path).unwrap().header().is_corrupt());
        let info = tools.img.info(&image).run_blocking().unwrap();
        let Some(FormatSpecific::Qcow2(specific)) = info.format_specific else {
            panic!()
        };
        assert_eq!(specific.corrupt, Some(true));
    }
}

#[test]
fn an_image_with_features_that_nobody_knows_is_refused_unless_that_is_wanted() {
    for tools in all_tools() {
        let folder = Folder::new();
        let (path, _) = create(&tools, &folder, "image", "");
        for (bits, expected) in [
            (1u64 << 40, "unknown incompatible features: bit 40"),
            (1 << 40 | 1 << 63, "bit 40, bit 63"),
        ] {
            poke(&path, field::INCOMPATIBLE_FEATURES, &bits.to_be_bytes()).unwrap();
            let error = Image::open(&path).unwrap_err();
            assert!(
                matches!(error, Qcow2Error::UnknownFeatures { bits: found, .. } if found == bits)
            );
            assert!(error.to_string().ends_with(expected), "{error}");
            let image = Image::open_with_any_features(&path).unwrap();
            assert_eq!(image.header().incompatible_features, bits);
        }
        // The image can name its features.
        let image = Image::open_with_any_features(&path).unwrap();
        let names = image.extensions().unwrap();
        let names = names.iter().find(|names| names.kind == Extension::FEATURE_NAMES);
        poke(&path, names.unwrap().offset, b"\0\x28shiny\0").unwrap();
        poke(
            &path,
            field::INCOMPATIBLE_FEATURES,
            &(1u64 << 40).to_be_bytes(),
        )
        .unwrap();
        let error = Image::open(&path).unwrap_err().to_string();
        assert!(error.ends_with("bit 40 (shiny)"), "{error}");
        poke(
            &path,
            field::INCOMPATIBLE_FEATURES,
            &0b1_1011u64.to_be_bytes(),
        )
        .unwrap();
        Image::open(&path).unwrap();
    }
}

#[test]
fn what_is_no_image_is_an_error() {
    let folder = Folder::new();
    let path = folder.path("x");
    std::fs::write(&path, "no image").unwrap();
    let error = Image::open(&path).unwrap_err();
    assert!(
        error.to_string().ends_with("as a qcow2 image: it does not have the magic of one"),
        "{error}"
    );
    assert!(matches!(
        Image::open(folder.path("y")),
        Err(Qcow2Error::Io { .. })
    ));
    assert!(matches!(
        peek(&path, 4, 5),
        Err(Qcow2Error::OutOfFile { .. })
    ));
    assert!(matches!(
        peek(&path, u64::MAX, 2),
        Err(Qcow2Error::OutOfFile { .. })
    ));
}

/// Reads everything, ignoring errors.
fn read_all(path: &str) {
    let Ok(image) = Image::open(path) else { return };
    let _ = (
        image.backing_file(),
        image.extensions(),
        image.l1_table(),
        image.refcount_table(),
    );
    let _ = (
        image.snapshots(),
        image.lookup(0),
        image.lookup(u64::MAX),
        image.refcount(u64::MAX),
    );
    let _ = (
        image.l2_table(0),
        image.l2_table(usize::MAX),
        image.l2_entry(MIB / 2),
    );
    let _ = (
        image.refcounts(),
        bytes(image.layer()),
        bytes(image.contents()),
    );
    for bitmap in image.bitmaps().unwrap_or_default() {
        let _ = image.bitmap_table(&bitmap);
    }
}

#[test]
fn no_damage_makes_the_reader_crash() {
    let Some(tools) = all_tools().pop() else {
        return;
    };
    let folder = Folder::new();
    let (path, image) = create(&tools, &folder, "x", "cluster_size=4k");
    let bitmap = tools.img.bitmap(&image, "b").action(BitmapAction::Add);
    bitmap.run_blocking().unwrap();
    tools.img.snapshot_create(&image, "s").run_blocking().unwrap();
    let good = std::fs::read(&path).unwrap();
    let bad = folder.path("bad");
    let opened = Image::open(&path).unwrap();
    // Where metadata is: the header, and the tables that it names.
    let header = opened.header();
    let places = [
        0,
        header.l1_table_offset,
        header.refcount_table_offset,
        header.snapshots_offset,
        opened.bitmaps().unwrap()[0].entry_offset,
    ];
    let damage = prop::collection::vec(
        (
            prop::sample::select(places.to_vec()),
            0u64..160,
            any::<u64>(),
        ),
        1..4,
    );
    proptest!(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) }, |(
        damage in damage, cut in 0usize..40_000, cut_it in any::<bool>(),
    )| {
        let mut data = good.clone();
        for (place, offset, value) in damage {
            let at = (place + offset) as usize;
            if let Some(bytes) = data.get_mut(at..at + 8) {
                bytes.copy_from_slice(&value.to_be_bytes());
            }
        }
        if cut_it {
            data.truncate(cut);
        }
        std::fs::write(&bad, &data).unwrap();
        read_all(&bad);
    });
}

/// A size in sectors, and writes: from and to in sectors, and the byte.
type Plan = (u64, Vec<(u64, u64, u8)>);

fn plan() -> impl Strategy<Value = Plan> {
    // Some are at the border of a cluster, most are not.
    let end = prop_oneof![(0..10_u64).prop_map(|cluster| cluster * 128), 0..1280_u64];
    let write = (end.clone(), end, prop_oneof![Just(0), 1..=255_u8]);
    let size = prop_oneof![1 => Just(0), 9 => 1..1280_u64];
    (size, proptest::collection::vec(write, 0..6))
}

/// The writes of a plan, in bytes.
fn writes((sectors, writes): &Plan) -> Vec<(std::ops::Range<u64>, u8)> {
    let sorted = |a: u64, b: u64| (a.min(b).min(*sectors), a.max(b).min(*sectors));
    let writes = writes.iter().map(|(a, b, byte)| {
        let (start, end) = sorted(*a, *b);
        (start * 512..end * 512, *byte)
    });
    writes.filter(|(range, _)| !range.is_empty()).collect()
}

/// QEMU accepts a chain created here as its own: the same data in the same clusters, consistent,
/// and still so after QEMU has written to it.
#[test]
fn what_is_made_here_is_as_if_qemu_had_made_it() {
    let all = all_tools();
    let one_of = 0..all.len().max(1);
    let chain = (
        one_of,
        prop_oneof![Just("raw"), Just("qcow2")],
        plan(),
        plan(),
    );
    proptest!(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) }, |(
        (number, bottom, base, top) in chain
    )| {
        let Some(tools) = all.get(number) else { return Ok(()) };
        let folder = Folder::new();
        let build = |name: &str, plan: &Plan, backing: bool| {
            let mut image = Builder::new(plan.0 * 512);
            if backing {
                image = image.backing("base", bottom);
            }
            let filled = writes(plan).into_iter().fold(image, |image, (range, byte)| image.fill(range, byte));
            filled.create(folder.path(name)).unwrap();
        };
        let qemu_writes = |name: &str, format: &str, plan: &Plan| {
            let command = |(range, byte): (std::ops::Range<u64>, u8)| match byte {
                0 => IoCommand::write_zeroes(range.start, range.end - range.start),
                byte => IoCommand::write(range.start, range.end - range.start).pattern(byte),
            };
            let commands: Vec<_> = writes(plan).into_iter().map(command).collect();
            if !commands.is_empty() {
                let image = ImageSpec::file(folder.path(name)).format(format);
                tools.io.open(&image).commands(commands).run_blocking().unwrap();
            }
        };
        let qemu_makes = |name: &str, format: &str, plan: &Plan, backing: bool| {
            let mut create = tools.img.create(folder.path(name)).format(format);
            if backing {
                create = create.backing("base", bottom);
            }
            create.size(plan.0 * 512).run_blocking().unwrap();
            qemu_writes(name, format, plan);
        };
        let spec = |name: &str| ImageSpec::file(folder.path(name)).format("qcow2");
        let is_clean = |name: &str| {
            let check = tools.img.check(spec(name)).run_blocking().unwrap();
            check.clean().unwrap();
        };
        match bottom {
            "qcow2" => {
                build("base", &base, false);
                is_clean("base");
            }
            raw => qemu_makes("base", raw, &base, false),
        }
        build("ours", &top, true);
        qemu_makes("theirs", "qcow2", &top, true);
        is_clean("ours");
        // Where QEMU sees that a cluster it writes zeroes into has nothing else, it writes none.
        let present = |name: &str| {
            let layer = Image::open(folder.path(name)).unwrap().layer();
            layer.unwrap().unwrap().present()
        };
        prop_assert_eq!(present("ours"), present("theirs"));
        prop_assert!(present("ours").last().is_none_or(|last| last.end <= top.0 * 512));
        let contents = |name: &str| bytes(Image::open(folder.path(name)).unwrap().contents()).unwrap();
        let raw = folder.path("raw");
        tools.img.convert(spec("ours"), &raw).output_format("raw").run_blocking().unwrap();
        let expected = Some(std::fs::read(&raw).unwrap());
        prop_assert!(contents("ours") == expected && contents("theirs") == expected);
        // QEMU continues with it: data in unallocated or unshared clusters.
        qemu_writes("ours", "qcow2", &(top.0, vec![(0, 3, 7), (300, 900, 9)]));
        is_clean("ours");
    });
}

#[test]
fn an_image_that_cannot_be_made_here_is_refused_and_nothing_is_there() {
    let folder = Folder::new();
    let path = folder.path("image");
    let long = "x".repeat(1024);
    for (image, why) in [
        (Builder::new(513), "multiple of 512"),
        (Builder::new(1 << 62), "too large"),
        (Builder::new(MIB).fill(0..MIB + 512, 1), "behind its end"),
        (Builder::new(1 << 40).fill(0..1 << 30, 0), "256 MiB"),
        (
            Builder::new(MIB).backing(long, "raw"),
            "name of the backing",
        ),
    ] {
        let error = image.create(&path).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert!(!std::fs::exists(&path).unwrap());
    }
    // What it has to have of this one is not known here.
    let image = Builder::new(MIB).backing("nbd:base", "raw").fill(0..512, 1);
    let error = image.create(&path).unwrap_err();
    assert!(error.to_string().contains("not read here"), "{error}");
    // That of this one is not needed.
    let image = Builder::new(MIB).backing("nbd:base", "raw").fill(0..MIB, 1);
    image.create(&path).unwrap();
}

/// Where one refcount block is not enough, and one cluster for the L1 table.
#[test]
fn tables_that_take_more_than_one_cluster_are_consistent() {
    for tools in all_tools() {
        let folder = Folder::new();
        let path = folder.path("image");
        let far = (8 << 40) - 512;
        let image = Builder::new(8 << 40).fill(far..far + 512, 1).fill(0..MIB, 2);
        image.create(&path).unwrap();
        let image = ImageSpec::file(&path).format("qcow2");
        let check = tools.img.check(&image).run_blocking().unwrap();
        check.clean().unwrap();
        let io = tools.io.open(&image);
        let read = IoCommand::read(far, 512).pattern(1);
        io.commands([read]).run_blocking().unwrap();
    }
}

/// Damage anywhere in the tables of an image is found where qemu-img finds it, and nowhere else.
#[test]
fn what_is_wrong_with_the_tables_is_what_qemu_finds() {
    let all = all_tools();
    let one_of = 0..all.len().max(1);
    // The refcounts, the L1 table, the L2 table.
    let place = prop_oneof![
        (1..4_u64, 0..8_u64, Just(0)).prop_map(|(cluster, byte, _)| (cluster << 16) + byte),
        (0..10_u64).prop_map(|count| (2 << 16) + count * 2 + 1),
        (0..128_u64).prop_map(|byte| (4 << 16) + byte),
    ];
    let byte = prop_oneof![Just(0), Just(1), Just(2), 0..=255_u8];
    let found = [const { Cell::new(0) }; 3];
    let count = |kind: usize| found[kind].set(found[kind].get() + 1);
    proptest!(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(150) }, |(
        number in one_of, place in place, byte in byte
    )| {
        let Some(tools) = all.get(number) else { return Ok(()) };
        let folder = Folder::new();
        let path = folder.path("image");
        let image = Builder::new(MIB).fill(0..1024, 1).fill(64 << 10..128 << 10, 0).fill(MIB / 2..MIB - 512, 2);
        image.create(&path).unwrap();
        poke(&path, place, &[byte]).unwrap();
        let ours = Image::open(&path).and_then(|image| image.problems());
        let check = tools.img.check(ImageSpec::file(&path).format("qcow2"));
        let theirs = check.run_blocking().is_ok_and(|it| it.clean().is_ok());
        count(usize::from(theirs));
        match ours {
            Ok(Some(problems)) => prop_assert_eq!(problems.is_empty(), theirs, "{:?}", problems),
            // Not checked here, or not readable.
            Ok(None) | Err(_) => count(2),
        }
    });
    if !all.is_empty() {
        let [bad, good, unseen] = found.map(Cell::into_inner);
        assert!(bad > 30 && good > 5 && unseen < 60, "{bad} {good} {unseen}");
    }
}
