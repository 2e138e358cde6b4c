//! How images, their options and their secrets are named to the tools.

mod options;
mod secret;
mod spec;

pub use options::Options;
pub use secret::Secret;
pub use spec::ImageSpec;
pub(crate) use spec::add_secret;
