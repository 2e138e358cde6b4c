//! Debian's package manager as a downloader: private lists and cache, no root, nothing installed.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use imgtools::process::{Command, Output};

use super::distribution::Family;
use super::error::ProvisionError;

/// A download that has not ended by then never will; a mirror over a slow line still fits.
const DOWNLOAD: Duration = Duration::from_secs(15 * 60);
/// For what works on local files only.
const LOCAL: Duration = Duration::from_secs(5 * 60);

/// The package with this machine's own emulator.
fn emulator_package() -> &'static str {
    match std::env::consts::ARCH {
        "x86" | "x86_64" => "qemu-system-x86",
        "arm" | "aarch64" => "qemu-system-arm",
        "powerpc64" => "qemu-system-ppc",
        "riscv64" => "qemu-system-riscv",
        "s390x" => "qemu-system-s390x",
        _ => "qemu-system-misc",
    }
}

/// apt and dpkg, with lists, cache and archives below one scratch folder.
#[derive(Debug)]
pub(super) struct Apt {
    scratch: PathBuf,
    programs: Programs,
}

/// Where the package manager's programs are; replaced by stand-ins in tests.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    pub(super) apt_get: PathBuf,
    pub(super) apt_cache: PathBuf,
    pub(super) dpkg_deb: PathBuf,
}

impl Programs {
    /// The system's own.
    pub(super) fn system() -> Result<Self, ProvisionError> {
        let find = |program: &'static str| {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path)
                .map(|folder| folder.join(program))
                .find(|candidate| candidate.is_file())
                .ok_or(ProvisionError::MissingProgram { program })
        };
        Ok(Self {
            apt_get: find("apt-get")?,
            apt_cache: find("apt-cache")?,
            dpkg_deb: find("dpkg-deb")?,
        })
    }
}

impl Apt {
    /// Prepares the private folders.
    pub(super) fn new(scratch: PathBuf, programs: Programs) -> Result<Self, ProvisionError> {
        for folder in ["lists/partial", "cache/archives/partial"] {
            let path = scratch.join(folder);
            fs::create_dir_all(&path).map_err(|source| ProvisionError::File {
                verb: "create",
                path,
                source,
            })?;
        }
        Ok(Self { scratch, programs })
    }

    /// Brings the private lists up to date.
    pub(super) fn update(&self) -> Result<(), ProvisionError> {
        let command = self.command(&self.programs.apt_get, DOWNLOAD).arg("update");
        run("read the package sources", command).map(drop)
    }

    /// The newest emulator and the tools of the same version, as `package=version`.
    pub(super) fn choose(&self) -> Result<Vec<String>, ProvisionError> {
        let emulator = emulator_package();
        let command = self.command(&self.programs.apt_cache, LOCAL).args([
            "madison",
            emulator,
            "qemu-utils",
            "qemu-block-extra",
        ]);
        let output = run("look up QEMU's packages", command)?;
        choose(emulator, &madison(&output.stdout_text())).map_err(|why| ProvisionError::NoPackage {
            why,
            command: Family::Debian.install_command(),
        })
    }

    /// Downloads these packages and the libraries this machine lacks for them.
    pub(super) fn download(&self, packages: &[String]) -> Result<Vec<PathBuf>, ProvisionError> {
        let command = self
            .command(&self.programs.apt_get, DOWNLOAD)
            // --reinstall: what is installed already in this version is wanted here too.
            .args([
                "--yes",
                "--download-only",
                "--no-install-recommends",
                "--reinstall",
            ])
            .args(["--allow-downgrades", "install"])
            .args(packages);
        run("download QEMU's packages", command)?;
        let folder = self.scratch.join("cache/archives");
        let listing = fs::read_dir(&folder).map_err(|source| ProvisionError::File {
            verb: "list",
            path: folder,
            source,
        })?;
        let mut archives: Vec<PathBuf> = listing
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .collect();
        archives.sort();
        Ok(archives)
    }

    /// Unpacks one package below `root`; its scripts are not run.
    pub(super) fn unpack(&self, archive: &Path, root: &Path) -> Result<(), ProvisionError> {
        let command = Command::new(&self.programs.dpkg_deb)
            .arg("--extract")
            .arg(archive)
            .arg(root)
            .deadline(LOCAL);
        run("unpack a package", command).map(drop)
    }

    fn command(&self, program: &Path, deadline: Duration) -> Command {
        let option = |name: &str, value: &Path| {
            let mut text = OsString::from(format!("{name}="));
            text.push(value);
            [OsString::from("-o"), text]
        };
        Command::new(program)
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(option("Dir::State::Lists", &self.scratch.join("lists")))
            .args(option("Dir::Cache", &self.scratch.join("cache")))
            // The system's lock is another's, and as root apt would drop to a user who cannot
            // write here.
            .args(["-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User="])
            .args([
                "-o",
                "Acquire::Retries=3",
                "-o",
                "Acquire::http::Timeout=30",
            ])
            .deadline(deadline)
    }
}

/// Runs one step; anything but success is an error with the end of its output.
pub(super) fn run(what: &'static str, command: Command) -> Result<Output, ProvisionError> {
    let line = command.command_line().to_string();
    let output = command
        .run_blocking()
        .map_err(|source| ProvisionError::Run { what, source })?;
    if output.status.is_success() {
        return Ok(output);
    }
    let text = format!("{}{}", output.stdout_text(), output.stderr_text());
    let lines: Vec<&str> = text.lines().collect();
    let tail = &lines[lines.len().saturating_sub(20)..];
    Err(ProvisionError::Step {
        what,
        command: line,
        status: output.status.to_string(),
        output: tail.iter().map(|line| format!("  {line}\n")).collect(),
    })
}

/// The `(package, version)` rows of `apt-cache madison`, newest first within a package.
fn madison(text: &str) -> Vec<(&str, &str)> {
    text.lines()
        .filter_map(|line| {
            let mut columns = line.split('|').map(str::trim);
            Some((columns.next()?, columns.next()?))
                .filter(|(name, version)| !name.is_empty() && !version.is_empty())
        })
        .collect()
}

/// The newest emulator that has tools of its own version, and those.
fn choose(emulator: &str, rows: &[(&str, &str)]) -> Result<Vec<String>, String> {
    let of = |package: &str| {
        rows.iter()
            .filter(|row| row.0 == package)
            .map(|row| row.1)
            .collect::<Vec<_>>()
    };
    let (emulators, tools) = (of(emulator), of("qemu-utils"));
    if emulators.is_empty() {
        return Err(format!("no package {emulator}"));
    }
    for version in &emulators {
        // A rebuild of one package for one architecture ("+b3") does not change the source.
        let Some(tool) = tools
            .iter()
            .find(|tool| source_version(tool) == source_version(version))
        else {
            continue;
        };
        let mut chosen = vec![
            format!("{emulator}={version}"),
            format!("qemu-utils={tool}"),
        ];
        let extra = of("qemu-block-extra");
        if let Some(extra) = extra
            .iter()
            .find(|x| source_version(x) == source_version(version))
        {
            chosen.push(format!("qemu-block-extra={extra}"));
        }
        return Ok(chosen);
    }
    Err(format!(
        "{emulator} is offered as {}, qemu-utils only as {}",
        emulators.join(", "),
        if tools.is_empty() {
            "nothing".to_owned()
        } else {
            tools.join(", ")
        }
    ))
}

/// A version without the suffix of a binary-only rebuild.
fn source_version(version: &str) -> &str {
    match version.rsplit_once("+b") {
        Some((source, rebuild)) if rebuild.bytes().all(|b| b.is_ascii_digit()) => source,
        _ => version,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "\
qemu-system-x86 | 1:7.2+dfsg-7+deb12u18+b3 | mirror bookworm/main amd64 Packages
qemu-system-x86 | 1:7.2+dfsg-7+deb12u15 | mirror bookworm-security/main amd64 Packages
qemu-utils | 1:10.0.2+ds-2+deb13u1~bpo12+1 | mirror bookworm-backports/main amd64 Packages
qemu-utils | 1:7.2+dfsg-7+deb12u18+b1 | mirror bookworm/main amd64 Packages
qemu-block-extra | 1:7.2+dfsg-7+deb12u15 | mirror bookworm-security/main amd64 Packages
";

    #[test]
    fn the_tools_are_of_the_emulators_version_even_when_newer_ones_exist() {
        assert_eq!(
            choose("qemu-system-x86", &madison(LISTING)).unwrap(),
            [
                "qemu-system-x86=1:7.2+dfsg-7+deb12u18+b3",
                "qemu-utils=1:7.2+dfsg-7+deb12u18+b1",
            ]
        );
    }

    #[test]
    fn an_older_emulator_is_taken_when_the_newest_has_no_tools() {
        let rows = [
            ("e", "9"),
            ("e", "8"),
            ("qemu-utils", "8"),
            ("qemu-block-extra", "8+b2"),
        ];
        assert_eq!(
            choose("e", &rows).unwrap(),
            ["e=8", "qemu-utils=8", "qemu-block-extra=8+b2"]
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(choose("e", &[]).unwrap_err(), "no package e");
        assert_eq!(
            choose("e", &[("e", "9"), ("qemu-utils", "8")]).unwrap_err(),
            "e is offered as 9, qemu-utils only as 8"
        );
        assert_eq!(
            choose("e", &[("e", "9")]).unwrap_err(),
            "e is offered as 9, qemu-utils only as nothing"
        );
    }

    #[test]
    fn only_a_numeric_rebuild_suffix_is_dropped() {
        assert_eq!(source_version("1:7.2-1+b3"), "1:7.2-1");
        assert_eq!(source_version("1:7.2-1+bpo1"), "1:7.2-1+bpo1");
        assert_eq!(source_version("1:7.2-1"), "1:7.2-1");
    }
}
