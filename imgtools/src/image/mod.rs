//! How images, their options and their secrets are passed to the tools.
//!
//! [`FileName`] and [`Options`] are available without any feature, the rest with `image`.

#[cfg(feature = "image")]
mod failure;
mod file_name;
#[cfg(feature = "image")]
mod node;
mod options;
#[cfg(feature = "image")]
mod secret;
#[cfg(feature = "image")]
mod spec;

#[cfg(feature = "image")]
pub use failure::FailureKind;
#[cfg(any(feature = "img", feature = "io"))]
pub(crate) use failure::failure_kinds;
pub use file_name::FileName;
#[cfg(feature = "image")]
pub use node::NameError;
pub use options::Options;
#[cfg(feature = "image")]
pub use secret::Secret;
#[cfg(feature = "image")]
pub use spec::ImageSpec;

/// Passes a secret to a tool, and redacts it in the tool's output.
#[cfg(feature = "image")]
pub(crate) fn add_secret(
    command: crate::process::Command,
    secret: &Secret,
) -> crate::process::Command {
    command.secret(secret.value()).arg("--object").arg(secret.object().as_os_str())
}
