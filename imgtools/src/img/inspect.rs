//! The subcommands that inspect an image: `info`, `map`, `measure`.

use serde::de::DeserializeOwned;

use super::extents::{Extents, Parser};
use super::{
    Arguments, Call, ImageInfo, ImgError, MapExtent, MeasureReport, Operation, SnapshotInfo,
};
use crate::image::{ImageSpec, NameError, Options};
use crate::process::{Output, block_on};

/// `info`.
#[derive(Clone, Debug)]
pub struct Info(pub(super) ImageSpec);

/// `info --backing-chain`.
#[derive(Clone, Debug)]
pub struct BackingChain(pub(super) ImageSpec);

/// The internal snapshots, from `info`.
#[derive(Clone, Debug)]
pub struct SnapshotList(pub(super) ImageSpec);

/// `map`.
#[derive(Clone, Debug)]
pub struct Map {
    image: ImageSpec,
    start: Option<u64>,
    length: Option<u64>,
    parser: Parser,
    extents: Vec<MapExtent>,
}

/// `measure`.
#[derive(Clone, Debug)]
pub struct Measure {
    of: MeasureOf,
    format: Option<String>,
    options: Options,
    snapshot: Option<String>,
}

#[derive(Clone, Debug)]
enum MeasureOf {
    Image(ImageSpec),
    Size(u64),
}

fn json<T: DeserializeOwned>(output: Output) -> Result<T, ImgError> {
    let output = output.check()?;
    serde_json::from_slice(&output.stdout).map_err(|source| ImgError::Json {
        output: output.into(),
        source,
    })
}

impl Operation for Info {
    type Answer = ImageInfo;
    const NAME: &'static str = "info";

    fn arguments(&self, args: &mut Arguments) -> Result<(), NameError> {
        args.push("--output=json");
        args.image(&self.0)
    }

    fn answer(self, output: Output) -> Result<ImageInfo, ImgError> {
        json(output)
    }
}

impl Operation for BackingChain {
    type Answer = Vec<ImageInfo>;
    const NAME: &'static str = "info";

    fn arguments(&self, args: &mut Arguments) -> Result<(), NameError> {
        args.push("--output=json");
        args.push("--backing-chain");
        args.image(&self.0)
    }

    fn answer(self, output: Output) -> Result<Vec<ImageInfo>, ImgError> {
        json(output)
    }
}

impl Operation for SnapshotList {
    type Answer = Vec<SnapshotInfo>;
    const NAME: &'static str = "info";

    fn arguments(&self, args: &mut Arguments) -> Result<(), NameError> {
        args.push("--output=json");
        args.image(&self.0)
    }

    fn answer(self, output: Output) -> Result<Vec<SnapshotInfo>, ImgError> {
        json(output).map(|info: ImageInfo| info.snapshots)
    }
}

macro_rules! force_share {
    ($($op:ty),*) => {$(
        impl Call<$op> {
            /// Opens an image that is in use by others.
            pub fn force_share(self) -> Call<$op> {
                self.arg("-U")
            }
        }
    )*};
}
force_share!(Info, BackingChain, SnapshotList, Map, Measure);

impl Map {
    pub(super) fn new(image: ImageSpec) -> Map {
        Map {
            image,
            start: None,
            length: None,
            parser: Parser::default(),
            extents: Vec::new(),
        }
    }
}

impl Call<Map> {
    /// Starts it, to stream the extents: [`Call::run`] keeps all of them in memory.
    ///
    /// ```no_run
    /// # async fn example(img: imgtools::img::QemuImg) -> Result<(), imgtools::img::ImgError> {
    /// let mut extents = img.map("disk.qcow2").stream().await?;
    /// let mut data = 0;
    /// while let Some(extent) = extents.next().await.transpose()? {
    ///     data += if extent.data { extent.length } else { 0 };
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn stream(self) -> Result<Extents, ImgError> {
        let child = self.command()?.pull_stdout().spawn_async().await?;
        Ok(Extents::new(child))
    }

    /// [`Call::stream`] outside of async code.
    pub fn stream_blocking(self) -> Result<Extents, ImgError> {
        block_on(self.stream())
    }

    /// Begins at this byte.
    pub fn start(self, offset: u64) -> Call<Map> {
        self.with(|op| op.start = Some(offset))
    }

    /// Ends after this many bytes.
    pub fn max_length(self, bytes: u64) -> Call<Map> {
        self.with(|op| op.length = Some(bytes))
    }
}

impl Operation for Map {
    type Answer = Vec<MapExtent>;
    const NAME: &'static str = "map";

    fn arguments(&self, args: &mut Arguments) -> Result<(), NameError> {
        args.push("--output=json");
        args.maybe("--start-offset", self.start);
        args.maybe("--max-length", self.length);
        args.image(&self.image)
    }

    const PULLS: bool = true;

    fn take(&mut self, bytes: &[u8]) {
        let extents = &mut self.extents;
        self.parser.feed(bytes, |extent| extents.push(extent));
    }

    fn answer(self, output: Output) -> Result<Vec<MapExtent>, ImgError> {
        let extents = self.extents;
        match self.parser.end(output, extents.len() as u64) {
            Ok(()) => Ok(extents),
            Err(ImgError::TruncatedMap { output, found, .. }) => Err(ImgError::TruncatedMap {
                output,
                found,
                extents,
            }),
            Err(error) => Err(error),
        }
    }
}

impl Measure {
    pub(super) fn of(image: ImageSpec) -> Measure {
        Measure::new(MeasureOf::Image(image))
    }

    pub(super) fn size(bytes: u64) -> Measure {
        Measure::new(MeasureOf::Size(bytes))
    }

    fn new(of: MeasureOf) -> Measure {
        Measure {
            of,
            format: None,
            options: Options::new(),
            snapshot: None,
        }
    }
}

impl Call<Measure> {
    /// The format of the file that would be written (default: raw).
    pub fn output_format(self, format: &str) -> Call<Measure> {
        self.with(|op| op.format = Some(format.to_owned()))
    }

    /// The format options of the file that would be written.
    pub fn options(self, options: impl Into<Options>) -> Call<Measure> {
        self.with(|op| op.options = options.into())
    }

    /// Measures an internal snapshot.
    pub fn snapshot(self, name: &str) -> Call<Measure> {
        self.with(|op| op.snapshot = Some(name.to_owned()))
    }
}

impl Operation for Measure {
    type Answer = MeasureReport;
    const NAME: &'static str = "measure";

    fn arguments(&self, args: &mut Arguments) -> Result<(), NameError> {
        args.push("--output=json");
        args.maybe("-O", self.format.as_ref());
        args.options(&self.options);
        args.maybe("-l", self.snapshot.as_ref());
        match &self.of {
            MeasureOf::Image(image) => args.image(image)?,
            MeasureOf::Size(bytes) => args.pair("--size", bytes.to_string()),
        }
        Ok(())
    }

    fn answer(self, output: Output) -> Result<MeasureReport, ImgError> {
        json(output)
    }
}
