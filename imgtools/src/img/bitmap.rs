//! `qemu-img bitmap`.

use super::{Arguments, Call, ImgError, Operation};
use crate::image::{FileName, ImageSpec, NameError};
use crate::process::Output;

/// `bitmap`: one or more actions on a persistent bitmap, in the order given.
#[derive(Clone, Debug)]
pub struct Bitmap {
    image: ImageSpec,
    name: String,
    actions: Vec<BitmapAction>,
    granularity: Option<u64>,
    source: Option<(FileName, Option<String>)>,
}

/// An action on a bitmap.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BitmapAction {
    /// Creates it, enabled.
    Add,
    /// Deletes it.
    Remove,
    /// Clears its bits.
    Clear,
    /// Makes it record writes from now on.
    Enable,
    /// Makes it stop recording writes.
    Disable,
    /// Merges the bits of this other bitmap into it.
    Merge(String),
}

impl Bitmap {
    pub(super) fn new(image: ImageSpec, name: String) -> Bitmap {
        Bitmap {
            image,
            name,
            actions: Vec::new(),
            granularity: None,
            source: None,
        }
    }
}

impl Call<Bitmap> {
    /// Adds an action.
    pub fn action(self, action: BitmapAction) -> Call<Bitmap> {
        self.with(|op| op.actions.push(action))
    }

    /// How many bytes a bit of a new bitmap covers.
    pub fn granularity(self, bytes: u64) -> Call<Bitmap> {
        self.with(|op| op.granularity = Some(bytes))
    }

    /// The image with the bitmap to merge, and its format; default: the same image.
    pub fn source(self, file: impl Into<FileName>, format: impl Into<String>) -> Call<Bitmap> {
        self.with(|op| op.source = Some((file.into(), Some(format.into()))))
    }
}

impl Operation for Bitmap {
    type Answer = Output;
    const NAME: &'static str = "bitmap";

    fn arguments(&self, args: &mut Arguments) -> Result<(), NameError> {
        for action in &self.actions {
            match action {
                BitmapAction::Add => args.push("--add"),
                BitmapAction::Remove => args.push("--remove"),
                BitmapAction::Clear => args.push("--clear"),
                BitmapAction::Enable => args.push("--enable"),
                BitmapAction::Disable => args.push("--disable"),
                BitmapAction::Merge(other) => args.pair("--merge", other),
            }
        }
        args.maybe("-g", self.granularity);
        if let Some(source) = &self.source {
            args.backing("-b", source, "-F");
        }
        args.image(&self.image)?;
        args.push(&self.name);
        Ok(())
    }

    fn answer(self, output: Output) -> Result<Output, ImgError> {
        Ok(output.check()?)
    }
}
