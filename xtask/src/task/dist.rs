//! `cargo xtask dist`: creates a tarball of the program, with its manual page, completions and
//! documents, for machines without these sources.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use super::iotests;
use crate::cargo::{self, XtaskError};

/// What to pack.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The profile to build with.
    #[arg(long, value_name = "NAME", default_value = "release")]
    profile: String,
}

/// Files that the program prints: its arguments, and the path of each file.
const PRINTED: [(&[&str], &str); 4] = [
    (&["man"], "share/man/man1/iotests.1"),
    (
        &["completions", "bash"],
        "share/bash-completion/completions/iotests",
    ),
    (&["completions", "zsh"], "share/zsh/site-functions/_iotests"),
    (
        &["completions", "fish"],
        "share/fish/vendor_completions.d/iotests.fish",
    ),
];

/// Documents, relative to the workspace root.
const DOCUMENTS: [&str; 7] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "COVERAGE.md",
    "docs",
    "iotests-cases/LICENSE-GPL",
    "LICENSE-MIT",
];

pub(crate) fn run(args: Args) -> Result<ExitCode, XtaskError> {
    let binary = iotests::build_with(&["--profile", &args.profile])?;
    let tarball = pack(&binary, &cargo::target_dir()?.join("dist"))?;
    println!("{}", tarball.display());
    Ok(ExitCode::SUCCESS)
}

/// Creates the tarball in this folder.
fn pack(binary: &Path, dist: &Path) -> Result<PathBuf, XtaskError> {
    let name = format!(
        "iotests-{}-linux-{}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH
    );
    let folder = dist.join(&name);
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(XtaskError::file("remove", &folder))?;
    }
    gather(binary, &folder)?;
    let tarball = dist.join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.args(["--owner=0", "--group=0", "--sort=name", "-czf"]).arg(&tarball);
    cargo::check(tar.arg("-C").arg(dist).arg(&name))?;
    Ok(tarball)
}

/// Lays out the folder that is packed.
fn gather(binary: &Path, folder: &Path) -> Result<(), XtaskError> {
    let place = |path: &str| -> Result<PathBuf, XtaskError> {
        let to = folder.join(path);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(XtaskError::file("create", parent))?;
        }
        Ok(to)
    };
    let program = place("bin/iotests")?;
    fs::copy(binary, &program).map_err(XtaskError::file("copy", binary))?;
    for (args, to) in PRINTED {
        let text = cargo::read(Command::new(binary).args(args))?;
        let to = place(to)?;
        fs::write(&to, text).map_err(XtaskError::file("write", &to))?;
    }
    for document in DOCUMENTS {
        let from = cargo::root().join(document);
        let to = place(&format!("share/doc/iotests/{document}"))?;
        let mut copy = Command::new("cp");
        cargo::check(copy.arg("-r").arg(&from).arg(&to))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_has_the_program_and_what_it_prints_and_the_documents() {
        let place = tempfile::tempdir().unwrap();
        // `echo` prints its arguments.
        let tarball = pack(Path::new("/bin/echo"), &place.path().join("dist")).unwrap();
        let name = tarball.file_name().unwrap().to_str().unwrap();
        let name = name.strip_suffix(".tar.gz").unwrap().to_owned();
        let mut unpack = Command::new("tar");
        unpack.arg("-xzf").arg(&tarball).arg("-C").arg(place.path());
        cargo::check(&mut unpack).unwrap();
        let folder = place.path().join(name);
        let said = cargo::read(Command::new(folder.join("bin/iotests")).arg("it runs")).unwrap();
        assert_eq!(said, b"it runs\n");
        for (args, path) in PRINTED {
            let text = fs::read_to_string(folder.join(path)).unwrap();
            assert_eq!(text.trim(), args.join(" "));
        }
        for path in [
            "bin/iotests",
            "share/doc/iotests/README.md",
            "share/doc/iotests/docs/running.md",
            "share/doc/iotests/LICENSE-MIT",
        ] {
            assert!(folder.join(path).is_file(), "{path}");
        }
    }
}
