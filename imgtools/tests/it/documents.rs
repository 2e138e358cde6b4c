//! What the real tools print as JSON, for every format: kept documents, and fresh ones.
//!
//! The documents under `tests/data` were made by this module:
//!
//! ```text
//! cargo test -p qemu-imgtools --test it -- --ignored documents::make_documents
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use imgtools::image::{ImageSpec, Secret};
use imgtools::img::{
    BitmapAction, CheckReport, FormatSpecific, ImageInfo, MapExtent, MeasureReport, Other, Repair,
};
use imgtools::qcow2;
use imgtools::tools::{Tool, ToolKind};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::support::{Folder, Tools, all_tools, create_luks};

const MIB: u64 = 1 << 20;

/// The formats of which every version here can make images.
const FORMATS: [&str; 9] = [
    "raw",
    "qcow2",
    "qed",
    "vmdk",
    "vdi",
    "vhdx",
    "vpc",
    "parallels",
    "luks",
];

/// LUKS images are slow to make: QEMU measures for seconds how fast it can derive keys. One of each
/// kind is enough for all versions.
struct LuksImages {
    folder: Folder,
    secret: Secret,
    /// Held while they are used: QEMU locks an image that it writes to.
    turn: Mutex<()>,
}

impl LuksImages {
    fn turn(&self) -> MutexGuard<'_, ()> {
        // A failed test has not damaged the images.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn luks_images(tools: &Tools) -> &'static LuksImages {
    static IMAGES: OnceLock<LuksImages> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let (folder, secret) = (Folder::new(), Secret::new("sec0", "pass-phrase").unwrap());
        let create = tools.img.create(folder.path("luks")).format("luks").secret(&secret);
        create_luks(&create.size(MIB));
        let create = tools.img.create(folder.path("encrypted")).format("qcow2").encrypt(&secret);
        create_luks(&create.size(MIB));
        LuksImages {
            folder,
            secret,
            turn: Mutex::new(()),
        }
    })
}

/// Documents by name, `what-of.json`.
type Documents = BTreeMap<String, String>;

struct Maker<'t> {
    tools: &'t Tools,
    folder: Folder,
    documents: Documents,
}

impl Maker<'_> {
    fn keep(&mut self, name: &str, text: &str) {
        let text = text
            .replace(self.folder.dir().to_str().unwrap(), "TEST_DIR")
            .replace(
                luks_images(self.tools).folder.dir().to_str().unwrap(),
                "TEST_DIR",
            )
            .replace(
                luks_images(self.tools).secret.path().to_str().unwrap(),
                "SECRET_FILE",
            );
        let before = self.documents.insert(format!("{name}.json"), text);
        assert!(before.is_none(), "two documents have the name {name}");
    }

    fn info(&mut self, name: &str, image: &ImageSpec) {
        let output = self.tools.img.info(image).output_blocking().unwrap().check().unwrap();
        self.keep(&format!("info-{name}"), &output.stdout_text());
    }

    fn check(&mut self, name: &str, image: &ImageSpec, repair: Option<Repair>) {
        let check = self.tools.img.check(image);
        let check = match repair {
            Some(what) => check.repair(what),
            None => check,
        };
        let output = check.output_blocking().unwrap();
        if output.status.code() != Some(63) {
            self.keep(&format!("check-{name}"), &output.stdout_text());
        }
    }

    fn map(&mut self, name: &str, image: &ImageSpec) {
        let output = self.tools.img.map(image).output_blocking().unwrap().check().unwrap();
        self.keep(&format!("map-{name}"), &output.stdout_text());
    }

    fn measure(&mut self, name: &str, image: &ImageSpec) {
        let measure = self.tools.img.measure(image).output_format("qcow2");
        let output = measure.output_blocking().unwrap().check().unwrap();
        self.keep(&format!("measure-{name}"), &output.stdout_text());
    }

    fn all(&mut self, name: &str, image: &ImageSpec) {
        self.info(name, image);
        self.check(name, image, None);
        self.map(name, image);
        self.measure(name, image);
    }

    fn create(&self, name: &str, format: &str, options: &str) -> ImageSpec {
        let path = self.folder.path(name);
        let create = self.tools.img.create(&path).format(format).options(options);
        create.size(MIB).run_blocking().unwrap();
        ImageSpec::file(path).format(format)
    }

    fn write(&self, image: &ImageSpec, command: &str) {
        self.tools.io.open(image).command(command).run_blocking().unwrap();
    }

    /// Something of every format.
    fn formats(&mut self) {
        for format in FORMATS {
            let image = match format {
                "luks" => {
                    let images = luks_images(self.tools);
                    ImageSpec::luks(images.folder.path("luks"), &images.secret)
                }
                _ => self.create(format, format, ""),
            };
            self.write(&image, "write -P 1 64k 128k");
            self.all(format, &image);
        }
    }

    /// Everything that qcow2 has.
    fn qcow2(&mut self) {
        for (name, options) in [
            ("old", "compat=0.10"),
            ("lazy", "lazy_refcounts=on"),
            ("zstd", "compression_type=zstd"),
            ("extended", "extended_l2=on"),
            ("narrow", "refcount_bits=1,cluster_size=512"),
            ("preallocated", "preallocation=metadata"),
        ] {
            let image = self.create(name, "qcow2", options);
            self.write(&image, "write -P 1 0 4k");
            self.all(&format!("qcow2-{name}"), &image);
        }
        let data_file = format!("data_file={},data_file_raw=on", self.folder.path("data"));
        let image = self.create("with-data-file", "qcow2", &data_file);
        self.info("qcow2-data-file", &image);
        let images = luks_images(self.tools);
        let image = ImageSpec::encrypted_qcow2(images.folder.path("encrypted"), &images.secret);
        self.info("qcow2-encrypted", &image);

        let image = self.create("bitmaps", "qcow2", "");
        for (name, granularity) in [("b0", 65536), ("b1", 512)] {
            let bitmap = self.tools.img.bitmap(&image, name).action(BitmapAction::Add);
            bitmap.granularity(granularity).run_blocking().unwrap();
        }
        let disable = self.tools.img.bitmap(&image, "b1").action(BitmapAction::Disable);
        disable.run_blocking().unwrap();
        self.info("qcow2-bitmaps", &image);
        self.measure("qcow2-bitmaps", &image);

        let image = self.create("snapshots", "qcow2", "");
        for name in ["first", "second"] {
            self.tools.img.snapshot_create(&image, name).run_blocking().unwrap();
        }
        self.info("qcow2-snapshots", &image);

        let image = self.create("base", "qcow2", "");
        self.write(&image, "write -P 1 0 256k");
        let compressed = self.folder.path("compressed");
        let convert = self.tools.img.convert(&image, &compressed).output_format("qcow2");
        convert.compress().run_blocking().unwrap();
        self.all(
            "qcow2-compressed",
            &ImageSpec::file(compressed).format("qcow2"),
        );
    }

    /// Chains, and damage.
    fn conditions(&mut self) {
        let (base, middle) = (self.folder.path("base"), self.folder.path("middle"));
        let top = self.folder.path("top");
        let overlay = |path: &str, base: &str| {
            let create = self.tools.img.create(path).format("qcow2").backing(base, "qcow2");
            create.run_blocking().unwrap();
        };
        overlay(&middle, &base);
        overlay(&top, "middle");
        let image = ImageSpec::file(&top).format("qcow2");
        self.write(&image, "write -z 512k 64k");
        self.all("chain", &image);
        let output = self.tools.img.backing_chain(&image).output_blocking().unwrap();
        self.keep("chain-whole", &output.check().unwrap().stdout_text());

        let image = self.create("leak", "qcow2", "");
        self.write(&image, "write 0 128k");
        let path = self.folder.path("leak");
        let opened = qcow2::Image::open(&path).unwrap();
        let (table, entries) = opened.l2_table(0).unwrap().unwrap();
        qcow2::poke(&path, table, &[0; 8]).unwrap();
        self.check("leak", &image, None);
        self.check("leak-fixed", &image, Some(Repair::Leaks));
        qcow2::poke(&path, table, &entries[1].entry.to_be_bytes()).unwrap();
        self.check("corrupt", &image, None);
        self.check("corrupt-fixed", &image, Some(Repair::All));
        qcow2::poke(
            &path,
            qcow2::field::INCOMPATIBLE_FEATURES,
            &2u64.to_be_bytes(),
        )
        .unwrap();
        self.info("marked-corrupt", &image);

        for kind in ["monolithicFlat", "streamOptimized", "twoGbMaxExtentSparse"] {
            let image = self.create(
                &format!("{kind}.vmdk"),
                "vmdk",
                &format!("subformat={kind}"),
            );
            self.info(&format!("vmdk-{kind}"), &image);
        }
        let size = self.tools.img.measure_size(1 << 40).output_format("qcow2");
        let output = size.output_blocking().unwrap().check().unwrap();
        self.keep("measure-size", &output.stdout_text());
    }
}

/// All documents, made by these tools now.
fn make(tools: &Tools) -> Documents {
    let _turn = luks_images(tools).turn();
    let mut maker = Maker {
        tools,
        folder: Folder::new(),
        documents: Documents::new(),
    };
    maker.formats();
    maker.qcow2();
    maker.conditions();
    maker.documents
}

/// Members of a document that the types do not name, and members lost in a round trip.
fn examine<T: DeserializeOwned + Serialize>(name: &str, text: &str) -> T {
    let parsed: T = serde_json::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"));
    let before: Value = serde_json::from_str(text).unwrap();
    let after = serde_json::to_value(&parsed).unwrap();
    assert_eq!(before, after, "{name}");
    parsed
}

fn examine_info(name: &str, info: &ImageInfo) {
    let unknown = |other: &Other| assert_eq!(other, &Other::new(), "{name}");
    unknown(&info.other);
    assert!(info.virtual_size > 0, "{name}");
    info.snapshots.iter().for_each(|snapshot| unknown(&snapshot.other));
    for child in info.children.iter().flatten() {
        unknown(&child.other);
        examine_info(name, &child.info);
    }
    match &info.format_specific {
        None => {}
        Some(FormatSpecific::Qcow2(qcow2)) => unknown(&qcow2.other),
        Some(FormatSpecific::Luks(luks)) => unknown(&luks.other),
        Some(FormatSpecific::Vmdk(vmdk)) => {
            unknown(&vmdk.other);
            vmdk.extents.iter().for_each(|extent| unknown(&extent.other));
        }
        Some(FormatSpecific::File(file)) => unknown(&file.other),
        Some(FormatSpecific::Rbd(rbd)) => unknown(&rbd.other),
        Some(FormatSpecific::Other(other)) => panic!("{name}: {other}"),
        Some(other) => panic!("{name}: {other:?}"),
    }
}

fn examine_all(version: &str, documents: &Documents) {
    for (file, text) in documents {
        let name = format!("{version}/{file}");
        match file.split('-').next().unwrap() {
            "info" => examine_info(&name, &examine(&name, text)),
            "chain" => {
                let chain: Vec<ImageInfo> = examine(&name, text);
                assert_eq!(chain.len(), 3, "{name}");
                chain.iter().for_each(|info| examine_info(&name, info));
            }
            "check" => {
                let report: CheckReport = examine(&name, text);
                assert_eq!(report.other, Other::new(), "{name}");
            }
            "map" => {
                let extents: Vec<MapExtent> = examine(&name, text);
                // They cover the image without gaps.
                let mut end = 0;
                for extent in &extents {
                    assert_eq!(
                        (extent.start, &extent.other),
                        (end, &Other::new()),
                        "{name}"
                    );
                    end = extent.end();
                }
                // A vpc image is rounded up to its geometry.
                assert!(end >= MIB, "{name} ends at {end}");
            }
            "measure" => {
                let report: MeasureReport = examine(&name, text);
                assert!(report.required <= report.fully_allocated, "{name}");
                assert_eq!(report.other, Other::new(), "{name}");
            }
            other => panic!("{other}"),
        }
    }
}

fn data_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn kept() -> BTreeMap<String, Documents> {
    let read_dir = |path: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let documents = |folder: &PathBuf| -> Documents {
        let files = read_dir(folder);
        files.iter().map(|file| (name(file), std::fs::read_to_string(file).unwrap())).collect()
    };
    read_dir(&data_dir()).iter().map(|folder| (name(folder), documents(folder))).collect()
}

#[test]
fn the_kept_documents_of_both_versions_are_read_with_nothing_lost() {
    let kept = kept();
    let versions: Vec<&str> = kept.keys().map(String::as_str).collect();
    assert_eq!(versions, ["10.0.2", "7.2.22"]);
    for (version, documents) in &kept {
        examine_all(version, documents);
        assert!(documents.len() >= 60, "{version} has {}", documents.len());
        let formats: BTreeSet<String> = documents
            .iter()
            .filter(|(file, _)| file.starts_with("info-"))
            .map(|(file, text)| examine::<ImageInfo>(file, text).format)
            .collect();
        assert!(
            FORMATS.iter().all(|format| formats.contains(*format)),
            "{formats:?}"
        );
    }
}

#[test]
fn what_the_tools_print_today_is_read_with_nothing_lost() {
    for tools in all_tools() {
        examine_all(&tools.version().to_string(), &make(&tools));
    }
}

#[test]
fn a_secret_of_two_images_is_made_known_once() {
    for tools in all_tools() {
        let images = luks_images(&tools);
        let _turn = images.turn();
        let image = ImageSpec::luks(images.folder.path("luks"), &images.secret);
        assert!(tools.img.compare(&image, &image).run_blocking().unwrap().is_same());
        let target = ImageSpec::encrypted_qcow2(images.folder.path("encrypted"), &images.secret);
        tools.img.convert(&image, &target).no_create().run_blocking().unwrap();
        assert!(tools.img.compare(&image, &target).run_blocking().unwrap().is_same());
    }
}

#[test]
fn what_no_version_prints_yet_is_kept() {
    let document = r#"{"filename": "x", "format": "new", "virtual-size": 1, "colour": "red",
        "format-specific": {"type": "new", "data": {"a": [1, null]}}}"#;
    let info: ImageInfo = examine("new", document);
    assert_eq!(info.other["colour"], "red");
    assert!(matches!(
        info.format_specific,
        Some(FormatSpecific::Other(_))
    ));
    // A known type in an unknown shape.
    let document = document.replace("\"type\": \"new\"", "\"type\": \"qcow2\"");
    let info: ImageInfo = examine("new qcow2", &document);
    assert!(matches!(
        info.format_specific,
        Some(FormatSpecific::Other(_))
    ));
}

#[test]
fn counts_that_a_check_leaves_out_are_zero() {
    let report: CheckReport = examine(
        "check",
        r#"{"filename": "x", "format": "qcow2", "check-errors": 0}"#,
    );
    assert_eq!((report.corruptions, report.leaks), (0, 0));
}

#[test]
#[ignore = "writes the kept documents anew; see the top of this file"]
fn make_documents() {
    for tools in all_tools() {
        let folder = data_dir().join(tools.version().to_string());
        std::fs::create_dir_all(&folder).unwrap();
        for (file, text) in make(&tools) {
            std::fs::write(folder.join(file), text).unwrap();
        }
    }
}

/// What a very fragmented image has: more than is ever kept of an output.
#[test]
fn a_map_of_700_000_extents_is_read_whole() {
    const COUNT: u64 = 700_000;
    let folder = Folder::new();
    let map = format!(
        "exec awk 'BEGIN {{ for (i = 0; i < {COUNT}; i++) \
         printf \"%s{{ \\\"start\\\": %d, \\\"length\\\": 512, \\\"depth\\\": 0, \\\"present\\\": true, \
         \\\"zero\\\": false, \\\"data\\\": true, \\\"offset\\\": %d}}\", (i ? \",\\n\" : \"[\"), i * 512, i * 512; \
         print \"]\" }}'"
    );
    let fake = Tool::new(ToolKind::Img, folder.script("qemu-img", &map));
    let img = imgtools::img::QemuImg::new(fake);
    let all = img.map("x").run_blocking().unwrap();
    assert_eq!(all.len() as u64, COUNT);
    assert_eq!(all.last().map(|last| last.end()), Some(COUNT * 512));
}
