//! Real cases in places with odd and with long names: images, backing files, `json:` names, NBD URIs
//! and sockets all carry them.

use std::process::Command;

#[test]
fn cases_pass_in_directories_with_odd_and_with_long_names() {
    let long = format!("{}/{}", "d".repeat(150), "e".repeat(150));
    for name in ["a b,c'd\"e=qcow2:raw é%20$&[*]{x}/qcow2", &long] {
        let directory = tempfile::tempdir().unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_iotests"))
            .args(["block_status", "an_unused_export_is_removed"])
            .args(["is_inconsistent_after_a_crash", "are_renamed"])
            .args(["-f", "qcow2", "--color", "never", "--build-dir"])
            .arg(directory.path().join(name))
            .output()
            .unwrap();
        let console = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        // The exit code for a machine without QEMU.
        if output.status.code() == Some(4) {
            assert!(
                std::env::var_os("QEMU_TEST_REQUIRE").is_none_or(|value| value != "1"),
                "there is no QEMU: {errors}"
            );
            println!("skipped: there is no QEMU");
            return;
        }
        assert!(output.status.success(), "in {name}: {console}\n{errors}");
        assert!(
            console.contains(" passed") || errors.contains(" passed"),
            "nothing ran in {name}: {console}\n{errors}"
        );
    }
}
