//! What is reported of cases that cannot run.

use std::path::Path;
use std::process::Command;

/// H11: the reason why a case is not run reaches the console and every report, though it was found
/// before anything ran; and nothing else is printed about it.
#[test]
fn the_reason_for_a_skip_reaches_the_console_and_every_report() {
    let directory = tempfile::tempdir().unwrap();
    let tools = directory.path().join("bin");
    std::fs::create_dir(&tools).unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Enough for a plan, and not for a case that needs a machine.
    for tool in ["qemu-img", "qemu-io"] {
        let mut places = std::env::split_paths(&path).map(|folder| folder.join(tool));
        let Some(found) = places.find(|place| place.is_file()) else {
            assert!(
                std::env::var_os("QEMU_TEST_REQUIRE").is_none_or(|value| value != "1"),
                "there is no {tool}"
            );
            println!("skipped: there is no {tool}");
            return;
        };
        std::os::unix::fs::symlink(found, tools.join(tool)).unwrap();
    }
    let at = |name: &str| directory.path().join(name);
    let output = Command::new(env!("CARGO_BIN_EXE_iotests"))
        .args([
            "mirror_cancel",
            "-f",
            "qcow2",
            "--color",
            "never",
            "--build-dir",
        ])
        .arg(at("build"))
        .args([
            Path::new("--junit"),
            &at("junit"),
            Path::new("--tap"),
            &at("tap"),
        ])
        .args([
            Path::new("--jsonl"),
            &at("jsonl"),
            Path::new("--html"),
            &at("html"),
        ])
        .env("PATH", &tools)
        .env_remove("QEMU_PROG")
        .env_remove("QSD_PROG")
        .output()
        .unwrap();
    let console = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let says = |text: &str| {
        text.contains("needs an emulator") || text.contains("needs qemu-storage-daemon")
    };
    assert!(says(&console) || says(&errors), "{console}\n{errors}");
    assert!(
        !errors.contains("DEBUG") && !errors.contains("panicked"),
        "{errors}"
    );
    for report in ["junit", "tap", "jsonl", "html"] {
        let text = std::fs::read_to_string(at(report)).unwrap_or_default();
        // For programs it is a value with a type, which says the same.
        let typed = report == "jsonl" && text.contains("\"no-tool\"");
        assert!(
            says(&text) || typed,
            "no reason in the {report} report: {text}\n{console}\n{errors}"
        );
    }
}
