//! Splits a plan among machines: which instances each one runs, and how it learns its number.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::RunError;

/// A run's part of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// The number of the part, from 1.
    pub number: u32,
    /// The number of parts.
    pub of: u32,
    /// The number of instances in all parts together.
    pub instances: usize,
    /// A hash of the whole plan and its cut: parts with the same value belong together.
    pub plan: String,
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, of, .. } = self;
        write!(
            f,
            "{number}/{of}, {} instances in all, plan {}",
            self.instances, self.plan
        )
    }
}

/// `--partition`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Partition {
    /// As given by the variables of a CI system.
    Auto,
    /// This part.
    Part(Part),
}

/// Part `number` of `of`, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    number: u32,
    of: u32,
}

impl Part {
    fn new(number: u32, of: u32) -> Result<Self, String> {
        match (1..=MAX_PARTS).contains(&of) && (1..=of).contains(&number) {
            true => Ok(Self { number, of }),
            false => Err(format!(
                "there is no part {number} of {of}: it must be K/N, with K from 1 to N, and N at most {MAX_PARTS}"
            )),
        }
    }
}

/// The largest number of parts: more machines than anybody has.
const MAX_PARTS: u32 = 10_000;

impl FromStr for Partition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let parts = text.split_once('/');
        let parsed = parts.and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        match parsed {
            Some((number, of)) => Part::new(number, of).map(Self::Part),
            None => Err("it must be K/N, such as 2/5, or `auto`".to_owned()),
        }
    }
}

/// A CI system, and the variables in which it gives a job its number and the number of jobs.
struct System {
    name: &'static str,
    /// The variable by which the system is recognized.
    sign: &'static str,
    number: &'static str,
    of: &'static str,
    /// The number of the first job.
    first: u32,
    /// What to do if a variable is missing.
    advice: &'static str,
}

const SYSTEMS: [System; 5] = [
    System {
        name: "GitLab",
        sign: "CI_NODE_TOTAL",
        number: "CI_NODE_INDEX",
        of: "CI_NODE_TOTAL",
        first: 1,
        advice: "give the job `parallel: N`",
    },
    System {
        name: "Buildkite",
        sign: "BUILDKITE_PARALLEL_JOB",
        number: "BUILDKITE_PARALLEL_JOB",
        of: "BUILDKITE_PARALLEL_JOB_COUNT",
        first: 0,
        advice: "give the step `parallelism: N`",
    },
    System {
        name: "CircleCI",
        sign: "CIRCLE_NODE_TOTAL",
        number: "CIRCLE_NODE_INDEX",
        of: "CIRCLE_NODE_TOTAL",
        first: 0,
        advice: "give the job `parallelism: N`",
    },
    System {
        name: "Kubernetes",
        sign: "JOB_COMPLETION_INDEX",
        number: "JOB_COMPLETION_INDEX",
        of: "JOB_COMPLETIONS",
        first: 0,
        advice: "give the Job `completionMode: Indexed`, and its container a variable JOB_COMPLETIONS with the number of completions",
    },
    System {
        name: "GitHub Actions",
        sign: "GITHUB_ACTIONS",
        number: "STRATEGY_JOB_INDEX",
        of: "STRATEGY_JOB_TOTAL",
        first: 0,
        advice: "give the step `env: {STRATEGY_JOB_INDEX: \"${{ strategy.job-index }}\", STRATEGY_JOB_TOTAL: \"${{ strategy.job-total }}\"}`",
    },
];

impl Partition {
    /// The part; `auto` takes it from these variables, and is `None` without a CI system.
    pub(crate) fn part(
        self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Part>, RunError> {
        match self {
            Self::Part(part) => Ok(Some(part)),
            Self::Auto => {
                auto(&variable).map_err(|why| RunError::Usage(format!("--partition auto: {why}")))
            }
        }
    }
}

fn auto(variable: &impl Fn(&str) -> Option<String>) -> Result<Option<Part>, String> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let number = |name: &str| match set(name) {
        None => Ok(None),
        Some(value) => match value.parse::<u32>() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(format!("{name} is `{value}`, which is not a number")),
        },
    };
    if set("SLURM_ARRAY_TASK_ID").is_some() {
        let need = |name| {
            number(name)?.ok_or_else(|| format!("Slurm sets SLURM_ARRAY_TASK_ID, but not {name}"))
        };
        let id = need("SLURM_ARRAY_TASK_ID")?;
        let (least, most) = (need("SLURM_ARRAY_TASK_MIN")?, need("SLURM_ARRAY_TASK_MAX")?);
        let count = need("SLURM_ARRAY_TASK_COUNT")?;
        // Works only for evenly spaced numbers: for a list, the variables do not give the position.
        let step =
            most.saturating_sub(least).checked_div(count.saturating_sub(1)).unwrap_or(1).max(1);
        let fits = id >= least
            && id <= most
            && (id - least).is_multiple_of(step)
            && (most - least) / step + 1 == count;
        if !fits {
            return Err(format!(
                "Slurm's array has {count} tasks from {least} to {most}, and this is {id}: number them evenly, such as `--array=1-{count}`"
            ));
        }
        return Part::new((id - least) / step + 1, count).map(Some);
    }
    for system in SYSTEMS {
        if set(system.sign).is_none() {
            continue;
        }
        let (Some(number), Some(of)) = (number(system.number)?, number(system.of)?) else {
            return Err(format!(
                "this is {}, but {} and {} are not both set: {}",
                system.name, system.number, system.of, system.advice
            ));
        };
        let from_1 = number.checked_sub(system.first).and_then(|number| number.checked_add(1));
        let part = from_1.ok_or_else(|| format!("{} is {number}", system.number))?;
        return Part::new(part, of).map(Some);
    }
    Ok(None)
}

/// An instance, as far as the partition is concerned.
pub(crate) struct Piece<'p> {
    pub(crate) id: &'p str,
    /// How long it took the last time: `None` if unknown, zero if it does not run.
    pub(crate) time: Option<Duration>,
}

/// Cuts a plan: returns which pieces belong to this part, and the part for the record.
///
/// Machines with the same plan and times make the same cut, so each piece is in exactly one part.
/// The longest pieces are assigned first, each to the part with the least time so far. Times are
/// rounded to steps of 20 %, so that small differences between runs rarely change the cut. Unknown
/// times count as the median of the known ones.
pub(crate) fn cut(pieces: &[Piece<'_>], part: Part) -> (Vec<bool>, Shard) {
    let mut known: Vec<u64> = pieces.iter().filter_map(|one| step(one.time?)).collect();
    known.sort_unstable();
    let median = known.get(known.len() / 2).copied().unwrap_or(1);
    let weight = |piece: &Piece<'_>| match piece.time {
        None => median,
        Some(time) => step(time).unwrap_or(0),
    };
    let mut order: Vec<usize> = (0..pieces.len()).collect();
    order.sort_by_key(|index| (Reverse(weight(&pieces[*index])), pieces[*index].id));
    // Load, number of pieces and number of each part, the least loaded first.
    let mut parts: BTreeSet<(u64, usize, u32)> =
        (1..=part.of).map(|number| (0, 0, number)).collect();
    let mut mine = vec![false; pieces.len()];
    let mut plan = Sha256::new();
    for index in order {
        let Some((load, count, number)) = parts.pop_first() else {
            break;
        };
        parts.insert((load + weight(&pieces[index]), count + 1, number));
        mine[index] = number == part.number;
        plan.update(format!("{number} {}\n", pieces[index].id));
    }
    let plan: String = plan.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let shard = Shard {
        number: part.number,
        of: part.of,
        instances: pieces.len(),
        plan,
    };
    (mine, shard)
}

/// A time in microseconds, rounded down to a step; steps are 20 % apart, from a millisecond on.
/// `None` for zero.
fn step(time: Duration) -> Option<u64> {
    let micros = time.as_micros() as f64;
    if micros <= 0.0 {
        return None;
    }
    let steps = (micros.max(1000.0) / 1000.0).log(1.2).floor();
    Some((1000.0 * 1.2_f64.powf(steps)) as u64)
}

/// What is wrong with these parts together: missing parts, and parts of different plans.
pub(crate) fn gaps(shards: &[Shard], instances: usize) -> Vec<String> {
    let mut plans: BTreeMap<(&str, u32), BTreeSet<u32>> = BTreeMap::new();
    for shard in shards {
        plans.entry((&shard.plan, shard.of)).or_default().insert(shard.number);
    }
    let mut gaps = Vec::new();
    if plans.len() > 1 {
        let plans: Vec<String> = plans
            .iter()
            .map(|((plan, of), numbers)| {
                format!("{} of {of} of plan {plan}", numbers_text(numbers))
            })
            .collect();
        gaps.push(format!(
            "the parts are of different plans: {}; all machines need the same selection, programs and recorded times",
            plans.join("; ")
        ));
    }
    for ((_, of), numbers) in &plans {
        let missing: BTreeSet<u32> = (1..=*of).filter(|number| !numbers.contains(number)).collect();
        if !missing.is_empty() {
            let first = missing.first().copied().unwrap_or_default();
            let (parts, it) = match missing.len() {
                1 => ("part", "is missing: run it"),
                _ => ("parts", "are missing: run them"),
            };
            gaps.push(format!(
                "{parts} {} of {of} {it} with --partition {first}/{of} --jsonl FILE, and merge again",
                numbers_text(&missing)
            ));
        }
    }
    if let (true, Some(shard)) = (gaps.is_empty(), shards.first())
        && instances < shard.instances
    {
        gaps.push(format!(
            "{instances} of {} instances are in the records: a part was cut short",
            shard.instances
        ));
    }
    gaps
}

/// Numbers as ranges, such as `1, 3-5`.
fn numbers_text(numbers: &BTreeSet<u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let text = ranges.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    text.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(number: u32, of: u32) -> Part {
        Part::new(number, of).unwrap()
    }

    fn found(variables: &[(&str, &str)]) -> Result<Option<Part>, String> {
        auto(&|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn each_ci_system_gives_the_part_in_its_own_variables() {
        for (variables, number, of) in [
            (&[("CI_NODE_INDEX", "2"), ("CI_NODE_TOTAL", "5")][..], 2, 5),
            (
                &[
                    ("BUILDKITE_PARALLEL_JOB", "0"),
                    ("BUILDKITE_PARALLEL_JOB_COUNT", "3"),
                ],
                1,
                3,
            ),
            (
                &[("CIRCLE_NODE_INDEX", "2"), ("CIRCLE_NODE_TOTAL", "3")],
                3,
                3,
            ),
            (
                &[("JOB_COMPLETION_INDEX", "1"), ("JOB_COMPLETIONS", "4")],
                2,
                4,
            ),
            (
                &[
                    ("GITHUB_ACTIONS", "true"),
                    ("STRATEGY_JOB_INDEX", "0"),
                    ("STRATEGY_JOB_TOTAL", "2"),
                ],
                1,
                2,
            ),
            (
                &[
                    ("SLURM_ARRAY_TASK_ID", "3"),
                    ("SLURM_ARRAY_TASK_MIN", "1"),
                    ("SLURM_ARRAY_TASK_MAX", "4"),
                    ("SLURM_ARRAY_TASK_COUNT", "4"),
                ],
                3,
                4,
            ),
            (
                &[
                    ("SLURM_ARRAY_TASK_ID", "4"),
                    ("SLURM_ARRAY_TASK_MIN", "0"),
                    ("SLURM_ARRAY_TASK_MAX", "6"),
                    ("SLURM_ARRAY_TASK_COUNT", "4"),
                ],
                3,
                4,
            ),
            (
                &[
                    ("SLURM_ARRAY_TASK_ID", "7"),
                    ("SLURM_ARRAY_TASK_MIN", "7"),
                    ("SLURM_ARRAY_TASK_MAX", "7"),
                    ("SLURM_ARRAY_TASK_COUNT", "1"),
                ],
                1,
                1,
            ),
        ] {
            assert_eq!(
                found(variables),
                Ok(Some(part(number, of))),
                "{variables:?}"
            );
        }
        assert_eq!(found(&[("CI", "true"), ("CI_NODE_TOTAL", "")]), Ok(None));
    }

    #[test]
    fn missing_or_wrong_variables_are_reported_with_advice() {
        for (variables, says) in [
            (
                &[("GITHUB_ACTIONS", "true")][..],
                "${{ strategy.job-index }}",
            ),
            (&[("JOB_COMPLETION_INDEX", "1")], "completionMode: Indexed"),
            (
                &[("CI_NODE_INDEX", "0"), ("CI_NODE_TOTAL", "2")],
                "CI_NODE_INDEX is 0",
            ),
            (
                &[("CI_NODE_INDEX", "3"), ("CI_NODE_TOTAL", "2")],
                "no part 3 of 2",
            ),
            (
                &[("CIRCLE_NODE_INDEX", "x"), ("CIRCLE_NODE_TOTAL", "2")],
                "is `x`, which is not a number",
            ),
            (
                &[
                    ("CIRCLE_NODE_INDEX", "4294967295"),
                    ("CIRCLE_NODE_TOTAL", "2"),
                ],
                "CIRCLE_NODE_INDEX is 4294967295",
            ),
            (
                &[
                    ("SLURM_ARRAY_TASK_ID", "7"),
                    ("SLURM_ARRAY_TASK_MIN", "1"),
                    ("SLURM_ARRAY_TASK_MAX", "9"),
                    ("SLURM_ARRAY_TASK_COUNT", "3"),
                ],
                "--array=1-3",
            ),
            (&[("SLURM_ARRAY_TASK_ID", "7")], "not SLURM_ARRAY_TASK_MIN"),
        ] {
            let why = found(variables).unwrap_err();
            assert!(why.contains(says), "{variables:?}: {why}");
        }
    }

    #[test]
    fn a_part_on_the_command_line_must_exist() {
        assert_eq!("2/5".parse(), Ok(Partition::Part(part(2, 5))));
        assert_eq!("auto".parse(), Ok(Partition::Auto));
        for bad in [
            "", "2", "0/5", "6/5", "1/0", "-1/2", "1/2/3", "a/b", "1/99999",
        ] {
            assert!(bad.parse::<Partition>().is_err(), "{bad}");
        }
    }

    fn pieces(times: &[(String, Option<u64>)]) -> Vec<Piece<'_>> {
        times
            .iter()
            .map(|(id, millis)| Piece {
                id,
                time: millis.map(Duration::from_millis),
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever the times and the order of the pieces: each is in exactly one part, and no part
        /// exceeds the mean by more than the longest piece.
        #[test]
        fn parts_are_disjoint_and_whole_and_balanced(
            times in proptest::collection::vec(proptest::option::of(0u64..60_000), 1..200),
            of in 1u32..12,
        ) {
            let times: Vec<_> = times.into_iter().enumerate().map(|(n, time)| (format!("case{n}"), time)).collect();
            let all = pieces(&times);
            let mut reversed = pieces(&times);
            reversed.reverse();
            let mut owners = vec![0; all.len()];
            let mut loads = Vec::new();
            let mut plans = BTreeSet::new();
            for number in 1..=of {
                let (mine, shard) = cut(&all, part(number, of));
                let (again, _) = cut(&reversed, part(number, of));
                prop_assert!(mine.iter().eq(again.iter().rev()));
                plans.insert(shard.plan);
                let mut load = 0.0;
                for (index, mine) in mine.iter().enumerate() {
                    owners[index] += u32::from(*mine);
                    if *mine { load += times[index].1.unwrap_or(0) as f64; }
                }
                loads.push(load);
            }
            prop_assert!(owners.iter().all(|owners| *owners == 1));
            prop_assert_eq!(plans.len(), 1);
            if times.iter().all(|(_, time)| time.is_some()) {
                let longest = times.iter().filter_map(|(_, time)| *time).max().unwrap_or(0) as f64;
                let mean = loads.iter().sum::<f64>() / f64::from(of);
                let most = loads.iter().copied().fold(0.0, f64::max);
                // Steps are 20 % apart.
                prop_assert!(most <= 1.2 * (1.2 * mean + longest) + 1.0, "{most} of {mean}, {longest}");
            }
        }
    }

    #[test]
    fn differences_within_a_step_do_not_change_the_cut() {
        let times = |factor: f64| -> Vec<(String, Option<u64>)> {
            let millis = |number: i32| 1.2_f64.powf(f64::from(20 + number % 25) + 0.5) * factor;
            (0..400).map(|number| (format!("case{number}"), Some(millis(number) as u64))).collect()
        };
        let (before, after) = (times(1.0), times(1.04));
        let (mine, shard) = cut(&pieces(&before), part(1, 4));
        assert_eq!(cut(&pieces(&after), part(1, 4)), (mine, shard));
    }

    #[test]
    fn missing_parts_and_mixed_plans_are_named() {
        let shard = |number, plan: &str| Shard {
            number,
            of: 5,
            instances: 10,
            plan: plan.to_owned(),
        };
        assert_eq!(gaps(&[], 3), Vec::<String>::new());
        let all: Vec<Shard> = (1..=5).map(|number| shard(number, "a")).collect();
        assert_eq!(gaps(&all, 10), Vec::<String>::new());
        assert!(gaps(&all, 9)[0].contains("9 of 10 instances"));
        assert_eq!(
            gaps(&[shard(2, "a")], 2),
            [
                "parts 1, 3-5 of 5 are missing: run them with --partition 1/5 --jsonl FILE, and merge again"
            ]
        );
        let mixed = gaps(&[shard(1, "a"), shard(2, "b")], 2);
        assert!(
            mixed[0].contains("1 of 5 of plan a; 2 of 5 of plan b"),
            "{mixed:?}"
        );
    }
}
