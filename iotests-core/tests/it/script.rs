//! Shell scripts that tests run in place of programs.

use std::path::Path;

use imgtools::process::Command;

/// Writes an executable script.
///
/// Another process writes it: were the file open for writing in ours, a child that another test
/// starts at this moment could hold it open, and running it would fail (ETXTBSY).
pub(crate) fn write(path: &Path, text: &str) {
    let write = Command::new("sh").args(["-c", "cat > \"$1\" && chmod 755 \"$1\"", "sh"]);
    let write = write.arg(path).stdin_data(text);
    write.run_blocking().unwrap().check().unwrap();
}
