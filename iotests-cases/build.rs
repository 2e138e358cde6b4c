//! Embeds the goldens that lie beside the cases, so that the binary works without the sources.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=src");
    // Started once for each instance: at a fixed address it need not relocate itself each time.
    println!("cargo::rustc-link-arg-bins=-no-pie");
    let mut found = Vec::new();
    collect(Path::new("src"), &mut found)?;
    // The order of a directory is not that of another machine.
    found.sort();
    let mut table = "&[\n".to_owned();
    for path in found {
        let name = path.strip_prefix("src").unwrap_or(&path);
        let file = fs::canonicalize(&path)?;
        writeln!(
            table,
            "    Golden {{ path: {name:?}, text: include_str!({file:?}) }},"
        )
        .map_err(io::Error::other)?;
    }
    table.push_str("]\n");
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("cargo sets OUT_DIR"))?;
    fs::write(PathBuf::from(out).join("goldens.rs"), table)
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, found)?;
        } else if path.extension().is_some_and(|ending| ending == "golden") {
            found.push(path);
        }
    }
    Ok(())
}
