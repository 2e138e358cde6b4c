//! The sets of tools that are tested, and a folder for each test.

use std::path::{Path, PathBuf};
use std::time::Duration;

use imgtools::img::{Call, Create, QemuImg};
use imgtools::io::QemuIo;
use imgtools::probe::NO_CPU_TIME;
use imgtools::process::{Command, Output};
use imgtools::tools::{Finder, Tool, ToolKind};

/// Far more than any test takes, so that a hang becomes a failure.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// qemu-img and qemu-io of one version.
#[derive(Clone)]
pub(crate) struct Tools {
    pub(crate) img: QemuImg,
    pub(crate) io: QemuIo,
}

impl Tools {
    fn find(finder: &Finder) -> Option<Tools> {
        let find = |kind| -> Option<Tool> { finder.find(kind).ok() };
        let (img, io) = (find(ToolKind::Img)?, find(ToolKind::Io)?);
        Some(Tools {
            img: QemuImg::new(img).deadline(LONG),
            io: QemuIo::new(io).deadline(LONG),
        })
    }

    /// The version, for messages.
    pub(crate) fn version(&self) -> imgtools::tools::Version {
        self.img.tool().version.unwrap()
    }
}

/// All sets of tools: those in PATH, and those in the folders of `QEMU_TEST_PREFIXES` or else of
/// `target/qemu`. With none a test is skipped, or fails if `QEMU_TEST_REQUIRE` is 1.
pub(crate) fn all_tools() -> Vec<Tools> {
    let mut prefixes: Vec<PathBuf> = match std::env::var_os("QEMU_TEST_PREFIXES") {
        Some(folders) => std::env::split_paths(&folders).collect(),
        None => {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/qemu");
            let entries = std::fs::read_dir(folder).into_iter().flatten();
            entries.flatten().map(|entry| entry.path()).collect()
        }
    };
    prefixes.sort();
    let nowhere = Finder::new().environment([("PATH", "")]);
    let mut found: Vec<Tools> = Tools::find(&Finder::new()).into_iter().collect();
    found.extend(prefixes.iter().filter_map(|prefix| Tools::find(&nowhere.clone().prefix(prefix))));
    if found.is_empty() {
        println!("skipped: no qemu-img and qemu-io, neither in PATH nor in QEMU_TEST_PREFIXES");
        let required = std::env::var("QEMU_TEST_REQUIRE").is_ok_and(|value| value == "1");
        assert!(
            !required,
            "QEMU_TEST_REQUIRE is 1, but there are no tools to test"
        );
    }
    found
}

/// How long a key may take to be derived. No secret is here.
const FAST: Duration = Duration::from_millis(10);

/// Makes a LUKS image, also on a busy machine, where that takes more than one try.
pub(crate) fn create_luks(create: &Call<Create>) -> Output {
    for _ in 0..20 {
        match create.clone().iter_time(FAST).run_blocking() {
            Err(error) if error.to_string().contains(NO_CPU_TIME) => {}
            made => return made.unwrap(),
        }
    }
    panic!("{NO_CPU_TIME}, 20 times");
}

/// A folder for one test's files, deleted at its end.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    pub(crate) fn dir(&self) -> &Path {
        self.0.path()
    }

    /// The path of a file in it, as text.
    pub(crate) fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// A shell script in it.
    pub(crate) fn script(&self, name: &str, body: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Another process writes it: if the file were open for writing in ours, a child started by
        // another test at this moment could hold it open, and running it would fail (ETXTBSY).
        let write = Command::new("sh").args(["-c", "cat > \"$1\" && chmod +x \"$1\"", "sh"]);
        let write = write.arg(&path).stdin_data(format!("#!/bin/sh\n{body}\n"));
        write.run_blocking().unwrap().check().unwrap();
        path
    }
}
