//! Images: made, written, read, compared, and gone with the value.

mod builder;
mod check;
mod content;
mod handle;
mod inspect;
mod layer;
mod luks;

pub use builder::ImageBuilder;
pub use check::FileBytes;
pub(crate) use content::{io_command, pieces};
pub(crate) use handle::key_object;
pub use handle::{Image, KEY, KEY_ID};
pub use imgtools::probe::NO_CPU_TIME;
pub use layer::Layer;
