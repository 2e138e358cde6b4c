//! The subcommands that tell something of an image: `info`, `map`, `measure`.

use serde::de::DeserializeOwned;

use super::{
    Arguments, Call, ImageInfo, ImgError, MapExtent, MeasureReport, Operation, SnapshotInfo,
};
use crate::image::{ImageSpec, NameError, Options};
use crate::process::Output;

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

    fn arguments(&self, args: &mut Arguments<'_>) -> Result<(), NameError> {
        args.push("--output=json");
        args.image(&self.0)
    }

    fn answer(&self, output: Output) -> Result<ImageInfo, ImgError> {
        json(output)
    }
}

impl Operation for BackingChain {
    type Answer = Vec<ImageInfo>;
    const NAME: &'static str = "info";

    fn arguments(&self, args: &mut Arguments<'_>) -> Result<(), NameError> {
        args.push("--output=json");
        args.push("--backing-chain");
        args.image(&self.0)
    }

    fn answer(&self, output: Output) -> Result<Vec<ImageInfo>, ImgError> {
        json(output)
    }
}

impl Operation for SnapshotList {
    type Answer = Vec<SnapshotInfo>;
    const NAME: &'static str = "info";

    fn arguments(&self, args: &mut Arguments<'_>) -> Result<(), NameError> {
        args.push("--output=json");
        args.image(&self.0)
    }

    fn answer(&self, output: Output) -> Result<Vec<SnapshotInfo>, ImgError> {
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
        }
    }
}

impl Call<Map> {
    /// Begins at this byte.
    pub fn start(self, offset: u64) -> Call<Map> {
        self.with(|op| op.start = Some(offset))
    }

    /// Ends after so many bytes.
    pub fn max_length(self, bytes: u64) -> Call<Map> {
        self.with(|op| op.length = Some(bytes))
    }
}

impl Operation for Map {
    type Answer = Vec<MapExtent>;
    const NAME: &'static str = "map";

    fn arguments(&self, args: &mut Arguments<'_>) -> Result<(), NameError> {
        args.push("--output=json");
        args.maybe("--start-offset", self.start);
        args.maybe("--max-length", self.length);
        args.image(&self.image)
    }

    fn answer(&self, output: Output) -> Result<Vec<MapExtent>, ImgError> {
        // It prints as it goes: what begins but does not end is what a failure leaves.
        let began = output.stdout.first() == Some(&b'[');
        match serde_json::from_slice::<Vec<MapExtent>>(&output.stdout) {
            Err(error) if began && (error.is_eof() || !output.status.is_success()) => {
                let extents = extents_before_the_end(&output.stdout_text());
                Err(ImgError::TruncatedMap {
                    output: output.into(),
                    extents,
                })
            }
            _ => json(output),
        }
    }
}

/// The complete entries of a list that lacks its end.
fn extents_before_the_end(text: &str) -> Vec<MapExtent> {
    let mut rest = text.trim_start().strip_prefix('[').unwrap_or("");
    let mut extents = Vec::new();
    loop {
        let mut entries = serde_json::Deserializer::from_str(rest).into_iter();
        let Some(Ok(extent)) = entries.next() else {
            return extents;
        };
        extents.push(extent);
        rest = rest[entries.byte_offset()..].trim_start_matches([',', '\n', ' ']);
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

    fn arguments(&self, args: &mut Arguments<'_>) -> Result<(), NameError> {
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

    fn answer(&self, output: Output) -> Result<MeasureReport, ImgError> {
        json(output)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extent(start: u64, length: u64, data: bool) -> MapExtent {
        MapExtent {
            start,
            length,
            depth: 0,
            present: Some(data),
            zero: !data,
            data,
            compressed: None,
            offset: data.then_some(start),
            other: Default::default(),
        }
    }

    proptest! {
        #[test]
        fn a_cut_map_has_all_entries_before_the_cut(
            parts in prop::collection::vec((any::<u32>(), any::<u32>(), any::<bool>()), 0..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let extents: Vec<MapExtent> = parts
                .iter()
                .map(|(start, length, data)| extent((*start).into(), (*length).into(), *data))
                .collect();
            let lines: Vec<String> =
                extents.iter().map(|extent| serde_json::to_string(extent).unwrap()).collect();
            let text = format!("[{}", lines.join(",\n"));
            prop_assert_eq!(&extents_before_the_end(&text), &extents);
            let cut = cut.index(text.len() + 1);
            let found = extents_before_the_end(&text[..cut]);
            let whole = text[..cut].matches('}').count();
            prop_assert_eq!(found, &extents[..whole]);
        }

        #[test]
        fn no_text_is_too_strange(text in "\\PC{0,60}") {
            let _ = extents_before_the_end(&text);
        }
    }
}
