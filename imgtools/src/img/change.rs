//! The subcommands that change an image in its place: `amend`, `commit`, `rebase`, `resize`,
//! `snapshot`; and the escape to any command line.

use super::{Arguments, Call, ImgError, Operation};
use crate::image::{ImageSpec, Options};
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
    /// Also does what may make the data unreadable.
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

    fn arguments(&self, args: &mut Arguments<'_>) {
        args.options(&self.options);
        args.image(&self.image);
    }

    fn answer(&self, output: Output) -> Result<Output, ImgError> {
        Ok(output.check()?)
    }
}

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
    pub fn base(self, file: &str) -> Call<Commit> {
        self.args(["-b", file])
    }

    /// Leaves the overlay as it is, and does not empty it.
    pub fn keep(self) -> Call<Commit> {
        self.arg("-d")
    }

    /// At most so many bytes in a second.
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

    fn arguments(&self, args: &mut Arguments<'_>) {
        args.image(&self.image);
    }

    fn answer(&self, output: Output) -> Result<Output, ImgError> {
        Ok(output.check()?)
    }
}

/// `rebase`.
#[derive(Clone, Debug)]
pub struct Rebase {
    image: ImageSpec,
    backing: String,
    format: Option<String>,
}

impl Rebase {
    pub(super) fn new(image: ImageSpec, backing: Option<&str>) -> Rebase {
        Rebase {
            image,
            backing: backing.unwrap_or_default().to_owned(),
            format: None,
        }
    }
}

impl Call<Rebase> {
    /// The format of the new backing file.
    pub fn backing_format(self, format: &str) -> Call<Rebase> {
        self.with(|op| op.format = Some(format.to_owned()))
    }

    /// Only changes the name that the image has for its backing file; the content is not looked at.
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

    /// Opens the image though it is in use by others.
    pub fn force_share(self) -> Call<Rebase> {
        self.arg("-U")
    }
}

impl Operation for Rebase {
    type Answer = Output;
    const NAME: &'static str = "rebase";

    fn arguments(&self, args: &mut Arguments<'_>) {
        args.pair("-b", &self.backing);
        args.maybe("-F", self.format.as_ref());
        args.image(&self.image);
    }

    fn answer(&self, output: Output) -> Result<Output, ImgError> {
        Ok(output.check()?)
    }
}

/// A size to change to, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// This size.
    To(u64),
    /// So much more.
    Grow(u64),
    /// So much less. QEMU wants [`Call::shrink`] as well.
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

    fn arguments(&self, args: &mut Arguments<'_>) {
        args.image(&self.image);
        // A size that begins with a minus must be the last word, and is then no option.
        args.push(match self.size {
            Size::To(bytes) => bytes.to_string(),
            Size::Grow(bytes) => format!("+{bytes}"),
            Size::Shrink(bytes) => format!("-{bytes}"),
        });
    }

    fn answer(&self, output: Output) -> Result<Output, ImgError> {
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
        // Before 9.0 this subcommand has no `-f`; a format must be said in options.
        let image = match image.known_format() {
            Some(_) => image.into_options(),
            None => image,
        };
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

    fn arguments(&self, args: &mut Arguments<'_>) {
        args.pair(self.action, &self.name);
        args.image(&self.image);
    }

    fn answer(&self, output: Output) -> Result<Output, ImgError> {
        Ok(output.check()?)
    }
}

/// Any command line.
#[derive(Clone, Copy, Debug)]
pub struct Raw;

impl Operation for Raw {
    type Answer = Output;
    const NAME: &'static str = "";

    fn arguments(&self, _args: &mut Arguments<'_>) {}

    fn answer(&self, output: Output) -> Result<Output, ImgError> {
        Ok(output)
    }
}
