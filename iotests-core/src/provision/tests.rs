//! Provisioning from locally created archives, with the real package manager: signed, broken in
//! various ways, and on a full disk.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::apt::Programs;
use super::error::{ProvisionError, chain};
use super::files::{file_names, install};
use super::prefix::{Prefix, emulator_package, installed};
use super::run::{Provisioner, Surroundings};
use super::source::Archive;

/// A Debian-style archive, and a root to provision into.
struct Bench {
    folder: TempDir,
    programs: Programs,
    address: String,
}

const KEY: &str = "archive@example.org";

impl Bench {
    /// With the suites `old` (7.2, whose packages do not show that it is 7.2.22), `mid` (10.0.2)
    /// and `new` (11.1.3). `None` if Debian's tools are missing.
    fn new() -> Option<Self> {
        let programs = Programs::system();
        let has_gpg = Command::new("gpg").arg("--version").output().is_ok();
        let (Ok(programs), true) = (programs, has_gpg) else {
            let required = std::env::var_os("QEMU_TEST_REQUIRE").is_some_and(|value| value == "1");
            assert!(
                !required,
                "QEMU_TEST_REQUIRE is 1, but apt, dpkg or gpg is missing"
            );
            eprintln!("skipped: apt, dpkg or gpg is missing");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let address = format!("file:{}/debian", folder.path().display());
        let bench = Self {
            folder,
            programs,
            address,
        };
        bench.make_key(KEY, "keys.gpg");
        bench.offer("old", "1:7.2+dfsg-7", "7.2.22");
        bench.offer("mid", "1:10.0.2+ds-2", "10.0.2");
        bench.offer("new", "1:11.1.3+ds-1", "11.1.3");
        Some(bench)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn root(&self) -> PathBuf {
        self.path("target's/qemu")
    }

    fn gpg(&self) -> Command {
        let home = self.path("gpg");
        fs::create_dir_all(&home).unwrap();
        let mut command = Command::new("gpg");
        command.arg("--homedir").arg(home);
        command.args(["--batch", "--yes", "--quiet", "--passphrase", ""]);
        command
    }

    fn make_key(&self, name: &str, file: &str) {
        run(self.gpg().args(["--quick-generate-key", name, "rsa2048", "sign", "never"]));
        let mut export = self.gpg();
        export.arg("--output").arg(self.path(file));
        run(export.args(["--export", name]));
    }

    /// Adds a QEMU whose programs are scripts to a suite.
    fn offer(&self, suite: &str, package: &str, version: &str) {
        let emulator = format!("echo 'QEMU emulator version {version} (Test)'");
        self.offer_with(suite, package, version, &emulator);
    }

    fn offer_with(&self, suite: &str, package: &str, version: &str, emulator: &str) {
        let pool = self.path("debian/pool").join(suite);
        let _ = fs::remove_dir_all(&pool);
        let tree = self.path("tree");
        let name = emulator_package();
        let native = match std::env::consts::ARCH {
            "x86" => "i386",
            "powerpc64" => "ppc64",
            other => other,
        };
        let program =
            |name: &str, said: &str| (format!("usr/bin/{name}"), format!("#!/bin/sh\n{said}\n"));
        let said = |what: &str| format!("echo '{what} {version} (Test)'");
        let library = vec![(
            "usr/lib/arch/libshared.so.1".to_owned(),
            "x".repeat(1 << 20),
        )];
        let packages = [
            ("shared", "1", "", library),
            (
                name,
                package,
                "shared",
                vec![
                    program(&format!("qemu-system-{native}"), emulator),
                    program("qemu-system-wrapped", "exec /usr/libexec/none"),
                ],
            ),
            (
                "qemu-utils",
                package,
                "",
                vec![
                    program("qemu-img", &said("qemu-img version")),
                    program("qemu-nbd", &said("qemu-nbd")),
                ],
            ),
        ];
        for (name, version, needs, files) in packages {
            let _ = fs::remove_dir_all(&tree);
            fs::create_dir_all(tree.join("DEBIAN")).unwrap();
            let needs = if needs.is_empty() {
                String::new()
            } else {
                format!("Depends: {needs}\n")
            };
            let control = format!(
                "Package: {name}\nVersion: {version}\nArchitecture: all\n\
                 Maintainer: Test <{KEY}>\n{needs}Description: test\n"
            );
            fs::write(tree.join("DEBIAN/control"), control).unwrap();
            for (path, text) in files {
                fs::create_dir_all(tree.join(&path).parent().unwrap()).unwrap();
                install(&tree.join(path), text).unwrap();
            }
            fs::create_dir_all(&pool).unwrap();
            let mut build = Command::new(&self.programs.dpkg_deb);
            // Not compressed, so that truncation removes the intended part.
            build.args(["-Znone", "--root-owner-group", "--build"]);
            run(build.arg(&tree).arg(pool.join(format!("{name}.deb"))));
        }
        self.index(suite);
        self.sign(suite, KEY);
    }

    /// Writes the package lists of a suite.
    fn index(&self, suite: &str) {
        let pool = self.path("debian/pool").join(suite);
        let mut packages = String::new();
        for name in file_names(&pool) {
            let path = pool.join(&name);
            let mut show = Command::new(&self.programs.dpkg_deb);
            let control = run(show.arg("--field").arg(&path));
            let size = fs::metadata(&path).unwrap().len();
            let hash = sha256(&path);
            packages += &format!(
                "{control}Filename: pool/{suite}/{name}\nSize: {size}\nSHA256: {hash}\n\n"
            );
        }
        let lists = self.path("debian/dists").join(suite);
        let folder = "main/binary-all";
        fs::create_dir_all(lists.join(folder)).unwrap();
        let file = lists.join(folder).join("Packages");
        fs::write(&file, &packages).unwrap();
        let release = format!(
            "Origin: Test\nSuite: {suite}\nCodename: {suite}\nComponents: main\n\
             Architectures: all\nNo-Support-for-Architecture-all: Packages\n\
             Date: Thu, 01 Jan 2026 00:00:00 UTC\n\
             SHA256:\n {} {} {folder}/Packages\n",
            sha256(&file),
            packages.len(),
        );
        let release = release.replace("No-Support-for-Architecture-all: Packages\n", "");
        fs::write(lists.join("Release"), release).unwrap();
    }

    fn sign(&self, suite: &str, key: &str) {
        let lists = self.path("debian/dists").join(suite);
        let mut sign = self.gpg();
        sign.args(["--local-user", key, "--clearsign", "--output"]);
        run(sign.arg(lists.join("InRelease")).arg(lists.join("Release")));
    }

    fn surroundings(&self) -> Surroundings {
        Surroundings {
            programs: Ok(self.programs.clone()),
            archive: Some(Archive {
                address: self.address.clone(),
                keys: Some(self.path("keys.gpg")),
            }),
            suites: ["old", "mid", "new"].map(str::to_owned).to_vec(),
        }
    }

    fn ask_at(
        &self,
        root: &Path,
        list: &str,
    ) -> (Result<Vec<Prefix>, ProvisionError>, Vec<String>) {
        let mut notes = Vec::new();
        let mut note = |text: &str| notes.push(text.to_owned());
        let request = list.parse().unwrap();
        let made = Provisioner::new(root, self.surroundings(), &mut note)
            .and_then(|mut provisioner| provisioner.run(&request));
        (made, notes)
    }

    fn ask(&self, list: &str) -> (Result<Vec<Prefix>, ProvisionError>, Vec<String>) {
        self.ask_at(&self.root(), list)
    }

    /// The names of the prefixes for this list.
    fn names(&self, list: &str) -> Vec<String> {
        let made = self.ask(list).0.unwrap_or_else(|error| panic!("{}", chain(&error)));
        made.into_iter().map(|prefix| prefix.name).collect()
    }

    /// The error; also checks that nothing else has changed.
    fn refusal(&self, list: &str) -> String {
        let before = self.there();
        let error = self.ask(list).0.expect_err("it was not refused");
        assert_eq!(self.there(), before);
        chain(&error)
    }

    /// All usable prefixes; no folder may exist besides them and the shared one.
    fn there(&self) -> Vec<String> {
        let prefixes = installed(&self.root());
        let all: Vec<String> = prefixes.iter().map(|prefix| prefix.name.clone()).collect();
        assert!(prefixes.iter().all(Prefix::is_usable), "{all:?}");
        let mut names = file_names(&self.root());
        names.retain(|name| ![".lock", ".downloads"].contains(&&**name) && !all.contains(name));
        assert!(names.is_empty(), "{names:?} was left behind");
        all
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn sha256(path: &Path) -> String {
    let sum = run(Command::new("sha256sum").arg(path));
    sum.split(' ').next().unwrap().to_owned()
}

#[test]
fn each_version_has_a_prefix_of_its_own_and_a_second_call_fetches_nothing() {
    let Some(bench) = Bench::new() else { return };
    let (made, notes) = bench.ask("all");
    let made: Vec<String> = made.unwrap().into_iter().map(|prefix| prefix.name).collect();
    assert_eq!(made, ["7.2.22", "10.0.2", "11.1.3"]);
    assert!(!notes.is_empty());
    assert_eq!(bench.there(), made);
    // Even the archive is not needed.
    fs::rename(bench.path("debian"), bench.path("gone")).unwrap();
    for (list, expected) in [
        ("all", vec!["7.2.22", "10.0.2", "11.1.3"]),
        ("7.2,10.0.2", vec!["7.2.22", "10.0.2"]),
        ("newest", vec!["11.1.3"]),
        ("mid,new", vec!["10.0.2", "11.1.3"]),
    ] {
        let (made, notes) = bench.ask(list);
        let made: Vec<String> = made.unwrap().into_iter().map(|prefix| prefix.name).collect();
        assert_eq!(made, expected, "{list}");
        assert!(notes.is_empty(), "{list}: {notes:?}");
    }
}

#[test]
fn every_program_that_starts_is_in_the_prefix_and_no_other() {
    let Some(bench) = Bench::new() else { return };
    bench.names("new");
    let bin = installed(&bench.root())[0].bin();
    let programs = file_names(&bin);
    assert!(programs.contains(&"qemu-nbd".to_owned()), "{programs:?}");
    assert!(
        !programs.contains(&"qemu-system-wrapped".to_owned()),
        "{programs:?}"
    );
}

#[test]
fn a_version_that_the_archive_does_not_have_is_refused_with_those_that_it_has() {
    let Some(bench) = Bench::new() else { return };
    bench.names("mid");
    let error = bench.refusal("9.2");
    assert!(
        error.contains("9.2; available: 7.2 (old), 10.0.2 (mid), 11.1.3 (new)"),
        "{error}"
    );
    // The package is called 7.2, and only the program reports the full version. The prefix made
    // from it is complete.
    let error = chain(&bench.ask("7.2.9").0.unwrap_err());
    assert!(error.contains("7.2.9; available: 7.2.22"), "{error}");
    assert_eq!(bench.there(), ["7.2.22", "10.0.2"]);
}

#[test]
fn what_the_archive_has_moved_on_to_is_made_and_the_old_stays_until_it_is_pruned() {
    let Some(bench) = Bench::new() else { return };
    assert_eq!(bench.names("newest"), ["11.1.3"]);
    bench.offer("new", "1:11.2.0+ds-1", "11.2.0");
    // What was seen a moment ago is still valid.
    assert_eq!(bench.names("newest"), ["11.1.3"]);
    fs::remove_file(bench.root().join(".downloads/offers.json")).unwrap();
    assert_eq!(bench.names("newest"), ["11.2.0"]);
    assert_eq!(bench.there(), ["11.1.3", "11.2.0"]);
    assert_eq!(bench.names("11.1"), ["11.1.3"]);
    assert_eq!(bench.names("newest,prune"), ["11.2.0"]);
    assert_eq!(bench.there(), ["11.2.0"]);
    assert!(bench.names("prune").is_empty());
    assert!(bench.there().is_empty());
    assert_eq!(file_names(&bench.root()), [".lock"]);
}

#[test]
fn a_suite_that_is_gone_is_named_and_the_others_can_be_had() {
    let Some(bench) = Bench::new() else { return };
    bench.names("mid");
    fs::remove_dir_all(bench.path("debian/dists/old")).unwrap();
    for list in ["old", "all", "7.2"] {
        let error = bench.refusal(list);
        assert!(error.contains("learn what old offers"), "{list}: {error}");
        assert!(
            error.contains("does not have a Release file"),
            "{list}: {error}"
        );
    }
    assert_eq!(bench.names("new,10.0"), ["10.0.2", "11.1.3"]);
}

#[test]
fn a_signature_of_another_or_none_is_refused() {
    let Some(bench) = Bench::new() else { return };
    bench.names("mid");
    bench.make_key("other@example.org", "other.gpg");
    bench.sign("new", "other@example.org");
    let error = bench.refusal("newest");
    assert!(
        error.contains("new") && error.contains("GPG error"),
        "{error}"
    );
    fs::remove_file(bench.path("debian/dists/new/InRelease")).unwrap();
    let error = bench.refusal("new");
    assert!(error.contains("not signed"), "{error}");
    assert_eq!(bench.names("10"), ["10.0.2"]);
}

#[test]
fn a_package_that_is_not_the_one_that_was_signed_is_refused() {
    let Some(bench) = Bench::new() else { return };
    bench.names("mid");
    let package = bench.path("debian/pool/new/qemu-utils.deb");
    let mut data = fs::read(&package).unwrap();
    let middle = data.len() / 2;
    data[middle] ^= 1;
    fs::write(&package, data).unwrap();
    let error = bench.refusal("new");
    assert!(error.contains("Hash Sum mismatch"), "{error}");
}

#[test]
fn an_emulator_that_does_not_start_is_refused_with_what_it_said() {
    let Some(bench) = Bench::new() else { return };
    bench.names("mid");
    let says = "echo libmissing.so.1: not found >&2; exit 127";
    bench.offer_with("new", "1:12.0.0+ds-1", "12.0.0", says);
    let error = bench.refusal("new");
    assert!(
        error.contains("qemu-system-") && error.contains("libmissing"),
        "{error}"
    );
}

#[test]
fn what_was_left_half_made_by_one_that_was_killed_is_removed() {
    let Some(bench) = Bench::new() else { return };
    let half = bench.root().join(".unpacking-a1b2c3/prefix/root/usr");
    fs::create_dir_all(half).unwrap();
    bench.names("mid");
    assert_eq!(bench.there(), ["10.0.2"]);
}

#[test]
fn a_prefix_that_no_longer_starts_or_stood_elsewhere_is_made_anew() {
    let Some(bench) = Bench::new() else { return };
    bench.names("mid");
    fs::remove_dir_all(bench.root().join("10.0.2/root")).unwrap();
    assert_eq!(bench.names("10.0"), ["10.0.2"]);
    assert_eq!(bench.there(), ["10.0.2"]);
    // Its programs refer to their loader by absolute path.
    let other = bench.path("other");
    fs::rename(bench.root(), &other).unwrap();
    assert!(!installed(&other)[0].is_usable());
    let (made, notes) = bench.ask_at(&other, "10.0");
    assert!(made.unwrap()[0].is_usable() && !notes.is_empty());
}

#[test]
fn without_a_list_the_machines_own_sources_are_used_and_any_emulator_will_do() {
    let Some(mut bench) = Bench::new() else {
        return;
    };
    let list = bench.path("own.sources");
    let keys = bench.path("keys.gpg");
    let text = format!(
        "Types: deb\nURIs: {}\nSuites: mid\nComponents: main\nSigned-By: {}\n",
        bench.address,
        keys.display()
    );
    fs::write(&list, text).unwrap();
    for program in [&mut bench.programs.apt_get, &mut bench.programs.apt_cache] {
        let real = program.clone();
        let name = real.file_name().unwrap().to_str().unwrap();
        let stand_in = bench.folder.path().join(name);
        let text = format!(
            "#!/bin/sh\nexec {} -o Dir::Etc::SourceList='{}' -o Dir::Etc::SourceParts=/dev/null \"$@\"\n",
            real.display(),
            list.display()
        );
        install(&stand_in, text).unwrap();
        *program = stand_in;
    }
    assert_eq!(bench.names(""), ["10.0.2"]);
    fs::remove_dir_all(bench.path("debian/dists")).unwrap();
    assert_eq!(bench.names(""), ["10.0.2"]);
}

/// Serves the archive over HTTP; files in `cut` are truncated half-way.
struct Server {
    asked: Arc<Mutex<Vec<String>>>,
    cut: Arc<Mutex<Option<String>>>,
    port: u16,
}

impl Server {
    fn start(folder: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            asked: Arc::default(),
            cut: Arc::default(),
            port: listener.local_addr().unwrap().port(),
        };
        let (asked, cut) = (Arc::clone(&server.asked), Arc::clone(&server.cut));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let cut = cut.lock().unwrap().clone();
                // A client that disconnects does not matter.
                let _ = Self::answer(stream, &folder, &asked, cut.as_deref());
            }
        });
        server
    }

    fn answer(
        stream: TcpStream,
        folder: &Path,
        asked: &Mutex<Vec<String>>,
        cut: Option<&str>,
    ) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut request = String::new();
        reader.read_line(&mut request)?;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
                break;
            }
        }
        let mut stream = stream;
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let Ok(data) = fs::read(folder.join(path.trim_start_matches('/'))) else {
            return stream.write_all(
                b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            );
        };
        asked.lock().unwrap().push(path.clone());
        let header = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            data.len()
        );
        stream.write_all(header.as_bytes())?;
        let is_cut = cut.is_some_and(|part| path.contains(part));
        let end = if is_cut { data.len() / 2 } else { data.len() };
        stream.write_all(&data[..end])
    }
}

#[test]
fn a_network_that_fails_half_way_leaves_what_there_was_and_is_gone_on_with() {
    let Some(mut bench) = Bench::new() else {
        return;
    };
    bench.names("mid");
    let server = Server::start(bench.folder.path().to_owned());
    bench.address = format!("http://127.0.0.1:{}/debian", server.port);
    *server.cut.lock().unwrap() = Some("qemu-utils".to_owned());
    let error = bench.refusal("new");
    assert!(
        error.contains("qemu-utils") && error.contains("E: "),
        "{error}"
    );
    let fetched = |what: &str| {
        let asked = server.asked.lock().unwrap();
        asked.iter().filter(|path| path.contains(what)).count()
    };
    assert_eq!(fetched("pool/new/shared"), 1);
    *server.cut.lock().unwrap() = None;
    assert_eq!(bench.names("new"), ["11.1.3"]);
    assert_eq!(fetched("pool/new/shared"), 1, "it was there already");
    // No server is listening.
    bench.address = "http://127.0.0.1:1/debian".to_owned();
    let error = bench.refusal("old");
    assert!(error.contains("learn what old offers"), "{error}");
}

/// Set if a small disk is mounted for this test.
const SMALL_DISK: &str = "PROVISION_TEST_SMALL_DISK";

#[test]
fn a_full_disk_is_told_and_leaves_what_there_was() {
    let Some(bench) = Bench::new() else { return };
    let Some(disk) = std::env::var_os(SMALL_DISK) else {
        return on_a_small_disk("a_full_disk_is_told_and_leaves_what_there_was");
    };
    let root = PathBuf::from(disk).join("qemu");
    bench.ask_at(&root, "mid").0.unwrap();
    // Another prefix would fit, but not beside this file.
    let ballast = root.parent().unwrap().join("ballast");
    let mut file = fs::File::create(&ballast).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    drop(file);
    let error = chain(&bench.ask_at(&root, "new").0.unwrap_err());
    assert!(error.contains("No space left on device"), "{error}");
    let there = installed(&root);
    assert!(there.len() == 1 && there[0].is_usable(), "{there:?}");
    fs::remove_file(&ballast).unwrap();
    assert_eq!(bench.ask_at(&root, "new").0.unwrap()[0].name, "11.1.3");
}

/// Runs one test again in a mount namespace with a small disk, if the kernel allows it.
fn on_a_small_disk(test: &str) {
    let folder = tempfile::tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=16m tmpfs \"$0\" && exec \"$@\"";
    let mut probe = Command::new("unshare");
    probe.args(["--map-root-user", "--mount", "sh", "-c", mount]);
    let allowed = probe.arg(folder.path()).arg("true").output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no disk can be mounted in a namespace of its own here");
        return;
    }
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", mount]);
    command.arg(folder.path());
    command.arg(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "--nocapture",
        &format!("provision::tests::{test}"),
    ]);
    let output = command.env(SMALL_DISK, folder.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{output:?}"
    );
}
