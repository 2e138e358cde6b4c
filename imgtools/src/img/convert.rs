//! The subcommands that copy an image: `convert` and `dd`.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::{Arguments, Call, ImgError, Operation, ReportsProgress};
use crate::image::{FileName, ImageSpec, NameError, Options};
use crate::process::Output;

/// `convert`.
#[derive(Clone, Debug)]
pub struct Convert {
    sources: Vec<ImageSpec>,
    target: ImageSpec,
    options: Options,
    backing: Option<(FileName, Option<String>)>,
    snapshot: Option<String>,
    sparse: Option<String>,
    coroutines: Option<u32>,
    rate_limit: Option<u64>,
    cache: Option<String>,
    source_cache: Option<String>,
}

impl Convert {
    pub(super) fn new(source: ImageSpec, target: ImageSpec) -> Convert {
        Convert {
            sources: vec![source],
            target,
            options: Options::new(),
            backing: None,
            snapshot: None,
            sparse: None,
            coroutines: None,
            rate_limit: None,
            cache: None,
            source_cache: None,
        }
    }
}

impl Call<Convert> {
    /// Another source, whose content is appended to the previous ones.
    pub fn and_source(self, source: impl Into<ImageSpec>) -> Call<Convert> {
        self.with(|op| op.sources.push(source.into()))
    }

    /// The format of the target.
    pub fn output_format(self, format: &str) -> Call<Convert> {
        self.with(|op| op.target = op.target.clone().format(format))
    }

    /// Adds an option of the target's format.
    pub fn option(self, key: &str, value: impl std::fmt::Display) -> Call<Convert> {
        self.with(|op| op.options = std::mem::take(&mut op.options).set(key, value))
    }

    /// Adds an option string of the target's format, unchanged.
    pub fn options(self, options: &str) -> Call<Convert> {
        self.with(|op| op.options = std::mem::take(&mut op.options).append(options))
    }

    /// The target's backing file and its format; only differences from it are copied.
    pub fn backing(self, file: impl Into<FileName>, format: impl Into<String>) -> Call<Convert> {
        self.with(|op| op.backing = Some((file.into(), Some(format.into()))))
    }

    /// Copies an internal snapshot.
    pub fn snapshot(self, parameter: &str) -> Call<Convert> {
        self.with(|op| op.snapshot = Some(parameter.to_owned()))
    }

    /// How many zero bytes in a row become a hole; 0 for none.
    pub fn sparse_size(self, bytes: u64) -> Call<Convert> {
        self.with(|op| op.sparse = Some(bytes.to_string()))
    }

    /// The number of concurrent requests.
    pub fn coroutines(self, count: u32) -> Call<Convert> {
        self.with(|op| op.coroutines = Some(count))
    }

    /// The maximum rate in bytes per second.
    pub fn rate_limit(self, bytes: u64) -> Call<Convert> {
        self.with(|op| op.rate_limit = Some(bytes))
    }

    /// The cache mode of the target.
    pub fn cache(self, mode: &str) -> Call<Convert> {
        self.with(|op| op.cache = Some(mode.to_owned()))
    }

    /// The cache mode of the sources.
    pub fn source_cache(self, mode: &str) -> Call<Convert> {
        self.with(|op| op.source_cache = Some(mode.to_owned()))
    }

    /// Writes compressed clusters.
    pub fn compress(self) -> Call<Convert> {
        self.arg("-c")
    }

    /// Writes to an existing target.
    pub fn no_create(self) -> Call<Convert> {
        self.arg("-n")
    }

    /// Assumes that an existing target is all zeroes.
    pub fn target_is_zero(self) -> Call<Convert> {
        self.arg("--target-is-zero")
    }

    /// Offloads copying to the storage where possible.
    pub fn copy_offload(self) -> Call<Convert> {
        self.arg("-C")
    }

    /// Writes in any order.
    pub fn out_of_order(self) -> Call<Convert> {
        self.arg("-W")
    }

    /// Continues after read errors.
    pub fn salvage(self) -> Call<Convert> {
        self.arg("--salvage")
    }

    /// Copies the persistent bitmaps as well.
    pub fn bitmaps(self) -> Call<Convert> {
        self.arg("--bitmaps")
    }

    /// Skips inconsistent bitmaps.
    pub fn skip_broken_bitmaps(self) -> Call<Convert> {
        self.arg("--skip-broken-bitmaps")
    }

    /// Opens sources that are in use by others.
    pub fn force_share(self) -> Call<Convert> {
        self.arg("-U")
    }
}

impl Operation for Convert {
    type Answer = Output;
    const NAME: &'static str = "convert";

    fn arguments(&self, args: &mut Arguments) -> Result<(), NameError> {
        // `--image-opts` and `-f` apply to all sources.
        let format = self.sources.first().and_then(ImageSpec::known_format);
        let differs = |source: &ImageSpec| source.is_options() || source.known_format() != format;
        let by_options = self.sources.iter().any(differs);
        let words = self.sources.iter().map(|source| source.words(by_options));
        let sources = words.collect::<Result<Vec<_>, _>>()?;
        let target = self.target.words(false)?;
        for image in self.sources.iter().chain([&self.target]) {
            args.secrets(image.secrets());
        }
        args.flag("--image-opts", by_options);
        args.maybe("-f", format.filter(|_| !by_options));
        args.flag("--target-image-opts", target.by_options);
        args.maybe("-O", target.format);
        args.options(&self.options);
        if let Some(backing) = &self.backing {
            args.backing("-B", backing, "-F");
        }
        args.maybe("-l", self.snapshot.as_ref());
        args.maybe("-S", self.sparse.as_ref());
        args.maybe("-m", self.coroutines);
        args.maybe("-r", self.rate_limit);
        args.maybe("-t", self.cache.as_ref());
        args.maybe("-T", self.source_cache.as_ref());
        args.operands(sources.iter().chain([&target]).map(|words| &words.name));
        Ok(())
    }

    fn makes(&self) -> Option<&Path> {
        self.target.local()
    }

    fn answer(self, output: Output) -> Result<Output, ImgError> {
        Ok(output.check()?)
    }
}

impl ReportsProgress for Convert {}

/// `dd`.
#[derive(Clone, Debug)]
pub struct Dd {
    source: ImageSpec,
    target: FileName,
    format: Option<String>,
    operands: Vec<(&'static str, u64)>,
}

impl Dd {
    pub(super) fn new(source: ImageSpec, target: FileName) -> Dd {
        Dd {
            source,
            target,
            format: None,
            operands: Vec::new(),
        }
    }
}

impl Call<Dd> {
    /// The format of the target (default: raw).
    pub fn output_format(self, format: &str) -> Call<Dd> {
        self.with(|op| op.format = Some(format.to_owned()))
    }

    /// The block size in bytes.
    pub fn block_size(self, bytes: u64) -> Call<Dd> {
        self.with(|op| op.operands.push(("bs", bytes)))
    }

    /// The maximum number of blocks to copy.
    pub fn count(self, blocks: u64) -> Call<Dd> {
        self.with(|op| op.operands.push(("count", blocks)))
    }

    /// How many blocks of the source to skip first.
    pub fn skip(self, blocks: u64) -> Call<Dd> {
        self.with(|op| op.operands.push(("skip", blocks)))
    }

    /// Opens a source that is in use by others.
    pub fn force_share(self) -> Call<Dd> {
        self.arg("-U")
    }
}

impl Operation for Dd {
    type Answer = Output;
    const NAME: &'static str = "dd";

    fn arguments(&self, args: &mut Arguments) -> Result<(), NameError> {
        let operand = |name: &str, value: &OsStr| {
            let mut word = OsString::from(format!("{name}="));
            word.push(value);
            word
        };
        let source = self.source.words(false)?;
        args.secrets(self.source.secrets());
        args.flag("--image-opts", source.by_options);
        args.maybe("-f", source.format);
        args.maybe("-O", self.format.as_ref());
        for (name, value) in &self.operands {
            args.push(format!("{name}={value}"));
        }
        args.push(operand("if", &source.name));
        args.push(operand("of", self.target.as_os_str()));
        Ok(())
    }

    fn makes(&self) -> Option<&Path> {
        self.target.local()
    }

    fn answer(self, output: Output) -> Result<Output, ImgError> {
        Ok(output.check()?)
    }
}
