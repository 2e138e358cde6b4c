//! How images, their options and their secrets are named to the tools.

mod failure;
mod file_name;
mod node;
mod options;
mod secret;
mod spec;

pub use failure::FailureKind;
#[cfg(any(feature = "img", feature = "io"))]
pub(crate) use failure::failure_kinds;
pub use file_name::FileName;
pub use node::NameError;
pub use options::Options;
pub use secret::Secret;
pub use spec::ImageSpec;

use crate::process::Command;

/// Makes a secret known to a tool, and hides it in what that prints.
pub(crate) fn add_secret(command: Command, secret: &Secret) -> Command {
    command
        .secret(secret.value())
        .arg("--object")
        .arg(secret.object().as_os_str())
}
