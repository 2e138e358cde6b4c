//! Finding tools, among scripts that are tools and scripts that are not.

use std::path::PathBuf;

use crate::support::{Folder, all_tools};
use imgtools::tools::{Finder, Place, Problem, ToolKind, Version};

/// A program that claims to be qemu-img.
fn qemu_img(folder: &Folder, name: &str, version: &str) -> PathBuf {
    folder.script(name, &format!("echo 'qemu-img version {version}'"))
}

fn nowhere() -> Finder {
    Finder::new().environment([("PATH", "")])
}

#[test]
fn flag_comes_before_environment_before_build_folder_before_path_before_prefix() {
    let folder = Folder::new();
    let places = [
        qemu_img(&folder, "flag", "1.0.0"),
        qemu_img(&folder, "environment", "2.0.0"),
        qemu_img(&folder, "build/qemu-img", "3.0.0"),
        qemu_img(&folder, "path/qemu-img", "4.0.0"),
        qemu_img(&folder, "prefix/bin/qemu-img", "5.0.0"),
    ];
    for first in 0..places.len() {
        let mut environment = vec![];
        let mut finder = Finder::new().prefix(folder.dir().join("prefix"));
        if first < 1 {
            finder = finder.flag(ToolKind::Img, &places[0]);
        }
        if first < 2 {
            environment.push(("QEMU_IMG_PROG", places[1].as_os_str()));
        }
        if first < 3 {
            finder = finder.build_dir(folder.dir().join("build"));
        }
        let path = folder.dir().join("path");
        if first < 4 {
            environment.push(("PATH", path.as_os_str()));
        }
        let tool = finder.environment(environment).find(ToolKind::Img).unwrap();
        assert_eq!(tool.path, places[first]);
        assert_eq!(tool.version, Some(Version::new(first as u32 + 1, 0, 0)));
    }
}

#[test]
fn an_error_says_where_was_looked_and_what_was_wrong() {
    let folder = Folder::new();
    let path = |name: &str| folder.dir().join(name);
    std::fs::create_dir(path("one")).unwrap();
    std::fs::create_dir(path("two")).unwrap();
    std::fs::write(path("two/qemu-img"), "no program").unwrap();
    folder.script("three/qemu-img", "echo 'ls (GNU coreutils) 9.1'");
    folder.script("four/qemu-img", "echo broken library >&2; exit 127");
    let search = ["one", "two", "three", "four"].map(path);
    let finder = Finder::new().environment([("PATH", std::env::join_paths(&search).unwrap())]);
    let error = finder.find(ToolKind::Img).unwrap_err();
    assert!(matches!(
        error.looked.iter().map(|looked| &looked.problem).collect::<Vec<_>>()[..],
        [
            Problem::Missing,
            Problem::NotExecutable,
            Problem::NotQemu(_),
            Problem::Broken(_)
        ]
    ));
    assert!(error.looked.iter().all(|looked| looked.place == Place::Path));
    let message = error.to_string().replace(folder.dir().to_str().unwrap(), "DIR");
    assert_eq!(
        message,
        "failed to find qemu-img\
         \n  PATH: DIR/one/qemu-img does not exist\
         \n  PATH: DIR/two/qemu-img is not an executable file\
         \n  PATH: DIR/three/qemu-img is not this program of QEMU; it says `ls (GNU coreutils) 9.1`\
         \n  PATH: DIR/four/qemu-img does not run: failed to run `DIR/four/qemu-img --version`: \
         it exited with status 127\
         \n  | broken library"
    );
}

#[test]
fn an_order_that_cannot_be_followed_is_an_error() {
    let folder = Folder::new();
    qemu_img(&folder, "bin/qemu-img", "7.2.0");
    let wrong = folder.dir().join("wrong");
    let finder = nowhere().prefix(folder.dir());
    assert!(finder.find(ToolKind::Img).is_ok());
    let error = finder.clone().flag(ToolKind::Img, &wrong).find(ToolKind::Img).unwrap_err();
    assert_eq!(
        (error.looked.len(), &error.looked[0].place),
        (1, &Place::Flag)
    );
    let finder = finder.environment([("QEMU_IMG_PROG", &wrong)]);
    let error = finder.find(ToolKind::Img).unwrap_err();
    let place = Place::Environment("QEMU_IMG_PROG");
    assert_eq!((error.looked.len(), &error.looked[0].place), (1, &place));
    assert!(error.to_string().contains("QEMU_IMG_PROG: "), "{error}");
}

#[test]
fn options_come_from_the_environment() {
    let folder = Folder::new();
    let path = folder.script(
        "x",
        "[ \"$1\" = --version ] && echo 'qemu-io version 7.2.0'; echo $@",
    );
    let options = [
        ("QEMU_IO_PROG", path.to_str().unwrap()),
        ("QEMU_IO_OPTIONS", "-T 'a b' -r"),
    ];
    let tool = Finder::new().environment(options).find(ToolKind::Io).unwrap();
    assert_eq!(tool.options, ["-T", "a b", "-r"]);
    let output = tool.command().arg("file").run_blocking().unwrap();
    assert_eq!(output.stdout_text(), "-T a b -r file\n");
}

#[test]
fn the_emulator_is_looked_for_by_its_architecture() {
    let folder = Folder::new();
    let path = folder.script(
        "bin/qemu-system-riscv64",
        "echo 'QEMU emulator version 8.0.0 (x)'",
    );
    let tool = nowhere().prefix(folder.dir()).arch("riscv64").find(ToolKind::System).unwrap();
    assert_eq!(
        (tool.path, tool.version),
        (path, Some(Version::new(8, 0, 0)))
    );
}

#[test]
fn nothing_found_at_all_is_said_as_well() {
    let error = nowhere().find(ToolKind::Nbd).unwrap_err();
    assert!(error.looked.is_empty());
    assert!(
        error.to_string().contains("failed to find qemu-nbd"),
        "{error}"
    );
}

/// qemu-io and qemu-nbd say the name by which they were started.
#[test]
fn a_renamed_program_is_found_and_one_that_is_no_qemu_is_not() {
    for tools in all_tools() {
        let folder = Folder::new();
        for (kind, name) in [
            (ToolKind::Img, "my-qemu-img-10"),
            (ToolKind::Io, "qemu-io-10"),
            (ToolKind::Nbd, "qemu-nbd here/qemu-nbd-10"),
        ] {
            let real = tools.io.tool().path.with_file_name(kind.name());
            let link = folder.dir().join(name);
            std::fs::create_dir_all(link.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(real, &link).unwrap();
            let found = nowhere().flag(kind, &link).find(kind).unwrap();
            assert_eq!(found.version, Some(tools.version()), "{name}");
            // It is used unchanged.
            for other in ToolKind::ALL.into_iter().filter(|other| *other != kind) {
                let error = nowhere().flag(other, &link).find(other).unwrap_err();
                let problem = &error.looked[0].problem;
                assert!(matches!(problem, Problem::NotQemu(_)), "{error}");
            }
        }
    }
    let folder = Folder::new();
    let other = folder.script("git", "echo 'git version 2.39.5'");
    assert!(nowhere().flag(ToolKind::Io, other).find(ToolKind::Io).is_err());
}
