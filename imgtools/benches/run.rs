//! The overhead of the process runner over a bare process, and of a session over its commands.
//!
//! ```text
//! cargo bench -p qemu-imgtools
//! ```
//!
//! The first lines printed are the comparison: bare and ours in turn, in one run, and the
//! difference of the medians.

use std::hint::black_box;
use std::process::Stdio;
use std::time::{Duration, Instant};

use criterion::Criterion;
use imgtools::io::{IoCommand, QemuIo};
use imgtools::process::Command;
use imgtools::tools::{Finder, ToolKind};

/// What the standard library does for the same: both pipes read to their ends.
fn bare(program: &str, args: &[&str]) {
    let mut command = std::process::Command::new(program);
    let output = command.args(args).stdin(Stdio::null()).output().expect("it is there");
    black_box(output.stdout);
}

fn ours(program: &str, args: &[&str]) {
    black_box(Command::new(program).args(args).run_blocking().expect("it is there").stdout.len());
}

fn time(run: impl FnOnce()) -> Duration {
    let before = Instant::now();
    run();
    before.elapsed()
}

/// The medians of both, run in turn.
fn compare(program: &str, args: &[&str], rounds: usize) {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        times[0].push(time(|| bare(program, args)));
        times[1].push(time(|| ours(program, args)));
    }
    let [bare, ours] = times.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    });
    let more = ours.saturating_sub(bare);
    println!("{program}: bare {bare:?}, ours {ours:?}, more by {more:?} (medians of {rounds})");
    let verdict = if more <= Duration::from_millis(1) {
        "kept"
    } else {
        "BROKEN"
    };
    println!("{program}: at most 1 ms more: {verdict}");
}

fn runs(criterion: &mut Criterion) {
    compare("true", &[], 500);
    compare("qemu-img", &["--version"], 100);
    let mut group = criterion.benchmark_group("run");
    group.bench_function("bare true", |bencher| bencher.iter(|| bare("true", &[])));
    group.bench_function("our true", |bencher| bencher.iter(|| ours("true", &[])));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    group.bench_function("our true, async", |bencher| {
        bencher.to_async(&runtime).iter(|| async { Command::new("true").run().await });
    });
    group.finish();
}

fn sessions(criterion: &mut Criterion) {
    let Ok(tool) = Finder::new().find(ToolKind::Io) else {
        println!("skipped: no qemu-io in PATH");
        return;
    };
    let mut session = QemuIo::new(tool).open("null-co://").session_blocking().expect("a session");
    criterion.bench_function("session command", |bencher| {
        bencher.iter(|| session.run_blocking(IoCommand::length()).expect("a reply"));
    });
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    runs(&mut criterion);
    sessions(&mut criterion);
    criterion.final_summary();
}
