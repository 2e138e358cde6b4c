//! The prefix: making it whole or not at all, finding the ones that are there.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use imgtools::process::Command;

use super::apt::{self, Apt, Programs};
use super::distribution::Family;
use super::error::ProvisionError;

/// Asking a program for its version takes milliseconds; a loaded machine gets its time.
const VERSION: Duration = Duration::from_secs(60);

/// How the names of folders begin in which a prefix is made.
const UNPACKING: &str = ".unpacking-";

/// A folder whose `bin` holds the programs of one QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix {
    /// QEMU's version, which is the folder's name: `7.2.22`.
    pub name: String,
    /// The folder.
    pub path: PathBuf,
}

impl Prefix {
    /// The folder with the programs.
    pub fn bin(&self) -> PathBuf {
        self.path.join("bin")
    }
}

/// The prefixes below `root`, oldest version first; none when there is no such folder.
pub fn installed(root: &Path) -> Vec<Prefix> {
    let mut found: Vec<Prefix> = file_names(root)
        .into_iter()
        // What is being made, or was left half made, starts with a dot.
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

/// A working prefix with an emulator below `root`: the one that is there, else a new one.
///
/// `note` is told, in a line each, what takes time.
///
/// # Errors
///
/// See [`ProvisionError`]; nothing half made stays behind.
pub fn ensure(root: &Path, note: &mut dyn FnMut(&str)) -> Result<Prefix, ProvisionError> {
    if let Some(prefix) = usable(root) {
        return Ok(prefix);
    }
    let family = Family::of_this_machine();
    if family != Family::Debian {
        return Err(ProvisionError::Unsupported {
            command: family.install_command(),
        });
    }
    make(root, Programs::system()?, note)
}

fn make(
    root: &Path,
    programs: Programs,
    note: &mut dyn FnMut(&str),
) -> Result<Prefix, ProvisionError> {
    create_dir(root)?;
    let root = &fs::canonicalize(root).map_err(file("resolve", root))?;
    if root.to_str().is_none_or(|text| text.contains(':')) {
        return Err(ProvisionError::Path { path: root.clone() });
    }
    // Two runs at once: the second waits, and finds what the first made.
    let lock_path = root.join(".lock");
    let lock = File::create(&lock_path).map_err(file("create", &lock_path))?;
    if lock.try_lock().is_err() {
        note("waiting for another run, which provisions already");
        lock.lock().map_err(file("lock", &lock_path))?;
    }
    if let Some(prefix) = usable(root) {
        return Ok(prefix);
    }
    // Hundreds of megabytes of one that was killed: nobody else is here.
    for name in file_names(root) {
        if name.starts_with(UNPACKING) {
            let path = root.join(name);
            fs::remove_dir_all(&path).map_err(file("remove", &path))?;
        }
    }
    let scratch = tempfile::Builder::new()
        .prefix(UNPACKING)
        .tempdir_in(root)
        .map_err(file("create a folder in", root))?;

    note("reading the package sources");
    let apt = Apt::new(scratch.path().join("apt"), programs)?;
    apt.update()?;
    let packages = apt.choose()?;
    note(&format!("downloading {}", packages.join(", ")));
    let archives = apt.download(&packages)?;
    note(&format!(
        "unpacking {} packages into a private folder",
        archives.len()
    ));
    let whole = scratch.path().join("prefix");
    let tree = whole.join("root");
    create_dir(&tree)?;
    for archive in &archives {
        apt.unpack(archive, &tree)?;
    }
    let (name, programs) = check(&tree)?;
    let target = root.join(&name);
    write_launchers(&whole.join("bin"), &programs, &tree, &target.join("root"))?;
    if target.exists() {
        // It was there and not usable, or we would have returned above.
        fs::remove_dir_all(&target).map_err(file("remove", &target))?;
    }
    fs::rename(&whole, &target).map_err(file("rename a folder to", &target))?;
    Ok(Prefix { name, path: target })
}

/// The newest prefix whose emulator and tools start.
fn usable(root: &Path) -> Option<Prefix> {
    installed(root).into_iter().rev().find(|prefix| {
        let names = file_names(&prefix.bin());
        let Some(emulator) = emulator(&names) else {
            return false;
        };
        [emulator, "qemu-img"].iter().all(|program| {
            version(Command::new(prefix.bin().join(program)).arg("--version")).is_ok()
        })
    })
}

/// Starts what was unpacked, and returns the version of its `qemu-img` and the programs that start.
///
/// Not all need do so: Debian wraps some emulators in a script that calls the real one by an
/// absolute path, which exists only where the package is installed.
fn check(tree: &Path) -> Result<(String, Vec<String>), ProvisionError> {
    let bin = tree.join("usr/bin");
    let libraries = library_path(tree, tree).join(":");
    let run = |program: &str| {
        let command = Command::new(bin.join(program)).env("LD_LIBRARY_PATH", &libraries);
        version(command.arg("--version")).map_err(|why| ProvisionError::Broken {
            program: program.to_owned(),
            why,
        })
    };
    let names: Vec<String> = file_names(&bin)
        .into_iter()
        .filter(|name| name.starts_with("qemu-"))
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
    Ok((
        version,
        names
            .iter()
            .filter(|name| run(name).is_ok())
            .cloned()
            .collect(),
    ))
}

/// The version that a program prints, or what it printed instead.
fn version(command: Command) -> Result<String, String> {
    let output = command
        .deadline(VERSION)
        .run_blocking()
        .map_err(|error| error.to_string())?;
    let text = output.stdout_text();
    // "qemu-img version 7.2.22 (Debian …)", but "qemu-nbd 7.2.22 (Debian …)".
    let number = |word: &&str| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
    if let Some(number) = text
        .split_whitespace()
        .find(number)
        .filter(|_| output.status.is_success())
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
    let mut all = programs
        .iter()
        .map(String::as_str)
        .filter(|name| name.starts_with("qemu-system-"));
    all.clone()
        .find(|name| *name == native)
        .or_else(|| all.next())
}

/// A launcher for each program: it sets the library path and becomes the program.
fn write_launchers(
    bin: &Path,
    programs: &[String],
    tree: &Path,
    installed_tree: &Path,
) -> Result<(), ProvisionError> {
    create_dir(bin)?;
    let libraries = library_path(tree, installed_tree).join(":");
    for program in programs {
        let path = bin.join(program);
        let target = installed_tree.join("usr/bin").join(program);
        let text = format!(
            "#!/bin/sh\nLD_LIBRARY_PATH={}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}} exec {} \"$@\"\n",
            quote(&libraries),
            quote(&target.to_string_lossy()),
        );
        install(&path, text)?;
    }
    Ok(())
}

/// Writes a program from another process. A descriptor of ours that is open for writing could be
/// inherited by whatever another thread starts at this moment, and as long as it is open nobody can
/// run the program ("Text file busy").
fn install(path: &Path, text: String) -> Result<(), ProvisionError> {
    let command = Command::new("install")
        .args(["-m", "755", "/dev/stdin"])
        .arg(path);
    apt::run(
        "write a launcher",
        command.stdin_data(text).deadline(VERSION),
    )
    .map(drop)
}

/// The folders with shared libraries in `tree`, as they will be named below `installed_tree`.
fn library_path(tree: &Path, installed_tree: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["usr/lib", "lib"] {
        for name in std::iter::once(String::new()).chain(file_names(&tree.join(folder))) {
            let relative = Path::new(folder).join(name);
            let has_library = file_names(&tree.join(&relative))
                .iter()
                .any(|name| name.contains(".so"));
            if has_library {
                found.push(installed_tree.join(relative).to_string_lossy().into_owned());
            }
        }
    }
    found
}

/// A word for a shell, in single quotes.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The UTF-8 names in a folder, sorted; none when it cannot be read.
fn file_names(folder: &Path) -> Vec<String> {
    let Ok(listing) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<String> = listing
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// Orders `7.2.22` before `10.0.2`.
fn version_key(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

fn create_dir(path: &Path) -> Result<(), ProvisionError> {
    fs::create_dir_all(path).map_err(file("create", path))
}

fn file(
    verb: &'static str,
    path: &(impl AsRef<OsStr> + ?Sized),
) -> impl FnOnce(std::io::Error) -> ProvisionError {
    let path = PathBuf::from(path);
    move |source| ProvisionError::File { verb, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(path: &Path, body: &str) {
        install(path, format!("#!/bin/sh\n{body}\n")).unwrap();
    }

    /// Stand-ins for apt and dpkg: they log their calls and deliver a QEMU made of scripts.
    fn stand_ins(folder: &Path, emulator: &str) -> Programs {
        let log = folder.join("calls");
        let path = |name: &str| folder.join(name);
        script(
            &path("apt-get"),
            &format!(
                "echo \"$@\" >>'{log}'\nfor a in \"$@\"; do case $a in Dir::Cache=*) c=${{a#*=}};; esac; done\n\
                 case \"$*\" in *install*) : >\"$c/archives/a.deb\";; esac",
                log = log.display()
            ),
        );
        script(
            &path("apt-cache"),
            "printf 'qemu-system-x86 | 1:7.2 | m\\nqemu-system-arm | 1:7.2 | m\\nqemu-utils | 1:7.2 | m\\n'",
        );
        script(
            &path("dpkg-deb"),
            &format!(
                "mkdir -p \"$3/usr/bin\" \"$3/usr/lib/arch\"\n: >\"$3/usr/lib/arch/libx.so.1\"\n\
                 printf '#!/bin/sh\\necho \"qemu-img version 7.2.22 (Test)\"\\n' >\"$3/usr/bin/qemu-img\"\n\
                 printf '#!/bin/sh\\n{emulator}\\n' >\"$3/usr/bin/qemu-system-x86_64\"\n\
                 printf '#!/bin/sh\\necho \"qemu-nbd 7.2.22 (Test)\"\\n' >\"$3/usr/bin/qemu-nbd\"\n\
                 printf '#!/bin/sh\\nexec /usr/libexec/none\\n' >\"$3/usr/bin/qemu-system-wrapped\"\n\
                 chmod +x \"$3\"/usr/bin/*"
            ),
        );
        Programs {
            apt_get: path("apt-get"),
            apt_cache: path("apt-cache"),
            dpkg_deb: path("dpkg-deb"),
        }
    }

    const WORKS: &str = "echo \"QEMU emulator version 7.2.22 $LD_LIBRARY_PATH\"";

    #[test]
    fn a_prefix_is_made_once_and_then_only_found() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("build's folder/qemu");
        let programs = stand_ins(folder.path(), WORKS);
        let mut notes = Vec::new();
        let made = make(&root, programs.clone(), &mut |note| {
            notes.push(note.to_owned())
        })
        .unwrap();
        assert_eq!(made.name, "7.2.22");
        assert_eq!(notes.len(), 3, "{notes:?}");
        let calls = fs::read_to_string(folder.path().join("calls")).unwrap();
        assert!(
            calls.lines().count() == 2 && calls.contains("--download-only"),
            "{calls}"
        );
        assert!(
            calls
                .lines()
                .all(|line| line.contains("Dir::State::Lists=")),
            "{calls}"
        );

        let again = make(&root, programs, &mut |note| panic!("{note}")).unwrap();
        assert_eq!(again, made);
        assert_eq!(
            fs::read_to_string(folder.path().join("calls")).unwrap(),
            calls
        );
        assert_eq!(installed(&root), [again]);
        assert_eq!(
            file_names(&root),
            [".lock", "7.2.22"],
            "nothing half made stays"
        );
    }

    #[test]
    fn what_was_left_half_made_by_one_that_was_killed_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("qemu");
        let half = root.join(".unpacking-a1b2c3/prefix/root/usr");
        fs::create_dir_all(half).unwrap();
        make(&root, stand_ins(folder.path(), WORKS), &mut |_| ()).unwrap();
        assert_eq!(file_names(&root), [".lock", "7.2.22"]);
    }

    #[test]
    fn a_launcher_sets_the_library_path_of_its_own_prefix() {
        let folder = tempfile::tempdir().unwrap();
        let prefix = make(
            &folder.path().join("a b"),
            stand_ins(folder.path(), WORKS),
            &mut |_| (),
        )
        .unwrap();
        let command = Command::new(prefix.bin().join("qemu-system-x86_64"));
        let output = command.run_blocking().unwrap();
        let expected = prefix.path.join("root/usr/lib/arch");
        assert!(
            output.stdout_text().contains(&*expected.to_string_lossy()),
            "{}",
            output.stdout_text()
        );
    }

    #[test]
    fn every_program_that_starts_has_a_launcher_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let prefix = make(
            &folder.path().join("q"),
            stand_ins(folder.path(), WORKS),
            &mut |_| (),
        )
        .unwrap();
        assert_eq!(
            file_names(&prefix.bin()),
            ["qemu-img", "qemu-nbd", "qemu-system-x86_64"]
        );
    }

    #[test]
    fn a_prefix_that_no_longer_starts_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("qemu");
        let programs = stand_ins(folder.path(), WORKS);
        let made = make(&root, programs.clone(), &mut |_| ()).unwrap();
        fs::remove_dir_all(made.path.join("root")).unwrap();
        let mut notes = 0;
        assert_eq!(make(&root, programs, &mut |_| notes += 1).unwrap(), made);
        assert_eq!(notes, 3);
        assert!(made.path.join("root/usr/bin/qemu-img").is_file());
    }

    #[test]
    fn an_emulator_that_does_not_start_is_refused_with_what_it_said_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("qemu");
        let programs = stand_ins(
            folder.path(),
            "echo libmissing.so.1: not found >&2; exit 127",
        );
        let error = make(&root, programs, &mut |_| ()).unwrap_err().to_string();
        assert!(
            error.contains("qemu-system-x86_64") && error.contains("libmissing"),
            "{error}"
        );
        assert_eq!(file_names(&root), [".lock"]);
    }

    #[test]
    fn a_failed_download_shows_the_command_and_its_output() {
        let folder = tempfile::tempdir().unwrap();
        let mut programs = stand_ins(folder.path(), WORKS);
        programs.apt_get = folder.path().join("broken");
        script(
            &programs.apt_get,
            "echo 'E: no route to the mirror' >&2; exit 100",
        );
        let error = make(&folder.path().join("q"), programs, &mut |_| ()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("broken") && text.contains("no route to the mirror"),
            "{text}"
        );
        assert!(text.contains("100"), "{text}");
    }

    #[test]
    fn a_folder_that_a_library_path_cannot_name_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let programs = stand_ins(folder.path(), WORKS);
        let error = make(&folder.path().join("a:b"), programs, &mut |_| ()).unwrap_err();
        assert!(matches!(error, ProvisionError::Path { .. }), "{error}");
    }

    #[test]
    fn versions_are_ordered_as_numbers() {
        assert!(version_key("7.2.22") < version_key("10.0.2"));
    }
}
