//! `iotests new NAME`: adds the skeleton of a case to the sources.

use std::env;
use std::path::PathBuf;

use super::Exit;
use super::skeleton::{self, SkeletonError};

/// The command word.
pub(super) const NEW: &str = "new";

/// Entry point of `new NAME`.
pub(super) fn main(name: Option<&str>) -> Exit {
    let Some(name) = name else {
        eprintln!("usage: {} {NEW} area::module::function", super::called_as());
        return Exit::Usage;
    };
    let root = env::var_os("IOTESTS_SOURCE_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let cases = root.join("iotests-cases").join("src");
    if !cases.is_dir() {
        eprintln!(
            "{}: new cases are added to the sources, but {} does not exist: run this in a clone of the repository, or set IOTESTS_SOURCE_DIR to one",
            super::called_as(),
            cases.display()
        );
        return Exit::Usage;
    }
    match skeleton::create(&cases, name) {
        Ok(created) => {
            for module in &created.modules {
                println!("created  {}", module.display());
            }
            println!("wrote    {}:{}", created.file.display(), created.line);
            println!("run it   {} {}", super::called_as(), created.name);
            Exit::Passed
        }
        Err(error) => {
            eprintln!("{}: {error}", super::called_as());
            match error {
                SkeletonError::File { .. } => Exit::Environment,
                _ => Exit::Usage,
            }
        }
    }
}
