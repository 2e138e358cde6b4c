//! What names a file: hostile names through every call that takes one, on every set of tools.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use imgtools::image::{ImageSpec, Options, Secret};
use imgtools::img::{BitmapAction, ImgError, QemuImg, Size};
use imgtools::io::{IoCommand, QemuIo};
use imgtools::qcow2;
use imgtools::raw;
use imgtools::tools::{Finder, Tool, ToolKind};

use crate::support::{Folder, Tools, all_tools, create_luks};

const MIB: u64 = 1 << 20;

/// Names that a careless caller would misinterpret.
fn hostile() -> Vec<OsString> {
    let mut names: Vec<OsString> = [
        "-b",
        "--help",
        "vm 2024-05-01T10:00.qcow2",
        "json:{\"driver\":\"null-co\"}",
        "driver=null-co,size=1M,,c",
        "quotes'\"` new\nline\ttab \\ back\\slash $HOME %s *?[x]",
    ]
    .map(OsString::from)
    .to_vec();
    names.push(OsString::from_vec(b"not-\xff\xfe-utf8".to_vec()));
    // Longer than the name of a socket, and than that of a file without its folder.
    names.push(format!("{}/{}", "d".repeat(150), "n".repeat(150)).into());
    names
}

/// The tools, run in this folder, so that names can be relative.
fn inside(tools: &Tools, folder: &Path) -> Tools {
    let inside = |tool: &Tool| {
        let words = [OsStr::new("env"), OsStr::new("-C"), folder.as_os_str()];
        tool.clone().with_wrapper(words.map(|word| word.to_str().unwrap().to_owned()))
    };
    Tools {
        img: QemuImg::new(inside(tools.img.tool())),
        io: QemuIo::new(inside(tools.io.tool())),
    }
}

/// Runs a test for every set of tools and every name, in a folder that has no other files.
fn for_each_name(test: impl Fn(&Tools, &Path, &dyn Fn(&Path) -> PathBuf)) {
    for tools in all_tools() {
        for name in hostile() {
            let folder = Folder::new();
            let name = Path::new(&name);
            println!("QEMU {}: {}", tools.version(), name.display());
            let found = |path: &Path| folder.dir().join(path);
            std::fs::create_dir_all(found(name).parent().unwrap()).unwrap();
            test(&inside(&tools, folder.dir()), name, &found);
        }
    }
}

/// The only files in a folder and below it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .flat_map(|path| match path.is_dir() {
            true => files(&path),
            false => vec![path],
        })
        .collect();
    files.sort();
    files
}

#[test]
fn create_makes_the_file_of_that_name_and_no_other() {
    for_each_name(|tools, name, found| {
        for name in [name, &found(name)] {
            let create = tools.img.create(name).format("qcow2").size(MIB);
            create.run_blocking().unwrap();
            assert_eq!(files(&found(Path::new(""))), [found(name)]);
        }
        let image = qcow2::Image::open(found(name)).unwrap();
        assert_eq!(image.header().size, MIB);
    });
}

#[test]
fn every_call_on_one_image_opens_that_file() {
    for_each_name(|tools, name, found| {
        let img = &tools.img;
        img.create(name).format("qcow2").size(MIB).run_blocking().unwrap();
        // The format said by the image, by the call, and by options.
        let by_options = Options::new().set("driver", "qcow2").set_path("file.filename", name);
        for image in &[
            ImageSpec::from(name),
            ImageSpec::file(name).format("qcow2"),
            ImageSpec::options(by_options),
        ] {
            let info = img.info(image).run_blocking().unwrap();
            assert_eq!((&*info.format, info.virtual_size), ("qcow2", MIB));
            let chain = img.backing_chain(image).run_blocking().unwrap();
            assert_eq!(chain.len(), 1);
            img.check(image).run_blocking().unwrap().clean().unwrap();
            let map = img.map(image).run_blocking().unwrap();
            assert_eq!(map.last().map(|last| last.end()), Some(MIB));
            img.measure(image).run_blocking().unwrap();
            img.bench(image).count(1).run_blocking().unwrap();
            img.amend(image, "lazy_refcounts=on").run_blocking().unwrap();
            img.resize(image, Size::To(MIB)).run_blocking().unwrap();
            img.snapshot_create(image, "-s").run_blocking().unwrap();
            let snapshots = img.snapshots(image).run_blocking().unwrap();
            assert_eq!(snapshots[0].name, "-s");
            img.snapshot_apply(image, "-s").run_blocking().unwrap();
            img.snapshot_delete(image, "-s").run_blocking().unwrap();
            for action in [BitmapAction::Add, BitmapAction::Remove] {
                let bitmap = img.bitmap(image, "-b").action(action);
                bitmap.run_blocking().unwrap();
            }
            let write = IoCommand::write(0, 512).pattern(7);
            tools.io.open(image).command(write).run_blocking().unwrap();
            let mut session = tools.io.open(image).session_blocking().unwrap();
            let read = IoCommand::read(0, 512).pattern(7);
            session.run_blocking(read).unwrap().check().unwrap();
            session.quit_blocking().unwrap().check().unwrap();
        }
        assert_eq!(files(&found(Path::new(""))), [found(name)]);
    });
}

#[test]
fn a_copy_and_its_source_can_have_any_name() {
    for_each_name(|tools, name, found| {
        let img = &tools.img;
        raw::create_sparse(found(Path::new("source")), MIB).unwrap();
        let source = || ImageSpec::file(Path::new("source")).format("raw");
        let named = || ImageSpec::file(name).format("qcow2");
        img.convert(source(), named()).run_blocking().unwrap();
        assert!(img.compare(named(), source()).run_blocking().unwrap().is_same());
        let by_options = ImageSpec::options("driver=raw,file.filename=source");
        for (a, b) in [(named(), by_options.clone()), (by_options, named())] {
            assert!(img.compare(a, b).run_blocking().unwrap().is_same());
        }
        // Of two sources in two formats, and back.
        let back = Path::new("back");
        let convert =
            img.convert(named(), ImageSpec::file(back).format("raw")).and_source(source());
        convert.run_blocking().unwrap();
        assert_eq!(std::fs::metadata(found(back)).unwrap().len(), 2 * MIB);
        std::fs::remove_file(found(back)).unwrap();
        img.dd(named(), back).block_size(MIB).run_blocking().unwrap();
        std::fs::remove_file(found(name)).unwrap();
        img.dd(source(), name).output_format("qcow2").run_blocking().unwrap();
        assert!(qcow2::Image::open(found(name)).is_ok());
        assert_eq!(files(&found(Path::new(""))).len(), 3);
    });
}

#[test]
fn a_backing_file_can_have_any_name() {
    for_each_name(|tools, name, found| {
        let img = &tools.img;
        let create = |file: &Path| img.create(file).format("qcow2");
        create(name).size(MIB).run_blocking().unwrap();
        let [top, other] = ["top", "other"].map(Path::new);
        create(other).size(MIB).run_blocking().unwrap();
        create(top).backing(name, "qcow2").run_blocking().unwrap();
        // It is found, but QEMU wants its format.
        let refused = create(Path::new("refused")).backing_without_format(name);
        let error = refused.run_blocking().unwrap_err().to_string();
        assert!(error.contains("without backing format"), "{error}");
        let chain = || img.backing_chain(top).run_blocking().unwrap();
        assert_eq!(chain().len(), 2);
        let write = |image: &Path| {
            let write = tools.io.open(image).command(IoCommand::write(0, 65536));
            write.run_blocking().unwrap();
        };
        let is_allocated = || {
            let image = qcow2::Image::open(found(name)).unwrap();
            image.lookup(0).unwrap() != qcow2::Mapping::Unallocated
        };
        let rebase = |backing: &Path| {
            let rebase = img.rebase(top, backing).backing_format("qcow2");
            rebase.run_blocking().unwrap();
        };
        rebase(other);
        rebase(name);
        assert_eq!(chain().len(), 2);
        assert!(!is_allocated());
        write(top);
        // A relative path is resolved against our working directory, so it must be absolute here.
        img.commit(top).base(found(name)).run_blocking().unwrap();
        assert!(is_allocated());
        // The bitmap of one image merged into that of another one.
        img.bitmap(name, "b").action(BitmapAction::Add).run_blocking().unwrap();
        img.bitmap(top, "b").action(BitmapAction::Add).run_blocking().unwrap();
        img.bitmap(top, "b")
            .action(BitmapAction::Merge("b".to_owned()))
            .source(name, "qcow2")
            .run_blocking()
            .unwrap();
        // A copy on the same backing file.
        let copy = ImageSpec::file(Path::new("copy")).format("qcow2");
        let convert = img.convert(top, copy).backing(name, "qcow2");
        convert.run_blocking().unwrap();
        assert_eq!(img.backing_chain("copy").run_blocking().unwrap().len(), 2);
        // And none at all.
        img.rebase(top, "").run_blocking().unwrap();
        assert_eq!(chain().len(), 1);
    });
}

#[test]
fn an_encrypted_image_can_have_any_name() {
    // Deriving a key takes QEMU a second of CPU; so the hard names are all in one.
    let name = OsString::from_vec(b"-a:b,c d\n\"'\xff".to_vec());
    for tools in all_tools() {
        let folder = Folder::new();
        let tools = inside(&tools, folder.dir());
        let name = Path::new(&name);
        let secret = Secret::in_dir(folder.dir(), "s", "secret").unwrap();
        let create = tools.img.create(name).format("luks").size(MIB);
        create_luks(&create.secret(&secret));
        let luks = ImageSpec::luks(name, &secret);
        let info = tools.img.info(&luks).run_blocking().unwrap();
        assert_eq!((&*info.format, info.virtual_size), ("luks", MIB));
        std::fs::remove_file(folder.dir().join(name)).unwrap();
        let create = tools.img.create(name).format("qcow2").size(MIB);
        create_luks(&create.encrypt(&secret));
        let image = ImageSpec::encrypted_qcow2(name, &secret);
        let read = tools.io.open(&image).command(IoCommand::read(0, 512));
        read.run_blocking().unwrap();
    }
}

#[test]
fn what_is_read_and_written_without_a_tool_is_that_file() {
    for name in hostile() {
        let folder = Folder::new();
        let path = folder.dir().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        raw::create_sparse(&path, MIB).unwrap();
        raw::fill(&path, 0..512, 8).unwrap();
        raw::verify_fill(&path, 0..512, 8).unwrap();
        raw::punch_hole(&path, 0..MIB).unwrap();
        assert_eq!(raw::allocated(&path).unwrap(), 0);
        assert_eq!(raw::extents(&path).unwrap().len(), 1);
        qcow2::poke(&path, 0, b"QFI").unwrap();
        assert_eq!(qcow2::peek(&path, 0, 3).unwrap(), b"QFI");
        for open in [qcow2::Image::open, qcow2::Image::open_with_any_features] {
            let error = open(&path).unwrap_err().to_string();
            assert!(error.contains("as a qcow2 image"), "{error}");
        }
        assert_eq!(files(folder.dir()), [path]);
    }
}

#[cfg(feature = "luks")]
#[test]
fn encrypted_images_are_made_under_any_name() {
    use imgtools::luks;
    for name in hostile() {
        let folder = Folder::new();
        let path = folder.dir().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        luks::create(&path, MIB, &[(0, "key")]).unwrap();
        luks::create_qcow2(&path, MIB, &[(0, "key")]).unwrap();
        assert_eq!(files(folder.dir()), [path]);
    }
}

/// What programs are, and where they run and look.
#[test]
fn a_tool_can_have_any_name_and_run_anywhere() {
    let Some(tools) = all_tools().pop() else {
        return;
    };
    for name in hostile() {
        let folder = Folder::new();
        let dir = folder.dir().join(name);
        std::fs::create_dir_all(dir.join("bin")).unwrap();
        for link in ["bin/qemu-img", "qemu-img"] {
            std::os::unix::fs::symlink(&tools.img.tool().path, dir.join(link)).unwrap();
        }
        let nowhere = Finder::new().environment([("PATH", "")]);
        for (finder, path) in [
            (nowhere.clone().prefix(&dir), "bin/qemu-img"),
            (nowhere.clone().build_dir(&dir), "qemu-img"),
            (
                nowhere.clone().flag(ToolKind::Img, dir.join("qemu-img")),
                "qemu-img",
            ),
        ] {
            let found = finder.find(ToolKind::Img).unwrap();
            assert_eq!(found.path, dir.join(path));
        }
        std::os::unix::fs::symlink("/bin/pwd", dir.join("pwd")).unwrap();
        let tool = Tool::new(ToolKind::Img, dir.join("pwd"));
        let output = tool.command().current_dir(&dir).run_blocking().unwrap();
        let mut expected = dir.canonicalize().unwrap().into_os_string().into_vec();
        expected.push(b'\n');
        assert_eq!(output.captured.stdout, expected);
        let secret = Secret::in_dir(&dir, "s", "secret").unwrap();
        assert!(secret.path().starts_with(&dir) && secret.path().exists());
    }
}

/// A new call that takes a file must be added to the tests above.
#[test]
fn every_call_that_takes_a_file_is_tested_here() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let tests = include_str!("names.rs");
    let takes = ["ImageSpec>", "FileName>", "AsRef<Path>", "Into<PathBuf>"];
    let mut found = 0;
    for file in files(&source) {
        let text = std::fs::read_to_string(&file).unwrap();
        for item in text.split("pub fn ").skip(1) {
            let end = item.find(['{', ';']).unwrap_or(item.len());
            let signature = &item[..end];
            if takes.iter().any(|takes| signature.contains(takes)) {
                found += 1;
                let name: String =
                    signature.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let used = ["(", ")", "]", ","]
                    .iter()
                    .any(|next| tests.contains(&format!("{name}{next}")));
                assert!(used, "{name} of {} is not tested", file.display());
            }
        }
    }
    println!("{found} calls take a file");
    assert!(found >= 45, "{found}: they are looked for in the wrong way");
}

#[test]
fn a_name_that_the_file_system_refuses_is_an_error() {
    for tools in all_tools() {
        let folder = Folder::new();
        let long = folder.dir().join("x".repeat(300));
        let create = tools.img.create(&long).format("qcow2").size(MIB);
        let error = create.run_blocking().unwrap_err().to_string();
        assert!(error.contains("File name too long"), "{error}");
        let nul = folder.dir().join("a\0b");
        let error = tools.img.info(&nul).run_blocking().unwrap_err();
        assert!(error.to_string().contains("failed to start"), "{error}");
    }
}

#[test]
fn a_text_is_what_qemu_takes_it_for_and_no_option() {
    for tools in all_tools() {
        let folder = Folder::new();
        let tools = inside(&tools, folder.dir());
        let info = |text: &str| tools.img.info(text).run_blocking().unwrap();
        let null = "json:{\"driver\":\"null-co\",\"size\":65536}";
        assert_eq!(info(null).virtual_size, 65536);
        let create = tools.img.create("file:-x").format("raw").size(512);
        create.run_blocking().unwrap();
        assert_eq!(files(folder.dir()), [folder.dir().join("-x")]);
        assert_eq!(info("-x").virtual_size, 512);
        // Where a call needs options, it means the same.
        let other = ImageSpec::options("driver=null-co,size=65536,read-zeroes=on");
        let compare = tools.img.compare(ImageSpec::file(null), other);
        compare.run_blocking().unwrap();
        let error = tools
            .img
            .compare("ssh://host/a", ImageSpec::options("driver=null-co"))
            .run_blocking()
            .unwrap_err();
        assert!(matches!(error, ImgError::Name(_)), "{error}");
    }
}

#[test]
fn snapshots_are_taken_of_a_qcow2_image_by_its_json_name() {
    for tools in all_tools() {
        let folder = Folder::new();
        let path = folder.path("a,b");
        let create = tools.img.create(&path).format("qcow2").size(MIB);
        create.run_blocking().unwrap();
        let json = format!("json:{{\"driver\":\"file\",\"filename\":\"{path}\"}}");
        let image = ImageSpec::file(&*json).format("qcow2");
        let call = tools.img.snapshot_create(&image, "s");
        call.run_blocking().unwrap();
        let found = tools.img.snapshots(&path).run_blocking().unwrap();
        assert_eq!(found.len(), 1);
    }
}
