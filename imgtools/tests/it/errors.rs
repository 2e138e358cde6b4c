//! Produces every error of the crate: each can really occur.

use std::cell::Cell;
use std::fmt::{Debug, Display};
use std::path::Path;
use std::time::Duration;

use imgtools::image::{ImageSpec, Secret};
use imgtools::img::{ImgError, QemuImg};
use imgtools::io::{IoCommand, Open, QemuIo};
use imgtools::probe;
use imgtools::process::{Command, Convention};
use imgtools::qcow2::{Builder, Image, field, poke};
use imgtools::raw;
use imgtools::tools::{Finder, Looked, Tool, ToolKind, Version};

use crate::support::{Folder, LONG};

/// Checks that these are all variants in the enumeration's source, except those tested elsewhere;
/// and that each has a readable message.
fn is_complete<E: Debug + Display>(source: &str, name: &str, elsewhere: &[&str], found: &[E]) {
    let start = source.find(&format!("pub enum {name} {{")).unwrap();
    let body = &source[start..][..source[start..].find("\n}").unwrap()];
    let variants = body.lines().skip(1).filter_map(|line| {
        let name = word(line.strip_prefix("    ")?);
        name.starts_with(char::is_uppercase).then_some(name)
    });
    let mut expected: Vec<&str> = variants.collect();
    expected.retain(|variant| !elsewhere.contains(variant));
    let found: Vec<(String, String)> =
        found.iter().map(|error| (format!("{error:?}"), error.to_string())).collect();
    let mut shown: Vec<&str> = found.iter().map(|(debug, _)| word(debug)).collect();
    expected.sort();
    shown.sort();
    assert_eq!(shown, expected, "{name}");
    for (debug, text) in &found {
        assert!(!text.is_empty() && text != debug, "{text}");
    }
}

/// The name that a text begins with.
fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric());
    &text[..end.unwrap_or(text.len())]
}

fn sh(script: &str) -> Command {
    Command::new("sh").args(["-c", script]).deadline(LONG)
}

#[test]
fn every_error_of_a_process() {
    let run = |command: Command| command.run_blocking().unwrap();
    let spawn = Command::new("/nowhere").run_blocking().unwrap_err();
    let late = sh("exec sleep 1000").deadline(Duration::from_millis(1));
    let late = late.run_blocking().unwrap_err();
    let status = run(sh("exit 3")).check().unwrap_err();
    let signal = run(sh("kill -9 $$")).check().unwrap_err();
    let valgrind = run(sh("exit 99").convention(Convention::Valgrind));
    let valgrind = valgrind.check().unwrap_err();
    let watch = sh("echo x; read x").on_output(|_, _| std::panic::resume_unwind(Box::new("")));
    let watch = watch.run_blocking().unwrap_err();
    is_complete(
        include_str!("../../src/process/error.rs"),
        "ProcessError",
        // For this the kernel has to hang; the unit tests of `process::shared` play it.
        &["Unkillable"],
        &[spawn, late, status, signal, valgrind, watch],
    );
}

/// Programs that are scripts, each in a folder of its own.
struct Fakes(Folder, Cell<u32>);

impl Fakes {
    fn new() -> Fakes {
        Fakes(Folder::new(), Cell::new(0))
    }

    fn tool(&self, kind: ToolKind, script: &str) -> Tool {
        let number = self.1.replace(self.1.get() + 1);
        let name = format!("{number}/{}", kind.name());
        Tool::new(kind, self.0.script(&name, script))
    }

    fn img(&self, script: &str) -> QemuImg {
        QemuImg::new(self.tool(ToolKind::Img, script)).deadline(LONG)
    }

    fn io(&self, script: &str) -> Open {
        let io = QemuIo::new(self.tool(ToolKind::Io, script)).deadline(LONG);
        io.open("x")
    }
}

#[test]
fn every_error_of_qemu_img() {
    let fakes = Fakes::new();
    let report = r#"{"filename":"x","format":"raw","check-errors":0,"corruptions":1}"#;
    let extent = r#"[{"start":0,"length":1,"depth":0,"zero":false,"data":true},"#;
    let options = ImageSpec::options("driver=null-co");
    let compare = |status: u32| {
        let call = fakes.img(&format!("exit {status}")).compare("a", "b");
        call.run_blocking().unwrap_err()
    };
    let found = [
        fakes.img("exit 0").compare("ssh://h/a", options).run_blocking().unwrap_err(),
        fakes.img("exit 1").info("x").run_blocking().unwrap_err(),
        fakes.img("echo []").info("x").run_blocking().unwrap_err(),
        fakes.img("echo x").bench("x").run_blocking().unwrap_err(),
        fakes.img(&format!("echo '{extent}'; exit 1")).map("x").run_blocking().unwrap_err(),
        fakes
            .img(&format!("echo '{report}'; exit 2"))
            .check("x")
            .run_blocking()
            .unwrap()
            .clean()
            .unwrap_err(),
        compare(1),
    ];
    let source = include_str!("../../src/img/error.rs");
    is_complete(source, "ImgError", &[], &found);
    let phases = [1, 2, 3, 4].map(|status| match compare(status) {
        ImgError::Compare { phase, .. } => phase,
        error => panic!("{error}"),
    });
    is_complete(source, "ComparePhase", &[], &phases);
}

#[test]
fn every_error_of_a_name() {
    let img = QemuImg::new(Tool::new(ToolKind::Img, "/nowhere"));
    // Both images of a comparison are named in the same way: by options.
    let found = ["ssh://h/a", "json:[", r#"json:{"a":null}"#, "nbd:///a"].map(|name| {
        let options = ImageSpec::options("driver=null-co");
        match img.compare(name, options).run_blocking() {
            Err(ImgError::Name(error)) => error,
            other => panic!("{other:?}"),
        }
    });
    let source = include_str!("../../src/image/node.rs");
    is_complete(source, "NameError", &[], &found);
}

#[test]
fn every_error_of_qemu_io() {
    const PROMPT: &str = "printf 'qemu-io> '; read line;";
    let fakes = Fakes::new();
    let session = |script: &str| {
        let open = fakes.io(&format!("{PROMPT} {script}"));
        open.session_blocking().unwrap()
    };
    let named = QemuIo::new(fakes.tool(ToolKind::Io, "exit 0"));
    let luks = Secret::new("s", "secret").unwrap();
    let mut refused =
        session("echo 'read failed: Input/output error'; printf 'qemu-io> '; read line");
    let mut died = session("exit 3");
    let mut silent = session("read line");
    silent.set_deadline(Duration::from_millis(1));
    let mut line = session("read line");
    let found = [
        named.open(ImageSpec::luks("ssh://h/a", &luks)).run_blocking().unwrap_err(),
        fakes.io("exit 1").run_blocking().unwrap_err(),
        fakes.io("echo 'aio_write failed: Input/output error'").run_blocking().unwrap_err(),
        refused.run_blocking("read 0 512").unwrap().check().unwrap_err(),
        fakes.io("exit 1").session_blocking().unwrap_err(),
        line.run_blocking("a\nb").unwrap_err(),
        died.run_blocking("read 0 512").unwrap_err(),
        silent.run_blocking("read 0 512").unwrap_err(),
    ];
    is_complete(
        include_str!("../../src/io/error.rs"),
        "IoError",
        &[],
        &found,
    );
    let lines = ["a\nb", &"x".repeat(2000)].map(|line| IoCommand::from(line).line().unwrap_err());
    let source = include_str!("../../src/io/command.rs");
    is_complete(source, "LineError", &[], &lines);
}

/// A problem, with the words in which it is reported.
struct Reason(Looked);

impl Debug for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Debug::fmt(&self.0.problem, f)
    }
}

impl Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Display::fmt(&self.0, f)
    }
}

#[test]
fn every_reason_why_a_program_is_not_taken() {
    let fakes = Fakes::new();
    let plain = fakes.0.dir().join("plain");
    std::fs::write(&plain, "").unwrap();
    let problem = |path: &Path| {
        let finder = Finder::new().flag(ToolKind::Img, path);
        let mut error = finder.find(ToolKind::Img).unwrap_err();
        Reason(error.looked.remove(0))
    };
    let found = [
        problem(Path::new("/nowhere")),
        problem(&plain),
        problem(&fakes.tool(ToolKind::Img, "echo hello").path),
        problem(&fakes.tool(ToolKind::Img, "exit 1").path),
    ];
    let source = include_str!("../../src/tools/find.rs");
    is_complete(source, "Problem", &[], &found);
    let error = "seven".parse::<Version>().unwrap_err().to_string();
    assert!(error.contains("`seven`"), "{error}");
}

#[test]
fn every_error_of_a_probe() {
    const VARIABLE: &str = "IMGTOOLS_TEST_PROBE";
    if std::env::var_os(VARIABLE).is_some() {
        let img = QemuImg::new(Tool::new(ToolKind::Img, "/nowhere"));
        let error = probe::zstd_blocking(&img).unwrap_err();
        println!("{error:?}");
        return;
    }
    let fakes = Fakes::new();
    let io = QemuIo::new(Tool::new(ToolKind::Io, "/nowhere"));
    let here = [
        probe::formats_blocking(&fakes.img("kill -9 $$")).unwrap_err(),
        probe::aio_blocking(&io, "threads").unwrap_err(),
    ];
    // There is no folder for temporary files.
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "errors::every_error_of_a_probe", "--nocapture"])
        .env(VARIABLE, "1")
        .env("TMPDIR", "/nowhere")
        .run_blocking()
        .unwrap();
    let text = output.stdout_text();
    assert!(text.contains("File("), "{text}{}", output.stderr_text());
    let source = include_str!("../../src/probe.rs");
    is_complete(source, "ProbeError", &["File"], &here);
}

#[test]
fn every_error_of_a_file() {
    let folder = Folder::new();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let at = |path: &str, offset: u64, bytes: &[u8]| poke(path, offset, bytes).unwrap();
    // A header of version 3 with clusters of 64 KiB, and nothing else.
    let image = |name: &str| {
        let path = file(name, b"QFI\xfb\0\0\0\x03");
        std::fs::File::options().write(true).open(&path).unwrap().set_len(1 << 30).unwrap();
        at(&path, field::CLUSTER_BITS, &16u32.to_be_bytes());
        at(&path, field::HEADER_LENGTH, &104u32.to_be_bytes());
        path
    };
    let (unknown, outside, large) = (image("unknown"), image("outside"), image("large"));
    at(
        &unknown,
        field::INCOMPATIBLE_FEATURES,
        &u64::MAX.to_be_bytes(),
    );
    at(&outside, field::L1_TABLE_OFFSET, &u64::MAX.to_be_bytes());
    at(&outside, field::L1_SIZE, &1u32.to_be_bytes());
    at(&large, field::L1_SIZE, &(40u32 << 20).to_be_bytes());
    let l1 = |path: &str| Image::open(path).unwrap().l1_table().unwrap_err();
    let found = [
        Image::open(folder.path("nowhere")).unwrap_err(),
        Image::open(file("text", b"hello")).unwrap_err(),
        Image::open(&unknown).unwrap_err(),
        l1(&large),
        l1(&outside),
        Builder::new(1).create(folder.path("odd")).unwrap_err(),
    ];
    let source = include_str!("../../src/qcow2/file.rs");
    is_complete(source, "Qcow2Error", &[], &found);
    let found = [
        raw::allocated(folder.path("nowhere")).unwrap_err(),
        raw::verify_fill(file("x", b"x"), 0..1, b'y').unwrap_err(),
    ];
    let source = include_str!("../../src/raw/mod.rs");
    is_complete(source, "RawError", &[], &found);
}

#[cfg(feature = "luks")]
#[test]
fn every_error_of_a_luks_image() {
    use imgtools::luks;
    let folder = Folder::new();
    let found = [
        luks::create(folder.path("a"), 512, &[(8, "x")]).unwrap_err(),
        luks::create_qcow2(folder.path("a"), 1 << 60, &[]).unwrap_err(),
        luks::create(folder.path("nowhere/a"), 512, &[]).unwrap_err(),
    ];
    let source = include_str!("../../src/luks.rs");
    is_complete(source, "LuksError", &[], &found);
}
