//! Prefixes: creating one completely or not at all, and finding existing ones.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use imgtools::process::Command;
use serde::{Deserialize, Serialize};
use walkdir::WalkDir;

use super::apt::Apt;
use super::error::ProvisionError;
use super::files::{create_dir, file, file_names, remove_dir, write};
use super::libraries::Libraries;
use super::offer::{Offer, version_key};

/// Printing a version takes milliseconds; this allows for a loaded machine.
const VERSION: Duration = Duration::from_secs(60);

/// The name prefix of folders in which a prefix is being created.
pub(super) const UNPACKING: &str = ".unpacking-";

/// Folders that are not needed in a private prefix, a tenth of its size.
const NOT_NEEDED: [&str; 5] = ["doc", "man", "locale", "info", "lintian"];

/// A folder whose `bin` contains the programs of one QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix {
    /// QEMU's version, which is the folder's name: `7.2.22`.
    pub name: String,
    /// The folder.
    pub path: PathBuf,
}

/// What a prefix was made from, as recorded in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    /// Its path, by which its programs refer to their loader.
    pub(super) path: PathBuf,
    /// What was fetched.
    pub(super) offer: Offer,
    /// The files of all its packages.
    pub(super) archives: Vec<PathBuf>,
}

impl Prefix {
    /// The folder with the programs.
    pub fn bin(&self) -> PathBuf {
        self.path.join("bin")
    }

    /// What it was made from; `None` if that is not recorded, or if the prefix was moved.
    pub(super) fn origin(&self) -> Option<Origin> {
        let text = fs::read(self.path.join(ORIGIN)).ok()?;
        let origin: Origin = serde_json::from_slice(&text).ok()?;
        (fs::canonicalize(&self.path).ok()? == origin.path).then_some(origin)
    }

    /// Whether its emulator and its tools start.
    pub(super) fn is_usable(&self) -> bool {
        let names = file_names(&self.bin());
        let Some(emulator) = emulator(&names) else {
            return false;
        };
        let starts = |program: &str| {
            let command = Command::new(self.bin().join(program)).arg("--version");
            version(command).is_ok_and(|version| version == self.name)
        };
        self.origin().is_some() && [emulator, "qemu-img"].into_iter().all(starts)
    }
}

/// The file that records what a prefix was made from.
const ORIGIN: &str = "origin.json";

/// The prefixes below `root`, oldest version first; none if there is no such folder.
pub fn installed(root: &Path) -> Vec<Prefix> {
    let mut found: Vec<Prefix> = file_names(root)
        .into_iter()
        // Names of incomplete prefixes start with a dot.
        .filter(|name| !name.starts_with('.'))
        .map(|name| Prefix {
            path: root.join(&name),
            name,
        })
        .filter(|prefix| prefix.bin().join("qemu-img").is_file())
        .collect();
    found.sort_by_key(|prefix| version_key(&prefix.name));
    found
}

/// Fetches what is offered and creates a prefix from it below `root`, replacing one with the same
/// version.
pub(super) fn make(
    root: &Path,
    apt: &Apt,
    offer: &Offer,
    note: &mut dyn FnMut(&str),
) -> Result<Prefix, ProvisionError> {
    note(&format!(
        "downloading {} from {}",
        offer.packages.join(", "),
        offer.source
    ));
    let archives = apt.download(&offer.source, &offer.packages)?;
    note(&format!(
        "unpacking {} packages into a private folder",
        archives.len()
    ));
    let scratch = tempfile::Builder::new()
        .prefix(UNPACKING)
        .tempdir_in(root)
        .map_err(file("create a folder in", root))?;
    let whole = scratch.path().join("prefix");
    let tree = whole.join("root");
    create_dir(&tree)?;
    for archive in &archives {
        apt.unpack(archive, &tree)?;
    }
    tidy(&tree)?;
    let libraries = Libraries::gather(&tree)?;
    let (name, programs) = check(&tree, &libraries)?;
    let target = root.join(&name);
    let origin = Origin {
        path: target.clone(),
        offer: offer.clone(),
        archives,
    };
    bind(&whole, &libraries, &programs, &target)?;
    let text = serde_json::to_vec_pretty(&origin).unwrap_or_default();
    write(&whole.join(ORIGIN), &text)?;
    // A prefix of the same version exists if it is unusable, or from an older package.
    let old = scratch.path().join("old");
    match fs::rename(&target, &old) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(file("replace", &target)(error));
        }
        _ => {}
    }
    fs::rename(&whole, &target).map_err(file("rename a folder to", &target))?;
    let prefix = Prefix { name, path: target };
    if prefix.is_usable() {
        return Ok(prefix);
    }
    // It worked where it was created; so the binding of its programs must be wrong.
    remove_dir(&prefix.path)?;
    let _ = fs::rename(&old, &prefix.path);
    Err(ProvisionError::Broken {
        program: format!("QEMU {}", prefix.name),
        why: "its programs do not start from the folder that they were put into".to_owned(),
    })
}

/// Removes unneeded folders, and all setuid and setgid bits.
fn tidy(tree: &Path) -> Result<(), ProvisionError> {
    for name in NOT_NEEDED {
        remove_dir(&tree.join("usr/share").join(name))?;
    }
    for entry in WalkDir::new(tree).into_iter().filter_map(Result::ok) {
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        let mode = metadata.permissions().mode();
        if metadata.is_file() && mode & 0o6000 != 0 {
            let permissions = fs::Permissions::from_mode(mode & 0o777);
            fs::set_permissions(entry.path(), permissions)
                .map_err(file("change the mode of", entry.path()))?;
        }
    }
    Ok(())
}

/// Starts the unpacked programs, and returns the version of `qemu-img` and the programs that work.
///
/// Not all of them must work: Debian wraps some emulators in a script that calls the real one by an
/// absolute path, which exists only if the package is installed.
fn check(tree: &Path, libraries: &Libraries) -> Result<(String, Vec<String>), ProvisionError> {
    let bin = tree.join("usr/bin");
    let run = |program: &str| {
        let path = bin.join(program);
        let mut words = libraries.start(&path)?.into_iter();
        let command = Command::new(words.next().unwrap_or_default());
        let command = command.args(words).arg("--version");
        version(command).map_err(|why| ProvisionError::Broken {
            program: program.to_owned(),
            why,
        })
    };
    let names: Vec<String> = file_names(&bin)
        .into_iter()
        .filter(|name| name.starts_with("qemu-") && bin.join(name).is_file())
        .collect();
    let Some(emulator) = emulator(&names) else {
        let why = format!("they hold no emulator, only {}", names.join(", "));
        return Err(ProvisionError::Broken {
            program: "packages".to_owned(),
            why,
        });
    };
    run(emulator)?;
    let version = run("qemu-img")?;
    let starting = names.into_iter().filter(|name| run(name).is_ok());
    Ok((version, starting.collect()))
}

/// Binds everything to the tree's own libraries, and links the programs into `bin`.
fn bind(
    whole: &Path,
    libraries: &Libraries,
    programs: &[String],
    target: &Path,
) -> Result<(), ProvisionError> {
    let (tree, bin) = (whole.join("root"), whole.join("bin"));
    create_dir(&bin)?;
    for program in programs {
        let path = tree.join("usr/bin").join(program);
        if !path.is_symlink() {
            libraries.bind(&path, &target.join("root"))?;
        }
        let link = bin.join(program);
        let mut to = OsString::from("../root/usr/bin/");
        to.push(program);
        symlink(to, &link).map_err(file("create", &link))?;
    }
    // A QEMU that is not relocatable looks here for modules and firmware. (It is meant for running
    // in a build folder.)
    let bundle = tree.join("usr/bin/qemu-bundle");
    symlink("../..", &bundle).map_err(file("create", &bundle))
}

/// The version that a program prints, or what it printed instead.
fn version(command: Command) -> Result<String, String> {
    let output = command.deadline(VERSION).run_blocking().map_err(|error| error.to_string())?;
    let text = output.stdout_text();
    // "qemu-img version 7.2.22 (Debian …)", but "qemu-nbd 7.2.22 (Debian …)".
    let number = |word: &&str| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
    if let Some(number) =
        text.split_whitespace().find(number).filter(|_| output.status.is_success())
    {
        return Ok(number.to_owned());
    }
    Err(format!("{}: {text}{}", output.status, output.stderr_text()))
}

/// The emulator of this machine's own architecture, else any.
fn emulator(programs: &[String]) -> Option<&str> {
    let native = match std::env::consts::ARCH {
        "x86" => "qemu-system-i386",
        "powerpc64" => "qemu-system-ppc64",
        other => &format!("qemu-system-{other}"),
    };
    let mut all =
        programs.iter().map(String::as_str).filter(|name| name.starts_with("qemu-system-"));
    all.clone().find(|name| *name == native).or_else(|| all.next())
}

/// The package with this machine's own emulator.
pub(super) fn emulator_package() -> &'static str {
    match std::env::consts::ARCH {
        "x86" | "x86_64" => "qemu-system-x86",
        "arm" | "aarch64" => "qemu-system-arm",
        "powerpc64" => "qemu-system-ppc",
        "riscv64" => "qemu-system-riscv",
        "s390x" => "qemu-system-s390x",
        _ => "qemu-system-misc",
    }
}
