//! The Python interpreter for scripts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use imgtools::process::Command;

use super::tree::TreeError;

/// The Python of a build folder, with the modules that the tree's library needs.
const OF_BUILD: &str = "pyvenv/bin/python3";

/// How long it may take to print its path: far more than it needs.
const DEADLINE: Duration = Duration::from_secs(60);

/// The interpreter itself: `python3` may be a wrapper that would slow down each script. `None` if
/// there is none; some scripts do not need it.
///
/// # Errors
/// If the given interpreter does not work.
pub(crate) fn python(
    named: Option<&Path>,
    build: Option<&Path>,
) -> Result<Option<PathBuf>, TreeError> {
    if let Some(named) = named {
        return match executable(named) {
            Ok(path) => Ok(Some(path)),
            Err(why) => Err(TreeError::Python {
                path: named.to_owned(),
                why,
            }),
        };
    }
    let of_build = build.map(|folder| folder.join(OF_BUILD));
    let places = of_build.into_iter().chain([PathBuf::from("python3")]);
    Ok(places.into_iter().find_map(|place| executable(&place).ok()))
}

fn executable(python: &Path) -> Result<PathBuf, String> {
    let program = match python.components().count() {
        1 => python.to_owned(),
        _ => std::path::absolute(python).unwrap_or_else(|_| python.to_owned()),
    };
    let asked = Command::new(&program)
        .args(["-c", "import sys; print(sys.executable)"])
        .deadline(DEADLINE);
    let printed = asked.run_blocking().map_err(|error| error.to_string())?;
    let printed = printed.check().map_err(|error| error.to_string())?;
    Ok(PathBuf::from(printed.stdout_text().trim()))
}
