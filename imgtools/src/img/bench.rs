//! `qemu-img bench`.

use std::time::Duration;

use super::{Arguments, Call, ImgError, Operation};
use crate::image::{ImageSpec, NameError};
use crate::process::Output;

/// `bench`.
#[derive(Clone, Debug)]
pub struct Bench {
    image: ImageSpec,
    write: bool,
    count: Option<u64>,
    depth: Option<u32>,
    buffer: Option<u64>,
    step: Option<u64>,
    offset: Option<u64>,
    pattern: Option<u8>,
    flush_interval: Option<u64>,
    no_drain: bool,
    cache: Option<String>,
    aio: Option<String>,
}

/// The outcome of a benchmark.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BenchResult {
    /// The elapsed time by qemu-img's own clock, in whole milliseconds.
    pub elapsed: Duration,
    /// The output.
    pub output: Box<Output>,
}

impl Bench {
    pub(super) fn new(image: ImageSpec) -> Bench {
        Bench {
            image,
            write: false,
            count: None,
            depth: None,
            buffer: None,
            step: None,
            offset: None,
            pattern: None,
            flush_interval: None,
            no_drain: false,
            cache: None,
            aio: None,
        }
    }
}

impl Call<Bench> {
    /// Writes instead of reading.
    pub fn write(self) -> Call<Bench> {
        self.with(|op| op.write = true)
    }

    /// The number of requests.
    pub fn count(self, requests: u64) -> Call<Bench> {
        self.with(|op| op.count = Some(requests))
    }

    /// The number of concurrent requests.
    pub fn depth(self, requests: u32) -> Call<Bench> {
        self.with(|op| op.depth = Some(requests))
    }

    /// The size of a request in bytes.
    pub fn buffer_size(self, bytes: u64) -> Call<Bench> {
        self.with(|op| op.buffer = Some(bytes))
    }

    /// The distance in bytes between the starts of consecutive requests.
    pub fn step_size(self, bytes: u64) -> Call<Bench> {
        self.with(|op| op.step = Some(bytes))
    }

    /// The offset of the first request.
    pub fn offset(self, bytes: u64) -> Call<Bench> {
        self.with(|op| op.offset = Some(bytes))
    }

    /// The byte that is written.
    pub fn pattern(self, byte: u8) -> Call<Bench> {
        self.with(|op| op.pattern = Some(byte))
    }

    /// Flushes after this many writes.
    pub fn flush_interval(self, requests: u64) -> Call<Bench> {
        self.with(|op| op.flush_interval = Some(requests))
    }

    /// Does not drain other requests before a flush.
    pub fn no_drain(self) -> Call<Bench> {
        self.with(|op| op.no_drain = true)
    }

    /// The cache mode.
    pub fn cache(self, mode: &str) -> Call<Bench> {
        self.with(|op| op.cache = Some(mode.to_owned()))
    }

    /// The asynchronous I/O mode.
    pub fn aio(self, mode: &str) -> Call<Bench> {
        self.with(|op| op.aio = Some(mode.to_owned()))
    }
}

impl Operation for Bench {
    type Answer = BenchResult;
    const NAME: &'static str = "bench";

    fn arguments(&self, args: &mut Arguments) -> Result<(), NameError> {
        args.flag("-w", self.write);
        args.maybe("-c", self.count);
        args.maybe("-d", self.depth);
        args.maybe("-s", self.buffer);
        args.maybe("-S", self.step);
        args.maybe("-o", self.offset);
        args.maybe("--pattern", self.pattern);
        args.maybe("--flush-interval", self.flush_interval);
        args.flag("--no-drain", self.no_drain);
        args.maybe("-t", self.cache.as_ref());
        args.maybe("-i", self.aio.as_ref());
        args.image(&self.image)
    }

    fn answer(self, output: Output) -> Result<BenchResult, ImgError> {
        let output = output.check()?;
        match elapsed(&output.stdout_text()) {
            Some(elapsed) => Ok(BenchResult {
                elapsed,
                output: output.into(),
            }),
            None => Err(ImgError::Text(output.into())),
        }
    }
}

/// Reads `Run completed in 1.234 seconds.`
fn elapsed(text: &str) -> Option<Duration> {
    let number = |line: &str| {
        let seconds = line.strip_prefix("Run completed in ")?.strip_suffix(" seconds.")?;
        Duration::try_from_secs_f64(seconds.parse().ok()?).ok()
    };
    text.lines().find_map(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_time_of_a_run_is_read(millis in 0u64..100_000_000) {
            let text = format!("Sending 1 read\nRun completed in {}.{:03} seconds.\n", millis / 1000, millis % 1000);
            let found = elapsed(&text).unwrap();
            prop_assert_eq!(found.as_secs_f64(), millis as f64 / 1000.0);
        }

        #[test]
        fn no_text_is_too_strange(text in "(Run completed in )?[-0-9.einf]{0,12}( seconds\\.)?") {
            let _ = elapsed(&text);
        }
    }
}
