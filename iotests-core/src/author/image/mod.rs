//! Images: created, written, read, compared, and removed when dropped.

mod builder;
mod check;
mod content;
mod file_bytes;
mod handle;
mod img;
mod layer;
mod open;
mod stream;

pub use builder::ImageBuilder;
pub(crate) use content::pieces;
pub use file_bytes::FileBytes;
pub use handle::{Image, KEY, KEY_ID};
pub use img::ImgCall;
pub use imgtools::probe::NO_CPU_TIME;
pub use layer::Layer;
pub use open::ImageOpener;
