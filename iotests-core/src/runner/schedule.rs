//! The order of instances, and which of them may run at the same time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::host::meminfo;

/// What the schedule needs to know about an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    /// It failed the last time.
    pub(crate) failed: bool,
    /// How long it took the last time.
    pub(crate) expected: Option<Duration>,
    /// Nothing else may run at the same time.
    pub(crate) exclusive: bool,
    /// A lock that only one running instance may hold.
    pub(crate) lock: Option<&'static str>,
    /// How many jobs it counts as.
    pub(crate) cpus: u32,
    /// Memory it needs, in bytes.
    pub(crate) memory: u64,
}

impl Load {
    fn time(&self) -> Duration {
        self.expected.unwrap_or(UNKNOWN)
    }
}

/// The assumed time of an instance without records, which puts it neither first nor last.
const UNKNOWN: Duration = Duration::from_secs(2);

/// The waiting instances in order: failed ones first, then the longest, exclusive ones last. Those
/// that share a lock must run one after another, so they are sorted by their total time.
#[derive(Debug)]
pub(crate) struct Schedule<T> {
    waiting: VecDeque<(Load, T)>,
    running: Vec<Load>,
    jobs: usize,
    memory: u64,
    stopped: bool,
}

impl<T> Schedule<T> {
    /// Sorts the instances. At most `jobs` run at once, within `memory` bytes.
    pub(crate) fn new(
        instances: impl IntoIterator<Item = (Load, T)>,
        jobs: usize,
        memory: u64,
    ) -> Self {
        let mut waiting: Vec<(Load, T)> = instances.into_iter().collect();
        let mut locked: BTreeMap<&str, Duration> = BTreeMap::new();
        for (load, _) in &waiting {
            if let Some(lock) = load.lock {
                *locked.entry(lock).or_default() += load.time();
            }
        }
        let all = |load: &Load| load.lock.and_then(|lock| locked.get(lock)).copied();
        waiting.sort_by_key(|(load, _)| {
            (
                load.exclusive,
                !load.failed,
                Reverse(all(load).unwrap_or(load.time())),
                Reverse(load.time()),
            )
        });
        Self {
            waiting: waiting.into(),
            running: Vec::new(),
            jobs,
            memory,
            stopped: false,
        }
    }

    /// Changes how many run at once.
    pub(crate) const fn set_jobs(&mut self, jobs: usize) {
        self.jobs = jobs;
    }

    /// The next instance that may start now, if any.
    pub(crate) fn start(&mut self) -> Option<(Load, T)> {
        let busy: usize = self.running.iter().map(|load| load.cpus as usize).sum();
        if busy >= self.jobs || self.running.iter().any(|load| load.exclusive) {
            return None;
        }
        let used: u64 = self.running.iter().map(|load| load.memory).sum();
        let alone = self.running.is_empty();
        // An instance that is too big for this machine still runs, but alone.
        let is_free = |lock| self.running.iter().all(|load| load.lock != Some(lock));
        let fits = |load: &Load| {
            alone
                || (!load.exclusive
                    && load.lock.is_none_or(is_free)
                    && busy + load.cpus as usize <= self.jobs
                    && used.saturating_add(load.memory) <= self.memory)
        };
        let index = self.waiting.iter().position(|(load, _)| fits(load))?;
        let next = self.waiting.remove(index)?;
        self.running.push(next.0);
        Some(next)
    }

    /// Adds an instance at the end; does nothing once [stopped](Self::stop).
    pub(crate) fn add(&mut self, load: Load, one: T) {
        if !self.stopped {
            self.waiting.push_back((load, one));
        }
    }

    /// Whether no instance is waiting.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Notes that an instance with this load has ended.
    pub(crate) fn end(&mut self, load: Load) {
        if let Some(index) = self.running.iter().position(|other| *other == load) {
            self.running.swap_remove(index);
        }
    }

    /// Starts nothing more; returns how many instances are left.
    pub(crate) fn stop(&mut self) -> usize {
        self.stopped = true;
        self.waiting.drain(..).count()
    }
}

/// 90 % of the available memory according to `/proc/meminfo`; no limit if unknown.
pub(crate) fn available_memory() -> u64 {
    meminfo("MemAvailable:").map_or(u64::MAX, |kib| kib / 10 * 9 * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(seconds: u64) -> Load {
        Load {
            failed: false,
            expected: Some(Duration::from_secs(seconds)),
            exclusive: false,
            lock: None,
            cpus: 1,
            memory: 1,
        }
    }

    fn order(schedule: &mut Schedule<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| schedule.start().map(|(_, name)| name)).collect()
    }

    #[test]
    fn failed_come_first_then_the_longest_and_the_unknown_between() {
        let failed = Load {
            failed: true,
            ..load(1)
        };
        let unknown = Load {
            expected: None,
            ..load(0)
        };
        let all = [
            (load(1), "short"),
            (load(9), "long"),
            (unknown, "unknown"),
            (failed, "failed"),
        ];
        assert_eq!(
            order(&mut Schedule::new(all, 9, 99)),
            ["failed", "long", "unknown", "short"]
        );
    }

    #[test]
    fn no_more_than_the_jobs_run_at_once() {
        let mut schedule = Schedule::new([(load(3), "a"), (load(2), "b"), (load(1), "c")], 2, 99);
        assert_eq!(order(&mut schedule), ["a", "b"]);
        schedule.end(load(3));
        assert_eq!(order(&mut schedule), ["c"]);
        assert_eq!(schedule.stop(), 0);
    }

    #[test]
    fn an_exclusive_one_runs_alone_and_last() {
        let exclusive = Load {
            exclusive: true,
            ..load(9)
        };
        let mut schedule = Schedule::new(
            [(exclusive, "alone"), (load(1), "a"), (load(1), "b")],
            4,
            99,
        );
        assert_eq!(order(&mut schedule), ["a", "b"]);
        schedule.end(load(1));
        assert_eq!(order(&mut schedule), [""; 0]);
        schedule.end(load(1));
        assert_eq!(order(&mut schedule), ["alone"]);
    }

    #[test]
    fn instances_with_the_same_lock_do_not_run_at_the_same_time() {
        let with = |lock, seconds| Load {
            lock: Some(lock),
            ..load(seconds)
        };
        let all = [
            (with("ports", 9), "a"),
            (with("ports", 8), "b"),
            (with("loop", 7), "c"),
            (load(1), "d"),
        ];
        let mut schedule = Schedule::new(all, 9, 99);
        assert_eq!(order(&mut schedule), ["a", "c", "d"]);
        schedule.end(load(1));
        assert_eq!(order(&mut schedule), [""; 0]);
        schedule.end(with("ports", 9));
        assert_eq!(order(&mut schedule), ["b"]);
    }

    #[test]
    fn a_smaller_one_overtakes_what_does_not_fit_into_memory() {
        let big = Load {
            memory: 90,
            ..load(5)
        };
        let bigger = Load {
            memory: 200,
            ..load(4)
        };
        let mut schedule = Schedule::new(
            [(big, "big"), (bigger, "bigger"), (load(1), "small")],
            4,
            100,
        );
        assert_eq!(order(&mut schedule), ["big", "small"]);
        schedule.end(big);
        schedule.end(load(1));
        assert_eq!(
            order(&mut schedule),
            ["bigger"],
            "alone, although it is too big"
        );
    }

    #[test]
    fn a_stopped_schedule_starts_nothing_more() {
        let mut schedule = Schedule::new([(load(1), "a"), (load(1), "b")], 1, 99);
        assert_eq!(order(&mut schedule), ["a"]);
        assert_eq!(schedule.stop(), 1);
        schedule.end(load(1));
        schedule.add(load(1), "c");
        assert!(schedule.start().is_none());
    }

    #[test]
    fn an_added_instance_waits_behind_the_others() {
        let mut schedule = Schedule::new([(load(1), "a"), (load(1), "b")], 1, 99);
        assert_eq!(order(&mut schedule), ["a"]);
        schedule.add(load(9), "a again");
        schedule.end(load(1));
        assert_eq!(order(&mut schedule), ["b"]);
        schedule.end(load(1));
        assert_eq!(order(&mut schedule), ["a again"]);
    }

    #[test]
    fn an_instance_with_several_cpus_takes_as_many_jobs() {
        let wide = Load { cpus: 3, ..load(5) };
        let all = [(load(9), "long"), (wide, "wide"), (load(1), "short")];
        let mut schedule = Schedule::new(all, 3, 99);
        assert_eq!(
            order(&mut schedule),
            ["long", "short"],
            "an overtaker uses what is left"
        );
        schedule.end(load(9));
        assert_eq!(order(&mut schedule), [""; 0]);
        schedule.end(load(1));
        assert_eq!(order(&mut schedule), ["wide"]);
        // With fewer jobs than that, it runs alone.
        let mut narrow = Schedule::new([(load(9), "a"), (wide, "wide")], 2, 99);
        assert_eq!(order(&mut narrow), ["a"]);
        narrow.end(load(9));
        assert_eq!(order(&mut narrow), ["wide"]);
    }

    /// Simulates a run: when the last instance ends.
    fn makespan(loads: &[Load], jobs: usize) -> f64 {
        let named = loads.iter().map(|load| (*load, ()));
        let mut schedule = Schedule::new(named, jobs, u64::MAX);
        let mut running: Vec<(Duration, Load)> = Vec::new();
        let mut now = Duration::ZERO;
        loop {
            while let Some((load, ())) = schedule.start() {
                running.push((now + load.time(), load));
            }
            let Some(next) = (0..running.len()).min_by_key(|index| running[*index].0) else {
                return now.as_secs_f64();
            };
            let (end, load) = running.swap_remove(next);
            now = end;
            schedule.end(load);
        }
    }

    /// Times like those of a real suite: most are short, a few very long (log-normal).
    fn suite(random: &mut fastrand::Rng, count: usize) -> Vec<Load> {
        let mut time = || {
            // The sum of twelve uniform numbers is nearly normal.
            let normal: f64 = (0..12).map(|_| random.f64()).sum::<f64>() - 6.0;
            Duration::from_secs_f64(normal.exp())
        };
        (0..count)
            .map(|_| Load {
                expected: Some(time()),
                ..load(0)
            })
            .collect()
    }

    #[test]
    fn the_schedule_is_close_to_optimal() {
        let mut random = fastrand::Rng::with_seed(7);
        for jobs in [2, 8, 16] {
            for _ in 0..5 {
                let mut loads = suite(&mut random, 300);
                let seconds = |load: &Load| load.time().as_secs_f64();
                let bound = |loads: &[Load]| {
                    let sum: f64 = loads.iter().map(seconds).sum();
                    let longest = loads.iter().map(seconds).fold(0.0, f64::max);
                    (sum / jobs as f64).max(longest)
                };
                let ratio = makespan(&loads, jobs) / bound(&loads);
                assert!(ratio <= 1.05, "-j{jobs}: {ratio}");
                // Short instances with a common lock are like a long one: they must not be delayed.
                let chain = bound(&loads) * 0.9;
                for _ in 0..30 {
                    loads.push(Load {
                        lock: Some("ports"),
                        expected: Some(Duration::from_secs_f64(chain / 30.0)),
                        ..load(0)
                    });
                }
                let ratio = makespan(&loads, jobs) / bound(&loads).max(chain);
                assert!(ratio <= 1.05, "-j{jobs} with a lock: {ratio}");
            }
        }
    }
}
