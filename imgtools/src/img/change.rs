//! The subcommands that change an image in place: `amend`, `commit`, `rebase`, `resize`,
//! `snapshot`; and the escape to any command line.

use super::{Arguments, Call, ImgError, Operation, ReportsProgress};
use crate::image::{FileName, ImageSpec, NameError, Options};
use crate::process::Output;

/// `amend`.
#[derive(Clone, Debug)]
pub struct Amend {
    image: ImageSpec,
    options: Options,
}

impl Amend {
    pub(super) fn new(image: ImageSpec, options: Options) -> Amend {
        Amend { image, options }
    }
}

impl Call<Amend> {
    /// Also allows changes that may make the data unreadable.
    pub fn force(self) -> Call<Amend> {
        self.arg("--force")
    }

    /// The cache mode.
    pub fn cache(self, mode: &str) -> Call<Amend> {
        self.args(["-t", mode])
    }
}

impl Operation for Amend {
    type Answer = Output;
    const NAME: &'static str = "amend";

    fn arguments(&self, args: &mut Arguments) -> Result<(), NameError> {
        args.options(&self.options);
        args.image(&self.image)
    }

    fn answer(self, output: Output) -> Result<Output, ImgError> {
        Ok(output.check()?)
    }
}

impl ReportsProgress for Amend {}

/// `commit`.
#[derive(Clone, Debug)]
pub struct Commit {
    image: ImageSpec,
}

impl Commit {
    pub(super) fn new(image: ImageSpec) -> Commit {
        Commit { image }
    }
}

impl Call<Commit> {
    /// Writes into this image of the chain, not just into the next one.
    ///
    /// A relative text is resolved against the image's directory, as in QEMU; a relative path
    /// against our working directory.
    pub fn base(self, file: impl Into<FileName>) -> Call<Commit> {
        let file = file.into().absolute();
        self.arg("-b").arg(file.as_os_str())
    }

    /// Keeps the overlay's content instead of emptying it.
    pub fn keep(self) -> Call<Commit> {
        self.arg("-d")
    }

    /// The maximum rate in bytes per second.
    pub fn rate_limit(self, bytes: u64) -> Call<Commit> {
        self.args(["-r".to_owned(), bytes.to_string()])
    }

    /// The cache mode.
    pub fn cache(self, mode: &str) -> Call<Commit> {
        self.args(["-t", mode])
    }
}

impl Operation for Commit {
    type Answer = Output;
    const NAME: &'static str = "commit";

    fn arguments(&self, args: &mut Arguments) -> Result<(), NameError> {
        args.image(&self.image)
    }

    fn answer(self, output: Output) -> Result<Output, ImgError> {
        Ok(output.check()?)
    }
}

impl ReportsProgress for Commit {}

/// `rebase`.
#[derive(Clone, Debug)]
pub struct Rebase {
    image: ImageSpec,
    backing: (FileName, Option<String>),
}

impl Rebase {
    pub(super) fn new(image: ImageSpec, backing: FileName) -> Rebase {
        Rebase {
            image,
            backing: (backing, None),
        }
    }
}

impl Call<Rebase> {
    /// The format of the new backing file.
    pub fn backing_format(self, format: &str) -> Call<Rebase> {
        self.with(|op| op.backing.1 = Some(format.to_owned()))
    }

    /// Only changes the recorded name of the backing file, regardless of content.
    pub fn unsafe_mode(self) -> Call<Rebase> {
        self.arg("-u")
    }

    /// Compresses what is written (9.0).
    pub fn compress(self) -> Call<Rebase> {
        self.arg("-c")
    }

    /// The cache mode of the image.
    pub fn cache(self, mode: &str) -> Call<Rebase> {
        self.args(["-t", mode])
    }

    /// The cache mode of the backing files.
    pub fn source_cache(self, mode: &str) -> Call<Rebase> {
        self.args(["-T", mode])
    }

    /// Opens the image even if it is in use by others.
    pub fn force_share(self) -> Call<Rebase> {
        self.arg("-U")
    }
}

impl Operation for Rebase {
    type Answer = Output;
    const NAME: &'static str = "rebase";

    fn arguments(&self, args: &mut Arguments) -> Result<(), NameError> {
        args.backing("-b", &self.backing, "-F");
        args.image(&self.image)
    }

    fn answer(self, output: Output) -> Result<Output, ImgError> {
        Ok(output.check()?)
    }
}

impl ReportsProgress for Rebase {}

/// A size to change to, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// This size.
    To(u64),
    /// Larger by this many bytes.
    Grow(u64),
    /// Smaller by this many bytes. QEMU requires [`Call::shrink`] as well.
    Shrink(u64),
}

/// `resize`.
#[derive(Clone, Debug)]
pub struct Resize {
    image: ImageSpec,
    size: Size,
}

impl Resize {
    pub(super) fn new(image: ImageSpec, size: Size) -> Resize {
        Resize { image, size }
    }
}

impl Call<Resize> {
    /// Allows data to be lost at the end.
    pub fn shrink(self) -> Call<Resize> {
        self.arg("--shrink")
    }

    /// How the new part is allocated: `off`, `metadata`, `falloc`, `full`.
    pub fn preallocation(self, mode: &str) -> Call<Resize> {
        self.arg(format!("--preallocation={mode}"))
    }
}

impl Operation for Resize {
    type Answer = Output;
    const NAME: &'static str = "resize";

    fn arguments(&self, args: &mut Arguments) -> Result<(), NameError> {
        args.image(&self.image)?;
        // A size that begins with a minus must be the last word, and is then not an option.
        args.push(match self.size {
            Size::To(bytes) => bytes.to_string(),
            Size::Grow(bytes) => format!("+{bytes}"),
            Size::Shrink(bytes) => format!("-{bytes}"),
        });
        Ok(())
    }

    fn answer(self, output: Output) -> Result<Output, ImgError> {
        Ok(output.check()?)
    }
}

/// `snapshot`.
#[derive(Clone, Debug)]
pub struct Snapshot {
    image: ImageSpec,
    action: &'static str,
    name: String,
}

impl Snapshot {
    pub(super) fn new(image: ImageSpec, action: &'static str, name: &str) -> Snapshot {
        Snapshot {
            image,
            action,
            name: name.to_owned(),
        }
    }
}

impl Operation for Snapshot {
    type Answer = Output;
    const NAME: &'static str = "snapshot";

    fn arguments(&self, args: &mut Arguments) -> Result<(), NameError> {
        args.pair(self.action, &self.name);
        // Before 9.0 this subcommand has no `-f`.
        args.image_without_format_flag(&self.image)
    }

    fn answer(self, output: Output) -> Result<Output, ImgError> {
        Ok(output.check()?)
    }
}

/// Any command line.
#[derive(Clone, Copy, Debug)]
pub struct Raw;

impl Operation for Raw {
    type Answer = Output;
    const NAME: &'static str = "";

    fn arguments(&self, _args: &mut Arguments) -> Result<(), NameError> {
        Ok(())
    }

    fn answer(self, output: Output) -> Result<Output, ImgError> {
        Ok(output)
    }
}
