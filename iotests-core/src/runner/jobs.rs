//! How many instances run at once: a fixed number, or as many as the machine can take.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use super::cli::MAX_COUNT;

/// `--jobs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Jobs {
    /// This many.
    Number(usize),
    /// As many as the machine can take.
    Auto,
}

impl FromStr for Jobs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "auto" => Ok(Self::Auto),
            Ok(number) if (1..=MAX_COUNT).contains(&number) => {
                Ok(Self::Number(usize::try_from(number).unwrap_or(usize::MAX)))
            }
            _ => Err(format!(
                "{text} is not in 1..={MAX_COUNT}, and is not `auto`"
            )),
        }
    }
}

/// The most instances per processor. There can be several because QEMU mostly waits.
const PER_PROCESSOR: usize = 4;

/// The interval between decisions.
const LOOK: Duration = Duration::from_secs(1);

/// The share of time in which some process waits for a processor, from which on the limit no longer
/// rises.
const BUSY: f64 = 0.5;
/// The share above which the limit falls.
const TOO_BUSY: f64 = 0.9;
/// The share of time in which some process waits for memory, above which the limit falls.
const SHORT: f64 = 0.05;

/// Adapts the number of instances to how loaded the machine is.
#[derive(Debug)]
pub(crate) struct AdaptiveJobs {
    limit: usize,
    processors: usize,
    at: Instant,
    cpu: Pressure,
    memory: Pressure,
}

impl AdaptiveJobs {
    /// Starts with one instance per processor.
    pub(crate) fn new(processors: usize) -> Self {
        Self {
            limit: processors,
            processors,
            at: Instant::now(),
            cpu: Pressure::of("cpu"),
            memory: Pressure::of("memory"),
        }
    }

    /// The highest limit there can be.
    pub(crate) const fn max(processors: usize) -> usize {
        processors * PER_PROCESSOR
    }

    /// How many instances may run now, given how many do.
    pub(crate) fn limit(&mut self, running: usize) -> usize {
        let passed = self.at.elapsed();
        if passed >= LOOK {
            let (cpu, memory) = (self.cpu.share(passed), self.memory.share(passed));
            let cpu = cpu.unwrap_or_else(|| load(self.processors));
            self.at = Instant::now();
            self.limit = self.next(running, cpu, memory.unwrap_or_default());
        }
        self.limit
    }

    /// Raises the limit by one if it is reached and processors are free, lowers it by one if they
    /// are overloaded. Only a lack of memory takes it below one per processor, so that other busy
    /// programs cannot stall the run.
    fn next(&self, running: usize, cpu: f64, memory: f64) -> usize {
        if memory > SHORT {
            (self.limit - 1).max(1)
        } else if self.limit < self.processors || (cpu < BUSY && running >= self.limit) {
            (self.limit + 1).min(Self::max(self.processors))
        } else if cpu > TOO_BUSY && self.limit > self.processors {
            self.limit - 1
        } else {
            self.limit
        }
    }
}

/// The kernel's pressure stall information (PSI) about one resource.
#[derive(Debug)]
struct Pressure {
    /// The file of the control group, which accounts for its limits, else that of the machine;
    /// `None` if the kernel has neither.
    file: Option<PathBuf>,
    waited: Duration,
}

impl Pressure {
    fn of(what: &str) -> Self {
        let files = [group_file(what), Some(format!("/proc/pressure/{what}"))];
        let mut files = files.into_iter().flatten().map(PathBuf::from);
        let file = files.find(|file| waited(file).is_some());
        let waited = file.as_deref().and_then(waited).unwrap_or_default();
        Self { file, waited }
    }

    /// The share of time since the last call in which some process waited.
    fn share(&mut self, passed: Duration) -> Option<f64> {
        let waited = waited(self.file.as_deref()?)?;
        let since = waited.saturating_sub(self.waited);
        self.waited = waited;
        Some(since.as_secs_f64() / passed.as_secs_f64())
    }
}

fn group_file(what: &str) -> Option<String> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(format!("/sys/fs/cgroup{group}/{what}.pressure"))
}

/// The total of the `some` line, in microseconds in the file.
fn waited(file: &Path) -> Option<Duration> {
    let text = fs::read_to_string(file).ok()?;
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let total = some.split(' ').find_map(|word| word.strip_prefix("total="))?;
    total.parse().ok().map(Duration::from_micros)
}

/// An estimate without PSI: the number of runnable processes relative to the processors, scaled so
/// that one per processor is [`BUSY`].
fn load(processors: usize) -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let wanting = text.split(' ').nth(3).and_then(|word| word.split('/').next());
    // This process itself is runnable.
    let wanting: usize = wanting.and_then(|word| word.parse().ok()).unwrap_or(1);
    wanting.saturating_sub(1) as f64 / processors as f64 * BUSY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_rises_while_processors_are_free_and_falls_under_load() {
        let mut adaptive = AdaptiveJobs::new(4);
        for (limit, running, cpu, memory, expected) in [
            (4, 4, 0.1, 0.0, 5),
            (4, 3, 0.1, 0.0, 4),
            (4, 4, 0.7, 0.0, 4),
            (6, 6, 0.95, 0.0, 5),
            (4, 4, 1.0, 0.0, 4),
            (16, 16, 0.0, 0.0, 16),
            (4, 4, 0.0, 0.2, 3),
            (1, 1, 1.0, 0.2, 1),
            (1, 1, 1.0, 0.0, 2),
        ] {
            adaptive.limit = limit;
            let next = adaptive.next(running, cpu, memory);
            assert_eq!(next, expected, "{limit} {running} {cpu} {memory}");
        }
    }

    #[test]
    fn pressure_is_the_share_of_time_since_the_last_call() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cpu");
        let write = |total: u64| {
            let text =
                format!("some avg10=1.00 avg60=0.00 avg300=0.00 total={total}\nfull total=9\n");
            fs::write(&file, text).unwrap();
        };
        write(1_000_000);
        let mut pressure = Pressure {
            waited: waited(&file).unwrap(),
            file: Some(file.clone()),
        };
        write(1_500_000);
        assert_eq!(pressure.share(Duration::from_secs(2)), Some(0.25));
        assert_eq!(pressure.share(Duration::from_secs(2)), Some(0.0));
        fs::write(&file, "nonsense").unwrap();
        assert_eq!(pressure.share(Duration::from_secs(2)), None);
    }
}
