//! The program by itself, in an empty folder, with what docs/running.md tells people to paste: each command is understood and selects something,
//! and those that report do.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

const PAGE: &str = include_str!("../../../docs/running.md");

/// The commands of its blocks of shell, a line each, without how the program is called.
fn commands() -> Vec<String> {
    let blocks = PAGE.split("```sh\n").skip(1);
    let lines = blocks.flat_map(|block| block.split("```").next().unwrap_or_default().lines());
    let ours = lines.filter_map(|line| {
        let rest =
            line.strip_prefix("cargo xtask iotests").or_else(|| line.strip_prefix("iotests"))?;
        Some(rest.trim().to_owned())
    });
    ours.collect()
}

/// As a shell takes it, by the program that lies in the folder, with nothing of our environment.
fn run(folder: &Path, command: &str) -> (Option<i32>, String) {
    let output = Command::new("sh")
        .args(["-c", &format!("exec bin/iotests {command}")])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", folder)
        .current_dir(folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), said)
}

/// A tree of upstream's with a build folder, as far as lists look at them: a clone with a change that is not committed. False without git.
fn make_qemu(folder: &Path) -> bool {
    let qemu = folder.join("qemu");
    let write = |name: &str, text: &str| {
        let path = qemu.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let script = "#!/usr/bin/env bash\n# group: rw quick\n_supported_fmt qcow2\necho mirror\n";
    write("tests/qemu-iotests/040", script);
    write("tests/qemu-iotests/040.out", "");
    write("block/mirror.c", "");
    write(
        "build/config-host.mak",
        &format!("SRC_PATH={}\n", qemu.display()),
    );
    let path = std::env::var_os("PATH").unwrap_or_default();
    for program in ["qemu-img", "qemu-io", "qemu-nbd"] {
        let mut found = std::env::split_paths(&path).map(|folder| folder.join(program));
        if let Some(found) = found.find(|found| found.is_file()) {
            symlink(found, qemu.join("build").join(program)).unwrap();
        }
    }
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        git.arg("-C").arg(&qemu).args(["-c", "user.name=a", "-c", "user.email=a@example.org"]);
        git.args(args).env("GIT_CONFIG_GLOBAL", "/dev/null");
        git.status().is_ok_and(|status| status.success())
    };
    let mut all =
        git(&["init", "-q"]) && git(&["checkout", "-q", "-b", "master"]) && git(&["add", "."]);
    for _ in 0..4 {
        all = all && git(&["commit", "-q", "--allow-empty", "-m", "a commit"]);
    }
    write("block/mirror.c", "changed");
    all
}

#[test]
fn every_command_of_the_page_for_readers_does_what_it_says() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    fs::create_dir_all(folder.join("bin")).unwrap();
    fs::create_dir_all(folder.join("parts")).unwrap();
    let program = env!("CARGO_BIN_EXE_iotests");
    // Written by another process: were it open for writing in ours, a child of another test could hold it open.
    let copy = Command::new("cp").arg(program).arg(folder.join("bin/iotests")).status();
    assert!(copy.unwrap().success());
    let has_git = make_qemu(folder);
    let commands = commands();
    assert!(commands.len() >= 20, "{commands:?}");
    // Its caches are below the home folder, where nothing else says where.
    let (code, said) = run(folder, "shrink -f raw --jsonl parts/1.jsonl");
    if code == Some(4) {
        assert!(
            std::env::var_os("QEMU_TEST_REQUIRE").is_none_or(|value| value != "1"),
            "there is no QEMU: {said}"
        );
        println!("skipped: there is no QEMU");
        return;
    }
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(".cache/qemu-iotests"), "{said}");
    fs::copy(folder.join("parts/1.jsonl"), folder.join("run.jsonl")).unwrap();
    for command in commands {
        if command.contains("--since") && !has_git {
            println!("skipped: {command}, for there is no git");
            continue;
        }
        // The network is not ours to use here.
        let tried = command.replace("--provision=newest ", "");
        let tried = match tried.starts_with("merge") || tried.contains("--list") {
            true => tried,
            false => format!("{tried} --list=ids"),
        };
        let (code, said) = run(folder, &tried);
        // Nothing failed the last time, which is an answer as well.
        let nothing = code == Some(3) && command.contains("--failed");
        assert!(code == Some(0) || nothing, "{command}: {code:?}\n{said}");
    }
    assert!(folder.join("iotests.html").is_file() && folder.join("junit.xml").is_file());
}
