//! `qemu-img compare`, whose exit status alone does not distinguish "different" from "wrong usage".

use super::{Arguments, Call, ComparePhase, ImgError, Operation, ReportsProgress};
use crate::image::{ImageSpec, NameError};
use crate::process::{Output, ProcessError};

/// `compare`.
#[derive(Clone, Debug)]
pub struct Compare {
    a: ImageSpec,
    b: ImageSpec,
    strict: bool,
    force_share: bool,
    source_cache: Option<String>,
}

/// The outcome of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// The same content. Unless the comparison was strict, one image may have extra zeroes at its
    /// end.
    Same {
        /// Whether the sizes differ nevertheless.
        sizes_differ: bool,
    },
    /// Different content.
    Differ(Difference),
}

/// The first difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// The data from this byte on.
    Content {
        /// The offset in bytes. QEMU reports where the differing sectors begin.
        offset: u64,
    },
    /// The size. Only in strict mode.
    Size,
    /// Whether there is data or a hole from this byte on. Only in strict mode.
    BlockStatus {
        /// The offset in bytes.
        offset: u64,
    },
}

impl Comparison {
    /// Whether the content is the same.
    pub fn is_same(&self) -> bool {
        matches!(self, Comparison::Same { .. })
    }
}

impl Compare {
    pub(super) fn new(a: ImageSpec, b: ImageSpec) -> Compare {
        Compare {
            a,
            b,
            strict: false,
            force_share: false,
            source_cache: None,
        }
    }
}

impl Call<Compare> {
    /// Also compares sizes and allocation.
    pub fn strict(self) -> Call<Compare> {
        self.with(|op| op.strict = true)
    }

    /// Opens images that are in use by others.
    pub fn force_share(self) -> Call<Compare> {
        self.with(|op| op.force_share = true)
    }

    /// The cache mode for reading.
    pub fn source_cache(self, mode: &str) -> Call<Compare> {
        self.with(|op| op.source_cache = Some(mode.to_owned()))
    }
}

impl Operation for Compare {
    type Answer = Comparison;
    const NAME: &'static str = "compare";

    fn arguments(&self, args: &mut Arguments) -> Result<(), NameError> {
        args.flag("-s", self.strict);
        args.flag("-U", self.force_share);
        args.maybe("-T", self.source_cache.as_ref());
        // `--image-opts` applies to both images.
        let by_options = self.a.is_options() || self.b.is_options();
        let (a, b) = (self.a.words(by_options)?, self.b.words(by_options)?);
        args.secrets(self.a.secrets());
        args.secrets(self.b.secrets());
        args.flag("--image-opts", by_options);
        args.maybe("-f", a.format);
        args.maybe("-F", b.format);
        args.operands([a.name, b.name]);
        Ok(())
    }

    fn answer(self, output: Output) -> Result<Comparison, ImgError> {
        let text = output.stdout_text();
        let phase = match output.status.code() {
            Some(0) => {
                return Ok(Comparison::Same {
                    sizes_differ: text.contains(SIZE_WARNING),
                });
            }
            Some(1) => match difference(&text) {
                Some(difference) => return Ok(Comparison::Differ(difference)),
                None => ComparePhase::Usage,
            },
            Some(2) => ComparePhase::Open,
            Some(3) => ComparePhase::BlockStatus,
            Some(4) => ComparePhase::Read,
            _ => return Err(ProcessError::Status(output.into()).into()),
        };
        Err(ImgError::Compare {
            phase,
            output: output.into(),
        })
    }
}

impl ReportsProgress for Compare {}

const SIZE_WARNING: &str = "Warning: Image size mismatch!";

/// The difference that was printed, if one was.
fn difference(stdout: &str) -> Option<Difference> {
    // A progress report ends in a carriage return, followed by the next line.
    stdout.split(['\n', '\r']).find_map(|line| {
        if line == "Strict mode: Image size mismatch!" {
            return Some(Difference::Size);
        }
        let offset = |before, after| -> Option<u64> {
            line.strip_prefix(before)?.strip_suffix(after)?.parse().ok()
        };
        if let Some(offset) = offset("Content mismatch at offset ", "!") {
            return Some(Difference::Content { offset });
        }
        let offset = offset("Strict mode: Offset ", " block status mismatch!")?;
        Some(Difference::BlockStatus { offset })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_difference_is_read_among_other_lines(offset: u64, before in "[a-zA-Z !]{0,20}[\n\r]") {
            for (line, expected) in [
                (format!("Content mismatch at offset {offset}!"), Difference::Content { offset }),
                (
                    format!("Strict mode: Offset {offset} block status mismatch!"),
                    Difference::BlockStatus { offset },
                ),
                ("Strict mode: Image size mismatch!".to_owned(), Difference::Size),
            ] {
                prop_assert_eq!(difference(&format!("{before}{line}\n")), Some(expected));
                prop_assert_eq!(difference(&format!("{before}{}\n", &line[1..])), None);
            }
        }

        #[test]
        fn no_text_is_too_strange(text in "\\PC{0,80}") {
            let _ = difference(&text);
        }
    }
}
