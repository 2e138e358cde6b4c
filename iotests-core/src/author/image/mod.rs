//! Images: created, written, read, compared, and removed when dropped.

mod builder;
mod check;
mod content;
mod handle;
mod img;
mod layer;
mod open;

pub use builder::ImageBuilder;
pub use check::FileBytes;
pub(crate) use content::pieces;
pub use handle::{Image, KEY, KEY_ID};
pub use img::ImgCall;
pub use imgtools::probe::NO_CPU_TIME;
pub use layer::Layer;
pub use open::ImageOpener;
