//! Debian's package manager as a downloader: with our own lists, cache and packages, without root,
//! installing nothing. Its sources, keys and proxies apply.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use imgtools::process::{Command, Output};

use super::error::ProvisionError;
use super::files::{create_dir, write};
use super::source::{Archive, Source};

/// Long enough for a mirror over a slow line; a download that takes longer is stuck.
const DOWNLOAD: Duration = Duration::from_secs(15 * 60);
/// For commands that work only on local files.
const LOCAL: Duration = Duration::from_secs(5 * 60);

/// Settings for every call. No package counts as installed, so that all libraries down to the C
/// library are fetched; and the system's post-update hooks are disabled.
const SETTINGS: &str = r#"
APT::Get::List-Cleanup "false";
APT::Install-Recommends "false";
APT::Sandbox::User "";
APT::Update::Error-Mode "any";
Acquire::Languages { "none"; };
Acquire::Retries "3";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Debug::NoLocking "true";
Dir::State::status "/dev/null";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"#;

/// apt and dpkg, with all their state below one folder.
#[derive(Debug)]
pub(super) struct Apt {
    home: PathBuf,
    programs: Programs,
    archive: Option<Archive>,
}

/// The paths of the package manager's programs; tests replace them with stand-ins.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    pub(super) apt_get: PathBuf,
    pub(super) apt_cache: PathBuf,
    pub(super) dpkg_deb: PathBuf,
}

impl Programs {
    /// The system's own programs.
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

/// One row of `apt-cache madison`: a package, a version, and the suite that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) package: String,
    pub(super) version: String,
    pub(super) suite: String,
}

impl Apt {
    /// Prepares the folders below `home`. Suites are fetched from `archive`.
    pub(super) fn new(
        home: &Path,
        programs: Programs,
        archive: Option<Archive>,
    ) -> Result<Self, ProvisionError> {
        for folder in ["lists/partial", "archives/partial", "cache"] {
            create_dir(&home.join(folder))?;
        }
        write(&home.join("apt.conf"), SETTINGS.as_bytes())?;
        Ok(Self {
            home: home.to_owned(),
            programs,
            archive,
        })
    }

    /// The folder with the downloaded packages.
    pub(super) fn archives(&self) -> PathBuf {
        self.home.join("archives")
    }

    /// The addresses of the package lists in the machine's own sources.
    pub(super) fn own_lists(&self) -> Result<Vec<String>, ProvisionError> {
        let command = self
            .command(&self.programs.apt_get, &Source::Machine, LOCAL)?
            .args(["update", "--print-uris"]);
        let output = run("read the package sources", command)?;
        let text = output.stdout_text();
        let address = |line: &str| {
            let (address, _) = line.strip_prefix('\'')?.split_once('\'')?;
            Some(address.to_owned())
        };
        Ok(text.lines().filter_map(address).collect())
    }

    /// Updates our lists of one source. An error in one entry of the machine's own sources is
    /// ignored: what is available is determined later.
    pub(super) fn update(&self, source: &Source) -> Result<(), ProvisionError> {
        let command = self.command(&self.programs.apt_get, source, DOWNLOAD)?.arg("update");
        match (run("read the package lists", command), source) {
            (Err(ProvisionError::Step { .. }), Source::Machine) => Ok(()),
            (result, _) => result.map(drop),
        }
    }

    /// The versions of these packages that a source offers, newest first per package.
    pub(super) fn versions(
        &self,
        source: &Source,
        packages: &[&str],
    ) -> Result<Vec<Row>, ProvisionError> {
        let command =
            self.command(&self.programs.apt_cache, source, LOCAL)?.arg("madison").args(packages);
        let output = run("look up QEMU's packages", command)?;
        let mut rows = madison(&output.stdout_text());
        if let Source::Suite(suite) = source {
            rows.retain(|row| row.suite == *suite);
        }
        Ok(rows)
    }

    /// Downloads these packages, given as `package=version`, with all dependencies. Returns the
    /// files; existing ones are not fetched again.
    pub(super) fn download(
        &self,
        source: &Source,
        packages: &[String],
    ) -> Result<Vec<PathBuf>, ProvisionError> {
        let install = |extra: &[OsString]| {
            let command = self.command(&self.programs.apt_get, source, DOWNLOAD)?;
            let command = command.args(extra).args(["--yes", "--quiet"]);
            let output = run(
                "download QEMU's packages",
                command.arg("install").args(packages),
            )?;
            Ok::<String, ProvisionError>(output.stdout_text().into_owned())
        };
        // With an empty cache, no file counts as downloaded, so all are listed.
        let empty = self.home.join("none");
        create_dir(&empty.join("partial"))?;
        let mut nowhere = OsString::from("Dir::Cache::archives=");
        nowhere.push(&empty);
        let printed = install(&["-o".into(), nowhere, "--print-uris".into()])?;
        let archives: Vec<Archived> = printed.lines().filter_map(archived).collect();
        install(&["--download-only".into()])?;
        // Packages in a local file system are not copied.
        let path = |one: Archived| match one.address.strip_prefix("file:") {
            Some(path) => PathBuf::from(path),
            None => self.archives().join(one.name),
        };
        Ok(archives.into_iter().map(path).collect())
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

    /// Deletes the downloaded packages that are not in `kept`.
    pub(super) fn forget_archives(&self, kept: &[PathBuf]) -> Result<(), ProvisionError> {
        for name in super::files::file_names(&self.archives()) {
            let path = self.archives().join(&name);
            if path.is_file() && !kept.contains(&path) {
                fs::remove_file(&path).map_err(super::files::file("remove", &path))?;
            }
        }
        Ok(())
    }

    fn command(
        &self,
        program: &Path,
        source: &Source,
        deadline: Duration,
    ) -> Result<Command, ProvisionError> {
        let mut folders = vec![
            ("Dir::State::Lists", self.home.join("lists")),
            ("Dir::Cache", self.home.join("cache")),
            ("Dir::Cache::archives", self.archives()),
        ];
        if let Source::Suite(suite) = source {
            let archive = self.archive.as_ref().ok_or(ProvisionError::NoArchive)?;
            let list = self.home.join(format!("{suite}.sources"));
            write(&list, archive.entry(suite).as_bytes())?;
            folders.push(("Dir::Etc::SourceList", list));
            // The machine's other sources and preferences do not apply.
            let none = [
                "Dir::Etc::SourceParts",
                "Dir::Etc::Preferences",
                "Dir::Etc::PreferencesParts",
            ];
            folders.extend(none.map(|name| (name, PathBuf::from("/dev/null"))));
        }
        let release = match source {
            // Packages from backports, including libraries, are used only on request.
            Source::Suite(suite) => Some(format!("APT::Default-Release={suite}")),
            Source::Machine => None,
        };
        let release = release.into_iter().flat_map(|it| ["-o".to_owned(), it]);
        let options = folders.into_iter().flat_map(|(name, value)| {
            let mut text = OsString::from(format!("{name}="));
            text.push(value);
            [OsString::from("-o"), text]
        });
        Ok(Command::new(program)
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .arg("-c")
            .arg(self.home.join("apt.conf"))
            .args(options)
            .args(release)
            .deadline(deadline))
    }
}

/// Runs one step; a failure is an error that contains its complaints.
pub(super) fn run(what: &'static str, command: Command) -> Result<Output, ProvisionError> {
    let line = command.command_line().to_string();
    let output = command.run_blocking().map_err(|source| ProvisionError::Run { what, source })?;
    if output.status.is_success() {
        return Ok(output);
    }
    let text = format!("{}{}", output.stdout_text(), output.stderr_text());
    Err(ProvisionError::Step {
        what,
        command: line,
        status: output.status.to_string(),
        output: complaints(&text),
    })
}

/// The errors and warnings in apt's output; for another program, the end of its output.
fn complaints(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut told: Vec<&str> = Vec::new();
    for line in &lines {
        if (line.starts_with("E: ") || line.starts_with("W: ")) && !told.contains(line) {
            told.push(line);
        }
    }
    if told.is_empty() {
        told = lines[lines.len().saturating_sub(20)..].to_vec();
    }
    told.iter().map(|line| format!("  {line}\n")).collect()
}

/// A package in an archive.
#[derive(Debug, PartialEq, Eq)]
struct Archived {
    address: String,
    /// The name of the downloaded file.
    name: String,
}

/// Parses a line of `apt-get --print-uris`: `'ADDRESS' NAME SIZE HASH`.
fn archived(line: &str) -> Option<Archived> {
    let (address, rest) = line.strip_prefix('\'')?.split_once("' ")?;
    let name = rest.split(' ').next()?;
    (name.ends_with(".deb") && !name.contains('/')).then(|| Archived {
        address: address.to_owned(),
        name: name.to_owned(),
    })
}

/// Parses the output of `apt-cache madison`: `PACKAGE | VERSION | URI SUITE/COMPONENT ARCH
/// Packages`.
fn madison(text: &str) -> Vec<Row> {
    text.lines()
        .filter_map(|line| {
            let mut columns = line.split('|').map(str::trim);
            let (package, version) = (columns.next()?, columns.next()?);
            let mut place = columns.next()?.split_whitespace().skip(1);
            let suite = place.next().and_then(|suite| suite.split('/').next());
            let row = Row {
                package: package.to_owned(),
                version: version.to_owned(),
                suite: suite.unwrap_or_default().to_owned(),
            };
            (!package.is_empty() && !version.is_empty() && !line.ends_with("Sources"))
                .then_some(row)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_madison_have_a_package_a_version_and_a_suite() {
        let text = "\
qemu-system-x86 | 1:7.2+dfsg-7+deb12u18+b3 | http://mirror/debian bookworm/main amd64 Packages
qemu-utils | 1:10.0.2+ds-2+deb13u1~bpo12+1 | http://mirror/debian bookworm-backports/main amd64 Packages
      qemu | 1:7.2+dfsg-7+deb12u18 | http://mirror/debian bookworm/main Sources
";
        let row = |package: &str, version: &str, suite: &str| Row {
            package: package.to_owned(),
            version: version.to_owned(),
            suite: suite.to_owned(),
        };
        assert_eq!(
            madison(text),
            [
                row("qemu-system-x86", "1:7.2+dfsg-7+deb12u18+b3", "bookworm"),
                row(
                    "qemu-utils",
                    "1:10.0.2+ds-2+deb13u1~bpo12+1",
                    "bookworm-backports"
                ),
            ]
        );
    }

    #[test]
    fn the_files_of_a_download_are_read_from_its_addresses() {
        let line = "'http://m/q_1%3a7.2%2bdfsg-7_amd64.deb' q_1%3a7.2+dfsg-7_amd64.deb 9 SHA256:x";
        let read = archived(line).unwrap();
        assert_eq!(read.address, "http://m/q_1%3a7.2%2bdfsg-7_amd64.deb");
        assert_eq!(read.name, "q_1%3a7.2+dfsg-7_amd64.deb");
        let others = [
            "Reading package lists...",
            "  libc6",
            "'x' ../a.deb 1 y",
            "'x' list 1 y",
        ];
        for other in others {
            assert_eq!(archived(other), None, "{other}");
        }
    }

    #[test]
    fn what_apt_complains_about_is_told_once_and_without_its_progress() {
        let text = "Get:1 x\nE: no such host\nReading lists\nE: no such host\nW: old\n";
        assert_eq!(complaints(text), "  E: no such host\n  W: old\n");
        assert_eq!(complaints("a\nb\n"), "  a\n  b\n");
    }
}
