//! A random walk: generated programs of snapshots, jobs, bitmaps and I/O, compared with a model.
//!
//! Each program has a seed. One that fails is made smaller, and the rest of it runs once more as the case itself, so that it is
//! reported like any other failure; the report shows it as a case to paste.

mod bitmap;
mod bytes;
mod host;
mod model;
#[cfg(test)]
mod plants;
mod play;
mod program;
mod refusal;
mod resolve;
mod step;
mod text;

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use iotests_core::author::Sink;
use iotests_core::prelude::*;
use iotests_core::wire::{CaseEvent, FailureReport};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use self::host::Host;
use self::program::{Program, program};
use self::text::text;

/// How many programs an instance runs.
const PROGRAMS: u64 = 20;
/// The seed of each program of an instance lies this far from that of the one before: the instances of a run have seeds that follow
/// each other.
const NEXT: u64 = 1 << 32;
/// How long a program may take: one that hangs is a finding. Most take less than a second on an idle machine.
const LONGEST: Duration = secs(120);
/// How long a program is made smaller.
const SHRINKING: Duration = secs(120);

rows! {
    SEEDS: Option<u64>;
    // The same ones each time, for the gate.
    "fixed" => Some(1), groups = [QUICK];
    // Those of the run's seed.
    "drawn" => None, groups = [EXPLORE];
}

/// Whatever is done to a chain of images, in whatever order, it reads as it should, and what must be refused is refused.
#[case(
    rows = SEEDS, formats = [QCOW2], host = Any, groups = [RW, JOB, BITMAP],
    budget = secs(900)
)]
async fn programs(t: &mut Test, first: &Option<u64>) -> CaseResult {
    let first = first.unwrap_or(t.spec().seed);
    for number in 0..PROGRAMS {
        let seed = first.wrapping_add(number * NEXT);
        t.step(format!("the program of seed {seed}"));
        let mut tree = generated(seed)?;
        let Some(first) = attempt(t, &tree.current()).await? else {
            continue;
        };
        t.step(format!(
            "the program of seed {seed} fails, and is made smaller: {}",
            first.headline
        ));
        let time = SHRINKING.mul_f64(t.spec().scale);
        let fails = async |program: &Program| Ok(attempt(t, program).await?.is_some());
        let small = shrink(&mut *tree, time, fails).await?;
        return show(t, seed, &small, &first).await;
    }
    Ok(())
}

/// The program of a seed.
fn generated(seed: u64) -> CaseResult<Box<dyn ValueTree<Value = Program>>> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let tree = program().new_tree(&mut runner);
    Ok(Box::new(tree.map_err(|why| Failure::new(why.to_string()))?))
}

/// Makes a program that fails smaller as long as what is left fails, for this time.
async fn shrink(
    tree: &mut dyn ValueTree<Value = Program>,
    time: Duration,
    fails: impl AsyncFn(&Program) -> CaseResult<bool>,
) -> CaseResult<Program> {
    let begun = Instant::now();
    let mut smallest = tree.current();
    let mut goes_on = tree.simplify();
    while goes_on && begun.elapsed() < time {
        let program = tree.current();
        goes_on = match fails(&program).await? {
            true => {
                smallest = program;
                tree.simplify()
            }
            false => tree.complicate(),
        };
    }
    Ok(smallest)
}

/// Runs a program as a case of its own, in a directory of its own; returns how it failed, if it did.
async fn attempt(t: &Test, program: &Program) -> CaseResult<Option<FailureReport>> {
    let mut spec = t.spec().clone();
    spec.test_dir = spec.test_dir.join("program");
    fs::create_dir_all(&spec.test_dir)?;
    let folder = spec.test_dir.clone();
    let last = Arc::new(Mutex::new(None));
    let heard = Arc::clone(&last);
    let sink = Sink::new(move |event| {
        if matches!(
            event,
            CaseEvent::Passed | CaseEvent::Skipped { .. } | CaseEvent::Failed(_)
        ) {
            *heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(event);
        }
    });
    let inner = Test::new(spec, sink);
    let body = Box::pin(async {
        let time = LONGEST.mul_f64(t.spec().scale);
        let played = play(&inner, program);
        match tokio::time::timeout(time, played).await {
            Ok(result) => result,
            Err(_) => Err(Failure::new(format!(
                "it hangs: it takes more than {time:?}"
            ))),
        }
    });
    let result = Test::guard(body, || None).await;
    inner.finish(result).await;
    fs::remove_dir_all(&folder)?;
    let last = last.lock().unwrap_or_else(PoisonError::into_inner).take();
    match last {
        Some(CaseEvent::Failed(report)) => Ok(Some(*report)),
        Some(CaseEvent::Skipped { reason }) => Err(Failure::skip(reason)),
        _ => Ok(None),
    }
}

async fn play(t: &Test, program: &Program) -> CaseResult {
    let (model, steps) = (program.model(t.backend()), program.steps(t.backend()));
    let mut host = Host::prepare(t, &model, &steps).await?;
    play::play(&mut host, model, &steps, |step| t.step(step)).await
}

/// Runs what is left of a program as this case, and reports it as a case to paste.
async fn show(t: &Test, seed: u64, program: &Program, first: &FailureReport) -> CaseResult {
    let text = text(program, t.backend());
    let file = t.spec().evidence_dir();
    fs::create_dir_all(&file)?;
    fs::write(file.join("found.rs"), &text)?;
    let found = format!("the program of seed {seed} fails; what is left of it is\n\n{text}\n");
    match play(t, program).await {
        Err(failure) => {
            let headline = failure.report().headline;
            Err(failure.context(found).headline(headline))
        }
        Ok(()) => Err(Failure::new(format!(
            "{found}\nwhich passes when it is run once more; before, it said: {}",
            first.message
        ))
        .headline(format!("not each time: {}", first.headline))),
    }
}

#[cfg(test)]
mod tests {
    use iotests_core::case::Backend;

    use super::*;
    use crate::walk::step::Step;

    fn steps(seed: u64) -> Vec<Step> {
        let program = generated(seed).unwrap().current();
        program.steps(Some(Backend::System))
    }

    #[test]
    fn a_seed_always_has_the_same_program_and_another_seed_another_one() {
        assert_eq!(steps(7), steps(7));
        assert_ne!(steps(7), steps(8));
        assert_ne!(steps(7), steps(7 + NEXT));
    }

    #[test]
    fn programs_have_steps_of_every_kind() {
        let all: Vec<Step> = (0..300).flat_map(steps).collect();
        let kinds: [fn(&Step) -> bool; 17] = [
            |step| matches!(step, Step::Io(_)),
            |step| matches!(step, Step::Together(_)),
            |step| matches!(step, Step::Snapshot { .. }),
            |step| matches!(step, Step::Commit { .. }),
            |step| matches!(step, Step::Stream { .. }),
            |step| matches!(step, Step::Mirror { .. }),
            |step| matches!(step, Step::Backup { .. }),
            |step| matches!(step, Step::Bitmap { .. }),
            |step| matches!(step, Step::Resize { .. }),
            |step| matches!(step, Step::Restart { .. }),
            |step| matches!(step, Step::Broken(..)),
            |step| matches!(step, Step::Transaction { .. }),
            |step| matches!(step, Step::Reopen { .. }),
            |step| matches!(step, Step::Frozen(_)),
            |step| matches!(step, Step::Refused(_)),
            |step| matches!(step.beside(), Some(Step::Stream { .. })),
            |step| matches!(step.beside(), Some(Step::Bitmap { .. })),
        ];
        for (number, kind) in kinds.into_iter().enumerate() {
            let count = all.iter().filter(|step| kind(step)).count();
            // There is seldom room for a stream beside a job.
            let enough = if number == 15 { 10 } else { 20 };
            assert!(count > enough, "kind {number}: {count} of {}", all.len());
        }
    }

    /// See docs/qemu-findings.md.
    #[test]
    fn nothing_grows_that_cannot() {
        let mut grown = 0;
        for seed in 0..1000 {
            let program = generated(seed).unwrap().current();
            let mut model = program.model(None);
            for step in program.steps(None) {
                let grows = match &step {
                    Step::Resize { .. } => Some(model.active()),
                    Step::Commit { top, base, .. } => {
                        let [top, base] =
                            [top, base].map(|name| &model.chain[model.position(name).unwrap()]);
                        (base.shape.size < top.shape.size).then_some(base)
                    }
                    _ => None,
                };
                grown += usize::from(grows.is_some());
                assert!(
                    grows.is_none_or(|layer| layer.shape.can_grow()),
                    "seed {seed}: {step:?}"
                );
                model.apply(&step);
            }
        }
        assert!(grown > 100, "{grown}");
    }

    #[test]
    fn a_program_that_fails_is_made_as_small_as_can_be() {
        let is_wrong = |steps: &[Step]| {
            let written = |step: &Step| matches!(step, Step::Io(io) if io.range.end > 4096);
            let has_commit = steps.iter().any(|step| matches!(step, Step::Commit { .. }));
            has_commit && steps.iter().any(written)
        };
        let (mut tried, mut as_small_as_can_be) = (0, 0);
        for seed in 0..300 {
            let mut tree = generated(seed).unwrap();
            if !is_wrong(&tree.current().steps(None)) {
                continue;
            }
            tried += 1;
            let fails = async |program: &Program| Ok(is_wrong(&program.steps(None)));
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let smallest = runtime.block_on(shrink(&mut *tree, SHRINKING, fails)).unwrap();
            let steps = smallest.steps(None);
            assert!(is_wrong(&steps));
            // The two, at most the snapshots without which this commit would be another one, and now and then one more.
            let is_needed =
                |step: &&Step| matches!(step, Step::Snapshot { .. } | Step::Transaction { .. });
            let snapshots = steps.iter().filter(is_needed).count();
            let others = steps.len() - snapshots;
            assert!(others <= 3, "seed {seed}: {steps:?}");
            as_small_as_can_be += usize::from(others == 2);
            assert!(snapshots <= 3, "seed {seed}: {steps:?}");
        }
        assert!(tried > 20, "{tried}");
        assert!(
            as_small_as_can_be * 10 > tried * 9,
            "{as_small_as_can_be} of {tried}"
        );
    }

    #[test]
    fn a_program_reads_as_a_case() {
        let has = |seed: &u64| {
            let steps = steps(*seed);
            steps.iter().any(|step| matches!(step, Step::Mirror { .. }))
                && steps.contains(&Step::Restart { inside: None })
                && !steps.iter().any(Step::has_fault)
                && steps.iter().any(|step| matches!(step.beside(), Some(Step::Stream { .. })))
        };
        let seed = (0..1000).find(has).unwrap();
        let program = generated(seed).unwrap().current();
        let text = text(&program, Some(Backend::System));
        for part in [
            "async fn found(t: &mut Test) -> CaseResult {",
            "let image1 = t.image(\"image1\").size(",
            "    let vm = t.host()",
            ".start().await?.wait().await?;",
            "vm.mirror(\"image",
            "    vm.shutdown().await?;\n    let vm = t.host()",
            ".assert_clean().await?;",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}
